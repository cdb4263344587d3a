"""The command: what it does, what it says of wrong arguments, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import katachi as kt
from katachi import io, train
from katachi.cli import digits, main
from katachi.cli.app import app
from katachi.cli.tables import COLUMNS, cells
from katachi.data import DataLoader
from katachi.data import digits as load_digits
from katachi.graph.primitives import RULES

HERE = Path(__file__).parents[1]


def command(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(HERE / "src"), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "katachi", *args], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )


def test_train_digits(tmp_path: Path) -> None:
    done = command("train", "digits", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert "epoch 20/20" in done.stdout and "85,002 parameters" in done.stdout and "runs/digits-1" in done.stdout
    run = tmp_path / "runs" / "digits-1"
    assert sorted(p.name for p in run.iterdir()) == ["config.json", "curves.png", "metrics.jsonl", "model.safetensors"]
    config = json.loads((run / "config.json").read_text())
    assert (config["model"], config["epochs"], config["seed"], config["device"]) == ("mlp", 20, 0, "cpu")
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 20

    model = digits.build(
        "mlp"
    ).eval()  # the saved weights are the trained ones, on the device that defines what is right
    model.load_state_dict(io.load_safetensors(run / "model.safetensors"))
    images, labels = next(iter(DataLoader(load_digits()[1], batch_size=360)))
    with kt.no_grad():
        assert train.accuracy(model(images), labels).item() >= 0.97


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    runner = CliRunner()
    for out, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        asked = ["train", "digits", "--epochs", "1", "--seed", seed, "--out", str(tmp_path / out)]
        assert runner.invoke(app, asked).exit_code == 0
    a, b, c = ((tmp_path / out / "model.safetensors").read_bytes() for out in "abc")
    assert a == b != c


@pytest.mark.parametrize(("model", "device"), [("mlp", "reference"), ("cnn", "cpu")], ids=["mlp-reference", "cnn-cpu"])
def test_other_models_and_devices(tmp_path: Path, model: str, device: str) -> None:
    asked = ["train", "digits", "--model", model, "--device", device, "--epochs", "1", "--batch-size", "128"]
    done = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0 and f"digits: {model} on {device}" in done.output
    assert kt.zeros(1).device == "reference"  # the choice ends with the command


WRONG = {
    "--device tpu": "no device 'tpu'; it has reference, cpu",
    "--lr nan": "--lr: nan is no learning rate",
    "--lr -1": "-1.0 is no learning rate",
    "--epochs 0": "--epochs",
    "--batch-size many": "--batch-size",
    "--model rnn": "'rnn' is not one of 'mlp', 'cnn'",
    "--seed -1": "--seed",
    "--speed 3": "--speed",
    "--out file/run": "no folder for the run: Not a directory",
    "--out full": "full is not empty",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_asked_wrongly_is_one_line_and_2(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("full").mkdir()
    Path("full", "kept").touch()
    monkeypatch.setattr(sys, "argv", ["katachi", "train", "digits", *wrong.split()])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capfd.readouterr()
    assert end.value.code == 2 and out == "" and err.count("\n") == 1 and err.startswith("katachi: ")
    assert WRONG[wrong] in err
    assert not Path("runs").exists() and os.listdir("full") == ["kept"]


def test_without_matplotlib_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object) -> None:
        raise train.MissingExtra("curves need matplotlib: pip install 'katachi[curves]'")

    monkeypatch.setattr("katachi.train.folder.save_curves", missing)
    done = CliRunner().invoke(app, ["train", "digits", "--epochs", "1", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0 and "katachi[curves]" in done.output
    assert not (tmp_path / "run" / "curves.png").exists() and (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_an_interrupt_keeps_what_was_reached_and_130(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "katachi", "train", "digits", "--epochs", "100000"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HERE / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == ""
    assert "interrupted: " in out and "test" in out
    run = tmp_path / "runs" / "digits-1"
    assert len((run / "metrics.jsonl").read_text().splitlines()) >= 2
    assert "1.weight" in io.load_safetensors(run / "model.safetensors")


def test_the_table_of_primitives() -> None:
    done = CliRunner().invoke(app, ["primitives"])
    assert done.exit_code == 0 and f"{len(RULES)} primitives" in done.output
    table = cells()
    assert set(table) == set(RULES)
    # Lowering cells may be empty while that room is being built; the others may not.
    assert [n for n, row in table.items() if any(row[c] == "later" for c in COLUMNS if c != "lowering")] == []


def test_devices_and_help() -> None:
    listed = CliRunner().invoke(app, ["devices"])
    assert listed.exit_code == 0 and all(name in listed.output for name in kt.devices())
    told = CliRunner().invoke(app, ["train", "digits", "--help"])
    assert told.exit_code == 0 and "20 for mlp" in told.output and "metrics.jsonl" in told.output


def test_the_core_loads_nothing_of_the_command() -> None:
    program = (
        "import katachi, sys; print([m for m in ('typer', 'rich', 'matplotlib', 'safetensors') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(HERE / "src")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"

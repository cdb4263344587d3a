"""The command: what it does, what it says of wrong arguments, how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import katachi as kt
from katachi import data, io, train
from katachi.cli import main, tasks
from katachi.cli.app import app
from katachi.cli.tables import COLUMNS, cells
from katachi.cli.tasks import TASKS
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
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoint.safetensors", "config.json", "curves.png", "metrics.jsonl", "model.safetensors",
    ]  # fmt: skip
    config = json.loads((run / "config.json").read_text())
    assert (config["model"], config["epochs"], config["seed"], config["device"]) == ("mlp", 20, 0, "cpu")
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 20

    # The saved weights are the trained ones, on the device that defines what is right.
    model = TASKS["digits"].models["mlp"].build().eval()
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
    assert kt.zeros(1).device == "cpu"  # the choice ends with the command


WRONG = {
    "--device tpu": "no device 'tpu'; it has cpu, reference",
    "--lr nan": "--lr: nan is no learning rate",
    "--lr -1": "-1.0 is no learning rate",
    "--epochs 0": "--epochs",
    "--batch-size many": "--batch-size",
    "--model rnn": "'rnn' is not one of 'mlp', 'cnn'",
    "--seed -1": "--seed",
    "--speed 3": "--speed",
    "--out file/run": "no folder for the run: Not a directory",
    "--out full": "full is not empty",
    "--folder full": "digits needs no files",
    "--checkpoint-every -1": "--checkpoint-every",
    "--checkpoint-every nan": "--checkpoint-every",
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
    assert "interrupted: " in out and "katachi resume runs/digits-1" in out
    run = tmp_path / "runs" / "digits-1"
    assert len((run / "metrics.jsonl").read_text().splitlines()) >= 2
    assert "model.1.weight" in io.load_safetensors(run / "checkpoint.safetensors")


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
    for command in (
        ["train"],
        ["train", "fashion-mnist"],
        ["train", "python-source"],
        ["resume"],
        ["evaluate"],
        ["sample"],
    ):
        assert CliRunner().invoke(app, [*command, "--help"]).exit_code == 0
    assert "--folder" not in told.output


# ---- tasks, and runs that there are
def line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: str) -> str:
    """The one line on stderr with which a command ends, with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["katachi", *args])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capfd.readouterr()
    assert end.value.code == 2 and out == "" and err.count("\n") == 1 and err.startswith("katachi: "), out + err
    return err


def test_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    told = line(capfd, monkeypatch, "train", "fashion-mnist", "--folder", str(tmp_path), "--out", str(tmp_path / "run"))
    assert "apt-get install dataset-fashion-mnist" in told and "--folder" in told
    assert not (tmp_path / "run").exists()
    rng = np.random.default_rng(0)
    parts = [data.TensorDataset(rng.random((n, 1, 28, 28), np.float32), rng.integers(0, 10, n)) for n in (60, 20)]
    row = TASKS["fashion-mnist"]._replace(data=lambda folder: tasks.Split(*parts))
    monkeypatch.setitem(TASKS, "fashion-mnist", row)  # type: ignore[arg-type]
    for model in row.models:
        asked = ["train", "fashion-mnist", "--model", model, "--epochs", "1", "--out", str(tmp_path / model)]
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 0 and f"fashion-mnist: {model} on cpu" in done.output


def test_python_source_and_what_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = data.python_source(limit=200_000)
    split = tasks.Split(data.Windows(text.train[:100_000], 64, 64), data.Windows(text.test[:6_000], 64, 64))
    row = TASKS["python-source"]._replace(data=lambda folder: split)
    monkeypatch.setitem(TASKS, "python-source", row)  # type: ignore[arg-type]
    run = str(tmp_path / "run")
    done = CliRunner().invoke(app, ["train", "python-source", "--model", "tiny", "--epochs", "2", "--out", run])
    assert done.exit_code == 0 and "bits per character" in done.output and "it writes:\n\ndef " in done.output
    rows = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["validation_bits_per_character"] < 6 < np.log2(97)  # it has begun to learn
    told = CliRunner().invoke(app, ["evaluate", run]).output
    assert f"{rows[-1]['validation_bits_per_character']:.3f}" in told
    one, two, other = (
        CliRunner().invoke(app, ["sample", run, "--length", "90", "--prompt", "class ", *more]).output
        for more in ([], [], ["--seed", "1"])
    )
    assert one == two != other and one.startswith("class ") and len(one) == len("class ") + 90 + 1
    sure = CliRunner().invoke(app, ["sample", run, "--length", "5", "--temperature", "0"])
    assert sure.exit_code == 0 and sure.output.startswith("def ")

    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    assert "has no checkpoint yet" in line(capfd, monkeypatch, "sample", run)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert CliRunner().invoke(app, ["train", "digits", "--epochs", "1", "--out", str(out)]).exit_code == 0
    return out


def damaged_bit(run: Path) -> None:
    path = run / "checkpoint.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1000] ^= 4
    path.write_bytes(raw)


def with_config(**changes: object) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        found = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({k: v for k, v in {**found, **changes}.items() if v != "gone"}))

    return change


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda run: shutil.rmtree(run), "there is no folder"),
    "no config": (lambda run: (run / "config.json").unlink(), "is no run: it has no config.json"),
    "half a config": (lambda run: (run / "config.json").write_text('{"task": '), "config.json is damaged"),
    "a list": (lambda run: (run / "config.json").write_text("[]"), "holds no settings"),
    "bytes": (lambda run: (run / "config.json").write_bytes(b"\xff\xfe"), "config.json is damaged"),
    "no model": (with_config(model="gone"), "it has no 'model'"),
    "a text as epochs": (with_config(epochs="many"), "'epochs' is 'many'"),
    "another task": (with_config(task="chess"), "there is no task 'chess'"),
    "another device": (with_config(device="tpu"), "no device 'tpu'"),
    "another model": (with_config(model="cnn"), "mismatches"),
    "half a checkpoint": (lambda run: os.truncate(run / "checkpoint.safetensors", 5000), "checkpoint.safetensors"),
    "an empty checkpoint": (lambda run: os.truncate(run / "checkpoint.safetensors", 0), "checkpoint.safetensors"),
    "a flipped bit": (damaged_bit, "is damaged: its checksum does not fit"),
    "weights": (lambda run: shutil.copy(run / "model.safetensors", run / "checkpoint.safetensors"), "not a training"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_run_is_one_line_and_2(
    damage: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    DAMAGED[damage][0](run)
    for command in ("resume", "evaluate"):
        assert DAMAGED[damage][1] in line(capfd, monkeypatch, command, str(run))


def test_other_ways_to_ask_wrongly(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "learned digits, which writes no text" in line(capfd, monkeypatch, "sample", str(finished))
    assert "no device 'tpu'" in line(capfd, monkeypatch, "evaluate", str(finished), "--device", "tpu")
    assert "RUN" in line(capfd, monkeypatch, "resume")
    assert "no folder for the run" in line(capfd, monkeypatch, "train", "digits", "--out", "/proc/run")
    monkeypatch.setattr("katachi.train.folder.replacing", denied)
    assert "Permission denied" in line(capfd, monkeypatch, "resume", str(finished))
    assert "Permission denied" in line(capfd, monkeypatch, "train", "digits", "--out", str(tmp_path / "new"))


def denied(path: Path) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def test_the_core_loads_nothing_of_the_command() -> None:
    program = (
        "import katachi, sys; print([m for m in ('typer', 'rich', 'matplotlib', 'safetensors') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(HERE / "src")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"

"""Runs that are killed, stopped or run out of disk go on, and end as if nothing had happened."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from katachi import io
from katachi.cli.app import app

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kill_runs", ROOT / "tools" / "kill_runs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_killed_runs_go_on(tool: ModuleType, tmp_path: Path) -> None:
    happened = tool.hunt(4, tmp_path, seed=7, epochs=15)
    assert happened["while training"] + happened["while saving"] >= 2, happened


def ask(*args: str) -> Any:
    return CliRunner().invoke(app, [*args])


def rows(out: Path, tool: ModuleType) -> Any:
    return tool.rows(out)


def started(out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "katachi", "train", "digits", "--out", str(out), *more],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_within_the_epoch(tool: ModuleType, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    process = started(out, "--epochs", "40", "--batch-size", "8")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    time.sleep(0.05)
    process.send_signal(number)
    told, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and err == ""
    assert "of 40 epochs are finished, everything so far is saved" in told and f"katachi resume {out}" in told
    finished = len(rows(out, tool))
    assert tool.step_of(out / "checkpoint.safetensors") >= finished * 180 > 0
    assert "test" in ask("evaluate", str(out)).output


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("task", ["digits", "python-source"])
def test_a_stopped_run_ends_with_the_same_bits(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, task: str
) -> None:
    """Stopped by Ctrl-C several times, within epochs; what was written after the checkpoint is dropped."""
    from katachi.cli import run as runs
    from katachi.train import Progress

    small(monkeypatch)
    more = ["--epochs", "2", "--seed", "5", "--device", device]
    more += ["--model", "tiny", "--batch-size", "8"] if task == "python-source" else ["--batch-size", "128"]
    assert ask("train", task, "--out", str(tmp_path / "whole"), *more).exit_code == 0

    steps = 0
    step = Progress.step

    def stopping(self: Any, seen: Any) -> None:
        nonlocal steps
        steps += 1
        step(self, seen)
        if steps in (2, 4, 7, 17):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runs.train.Progress, "step", stopping)
    out = tmp_path / "stopped"
    asked = ["train", task, "--out", str(out), *more]
    stops = 0
    while (done := ask(*asked)).exit_code == 130:
        stops += 1
        asked = ["resume", str(out)]
        with (out / "metrics.jsonl").open("a") as file:
            file.write('{"epoch": 9, "torn')
    assert done.exit_code == 0 and stops >= 2, done.output
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert rows(out, tool) == rows(tmp_path / "whole", tool)


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little text, so that a run takes a second."""
    from katachi import data
    from katachi.cli import tasks

    text = data.python_source(limit=60_000)
    split = tasks.Split(data.Windows(text.train[:1_600], 64, 64), data.Windows(text.test[:300], 64, 64))
    monkeypatch.setattr("katachi.cli.run.WRITTEN", 10)
    row = tasks.TASKS["python-source"]._replace(data=lambda folder: split)
    monkeypatch.setitem(tasks.TASKS, "python-source", row)  # type: ignore[arg-type]


def test_a_run_without_a_checkpoint_begins_again(tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert ask("train", "digits", "--epochs", "1", "--out", str(tmp_path / out)).exit_code == 0
    for name in ("checkpoint.safetensors", "model.safetensors", "metrics.jsonl"):
        (tmp_path / "b" / name).unlink()
    done = ask("resume", str(tmp_path / "b"))
    assert done.exit_code == 0 and "goes on from the beginning" in done.output
    a, b = ((tmp_path / out / "model.safetensors").read_bytes() for out in "ab")
    assert a == b


# ---- a full disk
@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real one of a megabyte and a half, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tiny", str(disk)], capture_output=True)
    except OSError:
        pytest.skip("no mount here")
    if mounted.returncode:
        pytest.skip("may not mount a disk here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_costs_no_checkpoint(tool: ModuleType, tiny_disk: Path, tmp_path: Path) -> None:
    """The first checkpoint (1 MB) fits, a second beside it does not."""
    process = started(tiny_disk / "run", "--epochs", "5")
    told, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.count("\n") == 1 and "No space left on device" in err, told + err
    assert "goes on from the last checkpoint" in err
    assert tool.step_of(tiny_disk / "run" / "checkpoint.safetensors") == 23
    assert [p.name for p in (tiny_disk / "run").glob(".*")] == []
    subprocess.run(["mount", "-o", "remount,size=8m", str(tiny_disk)], check=True)
    done = ask("resume", str(tiny_disk / "run"))
    assert done.exit_code == 0 and "after step 23 of 115" in done.output
    assert ask("train", "digits", "--epochs", "5", "--out", str(tmp_path / "whole")).exit_code == 0
    name = "model.safetensors"
    assert (tiny_disk / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failing_disk_costs_no_checkpoint(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    from katachi.io import replacing

    calls, real = 0, getattr(os, where)

    def failing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(replacing.os, where, failing)
    done = ask("train", "digits", "--epochs", "9", "--out", str(tmp_path / "run"))
    monkeypatch.undo()
    assert type(done.exception).__name__ == "Failed" and "No space left on device" in str(done.exception)
    step = tool.step_of(tmp_path / "run" / "checkpoint.safetensors")
    assert step > 0 and step % 23 == 0
    assert f"after step {step} of 207" in ask("resume", str(tmp_path / "run")).output
    assert "1.weight" in io.load_safetensors(tmp_path / "run" / "model.safetensors")

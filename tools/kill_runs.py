"""Kill training runs at random moments, and see that each goes on and ends as if nothing had happened.

    python tools/kill_runs.py 200

A run of `katachi train digits` that saves after every step is killed (SIGKILL) while it starts, trains or saves, and
taken up again by `katachi resume`, until it is finished; then the next run begins. After every kill the run's files
must be whole and the checkpoint no older than the last one; at the end weights and metrics must equal, bit for bit,
those of a run that nobody killed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from safetensors import safe_open

SOURCE = Path(__file__).parents[1] / "src"
STARTING = 1.0  # seconds: about what a process needs before its first step


def katachi(*args: str) -> list[str]:
    return [sys.executable, "-m", "katachi", *args]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1"}


def asked(out: Path, device: str, epochs: int) -> list[str]:
    return katachi(
        *("train", "digits", "--epochs", str(epochs), "--batch-size", "128", "--checkpoint-every", "0"),
        *("--device", device, "--out", str(out)),
    )


def step_of(checkpoint: Path) -> int:
    """The step of a whole checkpoint; 0 without one."""
    if not checkpoint.exists():
        return 0
    with safe_open(str(checkpoint), framework="numpy") as file:
        step = json.loads(file.metadata()["note"])["step"]
        for name in file.keys():  # noqa: SIM118 - not a dict
            file.get_tensor(name)
    return step


def rows(out: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what depends on the clock."""
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "examples_per_second")} for row in found]


class Wrong(AssertionError):
    """A run that did not go on as it should."""


def run_to_the_end(arguments: list[str], out: Path) -> None:
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True)
    if done.returncode != 0:
        raise Wrong(f"{out}: {' '.join(arguments[1:])} ended with {done.returncode}: {done.stdout}{done.stderr}")


def kill_once(arguments: list[str], out: Path, chance: random.Random) -> str:
    """Start, kill, and say at what; raises Wrong if the process failed by itself."""
    checkpoint = out / "checkpoint.safetensors"
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    started = time.monotonic()
    process = subprocess.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if chance.random() < 0.2:
        time.sleep(chance.random() * STARTING)
    else:
        while process.poll() is None and time.monotonic() - started < 60:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                break
            time.sleep(0.001)
        time.sleep(chance.random() * 0.3)
    process.kill()
    told = process.communicate()[1]
    if process.returncode == 0:
        return "after its end"
    if process.returncode != -9:
        raise Wrong(f"{out}: {' '.join(arguments[1:])} ended with {process.returncode}: {told.decode()}")
    if any(path.name.endswith(".tmp") or path.name.startswith(".tmp") for path in out.glob(".*")):
        return "while saving"
    saved = checkpoint.exists() and checkpoint.stat().st_mtime_ns != before
    return "while training" if saved else "while starting"


def hunt(kills: int, folder: Path, device: str = "cpu", seed: int = 0, epochs: int = 60) -> Counter[str]:
    """Kill that often; returns how often at what. Raises Wrong."""
    whole, chance, happened = folder / "whole", random.Random(seed), Counter[str]()
    run_to_the_end(asked(whole, device, epochs), whole)
    left, number = kills, 0
    while left:
        number += 1
        out, step = folder / f"run-{number}", 0
        arguments = asked(out, device, epochs)
        while left:
            happened[kill_once(arguments, out, chance)] += 1
            left -= 1
            if not (out / "config.json").exists():  # killed before it had begun: nothing to resume
                refused = subprocess.run(katachi("resume", str(out)), env=environment(), capture_output=True, text=True)
                if refused.returncode != 2 or refused.stderr.count("\n") != 1:
                    raise Wrong(f"{out}: resume of nothing ended with {refused.returncode}: {refused.stderr}")
                if out.exists():
                    (out / "metrics.jsonl").unlink(missing_ok=True)
                    for path in out.glob(".*.tmp"):
                        path.unlink()
                happened["before it had begun"] += 1
                continue
            now = step_of(out / "checkpoint.safetensors")
            if now < step:
                raise Wrong(f"{out}: the checkpoint went back from step {step} to {now}")
            step, arguments = now, katachi("resume", str(out))
            if (out / "model.safetensors").exists():
                break
        run_to_the_end(arguments, out)
        for name in ("model.safetensors",):
            if (out / name).read_bytes() != (whole / name).read_bytes():
                raise Wrong(f"{out}: {name} differs from that of the run that nobody killed")
        if rows(out) != rows(whole):
            raise Wrong(f"{out}: metrics.jsonl differs from that of the run that nobody killed")
        if hidden := [path.name for path in out.glob(".*")]:
            raise Wrong(f"{out}: left behind: {hidden}")
    happened["runs, each equal to the one that nobody killed"] = number
    return happened


def main(kills: int) -> int:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            happened = hunt(kills, Path(folder), seed=random.randrange(1 << 30))
        except Wrong as wrong:
            print(wrong)
            return 1
    print(f"{kills} kills, {time.perf_counter() - start:.0f} s")
    for what, count in happened.most_common():
        print(f"{count:5} {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))

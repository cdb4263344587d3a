"""katachi's plain training step beside torch's eager one, for the tests that run where torch is installed."""

from __future__ import annotations

from bench import rounds
from bench.rows import ROWS


def ratio(name: str, times: int = 20) -> tuple[float, float, float]:
    """katachi's time over torch's, and both in seconds. Raises RuntimeError if either cannot say."""
    found = rounds.race(ROWS[name], rounds.Settings(times), lambda _: None, ("katachi", "torch"))["columns"]
    if broken := {column: figures["error"] for column, figures in found.items() if "error" in figures}:
        raise RuntimeError(f"{name}: {broken}")
    ours, theirs = found["katachi"]["seconds"], found["torch"]["seconds"]
    return ours / theirs, ours, theirs

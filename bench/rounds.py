"""A race: the columns of a row, each in a process of its own, in bursts that alternate.

The machine's speed drifts, and all must meet the same drift; threads that spin disturb the others, so each burst waits
until they sleep. What counts is the median of a column's bursts.
"""

from __future__ import annotations

import contextlib
import datetime
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.process import Failed, Process
from bench.rows import COLUMNS, Row

Tell = Callable[[str], None]


class Settings(NamedTuple):
    rounds: int = 20
    burst: float = 0.1  # seconds of calls
    pause: float = 0.05  # seconds before a burst, in which the others' threads fall asleep
    timeout: float = 600.0  # seconds for one answer: the longest is a first call


def race(row: Row, settings: Settings, tell: Tell = print, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """The row's entry in the results: for each column its figures, or why there are none."""
    found: dict[str, dict[str, Any]] = {}
    running: dict[str, Process] = {}
    with contextlib.ExitStack() as stack:
        for column in columns or row.columns:
            caches = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            tell(f"{row.name}: {column}, first call")
            with _reporting(found, column):
                found[column], process = _start(row, column, caches, settings, stack)
                running[column] = process
        _compare(row, found, running)
        for i in range(settings.rounds):
            tell(f"{row.name}: round {i + 1} of {settings.rounds}")
            _round(found, running, settings)
        for column, process in running.items():
            if "error" not in found[column]:
                with _reporting(found, column):
                    found[column] |= process.ask("peak")
    for figures in found.values():
        if bursts := figures.pop("bursts", None):
            figures["seconds"], figures["quartiles"] = (
                statistics.median(bursts),
                np.percentile(bursts, [25, 75]).tolist(),
            )
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    return {"kind": row.kind, "what": row.what, "date": date, "rounds": settings.rounds, "columns": found}


@contextlib.contextmanager
def _reporting(found: dict[str, dict[str, Any]], column: str) -> Any:
    """A failure is this column's entry; the others go on."""
    try:
        yield
    except Failed as error:
        found[column] = {"error": str(error)}


def _start(
    row: Row, column: str, caches: Path, settings: Settings, stack: contextlib.ExitStack
) -> tuple[dict[str, Any], Process]:
    """A process after its first calls, and what it told; before that, a second one in the caches that it filled."""
    start = time.perf_counter()
    process = stack.enter_context(Process(column, row.name, caches, settings.timeout))
    figures = process.ask("first")
    figures["start"] = time.perf_counter() - start
    if row.kind == "steps":
        start = time.perf_counter()
        with Process(column, row.name, caches, settings.timeout) as second:
            again = second.ask("first")
            figures["first again"], figures["start again"] = again["first"], time.perf_counter() - start
    return figures | process.ask("settle") | {"bursts": []}, process


def _compare(row: Row, found: dict[str, dict[str, Any]], running: dict[str, Process]) -> None:
    """Whose results are not the others' is not timed. Right are torch's, or those of the first that has any."""
    samples = {column: figures.pop("samples") for column, figures in found.items() if "samples" in figures}
    for column, sample in samples.items():
        same = [c for c in samples if COLUMNS[c].yardstick == COLUMNS[column].yardstick]
        right = next((c for c in same if c.startswith("torch")), same[0])
        apart = distance(sample, samples[right])
        found[column]["apart"] = apart
        if not apart <= row.tolerance:
            found[column] = {"error": f"its results are {apart:.1e} from those of {right}"}
            running.pop(column).close()


def distance(a: Any, b: Any) -> float:
    """The largest difference of two nested lists' numbers, as a share of the largest number beside it."""
    if not (a and isinstance(a[0], list)):
        x, y = np.asarray(a), np.asarray(b)
        return float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-30)) if x.shape == y.shape else np.inf
    pairs = [distance(x, y) for x, y in zip(a, b, strict=True)] if len(a) == len(b) else [np.inf]
    return max(pairs, key=lambda d: np.inf if np.isnan(d) else d)


def _round(found: dict[str, dict[str, Any]], running: dict[str, Process], settings: Settings) -> None:
    for column, process in running.items():
        if "error" not in found[column]:
            time.sleep(settings.pause)
            with _reporting(found, column):
                found[column]["bursts"].append(process.ask("burst", settings.burst)["seconds"])


def ratio(row: dict[str, Any], ours: Sequence[str], peers: Sequence[str]) -> float | None:
    """The least time of `ours` over the least of `peers`; None where one side has none."""
    both = [[s for c in side if (s := row["columns"].get(c, {}).get("seconds"))] for side in (ours, peers)]
    return min(both[0]) / min(both[1]) if all(both) else None


def peers_of(row: dict[str, Any]) -> list[str]:
    return [column for column in row["columns"] if not COLUMNS[column].ours and not COLUMNS[column].yardstick]

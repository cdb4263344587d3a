"""One framework, mode and row in a process of its own, told over a pipe what to do.

    python -m bench.worker COLUMN ROW

A line of standard input is a command, a line of standard output its answer, both JSON. What libraries print goes to
standard error, so that it cannot be taken for an answer. When standard input ends, so does the process.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import machine, memory
from bench.rows import COLUMNS, ROWS

SAMPLE = 4096  # numbers of a result that are compared
WARM = 0.01  # seconds of a burst that do not count: threads wake up, caches fill


class Worker:
    """The commands, one a method."""

    def __init__(self, column: str, row: str) -> None:
        self.column, self.row = COLUMNS[column], ROWS[row]
        self.idle: int | None = None
        self.samples: list[list[list[float]]] = []
        self.step: Callable[[], object] = lambda: None

    def first(self) -> dict[str, Any]:
        """Import, build, and the first call, which compiles what has to be compiled."""
        module = importlib.import_module(f"bench.{self.row.kind}_{self.column.framework}")
        self.idle = memory.read("VmRSS")
        self.step = module.build(self.column.yardstick or self.row.name, self.column.compiled)
        start = time.perf_counter()
        out = self.step()
        seconds = time.perf_counter() - start
        self.samples = [sample(out)]
        return {"first": seconds, "versions": machine.versions(self.column.framework)}

    def settle(self) -> dict[str, Any]:
        """The second and third call; with the first one's their results to compare. The high-water mark starts here."""
        for _ in range(2):
            self.samples.append(sample(self.step()))
        found: dict[str, Any] = {"samples": self.samples}
        if self.column.ours:
            found["forecast"] = forecast(self.step)
        gc.collect()
        memory.trim()
        self.resettable = memory.reset()
        return found

    def burst(self, seconds: float) -> dict[str, Any]:
        """The median time of the calls in so many seconds, but of three at least."""
        until = time.perf_counter() + WARM
        self.step()
        while time.perf_counter() < until:
            self.step()
        times: list[float] = []
        until = time.perf_counter() + seconds
        while (start := time.perf_counter()) < until or len(times) < 3:
            self.step()
            times.append(time.perf_counter() - start)
        return {"seconds": statistics.median(times), "calls": len(times)}

    def peak(self) -> dict[str, Any]:
        """What the calls since `settle` took at the most, model and data included, over the idle process."""
        most = memory.read("VmHWM") if self.resettable else None
        return {"peak": None if most is None or self.idle is None else most - self.idle}


def sample(result: Any) -> list[list[float]]:
    """Numbers from all over each of the results, which may be one or a list."""
    found = []
    for x in result if isinstance(result, list) else [result]:
        x = x.detach() if hasattr(x, "detach") else x
        flat = np.asarray(x.numpy() if hasattr(x, "numpy") else x).reshape(-1)
        # A stride that shares no factor with usual sizes, or it would meet the same columns again and again.
        found.append(flat[:: math.ceil(flat.size / SAMPLE) | 1].astype(float).tolist())
    return found


def forecast(step: Callable[[], object]) -> int:
    """Bytes that katachi says a call takes before it runs: what lives, and the plan."""
    import katachi as kt
    from katachi.devices.memory import Usage

    kt.eval()  # nothing pending: what lives is what will live during the call
    live = Usage.live
    return live + kt.explain(step).plan_bytes


def main(column: str, row: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(column, row)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = getattr(worker, name)(*arguments)
        except Exception as error:
            answer = {"error": complaint(error)}
        print(json.dumps(answer), file=answers, flush=True)


def complaint(error: BaseException) -> str:
    """An error in a few words that fit into a table."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    words = f"{type(error).__name__}: {error}"
    if "InvalidCxxCompiler" in words or "No working C++ compiler" in words:
        return "no C++ compiler"
    return next(line for line in words.splitlines() if line.strip())[:200]


if __name__ == "__main__":
    main(*sys.argv[1:])

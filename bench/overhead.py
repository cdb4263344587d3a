"""What a step costs in Python: the plain xor training step with only its computing stubbed, and one replayed operation.

    python bench/overhead.py

The floor: walking a recorded trace costs 0.25 us an operation, a Python method call some 0.03 us.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

import katachi as kt
from katachi import nn, optim
from katachi.compiler.steps import stubbed
from katachi.tensor import trace


def xor() -> Callable[[], object]:
    """The plain training step: a 2-16-2 network, batch 4, AdamW."""
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    x = kt.tensor(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32))
    y = kt.tensor([0, 1, 1, 0])

    def step() -> object:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


# of this thread alone, so that other programs do not count; not where it ticks too slowly, as on Windows
clock = time.thread_time if time.get_clock_info("thread_time").resolution < 1e-6 else time.perf_counter


def median(f: Callable[[], object], repeats: int = 30) -> float:
    """Seconds of one call, the median of `repeats`."""
    times = []
    for _ in range(repeats):
        start = clock()
        f()
        times.append(clock() - start)
    return statistics.median(times)


def stubbed_step() -> float:
    """Seconds of Python in an xor step: every program's kernels replaced by nothing, all else as it is."""
    step = xor()
    for _ in range(5):
        step()
    with stubbed():
        for _ in range(5):
            step()
        return median(step)


class Empty:
    def method(self, other: object) -> None:
        pass


def replayed_operation(n: int = 1000) -> tuple[float, float]:
    """Seconds of one replayed `a + b`, and of an empty method call, in a loop of `n`."""
    a, b, empty = kt.ones(4), kt.ones(4), Empty()
    kt.eval(a, b)

    def operations() -> None:
        x = a
        for _ in range(n):
            x = x + b
        trace.current().reset()  # forget the pending work: only its recording is measured
        del x

    def calls() -> None:
        for _ in range(n):
            empty.method(b)

    operations()
    operations()
    return median(operations) / n, median(calls) / n


if __name__ == "__main__":
    print(f"plain xor step, kernels stubbed: {stubbed_step() * 1e6:.1f} us of Python")
    one, empty = replayed_operation()
    print(f"replayed a + b: {one * 1e6:.2f} us, an empty method call {empty * 1e6:.3f} us")

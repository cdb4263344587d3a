"""The plain training steps beside torch's eager mode, interleaved in one process: `python bench/peers.py` (needs the
extra `katachi[peers]`). Bursts alternate, because the machine's speed drifts and both sides must meet the same
drift."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

import katachi as kt
from katachi import nn, optim

MODELS = {"xor": ((2, 16, 2), 4), "mlp-small": ((784, 128, 10), 32)}
Step = Callable[[], object]


def data(sizes: tuple[int, ...], batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, sizes[0]), np.float32), rng.integers(0, sizes[-1], batch)


def katachi_step(sizes: tuple[int, ...], batch: int) -> Step:
    with kt.device("cpu"):
        kt.manual_seed(0)
        model = nn.Sequential(nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[2]))
        optimizer = optim.AdamW(model.parameters(), lr=1e-3)
        x, y = map(kt.tensor, data(sizes, batch))

    def step() -> object:
        with kt.device("cpu"):
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        return loss

    return step


def torch_step(sizes: tuple[int, ...], batch: int) -> Step:
    model = torch.nn.Sequential(
        torch.nn.Linear(sizes[0], sizes[1]), torch.nn.ReLU(), torch.nn.Linear(sizes[1], sizes[2])
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, y = map(torch.from_numpy, data(sizes, batch))

    def step() -> object:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def race(steps: dict[str, Step], rounds: int = 40, burst: float = 0.02) -> dict[str, float]:
    """Seconds of a step, the median over alternating bursts; a pause lets the other side's threads go to sleep."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(20):
            step()
    for _ in range(rounds):
        for name, step in steps.items():
            time.sleep(0.004)
            step()
            end = time.perf_counter() + burst
            while (start := time.perf_counter()) < end:
                step()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def ratio(name: str) -> tuple[float, float, float]:
    """katachi's time over torch's, and both in seconds."""
    sizes, batch = MODELS[name]
    times = race({"katachi": katachi_step(sizes, batch), "torch": torch_step(sizes, batch)})
    return times["katachi"] / times["torch"], times["katachi"], times["torch"]


if __name__ == "__main__":
    for name in MODELS:
        over, ours, theirs = ratio(name)
        print(f"{name:10} katachi {ours * 1e3:.3f} ms, torch eager {theirs * 1e3:.3f} ms, ratio {over:.2f}")

"""Everyday training loops: what each adds to a plain step, and how many programs it builds after its first five.

    python bench/everyday.py

Bursts of the loop and of the plain step alternate; the ratio is the median of those of neighbouring bursts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import katachi as kt
from katachi import nn, optim
from katachi.nn import functional as F
from katachi.tensor import events

RNG = np.random.default_rng(0)
X, Y = kt.tensor(RNG.normal(size=(1024, 8)).astype(np.float32)), kt.tensor(RNG.integers(0, 4, 1024))
XB, YB = kt.tensor(X.numpy()[:32]), kt.tensor(Y.numpy()[:32])
Step = Callable[[int], Any]


class Training:
    """A model with its optimiser; `step` trains and gives output and loss."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        self.opt = optim.AdamW(self.model.parameters(), lr=0.01)

    def step(self, x: Any = XB, y: Any = YB, scale: Any = 1.0) -> tuple[Any, Any]:
        out = self.model(x)
        loss = F.cross_entropy(out, y) * scale
        loss.backward()
        self.opt.step()
        return out, loss


def running_loss(how: str) -> Step:
    training, total = Training(), 0.0

    def step(i: int) -> None:
        nonlocal total
        _, loss = training.step()
        if how == "no_grad":
            with kt.no_grad():
                total = total + loss
        else:
            total = total + (loss.freeze() if how == "freeze" else loss)

    return step


def losses_in_a_list() -> Step:
    training, losses = Training(), []

    def step(i: int) -> None:
        losses.append(training.step()[1])
        if len(losses) == 4:
            kt.eval(sum(losses) / 4)
            losses.clear()

    return step


def correct_while_training() -> Step:
    training, correct = Training(), 0

    def step(i: int) -> None:
        nonlocal correct
        out, _ = training.step()
        correct = correct + (out.argmax(1) == YB).sum()

    return step


def truncated_backpropagation() -> Step:
    cell, head = nn.Linear(16 + 8, 16), nn.Linear(16, 4)
    opt = optim.Adam([*cell.parameters(), *head.parameters()], lr=0.01)
    carried: Any = kt.zeros((32, 16))

    def step(i: int) -> None:
        nonlocal carried
        h = carried.freeze()
        for _ in range(3):
            h = cell(kt.concat([h, XB], 1)).tanh()
        F.cross_entropy(head(h), YB).backward()
        opt.step()
        carried = h

    return step


def sum_of_losses_returned() -> Step:
    training = Training()

    def step(i: int) -> Any:
        out = training.model(XB)
        first, second = F.cross_entropy(out, YB), (out * out).mean() * 0.01
        (first + second).backward()
        training.opt.step()
        return first + second

    return step


def average(of: str) -> Step:
    training = Training()
    mean: Any = None
    weights = [p.freeze() * 1.0 for p in training.model.parameters()]

    def step(i: int) -> None:
        nonlocal mean
        _, loss = training.step()
        if of == "weights":
            for k, p in enumerate(training.model.parameters()):
                weights[k] = 0.99 * weights[k] + 0.01 * p.freeze()
        else:
            loss = loss.freeze() if of == "constants" else loss
            mean = loss if mean is None else 0.9 * mean + 0.1 * loss

    return step


def slices(start: Callable[[int], int]) -> Step:
    training = Training()

    def step(i: int) -> None:
        j = start(i)
        training.step(X[j : j + 32], Y[j : j + 32])

    return step


def single_items() -> Step:
    training = Training()

    def step(i: int) -> None:
        training.step(X[i].reshape((1, 8)), Y[i].reshape((1,)))

    return step


def written(slice_too: bool) -> Step:
    training = Training()
    cache = kt.zeros((1024,))

    def step(i: int) -> None:
        nonlocal cache
        out, loss = training.step()
        if slice_too:
            j = i * 7 % 990
            cache = cache.at[j : j + 32].set(out.freeze()[:, 0])
        cache = cache.at[i % 1024].set(loss.freeze())

    return step


def rolled() -> Step:
    training = Training()
    return lambda i: training.step(kt.roll(XB, i % 32, 0))


def powers() -> Step:
    training, b = Training(), kt.tensor(0.9)
    return lambda i: training.step(scale=b**i)


def annealed() -> Step:
    training = Training()
    return lambda i: training.step(scale=0.99**i)


LOOPS: dict[str, Callable[[], Step]] = {
    "a running loss": lambda: running_loss("plain"),
    "a running loss, frozen": lambda: running_loss("freeze"),
    "a running loss without gradients": lambda: running_loss("no_grad"),
    "losses in a list": losses_in_a_list,
    "correct answers while training": correct_while_training,
    "truncated back-propagation": truncated_backpropagation,
    "a sum of losses returned": sum_of_losses_returned,
    "an average of losses": lambda: average("losses"),
    "an average of constants": lambda: average("constants"),
    "an average of weights": lambda: average("weights"),
    "slices in order": lambda: slices(lambda i: i * 32 % 992),
    "slices at random": lambda: slices(lambda i: int(RNG.integers(0, 992))),
    "single items": single_items,
    "an item written": lambda: written(False),
    "slices written": lambda: written(True),
    "a roll": rolled,
    "powers": powers,
    "a factor that anneals": annealed,
}


def compare(loop: Step, plain: Step, bursts: int = 15, steps: int = 20) -> tuple[float, float, int]:
    """The loop's and the plain step's milliseconds, and the programs that the loop built after five steps."""
    built = 0

    def see(flush: Any) -> None:
        nonlocal built
        built += flush.built

    def burst(step: Step, first: int, steps: int = steps) -> float:
        start = time.perf_counter()
        for i in range(first, first + steps):
            step(i)
        kt.eval()
        return (time.perf_counter() - start) / steps

    for first in (0, 2):  # five steps, and what is pending at a burst's end
        burst(loop, first, 2 + first // 2)
        burst(plain, first, 2 + first // 2)
    events.observers.append(see)
    try:
        times = [(burst(loop, 5 + k * steps), burst(plain, 5 + k * steps)) for k in range(bursts)]
    finally:
        events.observers.remove(see)
    ratio = statistics.median(a / b for a, b in times)
    base = statistics.median(b for _, b in times)
    return ratio * base * 1e3, base * 1e3, built


def plain_step() -> Step:
    training = Training()
    return lambda i: training.step()


if __name__ == "__main__":
    for name, make in LOOPS.items():
        mine, base, built = compare(make(), plain_step())
        print(f"{name:<34} {mine:7.3f} ms, {mine / base:5.2f} of a plain step; {built} programs built after five steps")

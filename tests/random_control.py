"""Random programs of nested cond, scan and while_loop whose functions close over values, and what they mean: the same
program run with Python's own `if`, `for` and `while`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import katachi as kt


class Flow(NamedTuple):
    """Control flow in one way or the other."""

    cond: Callable[..., Any]
    scan: Callable[..., Any]
    while_loop: Callable[..., Any]


def _cond(which: Any, true_fn: Any, false_fn: Any, *operands: Any) -> Any:
    return true_fn(*operands) if bool(which) else false_fn(*operands)


def _scan(f: Any, carry: Any, xs: Any = None, *, length: int | None = None, reverse: bool = False) -> Any:
    steps: Any = length if xs is None else xs.shape[0]
    ys = []
    for i in range(steps)[:: -1 if reverse else 1]:
        carry, y = f(carry, None if xs is None else xs[i])
        ys.append(y)
    nothing = not ys or ys[0] is None
    return carry, None if nothing else kt.stack(ys[:: -1 if reverse else 1])


def _while_loop(condition: Any, body: Any, carry: Any) -> Any:
    while bool(condition(carry)):
        carry = body(carry)
    return carry


BUILT = Flow(kt.cond, kt.scan, kt.while_loop)
PYTHON = Flow(_cond, _scan, _while_loop)
STEPS = 3  # of a loop, at the most


class Program:
    """A function of a table of numbers and of scalars, by seed. What has no value or slope everywhere (roots,
    logarithms, quotients, indices) stands in branches that are chosen where it has both: all results are finite."""

    def __init__(self, seed: int, loops: bool) -> None:
        self.seed, self.loops = seed, loops

    def __call__(self, flow: Flow, table: Any, *scalars: Any) -> Any:
        rng = np.random.default_rng(self.seed)
        return self._value(rng, flow, table, list(scalars), 3).tanh() + scalars[0] * 0.125

    def _value(self, rng: Any, flow: Flow, table: Any, near: list[Any], depth: int) -> Any:
        """A scalar made of those in `near`. What is drawn depends neither on `flow` nor on how often a function runs:
        each function has a generator of its own."""
        seeds = [int(s) for s in rng.integers(1 << 30, size=2)]
        a, b = (near[int(rng.integers(len(near)))] for _ in range(2))
        near = [*near, self._guarded(rng, flow, table, a, b)]
        kind = int(rng.integers(7)) if depth else 6

        def inner(k: int, *more: Any) -> Any:
            return self._value(np.random.default_rng(seeds[k]), flow, table, [*near, *more], depth - 1)

        if kind < 2:
            return flow.cond(a > near[-1] * 0.5, lambda: inner(0), lambda: inner(1))
        if kind == 2:
            return flow.cond(a > 0.0, lambda u: inner(0, u), lambda u: inner(1, u * 2.0), b)
        if kind < 5:
            length, reverse = int(rng.integers(STEPS + 1)), bool(rng.integers(2))
            step = (
                (lambda c, x: (inner(0, c, x).tanh(), c * x)) if kind == 3 else (lambda c, x: (inner(0, c).tanh(), c))
            )
            last, ys = flow.scan(step, b, table[:length], reverse=reverse)
            return last + ys.sum() * 0.5 if length else last
        if kind == 5 and self.loops:
            most = float(rng.integers(STEPS + 1))
            return flow.while_loop(
                lambda c: c[1] < most, lambda c: (inner(0, c[0]).tanh(), c[1] + 1.0), (b, near[-1] * 0.0)
            )[0]
        return near[-1] * 0.5 + (inner(0) if depth else a)

    @staticmethod
    def _guarded(rng: Any, flow: Flow, table: Any, a: Any, b: Any) -> Any:
        kind = int(rng.integers(8))
        if kind == 0:
            return flow.cond(a > 0.1, lambda: a.sqrt() * b, lambda: b)
        if kind == 1:
            return flow.cond(a < 0.1, lambda: b - a, lambda: a.log())
        if kind == 2:
            return flow.cond(a.abs() > 0.1, lambda u: b.tanh() / u, lambda u: b * a, a)
        if kind == 3:
            place = (a * 8.0).astype(kt.int64)
            inside = (place >= 0) & (place < table.shape[0])
            return flow.cond(inside, lambda: table[place] * b, lambda: b)
        return (a * b, a.tanh() - b, kt.sin(a) + 0.5, kt.maximum(a, b))[kind - 4]

"""Arithmetic on shapes. Rules go through these few functions and plain `+ - * //`, never through `int()` or `if n:`,
so that a symbolic size, which is not an int, can pass through them as well."""

from __future__ import annotations

import operator
from typing import TypeAlias

Size: TypeAlias = int
Shape: TypeAlias = tuple[Size, ...]


def same(a: Size, b: Size) -> bool:
    """Whether two sizes are equal."""
    return a == b


def is_one(n: Size) -> bool:
    """Whether an axis of this size broadcasts."""
    return n == 1


def alike(a: Shape, b: Shape) -> bool:
    """Whether two shapes are equal."""
    return len(a) == len(b) and all(map(same, a, b))


def fixed(n: Size) -> int:
    """A size that a graph is made for: it is no parameter of it."""
    return operator.index(n)


def count(shape: Shape) -> Size:
    """Number of elements."""
    n: Size = 1
    for s in shape:
        n = n * s
    return n


def broadcast(a: Shape, b: Shape) -> Shape | None:
    """The common shape by NumPy's rule, or None where there is none."""
    if alike(a, b):
        return a
    if len(a) < len(b):
        a, b = b, a
    out = list(a)
    for i in range(1, len(b) + 1):
        x, y = a[-i], b[-i]
        if same(x, y) or is_one(y):
            continue
        if not is_one(x):
            return None
        out[-i] = y
    return tuple(out)


def span(low: Size, high: Size, step: int) -> Size:
    """How many numbers range(low, high, step) has."""
    distance = (high - low) if step > 0 else (low - high)
    return -(-distance // abs(step)) if distance > 0 else 0


def window_count(size: Size, window: Size, stride: Size, low: Size, high: Size, dilation: Size = 1) -> Size:
    """How many windows fit along an axis that is padded by `low` and `high`."""
    return (size + low + high - (dilation * (window - 1) + 1)) // stride + 1

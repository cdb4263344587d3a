"""Derivatives of element-wise functions of one variable: both differentiation columns multiply by these."""

from __future__ import annotations

import math
from collections.abc import Callable

from katachi.graph import build as b
from katachi.graph.dtypes import bool_, int64
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.transforms.view import View


def _logistic(v: View) -> Node:
    return b.multiply(v.out, b.subtract(b.like(v.node, 1.0), v.out))


def _tanh(v: View) -> Node:
    return b.subtract(b.like(v.node, 1.0), b.multiply(v.out, v.out))


def _erf(v: View) -> Node:
    x = v.x(0)
    return b.scale(make("exponential", make("negate", b.multiply(x, x))), 2 / math.sqrt(math.pi))


DERIVATIVE: dict[str, Callable[[View], Node]] = {
    "abs": lambda v: make("sign", v.x(0)),
    "negate": lambda v: b.like(v.node, -1.0),
    "exponential": lambda v: v.out,
    "log": lambda v: b.divide(b.like(v.node, 1.0), v.x(0)),
    "sqrt": lambda v: b.divide(b.like(v.node, 0.5), v.out),
    "tanh": _tanh,
    "logistic": _logistic,
    "erf": _erf,
    "sine": lambda v: make("cosine", v.x(0)),
    "cosine": lambda v: make("negate", make("sine", v.x(0))),
}

# Constant between jumps, or of integers: nothing flows through.
FLAT = frozenset(
    [
        "sign",
        "floor",
        "not",
        "and",
        "or",
        "xor",
        "shift_right_logical",
        "compare",
        "argmax",
        "iota",
        "rng_bits",
        "constant",
        "stop_gradient",
        "input",
    ]
)


def power_base(v: View) -> Node:
    """d(a ** e) / da = e a ** (e - 1), and 0 where e is 0: also where a is 0 or NaN, and in derivatives of this."""
    a, e = v.x(0), v.x(1)
    safe = make("not", b.compare(e, "EQ", b.like(e, 0.0)))
    safe = make("or", safe, b.compare(make("abs", a), "GT", b.like(a, 0.0)))
    return b.multiply(e, make("power", b.select(safe, a, b.like(a, 1.0)), b.shift(e, -1.0)))


def power_exponent(v: View) -> Node:
    """d(a ** e) / de = a ** e log a, and 0 where a is 0."""
    a, zero = v.x(0), b.like(v.node, 0.0)
    at_zero = b.compare(a, "EQ", zero)
    return b.select(at_zero, zero, b.multiply(v.out, make("log", b.select(at_zero, b.like(a, 1.0), a))))


def extreme_share(v: View, i: int, direction: str) -> Node:
    """1 where operand i of maximum or minimum wins, a half at a tie."""
    mine, other, one = v.x(i), v.x(1 - i), b.like(v.node, 1.0)
    losing = b.select(b.compare(mine, "EQ", other), b.like(v.node, 0.5), b.like(v.node, 0.0))
    return b.select(b.compare(mine, direction, other), one, losing)


def reduced_share(v: View) -> Node:
    """For reduce_max and reduce_min: 1 / (number of ties) at the extremes, 0 elsewhere."""
    x, axes = v.x(0), v.attrs["axes"]
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    hit = b.convert(b.compare(x, "EQ", b.spread(b.reshape(v.out, kept), x.shape)), x.dtype)
    ties = b.reduce("reduce_sum", hit, axes, keepdims=True)
    return b.divide(hit, b.spread(ties, x.shape))


def scatter_winners(v: View) -> Node:
    """Which updates of a scatter that sets are not overwritten by a later one (bool, shaped as the updates)."""
    from katachi.graph.sizes import count

    x, index, update = v.like(0), v.x(1), v.like(2)
    where = {"axes": v.attrs["axes"], "batch": v.attrs["batch"]}
    line = make("iota", shape=(count(update.shape),), dtype=int64, dimension=0, device=x.device)
    mine = b.reshape(line, update.shape)
    nobody = b.full(-1, x.shape, int64, x.device)
    return b.compare(
        make("gather", make("scatter", nobody, index, mine, combine="set", **where), index, **where), "EQ", mine
    )


def window_gather(v: View, u: Node) -> Node:
    """u, shaped as x, read at each window's first maximum: the transpose of reduce_window_gradient."""
    x, out_shape = v.x(0), v.like(1).shape
    window, strides, padding = v.attrs["window"], v.attrs["strides"], v.attrs["padding"]
    lead = len(x.shape) - len(window)
    low = (0,) * lead + tuple(p[0] for p in padding)
    high = (0,) * lead + tuple(p[1] for p in padding)
    none = (0,) * len(x.shape)

    def padded(value: Node, fill: float) -> Node:
        return make("pad", value, b.full(fill, (), value.dtype, value.device), low=low, high=high, interior=none)

    def at(value: Node, offset: tuple[int, ...]) -> Node:
        start = (0,) * lead + offset
        sizes = zip(start, out_shape, (1,) * lead + strides, strict=True)
        limit = tuple(a + (n - 1) * s + 1 for a, n, s in sizes)
        return make("slice", value, start=start, limit=limit, stride=(1,) * lead + strides)

    offsets: list[tuple[int, ...]] = [()]
    for k in window:
        offsets = [(*o, i) for o in offsets for i in range(k)]
    xs, us = padded(x, -math.inf), padded(u, 0.0)
    inside = padded(b.full(True, x.shape, bool_, x.device), False)
    best, out, real = at(xs, offsets[0]), at(us, offsets[0]), at(inside, offsets[0])
    for offset in offsets[1:]:
        other = at(xs, offset)
        # a later element wins when it is larger, or the first NaN
        wins = make(
            "and",
            make("not", b.compare(other, "LE", best)),
            b.compare(best, "EQ", best),
        )
        if any(low) or any(high):  # what is inside wins against padding, even if it is -inf as well
            wins = make("or", wins, make("and", at(inside, offset), make("not", real)))
            real = make("or", real, at(inside, offset))
        best, out = b.select(wins, other, best), b.select(wins, at(us, offset), out)
    return out

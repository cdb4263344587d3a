"""Derivatives of element-wise functions of one variable: both differentiation columns multiply by these."""

from __future__ import annotations

import math
from collections.abc import Callable

from katachi.graph import build as b
from katachi.graph.dtypes import bool_, int64
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.graph.sizes import count
from katachi.transforms.view import View


def _logistic(v: View) -> Node:
    return b.multiply(v.out, b.subtract(b.like(v.node, 1.0), v.out))


def _tanh(v: View) -> Node:
    return b.subtract(b.like(v.node, 1.0), b.multiply(v.out, v.out))


def _erf(v: View) -> Node:
    x = v.x(0)
    return b.scale(make("exponential", make("negate", b.multiply(x, x))), 2 / math.sqrt(math.pi))


def _one_less_square(v: View) -> Node:
    """1 - x ** 2, as a product: near one its digits are kept."""
    x, one = v.x(0), b.like(v.node, 1.0)
    return b.multiply(b.subtract(one, x), b.add(one, x))


def _inverse_sqrt(x: Node) -> Node:
    return b.divide(b.like(x, 1.0), make("sqrt", x))


def _acosh(v: View) -> Node:
    """1 / sqrt(x ** 2 - 1), in two factors that neither overflow nor lose digits near one."""
    return b.multiply(_inverse_sqrt(b.shift(v.x(0), -1.0)), _inverse_sqrt(b.shift(v.x(0), 1.0)))


DERIVATIVE: dict[str, Callable[[View], Node]] = {
    "tan": lambda v: b.shift(b.multiply(v.out, v.out), 1.0),
    "asin": lambda v: _inverse_sqrt(_one_less_square(v)),
    "acos": lambda v: make("negate", _inverse_sqrt(_one_less_square(v))),
    "sinh": lambda v: make("cosh", v.x(0)),
    "cosh": lambda v: make("sinh", v.x(0)),
    "asinh": lambda v: _inverse_sqrt(b.shift(b.multiply(v.x(0), v.x(0)), 1.0)),
    "acosh": _acosh,
    "atanh": lambda v: b.divide(b.like(v.node, 1.0), _one_less_square(v)),
    "exponential_minus_one": lambda v: make("exponential", v.x(0)),
    "log_plus_one": lambda v: b.divide(b.like(v.node, 1.0), b.shift(v.x(0), 1.0)),
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
        "ceil",
        "round_nearest_even",
        "is_finite",
        "bitcast_convert",
        "shift_left",
        "shift_right_arithmetic",
        "reduce_and",
        "reduce_or",
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


def atan2_slope(v: View, i: int) -> Node:
    """x / r ** 2 and -y / r ** 2 for the angle of (x, y), with r divided out first, so that nothing overflows."""
    y, x = v.x(0), v.x(1)
    size = make("maximum", make("abs", y), make("abs", x))
    mine, other = b.divide(y, size), b.divide(x, size)
    square = b.multiply(size, b.add(b.multiply(mine, mine), b.multiply(other, other)))
    return b.divide(other, square) if i == 0 else make("negate", b.divide(mine, square))


def remainder_slope(v: View) -> Node:
    """d(a rem e) / de = -trunc(a / e)."""
    ratio = b.divide(v.x(0), v.x(1))
    negative = b.compare(ratio, "LT", b.like(ratio, 0.0))
    return make("negate", b.select(negative, make("ceil", ratio), make("floor", ratio)))


def moved(x: Node, axis: int, by: int, fill: Node) -> Node:
    """x moved along an axis, towards its end if `by` is positive; `fill` takes the places left."""
    n, rank = x.shape[axis], len(x.shape)
    if n == 0:
        return x
    cut = min(abs(by), n)
    zeros, ones = (0,) * rank, (1,) * rank
    at = tuple(cut if i == axis else 0 for i in range(rank))
    limit = tuple(m - c for m, c in zip(x.shape, at, strict=True))
    part = (
        make("slice", x, start=zeros, limit=limit, stride=ones)
        if by > 0
        else make("slice", x, start=at, limit=x.shape, stride=ones)
    )
    return make("pad", part, fill, low=at if by > 0 else zeros, high=zeros if by > 0 else at, interior=zeros)


def running_products(x: Node, axis: int, towards: int) -> Node:
    """The products of all that stands before each place (after it, if `towards` is -1). Of multiplications only, so
    zeros are no trouble, in derivatives neither."""
    one = b.full(1.0, (), x.dtype, x.device)
    y, step = moved(x, axis, towards, one), 1
    while step < x.shape[axis]:
        y = b.multiply(y, moved(y, axis, towards * step, one))
        step *= 2
    return y


def recurrence(a: Node, y: Node, axis: int, towards: int) -> Node:
    """h of h[k] = y[k] + a[k] h[k - towards], by doubling: of multiplications and additions only."""
    one, zero = b.full(1.0, (), a.dtype, a.device), b.full(0.0, (), a.dtype, a.device)
    step = 1
    while step < a.shape[axis]:
        y = b.add(y, b.multiply(a, moved(y, axis, towards * step, zero)))
        a = b.multiply(a, moved(a, axis, towards * step, one))
        step *= 2
    return y


def other_products(v: View) -> Node:
    """For reduce_prod: at each place the product of all the others."""
    x, axes = v.x(0), v.attrs["axes"]
    rest = tuple(i for i in range(len(x.shape)) if i not in axes)
    order = (*rest, *axes)
    n = 1
    for i in axes:
        n *= x.shape[i]
    line = b.reshape(b.transpose(x, order), (*(x.shape[i] for i in rest), n))
    last = len(rest)
    line = b.multiply(running_products(line, last, 1), running_products(line, last, -1))
    line = b.reshape(line, tuple(x.shape[i] for i in order))
    return b.transpose(line, tuple(order.index(i) for i in range(len(order))))


def last_extreme(v: View) -> Node:
    """For cumulative_max and cumulative_min: where along the axis the value so far was last met (int64)."""
    x, axis = v.x(0), v.attrs["axis"]
    hit = make("or", b.compare(x, "EQ", v.out), b.compare(x, "NE", x))  # a NaN stays
    place = make("iota", shape=x.shape, dtype=int64, dimension=axis, device=x.device)
    return make("cumulative_max", b.select(hit, place, b.like(place, 0)), axis=axis)


def along(axis: int, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order of axes that puts one last, and the way back."""
    order = (*(i for i in range(rank) if i != axis), axis)
    return order, tuple(order.index(i) for i in range(rank))


def read_along(x: Node, place: Node, axis: int) -> Node:
    """x at `place` along one axis, the others in step."""
    rank = len(x.shape)
    order, back = along(axis, rank)
    index = b.transpose(place, order)
    index = b.reshape(index, (*index.shape, 1))
    return b.transpose(make("gather", b.transpose(x, order), index, axes=(rank - 1,), batch=rank - 1), back)


def add_along(g: Node, place: Node, axis: int, size: int) -> Node:
    """The transpose of read_along: g added up at `place` along one axis of `size`."""
    rank = len(g.shape)
    order, back = along(axis, rank)
    index, update = b.transpose(place, order), b.transpose(g, order)
    index = b.reshape(index, (*index.shape, 1))
    zero = b.full(0.0, (*update.shape[:-1], size), g.dtype, g.device)
    where = {"axes": (rank - 1,), "batch": rank - 1}
    return b.transpose(make("scatter", zero, index, update, combine="add", **where), back)


def ranks(key: Node, axis: int, descending: bool) -> Node:
    """Where along the axis sorting by `key` takes each place from (int64)."""
    place = make("iota", shape=key.shape, dtype=int64, dimension=axis, device=key.device)
    return make("sort", key, place, axis=axis, descending=descending)


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
    x, index, update = v.like(0), v.x(1), v.like(2)
    where = {"axes": v.attrs["axes"], "batch": v.attrs["batch"]}
    line = make("iota", shape=(count(update.shape),), dtype=int64, dimension=0, device=x.device)
    mine = b.reshape(line, update.shape)
    nobody = b.full(-1, x.shape, int64, x.device)
    return b.compare(
        make("gather", make("scatter", nobody, index, mine, combine="set", **where), index, **where), "EQ", mine
    )


def scatter_extreme_shares(v: View) -> tuple[Node, Node]:
    """For a scatter of maxima or minima: 1 / (number of ties) where x, and where an update, is the value that stays."""
    x, index, update = v.x(0), v.x(1), v.x(2)
    where = {"axes": v.attrs["axes"], "batch": v.attrs["batch"]}

    def stays(value: Node, out: Node) -> Node:  # if there is a NaN, that
        return b.convert(make("or", b.compare(value, "EQ", out), b.compare(value, "NE", value)), x.dtype)

    here, there = stays(x, v.out), stays(update, make("gather", v.out, index, **where))
    ties = make("scatter", here, index, there, combine="add", **where)
    return b.divide(here, ties), b.divide(there, make("gather", ties, index, **where))


def _products_of_runs(x: Node, key: Node, towards: int) -> Node:
    """running_products of a vector, begun anew wherever the key changes."""
    one, true = b.full(1.0, (), x.dtype, x.device), b.full(True, (), bool_, x.device)
    begun = b.compare(key, "NE", moved(key, 0, towards, b.full(-1, (), key.dtype, key.device)))
    y, step = b.select(begun, b.like(x, 1.0), moved(x, 0, towards, one)), 1
    while step < x.shape[0]:
        y = b.select(begun, y, b.multiply(y, moved(y, 0, towards * step, one)))
        begun = make("or", begun, moved(begun, 0, towards * step, true))
        step *= 2
    return y


def scatter_factors(v: View) -> tuple[Node, Node]:
    """For a scatter of products: the product of all updates of a place, and for each update that of x and all others
    of its place. Of multiplications only, so zeros are no trouble, in derivatives neither: with the updates of a place
    side by side, what stands before and what stands behind."""
    x, index, update = v.x(0), v.x(1), v.x(2)
    where = {"axes": v.attrs["axes"], "batch": v.attrs["batch"]}
    every = make("scatter", b.like(x, 1.0), index, update, combine="multiply", **where)
    n = count(update.shape)
    line = make("iota", shape=(count(x.shape),), dtype=int64, dimension=0, device=x.device)
    place = b.reshape(make("gather", b.reshape(line, x.shape), index, **where), (n,))
    order = ranks(place, 0, False)
    place, side_by_side = (make("sort", place, p, axis=0, descending=False) for p in (place, b.reshape(update, (n,))))
    others = b.multiply(*(_products_of_runs(side_by_side, place, towards) for towards in (1, -1)))
    others = b.reshape(make("sort", order, others, axis=0, descending=False), update.shape)
    return every, b.multiply(others, make("gather", x, index, **where))


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

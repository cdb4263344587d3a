"""What the two differentiation columns have in common beside element-wise primitives."""

from __future__ import annotations

import math

from katachi.graph import build as b
from katachi.graph.dtypes import bool_, int64
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.graph.sizes import count
from katachi.transforms.view import View

# Of bools and integers: nothing flows through.
FLAT = frozenset(
    [
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


def reduced_part(g: Node, v: View) -> Node:
    """For reduce_max and reduce_min: g over the number of ties at the extremes (at NaN, if there is any), else 0."""
    x, axes = v.x(0), v.attrs["axes"]
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    stays = b.compare(x, "EQ", b.spread(b.reshape(v.out, kept), x.shape))
    stays = make("or", stays, b.compare(x, "NE", x))
    ties = b.reduce("reduce_sum", b.convert(stays, x.dtype), axes, keepdims=True)
    return b.select(stays, b.divide(g, b.spread(ties, x.shape)), b.like(g, 0.0))


def shared(g: Node, share: Node) -> Node:
    """g times a share; to a share of 0 nothing flows, not even what is infinite."""
    return b.select(b.compare(share, "EQ", b.like(share, 0.0)), b.like(g, 0.0), b.multiply(g, share))


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

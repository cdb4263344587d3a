"""Pooling, and convolutions of one channel a group, as expressions: the taps of a window written out.

Every element asks for what it needs, so these fuse with what stands around them. A window's gradient is asked for by
the elements of the input: each looks at its neighbours to know in which windows it was the first maximum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache

from katachi.graph.dtypes import int64
from katachi.graph.node import Node
from katachi.kernels.lower import ZERO, Index, Indices, Lowerer, combine, floor_divide

MOST_TAPS = 32  # of a window that is written out


def suits(node: Node) -> bool:
    """Whether a node is written out tap by tap."""
    if node.primitive == "convolution":
        weight = node.inputs[1]
        return node.dtype.name in ("float32", "float64") and weight.shape[1] == 1 and _few(weight.shape[2:])
    return _few(node.attrs["window"])


def _few(window: tuple[int, ...]) -> bool:
    return math.prod(window) <= MOST_TAPS


def _shifted(index: Index, factor: int, by: int) -> Index:
    return combine((factor, index), (1, (by, ())))


class _Axis:
    """One axis of a value that is read at places which may lie outside of it."""

    def __init__(self, lo: Lowerer, size: int, safe: bool = False) -> None:
        self.lo, self.size, self.safe = lo, size, safe
        self.known: dict[Index, int] = {}

    def inside(self, place: Index) -> int | None:
        """0 <= place < size, in one comparison; None where that is known."""
        if self.safe:
            return None
        if place not in self.known:
            args = self.lo.index(place), self.lo.number(self.size)
            self.known[place] = self.lo.emit("compare", "bool", *args, extra=("LT", "uint64"))
        return self.known[place]


def _all_of(lo: Lowerer, *conditions: int | None) -> int | None:
    result = None
    for c in conditions:
        if c is not None:
            result = lo.both(result, c)
    return result


def _read(lo: Lowerer, x: Node, lead: Indices, places: list[Index], inside: int | None, mask: int | None) -> int:
    """x where `inside` and `mask` hold, unspecified elsewhere."""
    at = [*lead, *(ZERO if n == 1 else p for n, p in zip(x.shape[len(lead) :], places, strict=True))]
    return lo.value(x, tuple(at), _all_of(lo, mask, inside))


def _reduce_window(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    (x,) = node.inputs
    window, strides, padding = node.attrs["window"], node.attrs["strides"], node.attrs["padding"]
    lead = len(x.shape) - len(window)
    axes = [_Axis(lo, n, pad == (0, 0)) for n, pad in zip(x.shape[lead:], padding, strict=True)]
    lowest = lo.constant(-math.inf if x.dtype.is_floating else x.dtype.bounds[0], x.dtype)
    most = None
    for tap in itertools.product(*map(range, window)):
        moved = zip(at[lead:], strides, tap, padding, strict=True)
        places = [_shifted(i, s, t - low) for i, s, t, (low, _) in moved]
        inside = _all_of(lo, *[axis.inside(p) for axis, p in zip(axes, places, strict=True)])
        value = _read(lo, x, at[:lead], places, inside, mask)
        if inside is not None:
            value = lo.emit("select", node.dtype.name, inside, value, lowest)
        most = value if most is None else lo.emit("maximum", node.dtype.name, most, value)
    assert most is not None
    return most


def _reduce_window_gradient(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    """The sum of g over the windows in which this element is the first maximum.

    Whether it is that depends on the neighbours within the window only by where they stand: it exceeds those before
    it and is at least as large as those behind; so each neighbour is compared with once for all windows. Along an
    axis, the windows that contain an element at place p (padding included) are p // stride and those before it, and
    its tap in them is p % stride and multiples of the stride more.
    """
    x, g = node.inputs
    window, strides, padding = node.attrs["window"], node.attrs["strides"], node.attrs["padding"]
    rank, dtype = len(window), x.dtype.name
    lead = len(x.shape) - rank
    mine = lo.value(x, at, mask)
    axes = [_Axis(lo, n) for n in x.shape[lead:]]

    def compare(a: int, direction: str, b: int) -> int:
        return lo.emit("compare", "bool", a, b, extra=(direction, dtype))

    nan = compare(mine, "NE", mine) if x.dtype.is_floating else None

    @cache
    def beats(offset: tuple[int, ...]) -> int | None:
        """Whether the element here goes before the one at an offset, or that is padding. A NaN exceeds all numbers."""
        if not any(offset):
            return None
        places = [_shifted(i, 1, d) for i, d in zip(at[lead:], offset, strict=True)]
        moved = zip(axes, places, offset, strict=True)
        inside = _all_of(lo, *[axis.inside(p) for axis, p, d in moved if d])
        assert inside is not None
        other = _read(lo, x, at[:lead], places, inside, mask)
        better = compare(mine, "GT" if offset < (0,) * rank else "GE", other)
        if nan is not None:
            wins = nan if offset > (0,) * rank else lo.emit("and", "bool", nan, compare(other, "EQ", other))
            better = lo.emit("or", "bool", better, wins)
        return lo.emit("or", "bool", better, lo.emit("not", "bool", inside))

    @cache
    def first(offset: tuple[int, ...], taps: tuple[int, ...]) -> int | None:
        """Whether it beats all of the window in which it has these taps; axis by axis, as windows share rows."""
        if not taps:
            return beats(offset)
        steps = range(-taps[0], window[len(offset)] - taps[0])
        return _all_of(lo, *[first((*offset, d), taps[1:]) for d in steps])

    latest: list[Index] = []  # along each axis the last window that may contain the element
    residue: list[int | None] = []
    for i, s, (low, _) in zip(at[lead:], strides, padding, strict=True):
        place = _shifted(i, 1, low)
        latest.append(floor_divide(lo, place, s))
        residue.append(None if s == 1 else lo.index(combine((1, place), (-s, latest[-1]))))

    @cache
    def stands_at(axis: int, tap: int) -> int | None:
        rest, s = residue[axis], strides[axis]
        return None if rest is None else lo.emit("compare", "bool", rest, lo.constant(tap % s, int64), extra=_SAME)

    places_of = [_Axis(lo, n) for n in g.shape[lead:]]
    total = lo.constant(0, node.dtype)
    for back in itertools.product(*[range(-(-k // s)) for k, s in zip(window, strides, strict=True)]):
        choices = [range(j * s, min(j * s + s, k)) for j, s, k in zip(back, strides, window, strict=True)]
        chosen = None
        for taps in itertools.product(*choices):
            here = _all_of(lo, *[stands_at(a, t) for a, t in enumerate(taps)], first((), taps))
            if here is None:  # a window of one element
                chosen = None
                break
            chosen = here if chosen is None else lo.emit("or", "bool", chosen, here)
        places = [_shifted(q, 1, -j) for q, j in zip(latest, back, strict=True)]
        chosen = _all_of(lo, chosen, *[axis.inside(p) for axis, p in zip(places_of, places, strict=True)])
        assert chosen is not None
        value = lo.emit("select", dtype, chosen, _read(lo, g, at[:lead], places, chosen, mask), lo.constant(0, x.dtype))
        total = lo.emit("add", dtype, total, value)
    return total


_SAME = ("EQ", "int64")


def _convolution(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    """The sum over the taps of one channel."""
    x, w = node.inputs
    a, dtype = node.attrs, node.dtype.name
    channel = at[1] if x.shape[1] == node.shape[1] else floor_divide(lo, at[1], node.shape[1] // a["groups"])
    lead = (at[0], ZERO if x.shape[1] == 1 else channel)
    axes = [_Axis(lo, n, _always_inside(node, i)) for i, n in enumerate(x.shape[2:])]
    zero, total = lo.constant(0, node.dtype), None
    for tap in itertools.product(*map(range, w.shape[2:])):
        places, conditions = [], []
        for i, t in enumerate(tap):
            d = a["lhs_dilation"][i]
            spread = _shifted(at[2 + i], a["strides"][i], t * a["rhs_dilation"][i] - a["padding"][i][0])
            places.append(floor_divide(lo, spread, d))
            conditions.append(axes[i].inside(places[-1]))
            if d > 1:  # between the pixels there are zeros
                rest = lo.index(combine((1, spread), (-d, places[-1])))
                conditions.append(lo.emit("compare", "bool", rest, lo.constant(0, int64), extra=_SAME))
        inside = _all_of(lo, *conditions)
        value = _read(lo, x, lead, places, inside, mask)
        if inside is not None:
            value = lo.emit("select", dtype, inside, value, zero)
        weight = lo.value(w, (ZERO if w.shape[0] == 1 else at[1], ZERO, *((t, ()) for t in tap)), mask)
        part = lo.emit("multiply", dtype, value, weight)
        total = part if total is None else lo.emit("add", dtype, total, part)
    assert total is not None
    return total


def _always_inside(node: Node, i: int) -> bool:
    """Whether no window reaches into padding along a spatial axis; by its attributes, not its size."""
    low, high = node.attrs["padding"][i]
    return low <= 0 and high <= 0 and node.attrs["lhs_dilation"][i] == 1


WINDOWED: dict[str, Callable[[Lowerer, Node, Indices, int | None], int]] = {
    "reduce_window": _reduce_window,
    "reduce_window_gradient": _reduce_window_gradient,
    "convolution": _convolution,
}

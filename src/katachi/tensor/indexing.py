"""Indexing, by ints, slices, None and Ellipsis here, by arrays and masks in `advanced.py`.

An int is an argument of the program, a slice is part of it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from katachi.errors import DTypeError, IndexBoundsError, ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import int64
from katachi.graph.node import Node
from katachi.graph.primitives import constant, make
from katachi.graph.sizes import span
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.numbers import StandIn
from katachi.tensor.signatures import indexing
from katachi.tensor.types import _G, Shaped, like, shape_vars
from katachi.tensor.varying import apply_varying

if TYPE_CHECKING:
    from katachi.tensor.shape_rules import item_shape
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import IntTuple

INT = "int"  # stands in an index's attributes where an int operand goes
WHOLE = (0, None, 1)  # all of an axis
FROM = "from"  # and (FROM, span, step) where an int operand is the start of a slice


def _index(x: Node, *rest: Any) -> Node:
    """rest: the ints' nodes, then the pattern: INT, a slice as `slice_bounds` has it or (FROM, span, step) an axis of
    x, None for a new axis."""
    ints, pattern = list(rest[:-1]), rest[-1]
    per_axis = [p for p in pattern if p is not None]
    x = sliced(x, [(0, n, 1) if given(p) else resolved(p, n) for n, p in zip(x.shape, per_axis, strict=True)])
    if ints:
        zero = constant(0, int64, x.device)
        starts = [ints.pop(0) if given(p) else zero for p in per_axis]
        sizes = tuple(1 if p == INT else p[1] if given(p) else n for n, p in zip(x.shape, per_axis, strict=True))
        x = make("dynamic_slice", x, *starts, sizes=sizes)
        x = sliced(x, [(0, n, p[2] if p != INT and given(p) else 1) for n, p in zip(x.shape, per_axis, strict=True)])
    sizes_left = iter(x.shape)
    shape: list[int] = []
    for p in pattern:
        if p is None:
            shape.append(1)
        else:
            n = next(sizes_left)
            if p != INT:
                shape.append(n)
    return b.reshape(x, tuple(shape))


def given(part: Any) -> bool:
    """Whether a part of a pattern has an int operand."""
    return part == INT or (part is not None and part[0] == FROM)


def starts_given(
    shape: tuple[int, ...], ints: Sequence[int], pattern: tuple[Any, ...]
) -> tuple[list[int], tuple[Any, ...]]:
    """The same with the starts of slices among the ints, but of those that take all of an axis or go backwards."""
    axes, old = iter(shape), iter(ints)
    new: list[int] = []
    parts: list[Any] = []
    for p in pattern:
        n = None if p is None else next(axes)
        if p == INT:
            new.append(next(old))
        elif p is not None and p[2] > 0 and p != WHOLE and (size := span(*resolved(p, n))):
            new.append(resolved(p, n)[0])
            p = (FROM, (size - 1) * p[2] + 1, p[2])
        parts.append(p)
    return new, tuple(parts)


def _vary(operands: Sequence[Any], attrs: tuple[Any, ...]) -> Any:
    x, *ints = operands
    ints, pattern = starts_given(x.shape, ints, attrs[0])
    return INDEX, (x, *ints), (pattern,)


def spans(attrs: tuple[Any, ...], free: Any, shapes: Any) -> tuple[Any, ...]:
    """For `Op.sizes`: how many neighbours a slice takes whose start is an operand."""
    pattern = tuple(
        [(FROM, free(p[1]), 1) if p.__class__ is tuple and p[0] == FROM and p[2] == 1 else p for p in attrs[0]]
    )
    return (pattern, *attrs[1:])


INDEX = Op("index", _index, scalar=int64, vary=_vary, sizes=spans)


def sliced(x: Node, bounds: Sequence[tuple[int, int, int]]) -> Node:
    """x from start to limit in steps, an axis each, as `range` counts."""
    start, limit, stride, flipped = [], [], [], []
    for low, high, step in bounds:
        size = span(low, high, step)
        if step < 0:
            flipped.append(len(start))
            low, high, step = (low + (size - 1) * step, low + 1, -step) if size else (0, 0, 1)
        elif not size:
            low, high, step = 0, 0, 1
        start.append(low)
        limit.append(high)
        stride.append(step)
    if any((lo, hi, s) != (0, n, 1) for lo, hi, s, n in zip(start, limit, stride, x.shape, strict=True)):
        x = make("slice", x, start=tuple(start), limit=tuple(limit), stride=tuple(stride))
    if flipped:
        x = make("reverse", x, dimensions=tuple(flipped))
    return x


@like(indexing)
def getitem(x: Any, index: Any, /) -> Any:
    """x[index] with ints, slices, None, Ellipsis, integer arrays and bool masks, as NumPy has it.

    Arrays (tensors, NumPy's, lists) broadcast together; their axes stand where the first of them stood, or in front if
    a slice or None stands between them. A mask is looked at, which computes it, because the result's shape depends on
    it; integer tensors are not. Raises IndexBoundsError for an index outside its axis (for those in tensors when
    computed), ShapeError for too many indices and what does not broadcast, DTypeError for anything else.

    >>> import katachi as kt
    >>> kt.arange(6).reshape((2, 3))[1, ::-1].tolist()
    [5, 4, 3]
    >>> x = kt.arange(4) * 10; x[[3, -4]].tolist(), x[x > 5].tolist()
    ([30, 0], [10, 20, 30])
    """
    if type(index) is int:  # the common case, short
        return apply(INDEX, (x, inside(x, 0, index)), ((INT, *_rest(x.shape)),))
    if type(index) is slice and x.shape:  # so is this
        return apply_varying(INDEX, (x,), ((slice_bounds(index, x.shape[0]), *_rest(x.shape)),))
    parts = index if isinstance(index, tuple) else (index,)
    if not all(p is None or p is Ellipsis or p.__class__ in _PLAIN for p in parts):
        from katachi.tensor import advanced

        parts = advanced.plain(parts)
        if any(map(advanced.is_array, parts)):
            return advanced.getitem(x, parts)
    ints, full = basic(x, parts)
    return apply_varying(INDEX, (x, *ints), (full,))


_PLAIN = frozenset((int, slice))


@functools.lru_cache(maxsize=1024)
def _rest(shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The pattern of all axes but the first, whole."""
    return (WHOLE,) * (len(shape) - 1)


def basic(x: Any, parts: tuple[Any, ...]) -> tuple[list[int], tuple[Any, ...]]:
    """The ints and the pattern of an index without arrays."""
    ints: list[int] = []
    full: list[Any] = []
    for axis, part in spread_parts(x, parts):
        if part is Ellipsis:
            continue
        if part is None:
            full.append(None)
        elif isinstance(part, slice):
            full.append(slice_bounds(part, x.shape[axis]))
        else:
            ints.append(inside(x, axis, part))
            full.append(INT)
    return ints, tuple(full)


def _one(part: Any) -> int:
    return part is not None


def spread_parts(x: Any, parts: tuple[Any, ...], taken: Callable[[Any], int] = _one) -> list[tuple[int, Any]]:
    """(axis, index) for every axis, every None and a ... without axes; `taken` tells how many axes a part takes."""
    named = sum(taken(p) for p in parts if p is not Ellipsis)
    if sum(1 for p in parts if p is Ellipsis) > 1:
        raise ShapeError("index: only one ... can stand in an index")
    if named > x.ndim:
        raise ShapeError(f"index: {named} indices for {x.ndim} axes of shape {x.shape}")
    if not any(p is Ellipsis for p in parts):
        parts = (*parts, Ellipsis)
    out: list[tuple[int, Any]] = []
    axis = 0
    for p in parts:
        if p is Ellipsis:
            if x.ndim == named:
                out.append((axis, p))
            for _ in range(x.ndim - named):
                out.append((axis, slice(None)))
                axis += 1
        else:
            out.append((axis, p))
            axis += taken(p)
    return out


def slice_bounds(part: slice, size: int) -> tuple[int | None, int | None, int]:
    """Start, limit and step along an axis, from the axis' ends where they were given so: None is the limit of what ends
    with the axis, and the start of what begins there and goes backwards; negative numbers count from its end.

    >>> [slice_bounds(s, 10) for s in (slice(2, 99), slice(None, -1), slice(None, None, -1))]
    [(2, None, 1), (0, -1, 1), (None, -1, -1)]
    """
    try:
        start, limit, step = part.indices(size)
    except TypeError:
        raise DTypeError(f"index: slice bounds must be ints, got {part}") from None
    if step < 0:
        return None if start == size - 1 and size else start, limit, step
    low, high = (0 if x is None else operator.index(x) for x in (part.start, part.stop))
    start = low if low < 0 < start else start
    return start, None if limit == size else high if high < 0 < limit else limit, step


def resolved(part: Any, n: Any) -> tuple[Any, Any, int]:
    """Start, limit and step as `range` has them, along an axis of size n."""
    start, limit, step = part
    if step < 0:
        return n - 1 if start is None else start, limit, step
    return start if start >= 0 else n + start, n if limit is None else limit if limit >= 0 else n + limit, step


def inside(x: Any, axis: int, index: Any) -> int:
    """An int counted from the front. Raises IndexBoundsError."""
    try:
        i: Any = index if type(index) is StandIn else operator.index(index)
    except TypeError:
        raise DTypeError(f"index: needs ints, slices, None or ..., got {index!r}") from None
    if not x.shape:
        raise ShapeError("index: a scalar has no axes to index")
    size = x.shape[axis]
    if not -size <= i < size:
        raise IndexBoundsError(f"index: {i} is outside axis {axis} of size {size}, shape {x.shape}")
    return i if i >= 0 else i + size


@shape_vars("*A")
def iterate(x: Tensor[Shaped[Any, "A"], _G], /) -> Iterator[Tensor[Shaped[Any, "item_shape(A, IntTuple[0])"], _G]]:
    """The items along the first axis. Raises ShapeError for a scalar."""
    if not x.shape:
        raise ShapeError("iteration: a scalar has no axes; use .item() for its value")
    rows: Iterator[Any] = (getitem(x, i) for i in range(x.shape[0]))
    return rows

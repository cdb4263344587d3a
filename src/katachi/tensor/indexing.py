"""Basic indexing: ints, slices, None and Ellipsis. An int is an argument of the program, a slice is part of it."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from katachi.errors import DTypeError, IndexBoundsError, ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import int64
from katachi.graph.node import Node
from katachi.graph.primitives import constant, make
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.handle import Handle
from katachi.tensor.signatures import indexing
from katachi.tensor.types import _G, Shaped, like, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.shape_rules import item_shape
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import IntTuple

INT = "int"  # stands in an index's attributes where an int operand goes


def _index(x: Node, *rest: Any) -> Node:
    """rest: the ints' nodes, then the pattern: INT or (start, limit, step) an axis of x, None for a new axis."""
    ints, pattern = list(rest[:-1]), rest[-1]
    per_axis = [p for p in pattern if p is not None]
    start, limit, stride, flipped = [], [], [], []
    for n, p in zip(x.shape, per_axis, strict=True):
        if p == INT:
            p = (0, n, 1)
        low, high, step = p
        size = len(range(low, high, step))
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
    if ints:
        zero = constant(0, int64, x.device)
        starts = [ints.pop(0) if p == INT else zero for p in per_axis]
        sizes = tuple(1 if p == INT else n for n, p in zip(x.shape, per_axis, strict=True))
        x = make("dynamic_slice", x, *starts, sizes=sizes)
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


INDEX = Op("index", _index, scalar=int64)


@like(indexing)
def getitem(x: Any, index: Any, /) -> Any:
    """x[index] with ints, slices, None and Ellipsis, as NumPy has it.

    Raises IndexBoundsError for an int outside its axis, ShapeError for too many indices, DTypeError for anything else.

    >>> import katachi as kt
    >>> kt.arange(6).reshape((2, 3))[1, ::-1].tolist()
    [5, 4, 3]
    """
    if index.__class__ is int:  # the common case, short
        pattern = _FIRST.get(x.shape)
        if pattern is None:
            pattern = _FIRST[x.shape] = (INT, *[(0, n, 1) for n in x.shape[1:]])
        return apply(INDEX, (x, _inside(x, 0, index)), (pattern,))
    parts = index if isinstance(index, tuple) else (index,)
    ints, full = [], []
    for axis, part in _spread(x, parts):
        if part is None:
            full.append(None)
        elif isinstance(part, slice):
            full.append(_slice_bounds(part, x.shape[axis]))
        else:
            ints.append(_inside(x, axis, part))
            full.append(INT)
    return apply(INDEX, (x, *ints), (tuple(full),))


_FIRST: dict[tuple[int, ...], tuple[Any, ...]] = {}


def _spread(x: Any, parts: tuple[Any, ...]) -> list[tuple[int, Any]]:
    """(axis, index) for every axis and every None."""
    for p in parts:
        if isinstance(p, (list, np.ndarray, Handle)) and not (isinstance(p, np.ndarray) and p.ndim == 0):
            if isinstance(p, Handle) and p._aval.shape == () and p._aval.dtype.is_integer:
                continue
            raise DTypeError(
                f"index: {type(p).__name__} indices are not supported yet; "
                "ints, slices, None and ... are, and kt.where selects by a condition"
            )
    named = sum(1 for p in parts if p is not None and p is not Ellipsis)
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
            for _ in range(x.ndim - named):
                out.append((axis, slice(None)))
                axis += 1
        else:
            out.append((axis, p))
            axis += p is not None
    return out


def _slice_bounds(part: slice, size: int) -> tuple[int, int, int]:
    try:
        return part.indices(size)
    except TypeError:
        raise DTypeError(f"index: slice bounds must be ints, got {part}") from None


def _inside(x: Any, axis: int, index: Any) -> int:
    if isinstance(index, bool):
        raise DTypeError("index: bool indices are not supported yet; kt.where selects by a condition")
    try:
        i = operator.index(index)
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

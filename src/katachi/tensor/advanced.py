"""Indexing by arrays and masks: gather."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from katachi.errors import DTypeError, IndexBoundsError, ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import bool_, int64, uint64
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.graph.sizes import Shape
from katachi.tensor.apply import apply
from katachi.tensor.arrays import as_array
from katachi.tensor.entry import Op
from katachi.tensor.handle import Handle
from katachi.tensor.indexing import INT, given, inside, resolved, slice_bounds, sliced, spread_parts
from katachi.tensor.operand import as_axis
from katachi.tensor.types import _G

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor

# In a pattern, beside INT: an array whose bounds were checked, one to be checked when computed, and a checked one for
# an axis of its own, which x does not have. Each takes an operand.
CHECKED, UNCHECKED, NEW = "checked", "unchecked", "new"
GAP = "gap"  # ... that stands for no axis, and yet between arrays
ARRAYS = frozenset((INT, CHECKED, UNCHECKED, NEW))


def plain(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Lists, arrays and tensors as NumPy arrays of integers or bools, or as tensors of integers."""
    return tuple(map(_plain, parts))


def _plain(part: Any) -> Any:
    if isinstance(part, (bool, np.bool_)):
        return np.asarray(part)
    if isinstance(part, Handle):
        if part._aval.dtype is bool_:
            return np.asarray(part)  # where it holds decides the result's shape
        if not part._aval.dtype.is_integer:
            raise DTypeError(f"index: needs integers or bools, got a tensor of {part._aval.dtype.name}")
        return part
    if isinstance(part, (list, range)):
        array = as_array(part)
        part = array if array.size else array.astype(np.int64) if array.dtype.kind == "f" else array
    if isinstance(part, np.ndarray):
        if part.dtype.kind not in "iub":
            raise DTypeError(f"index: needs integers or bools, got an array of {part.dtype}")
        if part.ndim == 0 and part.dtype.kind != "b":
            return int(part)
    return part


def is_array(part: Any) -> bool:
    """Whether a part of an index is more than ints, slices, None and Ellipsis."""
    return isinstance(part, (np.ndarray, Handle))


def _taken(part: Any) -> int:
    if isinstance(part, np.ndarray) and part.dtype.kind == "b":
        return part.ndim
    return part is not None


def operands_of(x: Any, parts: tuple[Any, ...]) -> tuple[list[Any], tuple[Any, ...]]:
    """The ints and tensors of an index, and its pattern."""
    from katachi.tensor.creation import tensor

    operands: list[Any] = []
    pattern: list[Any] = []
    for axis, part in spread_parts(x, parts, _taken):
        if part is None:
            pattern.append(None)
        elif part is Ellipsis:
            pattern.append(GAP)
        elif isinstance(part, slice):
            pattern.append(slice_bounds(part, x.shape[axis]))
        elif isinstance(part, Handle):
            operands.append(part)
            pattern.append(UNCHECKED)
        elif not isinstance(part, np.ndarray):
            operands.append(inside(x, axis, part))
            pattern.append(INT)
        elif part.dtype.kind == "b":
            if part.shape != x.shape[axis : axis + part.ndim]:
                where = f"axes {axis} to {axis + part.ndim - 1}" if part.ndim > 1 else f"axis {axis}"
                raise ShapeError(f"index: a mask of shape {part.shape} does not fit {where} of shape {x.shape}")
            found = part.nonzero() if part.ndim else (np.zeros(int(part), np.int64),)
            operands += [tensor(i.astype(np.int64), device=x.device) for i in found]
            pattern += [CHECKED if part.ndim else NEW] * len(found)
        else:
            operands.append(tensor(_inside(part, x.shape, axis), device=x.device))
            pattern.append(CHECKED)
    return operands, tuple(pattern)


def _inside(index: np.ndarray[Any, Any], shape: Shape, axis: int) -> np.ndarray[Any, Any]:
    size = shape[axis]
    wrong = index[(index < -size) | (index >= size)] if index.dtype.kind == "i" else index[index >= size]
    if wrong.size:
        raise IndexBoundsError(f"index: {wrong.flat[0]} is outside axis {axis} of size {size}, shape {shape}")
    index = index.astype(np.int64)
    return np.where(index < 0, index + size, index)


def from_front(index: Node, size: int) -> Node:
    """Negative indices counted from the end, as int64. What is outside stays what it is, for the message."""
    if index.dtype is uint64:  # beyond int64 is outside as well
        index = make("minimum", index, b.like(index, 2**63 - 1))
    signed = index.dtype.kind == "int"
    index = b.convert(index, int64)
    if not signed:
        return index
    negative = make("and", b.compare(index, "LT", b.like(index, 0)), b.compare(index, "GE", b.like(index, -size)))
    return b.select(negative, b.shift(index, size), index)


class Places(NamedTuple):
    """What an index with arrays reads of x. The gathered value's axes are those of the arrays, then the rest."""

    source: Node  # x, sliced, with the axes of masks without axes
    index: Node
    axes: tuple[int, ...]
    lead: int  # axes of the arrays
    kept: Shape  # the sizes of slices, and of Nones
    at: int  # how many of these stand before the arrays' axes in the result

    @property
    def order(self) -> tuple[int, ...]:
        """From (arrays, kept) to the result's axes."""
        first, end = self.lead + self.at, self.lead + len(self.kept)
        return (*range(self.lead, first), *range(self.lead), *range(first, end))


def bounds_of(x: Node, pattern: tuple[Any, ...]) -> list[tuple[int, int, int]]:
    per_axis = [p for p in pattern if p is not None and p != NEW and p != GAP]
    return [(0, n, 1) if p in ARRAYS or given(p) else resolved(p, n) for n, p in zip(x.shape, per_axis, strict=True)]


def places(x: Node, operands: Sequence[Node], pattern: tuple[Any, ...]) -> Places:
    x = sliced(x, bounds_of(x, pattern))
    sizes, left = iter(x.shape), iter(operands)
    shape: list[int] = []
    kept: list[int] = []
    axes: list[int] = []
    arrays: list[Node] = []
    for p in pattern:
        if p is None:
            kept.append(1)
        if p is None or p == GAP:
            continue
        n = 1 if p == NEW else next(sizes)
        if p in ARRAYS:
            axes.append(len(shape))
            index = next(left)
            arrays.append(from_front(index, n) if p == UNCHECKED else b.convert(index, int64))
        else:
            kept.append(n)
        shape.append(n)
    common: Shape = ()
    for index in arrays:
        wider = b.broadcast(common, index.shape)
        if wider is None:
            shapes = " and ".join(str(i.shape) for i in arrays)
            raise ShapeError(f"index arrays of shapes {shapes} do not broadcast")
        common = wider
    columns = [b.reshape(b.spread(i, common), (*common, 1)) for i in arrays]
    together = make("concatenate", *columns, dimension=len(common)) if len(columns) > 1 else columns[0]
    where = [i for i, p in enumerate(pattern) if p in ARRAYS]
    adjacent = where == list(range(where[0], where[-1] + 1))
    before = sum(p != GAP for p in pattern[: where[0]])
    return Places(b.reshape(x, tuple(shape)), together, tuple(axes), len(common), tuple(kept), adjacent * before)


def _gather(x: Node, *rest: Any) -> Node:
    """rest: the ints' and arrays' nodes, then the pattern."""
    p = places(x, rest[:-1], rest[-1])
    out = make("gather", p.source, p.index, axes=p.axes, batch=0)
    return b.transpose(b.reshape(out, (*p.index.shape[:-1], *p.kept)), p.order)


GATHER = Op("index", _gather, scalar=int64)


def getitem(x: Any, parts: tuple[Any, ...]) -> Any:
    """x[parts], of which some are arrays."""
    operands, pattern = operands_of(x, parts)
    return apply(GATHER, (x, *operands), (pattern,))


def take(x: Tensor[Any, _G], indices: Any, /, axis: int | None = None) -> Tensor[Any, _G]:
    """The elements at integer indices of any shape along an axis, which may be left out for a vector.

    Their axes take the place of that axis. Raises IndexBoundsError as indexing does, ShapeError without an axis.

    >>> import katachi as kt
    >>> kt.take(kt.arange(6).reshape((2, 3)), [2, 0], axis=1).tolist()
    [[2, 0], [5, 3]]
    """
    if axis is None and x.ndim != 1:
        raise ShapeError(f"take: needs an axis for shape {x.shape}")
    i = as_axis(0 if axis is None else axis, x.ndim)
    return getitem(x, (*[slice(None)] * i, _indices("take", indices)))


def _indices(name: str, indices: Any) -> Any:
    index = _plain(indices)
    index = np.asarray(index) if isinstance(index, int) else index
    if not is_array(index) or (isinstance(index, np.ndarray) and index.dtype.kind == "b"):
        raise DTypeError(f"{name}: needs integer indices, got {type(indices).__name__}")
    return index


def take_axis(x: Node, index: Node, axis: int, checked: bool = False) -> Node:
    """x at an index of as many axes, along one axis; the others broadcast."""
    rank = len(x.shape)
    if len(index.shape) != rank:
        raise ShapeError(f"needs indices with {rank} axes for {x.shape}, got {index.shape}")
    if not index.dtype.is_integer:
        raise DTypeError(f"needs integer indices, got {index.dtype.name}")
    i = as_axis(axis, rank)
    without = [(*n.shape[:i], 1, *n.shape[i + 1 :]) for n in (x, index)]
    common = b.broadcast(*without)
    if common is None:
        raise ShapeError(f"{x.shape} and indices {index.shape} do not broadcast outside axis {i}")
    index = index if checked else from_front(index, x.shape[i])
    x, index = (b.spread(n, (*common[:i], n.shape[i], *common[i + 1 :])) for n in (x, index))
    order = (*(a for a in range(rank) if a != i), i)
    index = b.transpose(index, order)
    index = b.reshape(index, (*index.shape, 1))
    out = make("gather", b.transpose(x, order), index, axes=(rank - 1,), batch=rank - 1)
    return b.transpose(out, tuple(order.index(a) for a in range(rank)))


TAKE_ALONG = Op("take_along_axis", take_axis)


def take_along_axis(x: Tensor[Any, _G], indices: Any, /, axis: int = -1) -> Tensor[Any, _G]:
    """Along one axis the elements at the indices, which have as many axes as x; the other axes broadcast.

    Raises IndexBoundsError when computed, ShapeError, DTypeError.

    >>> import katachi as kt
    >>> x = kt.tensor([[3, 1, 2], [9, 7, 8]]); kt.take_along_axis(x, kt.argsort(x), 1).tolist()
    [[1, 2, 3], [7, 8, 9]]
    """
    from katachi.tensor.creation import tensor

    index = _indices("take_along_axis", indices)
    index = tensor(index, device=x.device) if isinstance(index, np.ndarray) else index
    return apply(TAKE_ALONG, (x, index), (axis,))

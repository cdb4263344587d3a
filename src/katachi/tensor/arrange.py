"""Composed movement: triangles, diagonals, padding, repeating, rolling, taking apart."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from katachi.devices import memory
from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import bool_, int64, promote, uint64
from katachi.graph.node import Node
from katachi.graph.primitives import constant, make
from katachi.graph.sizes import count
from katachi.graph.symint import SymInt
from katachi.tensor import movement
from katachi.tensor.advanced import take
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.handle import Handle
from katachi.tensor.operand import as_axis, hashable
from katachi.tensor.types import _G, _S
from katachi.tensor.varying import apply_varying

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor


def _int(what: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise DTypeError(f"{what} is an int, got {value!r}") from None


def _triangle(lower: bool) -> Any:
    def build(x: Node, k: Any) -> Node:
        rank, k = len(x.shape), _int("k", k)
        if rank < 2:
            raise ShapeError(f"needs at least two axes, got {x.shape}")
        row, column = (
            make("iota", shape=x.shape, dtype=int64, dimension=d, device=x.device) for d in (rank - 2, rank - 1)
        )
        inside = b.compare(b.subtract(column, row), "LE" if lower else "GE", b.like(row, k))
        return b.select(inside, x, b.like(x, 0))

    return build


TRIL, TRIU = Op("tril", _triangle(True)), Op("triu", _triangle(False))


def tril(x: Tensor[_S, _G], /, *, k: int = 0) -> Tensor[_S, _G]:
    """Matrices with zeros above diagonal k. Raises ShapeError for less than two axes.

    >>> import katachi as kt
    >>> kt.tril(kt.ones((2, 2))).tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """
    return apply(TRIL, (x,), (hashable(k),))


def triu(x: Tensor[_S, _G], /, *, k: int = 0) -> Tensor[_S, _G]:
    """Matrices with zeros below diagonal k. Raises ShapeError for less than two axes."""
    return apply(TRIU, (x,), (hashable(k),))


def diagonal_of(x: Node, offset: Any, first: Any, second: Any) -> Node:
    """The diagonal of two axes as the last one: every (columns + 1)-th element of the flat matrix."""
    rank, offset = len(x.shape), _int("offset", offset)
    i, j = as_axis(first, rank), as_axis(second, rank)
    if i == j:
        raise ShapeError(f"needs two axes, got {first} and {second} of {x.shape}")
    rows, columns = x.shape[i], x.shape[j]
    rest = [a for a in range(rank) if a not in (i, j)]
    lead = tuple(x.shape[a] for a in rest)
    flat = b.reshape(b.transpose(x, (*rest, i, j)), (*lead, rows * columns))
    size = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    start = 0 if not size else offset if offset >= 0 else -offset * columns
    end = start + (size - 1) * (columns + 1) + 1 if size else start
    none, n = (0,) * len(lead), len(lead)
    return make("slice", flat, start=(*none, start), limit=(*lead, end), stride=(*(1,) * n, columns + 1))


def _trace(x: Node, offset: Any, first: Any, second: Any) -> Node:
    line = diagonal_of(x, offset, first, second)
    if not x.dtype.is_floating:
        line = b.convert(line, uint64 if x.dtype.kind == "uint" else int64)
    return b.reduce("reduce_sum", line, (len(line.shape) - 1,))


DIAGONAL, TRACE = Op("diagonal", diagonal_of), Op("trace", _trace)


def diagonal(x: Tensor[Any, _G], /, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor[Any, _G]:
    """The elements at (i, i + offset) of two axes, as the last axis. Raises ShapeError."""
    return apply(DIAGONAL, (x,), (hashable(offset), hashable(axis1), hashable(axis2)))


def trace(x: Tensor[Any, _G], /, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor[Any, _G]:
    """The sum over a diagonal.

    >>> import katachi as kt
    >>> kt.trace(kt.eye(3)).item()
    3.0
    """
    return apply(TRACE, (x,), (hashable(offset), hashable(axis1), hashable(axis2)))


def _diag(x: Node, k: Any) -> Node:
    offset = _int("k", k)
    if len(x.shape) == 2:
        return diagonal_of(x, offset, 0, 1)
    if len(x.shape) != 1:
        raise ShapeError(f"needs a vector or a matrix, got {x.shape}")
    above, below = max(offset, 0), max(-offset, 0)
    zero, n = b.full(0, (), x.dtype, x.device), x.shape[0] + above + below
    line = make("pad", x, zero, low=(below,), high=(above,), interior=(0,))  # element i is that of row i
    row, column = (make("iota", shape=(n, n), dtype=int64, dimension=d, device=x.device) for d in (0, 1))
    wide = make("broadcast_in_dim", line, shape=(n, n), dims=(0,))
    return b.select(b.compare(b.subtract(column, row), "EQ", b.like(row, offset)), wide, b.like(wide, 0))


DIAG = Op("diag", _diag)


def diag(x: Tensor[Any, _G], /, k: int = 0) -> Tensor[Any, _G]:
    """A matrix with a vector on diagonal k and zeros elsewhere, or of a matrix its diagonal k as a vector.

    Raises ShapeError for anything but vectors and matrices.

    >>> import katachi as kt
    >>> kt.diag(kt.tensor([1, 2])).tolist(), kt.diag(kt.tensor([[1, 2], [3, 4]]), 1).tolist()
    ([[1, 0], [0, 2]], [2])
    """
    return apply(DIAG, (x,), (hashable(k),))


def _moveaxis(x: Node, source: Any, destination: Any) -> Node:
    rank = len(x.shape)
    pairs = [tuple(as_axis(a, rank) for a in (s if isinstance(s, tuple) else (s,))) for s in (source, destination)]
    if len(pairs[0]) != len(pairs[1]) or any(len(set(p)) != len(p) for p in pairs):
        raise ShapeError(f"{source} and {destination} must name as many axes, each once")
    order = [a for a in range(rank) if a not in pairs[0]]
    for to, a in sorted(zip(pairs[1], pairs[0], strict=True)):
        order.insert(to, a)
    return b.transpose(x, tuple(order))


def _rolled(x: Node, by: int, axis: int) -> Node:
    n, rank = x.shape[axis], len(x.shape)
    cut = -by % n if n else 0
    if not cut:
        return x
    at = tuple(cut if a == axis else 0 for a in range(rank))
    end = tuple(cut if a == axis else m for a, m in enumerate(x.shape))
    ones = (1,) * rank
    head = make("slice", x, start=(0,) * rank, limit=end, stride=ones)
    return make("concatenate", make("slice", x, start=at, limit=x.shape, stride=ones), head, dimension=axis)


def _roll(x: Node, shift: Any, axis: Any) -> Node:
    if axis is None:
        return b.reshape(_rolled(b.reshape(x, (count(x.shape),)), _int("shift", shift), 0), x.shape)
    axes = axis if isinstance(axis, tuple) else (axis,)
    shifts = shift if isinstance(shift, tuple) else (shift,) * len(axes)
    if len(shifts) != len(axes):
        raise ShapeError(f"needs a shift for each of the axes {axes}, got {shifts}")
    for by, a in zip(shifts, axes, strict=True):
        x = _rolled(x, _int("shift", by), as_axis(a, len(x.shape)))
    return x


def _roll_by(x: Node, start: Node, axis: int | None) -> Node:
    """What begins at `start`, and then what is before it."""
    if axis is None:
        return b.reshape(_roll_by(b.reshape(x, (count(x.shape),)), start, 0), x.shape)
    i = as_axis(axis, len(x.shape))
    zero = constant(0, int64, x.device)
    starts = [start if a == i else zero for a in range(len(x.shape))]
    return make("dynamic_slice", make("concatenate", x, x, dimension=i), *starts, sizes=x.shape)


def _vary_roll(operands: Sequence[Any], attrs: tuple[Any, ...]) -> Any:
    (x,), (shift, axis) = operands, attrs
    if shift.__class__ is not int or not (axis is None or (axis.__class__ is int and -x.ndim <= axis < x.ndim)):
        return None
    size = x.size if axis is None else x.shape[axis]
    return ROLL_BY, (x, -shift % size if size else 0), (axis,)


MOVEAXIS, ROLL = Op("moveaxis", _moveaxis), Op("roll", _roll, vary=_vary_roll)
ROLL_BY = Op("roll", _roll_by, scalar=int64)


def moveaxis(x: Tensor[Any, _G], source: int | Sequence[int], destination: int | Sequence[int], /) -> Tensor[Any, _G]:
    """Some axes moved to other places, the others in their order. Raises ShapeError."""
    return apply(MOVEAXIS, (x,), (hashable(source), hashable(destination)))


swapaxes = movement.transpose


def roll(x: Tensor[_S, _G], /, shift: Any, axis: int | Sequence[int] | None = None) -> Tensor[_S, _G]:
    """Elements moved along axes (or in row-major order), what leaves at the end coming in at the front.

    >>> import katachi as kt
    >>> kt.roll(kt.arange(4), 1).tolist()
    [3, 0, 1, 2]
    """
    return apply_varying(ROLL, (x,), (hashable(shift), hashable(axis)))


def _repeat(x: Node, repeats: Any, axis: Any) -> Node:
    n = _int("repeats", repeats)
    if n < 0:
        raise ShapeError(f"cannot repeat {n} times")
    if axis is None:
        x, axis = b.reshape(x, (count(x.shape),)), 0
    i, rank = as_axis(axis, len(x.shape)), len(x.shape)
    dims = tuple(a + (a > i) for a in range(rank))
    wide = make("broadcast_in_dim", x, shape=(*x.shape[: i + 1], n, *x.shape[i + 1 :]), dims=dims)
    return b.reshape(wide, (*x.shape[:i], x.shape[i] * n, *x.shape[i + 1 :]))


def _tile(x: Node, repetitions: Any) -> Node:
    times = tuple(_int("a repetition", n) for n in (repetitions if isinstance(repetitions, tuple) else (repetitions,)))
    if any(n < 0 for n in times):
        raise ShapeError(f"cannot repeat {times} times")
    rank = max(len(times), len(x.shape))
    times, shape = (1,) * (rank - len(times)) + times, (1,) * (rank - len(x.shape)) + x.shape
    pairs = tuple(n for pair in zip(times, shape, strict=True) for n in pair)
    x = b.reshape(x, shape)
    wide = make("broadcast_in_dim", x, shape=pairs, dims=tuple(range(1, 2 * rank, 2)))
    return b.reshape(wide, tuple(t * n for t, n in zip(times, shape, strict=True)))


REPEAT, TILE = Op("repeat", _repeat), Op("tile", _tile)


def repeat(x: Tensor[Any, _G], repeats: Any, /, *, axis: int | None = None) -> Tensor[Any, _G]:
    """Each element, along an axis or in row-major order, so many times; several numbers are one an element, and are
    looked at.

    >>> import katachi as kt
    >>> kt.repeat(kt.tensor([1, 2]), 2).tolist(), kt.repeat(kt.tensor([1, 2]), [0, 3]).tolist()
    ([1, 1, 2, 2], [2, 2, 2])
    """
    if isinstance(repeats, (list, tuple, np.ndarray, Handle)):
        times = np.asarray(repeats)
        if axis is None:
            x, axis = movement.flatten(x), 0
        n = x.shape[as_axis(axis, x.ndim)]
        if times.dtype.kind not in "iu" or (times.size and times.min() < 0):
            raise DTypeError(f"repeat: needs numbers of times, got {repeats!r}")
        if times.ndim > 1 or times.size not in (1, n):
            raise ShapeError(f"repeat: needs {n} numbers for axis {axis} of {x.shape}, got shape {times.shape}")
        with memory.wanted("repeat"):
            places = np.repeat(np.arange(n), times)
        return take(x, places, axis=axis)
    return apply(REPEAT, (x,), (hashable(repeats), hashable(axis)))


def tile(x: Tensor[Any, _G], repetitions: Any, /) -> Tensor[Any, _G]:
    """The whole of x so many times along each axis.

    >>> import katachi as kt
    >>> kt.tile(kt.tensor([1, 2]), (2, 2)).tolist()
    [[1, 2, 1, 2], [1, 2, 1, 2]]
    """
    return apply(TILE, (x,), (hashable(repetitions),))


def _parts(x: Node, sizes: tuple[int, ...], axis: int, drop: bool) -> tuple[Node, ...]:
    out, start = [], 0
    for n in sizes:
        begin = tuple(start if a == axis else 0 for a in range(len(x.shape)))
        end = tuple(start + n if a == axis else m for a, m in enumerate(x.shape))
        part = make("slice", x, start=begin, limit=end, stride=(1,) * len(end))
        out.append(b.reshape(part, part.shape[:axis] + part.shape[axis + 1 :]) if drop else part)
        start += n
    return tuple(out)


def _split(x: Node, sizes: Any, axis: Any) -> tuple[Node, ...]:
    i = as_axis(axis, len(x.shape))
    n = x.shape[i]
    if not isinstance(sizes, tuple):
        size = _int("a size", sizes)
        if size <= 0:
            raise ShapeError(f"cannot split axis {i} of {x.shape} into parts of size {size}")
        sizes = tuple(min(size, n - at) for at in range(0, n, size)) or (0,)
    if sum(sizes) != n or any((s if s.__class__ is SymInt else _int("a size", s)) < 0 for s in sizes):
        raise ShapeError(f"sizes {sizes} do not add up to axis {i} of {x.shape}")
    return _parts(x, sizes, i, False)


def _chunk(x: Node, chunks: Any, axis: Any) -> tuple[Node, ...]:
    n, many = x.shape[as_axis(axis, len(x.shape))], _int("chunks", chunks)
    if many < 1:
        raise ShapeError(f"cannot split axis {axis} of {x.shape} into {many} parts")
    size, left = max(-(-n // many), 1), n
    sizes: list[int] = []
    while left > 0:
        sizes.append(size if left >= size else left)
        left = left - sizes[-1]
    return _split(x, tuple(sizes) or (0,), axis)


def _unstack(x: Node, axis: Any) -> tuple[Node, ...]:
    i = as_axis(axis, len(x.shape))
    return _parts(x, (1,) * x.shape[i], i, True)


SPLIT, CHUNK, UNSTACK = Op("split", _split), Op("chunk", _chunk), Op("unstack", _unstack)


def split(x: Tensor[Any, _G], sizes: int | Sequence[int], /, axis: int = 0) -> tuple[Tensor[Any, _G], ...]:
    """Parts of this size (the last may be smaller) or of these sizes, as in PyTorch. Raises ShapeError.

    >>> import katachi as kt
    >>> [part.tolist() for part in kt.split(kt.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    return tuple(apply(SPLIT, (x,), (hashable(sizes), hashable(axis)), many=True))


def chunk(x: Tensor[Any, _G], chunks: int, /, axis: int = 0) -> tuple[Tensor[Any, _G], ...]:
    """At most so many parts of one size (the last may be smaller), as in PyTorch. Raises ShapeError."""
    return tuple(apply(CHUNK, (x,), (hashable(chunks), hashable(axis)), many=True))


def unstack(x: Tensor[Any, _G], /, *, axis: int = 0) -> tuple[Tensor[Any, _G], ...]:
    """The items along an axis: what `stack` takes. Raises ShapeError for a scalar."""
    if x.ndim and not x.shape[as_axis(axis, x.ndim)]:
        return ()
    return tuple(apply(UNSTACK, (x,), (hashable(axis),), many=True))


def _pad(x: Node, value: Node, widths: Any) -> Node:
    rank = len(x.shape)
    try:
        pairs = np.broadcast_to(np.asarray(widths), (rank, 2))
    except ValueError:
        raise ShapeError(f"widths {widths} do not fit {rank} axes: one (before, after) each, or one for all") from None
    if pairs.dtype.kind not in "iu" and pairs.size:
        raise DTypeError(f"widths are ints, got {widths}")
    low, high = (tuple(int(n) for n in pairs[:, k]) for k in (0, 1))
    if any(n < 0 for n in low + high):
        raise ShapeError(f"widths {widths} must not be negative")
    exact = x.dtype.is_floating or x.dtype is bool_ or promote(x.dtype, value.dtype) is x.dtype
    if value.shape or not exact or (value.dtype.is_floating and not x.dtype.is_floating):
        raise DTypeError(f"the value must be a number that {x.dtype.name} can hold")
    return make("pad", x, b.convert(value, x.dtype), low=low, high=high, interior=(0,) * rank)


PAD = Op("pad", _pad)


def pad(x: Tensor[Any, _G], widths: Any, /, *, value: Any = 0) -> Tensor[Any, _G]:
    """x with `value` around it: `widths` is an int, a pair (before, after) for all axes, or a pair for each.

    Raises ShapeError, DTypeError.

    >>> import katachi as kt
    >>> kt.pad(kt.tensor([1, 2]), (1, 2)).tolist()
    [0, 1, 2, 0, 0]
    """
    plain = np.asarray(widths).tolist() if isinstance(widths, (list, tuple, np.ndarray)) else hashable(widths)
    return apply(PAD, (x, value), (_frozen(plain),))


def _frozen(widths: Any) -> Any:
    return tuple(map(_frozen, widths)) if isinstance(widths, list) else widths


def meshgrid(*xs: Tensor[Any, _G], indexing: str = "xy") -> list[Tensor[Any, _G]]:
    """Vectors as the axes of a grid: each with the grid's shape, constant along the others. `indexing="xy"` exchanges
    the first two axes. Raises ShapeError for anything but vectors.

    >>> import katachi as kt
    >>> [g.tolist() for g in kt.meshgrid(kt.arange(2), kt.arange(2), indexing="ij")]
    [[[0, 0], [1, 1]], [[0, 1], [0, 1]]]
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f'meshgrid: indexing is "xy" or "ij", got {indexing!r}')
    for x in xs:
        if x.ndim != 1:
            raise ShapeError(f"meshgrid: needs vectors, got {', '.join(str(x.shape) for x in xs)}")
    shape = tuple(x.shape[0] for x in xs)
    out = []
    for i, x in enumerate(xs):
        line = movement.reshape(x, tuple(n if a == i else 1 for a, n in enumerate(shape)))
        grid = movement.broadcast_to(line, shape)
        out.append(movement.transpose(grid, 0, 1) if indexing == "xy" and len(xs) > 1 else grid)
    return out

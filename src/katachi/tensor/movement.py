"""Operations that change where values stand, not what they are."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import promote
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.graph.site import beginnings, caller
from katachi.graph.sizes import Shape, broadcast, count
from katachi.graph.sizes import alike as alike_shapes
from katachi.graph.symint import SymInt
from katachi.tensor import free_sizes
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.loops import varies
from katachi.tensor.operand import as_axes, as_axis, as_shape, common_shape, hashable
from katachi.tensor.signatures import joining, permutation, reshaping, squeezing, stacking
from katachi.tensor.trace import current, flush
from katachi.tensor.types import _G, _S, Shaped, like, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.shape_rules import expand_shape, flatten_shape, reverse_shape, swap_shape, turn_shape
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Int
    from katachi.tensor.types import broadcast as broadcast_shape


def _reshape(x: Node, shape: Shape) -> Node:
    try:
        shape = shape if isinstance(shape, tuple) else (shape,)
        sizes = tuple(n if n.__class__ is SymInt else operator.index(n) for n in shape)
    except TypeError:
        raise DTypeError(f"sizes must be ints, got {shape!r}") from None
    holes = [i for i, n in enumerate(sizes) if n == -1]
    if len(holes) > 1 or any(n < -1 for n in sizes):
        raise ShapeError(f"cannot reshape to {sizes}: one size may be -1, to be inferred, and none smaller")
    if holes:
        known = count(tuple(n for n in sizes if n != -1))
        if known == 0 or count(x.shape) % known:
            raise ShapeError(f"cannot reshape {x.shape} ({count(x.shape)} elements) to {sizes}")
        sizes = tuple(count(x.shape) // known if n == -1 else n for n in sizes)
    return b.reshape(x, sizes) if sizes != x.shape else x


RESHAPE = Op("reshape", _reshape, sizes=free_sizes.matched)


@like(reshaping)
def reshape(x: Any, /, shape: Any, *more: int, copy: bool | None = None) -> Any:
    """The elements in row-major order under another shape; one size may be -1. Raises ShapeError.

    `copy` makes no difference, because values never change.

    >>> import katachi as kt
    >>> kt.arange(6).reshape((2, -1)).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    return apply(RESHAPE, (x,), ((shape, *more) if more else hashable(shape),))


def _flatten(x: Node, start: int) -> Node:
    if not x.shape:
        return b.reshape(x, (1,))
    i = as_axis(start, len(x.shape))
    return b.reshape(x, (*x.shape[:i], count(x.shape[i:])))


FLATTEN = Op("flatten", _flatten)


@shape_vars("*A, D")
def flatten(
    x: Tensor[Shaped[Any, "A"], _G], /, start: Shaped[int, "D"] = 0
) -> Tensor[Shaped[Any, "flatten_shape(A, Int[D])"], _G]:
    """All axes from `start` on as one."""
    return apply(FLATTEN, (x,), (hashable(start),))


def _permute(x: Node, axes: Any) -> Node:
    order = tuple(as_axis(a, len(x.shape)) for a in (axes if isinstance(axes, tuple) else (axes,)))
    if sorted(order) != list(range(len(x.shape))):
        raise ShapeError(f"needs each of the {len(x.shape)} axes of {x.shape} once, got {axes}")
    return b.transpose(x, order)


def _transpose(x: Node, first: int, second: int) -> Node:
    i, j = as_axis(first, len(x.shape)), as_axis(second, len(x.shape))
    order = list(range(len(x.shape)))
    order[i], order[j] = j, i
    return b.transpose(x, tuple(order))


PERMUTE, TRANSPOSE = Op("permute", _permute), Op("transpose", _transpose)
REVERSED = Op("T", lambda x: b.transpose(x, tuple(range(len(x.shape)))[::-1]))


@like(permutation)
def permute(x: Any, /, axes: Any, *more: int) -> Any:
    """The axes in another order. Raises ShapeError unless each is named once."""
    return apply(PERMUTE, (x,), ((axes, *more) if more else hashable(axes),))


permute_dims = permute


@shape_vars("*A, D, E")
def transpose(
    x: Tensor[Shaped[Any, "A"], _G], /, first: Shaped[int, "D"], second: Shaped[int, "E"]
) -> Tensor[Shaped[Any, "swap_shape(A, Int[D], Int[E])"], _G]:
    """Two axes exchanged."""
    return apply(TRANSPOSE, (x,), (hashable(first), hashable(second)))


def _matrix_transpose(x: Node) -> Node:
    if len(x.shape) < 2:
        raise ShapeError(f"needs at least two axes, got {x.shape}")
    return _transpose(x, -1, -2)


MATRIX_TRANSPOSE = Op("matrix_transpose", _matrix_transpose)


@shape_vars("*A")
def matrix_transpose(x: Tensor[Shaped[Any, "A"], _G], /) -> Tensor[Shaped[Any, "turn_shape(A)"], _G]:
    """Matrices transposed, the last two axes exchanged: `x.mT`. Raises ShapeError for less than two axes.

    >>> import katachi as kt
    >>> kt.matrix_transpose(kt.zeros((5, 2, 3))).shape
    (5, 3, 2)
    """
    return apply(MATRIX_TRANSPOSE, (x,))


@shape_vars("*A")
def reversed_axes(x: Tensor[Shaped[Any, "A"], _G], /) -> Tensor[Shaped[Any, "reverse_shape(A)"], _G]:
    """All axes in reverse order: `x.T`."""
    return apply(REVERSED, (x,))


def _squeeze(x: Node, axis: Any) -> Node:
    axes = as_axes(axis, len(x.shape)) if axis is not None else tuple(i for i, n in enumerate(x.shape) if n == 1)
    for i in axes:
        if x.shape[i] != 1:
            raise ShapeError(f"axis {i} of {x.shape} has size {x.shape[i]}, only size 1 can be dropped")
    return b.reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in axes))


def _expand_dims(x: Node, axis: int) -> Node:
    i = as_axis(axis, len(x.shape) + 1)
    return b.reshape(x, (*x.shape[:i], 1, *x.shape[i:]))


def _broadcast_to(x: Node, shape: Shape) -> Node:
    if (found := broadcast(x.shape, shape)) is None or not alike_shapes(found, shape):
        raise ShapeError(f"{x.shape} does not broadcast to {shape}")
    return b.spread(x, shape)


SQUEEZE, EXPAND_DIMS = Op("squeeze", _squeeze), Op("expand_dims", _expand_dims)
BROADCAST_TO = Op("broadcast_to", _broadcast_to, sizes=free_sizes.broadcast)


@like(squeezing)
def squeeze(x: Any, /, axis: Any = None) -> Any:
    """Without the given axes (or all) of size 1. Raises ShapeError for any other size."""
    return apply(SQUEEZE, (x,), (hashable(axis),))


@shape_vars("*A, D")
def expand_dims(
    x: Tensor[Shaped[Any, "A"], _G], /, axis: Shaped[int, "D"] = 0
) -> Tensor[Shaped[Any, "expand_shape(A, Int[D])"], _G]:
    """With a new axis of size 1 at the given place."""
    return apply(EXPAND_DIMS, (x,), (hashable(axis),))


@shape_vars("*A, *D")
def broadcast_to(
    x: Tensor[Shaped[Any, "A"], _G], /, shape: Shaped[tuple[int, ...], "D"]
) -> Tensor[Shaped[Any, "broadcast_shape(A, D)"], _G]:
    """x repeated to a shape by NumPy's rule. Raises ShapeError."""
    return apply(BROADCAST_TO, (x,), (as_shape(shape),))


def broadcast_arrays(*xs: Tensor[Any, Any]) -> list[Tensor[Any, Any]]:
    """Tensors repeated to the shape that they broadcast to together. Raises ShapeError if there is none.

    >>> import katachi as kt
    >>> [x.shape for x in kt.broadcast_arrays(kt.zeros((2, 1)), kt.zeros(3))]
    [(2, 3), (2, 3)]
    """
    try:
        shape = common_shape([x.shape for x in xs])
    except ShapeError as error:
        raise ShapeError(f"broadcast_arrays: {error}") from None
    return [broadcast_to(x, shape) for x in xs]


def _flip(x: Node, axis: Any) -> Node:
    axes = as_axes(axis, len(x.shape))
    return make("reverse", x, dimensions=axes) if axes else x


FLIP = Op("flip", _flip)


def flip(x: Tensor[_S, _G], /, axis: int | Sequence[int] | None = None) -> Tensor[_S, _G]:
    """The order along the given axes (or all) reversed."""
    return apply(FLIP, (x,), (hashable(axis),))


def alike(xs: Sequence[Node]) -> list[Node]:
    """The operands in the dtype they promote to."""
    dtype = xs[0].dtype
    for x in xs[1:]:
        dtype = promote(dtype, x.dtype)
    return [b.convert(x, dtype) for x in xs]


AT_ONCE = 16  # parts of a concatenation


def _concat(xs: Sequence[Node], axis: int | None) -> Node:
    xs = alike(xs)
    if axis is None:
        xs, axis = [b.reshape(x, (count(x.shape),)) for x in xs], 0
    ranks = {len(x.shape) for x in xs}
    if len(ranks) > 1:
        raise ShapeError(f"needs tensors of one rank, got {', '.join(str(x.shape) for x in xs)}")
    i = as_axis(axis, ranks.pop())
    while len(xs) > AT_ONCE:  # a few at a time, since a kernel reads each of its operands by code of its own
        xs = [_joined(xs[k : k + AT_ONCE], i) for k in range(0, len(xs), AT_ONCE)]
    return _joined(xs, i)


def _joined(xs: Sequence[Node], axis: int) -> Node:
    return make("concatenate", *xs, dimension=axis) if len(xs) > 1 else xs[0]


def _stack(xs: Sequence[Node], axis: int) -> Node:
    if not all(alike_shapes(x.shape, xs[0].shape) for x in xs):
        raise ShapeError(f"needs tensors of one shape, got {', '.join(str(x.shape) for x in xs)}")
    i = as_axis(axis, len(xs[0].shape) + 1)
    return _concat([_expand_dims(x, i) for x in xs], i)


CONCAT, STACK = Op("concat", _concat, variadic=True), Op("stack", _stack, variadic=True)


def _several(name: str, xs: Any) -> tuple[Any, ...]:
    if not hasattr(xs, "__iter__"):
        raise DTypeError(f"{name}: needs a list of tensors, got {type(xs).__name__}")
    xs = tuple(xs)
    if not xs:
        raise ShapeError(f"{name} needs at least one tensor")
    return xs


@like(joining)
def concat(xs: Any, /, axis: int | None = 0) -> Any:
    """Tensors joined along an axis; None joins them flattened. Raises ShapeError when other sizes differ.

    >>> import katachi as kt
    >>> kt.concat([kt.zeros(2), kt.ones(1)]).tolist()
    [0.0, 0.0, 1.0]
    """
    return _together(CONCAT, _several("concat", xs), hashable(axis))


@like(stacking)
def stack(xs: Any, /, axis: int = 0) -> Any:
    """Tensors of one shape joined along a new axis. Raises ShapeError."""
    return _together(STACK, _several("stack", xs), hashable(axis))


def _together(op: Op, xs: tuple[Any, ...], axis: Any) -> Any:
    """Tensors joined. Where a line joins ever other numbers of them, some at a time, each time by the same program."""
    t = current()
    if len(xs) > AT_ONCE and axis is not None and varies(t, (op, beginnings(caller())), len(xs)):
        parts, at, some = [], 0, AT_ONCE
        while at < len(xs):  # 16, 16, ..., then 8, 4, 2 and 1 as the rest is
            while some > len(xs) - at:
                some //= 2
            parts.append(apply(op, xs[at : at + some], (axis,)))
            at += some
            flush(t)
        return _together(CONCAT, tuple(parts), axis)
    return apply(op, xs, (axis,))

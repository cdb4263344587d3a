"""Bringing operands together: what may stand beside a tensor, common dtypes and shapes, axes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import float32, promote
from katachi.graph.node import Node
from katachi.graph.sizes import Shape, broadcast


def unify(*xs: Node, floating: bool = False) -> tuple[Node, ...]:
    """The operands in one dtype and one shape, by promotion and broadcasting. `floating`: integers become float32."""
    dtype = xs[0].dtype
    for x in xs[1:]:
        dtype = promote(dtype, x.dtype)
    if floating and not dtype.is_floating:
        dtype = float32
    shape = common_shape([x.shape for x in xs])
    return tuple(b.spread(b.convert(x, dtype), shape) for x in xs)


def common_shape(shapes: Sequence[Shape]) -> Shape:
    """The shape that all of these broadcast to. Raises ShapeError."""
    shape: Shape = ()
    for one in shapes:
        common = broadcast(shape, one)
        if common is None:
            raise ShapeError(f"shapes {' and '.join(map(str, shapes))} do not broadcast")
        shape = common
    return shape


def floating(x: Node) -> Node:
    """x, integers and bools as float32."""
    return x if x.dtype.is_floating else b.convert(x, float32)


def as_axis(axis: int, rank: int) -> int:
    """An axis counted from the front; raises ShapeError, DTypeError."""
    try:
        i = operator.index(axis)
    except TypeError:
        raise DTypeError(f"an axis is an int, got {axis!r}") from None
    if not -rank <= i < rank:
        raise ShapeError(f"axis {i} is out of range for {rank} axes" if rank else f"axis {i}: a scalar has no axes")
    return i % rank


def as_axes(axis: int | tuple[int, ...] | None, rank: int) -> tuple[int, ...]:
    """Ascending axes counted from the front; None means all."""
    if axis is None:
        return tuple(range(rank))
    axes = [as_axis(a, rank) for a in (axis if isinstance(axis, tuple) else (axis,))]
    if len(set(axes)) != len(axes):
        raise ShapeError(f"axes {axis} name one axis twice")
    return tuple(sorted(axes))


def as_shape(shape: Any, what: str = "shape") -> Shape:
    """A tuple of sizes from an int, a tuple or a list; raises DTypeError, ShapeError."""
    given: Any = (shape,) if isinstance(shape, (int, np.integer)) and not isinstance(shape, bool) else shape
    try:
        sizes = tuple(operator.index(n) for n in given)
    except TypeError:
        raise DTypeError(f"{what} must be ints, got {shape!r}") from None
    for n in sizes:
        if n < 0:
            raise ShapeError(f"{what} {sizes} has a negative size")
    return sizes


def hashable(axis: Any) -> Any:
    """Lists as tuples and NumPy's numbers as Python's, so that they can be attributes, which are compared."""
    if axis is None or axis.__class__ is int:  # the common case, short
        return axis
    axis = axis.tolist() if isinstance(axis, (np.ndarray, np.generic)) else axis
    axis = tuple(axis) if isinstance(axis, Sequence) and not isinstance(axis, (tuple, str)) else axis
    try:
        hash(axis)
    except TypeError:
        raise DTypeError(f"axes and sizes are ints or tuples of ints, got {axis!r}") from None
    return axis

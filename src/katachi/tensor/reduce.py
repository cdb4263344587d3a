"""Reductions over axes, and what normalises along one."""

from __future__ import annotations

import builtins
import math
from typing import TYPE_CHECKING, Any

from katachi.graph import build as b
from katachi.graph.dtypes import DType, as_dtype, bool_, int64, uint8, uint64
from katachi.graph.halves import in_float32
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.graph.sizes import count
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.operand import as_axes, as_axis, floating, hashable
from katachi.tensor.signatures import accumulation, reduction, variance, verdict
from katachi.tensor.types import _G, Shaped, like, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.shape_rules import same_shape
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Int


def accumulated(x: Node, dtype: DType | None) -> Node:
    """x in the dtype that sums and products have: the one asked for, or a wide one of integers."""
    wide = x.dtype if x.dtype.is_floating else uint64 if x.dtype.kind == "uint" else int64
    return b.convert(x, dtype or wide)


def _sum(x: Node, axis: Any, keepdims: bool, dtype: DType | None = None) -> Node:
    x = accumulated(x, dtype)
    return b.reduce("reduce_sum", x, as_axes(axis, len(x.shape)), keepdims)


def _mean(x: Node, axis: Any, keepdims: bool) -> Node:
    x = floating(x)
    axes = as_axes(axis, len(x.shape))
    total = b.reduce("reduce_sum", x, axes, keepdims)
    return b.divide(total, b.like(total, count(tuple(x.shape[i] for i in axes))))


def _variance(x: Node, axis: Any, keepdims: bool, correction: float) -> Node:
    x = floating(x)
    axes = as_axes(axis, len(x.shape))
    off = b.subtract(x, _mean(x, axis, True))
    total = b.reduce("reduce_sum", b.multiply(off, off), axes, keepdims)
    return b.divide(total, b.like(total, builtins.max(count(tuple(x.shape[i] for i in axes)) - correction, 0.0)))


def _extreme(primitive: str) -> Any:
    return lambda x, axis, keepdims: b.reduce(primitive, x, as_axes(axis, len(x.shape)), keepdims)


def _argmax(x: Node, axis: Any, keepdims: bool) -> Node:
    if x.dtype is bool_:
        x = b.convert(x, uint8)
    if axis is None:
        out = make("argmax", b.reshape(x, (count(x.shape),)), axis=0)
        return b.reshape(out, (1,) * len(x.shape)) if keepdims else out
    i = as_axis(axis, len(x.shape))
    out = make("argmax", x, axis=i)
    return b.reshape(out, (*x.shape[:i], 1, *x.shape[i + 1 :])) if keepdims else out


def _prod(x: Node, axis: Any, keepdims: bool, dtype: DType | None) -> Node:
    axes = as_axes(axis, len(x.shape))
    return in_float32(lambda x: b.reduce("reduce_prod", x, axes, keepdims), accumulated(x, dtype))


def _deviation(x: Node, axis: Any, keepdims: bool, correction: float) -> Node:
    return b.root_of_powers(_variance(x, axis, keepdims, correction))


def _argmin(x: Node, axis: Any, keepdims: bool) -> Node:
    """The largest of what has the reverse order: of integers, the inverted bits."""
    x = b.convert(x, uint8) if x.dtype is bool_ else x
    return _argmax(make("negate" if x.dtype.is_floating else "not", x), axis, keepdims)


def _logsumexp(x: Node, axis: Any, keepdims: bool) -> Node:
    x = floating(x)
    axes = as_axes(axis, len(x.shape))
    if 0 in [x.shape[i] for i in axes]:
        return make("log", b.reduce("reduce_sum", x, axes, keepdims))
    top = b.reduce("reduce_max", x, axes, keepdims=True)
    fixed = make("stop_gradient", top)
    infinite = b.compare(make("abs", fixed), "EQ", b.like(fixed, math.inf))  # beside that nothing counts
    off = b.select(infinite, b.like(x, 0.0), b.subtract(x, fixed))
    total = make("log", b.reduce("reduce_sum", make("exponential", off), axes, keepdims=True))
    out = b.select(infinite, top, b.add(total, fixed))
    return out if keepdims else b.reshape(out, tuple(n for i, n in enumerate(x.shape) if i not in axes))


def _count_nonzero(x: Node, axis: Any, keepdims: bool) -> Node:
    return _sum(b.convert(x, bool_), axis, keepdims)


def _truth(primitive: str) -> Any:
    def build(x: Node, axis: Any, keepdims: bool) -> Node:
        return b.reduce(primitive, b.convert(x, bool_), as_axes(axis, len(x.shape)), keepdims)

    return build


SUM, MEAN, VAR = Op("sum", _sum), Op("mean", _mean, upcast=1), Op("var", _variance, upcast=1)
MAX, MIN = Op("max", _extreme("reduce_max"), upcast=1), Op("min", _extreme("reduce_min"), upcast=1)
ANY, ALL = Op("any", _truth("reduce_or")), Op("all", _truth("reduce_and"))
PROD, STD = Op("prod", _prod, upcast=0), Op("std", _deviation, upcast=1)
ARGMAX, ARGMIN = Op("argmax", _argmax), Op("argmin", _argmin)
LOGSUMEXP, COUNT_NONZERO = Op("logsumexp", _logsumexp, upcast=1), Op("count_nonzero", _count_nonzero)


@like(accumulation)
def sum(x: Any, /, axis: Any = None, *, dtype: Any = None, keepdims: bool = False) -> Any:
    """The sum over an axis, several, or all, in `dtype` if it is given. Small integers and bools add up in 64 bits. In
    float32 the error is at most 1e-6 of the sum of the absolute values, however many there are.

    >>> import katachi as kt
    >>> kt.tensor([[1, 2], [3, 4]]).sum(0).tolist()
    [4, 6]
    """
    return apply(SUM, (x,), (hashable(axis), keepdims, None if dtype is None else as_dtype(dtype)))


@like(reduction)
def mean(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Any:
    """The arithmetic mean over an axis, several, or all; NaN of nothing. Half types are computed in float32 and rounded
    once."""
    return apply(MEAN, (x,), (hashable(axis), keepdims))


@like(variance)
def var(x: Any, /, axis: Any = None, *, correction: float = 0.0, keepdims: bool = False) -> Any:
    """The variance over an axis, several, or all: squared distances from the mean, divided by their number less
    `correction`. Half types are computed in float32 and rounded once."""
    return apply(VAR, (x,), (hashable(axis), keepdims, correction))


@like(reduction)
def max(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Any:
    """The largest value over an axis, several, or all; NaN if there is one. Ties share the gradient. Half types are
    computed in float32 and rounded once.

    Raises ShapeError over an empty axis.
    """
    return apply(MAX, (x,), (hashable(axis), keepdims))


@like(reduction)
def min(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Any:
    """The smallest value over an axis, several, or all; NaN if there is one. Ties share the gradient. Half types are
    computed in float32 and rounded once."""
    return apply(MIN, (x,), (hashable(axis), keepdims))


@like(verdict)
def argmax(x: Any, /, axis: int | None = None, *, keepdims: bool = False) -> Any:
    """Where the largest value along an axis (or in the whole, in row-major order) first occurs: int64.

    >>> import katachi as kt
    >>> kt.tensor([[1, 5, 2], [7, 0, 7]]).argmax(1).tolist()
    [1, 0]
    """
    return apply(ARGMAX, (x,), (hashable(axis), keepdims))


@like(verdict)
def argmin(x: Any, /, axis: int | None = None, *, keepdims: bool = False) -> Any:
    """Where the smallest value along an axis (or in the whole, in row-major order) first occurs: int64."""
    return apply(ARGMIN, (x,), (hashable(axis), keepdims))


@like(accumulation)
def prod(x: Any, /, axis: Any = None, *, dtype: Any = None, keepdims: bool = False) -> Any:
    """The product over an axis, several, or all, in `dtype` if it is given, else integers in 64 bits. Its gradient is
    right at zeros as well. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.tensor([[1, 2], [3, 4]]).prod(0).tolist()
    [3, 8]
    """
    return apply(PROD, (x,), (hashable(axis), keepdims, None if dtype is None else as_dtype(dtype)))


@like(variance)
def std(x: Any, /, axis: Any = None, *, correction: float = 0.0, keepdims: bool = False) -> Any:
    """The standard deviation: the square root of `var`. Of equal values it is 0, and so is its gradient. Half types are
    computed in float32 and rounded once."""
    return apply(STD, (x,), (hashable(axis), keepdims, correction))


@like(reduction)
def logsumexp(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) over an axis, several, or all, where the exponentials may overflow; -inf of nothing. Half types
    are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.logsumexp(kt.tensor([1000.0, -1000.0])).item()
    1000.0
    """
    return apply(LOGSUMEXP, (x,), (hashable(axis), keepdims))


@like(verdict)
def count_nonzero(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Any:
    """How many elements are not zero: int64."""
    return apply(COUNT_NONZERO, (x,), (hashable(axis), keepdims))


@like(verdict)
def any(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Any:
    """Whether some element is true (not zero)."""
    return apply(ANY, (x,), (hashable(axis), keepdims))


@like(verdict)
def all(x: Any, /, axis: Any = None, *, keepdims: bool = False) -> Any:
    """Whether every element is true (not zero)."""
    return apply(ALL, (x,), (hashable(axis), keepdims))


def shifted(x: Node, axis: int) -> Node:
    """x less its largest value along the axis, which is as good as x for a softmax and cannot overflow."""
    top = b.reduce("reduce_max", make("stop_gradient", x), (axis,), keepdims=True)
    return b.subtract(x, top)


def _softmax(x: Node, axis: int) -> Node:
    x, i = floating(x), as_axis(axis, len(x.shape))
    if x.shape[i] == 0:
        return x
    e = make("exponential", shifted(x, i))
    total = b.reduce("reduce_sum", e, (i,), keepdims=True)
    return b.multiply(e, b.divide(b.like(total, 1.0), total))


def log_softmax_of(x: Node, axis: int) -> Node:
    """As nodes: x - max - log(sum(exp(x - max)))."""
    x, i = floating(x), as_axis(axis, len(x.shape))
    if x.shape[i] == 0:
        return x
    s = shifted(x, i)
    return b.subtract(s, make("log", b.reduce("reduce_sum", make("exponential", s), (i,), keepdims=True)))


SOFTMAX, LOG_SOFTMAX = Op("softmax", _softmax, upcast=1), Op("log_softmax", log_softmax_of, upcast=1)


@shape_vars("*A, D")
def softmax(
    x: Tensor[Shaped[Any, "A"], _G], /, axis: Shaped[int, "D"] = -1
) -> Tensor[Shaped[Any, "same_shape(A, Int[D])"], _G]:
    """exp(x), divided by its sum along the axis. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.tensor([0.0, 0.0]).softmax().tolist()
    [0.5, 0.5]
    """
    return apply(SOFTMAX, (x,), (hashable(axis),))


@shape_vars("*A, D")
def log_softmax(
    x: Tensor[Shaped[Any, "A"], _G], /, axis: Shaped[int, "D"] = -1
) -> Tensor[Shaped[Any, "same_shape(A, Int[D])"], _G]:
    """The logarithm of softmax, without computing it. Half types are computed in float32 and rounded once."""
    return apply(LOG_SOFTMAX, (x,), (hashable(axis),))

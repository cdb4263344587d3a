"""Sums, products and extremes of all that stands before, and sorting: what needs an order along an axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import DType, as_dtype, bool_, int64
from katachi.graph.halves import in_float32
from katachi.graph.node import Node
from katachi.graph.primitives import constant, make
from katachi.tensor.advanced import take_axis
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.indexing import sliced
from katachi.tensor.movement import alike
from katachi.tensor.operand import as_axis, hashable
from katachi.tensor.reduce import accumulated
from katachi.tensor.types import _G, _S

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Fixed


def _axis(axis: Any, x: Node) -> int:
    if axis is None and len(x.shape) != 1:
        raise ShapeError(f"needs an axis for shape {x.shape}")
    return as_axis(0 if axis is None else axis, len(x.shape))


def _cumulative(primitive: str, start: int | None) -> Callable[..., Node]:
    def build(x: Node, axis: Any, include_initial: bool = False, dtype: DType | None = None) -> Node:
        i = _axis(axis, x)
        x = x if start is None else accumulated(x, dtype)
        exact = primitive != "cumulative_prod"  # the only one whose gradient takes several roundings
        out = make(primitive, x, axis=i) if exact else in_float32(lambda x: make(primitive, x, axis=i), x)
        if not include_initial or start is None:
            return out
        low, none = tuple(int(a == i) for a in range(len(x.shape))), (0,) * len(x.shape)
        return make("pad", out, constant(start, x.dtype, x.device), low=low, high=none, interior=none)

    return build


CUMULATIVE_SUM = Op("cumulative_sum", _cumulative("cumulative_sum", 0))
CUMULATIVE_PROD = Op("cumulative_prod", _cumulative("cumulative_prod", 1), upcast=0)
CUMULATIVE_MAX = Op("cumulative_max", _cumulative("cumulative_max", None))
CUMULATIVE_MIN = Op("cumulative_min", _cumulative("cumulative_min", None))


def cumulative_sum(
    x: Tensor[Any, _G], /, axis: int | None = None, *, dtype: Any = None, include_initial: bool = False
) -> Tensor[Any, _G]:
    """At each place along an axis (which may be left out for a vector) the sum up to it, in `dtype` if it is given.
    Integers add up in 64 bits.

    With `include_initial` a zero comes first. Raises ShapeError without an axis. Also named cumsum.

    >>> import katachi as kt
    >>> kt.cumulative_sum(kt.tensor([1, 2, 3])).tolist()
    [1, 3, 6]
    """
    return apply(CUMULATIVE_SUM, (x,), (hashable(axis), include_initial, None if dtype is None else as_dtype(dtype)))


def cumulative_prod(
    x: Tensor[Any, _G], /, axis: int | None = None, *, dtype: Any = None, include_initial: bool = False
) -> Tensor[Any, _G]:
    """At each place along an axis the product up to it, as cumulative_sum. Its gradient is right at zeros as well. Half
    types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.cumulative_prod(kt.tensor([1, 2, 3]), include_initial=True).tolist()
    [1, 1, 2, 6]
    """
    return apply(CUMULATIVE_PROD, (x,), (hashable(axis), include_initial, None if dtype is None else as_dtype(dtype)))


cumsum, cumprod = cumulative_sum, cumulative_prod


def cumulative_max(x: Tensor[_S, _G], /, axis: int | None = None) -> Tensor[_S, _G]:
    """At each place along an axis the largest value up to it; NaN from the first one on."""
    return apply(CUMULATIVE_MAX, (x,), (hashable(axis),))


def cumulative_min(x: Tensor[_S, _G], /, axis: int | None = None) -> Tensor[_S, _G]:
    """At each place along an axis the smallest value up to it; NaN from the first one on."""
    return apply(CUMULATIVE_MIN, (x,), (hashable(axis),))


def _diff(x: Node, *rest: Any) -> Node:
    """rest: what stands before and after, then the axis, how often, and whether there is something before."""
    *ends, axis, n, prepended = rest
    i, rank = as_axis(axis, len(x.shape)), len(x.shape)
    if n.__class__ is not int or n < 0:
        raise ShapeError(f"needs a number of times that is an int, at least 0, got {n!r}")
    if x.dtype is bool_:
        raise DTypeError("needs a numeric dtype, got bool")
    for end in ends:
        sizes = [n for j, n in enumerate(end.shape) if j != i]
        if len(end.shape) != rank or sizes != [n for j, n in enumerate(x.shape) if j != i]:
            raise ShapeError(f"what is put before or after {x.shape} may differ on axis {i} only, got {end.shape}")
    if ends:
        x = make("concatenate", *alike([*ends[:prepended], x, *ends[prepended:]]), dimension=i)
    for _ in range(n):
        size = x.shape[i]
        later, earlier = (
            sliced(x, [bounds if a == i else (0, m, 1) for a, m in enumerate(x.shape)])
            for bounds in ((1, size, 1), (0, size - 1, 1))
        )
        x = b.subtract(later, earlier)
    return x


DIFF = Op("diff", _diff, upcast=3)


def diff(
    x: Tensor[Any, _G], /, *, axis: int = -1, n: int = 1, prepend: Any = None, append: Any = None
) -> Tensor[Any, _G]:
    """The differences of neighbours along an axis, taken n times over; unsigned integers wrap around. Half types are
    computed in float32 and rounded once.

    `prepend` and `append` are joined to x first. Raises ShapeError, DTypeError for bools.

    >>> import katachi as kt
    >>> kt.diff(kt.tensor([1, 4, 9])).tolist(), kt.diff(kt.tensor([1, 4, 9]), n=2).tolist()
    ([3, 5], [2])
    """
    ends = [end for end in (prepend, append) if end is not None]
    return apply(DIFF, (x, *ends), (hashable(axis), hashable(n), prepend is not None))


def sorting_order(x: Node, axis: Any, descending: bool = False) -> Node:
    """The indices that sort."""
    i = as_axis(axis, len(x.shape))
    place = make("iota", shape=x.shape, dtype=int64, dimension=i, device=x.device)
    return make("sort", x, place, axis=i, descending=descending)


def _sort(x: Node, axis: Any, descending: bool) -> Node:
    return make("sort", x, x, axis=as_axis(axis, len(x.shape)), descending=descending)


def _topk(x: Node, k: int, axis: Any, largest: bool) -> tuple[Node, Node]:
    i = as_axis(axis, len(x.shape))
    if not 0 <= k <= x.shape[i]:
        raise ShapeError(f"axis {i} of {x.shape} has no {k} elements")
    order = sorting_order(x, i, largest)
    limit = tuple(k if a == i else n for a, n in enumerate(x.shape))
    index = make("slice", order, start=(0,) * len(limit), limit=limit, stride=(1,) * len(limit))
    return take_axis(x, index, i, checked=True), index


ARGSORT, SORT, TOPK = Op("argsort", sorting_order), Op("sort", _sort), Op("topk", _topk)


def argsort(x: Tensor[_S, Fixed], /, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Tensor[_S]:
    """The indices that sort x along an axis: int64. Equal elements keep their order; NaN counts as larger than all.

    Always stable, whatever is asked.

    >>> import katachi as kt
    >>> kt.argsort(kt.tensor([3, 1, 2])).tolist()
    [1, 2, 0]
    """
    return apply(ARGSORT, (x,), (hashable(axis), descending))


def sort(x: Tensor[_S, _G], /, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Tensor[_S, _G]:
    """x sorted along an axis; NaN counts as larger than all. The gradient goes where each value came from.

    >>> import katachi as kt
    >>> kt.sort(kt.tensor([3, 1, 2]), descending=True).tolist()
    [3, 2, 1]
    """
    return apply(SORT, (x,), (hashable(axis), descending))


class TopK(NamedTuple):
    """The largest or smallest values, in order, and where they stood."""

    values: Any
    indices: Any


def topk(x: Tensor[Any, Any], k: int, /, axis: int = -1, *, largest: bool = True) -> TopK:
    """The k largest (or smallest) values along an axis, in order, and their indices. Raises ShapeError for too many.

    >>> import katachi as kt
    >>> values, indices = kt.topk(kt.tensor([3, 9, 5]), 2); values.tolist(), indices.tolist()
    ([9, 5], [1, 2])
    """
    return TopK(*apply(TOPK, (x,), (hashable(k), hashable(axis), largest), many=True))

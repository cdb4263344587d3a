"""Sums, products and extremes of all that stands before, and sorting: what needs an order along an axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from katachi.errors import ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import int64, uint64
from katachi.graph.node import Node
from katachi.graph.primitives import constant, make
from katachi.tensor.advanced import take_axis
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.operand import as_axis, hashable
from katachi.tensor.types import _G, _S

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Fixed


def _axis(axis: Any, x: Node) -> int:
    if axis is None and len(x.shape) != 1:
        raise ShapeError(f"needs an axis for shape {x.shape}")
    return as_axis(0 if axis is None else axis, len(x.shape))


def _cumulative(primitive: str, start: int | None) -> Callable[..., Node]:
    def build(x: Node, axis: Any, include_initial: bool) -> Node:
        i = _axis(axis, x)
        if start is not None and not x.dtype.is_floating:
            x = b.convert(x, uint64 if x.dtype.kind == "uint" else int64)
        out = make(primitive, x, axis=i)
        if not include_initial or start is None:
            return out
        low, none = tuple(int(a == i) for a in range(len(x.shape))), (0,) * len(x.shape)
        return make("pad", out, constant(start, x.dtype, x.device), low=low, high=none, interior=none)

    return build


CUMULATIVE_SUM = Op("cumulative_sum", _cumulative("cumulative_sum", 0))
CUMULATIVE_PROD = Op("cumulative_prod", _cumulative("cumulative_prod", 1))
CUMULATIVE_MAX = Op("cumulative_max", _cumulative("cumulative_max", None))
CUMULATIVE_MIN = Op("cumulative_min", _cumulative("cumulative_min", None))


def cumulative_sum(x: Tensor[Any, _G], /, axis: int | None = None, *, include_initial: bool = False) -> Tensor[Any, _G]:
    """At each place along an axis (which may be left out for a vector) the sum up to it. Integers add up in 64 bits.

    With `include_initial` a zero comes first. Raises ShapeError without an axis. Also named cumsum.

    >>> import katachi as kt
    >>> kt.cumulative_sum(kt.tensor([1, 2, 3])).tolist()
    [1, 3, 6]
    """
    return apply(CUMULATIVE_SUM, (x,), (hashable(axis), include_initial))


def cumulative_prod(
    x: Tensor[Any, _G], /, axis: int | None = None, *, include_initial: bool = False
) -> Tensor[Any, _G]:
    """At each place along an axis the product up to it, as cumulative_sum. Its gradient is right at zeros as well.

    >>> import katachi as kt
    >>> kt.cumulative_prod(kt.tensor([1, 2, 3]), include_initial=True).tolist()
    [1, 1, 2, 6]
    """
    return apply(CUMULATIVE_PROD, (x,), (hashable(axis), include_initial))


cumsum, cumprod = cumulative_sum, cumulative_prod


def cumulative_max(x: Tensor[_S, _G], /, axis: int | None = None) -> Tensor[_S, _G]:
    """At each place along an axis the largest value up to it; NaN from the first one on."""
    return apply(CUMULATIVE_MAX, (x,), (hashable(axis), False))


def cumulative_min(x: Tensor[_S, _G], /, axis: int | None = None) -> Tensor[_S, _G]:
    """At each place along an axis the smallest value up to it; NaN from the first one on."""
    return apply(CUMULATIVE_MIN, (x,), (hashable(axis), False))


def _argsort(x: Node, axis: Any, descending: bool) -> Node:
    return make("argsort", x, axis=as_axis(axis, len(x.shape)), descending=descending)


def _sort(x: Node, axis: Any, descending: bool) -> Node:
    return take_axis(x, _argsort(x, axis, descending), axis, checked=True)


def _topk(x: Node, k: int, axis: Any, largest: bool) -> tuple[Node, Node]:
    i = as_axis(axis, len(x.shape))
    if not 0 <= k <= x.shape[i]:
        raise ShapeError(f"axis {i} of {x.shape} has no {k} elements")
    order = _argsort(x, i, largest)
    limit = tuple(k if a == i else n for a, n in enumerate(x.shape))
    index = make("slice", order, start=(0,) * len(limit), limit=limit, stride=(1,) * len(limit))
    return take_axis(x, index, i, checked=True), index


ARGSORT, SORT, TOPK = Op("argsort", _argsort), Op("sort", _sort), Op("topk", _topk)


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

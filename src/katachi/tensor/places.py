"""`x.at[i]`: the places that indexing reads, written in a new value. Scatter, and select where that will do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import as_dtype, bool_, int64, promote
from katachi.graph.node import Node
from katachi.graph.primitives import constant, make
from katachi.graph.sizes import Shape, alike, span
from katachi.tensor.advanced import ARRAYS, bounds_of, is_array, operands_of, places, plain
from katachi.tensor.arrays import as_array
from katachi.tensor.entry import Op
from katachi.tensor.handle import Handle
from katachi.tensor.indexing import INT, basic, given, spans, starts_given
from katachi.tensor.types import G, S
from katachi.tensor.varying import apply_varying

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor


NOWHERE: Mapping[int, Node] = MappingProxyType({})


def _fitted(value: Node, shape: Shape) -> Node:
    if (found := b.broadcast(value.shape, shape)) is None or not alike(found, shape):
        raise ShapeError(f"a value of shape {value.shape} does not broadcast to the places' shape {shape}")
    return b.spread(value, shape)


def _put(
    x: Node,
    value: Node,
    bounds: Sequence[tuple[int, int, int]],
    ints: dict[int, Node],
    combine: str,
    starts: Mapping[int, Node] = NOWHERE,
) -> Node:
    """x with `value` where `sliced` would read, and at the ints of other axes, where value has size one, and from
    `starts` on of yet others."""
    flipped = tuple(i for i, (_, _, step) in enumerate(bounds) if step < 0)
    if flipped:
        value = make("reverse", value, dimensions=flipped)
    low, high, interior = [], [], []
    for n, size, (start, _, step), i in zip(x.shape, value.shape, bounds, range(len(x.shape)), strict=True):
        if i in ints or i in starts or not size:
            start, step = 0, 1
        elif step < 0:
            start, step = start + (size - 1) * step, -step
        low.append(start)
        interior.append(step - 1 if size > 1 else 0)
        high.append(0 if i in ints or i in starts else n - start - (size and (size - 1) * step + 1))
    widths = {"low": tuple(low), "high": tuple(high), "interior": tuple(interior)}
    there = None
    if any(low) or any(high) or any(interior):
        there = b.full(True, value.shape, bool_, x.device)
        there = make("pad", there, constant(False, bool_, x.device), **widths)
        value = make("pad", value, constant(0, value.dtype, x.device), **widths)
    shape = tuple(value.shape[i] if i in starts else n for i, n in enumerate(x.shape))
    there, value = there and b.spread(there, shape), b.spread(value, shape)
    if starts:
        zero = constant(0, int64, x.device)
        at = [starts.get(i, zero) for i in range(len(shape))]
        there = b.full(True, shape, bool_, x.device) if there is None else there
        there = make("dynamic_update_slice", b.full(False, x.shape, bool_, x.device), there, *at)
        value = make("dynamic_update_slice", b.full(0, x.shape, value.dtype, x.device), value, *at)
    for axis, index in ints.items():
        line = make("iota", shape=x.shape, dtype=int64, dimension=axis, device=x.device)
        here = b.compare(line, "EQ", index)
        there = here if there is None else make("and", there, here)
    if combine != "set":
        if there is None:
            return make(combine, x, value)
        # elsewhere nothing is left that could make 0 * inf of a gradient
        return b.select(there, make(combine, b.select(there, x, b.like(x, 1)), value), x)
    # what replaces all of a variable is a variable as well, as its type says
    return b.select(b.full(True, x.shape, bool_, x.device) if there is None else there, value, x)


def _update(x: Node, *rest: Any) -> Node:
    """rest: the ints' and arrays' nodes, the value, then the pattern and how to combine."""
    operands, value, pattern, combine = rest[:-3], b.convert(rest[-3], x.dtype), rest[-2], rest[-1]
    bounds = bounds_of(x, pattern)
    if not any(p in ARRAYS and p != INT for p in pattern):
        per_axis, left = [p for p in pattern if p is not None], iter(operands)
        nodes = {i: next(left) for i, p in enumerate(per_axis) if given(p)}
        ints = {i: n for i, n in nodes.items() if per_axis[i] == INT}
        starts = {i: n for i, n in nodes.items() if i not in ints}
        sizes = [1 if i in ints else per_axis[i][1] if i in starts else span(*p) for i, p in enumerate(bounds)]
        axis_sizes = iter([n for i, n in enumerate(sizes) if i not in ints])
        shape = tuple(1 if p is None else next(axis_sizes) for p in pattern if p != INT)
        return _put(x, b.reshape(_fitted(value, shape), tuple(sizes)), bounds, ints, combine, starts)
    p = places(x, operands, pattern)
    order, shape = p.order, (*p.index.shape[:-1], *p.kept)
    value = _fitted(value, tuple(shape[i] for i in order))
    value = b.transpose(value, tuple(order.index(i) for i in range(len(order))))
    rest_of = tuple(n for i, n in enumerate(p.source.shape) if i not in p.axes)
    value = b.reshape(value, (*p.index.shape[:-1], *rest_of))
    part = make("scatter", p.source, p.index, value, axes=p.axes, batch=0, combine=combine)
    part = b.reshape(part, tuple(span(*r) for r in bounds))
    return part if bounds == [(0, n, 1) for n in x.shape] else _put(x, part, bounds, {}, "set")


WAYS = {"set": "set", "add": "add", "multiply": "multiply", "max": "maximum", "min": "minimum"}
_EXACT = ("set", "add")  # of one rounding, forward and backward


def _vary(way: str, operands: Sequence[Any], attrs: tuple[Any, ...]) -> Any:
    (x, *ints, value), (pattern, combine) = operands, attrs
    if any(p in ARRAYS and p != INT for p in pattern) or any(p not in (None, INT) and p[2] != 1 for p in pattern):
        return None
    ints, pattern = starts_given(x.shape, ints, pattern)
    return CHANGES[way], (x, *ints, value), (pattern, combine)


CHANGES = {
    name: Op(
        f"at[...].{name}",
        _update,
        scalar=int64,
        upcast=None if name in _EXACT else 1,
        vary=partial(_vary, name),
        sizes=spans,
    )
    for name in WAYS
}


class Place(Generic[S, G]):
    """Places of a tensor, `x.at[index]`: they can be read, and there are values that differ from x in them alone.

    All of these raise ShapeError for a value that does not broadcast to the places, DTypeError for one that x's dtype
    cannot hold, IndexBoundsError as indexing does.
    """

    __slots__ = ("_index", "_x")

    def __init__(self, x: Tensor[S, G], index: Any) -> None:
        self._x, self._index = x, index

    def get(self) -> Any:
        """x[index]."""
        return self._x[self._index]

    def set(self, value: Any) -> Tensor[S, Any]:
        """x with `value`, broadcast, at these places. Where the index names one place several times the last counts.

        >>> import katachi as kt
        >>> kt.zeros(4).at[[1, -1]].set(kt.tensor([5.0, 6.0])).tolist()
        [0.0, 5.0, 0.0, 6.0]
        """
        return self._change("set", value)

    def add(self, value: Any) -> Tensor[S, Any]:
        """x with `value`, broadcast, added at these places. What the index names several times is added to each time.

        >>> import katachi as kt
        >>> kt.zeros(3).at[[0, 0, 2]].add(1.0).tolist()
        [2.0, 0.0, 1.0]
        """
        return self._change("add", value)

    def multiply(self, value: Any) -> Tensor[S, Any]:
        """x, multiplied at these places by `value`, broadcast; what the index names several times, by each. Its
        gradient is right at zeros as well. Half types are computed in float32 and rounded once.

        >>> import katachi as kt
        >>> kt.ones(3).at[[0, 0, 2]].multiply(3.0).tolist()
        [9.0, 1.0, 3.0]
        """
        return self._change("multiply", value)

    def max(self, value: Any) -> Tensor[S, Any]:
        """x, but at these places the larger of it and `value`, broadcast; NaN if one is. Of what the index names
        several times the largest. Ties share the gradient. Half types are computed in float32 and rounded once.

        >>> import katachi as kt
        >>> kt.zeros(3).at[[0, 0, 2]].max(kt.tensor([2.0, 5.0, -1.0])).tolist()
        [5.0, 0.0, 0.0]
        """
        return self._change("max", value)

    def min(self, value: Any) -> Tensor[S, Any]:
        """x, but at these places the smaller of it and `value`, as `max`. Half types are computed in float32 and
        rounded once.

        >>> import katachi as kt
        >>> kt.zeros(3).at[[0, 0, 2]].min(kt.tensor([-2.0, -5.0, 1.0])).tolist()
        [-5.0, 0.0, 0.0]
        """
        return self._change("min", value)

    def _change(self, way: str, value: Any) -> Any:
        from katachi.tensor.creation import tensor

        op = CHANGES[way]
        x: Any = self._x
        dtype = x.dtype
        if not isinstance(value, Handle):
            if not dtype.is_floating and as_dtype(as_array(value).dtype).is_floating:
                raise DTypeError(f"{op.name}: {dtype.name} cannot hold {value!r}; convert with astype")
            value = tensor(value, dtype=dtype, device=x.device)
        elif not dtype.is_floating and promote(dtype, value._aval.dtype) is not dtype:
            raise DTypeError(f"{op.name}: {dtype.name} cannot hold {value._aval.dtype.name}; convert with astype")
        if way != "set" and dtype is bool_:
            raise DTypeError(f"{op.name}: needs a numeric dtype, got bool")
        parts = self._index if isinstance(self._index, tuple) else (self._index,)
        parts = plain(parts)
        operands, pattern = operands_of(x, parts) if any(map(is_array, parts)) else basic(x, parts)
        return apply_varying(op, (x, *operands, value), (pattern, WAYS[way]))


class At(Generic[S, G]):
    """`x.at`, which is to be indexed."""

    __slots__ = ("_x",)

    def __init__(self, x: Tensor[S, G]) -> None:
        self._x = x

    def __getitem__(self, index: Any) -> Place[S, G]:
        return Place(self._x, index)

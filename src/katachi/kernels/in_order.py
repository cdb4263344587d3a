"""Kernels whose inner loops have an order: scatter, and accumulations that keep what they had on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from katachi.graph.dtypes import DType, float64
from katachi.graph.node import Node
from katachi.graph.primitives import CUMULATIVE
from katachi.graph.sizes import count
from katachi.kernels.loops import Kernel
from katachi.kernels.lower import ZERO, Index, Lowerer, combine, indexed, one_place, strides
from katachi.kernels.nest import finish, loop_index

_RUNNING = {"cumulative_sum": "sum", "cumulative_prod": "product", "cumulative_max": "max", "cumulative_min": "min"}


def suits(node: Node) -> bool:
    """Whether a node is a kernel of this kind."""
    return node.primitive in CUMULATIVE or (node.primitive == "scatter" and not one_place(node))


def lower_in_order(
    nodes: Sequence[Node], inputs: Sequence[Node], outputs: Sequence[Node], rows: Mapping[Node, int]
) -> list[Kernel]:
    """The kernels of such a node and of what it computes its operands from."""
    (node,) = outputs
    memory, row = {x: rows[x] for x in inputs}, rows[node]
    if node.primitive == "scatter":
        return [_copy(Lowerer(dict(memory)), node, row), _scatter(Lowerer(memory), node, row)]
    return [_cumulative(Lowerer(memory), node, row)]


def _loops(lo: Lowerer, sizes: Sequence[int], into: list[int]) -> list[Index]:
    """An index of loops that are new, those of size one left out."""
    at = []
    for n in sizes:
        if n != 1:
            into.append(len(lo.extents))
            lo.extents.append(n)
        at.append(loop_index(into[-1]) if n != 1 else ZERO)
    return at


def _copy(lo: Lowerer, node: Node, row: int) -> Kernel:
    """What a scatter starts from."""
    outer: list[int] = []
    at = tuple(_loops(lo, node.shape, outer))
    value = lo.value(node.inputs[0], at)
    lo.emit("store", node.dtype.name, value, extra=(row, lo.place(node, node.shape, at)))
    return finish(lo, outer, [[]], max(count(node.shape), 1))


def _scatter(lo: Lowerer, node: Node, row: int) -> Kernel:
    """The axes that the indices do not address are the outer loops, for there places are independent. Inside, every
    position has its turn, in the same order whoever computes it."""
    x, index, update = node.inputs
    axes, batch = node.attrs["axes"], node.attrs["batch"]
    outer: list[int] = []
    inner: list[int] = []
    others = [i for i in range(len(x.shape)) if i not in axes]
    at = dict(zip(others, _loops(lo, [x.shape[i] for i in others], outer), strict=True))
    lead, rest = tuple(at[i] for i in others[:batch]), tuple(at[i] for i in others[batch:])
    position = tuple(_loops(lo, index.shape[batch:-1], inner))
    chosen, inside = indexed(lo, node, lead, position, None)
    value = lo.value(update, (*lead, *position, *rest), inside)
    at.update(chosen)
    place = combine(*[(s, at[i]) for i, s in enumerate(strides(x.shape))])
    assert inside is not None
    lo.emit("scatter", node.dtype.name, value, inside, extra=(row, place, node.attrs["combine"], 0))
    return finish(lo, outer, [inner, []], max(count(update.shape), 1))


def _cumulative(lo: Lowerer, node: Node, row: int) -> Kernel:
    """Sums and products of floats are accumulated in float64, so that they are as exact at the end as at the start."""
    (x,) = node.inputs
    axis, name = node.attrs["axis"], _RUNNING[node.primitive]
    outer: list[int] = []
    inner: list[int] = []
    at = _loops(lo, [1 if i == axis else n for i, n in enumerate(x.shape)], outer)
    at[axis : axis + 1] = _loops(lo, [x.shape[axis]], inner)
    wide: DType = float64 if x.dtype.is_floating and name in ("sum", "product") else x.dtype
    value = lo.converted(lo.value(x, tuple(at)), x.dtype, wide)
    value = lo.emit("running", wide.name, value, extra=(name, 0))
    value = lo.converted(value, wide, x.dtype)
    lo.emit("store", x.dtype.name, value, extra=(row, combine(*zip(strides(x.shape), at, strict=True))))
    return finish(lo, outer, [inner, []], max(count(x.shape), 1))

"""Kernels whose inner loops have an order: scatter, and accumulations that keep what they had on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from katachi.graph.dtypes import DType, float32, float64, int32, int64
from katachi.graph.node import Node
from katachi.graph.primitives import CUMULATIVE
from katachi.graph.sizes import count
from katachi.kernels.loops import SCRATCH, Kernel
from katachi.kernels.lower import ZERO, Index, Lowerer, combine, indexed, one_place, strides
from katachi.kernels.nest import finish, loop_index

_RUNNING = {"cumulative_sum": "sum", "cumulative_prod": "product", "cumulative_max": "max", "cumulative_min": "min"}

FEW = 8  # float32 numbers that may be added to a place one after another: more of them round too often


def suits(node: Node) -> bool:
    """Whether a node is a kernel of this kind."""
    return node.primitive in CUMULATIVE or (node.primitive == "scatter" and not one_place(node))


class Array(NamedTuple):
    """Elements in memory, C-contiguous: the row of the table with the address, and which element there is the first."""

    row: int
    dtype: DType
    first: int = 0

    def place(self, shape: Sequence[int], at: Sequence[Index]) -> Index:
        return combine(*zip(strides(shape), at, strict=True), (1, (self.first, ())))

    def load(self, lo: Lowerer, place: Index, mask: int | None = None) -> int:
        return lo.emit("load", self.dtype.name, *([] if mask is None else [mask]), extra=(self.row, place))

    def store(self, lo: Lowerer, place: Index, value: int) -> None:
        lo.emit("store", self.dtype.name, value, extra=(self.row, place))


def lower_in_order(
    nodes: Sequence[Node], inputs: Sequence[Node], outputs: Sequence[Node], rows: Mapping[Node, int]
) -> tuple[list[Kernel], int]:
    """The kernels of such a node and of what it computes its operands from, and how many bytes of scratch memory they
    need."""
    (node,) = outputs
    memory, out = {x: rows[x] for x in inputs}, Array(rows[node], node.dtype)
    if node.primitive != "scatter":
        return [_cumulative(Lowerer(memory), node, out.row)], 0
    if not count(node.inputs[2].shape):  # nothing is written; the places may not exist either
        return [_copy(Lowerer(dict(memory)), node, None, out)], 0
    positions, places = _positions_and_places(node)
    if node.attrs["combine"] == "add" and node.dtype is float32 and positions > FEW:
        few = positions < min(places, 2**31)
        return (_totals_of_positions if few else _totals_of_places)(memory, node, out)
    return [_copy(Lowerer(dict(memory)), node, None, out), _scatter(memory, node, out)], 0


def _positions_and_places(node: Node) -> tuple[int, int]:
    """How many indices a scatter has, and how many places they can name, in one batch row."""
    axes, batch = node.attrs["axes"], node.attrs["batch"]
    return count(node.inputs[1].shape[batch:-1]), count(tuple(node.shape[i] for i in axes))


def _totals_of_places(memory: Mapping[Node, int], node: Node, out: Array) -> tuple[list[Kernel], int]:
    """Each element has a total in float64, which is rounded at the end."""
    totals = Array(SCRATCH, float64)
    kernels = [
        _copy(Lowerer(dict(memory)), node, None, totals),
        _scatter(memory, node, totals),
        _copy(Lowerer({}), node, totals, out),
    ]
    return kernels, count(node.shape) * float64.itemsize


def _totals_of_positions(memory: Mapping[Node, int], node: Node, out: Array) -> tuple[list[Kernel], int]:
    """Where there are more places than positions, only those places get totals in float64 that many positions name, in
    the row of the last of these positions. So the totals are as large as the updates, and time goes with the updates
    too. Beside them each place has two int32 numbers, however many elements it has."""
    update, batch = node.inputs[2], node.attrs["batch"]
    positions, places = _positions_and_places(node)
    size = count(node.shape[:batch]) * places
    last, times = Array(SCRATCH, int32), Array(SCRATCH, int32, size)  # by place: which positions name it
    totals = Array(SCRATCH, float64, size)
    rows = (*node.shape[:batch], positions, *update.shape[len(node.inputs[1].shape) - 1 :])

    def total(nest: _Nest, position: Index) -> Index:
        return totals.place(rows, (*nest.lead, position, *nest.rest))

    def read(nest: _Nest, array: Array) -> int:
        return nest.lo.converted(array.load(nest.lo, nest.in_row(array), nest.inside), array.dtype, int64)

    def many(nest: _Nest) -> int:
        """Whether a position names a place with a total."""
        return nest.lo.emit("compare", "bool", nest.lo.number(FEW), read(nest, times), extra=("LT", "int64"))

    def is_last(nest: _Nest) -> int:
        """Whether a position is the last that names such a place."""
        same = nest.lo.emit("compare", "bool", nest.lo.index(nest.number), read(nest, last), extra=("EQ", "int64"))
        return nest.lo.both(same, many(nest))

    first, second, start, add, end = (_Nest(memory, node) for _ in range(5))
    first.scatter(last, first.in_row(last), first.lo.converted(first.lo.index(first.number), int64, int32), "set")
    first.scatter(times, first.in_row(times), first.lo.constant(0, int32), "set")
    second.scatter(times, second.in_row(times), second.lo.constant(1, int32), "add")

    value = start.lo.converted(out.load(start.lo, start.place(out), start.inside), node.dtype, float64)
    start.scatter(totals, total(start, start.number), value, "set", is_last(start))

    value, often = add.update(), many(add)
    wide = add.lo.converted(value, node.dtype, float64)
    add.scatter(totals, total(add, (0, ((-1 - read(add, last), 1),))), wide, "add", often)
    add.scatter(out, add.place(out), value, "add", add.lo.emit("not", "bool", often))

    value = end.lo.converted(totals.load(end.lo, total(end, end.number), end.inside), float64, node.dtype)
    end.scatter(out, end.place(out), value, "set", is_last(end))

    kernels = [finish(nest.lo, nest.batch, [nest.inner, []], max(positions, 1)) for nest in (first, second)]
    kernels = [_copy(Lowerer(dict(memory)), node, None, out), *kernels, *(x.finish() for x in (start, add, end))]
    return kernels, (size + count(update.shape)) * float64.itemsize


def _loops(lo: Lowerer, sizes: Sequence[int], into: list[int]) -> list[Index]:
    """An index of loops that are new, those of size one left out."""
    at = []
    for n in sizes:
        if n != 1:
            into.append(len(lo.extents))
            lo.extents.append(n)
        at.append(loop_index(into[-1]) if n != 1 else ZERO)
    return at


def _copy(lo: Lowerer, node: Node, source: Array | None, target: Array) -> Kernel:
    """What a scatter starts from, or what it made elsewhere."""
    outer: list[int] = []
    at = tuple(_loops(lo, node.shape, outer))
    value = lo.value(node.inputs[0], at) if source is None else source.load(lo, source.place(node.shape, at))
    value = lo.converted(value, node.dtype if source is None else source.dtype, target.dtype)
    target.store(lo, target.place(node.shape, at), value)
    return finish(lo, outer, [[]], max(count(node.shape), 1))


class _Nest:
    """The loops of a scatter. The axes that the indices do not address are the outer ones (`batch` and `outer`), for
    there places are independent. Inside, every position has its turn, in the same order whoever computes it."""

    def __init__(self, memory: Mapping[Node, int], node: Node) -> None:
        self.lo, self.node = Lowerer(dict(memory)), node
        index, axes, batch = node.inputs[1], node.attrs["axes"], node.attrs["batch"]
        others = [i for i in range(batch, len(node.shape)) if i not in axes]
        self.batch: list[int] = []
        self.outer: list[int] = []
        self.inner: list[int] = []
        sizes = index.shape[batch:-1]
        self.lead = _loops(self.lo, node.shape[:batch], self.batch)
        self.rest = _loops(self.lo, [node.shape[i] for i in others], self.outer)
        self.position = _loops(self.lo, sizes, self.inner)
        self.number = combine(*zip(strides(sizes), self.position, strict=True))  # of the position, in its batch row
        self.chosen, inside = indexed(self.lo, node, tuple(self.lead), tuple(self.position), None)
        assert inside is not None
        self.inside: int = inside
        self.at = {**self.chosen, **dict(enumerate(self.lead)), **dict(zip(others, self.rest, strict=True))}

    def place(self, array: Array) -> Index:
        """Of the element that a position names, in an array shaped as the result."""
        return array.place(self.node.shape, [self.at[i] for i in range(len(self.node.shape))])

    def in_row(self, array: Array) -> Index:
        """The same in an array without the axes that the indices do not address."""
        kept = [*range(len(self.lead)), *sorted(self.chosen)]
        return array.place([self.node.shape[i] for i in kept], [self.at[i] for i in kept])

    def update(self) -> int:
        at = (*self.lead, *self.position, *self.rest)
        return self.lo.value(self.node.inputs[2], at, self.inside)

    def scatter(self, array: Array, place: Index, value: int, how: str, mask: int | None = None) -> None:
        where = self.inside if mask is None else self.lo.both(self.inside, mask)
        self.lo.emit("scatter", array.dtype.name, value, where, extra=(array.row, place, how, 0))

    def finish(self) -> Kernel:
        elements = max(count(self.node.inputs[2].shape), 1)
        return finish(self.lo, [*self.batch, *self.outer], [self.inner, []], elements)


def _scatter(memory: Mapping[Node, int], node: Node, target: Array) -> Kernel:
    """Writes or adds the updates."""
    nest = _Nest(memory, node)
    value = nest.lo.converted(nest.update(), node.dtype, target.dtype)
    nest.scatter(target, nest.place(target), value, node.attrs["combine"])
    return nest.finish()


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

"""The loops around a group's instructions: which there are, which are vectors, which melt into one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from katachi.graph.dtypes import float64
from katachi.graph.node import Node
from katachi.graph.primitives import REDUCTIONS
from katachi.graph.sizes import count
from katachi.graph.symint import always_equal
from katachi.kernels.loops import ACCUMULATIONS, IN_ORDER, INNER, PLACED, THREAD, UNIT, Affine, Code, Instr, Kernel
from katachi.kernels.lower import ZERO, Index, Indices, Lowerer

ACCUMULATE = {
    "reduce_sum": "sum", "reduce_prod": "product", "reduce_max": "max", "reduce_min": "min", "reduce_and": "all_bits",
    "reduce_or": "any_bit", "argmax": "argmax",
}  # fmt: skip
LINE = 64  # elements: rows of different threads share no cache line, whatever their dtype
REDUCING = frozenset((*REDUCTIONS, "argmax"))


def reduced(node: Node) -> tuple[int, ...]:
    """The axes that a reduction removes."""
    return (node.attrs["axis"],) if node.primitive == "argmax" else tuple(node.attrs["axes"])


def without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def depths(nodes: Sequence[Node]) -> dict[Node, int]:
    """For each node of a group how many of its reductions stand below one another under it: its stage."""
    depth: dict[Node, int] = {}
    for node in nodes:
        depth[node] = max((depth[x] + (x.primitive in REDUCING) for x in node.inputs if x in depth), default=0)
    return depth


def row_steps(node: Node, nodes: Sequence[Node]) -> list[int]:
    """Of a value that each thread holds one row of, while a group reduces rows: per axis the step within the row, and
    how many elements a row takes, in whole cache lines."""
    first = next(n for n in nodes if n.primitive in REDUCING)
    gone = reduced(first)
    within = iter([i in gone for i, n in enumerate(first.inputs[0].shape) if n != 1])
    inside = [n != 1 and next(within) for n in node.shape]
    steps, size = [0] * len(node.shape), 1
    for i in range(len(node.shape) - 1, -1, -1):
        if inside[i]:
            steps[i] = size
            size *= node.shape[i]
    return [*steps, -(-size // LINE) * LINE]


def lower_loops(
    nodes: Sequence[Node],
    inputs: Sequence[Node],
    outputs: Sequence[Node],
    rows: Mapping[Node, int],
    local: Collection[Node] = (),
) -> Kernel:
    """The kernel of one group of loops.

    Its reductions all go over the same axes of the same shape; its outputs have that shape or the reduced one, give or
    take axes of size one. Of those in `local` each thread holds a row.
    """
    first = next((n for n in nodes if n.primitive in REDUCING), None)
    full = outputs[0].shape if first is None else first.inputs[0].shape
    gone = () if first is None else reduced(first)
    depth = depths(nodes)

    lo = Lowerer({x: rows[x] for x in inputs})
    lo.steps = {x: row_steps(x, nodes) for x in local}
    outer_of: list[int | None] = [None] * len(full)  # the outer loop of each axis
    for i, n in enumerate(full):
        if n != 1 and i not in gone:
            outer_of[i] = len(lo.extents)
            lo.extents.append(n)
    kept = tuple(loop_index(v) for i, v in enumerate(outer_of) if i not in gone)
    kept_sizes = tuple(n for i, n in enumerate(full) if i not in gone)
    outer, stages = list(range(len(lo.extents))), []
    work, written = [node for node in nodes if node.primitive in REDUCING or node in set(outputs)], set(outputs)
    for stage in range(max((depth[n] for n in work), default=0) + 1):
        inner: list[int] = []
        at = [loop_index(v) for v in outer_of]
        for i in gone:
            if full[i] != 1:
                inner.append(len(lo.extents))
                at[i] = loop_index(len(lo.extents))
                lo.extents.append(full[i])
        stored = []
        for node in work:
            if depth[node] != stage:
                continue
            if node.primitive in REDUCING:
                value, spot = _accumulate(lo, node, tuple(at), stage), kept
                lo.accumulated[node] = value, spot
            else:
                spot = (
                    _fit(node.shape, full, tuple(at))
                    if gone and not always_equal(without_ones(node.shape), without_ones(kept_sizes))
                    else _fit(node.shape, kept_sizes, kept)
                )
                value = lo.value(node, spot)
                stored.append(node)
            if node in written:
                place = lo.place(node, node.shape, spot)
                lo.emit("store", node.dtype.name, value, extra=(rows[node], place))
        for node in stored:
            lo.rows[node] = rows[node]  # later stages read it back
        stages.append(inner)
    stages.append([])
    return finish(lo, outer, stages, max(count(full), 1))


def loop_index(loop: int | None) -> Index:
    return ZERO if loop is None else (0, ((loop, 1),))


def _fit(shape: Sequence[int], sizes: Sequence[int], loops: Indices) -> Indices:
    """The index of a value of `shape` in the loops over `sizes`, which differs in ones only."""
    order = iter([x for n, x in zip(sizes, loops, strict=True) if n != 1])
    return tuple(ZERO if n == 1 else next(order) for n in shape)


def _accumulate(lo: Lowerer, node: Node, at: Indices, stage: int) -> int:
    """Products of floats are made in float64: there is no order in which float32 would do for many factors."""
    (x,) = node.inputs
    if node.primitive == "reduce_prod" and x.dtype.is_floating:
        wide = lo.emit("product", "float64", lo.converted(lo.value(x, at), x.dtype, float64), extra=stage)
        return lo.converted(wide, float64, x.dtype)
    args = [lo.value(x, at)]
    if node.primitive == "argmax":
        args.append(lo.index(at[node.attrs["axis"]]))
    return lo.emit(ACCUMULATE[node.primitive], x.dtype.name, *args, extra=stage)


def _better(maps: Sequence[Mapping[int, int]], outer: int, inner: Collection[int]) -> bool:
    """Whether vectors along the outer loop read and write with fewer leaps than along the inner ones; if there are as
    many, whether they find more elements side by side."""
    leaps = sum((m.get(outer, 0) not in (0, 1)) - any(m.get(e, 0) not in (0, 1) for e in inner) for m in maps)
    neighbours = sum((m.get(outer) == 1) - any(m.get(e) == 1 for e in inner) for m in maps)
    return (-leaps, neighbours) > (0, 0)


def finish(lo: Lowerer, outer: list[int], stages: list[list[int]], elements: int) -> Kernel:
    """Melts loops, chooses the vector loop and gives every number its slot."""
    places: list[Index | None] = [
        extra if name == "index" else extra[1] if name in PLACED else None for name, _, _, extra in lo.instrs
    ]
    maps = [dict(p[1]) for p in places if p is not None]
    melted: dict[int, int] = {}  # loop: the next inner one it became part of
    extents = lo.extents
    for nest in (outer, *stages):
        whole = {loop: extents[loop] for loop in nest}
        for a, b in reversed(list(pairwise(nest))):
            if all(always_equal(m.get(a, 0), m.get(b, 0) * whole[b]) for m in maps):
                melted[a] = melted.get(b, b)
                extents[melted[a]] *= whole[a]
    keep = [[loop for loop in nest if loop not in melted] for nest in (outer, *stages)]
    outer, stages = keep[0], keep[1:]
    ends = {nest[-1] for nest in stages if nest}
    last = outer[-1] if outer else None
    inside = {loop for nest in stages for loop in nest}
    often = [m for m in maps if not inside.isdisjoint(m)] or maps  # what stands outside of the stages is read seldom
    vector_outer = last is not None and (not ends or _better(often, last, ends)) and not lo.steps
    if vector_outer:
        # Where something runs across the vectors, the loop it runs along goes inside, so that its cache lines serve all
        # lanes before they are gone.
        across = [loop for loop in outer[:-1] if any(m.get(loop) == 1 and m.get(last, 0) > 1 for m in maps)]
        outer[:] = [loop for loop in outer if loop not in across] + across
    renumber = {loop: i for i, loop in enumerate(loop for nest in keep for loop in nest)}
    sizes = [extents[loop] for loop in renumber]

    vectors = {last} if vector_outer else ends

    depth_of: dict[int, int] = {loop: i + 1 for i, loop in enumerate(outer)}
    starts, at = [], len(outer)
    for nest in stages:
        starts.append(at)
        depth_of.update((loop, at + i + 1) for i, loop in enumerate(nest))
        at += len(nest) + 1

    parameters = [*sizes, 0, 0]
    base = len(parameters)
    parameters += lo.numbers

    def slot(value: int) -> int:
        parameters.append(value)
        return len(parameters) - 1

    body: list[Instr] = []
    for (name, dtype, args, extra), place in zip(lo.instrs, places, strict=True):
        where = max((body[a].where for a in args), default=0)
        if place is not None:
            loops, values = [], []
            start = slot(place[0])
            for v, c in place[1]:
                if v < 0:
                    values.append((-1 - v, slot(c)))
                    where = max(where, body[-1 - v].where)
                elif v == THREAD:
                    loops.append((THREAD, slot(c)))
                elif v not in melted:
                    loops.append((renumber[v], UNIT if c == 1 and v in vectors else slot(c)))
                    where = max(where, depth_of[v])
            affine = Affine(start, tuple(loops), tuple(values))
            extra = affine if name == "index" else (slot(extra[0]), affine, *extra[2:])
        elif name in ACCUMULATIONS:
            where = starts[extra + 1]
        elif name in ("number", "argument"):
            extra += base
        elif name == "check":
            extra = (extra[0] + base, extra[1] + base)
        if name in IN_ORDER:  # once in every iteration, whatever it depends on
            where = starts[extra[-1]] + len(stages[extra[-1]])
        body.append(Instr(name, dtype, args, extra, where))
    code = Code(len(outer), tuple(len(nest) for nest in stages), renumber[last] if vector_outer else INNER, tuple(body))
    return Kernel(code, parameters, sizes, elements * len(body), tuple(lo.checks))

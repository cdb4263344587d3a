"""How a graph becomes a recipe: values get rows, groups get kernels, temporaries get places in the arena."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from katachi.compiler import bodies
from katachi.compiler.fuse import Group, fuse
from katachi.compiler.order import overwriting
from katachi.compiler.passes import optimise
from katachi.compiler.plan import plan, stack
from katachi.compiler.recipe import Cell, Recipe, Value
from katachi.compiler.steps import Step, last_uses, nbytes
from katachi.compiler.symbolic import LoopKernel, Stretch, SymbolicRecipe, TemplateKernel
from katachi.devices.cpu.engine import engine
from katachi.devices.cpu.pool import pool
from katachi.devices.cpu.tasks import Loops, Template, kernels_of, parts_of
from katachi.devices.cpu.templates import steps_of
from katachi.graph.costs import operations
from katachi.graph.node import Node, toposort
from katachi.graph.shape_env import current
from katachi.graph.symint import evaluate, evaluated, is_symbolic
from katachi.kernels.loops import SCRATCH
from katachi.kernels.lower import lowerable
from katachi.kernels.nest import row_steps


def grouped(outputs: Sequence[Node], replaces: Mapping[int, int]) -> tuple[list[Node], list[Group], set[Node]]:
    """The outputs after the passes; the groups that compute them, in order; which outputs take a cell's memory."""
    outputs = optimise(outputs)
    nodes = toposort(outputs)
    groups = fuse(nodes, outputs, lambda n: n.device == "cpu" and lowerable(n))
    entered = {n.attrs["slot"]: n for n in nodes if n.primitive == "input" and not n.attrs["scalar"]}
    candidates = {outputs[i]: entered.get(k) for i, k in replaces.items() if outputs.count(outputs[i]) == 1}
    return outputs, *overwriting(groups, candidates)


class Draft(NamedTuple):
    """A recipe before its numbers are settled, which may be sizes."""

    recipe: Recipe  # without parts, offsets and arena
    parts: tuple[tuple[Sequence[Loops | Template], Sequence[Any]] | Step, ...]  # with bytes of scratch memory
    made: list[list[int]]  # by step: the temporaries that it makes
    last_used: list[list[int]]  # and those that nobody uses afterwards
    bytes: dict[int, Any]  # of each value, by its row


def make(outputs: Sequence[Node], replaces: Mapping[int, int]) -> Recipe:
    """For the program that computes `outputs`, of which some replace inputs."""
    d = draft(outputs, replaces)
    parts = tuple(part if isinstance(part, Step) else kernels_of(*part) for part in d.parts)
    planned = plan(d.made, d.last_used, d.bytes, {})
    return d.recipe._replace(parts=parts, offsets=tuple(planned.offsets.items()), arena=planned.arena)


def draft(outputs: Sequence[Node], replaces: Mapping[int, int]) -> Draft:
    """All that does not depend on how the arena is laid out and how work is divided."""
    outputs, groups, in_place = grouped(outputs, replaces)
    leaves = [n for n in toposort(outputs) if n.primitive == "input"]
    values = dict.fromkeys([*leaves, *[v for g in groups for v in g.outputs], *outputs])
    index = {n: i for i, n in enumerate(values, SCRATCH + 1)}

    def value(n: Node) -> Value:
        return Value(index[n], n.shape, n.dtype.name)

    made_here = {v for g in groups for v in g.outputs}
    fresh = [n for n in dict.fromkeys(outputs) if n in made_here and n not in in_place]
    cells = [Cell(value(outputs[i]), k) for i, k in replaces.items() if outputs[i] in in_place]
    keep = {index[n] for n in outputs}
    reads = [[index[x] for x in g.inputs if x in index] for g in groups]
    made = [[index[v] for v in g.outputs] for g in groups]
    size = {i: nbytes(n) for n, i in index.items()}
    for g in groups:
        size.update({index[v]: row_steps(v, g.nodes)[-1] * v.dtype.itemsize * pool().threads for v in g.local})
    temporary = [[r for r in rows if r not in keep] for rows in made]
    steps = [n for g in groups if g.kind == "reference" for n in (g.nodes[0], *g.nodes[0].inputs)]
    recipe = Recipe(
        rows=SCRATCH + 1 + len(index),
        uses=tuple((index[n], n.attrs["slot"]) for n in leaves if not n.attrs["scalar"]),
        numbers=tuple((index[n], n.attrs["slot"], n.dtype.name) for n in leaves if n.attrs["scalar"]),
        fresh=tuple(map(value, fresh)),
        in_place=tuple(cells),
        plain=tuple(
            (value(n), n.attrs["value"]) for n in dict.fromkeys(outputs) if n not in made_here and n not in leaves
        ),
        results=tuple(index[n] for n in outputs),
        parts=(),
        touched=tuple(value(n) for n in dict.fromkeys(steps) if n in index),
        offsets=(),
        arena=0,
        output=sum(size[r] for r in keep - {cell.value.row for cell in cells}),
        seconds=_seconds(groups),
        kinds=tuple(g.kind for g in groups),
    )
    return Draft(recipe, tuple(_parts(groups, index, in_place)), temporary, last_uses(reads, made, keep), size)


def symbolic_recipe(outputs: Sequence[Node], replaces: Mapping[int, int]) -> SymbolicRecipe | None:
    """The recipe of a program of any sizes, in a ShapeEnv; None where parts of it run in Python."""
    d, sizes = draft(outputs, replaces), tuple(current().sizes)
    numbers: dict[Any, int] = {}

    def place(x: Any) -> int:
        return numbers.setdefault(x, len(numbers))

    parts = [part for part in d.parts if not isinstance(part, Step)]
    if len(parts) < len(d.parts):
        return None
    stretches = tuple([_stretch(*part, place, sizes) for part in parts])
    planned = plan(d.made, d.last_used, {row: evaluate(n, sizes) for row, n in d.bytes.items()}, {})
    order = stack(d.made, d.last_used, planned.offsets)
    temporaries = tuple([(row, place(d.bytes[row])) for row, _ in order])
    return SymbolicRecipe(d.recipe, tuple(numbers), stretches, order, temporaries, sizes)


def _stretch(
    parts: Sequence[Loops | Template], scratch: Sequence[Any], place: Callable[[Any], int], sizes: Sequence[int]
) -> Stretch:
    """`place` gives each number that may depend on sizes a place among all of the program."""
    templates = [part for part in parts if isinstance(part, Template)]
    found = [steps_of(t.kind, evaluated(t.problem, sizes)) for t in templates]
    keys = [part.kernel.code for part in parts if isinstance(part, Loops)]
    names = iter(engine().names([*keys, *[key for steps in found for key, _, _ in steps.kernels]]))
    kernels = iter([next(names) for _ in keys])
    parameters: list[int] = []
    holes: list[tuple[int, int]] = []
    splits: dict[tuple[int, tuple[int, ...], int], int] = {}
    made: list[LoopKernel | TemplateKernel] = []
    for part in parts:
        if isinstance(part, Template):
            made.append(TemplateKernel(*part))
            continue
        code, own, extents, work, checks = part.kernel
        start = len(parameters)
        holes += [(start + i, place(n)) for i, n in enumerate(own) if is_symbolic(n)]
        parameters += [0 if is_symbolic(n) else n for n in own]
        division = (code.vector, tuple([place(n) for n in extents[: code.outer]]), place(work))
        which = splits.setdefault(division, len(splits))
        made.append(LoopKernel(next(kernels), start, start + code.split_slot, which, part.flags, checks))
    first = tuple([
        (steps.scratch, tuple([(next(names), tuple(own), tasks) for _, own, tasks in steps.kernels])) for steps in found
    ])  # fmt: skip
    return Stretch(
        tuple(made), tuple(parameters), tuple(holes), tuple(splits), tuple([place(n) for n in scratch]), first
    )


def _parts(groups: list[Group], index: dict[Node, int], in_place: set[Node]) -> Iterator[Any]:
    run: list[Group] = []
    for group in [*groups, None]:
        if group is not None and group.kind != "reference":
            run.append(group)
            continue
        if run:
            firm = next((i for i, g in enumerate(run) if in_place.intersection(g.outputs)), len(run))
            yield parts_of(run, index, firm)
            run = []
        if group is not None:
            (node,) = group.nodes
            yield bodies.step(node, tuple(index[x] for x in node.inputs), index[node])


def _seconds(groups: Sequence[Group]) -> float:
    """Roughly, and rather too much: how long the groups take on a slow machine."""
    moved = sum(nbytes(n) for g in groups for n in (*g.inputs, *g.outputs))
    products = [n for g in groups if g.kind not in ("loops", "in order") for n in g.outputs]
    return sum(map(operations, products)) / 5e10 + moved / 5e9

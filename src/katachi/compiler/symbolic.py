"""Programs whose sizes are parameters: decided once, with numbers for each size.

decided    which kernels there are, what they read and write, which temporary lies above which
numbers    extents and strides, how work is divided into tasks, places in the arena, shapes of results
"""

from __future__ import annotations

import marshal
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from katachi.compiler import stored
from katachi.compiler.native import SETTLED, NativeProgram
from katachi.compiler.plan import Stack, stacked
from katachi.compiler.recipe import Cell, Recipe, Value
from katachi.compiler.steps import Step
from katachi.devices.cpu.engine import engine
from katachi.devices.cpu.launch import Launch, Table
from katachi.devices.cpu.split import split
from katachi.graph.concrete import at_sizes
from katachi.graph.node import Node, toposort
from katachi.graph.shape_env import Guard, ShapeEnv, current, holds
from katachi.graph.symint import SymInt, evaluate, from_plain, is_symbolic, plain

Array = np.ndarray[Any, Any]
TemplateSteps = tuple[int, tuple[tuple[str, tuple[int, ...], int], ...]]  # scratch; kernel, parameters and tasks each


class LoopKernel(NamedTuple):
    """A kernel in the loop language."""

    kernel: str
    start: int  # where its parameters begin
    slot: int  # where among all of them it is said how its work is divided
    split: int  # and by which of the stretch's divisions
    flags: int
    checks: tuple[tuple[Any, int], ...]  # what each check is of, and along which axis


class TemplateKernel(NamedTuple):
    """What a template computes."""

    kind: str
    problem: tuple[Any, ...]  # in numbers, which may be sizes
    flags: int


class Stretch(NamedTuple):
    """Kernels that run one after another. Numbers that may depend on sizes have places in `SymbolicRecipe.numbers`."""

    parts: tuple[LoopKernel | TemplateKernel, ...]
    parameters: tuple[int, ...]  # of all loops in a row
    holes: tuple[tuple[int, int], ...]  # (where a number goes in it, which)
    splits: tuple[tuple[int, tuple[int, ...], int], ...]  # (vector loop, extents of the loops around, work), each once
    scratch: tuple[int, ...]
    first: tuple[TemplateSteps, ...]  # of templates for `SymbolicRecipe.sizes`, known without computing


class SymbolicRecipe(NamedTuple):
    """A recipe whose numbers are expressions of the sizes."""

    recipe: Recipe  # without parts, offsets and arena
    numbers: tuple[Any, ...]
    stretches: tuple[Stretch, ...]
    stack: Stack
    bytes: tuple[tuple[int, int], ...]  # of temporaries, by row
    sizes: tuple[int, ...]  # that it was made at


class SymbolicProgram:
    """A program of any sizes, from which it is made for given ones."""

    def __init__(self, plan: SymbolicRecipe, outputs: Sequence[Node], replaces: Mapping[int, int]) -> None:
        """Raises LookupError if some kernels are no longer on disk."""
        self.plan, self.outputs, self.replaces = plan, outputs, replaces
        self.stretches = [_Loaded(stretch) for stretch in plan.stretches]
        self.made = 0  # programs
        self.shapes = [_SymbolicTuple(x) for x in (plan.recipe.fresh, plan.recipe.in_place, plan.recipe.plain)]

    def at(self, sizes: Sequence[int]) -> NativeProgram:
        """The program for these sizes."""
        plan, r = self.plan, self.plan.recipe
        values = [evaluate(x, sizes) for x in plan.numbers]
        first = sizes == plan.sizes
        launches: list[Launch | Step] = [stretch.at(sizes, values, first) for stretch in self.stretches]
        offsets, arena = stacked(plan.stack, {row: values[i] for row, i in plan.bytes})
        fresh, in_place, plain = (shapes.at(sizes) for shapes in self.shapes)
        recipe = r._replace(
            fresh=fresh,
            in_place=in_place,
            plain=plain,
            offsets=tuple(offsets.items()),
            arena=arena,
            output=evaluate(r.output, sizes),
            seconds=evaluate(r.seconds, sizes),
        )
        program = NativeProgram.of(recipe, launches, lambda: (at_sizes(sizes)(self.outputs), self.replaces))
        program.runs = SETTLED if self.made else 0  # what other sizes left is of use to it
        self.made += 1
        return program


class _Loaded:
    """A stretch with the addresses of its kernels."""

    def __init__(self, stretch: Stretch) -> None:
        self.stretch = stretch
        self.kernels = _addresses([part.kernel for part in stretch.parts if isinstance(part, LoopKernel)])
        self.first = [
            (scratch, [(_addresses([kernel])[0], *rest) for kernel, *rest in kernels])
            for scratch, kernels in stretch.first
        ]
        self.known: dict[Any, int] = {}  # where templates' kernels begin, by their keys
        self.problems = [(p.kind, _SymbolicTuple(p.problem)) for p in stretch.parts if isinstance(p, TemplateKernel)]
        self.parameters = np.array(stretch.parameters, np.int64)
        self.holes = [at for at, _ in stretch.holes]

    def at(self, sizes: Sequence[int], values: Sequence[Any], first: bool) -> Launch:
        """What runs the kernels for these sizes, and these values of the program's numbers."""
        stretch, parameters = self.stretch, self.parameters.copy()
        parameters[self.holes] = [values[i] for _, i in stretch.holes]
        splits = [split(vector, [values[i] for i in outer], values[work]) for vector, outer, work in stretch.splits]
        steps = self.first if first else self._templates(sizes)
        table = Table(max([*[values[i] for i in stretch.scratch], *[scratch for scratch, _ in steps]], default=0))
        base = table.keep(parameters)
        made, kernels = iter(steps), iter(self.kernels)
        for part in stretch.parts:
            if isinstance(part, TemplateKernel):
                for kernel, numbers, tasks in next(made)[1]:
                    table.add(kernel, table.keep(np.array(numbers, np.int64)), tasks, part.flags)
            else:
                tasks, parameters[part.slot], parameters[part.slot + 1] = splits[part.split]
                table.add(next(kernels), base + 8 * part.start, tasks, part.flags, part.checks)
        return Launch(table)

    def _templates(self, sizes: Sequence[int]) -> list[Any]:
        from katachi.devices.cpu.templates import steps_of

        steps = [steps_of(kind, problem.at(sizes)) for kind, problem in self.problems]
        keys = [key for found in steps for key, _, _ in found.kernels if key not in self.known]
        if keys:
            self.known.update(zip(keys, _addresses(engine().names(keys)), strict=True))
        return [(found.scratch, [(self.known[key], *rest) for key, *rest in found.kernels]) for found in steps]


class _SymbolicTuple:
    """A tuple with sizes in it, and where they are: the rest is there once.

    `_SymbolicTuple((8, (s0, 4), 2)).at([7])` is `(8, (7, 4), 2)`, of which only the pair is made anew.
    """

    def __init__(self, of: tuple[Any, ...]) -> None:
        self.fixed = list(of)
        self.inner = [(i, _SymbolicTuple(x)) for i, x in enumerate(of) if isinstance(x, tuple) and is_symbolic(x)]
        self.sizes = [(i, x) for i, x in enumerate(of) if x.__class__ is SymInt]

    def at(self, sizes: Sequence[int]) -> tuple[Any, ...]:
        found = self.fixed.copy()
        for i, x in self.sizes:
            found[i] = evaluate(x, sizes)
        for i, inner in self.inner:
            found[i] = inner.at(sizes)
        return tuple(found)


def _addresses(names: Sequence[str]) -> list[int]:
    found = engine().addresses(names)
    if found is None:
        raise LookupError
    return found


def symbolic_program(outputs: Sequence[Node], replaces: Mapping[int, int]) -> SymbolicProgram | None:
    """The program of any sizes, from the disk if it is there; None where parts of it run in Python. In a ShapeEnv,
    which gets its guards."""
    env, nodes = current(), toposort(outputs)
    name = stored.wanted_name(nodes, outputs, replaces, "sized")
    if name and (found := _read(name, nodes)):
        guards, plan = found
        if holds(guards, env.sizes):
            try:
                ready = SymbolicProgram(plan, outputs, replaces)
                for guard in guards:
                    env.add(guard)
                return ready
            except LookupError:
                pass
    from katachi.compiler.making import symbolic_recipe

    with ShapeEnv(env.sizes, env.equal) as own:  # all of the plan's guards, those that are known as well
        made = symbolic_recipe(outputs, replaces)
    for guard in own.guards:
        env.add(guard)
    if made is None:
        return None
    if name:
        _write(name, own.guards, made, nodes)
    return SymbolicProgram(made, outputs, replaces)


def _write(name: str, guards: Sequence[Guard], plan: SymbolicRecipe, nodes: Sequence[Node]) -> None:
    at = {stored.asked_for(n): i for i, n in enumerate(nodes)}
    try:
        stretches = [
            s._replace(parts=tuple([
                p._replace(checks=tuple([(at[stored.asked_for(n)], axis) for n, axis in p.checks]))
                if isinstance(p, LoopKernel) else p
                for p in s.parts
            ]))
            for s in plan.stretches
        ]  # fmt: skip
        data = marshal.dumps(plain((tuple(guards), plan._replace(stretches=tuple(stretches)))))
    except (KeyError, ValueError):  # it speaks of what is not in the graph
        return
    stored.write(name, data)


def _read(name: str, nodes: Sequence[Node]) -> tuple[list[Guard], SymbolicRecipe] | None:
    data = stored.read(name)
    if data is None:
        return None
    guards, (fields, numbers, stretches, order, sizes_of, sizes) = marshal.loads(data)
    recipe = Recipe(*fields)
    recipe = recipe._replace(
        fresh=tuple([Value(*from_plain(v)) for v in recipe.fresh]),
        in_place=tuple([Cell(Value(*from_plain(v)), k) for v, k in recipe.in_place]),
        plain=tuple([(Value(*from_plain(v)), from_plain(x)) for v, x in recipe.plain]),
        output=from_plain(recipe.output),
        seconds=from_plain(recipe.seconds),
    )
    ready = []
    for parts, *rest in stretches:
        made = [
            LoopKernel(*p)._replace(checks=tuple([(nodes[i], axis) for i, axis in p[-1]]))
            if len(p) == len(LoopKernel._fields)
            else TemplateKernel(p[0], from_plain(p[1]), p[2])
            for p in parts
        ]
        ready.append(Stretch(tuple(made), *rest))
    found = [Guard(from_plain(value), relation) for value, relation in guards]
    return found, SymbolicRecipe(recipe, tuple(map(from_plain, numbers)), tuple(ready), order, sizes_of, sizes)

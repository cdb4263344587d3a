"""Programs whose sizes are parameters: decided once, with numbers for each size.

decided    which kernels there are, what they read and write, which temporary lies above which
numbers    extents and strides, how work is divided into tasks, places in the arena, shapes of results
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from katachi.compiler.making import draft
from katachi.compiler.native import NativeProgram
from katachi.compiler.plan import plan, stack, stacked
from katachi.compiler.steps import Step
from katachi.devices.cpu.launch import Launch, Table
from katachi.devices.cpu.tasks import Loops, Template, addresses, split, steps_of
from katachi.graph.concrete import at_sizes
from katachi.graph.node import Node
from katachi.graph.symint import SymInt, current, evaluate, evaluated

Array = np.ndarray[Any, Any]


class Numbers:
    """All different numbers of a program, those that depend on sizes first computed once for each size."""

    def __init__(self) -> None:
        self.place: dict[Any, int] = {}

    def add(self, x: Any) -> int:
        """Where a number is found among those that `at` gives."""
        return self.place.setdefault(x, len(self.place))

    def at(self, sizes: Sequence[int]) -> list[Any]:
        return [evaluate(x, sizes) for x in self.place]


class Stretch:
    """Kernels that run one after another, from which a `Launch` is made for given sizes."""

    def __init__(self, parts: Sequence[Loops | Template], scratch: Sequence[Any], numbers: Numbers) -> None:
        self.parts = parts
        self.scratch = [numbers.add(n) for n in scratch]
        self.known: dict[Any, int] = {}  # where templates' kernels begin, by their keys
        loops = [part for part in parts if isinstance(part, Loops)]
        self.kernels = addresses([part.kernel.code for part in loops])
        # the parameters of all loops in a row; where in it are sizes, and which
        flat: list[int] = []
        self.holes: list[int] = []
        self.which: list[int] = []
        self.splits: dict[Any, int] = {}  # (loops around, vector loop, their extents, work), each once
        self.split_at: list[tuple[int, int]] = []  # for each kernel: where its split goes, and which it is
        self.starts: list[int] = []
        for part in loops:
            k = part.kernel
            self.starts.append(len(flat))
            for i, n in enumerate(k.parameters):
                if n.__class__ is SymInt:
                    self.holes.append(len(flat) + i)
                    self.which.append(numbers.add(n))
            outer = tuple([numbers.add(n) for n in k.extents[: k.code.outer]])
            key = (k.code.vector, outer, numbers.add(k.work))
            self.split_at.append((len(flat) + k.code.split_slot, self.splits.setdefault(key, len(self.splits))))
            flat += [0 if n.__class__ is SymInt else n for n in k.parameters]
        self.flat = np.array(flat, np.int64)

    def at(self, sizes: Sequence[int], values: list[Any]) -> Launch:
        """What runs them for these sizes, and these values of the program's numbers."""
        flat = self.flat.copy()
        flat[self.holes] = [values[i] for i in self.which]
        splits = [split(vector, [values[i] for i in outer], values[work]) for vector, outer, work in self.splits]
        table = Table(max([values[i] for i in self.scratch], default=0))
        base = table.keep(flat)
        loops = zip(self.kernels, self.starts, self.split_at, strict=True)
        keys: list[Any] = []
        steps: list[Any] = []
        for part in self.parts:
            if isinstance(part, Template):
                found = steps_of(part.kind, evaluated(part.problem, sizes))
                steps.append(found)
                keys += [key for key, _, _ in found.kernels if key not in self.known]
        if keys:
            self.known.update(zip(keys, addresses(keys), strict=True))
        made = iter(steps)
        for part in self.parts:
            if isinstance(part, Template):
                found = next(made)
                table.scratch = max(table.scratch, found.scratch)
                for key, parameters, tasks in found.kernels:
                    table.add(self.known[key], table.keep(np.array(parameters, np.int64)), tasks, part.flags)
                continue
            kernel, start, (at, i) = next(loops)
            tasks, flat[at], flat[at + 1] = splits[i]
            table.add(kernel, base + 8 * start, tasks, part.flags, part.kernel.checks)
        return Launch(table)


class SizedPlan:
    """A draft of a program, from which it is made for given sizes."""

    def __init__(self, outputs: Sequence[Node], replaces: Mapping[int, int]) -> None:
        self.outputs, self.replaces = outputs, replaces
        self.draft = d = draft(outputs, replaces)
        self.whole = all(not isinstance(part, Step) for part in d.parts)  # nothing runs in Python
        if not self.whole:
            return
        sizes = current().sizes
        planned = plan(d.made, d.last_used, {row: evaluate(n, sizes) for row, n in d.bytes.items()}, {})
        self.numbers = Numbers()
        self.stack = stack(d.made, d.last_used, planned.offsets)
        self.bytes = [(row, self.numbers.add(d.bytes[row])) for row, _ in self.stack]
        self.stretches = [Stretch(*part, self.numbers) for part in d.parts if not isinstance(part, Step)]

    def at(self, sizes: Sequence[int]) -> NativeProgram:
        """The program for these sizes."""
        r, values = self.draft.recipe, self.numbers.at(sizes)
        launches: list[Launch | Step] = [stretch.at(sizes, values) for stretch in self.stretches]
        offsets, arena = stacked(self.stack, {row: values[i] for row, i in self.bytes})
        recipe = r._replace(
            fresh=evaluated(r.fresh, sizes),
            in_place=evaluated(r.in_place, sizes),
            plain=evaluated(r.plain, sizes),
            offsets=tuple(offsets.items()),
            arena=arena,
            output=evaluate(r.output, sizes),
            seconds=evaluate(r.seconds, sizes),
        )
        return NativeProgram.of(recipe, launches, lambda: (at_sizes(sizes)(self.outputs), self.replaces))


def sized_plan(outputs: Sequence[Node], replaces: Mapping[int, int]) -> SizedPlan | None:
    """The plan of a program of any sizes, None where parts of it run in Python."""
    found = SizedPlan(outputs, replaces)
    return found if found.whole else None

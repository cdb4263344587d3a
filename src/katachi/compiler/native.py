"""A program of the CPU device: kernels run in native calls; between them Python decides about control flow, and calls
functions of the user's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from katachi.compiler import stored
from katachi.compiler.bodies import NativeBody
from katachi.compiler.plan import Plan
from katachi.compiler.steps import Launched, Step, Stub, aliases, located, unmet, within_limit
from katachi.devices.cpu.engine import engine
from katachi.devices.memory import Arena, Buffer, Usage, allocate, arena, release
from katachi.errors import IndexBoundsError, OutOfMemoryError
from katachi.graph.control import BUNDLES
from katachi.graph.dtypes import as_dtype
from katachi.graph.node import Node
from katachi.graph.sizes import count
from katachi.kernels.loops import SCRATCH

if TYPE_CHECKING:
    from katachi.compiler.fuse import Group
    from katachi.compiler.recipe import Recipe
    from katachi.devices.cpu.launch import Launch

Source = Callable[[], tuple[Sequence[Node], Mapping[int, int]]]
FORMATS: dict[str, Any] = {
    "float32": "f", "float64": "d", "int64": "q", "int32": "i", "uint64": "Q", "uint32": "I", "bool": "?",
}  # fmt: skip
CONTROL = (*BUNDLES, "element")  # runs in Python, between native bodies
CELL = 8  # bytes a host number has in memory
SETTLED = 2  # runs, after which a program's buffers come back to it
BESIDE = 0.1  # seconds: a longer program runs in a thread of its own, so that Ctrl-C is heard


class NativeProgram:
    """Every value has a row in a table of addresses. Temporaries lie in the arena that all programs share; a run fills
    in the addresses of inputs and outputs and makes one native call per stretch of lowered groups."""

    def __init__(self, outputs: Sequence[Node], replaces: Mapping[int, int], own: Arena | None = None) -> None:
        """`own`: the arena of a body, which runs amid another program."""
        before = engine().compiled
        r, stretches = stored.found_or_made(outputs, replaces)
        self.kernels_compiled = engine().compiled - before
        self._set_up(r, stretches, lambda: (outputs, replaces), own)

    @classmethod
    def of(cls, r: Recipe, stretches: list[Launch | Step], source: Source) -> NativeProgram:
        """A program from its recipe. `source` gives its outputs, and which inputs they replace."""
        program = object.__new__(cls)
        program.kernels_compiled = 0
        program._set_up(r, stretches, source, None)
        return program

    def _set_up(self, r: Recipe, stretches: list[Launch | Step], source: Source, own: Arena | None) -> None:
        self.stretches, self._source = stretches, source
        self.uses, self.results, self.plain = r.uses, r.results, r.plain
        self.fresh = [(row, shape, _numpy(dtype)) for row, shape, dtype in r.fresh]
        self.in_place = [(row, shape, _numpy(dtype), k) for (row, shape, dtype), k in r.in_place]
        self.overwritten: list[Buffer] = []  # by the run that is prepared
        self.arena = own or arena
        self.aliases = aliases(r.results, [row for row, _ in r.uses])
        launches = [part for part in self.stretches if not isinstance(part, Step)]
        steps = [part for part in self.stretches if isinstance(part, Step)]
        self.bodies = [b for part in steps for b in (part.attrs or {}).values() if isinstance(b, NativeBody)]
        scratch = max([*(part.scratch for part in launches), *(body.bytes for body in self.bodies)], default=0)
        self.plan = Plan(dict(r.offsets), r.arena, r.output, scratch)
        self.kinds = r.kinds
        self.reference_steps = [step.node.primitive for step in steps if step.node.primitive not in CONTROL]
        self.reference_steps += [name for body in self.bodies for name in body.program.reference_steps]
        self.table = np.zeros(r.rows, np.int64)
        self.rows: Any = self.table.data  # the same memory, faster to write to
        self.address = self.table.__array_interface__["data"][0]
        self.offsets = r.offsets
        self.arena_base = 0
        self._lay_out_numbers(r.numbers)
        self.touched = [(row, self.plan.offsets.get(row), shape, _numpy(dtype)) for row, shape, dtype in r.touched]
        self.runs, self.done = 0, False
        self.given: dict[int, Buffer] = {}  # while a run is prepared
        self.last = self.stretches[-1] if self.stretches and not isinstance(self.stretches[-1], Step) else None
        self.long = r.seconds > BESIDE

    def _lay_out_numbers(self, numbers: Sequence[tuple[int, int, str]]) -> None:
        cells = np.zeros(max(len(numbers), 1) * CELL, np.uint8)
        start = cells.__array_interface__["data"][0]
        self.cells, self.numbers, self.number_arrays = cells, [], []
        for i, (row, k, dtype) in enumerate(numbers):
            self.rows[row] = start + i * CELL
            array = cells[i * CELL : (i + 1) * CELL].view(_numpy(dtype))[:1]
            form = FORMATS.get(dtype)
            target: Any = cells.data[i * CELL : (i + 1) * CELL].cast(form) if form else array
            self.numbers.append((target, k, array))
            self.number_arrays.append((row, array.reshape(())))

    def summary(self) -> str:
        native = [kind for kind in self.kinds if kind != "reference"]
        text = f"{len(native)} kernel launches ({native.count('matmul')} matmuls), "
        text += f"{self.kernels_compiled} kernels compiled"
        if self.bodies:
            text += f"; {len(self.bodies)} bodies of control flow, each a program"
        if self.reference_steps:
            text += f"; on the reference device, for want of a lowering: {', '.join(sorted(set(self.reference_steps)))}"
        return text

    @property
    def groups(self) -> list[Group]:
        """Made again where somebody asks: a program from the disk never made them."""
        from katachi.compiler.making import grouped

        return grouped(*self._source())[1]

    def launches(self) -> list[Launched]:
        """What runs, in order."""
        return [
            Launched(
                "control" if g.nodes[0].primitive in CONTROL else g.kind,
                g.nodes,
                g.inputs,
                tuple(v for v in g.outputs if v not in g.local),
            )
            for g in self.groups
        ]

    def run(self, inputs: Sequence[Buffer], numbers: Sequence[float]) -> list[Buffer]:
        """The outputs' buffers; raises what computing raises, with the user's line added."""
        buffers = self.prepare(inputs, numbers)
        self.launch()
        return buffers

    def another(self) -> NativeProgram:
        """The same program once more, for a run amid a run of this one."""
        return NativeProgram(*self._source())

    def prepare(
        self, inputs: Sequence[Buffer], numbers: Sequence[float], held: Container[int] | None = None
    ) -> list[Buffer]:
        """The outputs' buffers, which `launch` will fill.

        A replaced value's memory is taken by the new one unless it is shared, or its id is in `held`; where that is
        None, never. Raises MemoryLimitError, OutOfMemoryError."""
        if Usage.limit is not None and self.arena is arena:  # a body is part of the plan around it
            within_limit(self.plan, self._new_bytes(inputs, held), lambda: [v for g in self.groups for v in g.outputs])
        if self.runs < SETTLED:  # what others left is of no use to it, and what its first run leaves of little
            self.runs += 1
            release()
        try:
            rows = self.rows
            given: dict[int, Buffer] = {}
            for row, k in self.uses:
                buffer = given[row] = inputs[k]
                rows[row] = buffer.address
            for target, k, array in self.numbers:
                try:
                    target[0] = numbers[k]
                except OverflowError:  # a float beyond float32 is infinite
                    with np.errstate(over="ignore"):
                        array[0] = numbers[k]
            for row, shape, dtype in self.fresh:
                buffer = given[row] = allocate(shape, dtype)
                rows[row] = buffer.address
            overwritten: list[Buffer] = []
            for row, shape, dtype, k in self.in_place:
                buffer = inputs[k]
                # what `shared` asks, without a call
                if (
                    held is None
                    or buffer.pinned
                    or (buffer._alias is not None and buffer.shared())
                    or id(buffer) in held
                ):
                    buffer = allocate(shape, dtype)
                else:
                    overwritten.append(buffer)
                given[row] = buffer
                rows[row] = buffer.address
            self.overwritten = overwritten
            base = self.arena.at_least(self.plan.arena + self.plan.scratch)
            if base != self.arena_base:
                rows[SCRATCH] = base + self.plan.arena
                for row, offset in self.offsets:
                    rows[row] = base + offset
                self.arena_base = base  # at last: if Ctrl-C comes before, they are all written again
            for (row, shape, dtype), constant in self.plain:
                given[row] = allocate(shape, _numpy(dtype))
                given[row].array[...] = constant
        except OutOfMemoryError as error:
            raise unmet(self.plan, [v for g in self.groups for v in g.outputs], error) from None
        Usage.running(self.plan.arena + self.plan.scratch)
        self.given, self.done = given, False
        if self.last is not None:
            self.last.status[3] = 0
        results = [given[row] if row in given else self._number(row) for row in self.results]
        for i in self.aliases:
            results[i] = results[i].alias()
        return results

    def _new_bytes(self, inputs: Sequence[Buffer], held: Container[int] | None) -> int:
        """What `prepare` will allocate for results."""
        sizes = [(shape, dtype) for _, shape, dtype in self.fresh]
        sizes += [(shape, _numpy(dtype)) for (_, shape, dtype), _ in self.plain]
        sizes += [((), array.dtype) for row, array in self.number_arrays if row in self.results]
        sizes += [
            (shape, dtype)
            for _, shape, dtype, k in self.in_place
            if held is None or inputs[k].shared() or id(inputs[k]) in held
        ]
        return sum(count(shape) * dtype.itemsize for shape, dtype in sizes)

    def launch(self) -> None:
        """Compute what was prepared. Raises what computing raises, with the user's line added; no cell's memory has
        changed then, unless `committed()`, as when Ctrl-C comes too late."""
        given, self.given = self.given, {}
        if Stub.active:
            self.done = True
            return
        env: list[Any] = self._arrays(given) if self.touched else []
        main = self.long and threading.current_thread() is threading.main_thread()
        for part in self.stretches:
            if isinstance(part, Step):
                with np.errstate(all="ignore"):
                    out = part.run(env)
                    if isinstance(out, tuple):  # the results of control flow, which `element` takes apart
                        env[part.writes] = out
                    else:
                        np.copyto(env[part.writes], out)
                for body in self.bodies:
                    body.release()
                continue
            try:
                if main:
                    part.beside(self.address)
                else:
                    part(self.address)
            except IndexBoundsError as error:
                raise located(error, getattr(error, "node", None)) from None
        self.done = True

    def wait(self) -> None:
        """If kernels run in a thread of their own, until they have ended."""
        for part in self.stretches:
            if not isinstance(part, Step):
                part.wait()

    def committed(self) -> bool:
        """Whether the last launch came to its end, even if something was raised afterwards."""
        return self.done or (self.last is not None and self.last.whole())

    def _number(self, row: int) -> Buffer:
        """A host number that is a result."""
        array = dict(self.number_arrays)[row]
        buffer = allocate((), array.dtype)
        buffer.array[...] = array
        return buffer

    def _arrays(self, given: dict[int, Buffer]) -> list[Any]:
        """The values that reference steps touch, as arrays."""
        env: list[Any] = [None] * len(self.table)
        for row, offset, shape, dtype in self.touched:
            if offset is not None:
                env[row] = self.arena.view(offset, shape, dtype)
            elif row in given:
                env[row] = given[row].array
        for row, array in self.number_arrays:
            env[row] = array
        return env


def _numpy(dtype: str) -> np.dtype[Any]:
    return as_dtype(dtype).numpy

"""A program of the CPU device: fused groups run in native calls, what cannot be lowered yet in NumPy between them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from sys import getrefcount
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from katachi.compiler.fuse import Group, fuse
from katachi.compiler.order import overwriting
from katachi.compiler.plan import Plan, plan
from katachi.compiler.steps import Launched, Step, Stub, last_uses, located, nbytes, within_limit
from katachi.devices.memory import Buffer, Usage, allocate, arena, release
from katachi.errors import IndexBoundsError
from katachi.graph.attention import FIRST_MASK
from katachi.graph.node import Node, toposort
from katachi.graph.sizes import count
from katachi.kernels.loops import SCRATCH
from katachi.kernels.lower import lowerable
from katachi.kernels.nest import row_steps

if TYPE_CHECKING:
    from katachi.devices.cpu.launch import Launch

FORMATS: dict[str, Any] = {
    "float32": "f", "float64": "d", "int64": "q", "int32": "i", "uint64": "Q", "uint32": "I", "bool": "?",
}  # fmt: skip
CELL = 8  # bytes a host number has in memory


SETTLED = 2  # runs, after which a program's buffers come back to it
BESIDE = 0.1  # seconds: a longer program runs in a thread of its own, so that Ctrl-C is heard


class Place(NamedTuple):
    """A value that reference steps touch: its row, and its offset in the arena or None if it has a buffer of its
    own."""

    row: int
    offset: int | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class NativeProgram:
    """Every value has a row in a table of addresses. Temporaries lie in the arena that all programs share; a run fills
    in the addresses of inputs and outputs and makes one native call per stretch of lowered groups."""

    def __init__(self, outputs: Sequence[Node], replaces: Mapping[int, int]) -> None:
        from katachi.devices.cpu.engine import engine
        from katachi.devices.cpu.pool import pool

        nodes = toposort(outputs)
        groups = fuse(nodes, outputs, lambda n: n.device == "cpu" and lowerable(n))
        leaves = [n for n in nodes if n.primitive == "input"]
        entered = {n.attrs["slot"]: n for n in leaves if not n.attrs["scalar"]}
        candidates = {outputs[i]: entered.get(k) for i, k in replaces.items() if outputs.count(outputs[i]) == 1}
        groups, in_place = overwriting(groups, candidates)
        values = dict.fromkeys([*leaves, *[v for g in groups for v in g.outputs]])
        values.update(dict.fromkeys(outputs))
        index = {n: i for i, n in enumerate(values, SCRATCH + 1)}
        self.groups = groups
        self.uses = [(index[n], n.attrs["slot"]) for n in leaves if not n.attrs["scalar"]]
        self.results = [index[n] for n in outputs]
        made_here = {v for g in groups for v in g.outputs}
        fresh = dict.fromkeys(n for n in outputs if n in made_here and n not in in_place)
        self.fresh = [(index[n], n.shape, n.dtype.numpy) for n in fresh]
        # (row, shape, dtype, the input whose memory it may take, which of the replaced values it is, how many of the
        # references to that memory are `run`'s own: `inputs`, a variable, an argument, and `given` if it is read)
        self.in_place = [
            (index[outputs[i]], outputs[i].shape, outputs[i].dtype.numpy, k, place, 4 if k in entered else 3)
            for place, (i, k) in enumerate(replaces.items())
            if outputs[i] in in_place
        ]
        # a number that is itself a result: it has no group, and copies what it is
        self.plain = [(index[n], n) for n in dict.fromkeys(outputs) if n not in made_here and n not in leaves]
        keep = {index[n] for n in outputs}
        reads = [[index[x] for x in g.inputs if x in index] for g in groups]
        made = [[index[v] for v in g.outputs] for g in groups]
        dead = last_uses(reads, made, keep)
        size = {i: nbytes(n) for n, i in index.items()}
        for g in groups:
            size.update({index[v]: row_steps(v, g.nodes)[-1] * v.dtype.itemsize * pool().threads for v in g.local})
        temporary = [[r for r in rows if r not in keep] for rows in made]
        self.plan: Plan = plan(temporary, dead, size, {r: size[r] for r in keep - {row for row, *_ in self.in_place}})
        self.reference_steps = [g.nodes[0].primitive for g in groups if g.kind == "reference"]

        self.table = np.zeros(SCRATCH + 1 + len(index), np.int64)
        self.rows: Any = self.table.data  # the same memory, faster to write to
        self.address = self.table.__array_interface__["data"][0]
        self.offsets = [(r, offset) for r, offset in self.plan.offsets.items()]
        self.arena_base = 0
        self._lay_out_numbers([n for n in leaves if n.attrs["scalar"]], index)
        before = engine().compiled
        self.runs = 0
        self.given: dict[int, Buffer] = {}  # while a run is prepared
        self.stretches = self._load(groups, index, in_place)
        scratch = max((part.scratch for part in self.stretches if not isinstance(part, Step)), default=0)
        self.plan = replace(self.plan, scratch=scratch)
        self.last = self.stretches[-1] if self.stretches and not isinstance(self.stretches[-1], Step) else None
        self.long = _seconds(groups) > BESIDE
        self.kernels_compiled = engine().compiled - before

    def _lay_out_numbers(self, leaves: list[Node], index: dict[Node, int]) -> None:
        cells = np.zeros(max(len(leaves), 1) * CELL, np.uint8)
        start = cells.__array_interface__["data"][0]
        self.cells, self.numbers, self.number_arrays = cells, [], []
        for i, n in enumerate(leaves):
            self.rows[index[n]] = start + i * CELL
            array = cells[i * CELL : (i + 1) * CELL].view(n.dtype.numpy)[:1]
            form = FORMATS.get(n.dtype.name)
            target: Any = cells.data[i * CELL : (i + 1) * CELL].cast(form) if form else array
            self.numbers.append((target, n.attrs["slot"], array))
            self.number_arrays.append((index[n], array.reshape(())))

    def _load(self, groups: list[Group], index: dict[Node, int], in_place: set[Node]) -> list[Launch | Step]:
        from katachi.devices.cpu.launch import load

        stretches: list[Launch | Step] = []
        run: list[Group] = []
        places: dict[int, Place] = {}
        for group in [*groups, None]:
            if group is not None and group.kind != "reference":
                run.append(group)
                continue
            if run:
                firm = next((i for i, g in enumerate(run) if in_place.intersection(g.outputs)), len(run))
                stretches.append(load(run, index, firm))
                run = []
            if group is not None:
                (node,) = group.nodes
                for n in (node, *node.inputs):
                    if n in index:
                        places[index[n]] = Place(index[n], self.plan.offsets.get(index[n]), n.shape, n.dtype.numpy)
                stretches.append(Step(node, tuple(index[x] for x in node.inputs), index[node], ()))
        self.places = list(places.values())
        return stretches

    def summary(self) -> str:
        native = [g.kind for g in self.groups if g.kind != "reference"]
        text = f"{len(native)} kernel launches ({native.count('matmul')} matmuls), "
        text += f"{self.kernels_compiled} kernels compiled"
        if self.reference_steps:
            text += f"; on the reference device, for want of a lowering: {', '.join(sorted(set(self.reference_steps)))}"
        return text

    def launches(self) -> list[Launched]:
        """What runs, in order."""
        return [
            Launched(g.kind, g.nodes, g.inputs, tuple(v for v in g.outputs if v not in g.local)) for g in self.groups
        ]

    def run(self, inputs: Sequence[Buffer], numbers: Sequence[float]) -> list[Buffer]:
        """The outputs' buffers; raises what computing raises, with the user's line added."""
        buffers = self.prepare(inputs, numbers)
        self.launch()
        return buffers

    def prepare(self, inputs: Sequence[Buffer], numbers: Sequence[float], holders: Sequence[int] = ()) -> list[Buffer]:
        """The outputs' buffers, which `launch` will fill.

        `holders` says for each replaced value how many handles hold the old one. If nothing else does, the new one
        takes its memory."""
        if Usage.limit is not None:
            within_limit(self.plan, self._new_bytes(inputs, holders), [v for g in self.groups for v in g.outputs])
        if self.runs < SETTLED:  # what others left is of no use to it, and what its first run leaves of little
            self.runs += 1
            release()
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
        for row, shape, dtype, k, place, ours in self.in_place:
            buffer = inputs[k]
            if not holders or buffer.pinned or getrefcount(buffer) > holders[place] + ours:
                buffer = allocate(shape, dtype)
            given[row] = buffer
            rows[row] = buffer.address
        base = arena.at_least(self.plan.arena + self.plan.scratch)
        if base != self.arena_base:
            self.arena_base = base
            rows[SCRATCH] = base + self.plan.arena
            for row, offset in self.offsets:
                rows[row] = base + offset
        for row, n in self.plain:
            given[row] = allocate(n.shape, n.dtype.numpy)
            given[row].array[...] = n.attrs["value"]
        Usage.running(self.plan.arena + self.plan.scratch)
        self.given, self.done = given, False
        if self.last is not None:
            self.last.status[3] = 0
        return [given[row] if row in given else self._number(row) for row in self.results]

    def _new_bytes(self, inputs: Sequence[Buffer], holders: Sequence[int]) -> int:
        """What `prepare` will allocate for results. It asks as `prepare` does who holds a value, and when there are as
        many references to it: `given` has those that are read."""
        given = {row: inputs[k] for row, k in self.uses}
        sizes = [(shape, dtype) for _, shape, dtype in self.fresh]
        sizes += [(n.shape, n.dtype.numpy) for _, n in self.plain]
        sizes += [((), array.dtype) for row, array in self.number_arrays if row in self.results]
        for _, shape, dtype, k, place, ours in self.in_place:
            buffer = inputs[k]
            if not holders or buffer.pinned or getrefcount(buffer) > holders[place] + ours:
                sizes.append((shape, dtype))
        del given
        return sum(count(shape) * dtype.itemsize for shape, dtype in sizes)

    def launch(self) -> None:
        """Compute what was prepared. Raises what computing raises, with the user's line added; no cell's memory has
        changed then, unless `committed()`, as when Ctrl-C comes too late."""
        given, self.given = self.given, {}
        if Stub.active:
            self.done = True
            return
        env: list[Any] = self._arrays(given) if self.places else []
        main = self.long and threading.current_thread() is threading.main_thread()
        for part in self.stretches:
            if isinstance(part, Step):
                with np.errstate(all="ignore"):
                    out = part.run(env)
                    if isinstance(out, tuple):  # the results of control flow, which `element` takes apart
                        env[part.writes] = out
                    else:
                        np.copyto(env[part.writes], out)
                continue
            try:
                if main:
                    part.beside(self.address)
                else:
                    part(self.address)
            except IndexBoundsError as error:
                raise located(error, getattr(error, "node", None)) from None
        self.done = True

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
        for place in self.places:
            if place.offset is not None:
                env[place.row] = arena.view(place.offset, place.shape, place.dtype)
            elif place.row in given:
                env[place.row] = given[place.row].array
        for row, array in self.number_arrays:
            env[row] = array
        return env


def _seconds(groups: Sequence[Group]) -> float:
    """Roughly, and rather too much: how long the groups take on a slow machine."""
    moved = sum(nbytes(n) for g in groups for n in (*g.inputs, *g.outputs))
    products = [n for g in groups if g.kind not in ("loops", "in order") for n in g.outputs]
    return sum(map(_operations, products)) / 5e10 + moved / 5e9


def _operations(node: Node) -> float:
    """Of a matrix product, a convolution or attention; or as many as take the time of a sort."""
    if node.primitive == "sort":
        return 2500.0 * count(node.shape)
    if node.primitive in FIRST_MASK:
        return 4.0 * count(node.inputs[0].shape) * node.inputs[1].shape[-2]
    if node.primitive == "dot_general":
        axes, _ = node.attrs["contract"]
        return 2.0 * count(node.shape) * count(tuple(node.inputs[0].shape[i] for i in axes))
    return 2.0 * count(node.shape) * count(node.inputs[1].shape[1:]) if len(node.inputs) > 1 else 0.0

"""A program, made from nodes and run as often as wanted. This file: which kind, and the kind of the reference
device."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from katachi.compiler.plan import Plan, plan
from katachi.compiler.steps import Launched, Step, Stub, aliases, lacking, last_uses, nbytes, unmet, within_limit
from katachi.devices.memory import Buffer, Usage, allocate
from katachi.errors import OutOfMemoryError
from katachi.graph.concrete import Resized, at_sizes
from katachi.graph.node import Node, toposort
from katachi.graph.shape_env import current
from katachi.graph.sizes import count

if TYPE_CHECKING:
    from katachi.compiler.native import NativeProgram


class ReferenceProgram:
    """Runs primitive by primitive in NumPy."""

    kernels_compiled = 0

    def __init__(self, outputs: Sequence[Node]) -> None:
        self._outputs = outputs
        nodes = toposort(outputs)
        row = {n: i for i, n in enumerate(nodes)}
        leaves = [n for n in nodes if n.primitive == "input"]
        self.uses = [(row[n], n.attrs["slot"]) for n in leaves if not n.attrs["scalar"]]
        self.numbers = [(row[n], n.attrs["slot"], n.dtype.numpy) for n in leaves if n.attrs["scalar"]]
        self.rows, self.results = len(nodes), [row[n] for n in outputs]
        self.aliases = aliases(self.results, [row for row, _ in self.uses])
        self.overwritten: Sequence[Buffer] = ()  # none: new values have memory of their own
        self.kinds = [(row[n], (n.shape, n.dtype.numpy)) for n in dict.fromkeys(outputs)]
        self.inputs: Sequence[Buffer] = ()  # while a run is prepared
        self.given: Sequence[float] = ()
        self.made: dict[int, Buffer] = {}
        self.done = False
        work = [n for n in nodes if n.primitive != "input"]
        keep = set(self.results)
        reads, made = [[row[x] for x in n.inputs] for n in work], [[row[n]] for n in work]
        dead = last_uses(reads, made, keep)
        self.steps = [Step(n, tuple(reads[i]), row[n], tuple(dead[i])) for i, n in enumerate(work)]
        size = {row[n]: nbytes(n) for n in nodes}
        temporary = [[r for r in rows if r not in keep] for rows in made]
        self.plan: Plan = plan(temporary, dead, size, {r: size[r] for r in keep})
        self.reference_steps = [n.primitive for n in work]

    def summary(self) -> str:
        return f"{len(self.steps)} steps on the reference device"

    def launches(self) -> list[Launched]:
        """What runs, in order: one primitive each."""
        return [Launched("reference", (s.node,), s.node.inputs, (s.node,)) for s in self.steps]

    def run(self, inputs: Sequence[Buffer], numbers: Sequence[float]) -> list[Buffer]:
        """The outputs' buffers; raises what a primitive raises, with the user's line added."""
        buffers = self.prepare(inputs, numbers)
        self.launch()
        return buffers

    def another(self) -> ReferenceProgram:
        """The same program once more, for a run amid a run of this one."""
        return ReferenceProgram(self._outputs)

    def prepare(
        self, inputs: Sequence[Buffer], numbers: Sequence[float], held: Container[int] | None = None
    ) -> list[Buffer]:
        """The outputs' buffers, which `launch` will fill: all new, but for inputs that are outputs."""
        given = {row: inputs[k] for row, k in self.uses}
        if Usage.limit is not None:
            new = sum(count(shape) * dtype.itemsize for row, (shape, dtype) in self.kinds if row not in given)
            within_limit(self.plan, new, lambda: [step.node for step in self.steps])
        try:
            self.made = {row: allocate(*kind) for row, kind in self.kinds if row not in given}
        except OutOfMemoryError as error:
            raise unmet(self.plan, [step.node for step in self.steps], error) from None
        given.update(self.made)
        self.inputs, self.given, self.done = inputs, numbers, False
        results = [given[row] for row in self.results]
        for i in self.aliases:
            results[i] = results[i].alias()
        return results

    def wait(self) -> None:
        """Nothing runs in a thread of its own."""

    def launch(self) -> None:
        """Compute what was prepared; raises what a primitive raises, with the user's line added."""
        inputs, numbers, made = self.inputs, self.given, self.made
        self.inputs, self.given, self.made = (), (), {}
        if not Stub.active:
            Usage.running(self.plan.arena)
            env: list[Any] = [None] * self.rows
            for row, k in self.uses:
                env[row] = inputs[k].array
            with np.errstate(all="ignore"):
                for row, k, dtype in self.numbers:
                    env[row] = np.asarray(numbers[k]).astype(dtype)
                for step in self.steps:
                    # always contiguous, so the order of NumPy's sums cannot depend on what ran in which program
                    out = step.run(env)
                    bundle = isinstance(out, tuple)  # the results of control flow, which `element` takes apart
                    try:
                        env[step.writes] = out if bundle else np.ascontiguousarray(out).reshape(step.node.shape)
                    except MemoryError as error:
                        raise lacking(error, step.node) from None
                    for row in step.dead:
                        env[row] = None
            for row, buffer in made.items():
                buffer.array[...] = env[row]
        self.done = True

    def committed(self) -> bool:
        """Whether the last launch came to its end, even if something was raised afterwards."""
        return self.done


class Specializer:
    """Outputs of a graph whose sizes are parameters; `at(sizes)` is the program for given ones."""

    def __init__(self, outputs: Sequence[Node], replaces: Mapping[int, int]) -> None:
        """In a ShapeEnv, which gets the guards of what is decided here."""
        self.outputs, self.replaces = outputs, replaces
        self.symbolic = None  # unless all of the program is kernels
        env = current()
        if env.sizes and all(n.device == "cpu" for n in toposort(outputs)):
            from katachi.compiler.symbolic import symbolic_program

            self.symbolic = symbolic_program(Resized(env.simplified)(outputs), replaces)

    def at(self, sizes: Sequence[int]) -> Any:
        """The program for these sizes, for which the guards must hold."""
        if self.symbolic is not None:
            return self.symbolic.at(sizes)
        return build(at_sizes(sizes)(self.outputs) if sizes else self.outputs, self.replaces)


def build(outputs: Sequence[Node], replaces: Mapping[int, int] | None = None) -> ReferenceProgram | NativeProgram:
    """The program that computes `outputs` from the input nodes they reach, on the devices that the nodes name.

    `replaces`: outputs that are a cell's new value, and the inputs that are its old one."""
    nodes = toposort(outputs)
    if any(n.device != "reference" for n in nodes):
        from katachi.compiler.native import NativeProgram

        return NativeProgram(outputs, replaces or {})
    from katachi.compiler.passes import optimise

    return ReferenceProgram(optimise(outputs))

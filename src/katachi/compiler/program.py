"""A program: steps over rows of values, with its memory planned, made from nodes and run as often as wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from katachi.compiler.passes import optimise
from katachi.compiler.plan import Plan, plan
from katachi.devices.memory import Buffer, allocate
from katachi.devices.reference import REFERENCE
from katachi.errors import Error
from katachi.graph.node import Node, toposort
from katachi.graph.site import describe

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Step:
    """One primitive of the reference device: rows read, row written, rows that nobody needs afterwards."""

    node: Node
    define: Callable[..., Array]
    reads: tuple[int, ...]
    writes: int
    dead: tuple[int, ...]


class ReferenceProgram:
    """Runs primitive by primitive in NumPy.

    `uses` and `numbers` list which inputs and which host numbers it reads.
    """

    kernels_compiled = 0

    def __init__(self, outputs: Sequence[Node]) -> None:
        nodes = toposort(outputs)
        row = {n: i for i, n in enumerate(nodes)}
        leaves = [n for n in nodes if n.primitive == "input"]
        self.uses = [(row[n], n.attrs["slot"]) for n in leaves if not n.attrs["scalar"]]
        self.numbers = [(row[n], n.attrs["slot"], n.dtype.numpy) for n in leaves if n.attrs["scalar"]]
        self.rows, self.results = len(nodes), [row[n] for n in outputs]
        work = [n for n in nodes if n.primitive != "input"]
        keep = set(self.results)
        last = {row[x]: i for i, n in enumerate(work) for x in (*n.inputs, n)}
        dead: list[list[int]] = [[] for _ in work]
        for r, i in last.items():
            if r not in keep:
                dead[i].append(r)
        self.kinds = [(n.shape, n.dtype.numpy) for n in outputs]
        self.steps = [
            Step(n, REFERENCE[n.primitive], tuple(row[x] for x in n.inputs), row[n], tuple(dead[i]))
            for i, n in enumerate(work)
        ]
        size = {row[n]: nbytes(n) for n in nodes}
        made = [[row[n]] if row[n] not in keep else [] for n in work]
        self.plan: Plan = plan(made, dead, size, {r: size[r] for r in keep})
        self.reference_steps = [n.primitive for n in work]

    def summary(self) -> str:
        return f"{len(self.steps)} steps on the reference device"

    def run(self, inputs: Sequence[Buffer], numbers: Sequence[float]) -> list[Buffer]:
        """The outputs' buffers; raises what a primitive raises, with the user's line added."""
        if Stub.active:
            return [allocate(shape, dtype) for shape, dtype in self.kinds]
        env: list[Any] = [None] * self.rows
        for row, k in self.uses:
            env[row] = inputs[k].array
        for row, k, dtype in self.numbers:
            env[row] = np.asarray(numbers[k]).astype(dtype)
        with np.errstate(all="ignore"):
            for step in self.steps:
                try:
                    out = step.define(*[env[r] for r in step.reads], **step.node.attrs)
                except Error as error:
                    raise located(error, step.node) from None
                # always contiguous, so the order of NumPy's sums cannot depend on what ran in which program
                env[step.writes] = np.ascontiguousarray(out).reshape(step.node.shape)
                for row in step.dead:
                    env[row] = None
        return self._collect(env, inputs)

    def _collect(self, env: list[Any], inputs: Sequence[Buffer]) -> list[Buffer]:
        given = {row: inputs[k] for row, k in self.uses}
        made: dict[int, Buffer] = {}
        for row in self.results:
            if row not in made:
                array = env[row]
                made[row] = given[row] if row in given else Buffer(array if array.base is None else array.copy())
        return [made[row] for row in self.results]


class Stub:
    """Whether programs leave their results uncomputed, to measure everything else."""

    active = False


@contextmanager
def stubbed() -> Iterator[None]:
    """Within it programs allocate their results and compute nothing."""
    Stub.active = True
    try:
        yield
    finally:
        Stub.active = False


def located(error: Error, node: Node) -> Error:
    """The error with the primitive and the user's line; found later than the call, so the line must be said."""
    return type(error)(f"{error} (in {node.primitive}, asked for at {describe(node.site)})")


def nbytes(node: Node) -> int:
    size = node.dtype.itemsize
    for n in node.shape:
        size *= n
    return size


def build(outputs: Sequence[Node]) -> ReferenceProgram:
    """The program that computes `outputs` from the input nodes they reach."""
    return ReferenceProgram(optimise(outputs))


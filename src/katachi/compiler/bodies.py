"""Control flow on the CPU device: which body runs when is decided in Python, between native programs, one a body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from katachi.compiler.steps import Array, Step
from katachi.devices.memory import Arena
from katachi.graph.control import BUNDLES, Body
from katachi.graph.node import Node, aval
from katachi.graph.primitives import input_node
from katachi.graph.site import Group


class _Seen(NamedTuple):
    """Memory of somebody else's, as a program reads it."""

    array: Array
    address: int

    def alias(self) -> _Seen:
        """It is somebody else's in any case."""
        return self


class NativeBody:
    """A body as a program of its own, with an arena of its own: the program around it has values in the common one.
    Calls take and give arrays. Those given last while the next call runs, and for as long as calls hand them on."""

    def __init__(self, body: Body) -> None:
        from katachi.compiler.native import NativeProgram

        self.params, self.captured, self.outputs = body.params, body.captured, body.outputs
        new: dict[Node, Node] = {}
        for i, n in enumerate((*body.params, *body.captured)):
            new[n] = input_node(aval(n.shape, n.dtype, n.device, False), i)
        for n in body.order:
            new[n] = Node(n.primitive, tuple(new[x] for x in n.inputs), n.attrs, n.aval)
            new[n].site, new[n].group = n.site, _asked(n.group)
        self.program = NativeProgram([new[n] for n in body.outputs], {}, Arena())
        self._given: list[list[Any]] = []  # buffers of the last two calls, and what is the caller's

    @property
    def bytes(self) -> int:
        """What a call adds to memory at the most, beside what the one before it gave."""
        return self.program.plan.bytes + self.program.plan.output

    def __call__(self, params: Sequence[Array], captured: Sequence[Array]) -> list[Array]:
        operands = [np.ascontiguousarray(x).reshape(x.shape) for x in (*params, *captured)]
        seen: list[Any] = [_Seen(x, x.__array_interface__["data"][0]) for x in operands]
        ours = {buffer.address: buffer for given in self._given for buffer in given}
        # a result that is a parameter is memory of the call that made it, or of the caller's
        results = [ours.get(result.address, result) for result in self.program.run(seen, [])]
        self._given = [*self._given[-1:], results]
        return [result.array for result in results]

    def release(self) -> None:
        """Nobody reads any more what calls have given."""
        self._given = []


def _asked(group: object) -> object:
    """The operation of the user's that a copy of a copy of a node belongs to."""
    while isinstance(group, tuple):
        group = group[-1]
    return group if isinstance(group, Group) else None


def step(node: Node, reads: tuple[int, ...], writes: int) -> Step:
    """The step of a node that no kernel computes: control flow with native bodies, or what only Python can do."""
    if node.primitive not in BUNDLES:
        return Step(node, reads, writes, ())
    attrs = {key: NativeBody(value) if isinstance(value, Body) else value for key, value in node.attrs.items()}
    return Step(node, reads, writes, (), attrs)

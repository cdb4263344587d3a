"""From an update of one parameter, written on nodes, to an Op on all parameters of a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from katachi.graph import build as b
from katachi.graph.halves import upcast
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.graph.site import Group, origin
from katachi.tensor.entry import Op

Update = Callable[..., tuple[Node, ...]]


def update_op(name: str, update: Update) -> Op:
    """`update(p, g, *states, *numbers, *flags)` gives the new p and states; all float nodes of p's dtype and shape.
    Those of halves are float32, and what comes of them is rounded once.

    What it computes may take subnormal numbers for zero, and on x86 it does: a moment that has decayed so far would
    slow down every later step.
    """

    def build(nodes: Sequence[Node], n: int, states: int, *flags: Any) -> tuple[Node, ...]:
        cells = n * (1 + states)
        numbers = nodes[cells + n :]
        new: list[list[Node]] = [[] for _ in range(1 + states)]
        for i in range(n):
            cell = [nodes[i + n * k] for k in range(1 + states)]
            p, mine = upcast(make("stop_gradient", cell[0])), [upcast(x) for x in cell[1:]]
            g = b.convert(make("stop_gradient", nodes[cells + i]), p.dtype)
            scaled = [b.spread(b.convert(x, p.dtype), p.shape) for x in numbers]
            for k, value in enumerate(update(p, g, *mine, *scaled, *flags)):
                new[k].append(b.convert(value, cell[k].dtype))
        results: list[Node] = []
        for old, value in zip(nodes[:cells], [v for column in new for v in column], strict=True):
            results += [value, make("variable", value) if old.tracked else value]
        return tuple(results)

    return Op(name, part_of_update(name, build), variadic=True, upcast=0)


def part_of_update(name: str, build: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its nodes marked as an optimiser's: they may take subnormal numbers for zero."""

    def marked(*operands: Any) -> Any:
        asked = origin.group
        origin.group = Group(name, update=True)
        try:
            return build(*operands)
        finally:
            origin.group = asked

    return marked

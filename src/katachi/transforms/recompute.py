"""Checkpointed regions: values inside one are not kept for the backward pass but computed again from what enters it."""

from __future__ import annotations

from collections.abc import Callable

from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.graph.site import Group


def region_of(n: Node) -> int:
    """The number of the checkpointed region that a node belongs to; 0 for none. What enters a trace belongs to none."""
    return n.group.region if isinstance(n.group, Group) and n.primitive != "input" else 0


def inside(n: Node) -> list[Node]:
    """The nodes of n's region that n depends on, n last; empty outside of regions."""
    region = region_of(n)
    if not region:
        return []
    seen, stack = {n}, [n]
    while stack:
        for x in stack.pop().inputs:
            if x not in seen and region_of(x) == region:
                seen.add(x)
                stack.append(x)
    return sorted(seen, key=lambda m: m.serial)


def entering(n: Node) -> set[Node]:
    """What n is computed again from: the inputs of its region that it depends on; n itself outside of regions."""
    return {x for m in inside(n) for x in m.inputs if region_of(x) != region_of(n)} or {n}


class Recompute:
    """A `value` for `vjp.backward` that lets a second computation stand for values inside regions. It starts behind a
    barrier, so that no pass recognises in it the first."""

    def __init__(self, value: Callable[[Node], Node]) -> None:
        self.value = value
        self.again: dict[Node, Node] = {}

    def __call__(self, n: Node) -> Node:
        if not region_of(n):
            return self.value(n)
        if n not in self.again:
            for m in inside(n):
                if m not in self.again:
                    inputs = tuple(self.again.get(x) or self._enter(x) for x in m.inputs)
                    self.again[m] = Node(m.primitive, inputs, m.attrs, m.aval)
        return self.again[n]

    def _enter(self, x: Node) -> Node:
        if x not in self.again:
            self.again[x] = make("optimization_barrier", self.value(x))
        return self.again[x]

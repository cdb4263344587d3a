"""What a derivative rule sees of the node it differentiates. Values are asked for one by one, so the engine knows what
a rule needs: that, and nothing else, is kept between a forward and a later backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from katachi.graph.node import Node


class View:
    __slots__ = ("node", "shared", "value")

    node: Node
    value: Callable[[Node], Node]
    shared: dict[str, Any]  # what the rules of its inputs have in common

    def __init__(self, node: Node, value: Callable[[Node], Node]) -> None:
        self.node, self.value, self.shared = node, value, {}

    @property
    def out(self) -> Node:
        """The node's own value."""
        return self.value(self.node)

    def x(self, i: int) -> Node:
        """The value of input i."""
        return self.value(self.node.inputs[i])

    def like(self, i: int) -> Node:
        """Input i as a type: for its shape, dtype and device only."""
        return self.node.inputs[i]

    @property
    def attrs(self) -> Mapping[str, Any]:
        return self.node.attrs

"""A graph whose sizes are parameters, with others in their place: `x float32[s0, 784]` for s0 = 64 is
`x float32[64, 784]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from katachi.graph.node import Aval, Node, aval, toposort
from katachi.graph.symint import SymInt, evaluated, is_symbolic


def concrete_aval(kind: Aval, sizes: Sequence[int]) -> Aval:
    """The type for these sizes."""
    if not is_symbolic(kind.shape):
        return kind
    return aval(evaluated(kind.shape, sizes), kind.dtype, kind.device, kind.tracked)


def concrete_attrs(attrs: Mapping[str, Any], sizes: Sequence[int]) -> Mapping[str, Any]:
    """A node's attributes for these sizes."""
    if not any(map(is_symbolic, attrs.values())):
        return attrs
    return {key: evaluated(value, sizes) for key, value in attrs.items()}


class Resized:
    """Copies of nodes with other sizes. What has none in it, and nothing below it, is not copied."""

    def __init__(self, size: Callable[[SymInt], Any]) -> None:
        """`size` gives what stands for a size."""
        self.size = size
        self.known: dict[Node, Node] = {}
        self.kinds: dict[Aval, Aval] = {}

    def __call__(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        """The copies of nodes, and before them of all that they need."""
        new = self.known
        for n in toposort(nodes, new.__contains__):
            if n not in new:
                new[n] = self._copy(n)
        return tuple([new[n] for n in nodes])

    def _copy(self, n: Node) -> Node:
        inputs = tuple([self.known[x] for x in n.inputs])
        kind, attrs = self.kinds.get(n.aval), n.attrs
        if kind is None:
            kind = n.aval
            if is_symbolic(kind.shape):
                kind = aval(self._of(kind.shape), kind.dtype, kind.device, kind.tracked)
            self.kinds[n.aval] = kind
        for value in attrs.values():
            if value.__class__ in _SIZED and is_symbolic(value):
                attrs = {key: self._of(value) for key, value in attrs.items()}
                break
        if kind is n.aval and attrs is n.attrs and all(a is b for a, b in zip(inputs, n.inputs, strict=True)):
            return n
        copy = Node(n.primitive, inputs, attrs, kind)
        copy.site, copy.group, copy.serial = n.site, n.group, n.serial
        return copy

    def _of(self, x: Any) -> Any:
        if x.__class__ is tuple:
            return tuple([self._of(y) for y in x])
        return self.size(x) if x.__class__ is SymInt else x


_SIZED = (tuple, SymInt)


def at_sizes(sizes: Sequence[int]) -> Resized:
    """Copies for given sizes."""
    return Resized(lambda x: evaluated(x, sizes))

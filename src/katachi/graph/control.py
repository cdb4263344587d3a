"""Control flow: primitives with graphs for attributes. Their value is a bundle of results; `element` takes it apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from katachi.graph.dtypes import DType, float32
from katachi.graph.node import Aval, Node, toposort
from katachi.graph.primitives import RULES, make
from katachi.graph.sizes import Shape


class Body:
    """A graph with parameters. What it uses of the graph around it is `captured`, and handed in as operands."""

    def __init__(self, params: Sequence[Node], outputs: Sequence[Node]) -> None:
        self.params, self.outputs = tuple(params), tuple(outputs)
        depends = set(self.params)
        order: list[Node] = []
        captured: dict[Node, None] = {}
        for n in toposort(self.outputs):
            if n not in depends and any(x in depends for x in n.inputs):
                depends.add(n)
                order.append(n)
        for n in order:
            captured.update(dict.fromkeys(x for x in n.inputs if x not in depends))
        captured.update(dict.fromkeys(n for n in self.outputs if n not in depends))
        self.order, self.captured = tuple(order), tuple(captured)

    @property
    def nodes(self) -> list[Node]:
        """Parameters, captured nodes and the body's own, topologically."""
        return [*self.params, *self.captured, *self.order]


def _bundle(*xs: Aval, **attrs: Any) -> tuple[Shape, DType]:
    """A bundle has no shape of its own. float32, so that it is tracked when an operand is."""
    return (), float32


def _element(x: Aval, *, index: int, shape: Shape, dtype: DType) -> tuple[Shape, DType]:
    """Result `index` of a bundle."""
    return shape, dtype


BUNDLES = ("scan", "while", "cond")
RULES.update({name: _bundle for name in BUNDLES})
RULES["element"] = _element


def _custom_call(*xs: Aval, function: Callable[..., Any], shape: Shape, dtype: DType) -> tuple[Shape, DType]:
    """What a function of the user's makes of the operands' arrays; it promises shape and dtype."""
    return shape, dtype


RULES["custom_call"] = _custom_call


def elements(bundle: Node, kinds: Sequence[Aval]) -> tuple[Node, ...]:
    """The results of a bundle, whose types are `kinds`."""
    return tuple(make("element", bundle, index=i, shape=k.shape, dtype=k.dtype) for i, k in enumerate(kinds))


def stacked(kind: Aval, length: int) -> tuple[Shape, DType]:
    return (length, *kind.shape), kind.dtype

"""Control flow: primitives with graphs for attributes. Their value is a bundle of results; `element` takes it apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from katachi.graph.dtypes import DType, float32
from katachi.graph.node import Aval, Node, toposort
from katachi.graph.primitives import RULES, is_hole, make
from katachi.graph.sizes import Shape

FALLIBLE = frozenset(["gather", "scatter", "custom_call"])  # these can fail on values


def never(n: Node) -> bool:
    return False


def always(n: Node) -> bool:
    return True


def may_fail(n: Node) -> bool:
    """Whether computing the node can raise an error that depends on values."""
    return n.primitive in FALLIBLE or any(map(may_fail, [m for body in bodies(n) for m in body.order]))


def bodies(n: Node) -> list[Body]:
    """The bodies of a node of control flow."""
    return [v for v in n.attrs.values() if isinstance(v, Body)]


class Body:
    """A graph with parameters. What it uses of the graph around it is `captured`, and handed in as operands.

    Nodes for which `outside` holds are computed around it in any case. Of the others those that depend on no parameter
    could be, once and for all runs of the body: they are, unless `stays` holds, which keeps in the body what must not
    be computed when the body does not run.
    """

    def __init__(
        self,
        params: Sequence[Node],
        outputs: Sequence[Node],
        outside: Callable[[Node], bool] = never,
        stays: Callable[[Node], bool] = never,
    ) -> None:
        self.params, self.outputs, self.stays = tuple(params), tuple(outputs), stays
        own = set(self.params)
        order: list[Node] = []
        captured: dict[Node, None] = {}
        for n in toposort(self.outputs, lambda n: n in own or outside(n)):
            if n in own or outside(n):
                continue
            if stays(n) or is_hole(n) or any(x in own for x in n.inputs):
                own.add(n)
                order.append(n)
        for n in order:
            captured.update(dict.fromkeys(x for x in n.inputs if x not in own))
        captured.update(dict.fromkeys(n for n in self.outputs if n not in own))
        self.order, self.captured = tuple(order), tuple(captured)

    @cached_property
    def steps(self) -> list[tuple[Node, tuple[Node, ...]]]:
        """What a run computes, and of what: not the formulas of custom gradients, which only derivatives use."""
        needed, steps = set(self.outputs), []
        for n in reversed(self.order):
            if n in needed:
                inputs = n.inputs[:1] if n.primitive == "custom_gradient" else n.inputs
                needed.update(inputs)
                steps.append((n, inputs))
        return steps[::-1]

    def derived(self, params: Sequence[Node], outputs: Sequence[Node], captured: Sequence[Node] | None = None) -> Body:
        """A body that a transformation has made of this one. It captures what this one does, or `captured`, and what is
        made of that alone where this one would."""
        around = frozenset(self.captured if captured is None else captured)
        return Body(params, outputs, around.__contains__, self.stays)

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

"""Derivatives of attention: the first by a primitive of its own, all others through what it is composed of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from katachi.graph import build as b
from katachi.graph.attention import FIRST_MASK, composed
from katachi.graph.node import Node, toposort
from katachi.graph.primitives import hole, make
from katachi.transforms.view import View


def _composed(v: View) -> tuple[list[Node], Node]:
    """Places for the operands, and the value composed of what will stand there."""
    places = [hole(x.aval) for x in v.node.inputs]
    return places, composed(v.node.primitive, places, v.attrs)


def _filled(node: Node, places: Sequence[Node], v: View) -> Node:
    """`node` with the operands' values in their places."""
    new: dict[Node, Node] = {}
    for n in toposort([node]):
        if n in places:
            new[n] = v.x(places.index(n))
        else:
            inputs = [new[x] for x in n.inputs]
            changed = any(x is not y for x, y in zip(inputs, n.inputs, strict=True))
            new[n] = make(n.primitive, *inputs, **n.attrs) if changed else n
    return new[node]


def _vjp_of(i: int) -> Callable[[Node, View], Node]:
    def rule(g: Node, v: View) -> Node:
        from katachi.transforms.vjp import backward

        if "cotangents" not in v.shared:
            places, value = _composed(v)
            v.shared["cotangents"] = places, backward({value: g}, toposort([value]), until=frozenset(places))
        places, found = v.shared["cotangents"]
        return _filled(found[places[i]], places, v) if places[i] in found else b.like(v.like(i), 0.0)

    return rule


def _gradient(of: int) -> Callable[[Node, View], Node]:
    def rule(g: Node, v: View) -> Node:
        operands = [v.x(i) for i in range(len(v.node.inputs))]
        return make("attention_gradient", *operands[:4], v.out, g, *operands[4:], **v.attrs, of=of)

    return rule


def _jvp(v: View, t: Sequence[Node | None]) -> Node | None:
    from katachi.transforms.jvp import forward

    places, value = _composed(v)
    moving = {p: x for p, x in zip(places, t, strict=True) if x is not None}
    tangent = forward(moving, toposort([value])).get(value)
    return None if tangent is None else _filled(tangent, places, v)


_FREE = {"attention_logsumexp": (0, 1), "attention_gradient": (0, 1, 2, 5)}  # operands with a derivative
ATTENTION_VJP: dict[str, Sequence[Callable[[Node, View], Node] | None]] = {
    "attention": tuple(map(_gradient, range(3))),
    **{name: tuple(_vjp_of(i) if i in free else None for i in range(free[-1] + 1)) for name, free in _FREE.items()},
}
ATTENTION_JVP = dict.fromkeys(FIRST_MASK, _jvp)

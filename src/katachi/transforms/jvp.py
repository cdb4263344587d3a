"""The forward-differentiation column: a primitive's tangent from its inputs' tangents (None: zero)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from katachi.errors import GradientError
from katachi.graph import build as b
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.transforms import derivatives as d
from katachi.transforms.attention import ATTENTION_JVP
from katachi.transforms.control import BUNDLE_JVP
from katachi.transforms.elementwise import DERIVATIVES, Derivative
from katachi.transforms.view import View
from katachi.transforms.vjp import itself

Tangents = Sequence[Node | None]
Rule = Callable[[View, Tangents], "Node | None"]


def _sum(terms: Sequence[Node | None]) -> Node | None:
    total = None
    for term in terms:
        if term is not None:
            total = term if total is None else make("add", total, term)
    return total


def _parts(*parts: Derivative) -> Rule:
    """Element-wise in several operands: the sum of what each tangent becomes."""

    def rule(v: View, t: Tangents) -> Node | None:
        return _sum([None if x is None else part(x, v) for x, part in zip(t, parts, strict=True)])

    return rule


def _again(v: View, *inputs: Node) -> Node:
    return make(v.node.primitive, *inputs, **v.attrs)


def _linear(v: View, t: Tangents) -> Node | None:
    """Linear in the first input, the others only steer."""
    if t[0] is None:
        return None
    return _again(v, t[0], *[v.x(i) for i in range(1, len(v.node.inputs))])


def _jointly_linear(v: View, t: Tangents) -> Node | None:
    """Linear in all float inputs together; a missing tangent is zeros."""
    if all(x is None for x in t):
        return None
    full = [b.like(v.like(i), 0.0) if x is None else x for i, x in enumerate(t)]
    return _again(v, *[x if v.like(i).dtype.is_floating else v.x(i) for i, x in enumerate(full)])


def _bilinear(v: View, t: Tangents) -> Node | None:
    left = None if t[0] is None else _again(v, t[0], v.x(1))
    return _sum([left, None if t[1] is None else _again(v, v.x(0), t[1])])


def _select(v: View, t: Tangents) -> Node | None:
    if t[1] is None and t[2] is None:
        return None
    yes, no = (b.like(v.node, 0.0) if x is None else x for x in t[1:])
    return b.select(v.x(0), yes, no)


def _reduce_extreme(v: View, t: Tangents) -> Node | None:
    return None if t[0] is None else b.reduce("reduce_sum", d.reduced_part(t[0], v), v.attrs["axes"])


def _reduce_prod(v: View, t: Tangents) -> Node | None:
    return None if t[0] is None else b.reduce("reduce_sum", b.multiply(t[0], d.other_products(v)), v.attrs["axes"])


def _cumulative_prod(v: View, t: Tangents) -> Node | None:
    if t[0] is None:
        return None
    axis = v.attrs["axis"]
    return d.recurrence(v.x(0), b.multiply(t[0], d.running_products(v.x(0), axis, 1)), axis, 1)


def _cumulative_extreme(v: View, t: Tangents) -> Node | None:
    return None if t[0] is None else d.read_along(t[0], d.last_extreme(v), v.attrs["axis"])


def _reduce_window(v: View, t: Tangents) -> Node | None:
    if t[0] is None:
        return None
    # the same gather that transposes the gradient; it wants (x, something shaped as the result)
    fake = Node("reduce_window_gradient", (v.node.inputs[0], v.node), v.attrs, v.node.inputs[0].aval)
    return d.window_gather(View(fake, v.value), t[0])


def _reduce_window_gradient(v: View, t: Tangents) -> Node | None:
    return None if t[1] is None else _again(v, v.x(0), t[1])


def _scatter(v: View, t: Tangents) -> Node | None:
    if t[0] is None and t[2] is None:
        return None
    x = b.like(v.like(0), 0.0) if t[0] is None else t[0]
    update = b.like(v.like(2), 0.0) if t[2] is None else t[2]
    combine = v.attrs["combine"]
    if combine not in ("set", "add"):
        of_x, of_update = d.scatter_factors(v) if combine == "multiply" else d.scatter_extreme_shares(v)
        flow = b.multiply if combine == "multiply" else d.shared
        x, update, combine = flow(x, of_x), flow(update, of_update), "add"
    return make("scatter", x, v.x(1), update, **{**v.attrs, "combine": combine})


def _custom_call(v: View, t: Tangents) -> Node | None:
    raise GradientError("custom_call: nobody knows the function's derivative")


def _custom(v: View, t: Tangents) -> Node | None:
    if all(x is None for x in t):
        return None
    raise GradientError("a function under custom_gradient has no forward derivative: its formula goes backward only")


JVP: dict[str, Rule] = {
    "custom_gradient": _custom,
    "custom_call": _custom_call,
    **{name: _parts(*parts) for name, parts in DERIVATIVES.items()},
    "variable": lambda v, t: t[0],
    "to_device": _linear,
    "optimization_barrier": lambda v, t: t[0],
    "select": _select,
    "convert": lambda v, t: None if t[0] is None or not v.node.dtype.is_floating else _linear(v, t),
    "broadcast_in_dim": _linear,
    "reshape": _linear,
    "transpose": _linear,
    "slice": _linear,
    "dynamic_slice": _linear,
    "dynamic_update_slice": _jointly_linear,
    "pad": _jointly_linear,
    "concatenate": _jointly_linear,
    "reverse": _linear,
    "reduce_sum": _linear,
    "reduce_max": _reduce_extreme,
    "reduce_min": _reduce_extreme,
    "reduce_prod": _reduce_prod,
    "cumulative_sum": _linear,
    "cumulative_prod": _cumulative_prod,
    "cumulative_max": _cumulative_extreme,
    "cumulative_min": _cumulative_extreme,
    "dot_general": _bilinear,
    "convolution": _bilinear,
    "reduce_window": _reduce_window,
    "reduce_window_gradient": _reduce_window_gradient,
    "sort": lambda v, t: None if t[1] is None else _again(v, v.x(0), t[1]),
    "gather": _linear,
    "scatter": _scatter,
    **ATTENTION_JVP,
}


def forward(
    tangents: dict[Node, Node],
    order: Sequence[Node],
    value: Callable[[Node], Node] = itself,
    links: dict[Node, Node] | None = None,
) -> dict[Node, Node]:
    """Tangents of every node of `order` (topological) that those of `tangents` reach; an input node of `links` takes
    the tangent of the older node whose value it carries."""
    out: dict[Node, Node] = dict(tangents)
    bundles: dict[Node, dict[int, Node]] = {}  # tangents of control flow, by result
    for node in order:
        if links and node in links and links[node] in out:
            out[node] = out[links[node]]
            continue
        if node.primitive == "element":
            if (t := bundles.get(node.inputs[0], {}).get(node.attrs["index"])) is not None:
                out[node] = t
            continue
        if node in out or node.primitive in d.FLAT or not any(x in out for x in node.inputs):
            continue
        if node.primitive in BUNDLE_JVP:
            bundles[node] = BUNDLE_JVP[node.primitive](View(node, value), [out.get(x) for x in node.inputs])
            continue
        tangent = JVP[node.primitive](View(node, value), [out.get(x) for x in node.inputs])
        if tangent is not None:
            out[node] = tangent
    return out

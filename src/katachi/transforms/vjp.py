"""The reverse-differentiation column: for each primitive and input, the cotangent that flows back into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from katachi.errors import GradientError
from katachi.graph import build as b
from katachi.graph.halves import upcast
from katachi.graph.node import Node, toposort
from katachi.graph.primitives import constant, make
from katachi.graph.site import origin
from katachi.transforms import derivatives as d
from katachi.transforms.attention import ATTENTION_VJP
from katachi.transforms.control import BUNDLE_VJP
from katachi.transforms.elementwise import DERIVATIVES
from katachi.transforms.view import View

Rule = Callable[[Node, View], Node]


def _zero(g: Node) -> Node:
    return constant(0.0, g.dtype, g.device)


def _inverse(permutation: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(permutation.index(i) for i in range(len(permutation)))


def _broadcast_in_dim(g: Node, v: View) -> Node:
    x, dims = v.like(0), v.attrs["dims"]
    stretched = [d for n, d in zip(x.shape, dims, strict=True) if b.is_one(n) and not b.is_one(g.shape[d])]
    summed = tuple(i for i in range(len(g.shape)) if i not in dims or i in stretched)
    return b.reshape(b.reduce("reduce_sum", g, summed), x.shape)


def _slice(g: Node, v: View) -> Node:
    x, start, stride = v.like(0), v.attrs["start"], v.attrs["stride"]
    if 0 in g.shape:
        return b.like(x, 0.0)
    taken = [(n - 1) * s + 1 for n, s in zip(g.shape, stride, strict=True)]
    high = tuple(n - a - t for n, a, t in zip(x.shape, start, taken, strict=True))
    return make("pad", g, _zero(g), low=start, high=high, interior=tuple(s - 1 for s in stride))


def _unpadded(g: Node, v: View) -> Node:
    x, low, interior = v.like(0), v.attrs["low"], v.attrs["interior"]
    sizes = zip(x.shape, low, interior, strict=True)
    limit = tuple(lo + (n - 1) * (i + 1) + 1 if n else lo for n, lo, i in sizes)
    return make("slice", g, start=low, limit=limit, stride=tuple(i + 1 for i in interior))


def _pad_value(g: Node, v: View) -> Node:
    every = tuple(range(len(g.shape)))
    inside = _unpadded(g, v)
    return b.subtract(b.reduce("reduce_sum", g, every), b.reduce("reduce_sum", inside, every))


def _part(i: int) -> Rule:
    def rule(g: Node, v: View) -> Node:
        axis = v.attrs["dimension"]
        before = sum(n.shape[axis] for n in v.node.inputs[:i])
        start = tuple(before if a == axis else 0 for a in range(len(g.shape)))
        size = v.like(i).shape
        limit = tuple(a + n for a, n in zip(start, size, strict=True))
        return make("slice", g, start=start, limit=limit, stride=(1,) * len(start))

    return rule


def _no_way_back(g: Node, v: View) -> Node:
    raise GradientError("custom_call: nobody knows the function's derivative; kt.custom_gradient around it can say")


def _custom(i: int) -> Rule:
    """The user's formula for argument i, with g in the hole."""

    def rule(g: Node, v: View) -> Node:
        n = v.attrs["arguments"]
        gap, formula = v.node.inputs[1 + n], v.node.inputs[1 + n + i]
        filled: dict[Node, Node] = {gap: g}
        order = toposort([formula])
        depends = {gap}
        for m in order:
            if any(x in depends for x in m.inputs):
                depends.add(m)
                filled[m] = make(m.primitive, *(filled[x] if x in depends else v.value(x) for x in m.inputs), **m.attrs)
        return filled[formula] if formula in depends else v.value(formula)

    return rule


def _reduce_sum(g: Node, v: View) -> Node:
    x, axes = v.like(0), v.attrs["axes"]
    kept = tuple(i for i in range(len(x.shape)) if i not in axes)
    return make("broadcast_in_dim", g, shape=x.shape, dims=kept)


def _reduce_extreme(g: Node, v: View) -> Node:
    return d.reduced_part(_reduce_sum(g, v), v)


def _reverse_sum(g: Node, v: View) -> Node:
    flip = (v.attrs["axis"],)
    summed = make("cumulative_sum", make("reverse", g, dimensions=flip), **v.attrs)
    return make("reverse", summed, dimensions=flip)


def _cumulative_prod(g: Node, v: View) -> Node:
    """What reaches a place: its g and, times the next factor, what reaches the next. That, times the product before."""
    x, axis = v.x(0), v.attrs["axis"]
    next_factor = d.moved(x, axis, -1, b.full(1.0, (), x.dtype, x.device))
    before = d.running_products(x, axis, 1)
    return b.multiply(d.recurrence(next_factor, g, axis, -1), before)


def _cumulative_extreme(g: Node, v: View) -> Node:
    axis = v.attrs["axis"]
    return d.add_along(g, d.last_extreme(v), axis, v.node.shape[axis])


def _dot_general(side: int) -> Rule:
    """g has axes (batch, free of a, free of b); contract it with the other operand's free axes, then put axes in
    place."""

    def rule(g: Node, v: View) -> Node:
        mine, other = v.like(side), v.x(1 - side)
        batch, contract = v.attrs["batch"], v.attrs["contract"]
        rank, other_rank, batched = len(mine.shape), len(other.shape), len(batch[0])
        my_free = [i for i in range(rank) if i not in batch[side] and i not in contract[side]]
        other_free = [i for i in range(other_rank) if i not in batch[1 - side] and i not in contract[1 - side]]
        first = batched + (len(my_free) if side == 0 else 0)
        g_contract = tuple(range(first, first + len(other_free)))
        out = make(
            "dot_general",
            g,
            other,
            batch=(tuple(range(batched)), batch[1 - side]),
            contract=(g_contract, tuple(other_free)),
        )
        # out's axes: batch, my free, then the other's contracted axes in the other's own order
        pair = dict(zip(contract[1 - side], contract[side], strict=True))
        axes = [*batch[side], *my_free, *(pair[i] for i in sorted(contract[1 - side]))]
        return b.transpose(out, _inverse(tuple(axes)))

    return rule


def _convolution_input(g: Node, v: View) -> Node:
    """The transposed convolution: g dilated by the strides, the kernel reversed, channels exchanged within each
    group."""
    x, w, a = v.like(0), v.x(1), v.attrs
    if 0 in x.shape:
        return b.like(x, 0.0)
    groups, k = a["groups"], len(a["strides"])
    out, per_in, *window = w.shape
    w = b.reshape(w, (groups, out // groups, per_in, *window))
    w = b.transpose(w, (0, 2, 1, *range(3, 3 + k)))
    w = make("reverse", b.reshape(w, (groups * per_in, out // groups, *window)), dimensions=tuple(range(2, 2 + k)))
    padding = []
    for i in range(k):
        size = (x.shape[2 + i] - 1) * a["lhs_dilation"][i] + 1
        reach = a["rhs_dilation"][i] * (window[i] - 1) + 1
        spread = (g.shape[2 + i] - 1) * a["strides"][i] + 1
        low = reach - 1 - a["padding"][i][0]
        padding.append((low, size + reach - 1 - spread - low))
    return make(
        "convolution", g, w, strides=a["lhs_dilation"], padding=tuple(padding), lhs_dilation=a["strides"],
        rhs_dilation=a["rhs_dilation"], groups=groups,
    )  # fmt: skip


def _convolution_weight(g: Node, v: View) -> Node:
    """A convolution over the batch: x with channels as batch, g as the kernel, dilated by the strides."""
    x, w, a = v.x(0), v.like(1), v.attrs
    if 0 in x.shape:
        return b.like(w, 0.0)
    groups, k = a["groups"], len(a["strides"])
    n, channels, *spatial = x.shape
    _, per_in, *window = w.shape
    rest = tuple(range(3, 3 + k))
    x = b.transpose(b.reshape(x, (n, groups, channels // groups, *spatial)), (2, 1, 0, *rest))
    x = b.reshape(x, (per_in, groups * n, *spatial))
    g = b.transpose(g, (1, 0, *range(2, 2 + k)))
    padding = []
    for i in range(k):
        size = (spatial[i] - 1) * a["lhs_dilation"][i] + 1
        reach = (g.shape[2 + i] - 1) * a["strides"][i] + 1
        want = a["rhs_dilation"][i] * (window[i] - 1) + 1
        low = a["padding"][i][0]
        padding.append((low, want + reach - 1 - size - low))
    grown = make(
        "convolution", x, g, strides=a["rhs_dilation"], padding=tuple(padding), lhs_dilation=a["lhs_dilation"],
        rhs_dilation=a["strides"], groups=groups,
    )  # fmt: skip
    return b.transpose(grown, (1, 0, *range(2, 2 + k)))


def _gather(g: Node, v: View) -> Node:
    return make("scatter", b.like(v.like(0), 0.0), v.x(1), g, combine="add", **v.attrs)


def _scatter_operand(g: Node, v: View) -> Node:
    combine = v.attrs["combine"]
    if combine == "set":
        return make("scatter", g, v.x(1), b.like(v.like(2), 0.0), **v.attrs)
    if combine == "multiply":
        return b.multiply(g, d.scatter_factors(v)[0])
    return g if combine == "add" else d.shared(g, d.scatter_extreme_shares(v)[0])


def _scatter_update(g: Node, v: View) -> Node:
    read = make("gather", g, v.x(1), axes=v.attrs["axes"], batch=v.attrs["batch"])
    combine = v.attrs["combine"]
    if combine == "set":
        return b.select(d.scatter_winners(v), read, b.like(read, 0.0))
    if combine == "multiply":
        return b.multiply(read, d.scatter_factors(v)[1])
    return read if combine == "add" else d.shared(read, d.scatter_extreme_shares(v)[1])


def _sort(g: Node, v: View) -> Node:
    """Back to where each value came from: these places are all different, so sorting by them undoes the sorting."""
    axis = v.attrs["axis"]
    return make("sort", d.ranks(v.x(0), axis, v.attrs["descending"]), g, axis=axis, descending=False)


def _starts(v: View, first: int) -> list[Node]:
    return [v.x(i) for i in range(first, len(v.node.inputs))]


def _which(v: View) -> Node:
    """What a select goes by. Where that is x <= 0 in select(x <= 0, 0, x), it is as true of the result, which the layer
    behind a relu keeps anyway: so x need not be kept."""
    asks, yes, x = v.node.inputs
    below = asks.primitive == "compare" and asks.attrs["direction"] == "LE" and asks.inputs[0] is x
    if below and _is_zero(asks.inputs[1]) and _is_zero(yes):
        return b.compare(v.out, "LE", b.like(v.out, 0.0))
    return v.x(0)


def _is_zero(n: Node) -> bool:
    n = n.inputs[0] if n.primitive == "broadcast_in_dim" else n
    return n.primitive == "constant" and n.attrs["value"] == 0


VJP: dict[str, Sequence[Rule | None]] = {
    **DERIVATIVES,
    "variable": (lambda g, v: g,),
    "to_device": (lambda g, v: b.to_device(g, v.like(0).device),),
    "optimization_barrier": (lambda g, v: g,),
    "select": (
        None,
        lambda g, v: b.select(_which(v), g, b.like(g, 0.0)),
        lambda g, v: b.select(_which(v), b.like(g, 0.0), g),
    ),
    "convert": (lambda g, v: b.convert(g, v.like(0).dtype),),
    "broadcast_in_dim": (_broadcast_in_dim,),
    "reshape": (lambda g, v: b.reshape(g, v.like(0).shape),),
    "transpose": (lambda g, v: b.transpose(g, _inverse(v.attrs["permutation"])),),
    "slice": (_slice,),
    "dynamic_slice": (lambda g, v: make("dynamic_update_slice", b.like(v.like(0), 0.0), g, *_starts(v, 1)),),
    "dynamic_update_slice": (
        lambda g, v: make("dynamic_update_slice", g, b.like(v.like(1), 0.0), *_starts(v, 2)),
        lambda g, v: make("dynamic_slice", g, *_starts(v, 2), sizes=v.like(1).shape),
    ),
    "pad": (_unpadded, _pad_value),
    "reverse": (lambda g, v: make("reverse", g, **v.attrs),),
    "reduce_sum": (_reduce_sum,),
    "reduce_max": (_reduce_extreme,),
    "reduce_min": (_reduce_extreme,),
    "reduce_prod": (lambda g, v: b.multiply(_reduce_sum(g, v), d.other_products(v)),),
    "cumulative_sum": (_reverse_sum,),
    "cumulative_prod": (_cumulative_prod,),
    "cumulative_max": (_cumulative_extreme,),
    "cumulative_min": (_cumulative_extreme,),
    "dot_general": (_dot_general(0), _dot_general(1)),
    "convolution": (_convolution_input, _convolution_weight),
    "reduce_window": (lambda g, v: make("reduce_window_gradient", v.x(0), g, **v.attrs),),
    "reduce_window_gradient": (None, lambda g, v: d.window_gather(v, g)),
    "sort": (None, _sort),
    "gather": (_gather, None),
    "scatter": (_scatter_operand, None, _scatter_update),
    **ATTENTION_VJP,
}


def rule(node: Node, i: int) -> Rule | None:
    """The rule for input i, or None where nothing flows."""
    if node.primitive == "concatenate":
        return _part(i)
    if node.primitive == "custom_call":
        return _no_way_back
    if node.primitive == "custom_gradient":
        return _custom(i) if 1 <= i <= node.attrs["arguments"] else None
    if node.primitive in d.FLAT:
        return None
    rules = VJP[node.primitive]
    return rules[i] if i < len(rules) else None


def itself(node: Node) -> Node:
    return node


class _Pot:
    """A cotangent being added up: operation by operation, and within an operation contribution by contribution, so the
    sum's bits do not depend on which operations happened to be computed together. Halves add up in float32."""

    __slots__ = ("group", "kind", "part", "total")

    def __init__(self, g: Node, group: object) -> None:
        self.total: Node | None = None
        self.part, self.group, self.kind = g, group, g.dtype

    def add(self, g: Node, group: object) -> None:
        if group == self.group:
            self.part = make("add", upcast(self.part), upcast(g))
        else:
            self.total, self.part, self.group = self._all(), g, group

    def _all(self) -> Node:
        return self.part if self.total is None else make("add", upcast(self.total), upcast(self.part))

    def sum(self) -> Node:
        return b.convert(self._all(), self.kind)


def backward(
    seeds: dict[Node, Node],
    order: Sequence[Node],
    value: Callable[[Node], Node] = itself,
    links: dict[Node, Node] | None = None,
    visit: Callable[[Node], None] | None = None,
    until: frozenset[Node] = frozenset(),
) -> dict[Node, Node]:
    """Cotangents of every tracked node that `seeds` reach, as nodes.

    `order` lists the graph topologically; it is walked from its end. `value(n)` is the node that stands for n's
    value in the program being built (n itself where the forward pass is part of it). `links` maps nodes to older
    ones that have the same value: what flows into the former goes to the latter. `visit` is called with each node
    whose rules run. The walk does not pass the nodes of `until`.
    """
    links = links or {}
    pots: dict[Node, _Pot] = {}
    ct: dict[Node, Node] = {}
    bundles: dict[Node, dict[int, Node]] = {}  # cotangents of control flow, by result

    def pour(node: Node, g: Node, group: object) -> None:
        if g.shape != node.shape or g.dtype is not node.dtype:
            raise GradientError(f"internal: a gradient of {node!r} came out as {g!r}")
        while node in links:
            node = links[node]
        pot = pots.get(node)
        if pot is None:
            pots[node] = _Pot(g, group)
        else:
            pot.add(g, group)

    asked_at = origin.site
    for node, seed in seeds.items():
        pour(node, seed, None)
    for node in reversed(order):
        if node in bundles and node not in until:
            if visit:
                visit(node)
            for i, g in BUNDLE_VJP[node.primitive](bundles[node], View(node, value)).items():
                if node.inputs[i].tracked:
                    pour(node.inputs[i], g, node.group)
            continue
        pot = pots.get(node)
        if pot is None or not node.tracked or node in until or node in links or not node.inputs:
            continue
        g = ct[node] = pot.sum()
        if visit:
            visit(node)
        origin.site = node.site or asked_at  # what goes wrong in a gradient is blamed on the line it is the gradient of
        view = View(node, value)
        if node.primitive == "element":
            mine = bundles.setdefault(node.inputs[0], {})
            i = node.attrs["index"]
            mine[i] = make("add", mine[i], g) if i in mine else g
            continue
        for i, x in enumerate(node.inputs):
            if x.tracked and (f := rule(node, i)) is not None:
                pour(x, f(g, view), node.group)
    origin.site = asked_at
    for node, pot in pots.items():
        if node not in ct:
            ct[node] = pot.sum()
    return ct

"""The batching column: what a node for one example becomes for many at once.

What differs from example to example has the examples along its first axis; what does not stays as it is. A rule gets
the node and its inputs' values, and makes the value that has the examples in front. Control flow is in
`batching_control.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from katachi.graph import build as b
from katachi.graph.control import Body, bodies, elements
from katachi.graph.dtypes import bool_, int64
from katachi.graph.node import Aval, Node, aval
from katachi.graph.primitives import CUMULATIVE, ELEMENTWISE, MARKS, REDUCTIONS, constant, hole, make
from katachi.graph.site import origin
from katachi.graph.sizes import Shape, Size, same

Differs = Callable[[Node], bool]


class Call(NamedTuple):
    """What a rule sees: the node for one example, its inputs' values, and which of them differ between examples; and,
    for the nodes in its bodies, which of them start to differ."""

    node: Node
    xs: Sequence[Node]
    on: Sequence[bool]
    size: Size
    differs: Differs

    @property
    def attrs(self) -> Mapping[str, Any]:
        return self.node.attrs

    def full(self, i: int) -> Node:
        """Input i with the examples in front, repeated if it is the same for all."""
        return self.xs[i] if self.on[i] else spread(self.xs[i], self.size)

    def all(self) -> list[Node]:
        return [self.full(i) for i in range(len(self.xs))]

    def again(self, *xs: Node, **changed: Any) -> Node:
        return make(self.node.primitive, *xs, **{**self.attrs, **changed})


Rule = Callable[[Call], Node]


def spread(x: Node, size: Size) -> Node:
    """x for each of `size` examples."""
    return make("broadcast_in_dim", x, shape=(size, *x.shape), dims=tuple(range(1, len(x.shape) + 1)))


def to_front(x: Node, axis: int) -> Node:
    return b.transpose(x, (axis, *(i for i in range(len(x.shape)) if i != axis)))


def from_front(x: Node, axis: int) -> Node:
    order = list(range(1, len(x.shape)))
    return b.transpose(x, (*order[:axis], 0, *order[axis:]))


def widened(kind: Aval, size: Size) -> Node:
    """A place for a value of this kind for each example."""
    return hole(aval((size, *kind.shape), kind.dtype, kind.device, kind.tracked))


# ---- how attributes change when there is an axis in front


def _next(axis: int, size: Size) -> int:
    return axis + 1


def _shifted(axes: Shape, size: Size) -> Shape:
    return tuple(i + 1 for i in axes)


def _kept_first(axes: Shape, size: Size) -> Shape:
    return (0, *(i + 1 for i in axes))


def _sized(shape: Shape, size: Size) -> Shape:
    return (size, *shape)


def _leading(value: int) -> Callable[[Shape, Size], Shape]:
    return lambda values, size: (value, *values)


def _along(**how: Callable[[Any, Size], Any]) -> Rule:
    """The primitive itself on inputs that all have the examples in front, with these attributes changed."""
    return lambda c: c.again(*c.all(), **{k: change(c.attrs[k], c.size) for k, change in how.items()})


# ---- those that need more


def _pad(c: Call) -> Node:
    x, value = c.xs
    wide: dict[str, Any] = {k: (0, *c.attrs[k]) for k in ("low", "high", "interior")}
    if not c.on[1]:
        return make("pad", x, value, **wide)
    x = c.full(0)  # one scalar fills all: put in each example's own afterwards
    filled = make("pad", x, b.full(0, (), x.dtype, x.device), **wide)
    inside = make("pad", b.full(True, x.shape, bool_, x.device), b.full(False, (), bool_, x.device), **wide)
    return b.select(inside, filled, make("broadcast_in_dim", value, shape=filled.shape, dims=(0,)))


def _dot_general(c: Call) -> Node:
    """Two that differ go in step; of one that differs the examples are a free axis."""
    batch, contract = (
        tuple(tuple(i + on for i in axes) for axes, on in zip(c.attrs[k], c.on, strict=True))
        for k in ("batch", "contract")
    )
    if all(c.on):
        return c.again(*c.xs, batch=((0, *batch[0]), (0, *batch[1])), contract=contract)
    before = 0 if c.on[0] else len(c.xs[0].shape) - len(batch[0]) - len(contract[0])
    return to_front(c.again(*c.xs, batch=batch, contract=contract), len(batch[0]) + before)


def _convolution(c: Call) -> Node:
    """Examples that share a kernel are more images; examples with kernels of their own are more groups."""
    (x, w), size, groups = c.xs, c.size, c.attrs["groups"]
    if c.on[1] and same(size, 0):  # there is no number of groups for none: any kernel will do
        return _convolution(c._replace(xs=(c.full(0), b.reduce("reduce_sum", w, (0,))), on=(True, False)))
    if not c.on[1]:
        out = c.again(b.reshape(x, (size * x.shape[1], *x.shape[2:])), w)
        return b.reshape(out, (size, x.shape[1], *out.shape[1:]))
    out_channels, per_in, *window = w.shape[1:]
    if c.on[0]:  # (N, examples, groups, in each group)
        x = b.transpose(x, (1, 0, *range(2, len(x.shape))))
        x = b.reshape(x, (x.shape[0], size * x.shape[2], *x.shape[3:]))
        w = b.reshape(w, (size * out_channels, per_in, *window))
        out = c.again(x, w, groups=size * groups)
        return to_front(b.reshape(out, (out.shape[0], size, out_channels, *out.shape[2:])), 1)
    w = b.reshape(w, (size, groups, out_channels // groups, per_in, *window))
    w = b.transpose(w, (1, 0, *range(2, len(w.shape))))
    out = c.again(x, b.reshape(w, (size * out_channels, per_in, *window)))
    n, _, *spatial = out.shape
    out = to_front(b.reshape(out, (n, groups, size, out_channels // groups, *spatial)), 2)
    return b.reshape(out, (size, n, out_channels, *spatial))


def _gather(c: Call) -> Node:
    batch = c.attrs["batch"]
    if tuple(c.on) == (False, True):  # more indices into the same values
        return to_front(c.again(c.xs[0], from_front(c.xs[1], batch)), batch)
    return _along(axes=_shifted, batch=_next)(c)


def _block(c: Call, first: int, shape: Shape, sizes: Shape) -> tuple[tuple[int, ...], Node, tuple[int, ...]]:
    """For blocks of `sizes` that begin in each example elsewhere, at the inputs from `first` on: the axes along which
    they are less than `shape`, the indices along these, and the order of axes that blocks have in gather and
    scatter."""
    moving = tuple(i for i, (n, size) in enumerate(zip(shape, sizes, strict=True)) if not same(n, size))
    block = (c.size, *(sizes[i] for i in moving))
    columns = []
    for j, i in enumerate(moving):
        start = c.full(first + i)
        offset = make("iota", shape=block, dtype=start.dtype, dimension=1 + j, device=start.device)
        column = b.add(make("broadcast_in_dim", start, shape=block, dims=(0,)), offset)
        columns.append(b.reshape(column, (*block, 1)))
    rest = (i for i in range(len(shape)) if i not in moving)
    return moving, make("concatenate", *columns, dimension=len(block)), (0, *(i + 1 for i in (*moving, *rest)))


def _starts_in_step(c: Call, first: int) -> list[Node]:
    """Starts that all examples share, with one for the axis of examples."""
    starts = c.xs[first:]
    kind = starts[0].dtype if starts else int64
    return [constant(0, kind, c.xs[0].device), *starts]


def _dynamic_slice(c: Call) -> Node:
    x, sizes, shape = c.xs[0], c.attrs["sizes"], c.node.inputs[0].shape
    if not any(c.on[1:]):
        return make("dynamic_slice", x, *_starts_in_step(c, 1), sizes=(c.size, *sizes))
    if all(map(same, shape, sizes)):  # there is but one place to begin
        return c.full(0)
    moving, index, order = _block(c, 1, shape, sizes)
    along: dict[str, Any] = {"axes": _shifted(moving, c.size), "batch": 1} if c.on[0] else {"axes": moving, "batch": 0}
    return b.transpose(make("gather", x, index, **along), tuple(order.index(i) for i in range(len(order))))


def _dynamic_update_slice(c: Call) -> Node:
    shape, sizes = c.node.inputs[0].shape, c.node.inputs[1].shape
    if not any(c.on[2:]):
        return make("dynamic_update_slice", c.full(0), c.full(1), *_starts_in_step(c, 2))
    if all(map(same, shape, sizes)):
        return c.full(1)
    moving, index, order = _block(c, 2, shape, sizes)
    update = b.transpose(c.full(1), order)
    return make("scatter", c.full(0), index, update, axes=_shifted(moving, c.size), batch=1, combine="set")


def _one_by_one(c: Call) -> Node:
    """What knows nothing of examples: a scan along them."""
    alone = [hole(aval(x.shape[1:], x.dtype, x.device, x.tracked)) if on else x for x, on in _marked(c)]
    params = [p for p, on in zip(alone, c.on, strict=True) if on]
    shared = frozenset(x for x, on in _marked(c) if not on)
    body = Body(params, [make(c.node.primitive, *alone, **c.attrs)], shared.__contains__)
    stacks = [x for x, on in _marked(c) if on]
    walk = make("scan", *stacks, *body.captured, body=body, carry=0, length=c.size, reverse=False)
    return elements(walk, [aval((c.size, *c.node.shape), c.node.dtype, c.node.device, False)])[0]


def _marked(c: Call) -> list[tuple[Node, bool]]:
    return list(zip(c.xs, c.on, strict=True))


def _rng_bits(c: Call) -> Node:
    """More bits of the same draw; draws of each example's own where the counters differ."""
    return _one_by_one(c) if any(c.on) else c.again(*c.xs, shape=(c.size, *c.attrs["shape"]))


BATCHING: dict[str, Rule] = {
    **dict.fromkeys((*ELEMENTWISE, *MARKS, "optimization_barrier", "custom_gradient"), _along()),
    **dict.fromkeys(("reduce_window", "reduce_window_gradient"), _along()),  # of the last axes: any may stand before
    **dict.fromkeys(("attention", "attention_logsumexp", "attention_gradient"), _along()),  # likewise
    **dict.fromkeys(REDUCTIONS, _along(axes=_shifted)),
    **dict.fromkeys((*CUMULATIVE, "sort", "argmax"), _along(axis=_next)),
    "broadcast_in_dim": _along(shape=_sized, dims=_kept_first),
    "reshape": _along(shape=_sized),
    "transpose": _along(permutation=_kept_first),
    "slice": _along(start=_leading(0), limit=_sized, stride=_leading(1)),
    "reverse": _along(dimensions=_shifted),
    "concatenate": _along(dimension=_next),
    "scatter": _along(axes=_shifted, batch=_next),
    "gather": _gather,
    "pad": _pad,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "dot_general": _dot_general,
    "convolution": _convolution,
    "rng_bits": _rng_bits,
    "custom_call": _one_by_one,
}
ALIKE = frozenset(["constant", "iota"])  # without inputs: the same for all examples


def batch(
    order: Sequence[Node], at: Mapping[Node, Node], size: Size, differs: Differs = lambda n: False
) -> dict[Node, Node]:
    """The values, with the examples in front, of all nodes of `order` (topological) that differ between examples: those
    of `at`, where they are given, those that `differs` says, and what is computed from any of these."""
    from katachi.transforms.batching_control import BUNDLE_BATCHING

    out = dict(at)
    starting = {n for n in order if n not in at and _starts(n, differs)}
    out.update(_cotangent_places(order, {*at, *starting}, size))
    bundles: dict[Node, Sequence[Node]] = {}  # results of control flow
    asked = origin.site, origin.group
    try:
        for node in order:
            if node in out:
                continue
            if node.primitive == "element" and node.inputs[0] in bundles:
                out[node] = bundles[node.inputs[0]][node.attrs["index"]]
                continue
            on = [x in out for x in node.inputs]
            if not any(on) and node not in starting:
                continue
            origin.site, origin.group = node.site or asked[0], node.group
            call = Call(node, [out.get(x, x) for x in node.inputs], on, size, differs)
            if node.primitive in BUNDLE_BATCHING:
                bundles[node] = BUNDLE_BATCHING[node.primitive](call)
            else:
                out[node] = BATCHING[node.primitive](call)
    finally:
        origin.site, origin.group = asked
    return out


def _starts(n: Node, differs: Differs) -> bool:
    """Whether the node, or one in its bodies, differs by itself."""
    return differs(n) or any(_starts(m, differs) for body in bodies(n) for m in body.order)


def _cotangent_places(order: Sequence[Node], starting: set[Node], size: Size) -> dict[Node, Node]:
    """For the functions under custom_gradient that differ between examples: a place for all examples' cotangents, from
    which their formulas start."""
    places: dict[Node, Node] = {}
    reached, before = set(starting), -1
    while before != len(places):  # a formula may use such functions itself
        before = len(places)
        for n in order:
            if n in reached or any(x in reached for x in n.inputs):
                reached.add(n)
                if n.primitive == "custom_gradient" and n not in starting:
                    gap = n.inputs[1 + n.attrs["arguments"]]
                    places.setdefault(gap, widened(gap.aval, size))
                    reached.add(gap)
    return places

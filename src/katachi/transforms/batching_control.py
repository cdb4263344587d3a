"""Batching of control flow: bodies are batched in turn, and the results of a bundle all have the examples in front.

Where examples go different ways, each way is computed for all of them, if any goes it: those that do not are lent the
values of one that does. So nothing is computed that no example computes alone, and no infinity, index or call of a
function comes from where no example went.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from katachi.graph import build as b
from katachi.graph.control import Body, elements, may_fail
from katachi.graph.dtypes import int32
from katachi.graph.node import Aval, Node, aval
from katachi.graph.primitives import hole, make
from katachi.graph.sizes import Size, same
from katachi.transforms.batching import Call, batch, spread, widened
from katachi.transforms.control import filled


class _Captured(NamedTuple):
    """What a body captures: the nodes it was traced with, which stand for the operands, and these."""

    nodes: Sequence[Node]
    xs: Sequence[Node]
    on: Sequence[bool]

    def places(self) -> dict[Node, Node]:
        """Where an operand differs between examples, a place for all of them."""
        return {n: hole(x.aval) for n, x, on in zip(self.nodes, self.xs, self.on, strict=True) if on}

    def operands(self, places: Mapping[Node, Node]) -> dict[Node, Node]:
        """The operand that each node captured by the batched body stands for."""
        return {places.get(n, n): x for n, x in zip(self.nodes, self.xs, strict=True)}


def _captured(c: Call, body: Body, first: int) -> _Captured:
    end = first + len(body.captured)
    return _Captured(body.captured, c.xs[first:end], c.on[first:end])


def _through(body: Body, at: Mapping[Node, Node], c: Call) -> tuple[list[Node], list[bool]]:
    """A body's outputs, batched where they differ, and whether they do."""
    out = batch(body.order, at, c.size, c.differs)
    return [out.get(n, n) for n in body.outputs], [n in out for n in body.outputs]


def _full(xs: Sequence[Node], on: Sequence[bool], size: Size) -> list[Node]:
    return [x if o else spread(x, size) for x, o in zip(xs, on, strict=True)]


def _wide(params: Sequence[Node], on: Sequence[bool], size: Size) -> list[Node]:
    return [widened(p.aval, size) if o else p for p, o in zip(params, on, strict=True)]


def _differing(nodes: Sequence[Node], values: Sequence[Node], on: Sequence[bool]) -> dict[Node, Node]:
    return {n: v for n, v, o in zip(nodes, values, on, strict=True) if o}


def _where(which: Node, yes: Node, no: Node) -> Node:
    return b.select(make("broadcast_in_dim", which, shape=yes.shape, dims=(0,)), yes, no)


def _lent(which: Node, x: Node) -> Node:
    """x, in which examples that do not go this way have the value of the first that does."""
    if same(x.shape[0], 0):
        return x
    first = b.reshape(make("argmax", b.convert(which, int32), axis=0), (1,))
    other = make("stop_gradient", make("gather", x, first, axes=(0,), batch=0))
    return _where(which, x, spread(other, x.shape[0]))


def _swapped(x: Node) -> Node:
    return b.transpose(x, (1, 0, *range(2, len(x.shape))))


def _scan(c: Call) -> list[Node]:
    body, n, length, size = c.attrs["body"], c.attrs["carry"], c.attrs["length"], c.size
    m = len(body.params) - n
    captured = _captured(c, body, n + m)
    places = captured.places()
    on = list(c.on[: n + m])
    while True:  # a carry differs as soon as what it becomes does
        params = _wide(body.params, on, size)
        outs, differ = _through(body, {**_differing(body.params, params, on), **places}, c)
        more = [*(a or d for a, d in zip(on[:n], differ[:n], strict=True)), *on[n:]]
        if more == on:
            break
        on = more
    after = [spread(o, size) if a and not d else o for o, a, d in zip(outs[:n], on[:n], differ[:n], strict=True)]
    operands = captured.operands(places)
    new = body.derived(params, [*after, *outs[n:]], list(operands))
    init = [c.full(i) if on[i] else c.xs[i] for i in range(n)]
    stacks = [_swapped(c.xs[i]) if on[i] else c.xs[i] for i in range(n, n + m)]
    rest = filled(new, operands)
    walk = make("scan", *init, *stacks, *rest, body=new, carry=n, length=length, reverse=c.attrs["reverse"])
    results = elements(walk, [*(o.aval for o in after), *(_stack_kind(y, length) for y in outs[n:])])
    ys = [_swapped(y) if d else spread(y, size) for y, d in zip(results[n:], differ[n:], strict=True)]
    return [*_full(results[:n], on[:n], size), *ys]


def _stack_kind(n: Node, length: Size) -> Aval:
    return aval((length, *n.shape), n.dtype, n.device, False)


def _while(c: Call) -> list[Node]:
    """Runs until every example is done; those that are keep what they have."""
    condition, body, n, size = c.attrs["condition"], c.attrs["body"], c.attrs["carry"], c.size
    asked, used = _captured(c, condition, n), _captured(c, body, n + len(condition.captured))
    places = {**asked.places(), **used.places()}  # both may capture the same
    on = list(c.on[:n])
    while True:
        params = _wide(body.params, on, size)
        (test,), (apart,) = _through(condition, {**_differing(condition.params, params, on), **places}, c)
        at = {**_differing(body.params, params, on), **places}
        if apart and any(map(may_fail, body.order)):
            at = {n: _lent(test, x) for n, x in at.items()}
        outs, differ = _through(body, at, c)
        more = [apart or a or d for a, d in zip(on, differ, strict=True)]
        if more == on:
            break
        on = more
    after = [spread(o, size) if a and not d else o for o, a, d in zip(outs, on, differ, strict=True)]
    if apart:
        after = [_where(test, new, old) for new, old in zip(after, params, strict=True)]
        test = make("reduce_or", test, axes=(0,))
    operands = {**asked.operands(places), **used.operands(places)}
    first, second = condition.derived(params, [test], list(operands)), body.derived(params, after, list(operands))
    init = [c.full(i) if on[i] else c.xs[i] for i in range(n)]
    rest = [*filled(first, operands), *filled(second, operands)]
    walk = make("while", *init, *rest, condition=first, body=second, carry=n)
    return _full(elements(walk, [o.aval for o in after]), on, size)


def _cond(c: Call) -> list[Node]:
    yes, no, size = c.attrs["yes"], c.attrs["no"], c.size
    n = len(yes.params)
    sides = [(yes, _captured(c, yes, 1 + n)), (no, _captured(c, no, 1 + n + len(yes.captured)))]
    on = c.on[1 : 1 + n]
    if c.on[0]:
        return _both_ways(c, sides, on)
    bodies, rest = [], []
    for side, captured in sides:
        params, places = _wide(side.params, on, size), captured.places()
        outs, differ = _through(side, {**_differing(side.params, params, on), **places}, c)
        operands = captured.operands(places)
        body = side.derived(params, _full(outs, differ, size), list(operands))
        bodies.append(body)
        rest += filled(body, operands)
    done = make("cond", c.xs[0], *c.xs[1 : 1 + n], *rest, yes=bodies[0], no=bodies[1])
    return list(elements(done, [o.aval for o in bodies[0].outputs]))


def _both_ways(c: Call, sides: Sequence[tuple[Body, _Captured]], on: Sequence[bool]) -> list[Node]:
    size, found = c.size, []
    for which, (side, captured) in zip((c.xs[0], make("not", c.xs[0])), sides, strict=True):
        lent = captured._replace(
            xs=[_lent(which, x) if o else x for x, o in zip(captured.xs, captured.on, strict=True)]
        )
        params, places = _wide(side.params, on, size), lent.places()
        outs, differ = _through(side, {**_differing(side.params, params, on), **places}, c)
        stand_for = lent.operands(places)
        body = side.derived(params, _full(outs, differ, size), list(stand_for))
        nobody = side.derived(params, [b.like(o, 0) for o in body.outputs])
        operands = [_lent(which, x) if o else x for x, o in zip(c.xs[1:], on, strict=False)]  # captured ones follow
        some = make("reduce_or", which, axes=(0,))
        done = make("cond", some, *operands, *filled(body, stand_for), yes=body, no=nobody)
        found.append(elements(done, [o.aval for o in body.outputs]))
    return [_where(c.xs[0], *pair) for pair in zip(*found, strict=True)]


BUNDLE_BATCHING: dict[str, Callable[[Call], Sequence[Node]]] = {"scan": _scan, "while": _while, "cond": _cond}

"""Differentiation of control flow: a bundle's rule takes the cotangents (or tangents) of all results together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from katachi.errors import GradientError
from katachi.graph import build as b
from katachi.graph.control import Body, elements
from katachi.graph.halves import upcast
from katachi.graph.node import Aval, Node, aval, toposort
from katachi.graph.primitives import hole, make
from katachi.transforms.view import View

Parts = dict[int, Node]


def _kind(n: Node) -> Aval:
    return aval(n.shape, n.dtype, n.device, n.dtype.is_floating)


def _stack_kind(n: Node, length: int) -> Aval:
    return aval((length, *n.shape), n.dtype, n.device, False)


def _zeros(kind: Any) -> Node:
    return b.full(0, kind.shape, kind.dtype, kind.device)


def filled(body: Body, operands: Mapping[Node, Node]) -> list[Node]:
    """What to hand in for all that a derived body captures: operands for the nodes that stand for them, and what the
    rules have made of such nodes is made of the operands."""
    new = dict(operands)
    for n in toposort(body.captured, operands.__contains__):
        if n not in new:
            inputs = [new[x] for x in n.inputs]
            changed = any(a is not x for a, x in zip(inputs, n.inputs, strict=True))
            new[n] = make(n.primitive, *inputs, **n.attrs) if changed else n
    return [new[n] for n in body.captured]


def _operands(body: Body, original: Body, v: View, first: int) -> list[Node]:
    """What a derived body captures: the original's captured values come from the node's inputs, from `first` on."""
    used = set(toposort(body.captured, frozenset(original.captured).__contains__))
    return filled(body, {n: v.x(first + i) for i, n in enumerate(original.captured) if n in used})


def _through(body: Body, seeds: dict[Node, Node]) -> dict[Node, Node]:
    from katachi.transforms.vjp import backward

    return backward(seeds, body.nodes, until=frozenset(body.captured))


def _seeds(outputs: Sequence[Node], cotangents: Sequence[Node]) -> dict[Node, Node]:
    seeds: dict[Node, Node] = {}
    for n, g in zip(outputs, cotangents, strict=True):
        if n.tracked:
            seeds[n] = b.add(seeds[n], g) if n in seeds else g
    return seeds


def _scan_vjp(parts: Parts, v: View) -> dict[int, Node]:
    """A scan that keeps the carry of every step, then one backwards over the steps, which computes the body again."""
    body, n, length = v.attrs["body"], v.attrs["carry"], v.attrs["length"]
    reverse = v.attrs["reverse"]
    m, p = len(body.params) - n, len(body.outputs) - n
    carries, xs = body.params[:n], body.params[n:]
    given = [v.x(i) for i in range(n + m)]
    remember = body.derived(body.params, (*body.outputs[:n], *carries))
    kinds = [_kind(c) for c in carries] + [_stack_kind(c, length) for c in carries]
    walk = make(
        "scan", *given, *_operands(remember, body, v, n + m), body=remember, carry=n, length=length, reverse=reverse
    )
    history = elements(walk, kinds)[n:]

    floats = [i for i in range(n) if carries[i].dtype.is_floating]
    used = [i for i, c in enumerate(body.captured) if c.tracked]
    ys = [j for j in range(p) if body.outputs[n + j].dtype.is_floating]
    gc = [hole(_kind(carries[i])) for i in floats]
    none = [upcast(_zeros(body.captured[i])) for i in used]  # what adds up over the steps
    gcap = [hole(_kind(g)) for g in none]
    gy = [hole(_kind(body.outputs[n + j])) for j in ys]
    ct = _through(body, _seeds([*(body.outputs[i] for i in floats), *(body.outputs[n + j] for j in ys)], [*gc, *gy]))
    new = [ct.get(carries[i]) or _zeros(carries[i]) for i in floats]
    found = [ct.get(body.captured[i]) for i in used]
    new += [g if more is None else b.add(g, upcast(more)) for g, more in zip(gcap, found, strict=True)]
    out_x = [k for k in range(m) if xs[k].dtype.is_floating]
    gx = [ct.get(xs[k]) or _zeros(xs[k]) for k in out_x]
    back = body.derived([*gc, *gcap, *carries, *xs, *gy], [*new, *gx])
    start = [parts.get(i) or _zeros(carries[i]) for i in floats] + none
    stacks = [*history, *given[n:], *(parts.get(n + j) or _zeros(_stack_kind(body.outputs[n + j], length)) for j in ys)]
    done = make(
        "scan", *start, *stacks, *_operands(back, body, v, n + m), body=back, carry=len(start), length=length,
        reverse=not reverse,
    )  # fmt: skip
    results = elements(done, [*map(_kind, new), *(_stack_kind(xs[k], length) for k in out_x)])
    targets = [*floats, *(n + m + i for i in used), *(n + k for k in out_x)]
    kinds = [v.like(at) for at in targets]
    return {
        at: b.to_device(b.convert(g, kind.dtype), kind.device)
        for at, g, kind in zip(targets, results, kinds, strict=True)
    }


def _while_vjp(parts: Parts, v: View) -> dict[int, Node]:
    raise GradientError(
        "while_loop: nobody knows how often it runs, so there is no way back; use scan, or forward mode"
    )


def _cond_vjp(parts: Parts, v: View) -> dict[int, Node]:
    yes, no = v.attrs["yes"], v.attrs["no"]
    n = len(yes.params)
    outs = [i for i, o in enumerate(yes.outputs) if o.dtype.is_floating]
    gy = [hole(_kind(yes.outputs[i])) for i in outs]
    floats = [i for i in range(n) if yes.params[i].dtype.is_floating]
    inputs, at = v.node.inputs, (1 + n, 1 + n + len(yes.captured))
    used = {x: i for i, x in enumerate(inputs) if i > n and x.tracked}  # what both capture has one gradient

    def back(body: Body, first: int) -> Body:
        ct = _through(body, _seeds([body.outputs[i] for i in outs], gy))
        mine: dict[Node, Node] = {}
        for x, c in zip(inputs[first:], body.captured, strict=False):
            if c in ct:
                mine[x] = b.add(mine[x], ct[c]) if x in mine else ct[c]
        found = [ct.get(body.params[i]) or _zeros(body.params[i]) for i in floats]
        return body.derived([*body.params, *gy], [*found, *(mine.get(x) or _zeros(x) for x in used)])

    first, second = back(yes, at[0]), back(no, at[1])
    given = [v.x(1 + i) for i in range(n)] + [parts.get(i) or _zeros(yes.outputs[i]) for i in outs]
    captured = _operands(first, yes, v, at[0]) + _operands(second, no, v, at[1])
    done = make("cond", v.x(0), *given, *captured, yes=first, no=second)
    results = elements(done, [_kind(o) for o in first.outputs])
    targets = [*(1 + i for i in floats), *used.values()]
    return {at: b.to_device(g, v.like(at).device) for at, g in zip(targets, results, strict=True)}


BUNDLE_VJP: dict[str, Callable[[Parts, View], dict[int, Node]]] = {
    "scan": _scan_vjp, "while": _while_vjp, "cond": _cond_vjp,
}  # fmt: skip


def _push(body: Body, holes: dict[Node, Node]) -> list[Node]:
    """Tangents of a body's outputs, zeros where there are none."""
    from katachi.transforms.jvp import forward

    t = forward(holes, body.nodes)
    return [t.get(o) or _zeros(o) for o in body.outputs]


def _tangents(t: Sequence[Node | None], operands: Sequence[Node], chosen: Sequence[int]) -> list[Node]:
    return [t[i] or _zeros(operands[i]) for i in chosen]  # type: ignore[misc] # `or` removes the None


def _scan_jvp(v: View, t: Sequence[Node | None]) -> Parts:
    body, n, length = v.attrs["body"], v.attrs["carry"], v.attrs["length"]
    m, inputs = len(body.params) - n, v.node.inputs
    floats = [i for i in range(n + m) if body.params[i].dtype.is_floating]
    used = [i for i, c in enumerate(body.captured) if t[n + m + i] is not None]
    holes = {body.params[i]: hole(_kind(body.params[i])) for i in floats}
    fixed = {body.captured[i]: hole(_kind(body.captured[i])) for i in used}
    pushed = _push(body, {**holes, **fixed})
    carries = [i for i in floats if i < n]
    outs = [j for j in range(n, len(body.outputs)) if body.outputs[j].dtype.is_floating]
    state = [*body.params[:n], *(holes[body.params[i]] for i in carries), *fixed.values()]
    stacks = [*body.params[n:], *(holes[body.params[i]] for i in floats if i >= n)]
    after = [*body.outputs[:n], *(pushed[i] for i in carries), *fixed.values(), *(pushed[j] for j in outs)]
    both = body.derived([*state, *stacks], after)
    operands = [*(v.x(i) for i in range(n)), *_tangents(t, inputs, carries)]
    operands += _tangents(t, inputs, [n + m + i for i in used])
    operands += [v.x(n + k) for k in range(m)] + _tangents(t, inputs, [i for i in floats if i >= n])
    done = make(
        "scan", *operands, *_operands(both, body, v, n + m), body=both, carry=len(state), length=length,
        reverse=v.attrs["reverse"],
    )  # fmt: skip
    kinds = [*map(_kind, state), *(_stack_kind(body.outputs[j], length) for j in outs)]
    results = elements(done, kinds)
    return dict(zip([*carries, *outs], [*results[n : n + len(carries)], *results[len(state) :]], strict=True))


def _while_jvp(v: View, t: Sequence[Node | None]) -> Parts:
    condition, body, n = v.attrs["condition"], v.attrs["body"], v.attrs["carry"]
    inputs, first = v.node.inputs, n + len(condition.captured)
    floats = [i for i in range(n) if body.params[i].dtype.is_floating]
    used = [i for i, c in enumerate(body.captured) if t[first + i] is not None]
    holes = {body.params[i]: hole(_kind(body.params[i])) for i in floats}
    fixed = {body.captured[i]: hole(_kind(body.captured[i])) for i in used}
    pushed = _push(body, {**holes, **fixed})
    extra = [*holes.values(), *fixed.values()]
    both = body.derived([*body.params, *extra], [*body.outputs, *(pushed[i] for i in floats), *fixed.values()])
    test = condition.derived([*condition.params, *extra], condition.outputs)
    operands = [*(v.x(i) for i in range(n)), *_tangents(t, inputs, [*floats, *(first + i for i in used)])]
    captured = _operands(test, condition, v, n) + _operands(both, body, v, first)
    done = make("while", *operands, *captured, condition=test, body=both, carry=len(operands))
    results = elements(done, [_kind(p) for p in both.params])
    return dict(zip(floats, results[n : n + len(floats)], strict=True))


def _cond_jvp(v: View, t: Sequence[Node | None]) -> Parts:
    yes, no = v.attrs["yes"], v.attrs["no"]
    n, inputs = len(yes.params), v.node.inputs
    floats = [i for i in range(n) if yes.params[i].dtype.is_floating]
    outs = [i for i, o in enumerate(yes.outputs) if o.dtype.is_floating]
    holes = [hole(_kind(yes.params[i])) for i in floats]
    firsts = (1 + n, 1 + n + len(yes.captured))
    fixed: list[Node] = []
    sources: list[int] = []
    tangents: list[dict[Node, Node]] = []
    for body, first in zip((yes, no), firsts, strict=True):
        at = {body.params[i]: h for i, h in zip(floats, holes, strict=True)}
        for i, c in enumerate(body.captured):
            if t[first + i] is not None:
                at[c] = hole(_kind(c))
                fixed.append(at[c])
                sources.append(first + i)
        tangents.append(at)
    branches = []
    for body, at in zip((yes, no), tangents, strict=True):
        pushed = _push(body, at)
        branches.append(body.derived([*body.params, *holes, *fixed], [pushed[i] for i in outs]))
    operands = [v.x(1 + i) for i in range(n)] + _tangents(t, inputs, [*(1 + i for i in floats), *sources])
    captured = _operands(branches[0], yes, v, firsts[0]) + _operands(branches[1], no, v, firsts[1])
    done = make("cond", v.x(0), *operands, *captured, yes=branches[0], no=branches[1])
    return dict(zip(outs, elements(done, [_kind(yes.outputs[i]) for i in outs]), strict=True))


BUNDLE_JVP: dict[str, Callable[[View, Sequence["Node | None"]], Parts]] = {
    "scan": _scan_jvp, "while": _while_jvp, "cond": _cond_jvp,
}  # fmt: skip

"""Attention, softmax(scale q k^T) v, as primitives that never make the T x S scores, and what they are composed of.

The logsumexp of each row of scores is a value of its own: with it the weights can be had again block by block on the
way back. It and `out` are operands only to be remembered: they must be what the other primitives made of the same q, k,
v and mask. So they have no derivative; those of the rest count all that depends on them.

    attention_logsumexp   q (..., T, E), k (..., S, E), mask                            to (..., T)
    attention             q, k, v (..., S, F), logsumexp, mask                          to (..., T, F)
    attention_gradient    q, k, v, logsumexp, out, the cotangent g of out, mask         to operand `of`: 0, 1 or 2

`mask` (..., T, S) may be missing; it is bool, true where a query may look. `causal` lets position t look at s <= t. A
query that may look at nothing gets zeros, and -inf as its logsumexp. Where a value that a query may not look at is
infinite or NaN, the result may be NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import DType, bool_, float32, int64
from katachi.graph.node import Aval, Node
from katachi.graph.primitives import RULES, make
from katachi.graph.sizes import Shape, same

FIRST_MASK = {"attention_logsumexp": 2, "attention": 4, "attention_gradient": 6}  # the operand that may be missing


def _fit(a: Shape, b: Shape) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


def _check(q: Aval, k: Aval, v: Aval | None, mask: Sequence[Aval]) -> None:
    tail = "" if v is None else ", value (..., S, F)"
    shapes = ", ".join(str(x.shape) for x in (q, k, v) if x is not None)
    lead, value = q.shape[:-2], k if v is None else v
    fits = len(q.shape) >= 2 and _fit(k.shape[:-2], lead) and same(q.shape[-1], k.shape[-1])
    if not fits or not _fit(value.shape[:-1], k.shape[:-1]):
        raise ShapeError(f"needs query (..., T, E), key (..., S, E){tail}, got {shapes}")
    kinds = [x.dtype for x in (q, k, value)]
    if kinds[0].kind != "float" or any(kind is not kinds[0] for kind in kinds):
        raise DTypeError(f"needs one floating-point dtype, got {', '.join(kind.name for kind in kinds)}")
    for m in mask:
        want = (*q.shape[:-1], k.shape[-2])
        if m.dtype is not bool_ or not _fit(m.shape, want):
            raise ShapeError(f"needs a mask bool{list(want)}, got {m!r}")


def _remembered(kind: Aval, shape: Shape, what: str) -> None:
    if not _fit(kind.shape, shape) or kind.dtype.kind != "float":
        raise ShapeError(f"needs {what} of shape {shape}, got {kind!r}")


def _attention_logsumexp(q: Aval, k: Aval, *mask: Aval, scale: float, causal: bool) -> tuple[Shape, DType]:
    _check(q, k, None, mask)
    return q.shape[:-1], q.dtype if q.dtype.itemsize >= 4 else float32


def _attention(
    q: Aval, k: Aval, v: Aval, logsumexp: Aval, *mask: Aval, scale: float, causal: bool
) -> tuple[Shape, DType]:
    _check(q, k, v, mask)
    _remembered(logsumexp, q.shape[:-1], "a logsumexp")
    return (*q.shape[:-1], v.shape[-1]), q.dtype


def _attention_gradient(
    q: Aval, k: Aval, v: Aval, logsumexp: Aval, out: Aval, g: Aval, *mask: Aval, scale: float, causal: bool, of: int
) -> tuple[Shape, DType]:
    _check(q, k, v, mask)
    _remembered(logsumexp, q.shape[:-1], "a logsumexp")
    for x in (out, g):
        _remembered(x, (*q.shape[:-1], v.shape[-1]), "a result and its cotangent")
    return (q, k, v)[of].shape, q.dtype


RULES.update(
    attention_logsumexp=_attention_logsumexp, attention=_attention, attention_gradient=_attention_gradient
)  # fmt: skip


def attention(q: Node, k: Node, v: Node, mask: Sequence[Node], scale: float, causal: bool) -> Node:
    """The nodes of softmax(scale q k^T) v."""
    how = {"scale": scale, "causal": causal}
    return make("attention", q, k, v, make("attention_logsumexp", q, k, *mask, **how), *mask, **how)


def product(a: Node, x: Node, along: tuple[int, int]) -> Node:
    """The matrix product over these of the last two axes of each, counted from the end."""
    rank = len(a.shape)
    batch = tuple(range(rank - 2))
    contract = ((rank + along[0],), (rank + along[1],))
    return make("dot_general", a, x, batch=(batch, batch), contract=contract)


def scores(q: Node, k: Node, mask: Sequence[Node], scale: float, causal: bool) -> Node:
    """scale q k^T, -inf where a query may not look."""
    found = b.scale(product(q, k, (-1, -1)), scale)
    never, last = b.like(found, -math.inf), len(found.shape) - 1
    if causal:
        t, s = (make("iota", shape=found.shape, dtype=int64, dimension=d, device=q.device) for d in (last - 1, last))
        found = b.select(b.compare(s, "LE", t), found, never)
    for m in mask:
        found = b.select(m, found, never)
    return found


def _exponentials(x: Node) -> tuple[Node, Node, Node]:
    """exp(x - top), the sums of its rows, and top, the largest of each row: 0 where that is -inf."""
    axis = len(x.shape) - 1
    top = b.reduce("reduce_max", make("stop_gradient", x), (axis,), keepdims=True)
    top = b.select(b.compare(top, "EQ", b.like(top, -math.inf)), b.like(top, 0.0), top)
    e = make("exponential", b.subtract(x, top))
    return e, b.reduce("reduce_sum", e, (axis,), keepdims=True), top


def weights(x: Node) -> Node:
    """softmax over the last axis, and zeros where all is -inf."""
    if same(x.shape[-1], 0):
        return x
    e, total, _ = _exponentials(x)
    return b.divide(e, b.select(b.compare(total, "EQ", b.like(total, 0.0)), b.like(total, 1.0), total))


def _logsumexp(x: Node) -> Node:
    """Of each row, at least in float32."""
    x = b.convert(x, float32) if x.dtype.itemsize < 4 else x
    if same(x.shape[-1], 0):
        return b.full(-math.inf, x.shape[:-1], x.dtype, x.device)
    _, total, top = _exponentials(x)
    return b.reshape(b.add(make("log", total), top), x.shape[:-1])


def composed(primitive: str, operands: Sequence[Node], attrs: Mapping[str, Any]) -> Node:
    """The same as nodes of other primitives, which make the scores."""
    q, k = operands[:2]
    x = scores(q, k, operands[FIRST_MASK[primitive] :], attrs["scale"], attrs["causal"])
    if primitive == "attention_logsumexp":
        return _logsumexp(x)
    w, v = weights(x), operands[2]
    if primitive == "attention":
        return product(w, v, (-1, -2))
    g, of = operands[5], attrs["of"]
    if of == 2:
        return product(w, g, (-2, -2))
    back = product(g, v, (-1, -1))
    mean = b.reduce("reduce_sum", b.multiply(w, back), (len(w.shape) - 1,), keepdims=True)
    back = b.scale(b.multiply(w, b.subtract(back, mean)), attrs["scale"])
    return product(back, k, (-1, -2)) if of == 0 else product(back, q, (-2, -2))

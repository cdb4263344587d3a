"""Scaled dot-product attention as a function."""

from __future__ import annotations

import math
from typing import Any

from katachi.errors import ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import int64
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.reduce import shifted


def _attention(q: Node, k: Node, v: Node, *rest: Any) -> Node:
    *mask, causal = rest
    if len(q.shape) < 2 or k.shape[:-2] != q.shape[:-2] or v.shape[:-1] != k.shape[:-1] or q.shape[-1] != k.shape[-1]:
        raise ShapeError(
            f"needs query (..., T, E), key (..., S, E), value (..., S, F), got {q.shape}, {k.shape}, {v.shape}"
        )
    batch = tuple(range(len(q.shape) - 2))
    last = len(q.shape) - 1
    scores = make("dot_general", q, k, batch=(batch, batch), contract=((last,), (last,)))
    scores = b.scale(scores, 1 / math.sqrt(q.shape[-1]))
    never = b.like(scores, -math.inf)
    if causal:
        t, s = (make("iota", shape=scores.shape, dtype=int64, dimension=d, device=q.device) for d in (last - 1, last))
        scores = b.select(b.compare(s, "LE", t), scores, never)
    if mask:
        scores = b.select(b.spread(mask[0], scores.shape), scores, never)
    e = make("exponential", shifted(scores, last))
    weights = b.divide(e, b.reduce("reduce_sum", e, (last,), keepdims=True))
    return make("dot_general", weights, v, batch=(batch, batch), contract=((last,), (last - 1,)))


ATTENTION = Op("scaled_dot_product_attention", _attention)


def scaled_dot_product_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, is_causal: bool = False
) -> Any:
    """softmax(query key^T / sqrt(E)) value, for query (..., T, E), key (..., S, E), value (..., S, F) (Vaswani et al.,
    2017). `attn_mask` is bool, true where a query may look; `is_causal` lets position t look at s <= t.
    Raises ShapeError.

    >>> import katachi as kt
    >>> x = kt.ones((1, 3, 4)); kt.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True).shape
    (1, 3, 4)
    """
    operands = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    return apply(ATTENTION, operands, (is_causal,))

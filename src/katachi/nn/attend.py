"""Scaled dot-product attention as a function."""

from __future__ import annotations

import math
from typing import Any

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.attention import attention, product, scores, weights
from katachi.graph.dtypes import bool_
from katachi.graph.node import Node
from katachi.nn.common import common
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.operand import floating


def _attention(q: Node, k: Node, v: Node, *rest: Any) -> Node:
    *mask, causal, scale = rest
    if len(q.shape) < 2 or k.shape[:-2] != q.shape[:-2] or v.shape[:-1] != k.shape[:-1] or q.shape[-1] != k.shape[-1]:
        raise ShapeError(
            f"needs query (..., T, E), key (..., S, E), value (..., S, F), got {q.shape}, {k.shape}, {v.shape}"
        )
    q, k, v = common(floating(q), floating(k), floating(v))
    scale = 1 / math.sqrt(q.shape[-1] or 1) if scale is None else scale
    shape = (*q.shape[:-1], k.shape[-2])
    if not mask or mask[0].dtype is bool_:
        return attention(q, k, v, [b.spread(m, shape) for m in mask], scale, causal)
    (m,) = mask
    if not m.dtype.is_floating:
        raise DTypeError(f"attn_mask is bool (true: may look) or floating (added to the scores), got {m.dtype.name}")
    x = b.add(scores(q, k, (), scale, causal), b.spread(b.convert(m, q.dtype), shape))  # which has a gradient, T x S
    return product(weights(x), v, (-1, -2))


ATTENTION = Op("scaled_dot_product_attention", _attention, upcast=3)


def scaled_dot_product_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, *, is_causal: bool = False, scale: float | None = None
) -> Any:
    """softmax(query key^T scale) value, for query (..., T, E), key (..., S, E), value (..., S, F) (Vaswani et al.,
    2017); `scale` is 1 / sqrt(E) unless given. `attn_mask` broadcasts to (..., T, S): bool, true where a query may
    look, or floating, added before the softmax; a query that may look at nothing gets zeros. `is_causal` lets position
    t look at s <= t. Raises ShapeError, DTypeError. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> x = kt.ones((1, 3, 4)); kt.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True).shape
    (1, 3, 4)
    """
    operands = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    return apply(ATTENTION, operands, (bool(is_causal), None if scale is None else float(scale)))

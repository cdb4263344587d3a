"""Attention, and the transformer block made of it."""

from __future__ import annotations

import math
from typing import Any

from katachi.errors import ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import int64
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.nn.init import uniform, zero
from katachi.nn.layers import Linear
from katachi.nn.module import Module, check_positive
from katachi.nn.normalize import LayerNorm
from katachi.nn.simple import Dropout
from katachi.tensor.elementwise import gelu
from katachi.tensor.reduce import shifted
from katachi.tensor.trace import Op, apply


def _attention(q: Node, k: Node, v: Node, *rest: Any) -> Node:
    *mask, causal = rest
    if len(q.shape) < 2 or k.shape[:-2] != q.shape[:-2] or v.shape[:-1] != k.shape[:-1] or q.shape[-1] != k.shape[-1]:
        raise ShapeError(f"needs query (..., T, E), key (..., S, E), value (..., S, F), got {q.shape}, {k.shape}, {v.shape}")
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


def scaled_dot_product_attention(query: Any, key: Any, value: Any, attn_mask: Any = None, is_causal: bool = False) -> Any:
    """softmax(query key^T / sqrt(E)) value (Vaswani et al., 2017): query (..., T, E), key (..., S, E), value (..., S, F).
    `attn_mask` is bool, true where a query may look; `is_causal` lets position t look at s <= t. Raises ShapeError.

    >>> import katachi as kt
    >>> x = kt.ones((1, 3, 4)); kt.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True).shape
    (1, 3, 4)
    """
    operands = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    return apply(ATTENTION, operands, (is_causal,))


def _split(packed: Node, heads: int) -> tuple[Node, Node, Node]:
    """(B, T, 3 E) to three of (B, heads, T, E / heads)."""
    n, t, width = packed.shape
    parts = b.transpose(b.reshape(packed, (n, t, 3, heads, width // 3 // heads)), (2, 0, 3, 1, 4))

    def one(i: int) -> Node:
        shape = parts.shape
        part = make("slice", parts, start=(i, 0, 0, 0, 0), limit=(i + 1, *shape[1:]), stride=(1,) * 5)
        return b.reshape(part, shape[1:])

    return one(0), one(1), one(2)


def _merge(x: Node) -> Node:
    n, heads, t, width = x.shape
    return b.reshape(b.transpose(x, (0, 2, 1, 3)), (n, t, heads * width))


SPLIT_HEADS, MERGE_HEADS = Op("split_heads", _split), Op("merge_heads", _merge)


class MultiheadAttention(Module):
    """Self-attention of (B, T, embed_dim) in `num_heads` heads, with PyTorch's names and layout of weights
    (`in_proj_weight`, `in_proj_bias`, `out_proj`).

    >>> import katachi as kt
    >>> kt.nn.MultiheadAttention(8, 2)(kt.rand(1, 5, 8), causal=True).shape
    (1, 5, 8)
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        check_positive("MultiheadAttention", embed_dim=embed_dim, num_heads=num_heads)
        if embed_dim % num_heads:
            raise ShapeError(f"MultiheadAttention: embed_dim {embed_dim} does not divide into {num_heads} heads")
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.in_proj_weight = uniform((3 * embed_dim, embed_dim), math.sqrt(6 / (4 * embed_dim)))
        self.in_proj_bias = zero((3 * embed_dim,))
        self.out_proj = Linear(embed_dim, embed_dim)
        self.out_proj.bias = zero((embed_dim,))

    def forward(self, x: Any, causal: bool = False) -> Any:
        if x.ndim != 3 or x.shape[-1] != self.embed_dim:
            raise ShapeError(f"MultiheadAttention: needs input (B, T, {self.embed_dim}), got {x.shape}")
        from katachi.nn.functional import linear

        packed = linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = apply(SPLIT_HEADS, (packed,), (self.num_heads,), many=True)
        return self.out_proj(apply(MERGE_HEADS, (scaled_dot_product_attention(q, k, v, is_causal=causal),)))

    def describe(self) -> str:
        return f"{self.embed_dim}, num_heads={self.num_heads}"


class TransformerBlock(Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with a hidden width of four times the width.

    >>> import katachi as kt
    >>> kt.nn.TransformerBlock(8, 2)(kt.rand(1, 5, 8)).shape
    (1, 5, 8)
    """

    def __init__(self, embed_dim: int, num_heads: int, causal: bool = True, dropout: float = 0.0) -> None:
        self.norm1, self.attention = LayerNorm(embed_dim), MultiheadAttention(embed_dim, num_heads)
        self.norm2 = LayerNorm(embed_dim)
        self.up, self.down = Linear(embed_dim, 4 * embed_dim), Linear(4 * embed_dim, embed_dim)
        self.dropout, self.causal = Dropout(dropout), causal

    def forward(self, x: Any) -> Any:
        x = x + self.dropout(self.attention(self.norm1(x), causal=self.causal))
        return x + self.dropout(self.down(gelu(self.up(self.norm2(x)))))

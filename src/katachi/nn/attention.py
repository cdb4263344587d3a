"""Layers of attention, and the transformer block made of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from katachi.errors import ShapeError
from katachi.graph import build as b
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.nn.attend import scaled_dot_product_attention
from katachi.nn.functional import linear
from katachi.nn.init import uniform, zero
from katachi.nn.layers import Linear
from katachi.nn.module import Module, check_positive
from katachi.nn.normalize import LayerNorm
from katachi.nn.simple import Dropout
from katachi.tensor.apply import apply
from katachi.tensor.elementwise import gelu
from katachi.tensor.entry import Op
from katachi.tensor.types import Shaped, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Fixed, Tracked


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


@shape_vars("E")
class MultiheadAttention(Module):
    """Self-attention of (B, T, embed_dim) in `num_heads` heads (Vaswani et al., 2017), with PyTorch's names and layout
    of weights (`in_proj_weight`, `in_proj_bias`, `out_proj`). `causal` lets position t look at s <= t. Raises
    ShapeError.

    >>> import katachi as kt
    >>> kt.nn.MultiheadAttention(8, 2)(kt.rand(1, 5, 8), causal=True).shape
    (1, 5, 8)
    """

    def __init__(self, embed_dim: Shaped[int, "E"], num_heads: int, bias: bool = True) -> None:
        check_positive("MultiheadAttention", embed_dim=embed_dim, num_heads=num_heads)
        if embed_dim % num_heads:
            raise ShapeError(f"MultiheadAttention: embed_dim {embed_dim} does not divide into {num_heads} heads")
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.in_proj_weight = uniform((3 * embed_dim, embed_dim), math.sqrt(6 / (4 * embed_dim)))
        self.in_proj_bias = zero((3 * embed_dim,)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias)
        if bias:
            self.out_proj.bias = zero((embed_dim,))

    @shape_vars("B, T")
    def forward(
        self, x: Tensor[Shaped[Any, "[B, T, E]"], Fixed], causal: bool = False
    ) -> Tensor[Shaped[Any, "[B, T, E]"], Tracked]:
        if x.ndim != 3 or x.shape[-1] != self.embed_dim:
            raise ShapeError(f"MultiheadAttention: needs input (B, T, {self.embed_dim}), got {x.shape}")
        packed = linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = apply(SPLIT_HEADS, (packed,), (self.num_heads,), many=True)
        return self.out_proj(apply(MERGE_HEADS, (scaled_dot_product_attention(q, k, v, is_causal=causal),)))

    def describe(self) -> str:
        said = f"{self.embed_dim}, num_heads={self.num_heads}"
        return said if self.in_proj_bias is not None else f"{said}, bias=False"


@shape_vars("E")
class TransformerBlock(Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Xiong et al., 2020), with a hidden width of four times the width:
    (B, T, embed_dim) stays (B, T, embed_dim). `causal` lets position t look at s <= t. Raises ShapeError.

    >>> import katachi as kt
    >>> kt.nn.TransformerBlock(8, 2)(kt.rand(1, 5, 8)).shape
    (1, 5, 8)
    """

    def __init__(self, embed_dim: Shaped[int, "E"], num_heads: int, causal: bool = True, dropout: float = 0.0) -> None:
        self.norm1, self.attention = LayerNorm(embed_dim), MultiheadAttention(embed_dim, num_heads)
        self.norm2 = LayerNorm(embed_dim)
        self.up, self.down = Linear(embed_dim, 4 * embed_dim), Linear(4 * embed_dim, embed_dim)
        self.dropout, self.causal = Dropout(dropout), causal

    @shape_vars("B, T")
    def forward(self, x: Tensor[Shaped[Any, "[B, T, E]"], Fixed]) -> Tensor[Shaped[Any, "[B, T, E]"], Tracked]:
        x = x + self.dropout(self.attention(self.norm1(x), causal=self.causal))
        return x + self.dropout(self.down(gelu(self.up(self.norm2(x)))))

    def describe(self) -> str:
        return f"causal={self.causal}"

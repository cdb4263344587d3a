"""Layers of attention, and the transformer block made of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from katachi.errors import ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import bool_
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
from katachi.tensor.elementwise import gelu, where
from katachi.tensor.entry import Op
from katachi.tensor.functions import logical_and, logical_not
from katachi.tensor.tensor import Tensor
from katachi.tensor.types import Shaped, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.types import Fixed, Tracked


def _split(packed: Node, heads: int, parts: int) -> tuple[Node, ...]:
    """(B, T, parts E) to so many of (B, heads, T, E / heads)."""
    n, t, width = packed.shape
    apart = b.transpose(b.reshape(packed, (n, t, parts, heads, width // parts // heads)), (2, 0, 3, 1, 4))

    def one(i: int) -> Node:
        shape = apart.shape
        part = make("slice", apart, start=(i, 0, 0, 0, 0), limit=(i + 1, *shape[1:]), stride=(1,) * 5)
        return b.reshape(part, shape[1:])

    return tuple(one(i) for i in range(parts))


def _merge(x: Node) -> Node:
    n, heads, t, width = x.shape
    return b.reshape(b.transpose(x, (0, 2, 1, 3)), (n, t, heads * width))


SPLIT_HEADS, MERGE_HEADS = Op("split_heads", _split), Op("merge_heads", _merge)


@shape_vars("E")
class MultiheadAttention(Module):
    """Attention of (B, T, embed_dim) in `num_heads` heads (Vaswani et al., 2017), with PyTorch's names and layout of
    weights (`in_proj_weight`, `in_proj_bias`, `out_proj`): of a sequence to itself, or to `key` and `value`
    (B, S, embed_dim). Returns (B, T, embed_dim), and no weights beside it.

    Masks mean what they do in PyTorch's layer: `key_padding_mask` (B, S) is true at keys that nobody may look at,
    `attn_mask` (T, S) or (B, heads, T, S) is true where a query may not look, or floating and added to the scores.
    `causal` lets position t look at s <= t. Raises ShapeError, DTypeError.

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
        self,
        query: Tensor[Shaped[Any, "[B, T, E]"], Fixed],
        key: Any = None,
        value: Any = None,
        *,
        key_padding_mask: Any = None,
        attn_mask: Any = None,
        causal: bool = False,
    ) -> Tensor[Shaped[Any, "[B, T, E]"], Tracked]:
        key = query if key is None else key
        value = key if value is None else value
        for name, x in (("input", query), ("key", key), ("value", value)):
            if not isinstance(x, Tensor):
                raise TypeError(f"MultiheadAttention: {name} is a tensor (B, T, {self.embed_dim}), got {x!r}")
            if x.ndim != 3 or x.shape[-1] != self.embed_dim:
                raise ShapeError(f"MultiheadAttention: needs {name} (B, T, {self.embed_dim}), got {x.shape}")
        # operands that are one and the same are projected together
        if key is query and value is query:
            q, k, v = self._projected(query, 0, 3)
        elif value is key:
            (q,), (k, v) = self._projected(query, 0, 1), self._projected(key, 1, 3)
        else:
            (q,), (k,), (v,) = (self._projected(x, i, i + 1) for i, x in enumerate((query, key, value)))
        mask = self._mask(key_padding_mask, attn_mask, key)
        return self.out_proj(apply(MERGE_HEADS, (scaled_dot_product_attention(q, k, v, mask, is_causal=causal),)))

    def _projected(self, x: Any, first: int, last: int) -> Any:
        """Of queries (0), keys (1) and values (2) those from `first` to before `last`, by heads."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if last - first < 3:
            rows = slice(first * self.embed_dim, last * self.embed_dim)
            weight, bias = weight[rows], None if bias is None else bias[rows]
        return apply(SPLIT_HEADS, (linear(x, weight, bias),), (self.num_heads, last - first), many=True)

    def _mask(self, padding: Any, mask: Any, key: Any) -> Any:
        """Both as one mask of scaled_dot_product_attention, where true means that a query may look."""
        if padding is not None:
            if padding.dtype is not bool_ or padding.shape != key.shape[:2]:
                raise ShapeError(
                    f"MultiheadAttention: key_padding_mask is bool of shape {key.shape[:2]}, true at keys to leave "
                    f"out, got {padding.dtype.name} of shape {padding.shape}"
                )
            padding = logical_not(padding).reshape((padding.shape[0], 1, 1, padding.shape[1]))
        if mask is None:
            return padding
        if mask.dtype is bool_:
            mask = logical_not(mask)
            return mask if padding is None else logical_and(mask, padding)
        return mask if padding is None else where(padding, mask, -math.inf)

    def describe(self) -> str:
        said = f"{self.embed_dim}, num_heads={self.num_heads}"
        return said if self.in_proj_bias is not None else f"{said}, bias=False"


@shape_vars("E")
class TransformerBlock(Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Xiong et al., 2020), with a hidden width of four times the width:
    (B, T, embed_dim) stays (B, T, embed_dim). `causal` lets position t look at s <= t; `key_padding_mask` (B, T) is
    true at positions that nobody may look at. Raises ShapeError.

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
    def forward(
        self, x: Tensor[Shaped[Any, "[B, T, E]"], Fixed], key_padding_mask: Any = None
    ) -> Tensor[Shaped[Any, "[B, T, E]"], Tracked]:
        seen = self.attention(self.norm1(x), key_padding_mask=key_padding_mask, causal=self.causal)
        x = x + self.dropout(seen)
        return x + self.dropout(self.down(gelu(self.up(self.norm2(x)))))

    def describe(self) -> str:
        return f"causal={self.causal}"

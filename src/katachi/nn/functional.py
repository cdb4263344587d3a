"""Layers as functions. Each is one entry of the trace, composed of primitives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from katachi.errors import ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import float32, uint64
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.nn.attend import scaled_dot_product_attention as scaled_dot_product_attention
from katachi.nn.common import check_probability, common
from katachi.nn.lookup import embedding as embedding
from katachi.nn.losses import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from katachi.nn.losses import cross_entropy as cross_entropy
from katachi.nn.losses import l1_loss as l1_loss
from katachi.nn.losses import mse_loss as mse_loss
from katachi.nn.losses import nll_loss as nll_loss
from katachi.nn.losses import smooth_l1_loss as smooth_l1_loss
from katachi.nn.norms import layer_norm as layer_norm
from katachi.nn.norms import rms_norm as rms_norm
from katachi.nn.padding import pad as pad
from katachi.nn.signatures import affine
from katachi.nn.windows import adaptive_avg_pool2d as adaptive_avg_pool2d
from katachi.nn.windows import avg_pool1d as avg_pool1d
from katachi.nn.windows import avg_pool2d as avg_pool2d
from katachi.nn.windows import conv1d as conv1d
from katachi.nn.windows import conv2d as conv2d
from katachi.nn.windows import conv_transpose2d as conv_transpose2d
from katachi.nn.windows import max_pool1d as max_pool1d
from katachi.nn.windows import max_pool2d as max_pool2d
from katachi.tensor import elementwise, reduce
from katachi.tensor.apply import apply
from katachi.tensor.elementwise import gelu as gelu
from katachi.tensor.elementwise import leaky_relu as leaky_relu
from katachi.tensor.elementwise import relu as relu
from katachi.tensor.elementwise import sigmoid as sigmoid
from katachi.tensor.elementwise import tanh as tanh
from katachi.tensor.entry import Op
from katachi.tensor.operand import floating
from katachi.tensor.random import Generator, default_generator, keep_mask
from katachi.tensor.types import _G, _S, Shaped, like, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.shape_rules import same_shape
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Int


@shape_vars("*A, D")
def softmax(
    x: Tensor[Shaped[Any, "A"], _G], dim: Shaped[int, "D"] = -1
) -> Tensor[Shaped[Any, "same_shape(A, Int[D])"], _G]:
    """exp(x), divided by its sum along `dim`. Half types are computed in float32 and rounded once."""
    return apply(reduce.SOFTMAX, (x,), (dim,))


@shape_vars("*A, D")
def log_softmax(
    x: Tensor[Shaped[Any, "A"], _G], dim: Shaped[int, "D"] = -1
) -> Tensor[Shaped[Any, "same_shape(A, Int[D])"], _G]:
    """The logarithm of softmax along `dim`. Half types are computed in float32 and rounded once."""
    return apply(reduce.LOG_SOFTMAX, (x,), (dim,))


SILU = Op("silu", lambda x: b.multiply(x := floating(x), make("logistic", x)), upcast=1)


def silu(x: Tensor[_S, _G]) -> Tensor[_S, _G]:
    """x / (1 + exp(-x)) (Elfwing et al., 2018). Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> round(kt.nn.functional.silu(kt.tensor(1.0)).item(), 4)
    0.7311
    """
    return apply(SILU, (x,))


def _linear(x: Node, weight: Node, *bias: Node) -> Node:
    if len(weight.shape) != 2 or not x.shape or x.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"needs input of shape (..., {weight.shape[1] if len(weight.shape) == 2 else '?'}) "
            f"for a weight of shape {weight.shape} (out, in), got {x.shape}"
        )
    x, weight, *bias = common(x, weight, *bias)  # type: ignore[assignment]
    out = make("dot_general", x, weight, batch=((), ()), contract=((len(x.shape) - 1,), (1,)))
    if not bias:
        return out
    if bias[0].shape != (weight.shape[0],):
        raise ShapeError(f"needs a bias of shape ({weight.shape[0]},), got {bias[0].shape}")
    return b.add(out, bias[0])


LINEAR = Op("linear", _linear, upcast=3)


@like(affine)
def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x @ weight.T + bias: x (..., in), weight (out, in), bias (out,). Raises ShapeError. Half types are computed in
    float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.functional.linear(kt.ones((2, 3)), kt.ones((4, 3))).shape
    (2, 4)
    """
    return apply(LINEAR, (x, weight) if bias is None else (x, weight, bias))


def _dropout(x: Node, seed: Node, call: Node, p: float) -> Node:
    x = floating(x)
    kept = keep_mask(seed, call, b.full(1.0 - p, (), float32, x.device), x.shape)
    return b.select(kept, b.scale(x, 1.0 / (1.0 - p)), b.like(x, 0.0))


DROPOUT = Op("dropout", _dropout, scalar=uint64, upcast=1)


def dropout(
    x: Tensor[_S, _G], p: float = 0.5, training: bool = True, generator: Generator | None = None
) -> Tensor[_S, _G]:
    """Each element zero with probability p, the others scaled by 1 / (1 - p) (Srivastava et al., 2014). The mask
    depends on the generator's state alone, so it is the same on every device. Raises ValueError unless 0 <= p <= 1.
    Half types are computed in float32 and rounded once."""
    check_probability("dropout", p)
    if not training or p == 0.0:
        return x
    if p == 1.0:
        return elementwise.multiply(x, 0.0)
    return apply(DROPOUT, (x, *(generator or default_generator).draw()), (float(p),))


__all__ = [
    "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "binary_cross_entropy_with_logits", "conv1d", "conv2d",
    "conv_transpose2d", "cross_entropy", "dropout", "embedding", "gelu", "l1_loss", "layer_norm", "leaky_relu",
    "linear", "log_softmax", "max_pool1d", "max_pool2d", "mse_loss", "nll_loss", "pad", "relu", "rms_norm",
    "scaled_dot_product_attention", "sigmoid", "silu", "smooth_l1_loss", "softmax", "tanh",
]  # fmt: skip

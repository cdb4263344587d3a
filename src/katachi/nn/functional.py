"""Layers as functions. Each is one entry of the trace, composed of primitives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import float32, promote, uint64
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.graph.sizes import count
from katachi.nn.attend import scaled_dot_product_attention as scaled_dot_product_attention
from katachi.nn.lookup import embedding as embedding
from katachi.nn.norms import layer_norm as layer_norm
from katachi.nn.signatures import affine, classification, convolution, distance, pooling
from katachi.tensor import elementwise, reduce
from katachi.tensor.apply import apply
from katachi.tensor.elementwise import gelu as gelu
from katachi.tensor.elementwise import leaky_relu as leaky_relu
from katachi.tensor.elementwise import relu as relu
from katachi.tensor.elementwise import sigmoid as sigmoid
from katachi.tensor.elementwise import tanh as tanh
from katachi.tensor.entry import Op
from katachi.tensor.operand import as_axis, floating
from katachi.tensor.random import Generator, default_generator, keep_mask
from katachi.tensor.reduce import log_softmax_of
from katachi.tensor.types import _G, _S, Shaped, like, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.shape_rules import same_shape
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Int


@shape_vars("*A, D")
def softmax(
    x: Tensor[Shaped[Any, "A"], _G], dim: Shaped[int, "D"] = -1
) -> Tensor[Shaped[Any, "same_shape(A, Int[D])"], _G]:
    """exp(x), divided by its sum along `dim`."""
    return apply(reduce.SOFTMAX, (x,), (dim,))


@shape_vars("*A, D")
def log_softmax(
    x: Tensor[Shaped[Any, "A"], _G], dim: Shaped[int, "D"] = -1
) -> Tensor[Shaped[Any, "same_shape(A, Int[D])"], _G]:
    """The logarithm of softmax along `dim`."""
    return apply(reduce.LOG_SOFTMAX, (x,), (dim,))


def _common(*xs: Node) -> list[Node]:
    dtype = xs[0].dtype
    for x in xs[1:]:
        dtype = promote(dtype, x.dtype)
    return [b.convert(x, dtype) for x in xs]


def _linear(x: Node, weight: Node, *bias: Node) -> Node:
    if len(weight.shape) != 2 or not x.shape or x.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"needs input of shape (..., {weight.shape[1] if len(weight.shape) == 2 else '?'}) "
            f"for a weight of shape {weight.shape} (out, in), got {x.shape}"
        )
    x, weight, *bias = _common(x, weight, *bias)  # type: ignore[assignment]
    out = make("dot_general", x, weight, batch=((), ()), contract=((len(x.shape) - 1,), (1,)))
    if not bias:
        return out
    if bias[0].shape != (weight.shape[0],):
        raise ShapeError(f"needs a bias of shape ({weight.shape[0]},), got {bias[0].shape}")
    return b.add(out, bias[0])


LINEAR = Op("linear", _linear)


@like(affine)
def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x @ weight.T + bias: x (..., in), weight (out, in), bias (out,). Raises ShapeError.

    >>> import katachi as kt
    >>> kt.nn.functional.linear(kt.ones((2, 3)), kt.ones((4, 3))).shape
    (2, 4)
    """
    return apply(LINEAR, (x, weight) if bias is None else (x, weight, bias))


def _pair(value: Any, what: str, least: int = 1) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(n, int) and n >= least for n in pair):
        raise ShapeError(f"{what} must be an int or two, at least {least}, got {value!r}")
    return pair


def _conv2d(x: Node, weight: Node, *rest: Any) -> Node:
    *bias, stride, padding, dilation, groups = rest
    if len(x.shape) != 4 or len(weight.shape) != 4:
        raise ShapeError(
            f"needs input (N, C, H, W) and weight (O, C / groups, kH, kW), got {x.shape} and {weight.shape}"
        )
    if x.shape[1] != weight.shape[1] * groups:
        raise ShapeError(f"needs {weight.shape[1] * groups} channels on axis 1, got {x.shape[1]} in {x.shape}")
    if bias and bias[0].shape != (weight.shape[0],):
        raise ShapeError(f"needs a bias of shape ({weight.shape[0]},), got {bias[0].shape}")
    x, weight, *bias = _common(x, weight, *bias)
    out = make(
        "convolution", x, weight, strides=stride, padding=tuple((p, p) for p in padding), lhs_dilation=(1, 1),
        rhs_dilation=dilation, groups=groups,
    )  # fmt: skip
    return b.add(out, b.reshape(bias[0], (1, weight.shape[0], 1, 1))) if bias else out


CONV2D = Op("conv2d", _conv2d)


@like(convolution)
def conv2d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Cross-correlation of x (N, C, H, W) with weight (O, C / groups, kH, kW): (N, O, H', W'). Raises ShapeError.

    >>> import katachi as kt
    >>> kt.nn.functional.conv2d(kt.ones((1, 1, 5, 5)), kt.ones((2, 1, 3, 3)), padding=1).shape
    (1, 2, 5, 5)
    """
    how = (_pair(stride, "conv2d: stride"), _pair(padding, "conv2d: padding", 0), _pair(dilation, "conv2d: dilation"))
    return apply(CONV2D, (x, weight) if bias is None else (x, weight, bias), (*how, groups))


def _max_pool2d(x: Node, window: Any, stride: Any, padding: Any) -> Node:
    if len(x.shape) < 3:
        raise ShapeError(f"needs input (..., C, H, W), got {x.shape}")
    if any(2 * p > k for p, k in zip(padding, window, strict=True)):
        raise ShapeError(f"padding {padding} is more than half the window {window}")
    return make("reduce_window", x, window=window, strides=stride, padding=tuple((p, p) for p in padding))


MAX_POOL2D = Op("max_pool2d", _max_pool2d)


@like(pooling)
def max_pool2d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Any:
    """The maximum of each window over the last two axes; windows follow one another unless `stride` says otherwise.

    >>> import katachi as kt
    >>> kt.nn.functional.max_pool2d(kt.ones((1, 1, 5, 5)), 2).shape
    (1, 1, 2, 2)
    """
    window = _pair(kernel_size, "max_pool2d: kernel_size")
    step = window if stride is None else _pair(stride, "max_pool2d: stride")
    return apply(MAX_POOL2D, (x,), (window, step, _pair(padding, "max_pool2d: padding", 0)))


def _reduced(losses: Node, reduction: str) -> Node:
    axes = tuple(range(len(losses.shape)))
    if reduction == "none":
        return losses
    total = b.reduce("reduce_sum", losses, axes)
    return total if reduction == "sum" else b.divide(total, b.like(total, float(count(losses.shape))))


def _check_reduction(name: str, reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'{name}: reduction is "mean", "sum" or "none", got {reduction!r}')


def _cross_entropy(x: Node, target: Node, axis: int, reduction: str) -> Node:
    rank = len(x.shape)
    i = as_axis(axis if rank > 1 or axis != 1 else 0, rank)
    others = tuple(n for j, n in enumerate(x.shape) if j != i)
    log_p = log_softmax_of(x, i)
    if target.dtype.is_floating:
        if target.shape != x.shape:
            raise ShapeError(f"target probabilities must have the logits' shape {x.shape}, got {target.shape}")
        log_p, target = _common(log_p, target)
        losses = make("negate", b.reduce("reduce_sum", b.multiply(log_p, target), (i,)))
        return _reduced(losses, reduction)
    if not target.dtype.is_integer:
        raise DTypeError(f"targets are class numbers (integers) or probabilities (floats), got {target.dtype.name}")
    if target.shape != others:
        raise ShapeError(
            f"needs a target of shape {others}, the logits' {x.shape} without class axis {i}, got {target.shape}"
        )
    log_p = b.transpose(log_p, (*(j for j in range(rank) if j != i), i))
    picked = make("gather", log_p, b.reshape(target, (*others, 1)), axes=(rank - 1,), batch=rank - 1)
    return _reduced(make("negate", picked), reduction)


CROSS_ENTROPY = Op("cross_entropy", _cross_entropy)


@like(classification)
def cross_entropy(logits: Any, target: Any, *, axis: int = 1, reduction: str = "mean") -> Any:
    """-log softmax(logits) at the target class, averaged. Classes are on `axis`; targets are class numbers, shaped as
    the logits without that axis, or probabilities shaped as the logits. Raises ShapeError, DTypeError, and, when
    computed, IndexBoundsError for a class that does not exist.

    >>> import katachi as kt
    >>> round(kt.nn.functional.cross_entropy(kt.zeros((2, 10)), kt.tensor([3, 4])).item(), 4)
    2.3026
    """
    _check_reduction("cross_entropy", reduction)
    return apply(CROSS_ENTROPY, (logits, target), (axis, reduction))


def _mse(x: Node, target: Node, reduction: str) -> Node:
    if x.shape != target.shape:
        raise ShapeError(f"needs a target of the input's shape {x.shape}, got {target.shape}")
    x, target = _common(floating(x), target)
    off = b.subtract(x, target)
    return _reduced(b.multiply(off, off), reduction)


MSE = Op("mse_loss", _mse)


@like(distance)
def mse_loss(x: Any, target: Any, *, reduction: str = "mean") -> Any:
    """The mean of squared differences. Raises ShapeError unless the shapes are equal: broadcasting hides mistakes here.

    >>> import katachi as kt
    >>> kt.nn.functional.mse_loss(kt.ones(2), kt.zeros(2)).item()
    1.0
    """
    _check_reduction("mse_loss", reduction)
    return apply(MSE, (x, target), (reduction,))


def _dropout(x: Node, seed: Node, call: Node, p: float) -> Node:
    x = floating(x)
    kept = keep_mask(seed, call, b.full(1.0 - p, (), float32, x.device), x.shape)
    return b.select(kept, b.scale(x, 1.0 / (1.0 - p)), b.like(x, 0.0))


DROPOUT = Op("dropout", _dropout, scalar=uint64)


def dropout(
    x: Tensor[_S, _G], p: float = 0.5, training: bool = True, generator: Generator | None = None
) -> Tensor[_S, _G]:
    """Each element zero with probability p, the others scaled by 1 / (1 - p) (Srivastava et al., 2014). The mask
    depends on the generator's state alone, so it is the same on every device. Raises ValueError unless 0 <= p <= 1."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout: p is a probability, got {p}")
    if not training or p == 0.0:
        return x
    if p == 1.0:
        return elementwise.multiply(x, 0.0)
    return apply(DROPOUT, (x, *(generator or default_generator).draw()), (float(p),))


__all__ = [
    "conv2d", "cross_entropy", "dropout", "embedding", "gelu", "layer_norm", "leaky_relu", "linear", "log_softmax",
    "max_pool2d", "mse_loss", "relu", "scaled_dot_product_attention", "sigmoid", "softmax", "tanh",
]  # fmt: skip

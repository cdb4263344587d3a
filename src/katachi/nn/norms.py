"""Normalisation as functions."""

from __future__ import annotations

from typing import Any

from ml_dtypes import finfo

from katachi.errors import ShapeError
from katachi.graph import build as b
from katachi.graph.halves import in_float32, upcast
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.graph.sizes import count
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.operand import as_shape, floating, unify


def _standardise(x: Node, axes: tuple[int, ...], eps: float) -> tuple[Node, Node, Node]:
    """x less its mean, over its standard deviation, along axes; and mean and variance, with the axes kept as ones."""
    n = count(tuple(x.shape[i] for i in axes))
    mean = b.reduce("reduce_sum", x, axes, keepdims=True)
    mean = b.divide(mean, b.like(mean, n))
    off = b.subtract(x, mean)
    variance = b.reduce("reduce_sum", b.multiply(off, off), axes, keepdims=True)
    variance = b.divide(variance, b.like(variance, n))
    return b.multiply(off, _inverse_root(variance, eps)), mean, variance


def _inverse_root(x: Node, eps: float) -> Node:
    """1 / sqrt(x + eps): one division a row, where dividing by the root would take one an element."""
    root = make("sqrt", b.shift(x, eps))
    return b.divide(b.like(root, 1.0), root)


def _last_axes(x: Node, shape: tuple[int, ...], affine: list[Node]) -> tuple[int, ...]:
    """The axes that `shape` names, once it is known that all fits."""
    first = len(x.shape) - len(shape)
    if x.shape[first:] != shape or first < 0:
        raise ShapeError(f"needs an input that ends in {shape}, got {x.shape}")
    for p in affine:
        if p.shape != shape:
            raise ShapeError(f"needs weights of shape {shape}, the axes that are normalised, got {p.shape}")
    return tuple(range(first, len(x.shape)))


def check_eps(name: str, eps: float | None) -> None:
    """Raises ValueError for a negative one."""
    if eps is not None and not eps >= 0:
        raise ValueError(f"{name}: eps must not be negative, got {eps}")


def _layer_norm(x: Node, *rest: Any) -> Node:
    *affine, weighted, shape, eps = rest
    x, axes = floating(x), _last_axes(x, shape, affine)
    out, _, _ = _standardise(x, axes, eps)
    if weighted:
        out = b.multiply(out, b.convert(affine.pop(0), x.dtype))
    return b.add(out, b.convert(affine[0], x.dtype)) if affine else out


LAYER_NORM = Op("layer_norm", _layer_norm, upcast=1)


def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """(x - mean) / sqrt(variance + eps) over the last axes, times weight, plus bias (Ba et al., 2016). Raises
    ShapeError, ValueError for a negative eps. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.functional.layer_norm(kt.tensor([[1.0, 3.0]]), 2, eps=0.0).tolist()
    [[-1.0, 1.0]]
    """
    check_eps("layer_norm", eps)
    affine = [p for p in (weight, bias) if p is not None]
    shape = as_shape(normalized_shape, "normalized_shape")
    return apply(LAYER_NORM, (x, *affine), (weight is not None, shape, float(eps)))


def _rms_norm(x: Node, *rest: Any) -> Node:
    *affine, shape, eps = rest
    x, axes = floating(x), _last_axes(x, shape, affine)
    least = float(finfo(x.dtype.numpy).eps) if eps is None else eps

    def formula(x: Node) -> Node:
        square = b.reduce("reduce_sum", b.multiply(x, x), axes, keepdims=True)
        square = b.divide(square, b.like(square, count(shape)))
        out = b.multiply(x, _inverse_root(square, least))
        return b.multiply(out, b.convert(affine[0], x.dtype)) if affine else out

    return in_float32(formula, x)


RMS_NORM = Op("rms_norm", _rms_norm, upcast=0)


def rms_norm(x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """x / sqrt(mean of squares + eps) over the last axes, times weight (Zhang and Sennrich, 2019). Without `eps` it is
    the dtype's machine epsilon. Raises ShapeError, ValueError for a negative eps. Half types are computed in float32
    and rounded once.

    >>> import katachi as kt
    >>> kt.nn.functional.rms_norm(kt.tensor([[1.0, 7.0]]), 2, eps=0.0).numpy().round(3).tolist()
    [[0.20000000298023224, 1.399999976158142]]
    """
    check_eps("rms_norm", eps)
    operands = (x,) if weight is None else (x, weight)
    shape = as_shape(normalized_shape, "normalized_shape")
    return apply(RMS_NORM, operands, (shape, None if eps is None else float(eps)))


def _across(x: Node, channels: int) -> tuple[int, ...]:
    """A per-channel shape that broadcasts over (N, C, ...)."""
    return (1, channels, *(1 for _ in x.shape[2:]))


def _rescale(out: Node, affine: tuple[Node, ...], shape: tuple[int, ...]) -> Node:
    if not affine:
        return out
    weight, bias = (b.reshape(b.convert(p, out.dtype), shape) for p in affine)
    return b.add(b.multiply(out, weight), bias)


def _batch_norm(x: Node, *rest: Any) -> tuple[Node, Node, Node]:
    """Normalised by the batch, and the batch's mean and unbiased variance per channel: of halves in float32, because
    the running statistics may be, and a variance is large where a half is not."""
    *affine, eps = rest
    x, channels = floating(x), x.shape[1]
    kind, x = x.dtype, upcast(x)
    axes = (0, *range(2, len(x.shape)))
    n = count(tuple(x.shape[i] for i in axes))
    if n < 2:
        raise ShapeError(f"needs more than one value a channel to train, got {x.shape}")
    out, mean, variance = _standardise(x, axes, eps)
    out = _rescale(out, tuple(affine), _across(x, channels))
    unbiased = b.scale(b.reshape(variance, (channels,)), n / (n - 1))
    mean = b.reshape(mean, (channels,))
    return b.convert(out, kind), make("stop_gradient", mean), make("stop_gradient", unbiased)


def _running(old: Node, new: Node, keep: Node, share: Node) -> Node:
    """A running statistic, a share of it replaced by the batch's."""
    return b.add(*(b.multiply(*unify(x, part)) for x, part in ((old, keep), (new, share))))


def _batch_norm_fixed(x: Node, mean: Node, variance: Node, *rest: Any) -> Node:
    *affine, eps = rest
    x, shape = floating(x), _across(x, x.shape[1])
    mean, variance = (b.reshape(b.convert(p, x.dtype), shape) for p in (mean, variance))
    out = b.multiply(b.subtract(x, mean), _inverse_root(variance, eps))
    return _rescale(out, tuple(affine), shape)


BATCH_NORM, BATCH_NORM_FIXED = Op("batch_norm", _batch_norm, upcast=0), Op("batch_norm", _batch_norm_fixed, upcast=1)
RUNNING = Op("batch_norm", _running, upcast=1)

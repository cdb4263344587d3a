"""Losses as functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.graph.sizes import count
from katachi.nn.common import common
from katachi.nn.signatures import classification, distance, likelihood
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.operand import as_axis, floating
from katachi.tensor.reduce import log_softmax_of
from katachi.tensor.types import like


def _reduced(losses: Node, reduction: str, share: Node | None = None) -> Node:
    """The losses, their sum, or their mean: over their number, or over the sum of their `share`s."""
    axes = tuple(range(len(losses.shape)))
    if reduction == "none":
        return losses
    total = b.reduce("reduce_sum", losses, axes)
    if reduction == "sum":
        return total
    if share is None:
        return b.divide(total, b.like(total, count(losses.shape)))
    return b.divide(total, b.reduce("reduce_sum", b.convert(share, total.dtype), axes))


def check_reduction(name: str, reduction: str) -> None:
    """Raises ValueError for any other reduction than the three."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'{name}: reduction is "mean", "sum" or "none", got {reduction!r}')


def _check_weight(weight: list[Node], classes: int) -> None:
    if weight and weight[0].shape != (classes,):
        raise ShapeError(f"needs a weight of shape ({classes},), one a class, got {weight[0].shape}")


def _class_axis(x: Node, axis: int) -> int:
    rank = len(x.shape)
    return as_axis(axis if rank > 1 or axis != 1 else 0, rank)


def _along(weight: Node, shape: tuple[int, ...], i: int) -> Node:
    return make("broadcast_in_dim", weight, shape=shape, dims=(i,))


def _picked(
    log_p: Node, target: Node, weight: list[Node], i: int, reduction: str, ignore: int, smoothing: float
) -> Node:
    """-log_p at the target class, which lies on axis i of log_p; mixed with the mean over classes by `smoothing`."""
    rank, others = len(log_p.shape), tuple(n for j, n in enumerate(log_p.shape) if j != i)
    if not target.dtype.is_integer:
        raise DTypeError(f"targets are class numbers (integers) or probabilities (floats), got {target.dtype.name}")
    if target.shape != others:
        raise ShapeError(
            f"needs a target of shape {others}, the logits' {log_p.shape} without class axis {i}, got {target.shape}"
        )
    counted = None
    if target.dtype.bounds[0] <= ignore <= target.dtype.bounds[1]:
        counted = b.compare(target, "NE", b.like(target, ignore))
        target = b.select(counted, target, b.like(target, 0))  # a class that exists; what it gives is dropped below
    last = b.transpose(log_p, (*(j for j in range(rank) if j != i), i))
    index = b.reshape(target, (*others, 1))
    losses = make("negate", make("gather", last, index, axes=(rank - 1,), batch=rank - 1))
    share = None if counted is None else b.convert(counted, losses.dtype)
    if weight:
        mine = make("gather", b.convert(weight[0], losses.dtype), index, axes=(0,), batch=0)
        losses = b.multiply(losses, mine)
        share = mine if share is None else b.multiply(share, mine)
    if smoothing:
        even = b.multiply(log_p, _along(b.convert(weight[0], log_p.dtype), log_p.shape, i)) if weight else log_p
        even = b.scale(b.reduce("reduce_sum", even, (i,)), -smoothing / log_p.shape[i])
        losses = b.add(b.scale(losses, 1.0 - smoothing), even)
    if counted is not None:
        losses = b.select(counted, losses, b.like(losses, 0.0))
    return _reduced(losses, reduction, share)


def _cross_entropy(x: Node, target: Node, *rest: Any) -> Node:
    *weight, axis, reduction, ignore, smoothing = rest
    i = _class_axis(x, axis)
    _check_weight(weight, x.shape[i])
    log_p = log_softmax_of(x, i)
    if not target.dtype.is_floating:
        return _picked(log_p, target, weight, i, reduction, ignore, smoothing)
    if ignore != -100:
        raise DTypeError(f"ignore_index is for class numbers, and the targets are probabilities: {target.dtype.name}")
    if target.shape != x.shape:
        raise ShapeError(f"target probabilities must have the logits' shape {x.shape}, got {target.shape}")
    log_p, target = common(log_p, target)
    if smoothing:
        target = b.shift(b.scale(target, 1.0 - smoothing), smoothing / x.shape[i])
    if weight:
        target = b.multiply(target, _along(b.convert(weight[0], target.dtype), target.shape, i))
    return _reduced(make("negate", b.reduce("reduce_sum", b.multiply(log_p, target), (i,))), reduction)


CROSS_ENTROPY = Op("cross_entropy", _cross_entropy, upcast=2)


@like(classification)
def cross_entropy(
    logits: Any,
    target: Any,
    *,
    axis: int = 1,
    reduction: str = "mean",
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Any:
    """-log softmax(logits) at the target class, averaged. Classes are on `axis`; targets are class numbers, shaped as
    the logits without that axis, or probabilities shaped as the logits. `weight` has one factor a class, and the mean
    is over the factors; a target that is `ignore_index` does not count (a mean over none is NaN); `label_smoothing`
    mixes the targets with the even distribution (Szegedy et al., 2016). Raises ShapeError, DTypeError, ValueError and,
    when computed, IndexBoundsError for a class that does not exist. Half types are computed in float32 and rounded
    once.

    >>> import katachi as kt
    >>> round(kt.nn.functional.cross_entropy(kt.zeros((2, 10)), kt.tensor([3, 4])).item(), 4)
    2.3026
    """
    check_reduction("cross_entropy", reduction)
    check_smoothing("cross_entropy", label_smoothing)
    operands = (logits, target) if weight is None else (logits, target, weight)
    return apply(CROSS_ENTROPY, operands, (axis, reduction, ignore_index, float(label_smoothing)))


def check_smoothing(name: str, smoothing: float) -> None:
    """Raises ValueError unless it is a share."""
    if not 0.0 <= smoothing <= 1.0:
        raise ValueError(f"{name}: label_smoothing is between 0 and 1, got {smoothing}")


def _nll(log_p: Node, target: Node, *rest: Any) -> Node:
    *weight, axis, reduction, ignore = rest
    log_p, i = floating(log_p), _class_axis(log_p, axis)
    _check_weight(weight, log_p.shape[i])
    return _picked(log_p, target, weight, i, reduction, ignore, 0.0)


NLL = Op("nll_loss", _nll, upcast=1)


@like(likelihood)
def nll_loss(
    log_p: Any, target: Any, weight: Any = None, *, axis: int = 1, reduction: str = "mean", ignore_index: int = -100
) -> Any:
    """-log_p at the target class, averaged, where log_p are logarithms of probabilities: what cross_entropy does behind
    its softmax, with the same arguments and errors. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.functional.nll_loss(kt.tensor([[-1.0, -2.0], [-3.0, -4.0]]), kt.tensor([0, 1])).item()
    2.5
    """
    check_reduction("nll_loss", reduction)
    return apply(NLL, (log_p, target) if weight is None else (log_p, target, weight), (axis, reduction, ignore_index))


def _paired(x: Node, target: Node) -> list[Node]:
    if x.shape != target.shape:
        raise ShapeError(f"needs a target of the input's shape {x.shape}, got {target.shape}")
    return common(floating(x), target)


def _of_distance(formula: Callable[..., Node]) -> Callable[..., Node]:
    """A loss whose elements are a formula of input - target."""

    def build(x: Node, target: Node, reduction: str, *settings: float) -> Node:
        return _reduced(formula(b.subtract(*_paired(x, target)), *settings), reduction)

    return build


def _smooth(off: Node, beta: float) -> Node:
    far = make("abs", off)
    if not beta:
        return far
    near = b.compare(far, "LT", b.like(far, beta))
    small = b.select(near, off, b.like(off, 0.0))  # what is infinite has no square to meet a zero
    return b.select(near, b.scale(b.multiply(small, small), 0.5 / beta), b.shift(far, -0.5 * beta))


def _bce(x: Node, target: Node, *rest: Any) -> Node:
    *factors, weighted, positive, reduction = rest
    x, target = _paired(x, target)
    # log(1 + exp(-x)) and log(1 + exp(x)), the exponentials at most 1: either side of 0 its own formula, no kink
    zero = b.like(x, 0.0)
    above, opposite = b.compare(x, "GE", zero), make("negate", x)
    tail = make("log_plus_one", make("exponential", b.select(above, opposite, x)))
    yes, no = (b.add(b.select(above, *sides), tail) for sides in ((zero, opposite), (x, zero)))
    factors = [b.spread(b.convert(f, x.dtype), x.shape) for f in factors]
    if positive:
        yes = b.multiply(yes, factors[-1])
    losses = b.add(b.multiply(target, yes), b.multiply(b.subtract(b.like(target, 1.0), target), no))
    return _reduced(b.multiply(losses, factors[0]) if weighted else losses, reduction)


MSE, L1 = (
    Op("mse_loss", _of_distance(lambda off: b.multiply(off, off)), upcast=2),
    Op("l1_loss", _of_distance(lambda off: make("abs", off)), upcast=2),
)
SMOOTH_L1 = Op("smooth_l1_loss", _of_distance(_smooth), upcast=2)
BCE = Op("binary_cross_entropy_with_logits", _bce, upcast=2)


@like(distance)
def mse_loss(x: Any, target: Any, *, reduction: str = "mean") -> Any:
    """The mean of squared differences. Raises ShapeError unless the shapes are equal: broadcasting hides mistakes here.
    Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.functional.mse_loss(kt.ones(2), kt.zeros(2)).item()
    1.0
    """
    check_reduction("mse_loss", reduction)
    return apply(MSE, (x, target), (reduction,))


@like(distance)
def l1_loss(x: Any, target: Any, *, reduction: str = "mean") -> Any:
    """The mean of absolute differences. Raises ShapeError unless the shapes are equal. Half types are computed in
    float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.functional.l1_loss(kt.tensor([3.0, 0.0]), kt.ones(2)).item()
    1.5
    """
    check_reduction("l1_loss", reduction)
    return apply(L1, (x, target), (reduction,))


def smooth_l1_loss(x: Any, target: Any, *, reduction: str = "mean", beta: float = 1.0) -> Any:
    """The mean of d^2 / (2 beta) where the difference d is below beta, |d| - beta / 2 elsewhere (Girshick, 2015).
    Raises ShapeError unless the shapes are equal, ValueError for a negative beta. Half types are computed in float32
    and rounded once.

    >>> import katachi as kt
    >>> kt.nn.functional.smooth_l1_loss(kt.tensor([3.0, 0.0]), kt.zeros(2), reduction="none").tolist()
    [2.5, 0.0]
    """
    check_reduction("smooth_l1_loss", reduction)
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    return apply(SMOOTH_L1, (x, target), (reduction, float(beta)))


def binary_cross_entropy_with_logits(
    x: Any, target: Any, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None
) -> Any:
    """-target log p - (1 - target) log(1 - p), averaged, where p = sigmoid(x): targets are 0, 1 or between, shaped as
    x. `weight` scales the losses and `pos_weight` the part of the positive targets; both broadcast. Raises ShapeError.
    Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> round(kt.nn.functional.binary_cross_entropy_with_logits(kt.zeros(2), kt.tensor([0.0, 1.0])).item(), 4)
    0.6931
    """
    check_reduction("binary_cross_entropy_with_logits", reduction)
    factors = [f for f in (weight, pos_weight) if f is not None]
    return apply(BCE, (x, target, *factors), (weight is not None, pos_weight is not None, reduction))

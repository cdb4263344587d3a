"""Losses as modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from katachi.nn import functional as F
from katachi.nn.losses import check_reduction, check_smoothing
from katachi.nn.module import Buffer, Module
from katachi.tensor.types import _G

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Fixed

Reduction = Literal["mean", "sum", "none"]


class _Classes(Module):
    """What losses over classes share."""

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        check_reduction(type(self).__name__, reduction)
        self.weight = None if weight is None else Buffer(weight)
        self.ignore_index, self.reduction = ignore_index, reduction

    def describe(self) -> str:
        said = [f"ignore_index={self.ignore_index}"] if self.ignore_index != -100 else []
        return ", ".join(said + ([f"reduction={self.reduction!r}"] if self.reduction != "mean" else []))


class CrossEntropyLoss(_Classes):
    """`functional.cross_entropy` with its settings: logits (N, C, ...) and class numbers (N, ...), or probabilities (N,
    C, ...), give a scalar. For logits (B, T, V) say axis=-1. Raises what the function does. Half types are computed in
    float32 and rounded once.

    >>> import katachi as kt
    >>> round(kt.nn.CrossEntropyLoss(ignore_index=0)(kt.zeros((2, 10)), kt.tensor([3, 0])).item(), 4)
    2.3026
    """

    def __init__(
        self,
        weight: Any = None,
        *,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        axis: int = 1,
    ) -> None:
        super().__init__(weight, ignore_index, reduction)
        check_smoothing("CrossEntropyLoss", label_smoothing)
        self.label_smoothing, self.axis = label_smoothing, axis

    def forward(self, logits: Tensor[Any, _G], target: Tensor[Any, Fixed]) -> Tensor[Any, _G]:
        return F.cross_entropy(
            logits, target, axis=self.axis, reduction=self.reduction, weight=self.weight,
            ignore_index=self.ignore_index, label_smoothing=self.label_smoothing,
        )  # fmt: skip


class NLLLoss(_Classes):
    """`functional.nll_loss` with its settings: logarithms of probabilities (N, C, ...) and class numbers (N, ...) give
    a scalar. Raises what the function does. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.NLLLoss()(kt.tensor([[-1.0, -2.0]]), kt.tensor([1])).item()
    2.0
    """

    def __init__(
        self, weight: Any = None, *, ignore_index: int = -100, reduction: Reduction = "mean", axis: int = 1
    ) -> None:
        super().__init__(weight, ignore_index, reduction)
        self.axis = axis

    def forward(self, log_p: Tensor[Any, _G], target: Tensor[Any, Fixed]) -> Tensor[Any, _G]:
        return F.nll_loss(
            log_p, target, self.weight, axis=self.axis, reduction=self.reduction, ignore_index=self.ignore_index
        )


class _Distance(Module):
    """What losses over two tensors of one shape share."""

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        check_reduction(type(self).__name__, reduction)
        self.reduction = reduction

    def describe(self) -> str:
        return f"reduction={self.reduction!r}" if self.reduction != "mean" else ""


class MSELoss(_Distance):
    """The mean of squared differences of two tensors of one shape: a scalar, or with reduction="none" that shape.
    Raises ShapeError. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.MSELoss(reduction="sum")(kt.ones(2), kt.zeros(2)).item()
    2.0
    """

    def forward(self, x: Tensor[Any, _G], target: Tensor[Any, Fixed]) -> Tensor[Any, _G]:
        return F.mse_loss(x, target, reduction=self.reduction)


class L1Loss(_Distance):
    """The mean of absolute differences of two tensors of one shape. Raises ShapeError. Half types are computed in
    float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.L1Loss()(kt.tensor([3.0, 0.0]), kt.ones(2)).item()
    1.5
    """

    def forward(self, x: Tensor[Any, _G], target: Tensor[Any, Fixed]) -> Tensor[Any, _G]:
        return F.l1_loss(x, target, reduction=self.reduction)


class SmoothL1Loss(_Distance):
    """`functional.smooth_l1_loss` with its settings: squared differences below beta, absolute ones above. Raises
    ShapeError. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.SmoothL1Loss(beta=2.0)(kt.tensor([1.0]), kt.tensor([0.0])).item()
    0.25
    """

    def __init__(self, *, reduction: Reduction = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction=reduction)
        self.beta = beta

    def forward(self, x: Tensor[Any, _G], target: Tensor[Any, Fixed]) -> Tensor[Any, _G]:
        return F.smooth_l1_loss(x, target, reduction=self.reduction, beta=self.beta)


class BCEWithLogitsLoss(_Distance):
    """`functional.binary_cross_entropy_with_logits` with its settings: logits and targets between 0 and 1 of one shape.
    Raises ShapeError. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> round(kt.nn.BCEWithLogitsLoss()(kt.zeros(2), kt.ones(2)).item(), 4)
    0.6931
    """

    def __init__(self, weight: Any = None, *, reduction: Reduction = "mean", pos_weight: Any = None) -> None:
        super().__init__(reduction=reduction)
        self.weight = None if weight is None else Buffer(weight)
        self.pos_weight = None if pos_weight is None else Buffer(pos_weight)

    def forward(self, x: Tensor[Any, _G], target: Tensor[Any, Fixed]) -> Tensor[Any, _G]:
        return F.binary_cross_entropy_with_logits(
            x, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )

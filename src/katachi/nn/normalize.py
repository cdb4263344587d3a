"""Normalisation layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from katachi.errors import ShapeError
from katachi.nn.module import Buffer, Module, Parameter, check_positive
from katachi.nn.norms import BATCH_NORM, BATCH_NORM_FIXED, layer_norm
from katachi.tensor.apply import apply
from katachi.tensor.creation import ones, zeros
from katachi.tensor.operand import as_shape
from katachi.tensor.types import Shaped, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Elements, Fixed, Tracked


@shape_vars("D")
class LayerNorm(Module):
    """Normalises over the last axes, with a learned scale and shift.

    >>> import katachi as kt
    >>> kt.nn.LayerNorm(4)(kt.rand(2, 4)).shape
    (2, 4)
    """

    def __init__(
        self, normalized_shape: Shaped[int, "D"] | tuple[int, ...], eps: float = 1e-5, elementwise_affine: bool = True
    ) -> None:
        self.normalized_shape, self.eps = as_shape(normalized_shape, "normalized_shape"), eps
        self.weight = Parameter(ones(self.normalized_shape)) if elementwise_affine else None
        self.bias = Parameter(zeros(self.normalized_shape)) if elementwise_affine else None

    @shape_vars("*B")
    def forward(
        self, x: Tensor[Shaped[Any, "[*Elements[B], D]"], Fixed]
    ) -> Tensor[Shaped[Any, "[*Elements[B], D]"], Tracked]:
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def describe(self) -> str:
        return f"{self.normalized_shape}"


@shape_vars("C")
class BatchNorm2d(Module):
    """Normalises images (N, C, H, W) per channel (Ioffe and Szegedy, 2015): by the batch in training, when running
    statistics follow it with `momentum`; by these in evaluation.

    >>> import katachi as kt
    >>> kt.nn.BatchNorm2d(3)(kt.rand(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    def __init__(self, num_features: Shaped[int, "C"], eps: float = 1e-5, momentum: float = 0.1) -> None:
        check_positive("BatchNorm2d", num_features=num_features)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight, self.bias = Parameter(ones(num_features)), Parameter(zeros(num_features))
        self.running_mean, self.running_var = Buffer(zeros(num_features)), Buffer(ones(num_features))
        self.num_batches_tracked = Buffer(0)

    @shape_vars("B, H, W")
    def forward(self, x: Tensor[Shaped[Any, "[B, C, H, W]"], Fixed]) -> Tensor[Shaped[Any, "[B, C, H, W]"], Tracked]:
        if x.ndim != 4 or x.shape[1] != self.num_features:
            raise ShapeError(f"BatchNorm2d: needs input (N, {self.num_features}, H, W), got {x.shape}")
        if not self.training:
            fixed = (self.running_mean, self.running_var, self.weight, self.bias)
            return apply(BATCH_NORM_FIXED, (x, *fixed), (self.eps,))
        out, mean, variance = apply(BATCH_NORM, (x, self.weight, self.bias), (self.eps,), many=True)
        keep = 1.0 - self.momentum
        self.running_mean.set(self.running_mean * keep + mean * self.momentum)
        self.running_var.set(self.running_var * keep + variance * self.momentum)
        self.num_batches_tracked.set(self.num_batches_tracked + 1)
        return out

    def describe(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"

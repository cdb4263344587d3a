"""Normalisation layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from katachi.errors import ShapeError
from katachi.nn.module import Buffer, Module, Parameter, check_positive
from katachi.nn.norms import BATCH_NORM, BATCH_NORM_FIXED, RUNNING, check_eps, layer_norm, rms_norm
from katachi.nn.parameter import Statistic
from katachi.tensor.apply import apply
from katachi.tensor.creation import ones, zeros
from katachi.tensor.operand import as_shape
from katachi.tensor.tensor import set_value
from katachi.tensor.types import Shaped, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Elements, Fixed, Tracked


@shape_vars("D")
class LayerNorm(Module):
    """Normalises over the last axes, with a learned scale and shift (Ba et al., 2016): `functional.layer_norm` of (...,
    *normalized_shape). Raises ShapeError. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.LayerNorm(4)(kt.rand(2, 4)).shape
    (2, 4)
    """

    def __init__(
        self,
        normalized_shape: Shaped[int, "D"] | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        check_eps(type(self).__name__, eps)
        self.normalized_shape, self.eps = as_shape(normalized_shape, "normalized_shape"), eps
        self.weight = Parameter(ones(self.normalized_shape)) if elementwise_affine else None
        self.bias = Parameter(zeros(self.normalized_shape)) if elementwise_affine and bias else None

    @shape_vars("*B")
    def forward(
        self, x: Tensor[Shaped[Any, "[*Elements[B], D]"], Fixed]
    ) -> Tensor[Shaped[Any, "[*Elements[B], D]"], Tracked]:
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def describe(self) -> str:
        said = f"{self.normalized_shape}, eps={self.eps}"
        if self.weight is None:
            return f"{said}, elementwise_affine=False"
        return said if self.bias is not None else f"{said}, bias=False"


@shape_vars("D")
class RMSNorm(Module):
    """Divides by the root of the mean square over the last axes, with a learned scale (Zhang and Sennrich, 2019):
    `functional.rms_norm` of (..., *normalized_shape). Raises ShapeError. Half types are computed in float32 and rounded
    once.

    >>> import katachi as kt
    >>> kt.nn.RMSNorm(4)(kt.rand(2, 4)).shape
    (2, 4)
    """

    def __init__(
        self,
        normalized_shape: Shaped[int, "D"] | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
    ) -> None:
        check_eps(type(self).__name__, eps)
        self.normalized_shape, self.eps = as_shape(normalized_shape, "normalized_shape"), eps
        self.weight = Parameter(ones(self.normalized_shape)) if elementwise_affine else None

    @shape_vars("*B")
    def forward(
        self, x: Tensor[Shaped[Any, "[*Elements[B], D]"], Fixed]
    ) -> Tensor[Shaped[Any, "[*Elements[B], D]"], Tracked]:
        return rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def describe(self) -> str:
        said = f"{self.normalized_shape}, eps={self.eps}"
        return said if self.weight is not None else f"{said}, elementwise_affine=False"


@shape_vars("C")
class _BatchNorm(Module):
    """Normalises per channel, which stand on axis 1: by the batch in training, when running statistics follow it; by
    these in evaluation."""

    def __init__(
        self,
        num_features: Shaped[int, "C"],
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        name = type(self).__name__
        check_positive(name, num_features=num_features)
        check_eps(name, eps)
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"{name}: momentum is between 0 and 1, or None, got {momentum}")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(ones(num_features)) if affine else None
        self.bias = Parameter(zeros(num_features)) if affine else None
        self.running_mean = Statistic(zeros(num_features)) if track_running_stats else None
        self.running_var = Statistic(ones(num_features)) if track_running_stats else None
        self.num_batches_tracked = Buffer(0) if track_running_stats else None

    def _normalised(self, x: Any, form: str, ranks: tuple[int, ...]) -> Any:
        if x.ndim not in ranks or x.shape[1] != self.num_features:
            raise ShapeError(f"{type(self).__name__}: needs input {form.format(self.num_features)}, got {x.shape}")
        affine = () if self.weight is None else (self.weight, self.bias)
        mean, variance, count = self.running_mean, self.running_var, self.num_batches_tracked
        if mean is None or variance is None or count is None:
            return apply(BATCH_NORM, (x, *affine), (self.eps,), many=True)[0]
        if not self.training:
            return apply(BATCH_NORM_FIXED, (x, mean, variance, *affine), (self.eps,))
        out, batch_mean, batch_variance = apply(BATCH_NORM, (x, *affine), (self.eps,), many=True)
        share = 1 / (count + 1) if self.momentum is None else self.momentum
        set_value(mean, apply(RUNNING, (mean, batch_mean, 1.0 - share, share)))
        set_value(variance, apply(RUNNING, (variance, batch_variance, 1.0 - share, share)))
        set_value(count, count + 1)
        return out

    def describe(self) -> str:
        said = f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
        said += "" if self.affine else ", affine=False"
        return said if self.track_running_stats else f"{said}, track_running_stats=False"


class BatchNorm1d(_BatchNorm):
    """Normalises (N, C) or (N, C, L) per channel (Ioffe and Szegedy, 2015), as BatchNorm2d does images. Raises
    ShapeError. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.BatchNorm1d(3)(kt.rand(4, 3)).shape
    (4, 3)
    """

    def forward(self, x: Tensor[Any, Fixed]) -> Tensor[Any, Tracked]:
        return self._normalised(x, "(N, {0}) or (N, {0}, L)", (2, 3))


@shape_vars("C")
class BatchNorm2d(_BatchNorm):
    """Normalises images (N, C, H, W) per channel (Ioffe and Szegedy, 2015): by the batch in training, when running
    statistics follow it with `momentum` (None: their plain average); by these in evaluation, unless
    `track_running_stats` is False. Raises ShapeError. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.BatchNorm2d(3)(kt.rand(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    @shape_vars("B, H, W")
    def forward(self, x: Tensor[Shaped[Any, "[B, C, H, W]"], Fixed]) -> Tensor[Shaped[Any, "[B, C, H, W]"], Tracked]:
        return self._normalised(x, "(N, {0}, H, W)", (4,))

"""Layers with parameters, with PyTorch's arguments, initial values and weight layouts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, overload

from katachi.errors import ShapeError
from katachi.nn import functional as F
from katachi.nn.common import pair
from katachi.nn.init import uniform
from katachi.nn.module import Module, Parameter, check_positive
from katachi.tensor.types import Shaped, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.shape_rules import fit
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Elements, Fixed, Int, Tracked


@shape_vars("I, O")
class Linear(Module):
    """x @ weight.T + bias on the last axis. Starts as PyTorch's: uniform within 1 / sqrt(in_features).

    >>> import katachi as kt
    >>> kt.nn.Linear(3, 4)(kt.ones((2, 3))).shape
    (2, 4)
    """

    weight: Parameter[Shaped[tuple[int, int], "[O, I]"]]
    bias: Parameter[Shaped[tuple[int], "[O]"]] | None

    def __init__(self, in_features: Shaped[int, "I"], out_features: Shaped[int, "O"], bias: bool = True) -> None:
        check_positive("Linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        bound = 1 / math.sqrt(in_features)
        self.weight = uniform((out_features, in_features), bound)
        self.bias = uniform((out_features,), bound) if bias else None

    @shape_vars("*B")
    def forward(
        self, x: Tensor[Shaped[Any, "[*Elements[B], I]"], Fixed]
    ) -> Tensor[Shaped[Any, "[*Elements[B], O]"], Tracked]:
        return F.linear(x, self.weight, self.bias)

    def describe(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias is not None else ", bias=False")


@shape_vars("I, O, K, L, S, T, P, Q, D, E")
class Conv2d(Module):
    """Cross-correlation of images (N, C, H, W) with `out_channels` learned windows.

    >>> import katachi as kt
    >>> kt.nn.Conv2d(1, 8, 3, padding=1)(kt.ones((2, 1, 8, 8))).shape
    (2, 8, 8, 8)
    """

    if TYPE_CHECKING:

        @overload
        @shape_vars("A, B, U, V, X, Y")
        def __init__(
            self: Shaped[Conv2d, "A, B, U, U, V, V, X, X, Y, Y"],
            in_channels: Shaped[int, "A"],
            out_channels: Shaped[int, "B"],
            kernel_size: Shaped[int, "U"],
            stride: Shaped[int, "V"] = 1,
            padding: Shaped[int, "X"] = 0,
            dilation: Shaped[int, "Y"] = 1,
            groups: Literal[1] = 1,
            bias: bool = True,
        ) -> None: ...
        @overload
        @shape_vars("A, B")
        def __init__(
            self: Shaped[Conv2d, "A, B, int, int, int, int, int, int, int, int"],
            in_channels: Shaped[int, "A"],
            out_channels: Shaped[int, "B"],
            kernel_size: int | tuple[int, int],
            stride: int | tuple[int, int] = 1,
            padding: int | tuple[int, int] = 0,
            dilation: int | tuple[int, int] = 1,
            groups: int = 1,
            bias: bool = True,
        ) -> None: ...

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        _check_channels("Conv2d", in_channels, out_channels, groups)
        _check_steps("Conv2d", stride, padding, dilation)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair(kernel_size, "Conv2d: kernel_size")
        self.stride, self.padding, self.dilation = stride, padding, dilation
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.weight = uniform(shape, bound)
        self.bias = uniform((out_channels,), bound) if bias else None

    @shape_vars("B, H, W")
    def forward(
        self, x: Tensor[Shaped[Any, "[B, I, H, W]"], Fixed]
    ) -> Tensor[
        Shaped[
            Any,
            "[B, O, fit(Int[H], Int[K], Int[S], Int[P], Int[D]), fit(Int[W], Int[L], Int[T], Int[Q], Int[E])]",
        ],
        Tracked,
    ]:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def describe(self) -> str:
        return _described(self)


def _check_channels(name: str, inputs: int, outputs: int, groups: int) -> None:
    check_positive(name, in_channels=inputs, out_channels=outputs, groups=groups)
    if inputs % groups or outputs % groups:
        raise ShapeError(f"{name}: {inputs} and {outputs} channels do not divide into {groups} groups")


def _check_steps(name: str, stride: Any, padding: Any, dilation: Any) -> None:
    for what, value, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
        pair(value, f"{name}: {what}", least)


def _described(layer: Conv2d | ConvTranspose2d) -> str:
    usual = {"padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}
    said = [f"{layer.in_channels}, {layer.out_channels}, kernel_size={layer.kernel_size}, stride={layer.stride}"]
    said += [f"{name}={value}" for name in usual if (value := getattr(layer, name, usual[name])) != usual[name]]
    return ", ".join(said if layer.bias is not None else [*said, "bias=False"])


@shape_vars("I, O")
class ConvTranspose2d(Module):
    """The transpose of Conv2d: images (N, C, H, W) grow to H' = (H - 1) stride - 2 padding + dilation (kH - 1) +
    output_padding + 1. The weight is (in_channels, out_channels / groups, kH, kW). Raises ShapeError.

    >>> import katachi as kt
    >>> kt.nn.ConvTranspose2d(3, 8, 4, stride=2, padding=1)(kt.ones((2, 3, 8, 8))).shape
    (2, 8, 16, 16)
    """

    def __init__(
        self,
        in_channels: Shaped[int, "I"],
        out_channels: Shaped[int, "O"],
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, int] = 1,
    ) -> None:
        _check_channels("ConvTranspose2d", in_channels, out_channels, groups)
        _check_steps("ConvTranspose2d", stride, padding, dilation)
        pair(output_padding, "ConvTranspose2d: output_padding", 0)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair(kernel_size, "ConvTranspose2d: kernel_size")
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.dilation = dilation
        shape = (in_channels, out_channels // groups, *self.kernel_size)
        bound = 1 / math.sqrt(math.prod(shape[1:]))  # as PyTorch's, which takes the second axis for the inputs
        self.weight = uniform(shape, bound)
        self.bias = uniform((out_channels,), bound) if bias else None

    @shape_vars("B, H, W")
    def forward(
        self, x: Tensor[Shaped[Any, "[B, I, H, W]"], Fixed]
    ) -> Tensor[Shaped[Any, "[B, O, int, int]"], Tracked]:
        how = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return F.conv_transpose2d(x, self.weight, self.bias, *how)

    def describe(self) -> str:
        return _described(self)

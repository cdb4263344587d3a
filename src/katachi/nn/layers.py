"""Layers with parameters, with PyTorch's arguments, initial values and weight layouts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from katachi.errors import ShapeError
from katachi.nn import functional as F
from katachi.nn.common import pair, sizes
from katachi.nn.init import uniform
from katachi.nn.module import Module, Parameter, check_positive
from katachi.nn.padding import check_mode
from katachi.nn.windows import same_padding, steps
from katachi.tensor.types import Shaped, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.shape_rules import fit
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Elements, Fixed, Int, Tracked


@shape_vars("I, O")
class Linear(Module):
    """x @ weight.T + bias on the last axis. Starts as PyTorch's: uniform within 1 / sqrt(in_features). Half types are
    computed in float32 and rounded once.

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


Mode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]
Words: TypeAlias = Literal["same", "valid"]


class _Conv(Module):
    """A convolution along `_axes` axes by `_function`, with PyTorch's initial values."""

    _axes: int = 0
    _function: Any = None

    def _start(
        self, inputs: int, outputs: int, window: Any, stride: Any, padding: Any, dilation: Any, groups: int,
        bias: bool, padding_mode: str,
    ) -> None:  # fmt: skip
        name = type(self).__name__
        _check_channels(name, inputs, outputs, groups)
        steps(name, self._axes, stride, padding, dilation)
        check_mode(name, padding_mode, "zeros")
        self.in_channels, self.out_channels, self.groups = inputs, outputs, groups
        self.kernel_size = sizes(window, self._axes, f"{name}: kernel_size")
        self.stride, self.padding, self.dilation, self.padding_mode = stride, padding, dilation, padding_mode
        shape = (outputs, inputs // groups, *self.kernel_size)
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.weight = uniform(shape, bound)
        self.bias = uniform((outputs,), bound) if bias else None

    def _convolved(self, x: Any) -> Any:
        padding = self.padding
        if self.padding_mode != "zeros":
            _, each, dilation = steps(type(self).__name__, self._axes, self.stride, padding, self.dilation)
            around = same_padding(self.kernel_size, dilation) if each == "same" else [(p, p) for p in each]
            x = F.pad(x, [n for both in reversed(around) for n in both], self.padding_mode)
            padding = 0
        return self._function(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def describe(self) -> str:
        return _described(self)


class Conv1d(_Conv):
    """Cross-correlation of signals (N, C, L) with `out_channels` learned windows: (N, O, L'). The settings are as of
    Conv2d, the weight is (out_channels, in_channels / groups, kernel_size). Raises ShapeError, ValueError.

    >>> import katachi as kt
    >>> kt.nn.Conv1d(1, 8, 3, padding="same")(kt.ones((2, 1, 7))).shape
    (2, 8, 7)
    """

    _axes, _function = 1, staticmethod(F.conv1d)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: int | tuple[int] | Words = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Mode = "zeros",
    ) -> None:
        self._start(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)

    def forward(self, x: Tensor[tuple[int, int, int], Fixed]) -> Tensor[tuple[int, int, int], Tracked]:
        return self._convolved(x)


@shape_vars("I, O, K, L, S, T, P, Q, D, E")
class Conv2d(_Conv):
    """Cross-correlation of images (N, C, H, W) with `out_channels` learned windows.

    `padding` is how much goes around an image: one number or one an axis, "valid" for nothing, "same" for as much as
    leaves its size, at stride 1. `padding_mode` says what goes there: zeros, or the image as F.pad has it in the modes
    "reflect", "replicate" and "circular". Raises ShapeError, ValueError for another mode.

    >>> import katachi as kt
    >>> kt.nn.Conv2d(1, 8, 3, padding=1)(kt.ones((2, 1, 8, 8))).shape
    (2, 8, 8, 8)
    """

    _axes, _function = 2, staticmethod(F.conv2d)

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
            padding_mode: Mode = "zeros",
        ) -> None: ...
        @overload
        @shape_vars("A, B")
        def __init__(
            self: Shaped[Conv2d, "A, B, int, int, int, int, int, int, int, int"],
            in_channels: Shaped[int, "A"],
            out_channels: Shaped[int, "B"],
            kernel_size: int | tuple[int, int],
            stride: int | tuple[int, int] = 1,
            padding: int | tuple[int, int] | Words = 0,
            dilation: int | tuple[int, int] = 1,
            groups: int = 1,
            bias: bool = True,
            padding_mode: Mode = "zeros",
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
        padding_mode: Mode = "zeros",
    ) -> None:
        self._start(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)

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
        return self._convolved(x)


def _check_channels(name: str, inputs: int, outputs: int, groups: int) -> None:
    check_positive(name, in_channels=inputs, out_channels=outputs, groups=groups)
    if inputs % groups or outputs % groups:
        raise ShapeError(f"{name}: {inputs} and {outputs} channels do not divide into {groups} groups")


def _described(layer: _Conv | ConvTranspose2d) -> str:
    usual = {"padding": 0, "output_padding": 0, "dilation": 1, "groups": 1, "padding_mode": "zeros"}
    said = [f"{layer.in_channels}, {layer.out_channels}, kernel_size={layer.kernel_size}, stride={layer.stride}"]
    said += [f"{name}={value!r}" for name in usual if (value := getattr(layer, name, usual[name])) != usual[name]]
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
        for what, value, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
            pair(value, f"ConvTranspose2d: {what}", least)
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

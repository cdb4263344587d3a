"""Layers with parameters, with PyTorch's arguments, initial values and weight layouts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, overload

from katachi.errors import ShapeError
from katachi.nn import functional as F
from katachi.nn.init import uniform
from katachi.nn.module import Module, Parameter, check_positive
from katachi.tensor.types import _G, Shaped, shape_vars

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
        check_positive("Conv2d", in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ShapeError(f"Conv2d: {in_channels} and {out_channels} channels do not divide into {groups} groups")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = F._pair(kernel_size, "Conv2d: kernel_size")
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
        how = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return f"{self.in_channels}, {self.out_channels}, {how}"


@shape_vars("K, S, P")
class MaxPool2d(Module):
    """The maximum of each window over the last two axes."""

    if TYPE_CHECKING:

        @overload
        @shape_vars("U, X")
        def __init__(
            self: Shaped[MaxPool2d, "U, U, X"],
            kernel_size: Shaped[int, "U"],
            stride: None = None,
            padding: Shaped[int, "X"] = 0,
        ) -> None: ...
        @overload
        @shape_vars("U, V, X")
        def __init__(
            self: Shaped[MaxPool2d, "U, V, X"],
            kernel_size: Shaped[int, "U"],
            stride: Shaped[int, "V"],
            padding: Shaped[int, "X"] = 0,
        ) -> None: ...
        @overload
        def __init__(
            self: Shaped[MaxPool2d, "int, int, int"],
            kernel_size: int | tuple[int, int],
            stride: int | tuple[int, int] | None = None,
            padding: int | tuple[int, int] = 0,
        ) -> None: ...

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    @shape_vars("N, *B, H, W")
    def forward(
        self, x: Tensor[Shaped[Any, "[N, *Elements[B], H, W]"], _G]
    ) -> Tensor[
        Shaped[
            Any,
            "[N, *Elements[B], fit(Int[H], Int[K], Int[S], Int[P], 1), fit(Int[W], Int[K], Int[S], Int[P], 1)]",
        ],
        _G,
    ]:
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding)

    def describe(self) -> str:
        return f"{self.kernel_size}"

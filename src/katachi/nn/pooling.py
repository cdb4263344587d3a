"""Layers that pool: each window of an image becomes one number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from katachi.nn import functional as F
from katachi.nn.module import Module
from katachi.nn.windows import bins_of
from katachi.tensor.types import _G, Shaped, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.shape_rules import fit
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Elements, Int


@shape_vars("K, S, P")
class MaxPool2d(Module):
    """The maximum of each window over the last two axes of (N, C, H, W). Raises ShapeError.

    >>> import katachi as kt
    >>> kt.nn.MaxPool2d(2)(kt.ones((1, 3, 8, 8))).shape
    (1, 3, 4, 4)
    """

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
        return _described(self)


@shape_vars("K, S, P")
class AvgPool2d(Module):
    """The mean of each window over the last two axes of (N, C, H, W); the zeros of the padding count unless
    `count_include_pad` is False. Raises ShapeError.

    >>> import katachi as kt
    >>> kt.nn.AvgPool2d(2)(kt.ones((1, 3, 8, 8))).shape
    (1, 3, 4, 4)
    """

    if TYPE_CHECKING:

        @overload
        @shape_vars("U, X")
        def __init__(
            self: Shaped[AvgPool2d, "U, U, X"],
            kernel_size: Shaped[int, "U"],
            stride: None = None,
            padding: Shaped[int, "X"] = 0,
            *,
            count_include_pad: bool = True,
        ) -> None: ...
        @overload
        @shape_vars("U, V, X")
        def __init__(
            self: Shaped[AvgPool2d, "U, V, X"],
            kernel_size: Shaped[int, "U"],
            stride: Shaped[int, "V"],
            padding: Shaped[int, "X"] = 0,
            *,
            count_include_pad: bool = True,
        ) -> None: ...
        @overload
        def __init__(
            self: Shaped[AvgPool2d, "int, int, int"],
            kernel_size: int | tuple[int, int],
            stride: int | tuple[int, int] | None = None,
            padding: int | tuple[int, int] = 0,
            *,
            count_include_pad: bool = True,
        ) -> None: ...

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, *, count_include_pad: bool = True
    ) -> None:
        self.count_include_pad = count_include_pad
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
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, count_include_pad=self.count_include_pad)

    def describe(self) -> str:
        return _described(self)


def _described(layer: MaxPool2d | AvgPool2d) -> str:
    said = f"kernel_size={layer.kernel_size}, stride={layer.kernel_size if layer.stride is None else layer.stride}"
    return said + (f", padding={layer.padding}" if layer.padding else "")


@shape_vars("K, L")
class AdaptiveAvgPool2d(Module):
    """Means of (N, C, H, W) in `output_size` bins an axis, whatever the image's size; bin i of n holds floor(i H / n)
    to ceil((i + 1) H / n). One int, or two, of which None keeps an axis as it is. Raises ShapeError.

    >>> import katachi as kt
    >>> kt.nn.AdaptiveAvgPool2d((2, 3))(kt.ones((1, 3, 7, 7))).shape
    (1, 3, 2, 3)
    """

    if TYPE_CHECKING:

        @overload
        @shape_vars("U")
        def __init__(self: Shaped[AdaptiveAvgPool2d, "U, U"], output_size: Shaped[int, "U"]) -> None: ...
        @overload
        def __init__(
            self: Shaped[AdaptiveAvgPool2d, "int, int"], output_size: tuple[int | None, int | None]
        ) -> None: ...

    def __init__(self, output_size: Any) -> None:
        bins_of("AdaptiveAvgPool2d", output_size)
        self.output_size = output_size

    @shape_vars("N, *B, H, W")
    def forward(
        self, x: Tensor[Shaped[Any, "[N, *Elements[B], H, W]"], _G]
    ) -> Tensor[Shaped[Any, "[N, *Elements[B], K, L]"], _G]:
        return F.adaptive_avg_pool2d(x, self.output_size)

    def describe(self) -> str:
        return f"output_size={self.output_size}"

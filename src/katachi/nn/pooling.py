"""Layers that pool: each window of an image or a signal becomes one number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from katachi.nn import functional as F
from katachi.nn.module import Module
from katachi.nn.windows import bins_of, check_divisor
from katachi.tensor.types import _G, Shaped, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.shape_rules import fit
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Elements, Int


_USUAL = {"padding": 0, "ceil_mode": False, "count_include_pad": True, "divisor_override": None}


class _Pool(Module):
    """Windows, and what else the row of a class names: the function, and its settings beside the windows'."""

    _function: Any = None
    _settings: tuple[str, ...] = ()

    def _set(self, kernel_size: Any, stride: Any, padding: Any, *settings: Any) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        for name, value in zip(self._settings, settings, strict=True):
            setattr(self, name, value)

    def _pooled(self, x: Any) -> Any:
        settings = {name: getattr(self, name) for name in self._settings}
        return self._function(x, self.kernel_size, self.stride, self.padding, **settings)

    def describe(self) -> str:
        said = [f"kernel_size={self.kernel_size}", f"stride={self.kernel_size if self.stride is None else self.stride}"]
        others = [(name, getattr(self, name)) for name in ("padding", *self._settings)]
        return ", ".join(said + [f"{name}={value}" for name, value in others if value != _USUAL[name]])


@shape_vars("K, S, P")
class _Pool2d(_Pool):
    if TYPE_CHECKING:

        def __init__(self, *settings: Any, **more: Any) -> None: ...  # a row's own says more

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
        return self._pooled(x)


class _Pool1d(_Pool):
    @shape_vars("N, *B, W")
    def forward(
        self, x: Tensor[Shaped[Any, "[N, *Elements[B], W]"], _G]
    ) -> Tensor[Shaped[Any, "[N, *Elements[B], int]"], _G]:
        return self._pooled(x)


@shape_vars("K, S, P")
class MaxPool2d(Shaped[_Pool2d, "K, S, P"]):
    """The maximum of each window over the last two axes of (N, C, H, W); `ceil_mode` as of F.max_pool2d. Raises
    ShapeError.

    >>> import katachi as kt
    >>> kt.nn.MaxPool2d(2)(kt.ones((1, 3, 8, 8))).shape
    (1, 3, 4, 4)
    """

    _function, _settings = staticmethod(F.max_pool2d), ("ceil_mode",)

    if TYPE_CHECKING:

        @overload
        @shape_vars("U, X")
        def __init__(
            self: Shaped[MaxPool2d, "U, U, X"],
            kernel_size: Shaped[int, "U"],
            stride: None = None,
            padding: Shaped[int, "X"] = 0,
            *,
            ceil_mode: Literal[False] = False,
        ) -> None: ...
        @overload
        @shape_vars("U, V, X")
        def __init__(
            self: Shaped[MaxPool2d, "U, V, X"],
            kernel_size: Shaped[int, "U"],
            stride: Shaped[int, "V"],
            padding: Shaped[int, "X"] = 0,
            *,
            ceil_mode: Literal[False] = False,
        ) -> None: ...
        @overload
        def __init__(
            self: Shaped[MaxPool2d, "int, int, int"],
            kernel_size: int | tuple[int, int],
            stride: int | tuple[int, int] | None = None,
            padding: int | tuple[int, int] = 0,
            *,
            ceil_mode: bool = False,
        ) -> None: ...

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0, *, ceil_mode: bool = False) -> None:
        self._set(kernel_size, stride, padding, ceil_mode)


@shape_vars("K, S, P")
class AvgPool2d(Shaped[_Pool2d, "K, S, P"]):
    """The mean of each window over the last two axes of (N, C, H, W); the settings as of F.avg_pool2d. Raises
    ShapeError, ValueError for a divisor that is none. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.AvgPool2d(2)(kt.ones((1, 3, 8, 8))).shape
    (1, 3, 4, 4)
    """

    _function, _settings = staticmethod(F.avg_pool2d), ("ceil_mode", "count_include_pad", "divisor_override")

    if TYPE_CHECKING:

        @overload
        @shape_vars("U, X")
        def __init__(
            self: Shaped[AvgPool2d, "U, U, X"],
            kernel_size: Shaped[int, "U"],
            stride: None = None,
            padding: Shaped[int, "X"] = 0,
            ceil_mode: Literal[False] = False,
            count_include_pad: bool = True,
            divisor_override: int | None = None,
        ) -> None: ...
        @overload
        @shape_vars("U, V, X")
        def __init__(
            self: Shaped[AvgPool2d, "U, V, X"],
            kernel_size: Shaped[int, "U"],
            stride: Shaped[int, "V"],
            padding: Shaped[int, "X"] = 0,
            ceil_mode: Literal[False] = False,
            count_include_pad: bool = True,
            divisor_override: int | None = None,
        ) -> None: ...
        @overload
        def __init__(
            self: Shaped[AvgPool2d, "int, int, int"],
            kernel_size: int | tuple[int, int],
            stride: int | tuple[int, int] | None = None,
            padding: int | tuple[int, int] = 0,
            ceil_mode: bool = False,
            count_include_pad: bool = True,
            divisor_override: int | None = None,
        ) -> None: ...

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        check_divisor("AvgPool2d", divisor_override)
        self._set(kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


Window: TypeAlias = "int | tuple[int]"


class MaxPool1d(_Pool1d):
    """The maximum of each window over the last axis of (N, C, L); otherwise as MaxPool2d. Raises ShapeError.

    >>> import katachi as kt
    >>> kt.nn.MaxPool1d(2)(kt.ones((1, 3, 8))).shape
    (1, 3, 4)
    """

    _function, _settings = staticmethod(F.max_pool1d), ("ceil_mode",)

    def __init__(
        self, kernel_size: Window, stride: Window | None = None, padding: Window = 0, *, ceil_mode: bool = False
    ) -> None:
        self._set(kernel_size, stride, padding, ceil_mode)


class AvgPool1d(_Pool1d):
    """The mean of each window over the last axis of (N, C, L); otherwise as AvgPool2d. Raises ShapeError. Half types
    are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.AvgPool1d(2)(kt.ones((1, 3, 8))).shape
    (1, 3, 4)
    """

    _function, _settings = staticmethod(F.avg_pool1d), ("ceil_mode", "count_include_pad")

    def __init__(
        self,
        kernel_size: Window,
        stride: Window | None = None,
        padding: Window = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self._set(kernel_size, stride, padding, ceil_mode, count_include_pad)


@shape_vars("K, L")
class AdaptiveAvgPool2d(Module):
    """Means of (N, C, H, W) in `output_size` bins an axis, whatever the image's size; bin i of n holds floor(i H / n)
    to ceil((i + 1) H / n). One int, or two, of which None keeps an axis as it is. Raises ShapeError. Half types are
    computed in float32 and rounded once.

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

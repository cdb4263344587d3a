"""The types of the functions in nn/functional.py that need several; see tensor/signatures.pyi."""

from typing import Any, Literal, overload

from katachi.tensor.shape_rules import conv_shape, fit, losses_shape, nothing_of, same_shapes
from katachi.tensor.tensor import Tensor
from katachi.tensor.types import _G, Elements, Fixed, Int, Shaped, Tracked, shape_vars

@overload
@shape_vars("*B, I, O")
def affine(
    x: Tensor[Shaped[Any, "[*Elements[B], I]"], Fixed],
    weight: Tensor[Shaped[Any, "[O, I]"], Tracked],
    bias: Tensor[Shaped[Any, "[O]"], Fixed] | None = None,
) -> Tensor[Shaped[Any, "[*Elements[B], O]"], Tracked]: ...
@overload
@shape_vars("*B, I, O")
def affine(
    x: Tensor[Shaped[Any, "[*Elements[B], I]"], _G],
    weight: Tensor[Shaped[Any, "[O, I]"], Fixed],
    bias: Tensor[Shaped[Any, "[O]"], Fixed] | None = None,
) -> Tensor[Shaped[Any, "[*Elements[B], O]"], _G]: ...
@overload
@shape_vars("*A, *W, S, P, D, N")
def convolution(
    x: Tensor[Shaped[Any, "A"], Fixed],
    weight: Tensor[Shaped[Any, "W"], Tracked],
    bias: Tensor | None = None,
    stride: Shaped[int, "S"] = 1,
    padding: Shaped[int, "P"] = 0,
    dilation: Shaped[int, "D"] = 1,
    groups: Shaped[int, "N"] = 1,
) -> Tensor[Shaped[Any, "conv_shape(A, W, Int[S], Int[P], Int[D], Int[N])"], Tracked]: ...
@overload
@shape_vars("*A, *W, S, P, D, N")
def convolution(
    x: Tensor[Shaped[Any, "A"], _G],
    weight: Tensor[Shaped[Any, "W"], Fixed],
    bias: Tensor | None = None,
    stride: Shaped[int, "S"] = 1,
    padding: Shaped[int, "P"] = 0,
    dilation: Shaped[int, "D"] = 1,
    groups: Shaped[int, "N"] = 1,
) -> Tensor[Shaped[Any, "conv_shape(A, W, Int[S], Int[P], Int[D], Int[N])"], _G]: ...
@overload
def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | Literal["same", "valid"] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor[tuple[int, int, int, int], Any]: ...
@overload
def convolution1(
    x: Tensor[Any, Fixed],
    weight: Tensor[Any, Tracked],
    bias: Tensor | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] | Literal["same", "valid"] = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
) -> Tensor[tuple[int, int, int], Tracked]: ...
@overload
def convolution1(
    x: Tensor[Any, _G],
    weight: Tensor[Any, Fixed],
    bias: Tensor | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] | Literal["same", "valid"] = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
) -> Tensor[tuple[int, int, int], _G]: ...
@overload
@shape_vars("*B, H, W, K, P")
def pooling(
    x: Tensor[Shaped[Any, "[*Elements[B], H, W]"], _G],
    kernel_size: Shaped[int, "K"],
    stride: None = None,
    padding: Shaped[int, "P"] = 0,
    *,
    ceil_mode: Literal[False] = False,
) -> Tensor[
    Shaped[Any, "[*Elements[B], fit(Int[H], Int[K], Int[K], Int[P], 1), fit(Int[W], Int[K], Int[K], Int[P], 1)]"], _G
]: ...
@overload
@shape_vars("*B, H, W, K, S, P")
def pooling(
    x: Tensor[Shaped[Any, "[*Elements[B], H, W]"], _G],
    kernel_size: Shaped[int, "K"],
    stride: Shaped[int, "S"],
    padding: Shaped[int, "P"] = 0,
    *,
    ceil_mode: Literal[False] = False,
) -> Tensor[
    Shaped[Any, "[*Elements[B], fit(Int[H], Int[K], Int[S], Int[P], 1), fit(Int[W], Int[K], Int[S], Int[P], 1)]"], _G
]: ...
@overload
@shape_vars("*B, H, W")
def pooling(
    x: Tensor[Shaped[Any, "[*Elements[B], H, W]"], _G],
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    *,
    ceil_mode: bool = False,
) -> Tensor[Shaped[Any, "[*Elements[B], int, int]"], _G]: ...
@overload
@shape_vars("*B, H, W, K, P")
def averaging(
    x: Tensor[Shaped[Any, "[*Elements[B], H, W]"], _G],
    kernel_size: Shaped[int, "K"],
    stride: None = None,
    padding: Shaped[int, "P"] = 0,
    ceil_mode: Literal[False] = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor[
    Shaped[Any, "[*Elements[B], fit(Int[H], Int[K], Int[K], Int[P], 1), fit(Int[W], Int[K], Int[K], Int[P], 1)]"], _G
]: ...
@overload
@shape_vars("*B, H, W, K, S, P")
def averaging(
    x: Tensor[Shaped[Any, "[*Elements[B], H, W]"], _G],
    kernel_size: Shaped[int, "K"],
    stride: Shaped[int, "S"],
    padding: Shaped[int, "P"] = 0,
    ceil_mode: Literal[False] = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor[
    Shaped[Any, "[*Elements[B], fit(Int[H], Int[K], Int[S], Int[P], 1), fit(Int[W], Int[K], Int[S], Int[P], 1)]"], _G
]: ...
@overload
@shape_vars("*B, H, W")
def averaging(
    x: Tensor[Shaped[Any, "[*Elements[B], H, W]"], _G],
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor[Shaped[Any, "[*Elements[B], int, int]"], _G]: ...
@shape_vars("*B, L")
def pooling1(
    x: Tensor[Shaped[Any, "[*Elements[B], L]"], _G],
    kernel_size: int | tuple[int],
    stride: int | tuple[int] | None = None,
    padding: int | tuple[int] = 0,
    *,
    ceil_mode: bool = False,
) -> Tensor[Shaped[Any, "[*Elements[B], int]"], _G]: ...
@shape_vars("*B, L")
def averaging1(
    x: Tensor[Shaped[Any, "[*Elements[B], L]"], _G],
    kernel_size: int | tuple[int],
    stride: int | tuple[int] | None = None,
    padding: int | tuple[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor[Shaped[Any, "[*Elements[B], int]"], _G]: ...
@overload
@shape_vars("*A, *T, D")
def classification(
    logits: Tensor[Shaped[Any, "A"], _G],
    target: Tensor[Shaped[Any, "T"], Fixed],
    *,
    axis: Shaped[int, "D"] = 1,
    reduction: Literal["mean", "sum"] = "mean",
    weight: Tensor[Any, Fixed] | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor[Shaped[Any, "nothing_of(losses_shape(A, T, Int[D]))"], _G]: ...
@overload
@shape_vars("*A, *T, D")
def classification(
    logits: Tensor[Shaped[Any, "A"], _G],
    target: Tensor[Shaped[Any, "T"], Fixed],
    *,
    axis: Shaped[int, "D"] = 1,
    reduction: Literal["none"],
    weight: Tensor[Any, Fixed] | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor[Shaped[Any, "losses_shape(A, T, Int[D])"], _G]: ...
@overload
@shape_vars("*A, *T, D")
def classification(
    logits: Tensor[Shaped[Any, "A"], _G],
    target: Tensor[Shaped[Any, "T"], Fixed],
    *,
    axis: Shaped[int, "D"] = 1,
    reduction: str,
    weight: Tensor[Any, Fixed] | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor[Any, _G]: ...
@overload
@shape_vars("*A, *T, D")
def likelihood(
    log_p: Tensor[Shaped[Any, "A"], _G],
    target: Tensor[Shaped[Any, "T"], Fixed],
    weight: Tensor[Any, Fixed] | None = None,
    *,
    axis: Shaped[int, "D"] = 1,
    reduction: Literal["mean", "sum"] = "mean",
    ignore_index: int = -100,
) -> Tensor[Shaped[Any, "nothing_of(losses_shape(A, T, Int[D]))"], _G]: ...
@overload
@shape_vars("*A, *T, D")
def likelihood(
    log_p: Tensor[Shaped[Any, "A"], _G],
    target: Tensor[Shaped[Any, "T"], Fixed],
    weight: Tensor[Any, Fixed] | None = None,
    *,
    axis: Shaped[int, "D"] = 1,
    reduction: str,
    ignore_index: int = -100,
) -> Tensor[Any, _G]: ...
@overload
@shape_vars("*A, *B")
def distance(
    x: Tensor[Shaped[Any, "A"], Fixed],
    target: Tensor[Shaped[Any, "B"], Tracked],
    *,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor[Shaped[Any, "nothing_of(same_shapes(A, B))"], Tracked]: ...
@overload
@shape_vars("*A, *B")
def distance(
    x: Tensor[Shaped[Any, "A"], _G],
    target: Tensor[Shaped[Any, "B"], Fixed],
    *,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor[Shaped[Any, "nothing_of(same_shapes(A, B))"], _G]: ...
@overload
@shape_vars("*A, *B")
def distance(
    x: Tensor[Shaped[Any, "A"], Fixed], target: Tensor[Shaped[Any, "B"], Fixed], *, reduction: Literal["none"]
) -> Tensor[Shaped[Any, "same_shapes(A, B)"], Any]: ...
@overload
@shape_vars("*A, *B")
def distance(
    x: Tensor[Shaped[Any, "A"], _G], target: Tensor[Shaped[Any, "B"], Fixed], *, reduction: str
) -> Tensor[Any, _G]: ...
@overload
def transposed(
    x: Tensor[Any, Fixed],
    weight: Tensor[Any, Tracked],
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
    groups: int = 1,
    dilation: int | tuple[int, int] = 1,
) -> Tensor[tuple[int, int, int, int], Tracked]: ...
@overload
def transposed(
    x: Tensor[Any, _G],
    weight: Tensor[Any, Fixed],
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
    groups: int = 1,
    dilation: int | tuple[int, int] = 1,
) -> Tensor[tuple[int, int, int, int], _G]: ...
@overload
@shape_vars("*B, H, W, K")
def adaptive(
    x: Tensor[Shaped[Any, "[*Elements[B], H, W]"], _G], output_size: Shaped[int, "K"]
) -> Tensor[Shaped[Any, "[*Elements[B], K, K]"], _G]: ...
@overload
@shape_vars("*B, H, W")
def adaptive(
    x: Tensor[Shaped[Any, "[*Elements[B], H, W]"], _G], output_size: tuple[int | None, int | None]
) -> Tensor[Shaped[Any, "[*Elements[B], int, int]"], _G]: ...

"""Convolution and pooling as functions: what slides a window over the last one or two axes."""

from __future__ import annotations

from typing import Any, TypeAlias

from katachi.errors import ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import int64
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.graph.sizes import count, window_count
from katachi.nn.common import common, pair, sizes
from katachi.nn.signatures import (
    adaptive,
    averaging,
    averaging1,
    convolution,
    convolution1,
    pooling,
    pooling1,
    transposed,
)  # fmt: skip
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.operand import floating
from katachi.tensor.types import like

AXES = {1: ("L", "k"), 2: ("H, W", "kH, kW")}  # the names of images' axes and windows', for messages
Pairs: TypeAlias = tuple[tuple[int, int], ...]  # (low, high) for each axis


def _check_rank(x: Node, weight: Node, axes: int, layout: str) -> None:
    if len(x.shape) != 2 + axes or len(weight.shape) != 2 + axes:
        image, window = AXES[axes]
        raise ShapeError(
            f"needs input (N, C, {image}) and weight ({layout}, {window}), got {x.shape} and {weight.shape}"
        )


def _with_bias(out: Node, bias: list[Node], channels: int) -> Node:
    return b.add(out, b.reshape(bias[0], (1, channels, *(1 for _ in out.shape[2:])))) if bias else out


def _check_bias(bias: list[Node], channels: int) -> None:
    if bias and bias[0].shape != (channels,):
        raise ShapeError(f"needs a bias of shape ({channels},), got {bias[0].shape}")


def same_padding(window: tuple[int, ...], dilation: tuple[int, ...]) -> Pairs:
    """As many pixels around an image as leave its size as it is; of an odd number one more behind."""
    reach = [d * (k - 1) for k, d in zip(window, dilation, strict=True)]
    return tuple((n // 2, n - n // 2) for n in reach)


def steps(name: str, axes: int, stride: Any, padding: Any, dilation: Any) -> tuple[Any, Any, Any]:
    """Stride, padding and dilation for each axis; "same" stays, as it depends on the window. Raises ShapeError."""
    stride = sizes(stride, axes, f"{name}: stride")
    if padding == "same" and any(s != 1 for s in stride):
        raise ShapeError(f'{name}: padding="same" leaves the size as it is, which stride {stride} cannot')
    if isinstance(padding, str) and padding not in ("same", "valid"):
        raise ShapeError(f'{name}: padding in words is "same" or "valid", got {padding!r}')
    if padding != "same":
        padding = sizes(0 if padding == "valid" else padding, axes, f"{name}: padding", 0)
    return stride, padding, sizes(dilation, axes, f"{name}: dilation")


def _conv(x: Node, weight: Node, *rest: Any) -> Node:
    *bias, stride, padding, dilation, groups = rest
    _check_rank(x, weight, len(stride), "O, C / groups")
    if x.shape[1] != weight.shape[1] * groups:
        raise ShapeError(f"needs {weight.shape[1] * groups} channels on axis 1, got {x.shape[1]} in {x.shape}")
    _check_bias(bias, weight.shape[0])
    around = same_padding(weight.shape[2:], dilation) if padding == "same" else tuple((p, p) for p in padding)
    x, weight, *bias = common(x, weight, *bias)
    out = make(
        "convolution", x, weight, strides=stride, padding=around, lhs_dilation=(1,) * len(stride),
        rhs_dilation=dilation, groups=groups,
    )  # fmt: skip
    return _with_bias(out, bias, weight.shape[0])


CONV1D, CONV2D = Op("conv1d", _conv, upcast=3), Op("conv2d", _conv, upcast=3)


@like(convolution1)
def conv1d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Cross-correlation of x (N, C, L) with weight (O, C / groups, k): (N, O, L'); `padding` as of conv2d. Raises
    ShapeError. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.functional.conv1d(kt.ones((1, 1, 5)), kt.ones((1, 1, 2)), padding="same").tolist()
    [[[2.0, 2.0, 2.0, 2.0, 1.0]]]
    """
    how = steps("conv1d", 1, stride, padding, dilation)
    return apply(CONV1D, (x, weight) if bias is None else (x, weight, bias), (*how, groups))


@like(convolution)
def conv2d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Cross-correlation of x (N, C, H, W) with weight (O, C / groups, kH, kW): (N, O, H', W'). `padding`: zeros around
    the image, one number or one an axis; "valid" for none; "same" for as many as leave the size, at stride 1. Raises
    ShapeError. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.functional.conv2d(kt.ones((1, 1, 5, 5)), kt.ones((2, 1, 3, 3)), padding=1).shape
    (1, 2, 5, 5)
    """
    how = steps("conv2d", 2, stride, padding, dilation)
    return apply(CONV2D, (x, weight) if bias is None else (x, weight, bias), (*how, groups))


def _conv_transpose2d(x: Node, weight: Node, *rest: Any) -> Node:
    """conv2d's gradient with respect to its input: x with `stride` - 1 zeros between pixels, the kernel reversed and
    its channels exchanged within each group."""
    *bias, stride, padding, output_padding, groups, dilation = rest
    _check_rank(x, weight, 2, "C, O / groups")
    channels, per_out, *window = weight.shape
    if x.shape[1] != channels:
        raise ShapeError(f"needs {channels} channels on axis 1, got {x.shape[1]} in {x.shape}")
    if channels % groups:
        raise ShapeError(f"{channels} channels do not divide into {groups} groups")
    for o, s, d in zip(output_padding, stride, dilation, strict=True):
        if o >= max(s, d):
            raise ShapeError(f"output_padding {output_padding} must be below stride {stride} or dilation {dilation}")
    _check_bias(bias, per_out * groups)
    x, weight, *bias = common(x, weight, *bias)
    weight = b.transpose(b.reshape(weight, (groups, channels // groups, per_out, *window)), (0, 2, 1, 3, 4))
    weight = make("reverse", b.reshape(weight, (groups * per_out, channels // groups, *window)), dimensions=(2, 3))
    reach = [d * (k - 1) for d, k in zip(dilation, window, strict=True)]
    around = tuple((r - p, r - p + o) for r, p, o in zip(reach, padding, output_padding, strict=True))
    out = make(
        "convolution", x, weight, strides=(1, 1), padding=around, lhs_dilation=stride, rhs_dilation=dilation,
        groups=groups,
    )  # fmt: skip
    return _with_bias(out, bias, per_out * groups)


CONV_TRANSPOSE2D = Op("conv_transpose2d", _conv_transpose2d, upcast=3)


@like(transposed)
def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """The transpose of conv2d (Zeiler et al., 2010): x (N, C, H, W) and weight (C, O / groups, kH, kW) give (N, O, H',
    W') with H' = (H - 1) stride - 2 padding + dilation (kH - 1) + output_padding + 1. Raises ShapeError. Half types are
    computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.functional.conv_transpose2d(kt.ones((1, 1, 4, 4)), kt.ones((1, 2, 2, 2)), stride=2).shape
    (1, 2, 8, 8)
    """
    name = "conv_transpose2d"
    how = (
        pair(stride, f"{name}: stride"),
        pair(padding, f"{name}: padding", 0),
        pair(output_padding, f"{name}: output_padding", 0),
        groups,
        pair(dilation, f"{name}: dilation"),
    )
    return apply(CONV_TRANSPOSE2D, (x, weight) if bias is None else (x, weight, bias), how)


def _around(x: Node, window: Any, stride: Any, padding: Any, ceil_mode: bool) -> Pairs:
    """How far windows reach beyond each axis. `ceil_mode` adds what the last window of an axis lacks, if that begins on
    the image or before it. Raises ShapeError."""
    axes = len(window)
    if len(x.shape) < 1 + axes:
        raise ShapeError(f"needs input (..., C, {AXES[axes][0]}), got {x.shape}")
    if any(2 * p > k for p, k in zip(padding, window, strict=True)):
        raise ShapeError(f"padding {padding} is more than half the window {window}")
    image, around = x.shape[-axes:], []
    for n, k, s, p in zip(image, window, stride, padding, strict=True):
        left = n + 2 * p - k
        more = s - left % s if ceil_mode and left % s and (left // s + 1) * s < n + p else 0
        around.append((p, p + more))
        if window_count(n, k, s, p, p + more) < 1:
            raise ShapeError(f"window {window} is larger than the padded input {image}")
    return tuple(around)


def _max_pool(x: Node, window: Any, stride: Any, padding: Any, ceil_mode: bool) -> Node:
    around = _around(x, window, stride, padding, ceil_mode)
    return make("reduce_window", x, window=window, strides=stride, padding=around)


MAX_POOL1D, MAX_POOL2D = Op("max_pool1d", _max_pool), Op("max_pool2d", _max_pool)


@like(pooling1)
def max_pool1d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, *, ceil_mode: bool = False) -> Any:
    """The maximum of each window over the last axis of x (..., C, L); otherwise as max_pool2d. Raises ShapeError.

    >>> import katachi as kt
    >>> kt.nn.functional.max_pool1d(kt.arange(5).reshape((1, 5)), 2, ceil_mode=True).tolist()
    [[1, 3, 4]]
    """
    return apply(MAX_POOL1D, (x,), (*_pool("max_pool1d", 1, kernel_size, stride, padding), bool(ceil_mode)))


@like(pooling)
def max_pool2d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, *, ceil_mode: bool = False) -> Any:
    """The maximum of each window over the last two axes of x (..., C, H, W); windows follow one another unless `stride`
    says otherwise, and padding never wins. `ceil_mode` also takes a last window that reaches beyond the padding, if it
    begins on the image. Raises ShapeError, DTypeError for bools.

    >>> import katachi as kt
    >>> kt.nn.functional.max_pool2d(kt.ones((1, 1, 5, 5)), 2).shape
    (1, 1, 2, 2)
    """
    return apply(MAX_POOL2D, (x,), (*_pool("max_pool2d", 2, kernel_size, stride, padding), bool(ceil_mode)))


def _pool(name: str, axes: int, kernel_size: Any, stride: Any, padding: Any) -> tuple[Any, Any, Any]:
    window = sizes(kernel_size, axes, f"{name}: kernel_size")
    step = window if stride is None else sizes(stride, axes, f"{name}: stride")
    return window, step, sizes(padding, axes, f"{name}: padding", 0)


def _tiles(x: Node, window: Any) -> Node:
    """The sum of each tile: windows that follow one another, without what is left at the end."""
    n = len(x.shape) - len(window)
    lead, many = x.shape[:n], [size // k for size, k in zip(x.shape[n:], window, strict=True)]
    limit = (*lead, *[m * k for m, k in zip(many, window, strict=True)])
    if limit != x.shape:
        x = make("slice", x, start=(0,) * len(limit), limit=limit, stride=(1,) * len(limit))
    x = b.reshape(x, (*lead, *[size for both in zip(many, window, strict=True) for size in both]))
    return b.reduce("reduce_sum", x, tuple(n + 1 + 2 * i for i in range(len(window))))


def _sums(x: Node, window: Any, stride: Any, around: Pairs) -> Node:
    """The sum of each window, by a convolution of each channel alone with ones."""
    n = len(x.shape) - len(window)
    flat = b.reshape(x, (count(x.shape[:n]), 1, *x.shape[n:]))
    ones = b.full(1.0, (1, 1, *window), x.dtype, x.device)
    out = make(
        "convolution", flat, ones, strides=stride, padding=around, lhs_dilation=(1,) * len(window),
        rhs_dilation=(1,) * len(window), groups=1,
    )  # fmt: skip
    return b.reshape(out, (*x.shape[:n], *out.shape[2:]))


def _avg_pool(x: Node, window: Any, stride: Any, padding: Any, ceil_mode: bool, with_pad: bool, divisor: Any) -> Node:
    x = floating(x)
    around = _around(x, window, stride, padding, ceil_mode)
    plain = not any(map(any, around))
    total = _tiles(x, window) if stride == window and plain else _sums(x, window, stride, around)
    if divisor is not None:
        return b.divide(total, b.like(total, float(divisor)))
    image = x.shape[-len(window) :]
    if with_pad:  # but what ceil_mode adds behind the padding never counts
        image = tuple(n + 2 * p for n, p in zip(image, padding, strict=True))
        around = tuple((0, high - p) for (_, high), p in zip(around, padding, strict=True))
    if not any(map(any, around)):
        return b.divide(total, b.like(total, count(window)))
    return b.divide(total, _sums(b.full(1.0, (1, *image), x.dtype, x.device), window, stride, around))


AVG_POOL1D, AVG_POOL2D = Op("avg_pool1d", _avg_pool, upcast=1), Op("avg_pool2d", _avg_pool, upcast=1)


@like(averaging1)
def avg_pool1d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """The mean of each window over the last axis of x (..., C, L); otherwise as avg_pool2d. Raises ShapeError. Half
    types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.functional.avg_pool1d(kt.arange(5.0).reshape((1, 5)), 2, ceil_mode=True).tolist()
    [[0.5, 2.5, 4.0]]
    """
    how = _pool("avg_pool1d", 1, kernel_size, stride, padding)
    return apply(AVG_POOL1D, (x,), (*how, bool(ceil_mode), bool(count_include_pad), None))


@like(averaging)
def avg_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """The mean of each window over the last two axes of x (..., C, H, W). The zeros of the padding count, unless
    `count_include_pad` is False; what `ceil_mode` adds, as in max_pool2d, never does. `divisor_override` is what sums
    are divided by instead. Raises ShapeError, ValueError for a divisor that is no int or zero. Half types are computed
    in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.functional.avg_pool2d(kt.arange(16.0).reshape((1, 4, 4)), 2).tolist()
    [[[2.5, 4.5], [10.5, 12.5]]]
    """
    check_divisor("avg_pool2d", divisor_override)
    how = _pool("avg_pool2d", 2, kernel_size, stride, padding)
    return apply(AVG_POOL2D, (x,), (*how, bool(ceil_mode), bool(count_include_pad), divisor_override))


def check_divisor(name: str, divisor: Any) -> None:
    """Raises ValueError unless it is None, or an int other than zero."""
    if divisor is not None and (not isinstance(divisor, int) or isinstance(divisor, bool) or divisor == 0):
        raise ValueError(f"{name}: divisor_override is an int other than zero, or None, got {divisor!r}")


def _bins(x: Node, axis: int, bins: int) -> Node:
    """The mean of bin i along the axis: the elements j with floor(i n / bins) <= j < ceil((i + 1) n / bins)."""
    n = x.shape[axis]
    if n % bins == 0:
        x = b.reshape(x, (*x.shape[:axis], bins, n // bins, *x.shape[axis + 1 :]))
        total = b.reduce("reduce_sum", x, (axis + 1,))
        return b.divide(total, b.like(total, n // bins))
    i, j = (make("iota", shape=(bins, n), dtype=int64, dimension=d, device=x.device) for d in (0, 1))
    first, last = make("multiply", i, b.like(i, n)), make("multiply", b.shift(i, 1), b.like(i, n))
    begun = b.compare(first, "LT", make("multiply", b.shift(j, 1), b.like(j, bins)))
    inside = make("and", begun, b.compare(make("multiply", j, b.like(j, bins)), "LT", last))
    shape = (*x.shape[:axis], bins, *x.shape[axis:])
    spread = make("broadcast_in_dim", x, shape=shape, dims=tuple(k for k in range(len(shape)) if k != axis))
    mask = make("broadcast_in_dim", inside, shape=shape, dims=(axis, axis + 1))
    total = b.reduce("reduce_sum", b.select(mask, spread, b.like(spread, 0.0)), (axis + 1,))
    size = b.reduce("reduce_sum", b.convert(inside, x.dtype), (1,))
    return b.divide(total, make("broadcast_in_dim", size, shape=total.shape, dims=(axis,)))


def _adaptive_avg_pool2d(x: Node, sizes: Any) -> Node:
    x = floating(x)
    if len(x.shape) < 3 or 0 in x.shape[-2:]:
        raise ShapeError(f"needs input (..., C, H, W) with pixels, got {x.shape}")
    rank = len(x.shape)
    for axis, bins in zip((rank - 2, rank - 1), sizes, strict=True):
        x = x if bins is None else _bins(x, axis, bins)
    return x


ADAPTIVE_AVG_POOL2D = Op("adaptive_avg_pool2d", _adaptive_avg_pool2d, upcast=1)


@like(adaptive)
def adaptive_avg_pool2d(x: Any, output_size: Any) -> Any:
    """Means of x (..., C, H, W) in `output_size` bins: bin i of n holds floor(i H / n) to ceil((i + 1) H / n), so bins
    may overlap. One int, or two, of which None keeps an axis as it is. Raises ShapeError. Half types are computed in
    float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.functional.adaptive_avg_pool2d(kt.arange(9.0).reshape((1, 3, 3)), 2).tolist()
    [[[2.0, 3.0], [5.0, 6.0]]]
    """
    return apply(ADAPTIVE_AVG_POOL2D, (x,), (bins_of("adaptive_avg_pool2d", output_size),))


def bins_of(name: str, output_size: Any) -> tuple[int | None, int | None]:
    """Two numbers of bins; raises ShapeError."""
    two = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    filled = pair(tuple(1 if n is None else n for n in two), f"{name}: output_size")
    return (None if two[0] is None else filled[0], None if two[1] is None else filled[1])

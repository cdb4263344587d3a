"""Convolution and pooling as functions: what slides a window over the last two axes."""

from __future__ import annotations

from typing import Any

from katachi.errors import ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import int64
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.graph.sizes import count, window_count
from katachi.nn.common import common, pair
from katachi.nn.signatures import adaptive, averaging, convolution, pooling, transposed
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.operand import floating
from katachi.tensor.types import like


def _check_rank(x: Node, weight: Node, layout: str) -> None:
    if len(x.shape) != 4 or len(weight.shape) != 4:
        raise ShapeError(f"needs input (N, C, H, W) and weight {layout}, got {x.shape} and {weight.shape}")


def _with_bias(out: Node, bias: list[Node], channels: int) -> Node:
    return b.add(out, b.reshape(bias[0], (1, channels, 1, 1))) if bias else out


def _check_bias(bias: list[Node], channels: int) -> None:
    if bias and bias[0].shape != (channels,):
        raise ShapeError(f"needs a bias of shape ({channels},), got {bias[0].shape}")


def _conv2d(x: Node, weight: Node, *rest: Any) -> Node:
    *bias, stride, padding, dilation, groups = rest
    _check_rank(x, weight, "(O, C / groups, kH, kW)")
    if x.shape[1] != weight.shape[1] * groups:
        raise ShapeError(f"needs {weight.shape[1] * groups} channels on axis 1, got {x.shape[1]} in {x.shape}")
    _check_bias(bias, weight.shape[0])
    x, weight, *bias = common(x, weight, *bias)
    out = make(
        "convolution", x, weight, strides=stride, padding=tuple((p, p) for p in padding), lhs_dilation=(1, 1),
        rhs_dilation=dilation, groups=groups,
    )  # fmt: skip
    return _with_bias(out, bias, weight.shape[0])


CONV2D = Op("conv2d", _conv2d)


@like(convolution)
def conv2d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Cross-correlation of x (N, C, H, W) with weight (O, C / groups, kH, kW): (N, O, H', W'). Raises ShapeError.

    >>> import katachi as kt
    >>> kt.nn.functional.conv2d(kt.ones((1, 1, 5, 5)), kt.ones((2, 1, 3, 3)), padding=1).shape
    (1, 2, 5, 5)
    """
    how = (pair(stride, "conv2d: stride"), pair(padding, "conv2d: padding", 0), pair(dilation, "conv2d: dilation"))
    return apply(CONV2D, (x, weight) if bias is None else (x, weight, bias), (*how, groups))


def _conv_transpose2d(x: Node, weight: Node, *rest: Any) -> Node:
    """conv2d's gradient with respect to its input: x with `stride` - 1 zeros between pixels, the kernel reversed and
    its channels exchanged within each group."""
    *bias, stride, padding, output_padding, groups, dilation = rest
    _check_rank(x, weight, "(C, O / groups, kH, kW)")
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


CONV_TRANSPOSE2D = Op("conv_transpose2d", _conv_transpose2d)


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
    """The transpose of conv2d (Zeiler et al., 2010): x (N, C, H, W) and weight (C, O / groups, kH, kW) give
    (N, O, H', W') with H' = (H - 1) stride - 2 padding + dilation (kH - 1) + output_padding + 1. Raises ShapeError.

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


def _check_window(x: Node, window: Any, stride: Any, padding: Any) -> None:
    if len(x.shape) < 3:
        raise ShapeError(f"needs input (..., C, H, W), got {x.shape}")
    if any(2 * p > k for p, k in zip(padding, window, strict=True)):
        raise ShapeError(f"padding {padding} is more than half the window {window}")
    if any(window_count(n, k, s, p, p) < 1 for n, k, s, p in zip(x.shape[-2:], window, stride, padding, strict=True)):
        raise ShapeError(f"window {window} is larger than the padded input {x.shape[-2:]}")


def _max_pool2d(x: Node, window: Any, stride: Any, padding: Any) -> Node:
    _check_window(x, window, stride, padding)
    return make("reduce_window", x, window=window, strides=stride, padding=tuple((p, p) for p in padding))


MAX_POOL2D = Op("max_pool2d", _max_pool2d)


@like(pooling)
def max_pool2d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Any:
    """The maximum of each window over the last two axes; windows follow one another unless `stride` says otherwise.

    >>> import katachi as kt
    >>> kt.nn.functional.max_pool2d(kt.ones((1, 1, 5, 5)), 2).shape
    (1, 1, 2, 2)
    """
    return apply(MAX_POOL2D, (x,), _pool("max_pool2d", kernel_size, stride, padding))


def _pool(name: str, kernel_size: Any, stride: Any, padding: Any) -> tuple[Any, Any, Any]:
    window = pair(kernel_size, f"{name}: kernel_size")
    step = window if stride is None else pair(stride, f"{name}: stride")
    return window, step, pair(padding, f"{name}: padding", 0)


def _tiles(x: Node, window: Any) -> Node:
    """The sum of each tile: windows that follow one another, without what is left at the end."""
    *lead, h, w = x.shape
    rows, columns = h // window[0], w // window[1]
    limit = (*lead, rows * window[0], columns * window[1])
    if limit != x.shape:
        x = make("slice", x, start=(0,) * len(limit), limit=limit, stride=(1,) * len(limit))
    n = len(lead)
    x = b.reshape(x, (*lead, rows, window[0], columns, window[1]))
    return b.reduce("reduce_sum", x, (n + 1, n + 3))


def _sums(x: Node, window: Any, stride: Any, padding: Any) -> Node:
    """The sum of each window, by a convolution of each channel alone with ones."""
    *lead, h, w = x.shape
    flat = b.reshape(x, (count(tuple(lead)), 1, h, w))
    ones = b.full(1.0, (1, 1, *window), x.dtype, x.device)
    out = make(
        "convolution", flat, ones, strides=stride, padding=tuple((p, p) for p in padding), lhs_dilation=(1, 1),
        rhs_dilation=(1, 1), groups=1,
    )  # fmt: skip
    return b.reshape(out, (*lead, *out.shape[2:]))


def _avg_pool2d(x: Node, window: Any, stride: Any, padding: Any, count_include_pad: bool) -> Node:
    x = floating(x)
    _check_window(x, window, stride, padding)
    total = _tiles(x, window) if stride == window and padding == (0, 0) else _sums(x, window, stride, padding)
    if count_include_pad or padding == (0, 0):
        return b.divide(total, b.like(total, float(window[0] * window[1])))
    ones = b.full(1.0, (1, *x.shape[-2:]), x.dtype, x.device)
    return b.divide(total, _sums(ones, window, stride, padding))


AVG_POOL2D = Op("avg_pool2d", _avg_pool2d)


@like(averaging)
def avg_pool2d(
    x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, *, count_include_pad: bool = True
) -> Any:
    """The mean of each window over the last two axes of x (..., C, H, W); the zeros of the padding count, unless
    `count_include_pad` is False. Raises ShapeError.

    >>> import katachi as kt
    >>> kt.nn.functional.avg_pool2d(kt.arange(16.0).reshape((1, 4, 4)), 2).tolist()
    [[[2.5, 4.5], [10.5, 12.5]]]
    """
    return apply(AVG_POOL2D, (x,), (*_pool("avg_pool2d", kernel_size, stride, padding), bool(count_include_pad)))


def _bins(x: Node, axis: int, bins: int) -> Node:
    """The mean of bin i along the axis: the elements j with floor(i n / bins) <= j < ceil((i + 1) n / bins)."""
    n = x.shape[axis]
    if n % bins == 0:
        x = b.reshape(x, (*x.shape[:axis], bins, n // bins, *x.shape[axis + 1 :]))
        total = b.reduce("reduce_sum", x, (axis + 1,))
        return b.divide(total, b.like(total, float(n // bins)))
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


ADAPTIVE_AVG_POOL2D = Op("adaptive_avg_pool2d", _adaptive_avg_pool2d)


@like(adaptive)
def adaptive_avg_pool2d(x: Any, output_size: Any) -> Any:
    """Means of x (..., C, H, W) in `output_size` bins: bin i of n holds floor(i H / n) to ceil((i + 1) H / n), so bins
    may overlap. One int, or two, of which None keeps an axis as it is. Raises ShapeError.

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

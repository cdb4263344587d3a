"""Definitions of the primitives that multiply and add, and of windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray[Any, Any]
Ints = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]


def _wide(x: Array) -> Array:
    return x.astype(np.float64) if x.dtype.kind not in "iub" else x


def _dot_general(a: Array, b: Array, *, batch: tuple[Ints, Ints], contract: tuple[Ints, Ints]) -> Array:
    def matrix(x: Array, batched: Ints, contracted: Ints, contracted_first: bool) -> tuple[Array, list[int]]:
        free = [i for i in range(x.ndim) if i not in batched and i not in contracted]
        order = [*batched, *contracted, *free] if contracted_first else [*batched, *free, *contracted]
        rows = int(np.prod([x.shape[i] for i in (contracted if contracted_first else free)]))
        columns = int(np.prod([x.shape[i] for i in (free if contracted_first else contracted)]))
        lead = [x.shape[i] for i in batched]
        return _wide(x).transpose(order).reshape([*lead, rows, columns]), [x.shape[i] for i in free]

    left, left_free = matrix(a, batch[0], contract[0], False)
    right, right_free = matrix(b, batch[1], contract[1], True)
    lead = [a.shape[i] for i in batch[0]]
    return np.matmul(left, right).reshape([*lead, *left_free, *right_free]).astype(a.dtype)


def _dilate(x: Array, dilation: Ints) -> Array:
    lead = x.ndim - len(dilation)
    sizes = [(n - 1) * d + 1 if n else 0 for n, d in zip(x.shape[lead:], dilation, strict=True)]
    out = np.zeros((*x.shape[:lead], *sizes), x.dtype)
    out[(..., *(slice(None, None, d) for d in dilation))] = x
    return out


def _pad_or_crop(x: Array, padding: Pairs, value: Any) -> Array:
    lead = x.ndim - len(padding)
    widths = [(0, 0)] * lead + [(max(lo, 0), max(hi, 0)) for lo, hi in padding]
    x = np.pad(x, widths, constant_values=value)  # first, because more may be cropped than x has
    return x[(..., *(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(x.shape[lead:], padding, strict=True)))]


def _windows(x: Array, window: Ints, strides: Ints) -> Array:
    """A view with the places of the window first and its elements in the last axes."""
    spatial = tuple(range(x.ndim - len(window), x.ndim))
    view = sliding_window_view(x, window, spatial)
    return view[(..., *(slice(None, None, s) for s in strides), *[slice(None)] * len(window))]


def _convolution(
    x: Array, w: Array, *, strides: Ints, padding: Pairs, lhs_dilation: Ints, rhs_dilation: Ints, groups: int
) -> Array:
    taps, k = _dilate(_wide(w), rhs_dilation), len(strides)
    views = _windows(_pad_or_crop(_dilate(_wide(x), lhs_dilation), padding, 0), taps.shape[2:], strides)
    per_in, per_out = w.shape[1], w.shape[0] // groups
    summed = [1, *range(views.ndim - k, views.ndim)]  # channels and window
    parts = []
    for g in range(groups):
        part = views[:, g * per_in : (g + 1) * per_in]
        kernel = taps[g * per_out : (g + 1) * per_out]
        parts.append(np.moveaxis(np.tensordot(part, kernel, (summed, list(range(1, k + 2)))), -1, 1))
    return np.concatenate(parts, 1).astype(x.dtype)


def _lowest(dtype: np.dtype[Any]) -> Any:
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


def _window_places(x: Array, window: Ints, strides: Ints, padding: Pairs) -> Array:
    """For every window the position of its first maximum in x flattened."""
    flat = np.arange(x.size).reshape(x.shape)
    values = _windows(_pad_or_crop(x, padding, _lowest(x.dtype)), window, strides)
    places = _windows(_pad_or_crop(flat, padding, -1), window, strides)
    lead = values.shape[: x.ndim]
    values, places = values.reshape(*lead, -1), places.reshape(*lead, -1)
    inside = np.where(places >= 0, values, _lowest(x.dtype))
    best = np.where((inside == inside.max(-1, keepdims=True)) & (places >= 0), 1, 0)
    best = np.where(np.isnan(values), 2, best) if values.dtype.kind == "f" else best
    return np.take_along_axis(places, best.argmax(-1)[..., None], -1)[..., 0]


def _comparable(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype.kind not in "iubf" or x.dtype == np.float16 else x


def _reduce_window(x: Array, *, window: Ints, strides: Ints, padding: Pairs) -> Array:
    wide = _comparable(x)
    views = _windows(_pad_or_crop(wide, padding, _lowest(wide.dtype)), window, strides)
    return views.max(tuple(range(x.ndim, views.ndim))).astype(x.dtype)


def _reduce_window_gradient(x: Array, g: Array, *, window: Ints, strides: Ints, padding: Pairs) -> Array:
    wide = _comparable(x)
    out = np.zeros(x.size, np.float64)
    if x.size:
        places = _window_places(wide, window, strides, padding)
        np.add.at(out, places[places >= 0], g[places >= 0].astype(np.float64))  # below 0: nothing but padding
    return out.reshape(x.shape).astype(x.dtype)


LINEAR: dict[str, Callable[..., Array]] = {
    "dot_general": _dot_general,
    "convolution": _convolution,
    "reduce_window": _reduce_window,
    "reduce_window_gradient": _reduce_window_gradient,
}

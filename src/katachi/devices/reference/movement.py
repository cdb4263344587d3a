"""Definitions of primitives that move values: shapes, slices, gather and scatter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from katachi.errors import IndexBoundsError
from katachi.graph.dtypes import DType

Array = np.ndarray[Any, Any]
Ints = tuple[int, ...]


def _constant(*, value: Any, dtype: DType) -> Array:
    return np.asarray(value).astype(dtype.numpy)


def _broadcast_in_dim(x: Array, *, shape: Ints, dims: Ints) -> Array:
    wide = [1] * len(shape)
    for n, d in zip(x.shape, dims, strict=True):
        wide[d] = n
    return np.broadcast_to(x.reshape(wide), shape)


def _reshape(x: Array, *, shape: Ints) -> Array:
    return x.reshape(shape)


def _transpose(x: Array, *, permutation: Ints) -> Array:
    return x.transpose(permutation)


def _slice(x: Array, *, start: Ints, limit: Ints, stride: Ints) -> Array:
    return x[tuple(map(slice, start, limit, stride))]


def _block(starts: tuple[Array, ...], sizes: Ints) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(a) + n) for a, n in zip(starts, sizes, strict=True))


def _dynamic_slice(x: Array, *starts: Array, sizes: Ints) -> Array:
    return x[_block(starts, sizes)]


def _dynamic_update_slice(x: Array, update: Array, *starts: Array) -> Array:
    out = x.copy()
    out[_block(starts, update.shape)] = update
    return out


def _pad(x: Array, value: Array, *, low: Ints, high: Ints, interior: Ints) -> Array:
    sizes = [lo + hi + n + max(n - 1, 0) * i for n, lo, hi, i in zip(x.shape, low, high, interior, strict=True)]
    out = np.full(sizes, value, x.dtype)
    spans = zip(x.shape, low, interior, strict=True)
    out[tuple(slice(lo, lo + n + max(n - 1, 0) * i, i + 1) for n, lo, i in spans)] = x
    return out


def _concatenate(*xs: Array, dimension: int) -> Array:
    return np.concatenate(xs, dimension)


def _reverse(x: Array, *, dimensions: Ints) -> Array:
    return np.flip(x, dimensions)


def _iota(*, shape: Ints, dtype: DType, dimension: int) -> Array:
    along = np.arange(shape[dimension]).astype(dtype.numpy)
    return np.broadcast_to(along.reshape([-1 if i == dimension else 1 for i in range(len(shape))]), shape)


def _places(x: Array, index: Array, axes: Ints, batch: int) -> tuple[list[int], tuple[Array, ...]]:
    """The order of x's axes that puts the indexed ones first, and an index for each of these; checks the bounds."""
    for i, axis in enumerate(axes):
        part, size = index[..., i], x.shape[axis]
        if part.size and (wrong := (part < 0) | (part >= size)).any():
            raise IndexBoundsError(f"index {part[wrong].flat[0]} is outside axis {axis} of size {size}")
    grid = np.ogrid[tuple(slice(n) for n in index.shape[:-1])] if index.ndim > 1 else []
    rest = [i for i in range(x.ndim) if i >= batch and i not in axes]
    chosen = tuple(index[..., i].astype(np.int64) for i in range(len(axes)))
    return [*range(batch), *axes, *rest], (*grid[:batch], *chosen)


def _gather(x: Array, index: Array, *, axes: Ints, batch: int) -> Array:
    order, places = _places(x, index, axes, batch)
    return np.asarray(x.transpose(order)[places])


def _scatter(x: Array, index: Array, update: Array, *, axes: Ints, batch: int, combine: str) -> Array:
    order, places = _places(x, index, axes, batch)
    inside = np.float64 if combine != "set" and x.dtype.kind not in "iub" else x.dtype
    out = x.astype(inside, copy=True)
    if combine == "set":
        out.transpose(order)[places] = update
    else:
        getattr(np, combine).at(out.transpose(order), places, update.astype(inside))
    return out.astype(x.dtype, copy=False)


MOVEMENT: dict[str, Callable[..., Array]] = {
    "constant": _constant,
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "reverse": _reverse,
    "iota": _iota,
    "gather": _gather,
    "scatter": _scatter,
}

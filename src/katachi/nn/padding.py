"""Padding in PyTorch's terms: what goes around the last axes, as pairs that begin with the last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.tensor import Tensor
from katachi.tensor.types import _G


class Mode(NamedTuple):
    """Where k elements around an axis of n come from: as ranges before and after it, and whether turned around."""

    before: Callable[[int, int], tuple[int, int]]
    after: Callable[[int, int], tuple[int, int]]
    turned: bool
    most: Callable[[int], int | None]  # that many at the most, None for as many as wanted


MODES = {
    "reflect": Mode(lambda n, k: (1, k + 1), lambda n, k: (n - k - 1, n - 1), True, lambda n: n - 1),
    "replicate": Mode(lambda n, k: (0, 1), lambda n, k: (n - 1, n), False, lambda n: None if n else 0),
    "circular": Mode(lambda n, k: (n - k, n), lambda n, k: (0, k), False, lambda n: n),
}


def _cut(x: Node, axis: int, start: int, limit: int) -> Node:
    def changed(shape: tuple[int, ...], to: int) -> tuple[int, ...]:
        return (*shape[:axis], to, *shape[axis + 1 :])

    if (start, limit) == (0, x.shape[axis]):
        return x
    ones = (1,) * len(x.shape)
    return make("slice", x, start=changed((0,) * len(x.shape), start), limit=changed(x.shape, limit), stride=ones)


def _piece(x: Node, axis: int, k: int, place: tuple[int, int], turned: bool) -> Node:
    found = _cut(x, axis, *place)
    if turned:
        found = make("reverse", found, dimensions=(axis,))
    return b.spread(found, (*x.shape[:axis], k, *x.shape[axis + 1 :]))  # an edge is one element, for all


def _around(x: Node, axis: int, low: int, high: int, mode: str) -> Node:
    row, n = MODES[mode], x.shape[axis]
    most = row.most(n)
    if low < 0 or high < 0:
        raise ShapeError(f'mode="{mode}" cannot take away: ({low}, {high}) on axis {axis} of {x.shape}')
    if most is not None and max(low, high) > most:
        raise ShapeError(
            f'mode="{mode}" has at most {most} to put beside axis {axis} of {x.shape}, not ({low}, {high})'
        )
    pieces = [_piece(x, axis, low, row.before(n, low), row.turned)] if low else []
    pieces.append(x)
    pieces += [_piece(x, axis, high, row.after(n, high), row.turned)] if high else []
    return make("concatenate", *pieces, dimension=axis) if len(pieces) > 1 else x


def _pairs(x: Node, around: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(axis, low, high), the last axis first."""
    if len(around) > 2 * len(x.shape):
        raise ShapeError(f"pad {around} is for {len(around) // 2} axes, got {x.shape}")
    last = len(x.shape) - 1
    return [(last - i // 2, around[i], around[i + 1]) for i in range(0, len(around), 2)]


def _pad_with(x: Node, value: Node, around: tuple[int, ...]) -> Node:
    if value.dtype.is_floating and not x.dtype.is_floating:
        raise DTypeError(f"the value must be a number that {x.dtype.name} can hold")
    low, high = [0] * len(x.shape), [0] * len(x.shape)
    for axis, first, last in _pairs(x, around):
        n = x.shape[axis]
        start, limit = max(-first, 0), n + min(last, 0)
        if start > limit:
            raise ShapeError(f"({first}, {last}) takes more from axis {axis} of {x.shape} than there is")
        x = _cut(x, axis, start, limit)
        low[axis], high[axis] = max(first, 0), max(last, 0)
    how = {"low": tuple(low), "high": tuple(high), "interior": (0,) * len(low)}
    return make("pad", x, b.convert(value, x.dtype), **how) if any(low) or any(high) else x


def _pad_from(x: Node, around: tuple[int, ...], mode: str) -> Node:
    for axis, low, high in _pairs(x, around):
        x = _around(x, axis, low, high, mode)
    return x


PAD_WITH, PAD_FROM = Op("pad", _pad_with), Op("pad", _pad_from)


def pad(x: Tensor[Any, _G], pad: Any, mode: str = "constant", value: float | None = None) -> Tensor[Any, _G]:
    """x with more around its last axes: `pad` is (left, right) of the last axis, then of the one before it, and so on.

    `mode`: "constant" puts `value` there, 0 if None, and takes away where a number is negative; "reflect" mirrors at
    the edge element, "replicate" repeats it, "circular" goes on at the other end. dtypes stay. `kt.pad` has NumPy's
    order. Raises ShapeError for numbers that do not fit x, DTypeError for a value that x cannot hold, ValueError.

    >>> import katachi as kt
    >>> kt.nn.functional.pad(kt.tensor([[1, 2, 3]]), (2, 1), mode="reflect").tolist()
    [[3, 2, 1, 2, 3, 2]]
    """
    around = tuple(pad) if isinstance(pad, (tuple, list)) else (pad,)
    if len(around) % 2 or not all(type(n) is int for n in around):
        raise ShapeError(f"pad: needs ints in pairs, (left, right) of the last axis first, got {pad!r}")
    if mode == "constant":
        return apply(PAD_WITH, (x, 0 if value is None else value), (around,))
    check_mode("pad", mode, "constant")
    if value is not None:
        raise ValueError(f'pad: mode="{mode}" takes what x has, and no value, got {value!r}')
    return apply(PAD_FROM, (x,), (around, mode))


def check_mode(name: str, mode: Any, first: str) -> None:
    """Raises ValueError unless it is `first` or a mode that takes values from the image."""
    if mode != first and mode not in MODES:
        raise ValueError(f"{name}: a padding mode is one of {', '.join([first, *MODES])}, got {mode!r}")

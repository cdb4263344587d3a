"""Which tiles Winograd's way is exact enough for, as LLVM code.

A tile's outputs are differences of sums over the whole tile, so each is off by a few roundings of the *largest* value
of the tile, whether its own window holds that value or not. While a block of x is copied, the largest magnitude of each
pixel over all channels is noted (as bits: those of magnitudes are ordered as numbers, NaN above all). From these each
tile gets a level, and so does each panel of the kernel from its taps:

    EVEN    values of about one size everywhere
    UNEVEN  some pixels (taps) are far below the largest, yet no window that an output sees is
    WIDE    a window is far below the largest value, or that value stands out from all others, or is not to be
            multiplied safely: NaN, infinite, near overflow or underflow

Where the levels of tile and panel add up to WIDE, the outputs are computed directly. A small pixel may meet the largest
taps, and the other way round, so two that are uneven count as wide.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Sequence

from katachi.kernels.llvm_text import Builder, Value

EVEN, UNEVEN, WIDE = 0, 1, 2
MAGNITUDE = 0x7FFFFFFF  # a float32's bits without its sign
_LANES = 8  # the pixels of one row of a tile, and two more
_SIDE, _WINDOW = 6, 4  # of a tile of x, and of one of outputs
_APART = 8.0  # how far a window may be below the largest value of its tile
_ABOVE_PIXELS = 12.0  # how far the largest value may be above the mean of the other pixels
_ABOVE_TAPS = 64.0  # and above the mean of all weights of one output channel


def _bits(x: float) -> int:
    return int(struct.unpack("I", struct.pack("f", x))[0])


_SMALLEST, _LARGEST, _INFINITY = _bits(1e-30), _bits(1e16), _bits(float("inf"))


def magnitudes(b: Builder, x: Value) -> Value:
    """The bits of |x|."""
    return b.bits(x) & MAGNITUDE


def largest(b: Builder, xs: Sequence[Value]) -> Value:
    return functools.reduce(lambda x, y: b.intrinsic("umax", x, y), xs)


def smallest(b: Builder, xs: Sequence[Value]) -> Value:
    return functools.reduce(lambda x, y: b.intrinsic("umin", x, y), xs)


def _float(x: Value) -> Value:
    return x.to("bitcast", "float")


def _first(b: Builder, n: Value | int) -> Value:
    """A mask of the first n lanes."""
    lane = b.value("i32", _LANES, f"<{', '.join(f'i32 {i}' for i in range(_LANES))}>")
    return lane < (n.to("trunc", "i32") if isinstance(n, Value) else n)


def _along(b: Builder, row: Value, by: int) -> Value:
    """Each lane gets the pixel `by` further right."""
    return b.shuffle(row, row, [min(i + by, _LANES - 1) for i in range(_LANES)]) if by else row


def _number(n: Value) -> Value:
    return n.b.op("float", 1, f"uitofp {n.typed} to float")


def _ordinary(top: Value) -> Value:
    """Whether products with a largest magnitude neither overflow nor vanish."""
    return top.eq(0) | (top - _SMALLEST).compare("ult", "", _LARGEST - _SMALLEST)


def rows_of(b: Builder, noted: Value, span: Value, count: int) -> list[Value]:
    """The noted magnitudes of a tile, a vector a row."""
    return [b.load("i32", b.place("i32", noted, span * i), _LANES) for i in range(count)]


def _whole(b: Builder, rows: Sequence[Value], side: int, inside: Value) -> tuple[Value, Value]:
    """The largest magnitude of a tile's pixels, and whether it is ordinary and near enough to the mean of the others;
    `inside` the image are so many."""
    mask = _first(b, side)
    top = b.reduce("umax", b.select(mask, largest(b, rows), b.const("i32", 0, _LANES)))
    sums = functools.reduce(lambda x, y: x + y, map(_float, rows))
    total = b.reduce("fadd", b.select(mask, sums, b.const("float", 0.0, _LANES)))
    return top, _ordinary(top) & ((total - _float(top)) * _ABOVE_PIXELS >= _float(top) * _number(inside))


def level_of_tile(b: Builder, rows: Sequence[Value], inside: Value, high: Value, wide: Value) -> Value:
    """The level of a tile of x with so many pixels `inside` the image, and of whose outputs so many rows and columns
    are wanted."""
    infinity = b.const("i32", _INFINITY, _LANES)
    top, whole = _whole(b, rows, _SIDE, inside)
    weakest = infinity
    for i in range(_WINDOW):
        column = largest(b, rows[i : i + 3])
        windows = largest(b, [_along(b, column, k) for k in range(3)])
        wanted = b.smin(b.select(high > i, wide, b.const("i64", 0)), _WINDOW)
        weakest = smallest(b, [weakest, b.select(_first(b, wanted), windows, infinity)])
    near = _float(b.reduce("umin", weakest)) * _APART >= _float(top)
    least = b.reduce("umin", b.select(_first(b, _SIDE), smallest(b, rows), infinity))
    return _level(b, whole & near, _float(least) * _APART >= _float(top))


def level_of_pair(
    b: Builder, rows: Sequence[Value], inside: Value, gradient: Sequence[Value], wanted: Value
) -> Value:  # fmt: skip
    """The level of a tile of x with one of the output's gradient: each tap of the kernel is to get products that are
    near the largest one, for at each tap the error is one of the largest."""
    (x, x_whole), (g, g_whole) = _whole(b, rows, _SIDE, inside), _whole(b, gradient, _WINDOW, wanted)
    weakest = []
    for i, j in itertools.product(range(3), range(3)):
        products = [_float(_along(b, x, j)) * _float(g) for x, g in zip(rows[i:], gradient, strict=False)]
        tap = largest(b, [b.bits(p) for p in products])
        tap = b.shuffle(tap, tap, range(_WINDOW))  # beyond lies the next tile
        for by in (2, 1):  # every lane becomes the largest of all
            tap = largest(b, [tap, b.shuffle(tap, tap, [(k + by) % _WINDOW for k in range(_WINDOW)])])
        weakest.append(tap)
    near = _float(b.reduce("umin", smallest(b, weakest))) * _APART >= _float(x) * _float(g)
    return _level(b, x_whole & g_whole & near, b.const("i1", 1))


def level_of_taps(b: Builder, taps: Sequence[Value], total: Value, count: Value) -> Value:
    """The levels of output channels, a lane each: the largest magnitude of each tap over `count` channels, and the sum
    of all magnitudes."""
    top = largest(b, taps)
    whole = _ordinary(top) & (total * _ABOVE_TAPS >= _float(top) * _number(count * len(taps)))
    return _level(b, whole, _float(smallest(b, taps)) * _APART >= _float(top))


def _level(b: Builder, whole: Value, even: Value) -> Value:
    uneven = b.select(even, b.const("i32", EVEN, even.lanes), b.const("i32", UNEVEN, even.lanes))
    return b.select(whole, uneven, b.const("i32", WIDE, whole.lanes))

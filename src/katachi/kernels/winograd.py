"""Convolutions with a 3x3 kernel by Winograd's F(4x4, 3x3): 36 multiplications for 16 outputs instead of 144.

A tile of 6x6 inputs, every fourth in both directions, is transformed, and so is the kernel; at each of 36 points the
channels are then multiplied as matrices, and 36 products transform back to 4x4 outputs. The points 0, +-sqrt(1/2),
+-sqrt(2) and infinity keep the error near that of plain sums. The gradient of the kernel is the same read backwards:
4x4 tiles of the output's gradient are spread to 36 points, and the sums over all tiles transform back to 3x3.

Its error is a few roundings of the largest value of a tile, so tiles whose values differ too much, or are not finite,
are computed directly, from the same copy and with the plain taps, which stand behind the transformed ones
(`write_ranges.py` tells which tiles).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from katachi.kernels.convolution import Lowered, Problem

Array = np.ndarray[Any, Any]

OUT, TILE = 4, 6  # outputs and inputs along one side of a tile
POINTS = TILE * TILE
TAPS = 9
FEWEST = 32  # channels on either side
_CACHE = 200_000  # transformed elements of a task


class Winograd(NamedTuple):
    """The key of a compiled kernel."""

    dtype: str
    part: str  # "filters", "filter levels" and "image tiles", or "gradient tiles" and "gradient sum"


NAMES = (
    "x", "w", "y", "x_offset", "w_offset", "x_image", "x_channel", "x_step", "w_term", "w_out", "w_step", "w_across",
    "images", "channels", "channels_out", "height", "width", "high", "wide", "low", "left", "down", "across", "rows",
    "most", "deep", "panels", "row", "pitch", "own", "each", "rows_table", "terms_table", "points_at",
    "second_at", "last_at", "parts", "per_part", "acc", "matrix", "span", "noted_at", "levels_at", "again_at",
    "pixels_table",
)  # fmt: skip


def matrices() -> tuple[Array, Array, Array]:
    """A, G and B of the outputs A^T [(G g G^T) * (B^T d B)] A, by Toom and Cook: polynomials at points."""
    points = [0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)]

    def powers(k: int) -> Array:
        return np.array([[p**j for j in range(k)] for p in points] + [[0.0] * (k - 1) + [1.0]])

    g = powers(3)
    g[:-1] /= np.array([math.prod(a - b for b in points if b != a) for a in points])[:, None]
    d = np.zeros((TILE, TILE))
    for i in range(TILE - 1):
        d[i, : TILE - 1] = np.poly([p for p in points if p != points[i]])[::-1]
    d[-1] = np.poly(points)[::-1]
    return powers(OUT), g, d.T


def suits(p: Problem) -> bool:
    """Whether this way is the faster one, as far as parameters and small extents tell: transforming the kernel must be
    worth it for a single image, so it depends on no batch size."""
    if p.dtype != "float32" or p.rank != 2 or p.groups != 1:
        return False
    axes = p.axes[1:]
    plain = all(a.short == 3 and a.long >= 3 and (a.long_step, a.short_step, a.dilation) == (1, 1, 1) for a in axes)
    near = p.x_steps[-1] == 1 and (
        not p.weights or (p.w_steps[-1] == 1 and (p.images == 1 or p.x_steps[1] < p.x_steps[0]))
    )
    area = math.prod(min(a.long, 16) for a in axes)
    return plain and near and min(p.channels, p.channels_out) >= FEWEST and p.channels * p.channels_out <= 512 * area


def lower(p: Problem, v: dict[str, int], threads: int, mr: int, lanes: int, width: int) -> Lowered:
    """The steps of a convolution, its numbers written to `v`, which has the operands' rows, offsets and steps."""
    down, across = (-(-a.long // OUT) for a in p.axes[1:])
    deep, row = -(-p.channels // lanes) * lanes, v["row"]
    tile_rows = p.images * down
    wanted = threads if p.weights else 4 * threads
    rows = max(min(-(-tile_rows // wanted), _CACHE // (POINTS * across * (deep + row))), 1)
    most = rows * across + mr | 1  # odd, so that the 36 points do not meet in one set of the cache
    v.update(
        x_step=p.x_steps[4], w_step=p.w_steps[4], w_across=p.w_steps[5], height=p.axes[1].size, width=p.axes[2].size,
        high=p.axes[1].long, wide=p.axes[2].long, low=p.axes[1].low, left=p.axes[2].low, down=down, across=across,
        rows=rows, most=most, deep=deep, pitch=across * OUT + TILE - OUT,
    )  # fmt: skip
    channels = max(deep, row)
    v["points_at"] = strip = (TILE * v["pitch"] + lanes) * channels
    v["second_at"] = strip + POINTS * most * deep
    v["last_at"] = last = v["second_at"] + POINTS * most * row
    v["span"] = span = -(-v["pitch"] // lanes) * lanes + 8
    # behind the results: the magnitudes of a row of tiles, the levels of all tiles, what is computed directly
    v["noted_at"] = noted = last + (0 if p.weights else OUT * across * OUT * lanes + lanes * lanes)
    v["levels_at"] = noted + (2 * TILE if p.weights else TILE) * span
    v["again_at"] = again = v["levels_at"] + rows * across
    pixels = np.arange(OUT * OUT)
    places = pixels // OUT * v["pitch"] + pixels % OUT
    if not p.weights:
        moved = np.arange(-(-most // mr) * mr)
        spare = np.full((-len(pixels) % mr, 2), (0, OUT * OUT * row))  # results that nobody reads
        tables = {
            "rows_table": np.stack([moved * deep, moved * row], 1), "terms_table": np.arange(p.channels),
            "pixels_table": np.concatenate([np.stack([places * deep, pixels * row], 1), spare]),
        }  # fmt: skip
        v["matrix"] = p.channels * row
        counts = [("filters", p.channels), ("filter levels", v["panels"]), ("image tiles", -(-tile_rows // rows))]
        return tables, counts, (POINTS + TAPS) * v["matrix"] + v["panels"], again + (OUT * OUT + 1) * row
    # a part is what one task sums: as many as threads, so that their sums, 36 matrices each, stay few
    v["per_part"] = max(-(-tile_rows // wanted), 1)
    v["parts"] = parts = max(-(-tile_rows // v["per_part"]), 1)
    v["matrix"] = (deep + mr) * row
    v["acc"] = (POINTS + TAPS) * v["matrix"] + row  # and whether there is anything at the taps
    moved = np.arange(deep + mr)
    tables = {
        "rows_table": np.stack([moved, moved * row], 1), "terms_table": np.arange(most) * deep,
        "pixels_table": np.arange(OUT) * deep,
    }  # fmt: skip
    counts = [("gradient tiles", parts), ("gradient sum", p.channels)]
    return tables, counts, parts * v["acc"], again + (OUT * OUT * across + lanes) * row

"""The gradient of max pooling by windows that do not overlap: of two columns, and a few rows.

A row of windows is a task's step: the vectors of its rows are taken apart into even and odd columns, so that each lane
holds a window, the first maximum of each window is found, and what it gets is put together again. Every element of the
result is written once, those beyond the last window too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from katachi.graph.node import Node
from katachi.graph.sizes import count
from katachi.kernels.llvm_text import SCALARS, Builder, Value
from katachi.kernels.loops import Steps
from katachi.kernels.target import Target
from katachi.kernels.write_llvm import SIGNATURE

MOST_ROWS = 4  # of a window
_NAMES = ("x", "g", "out", "planes", "chunk", "h", "w", "oh", "ow")
_GRAIN = 50_000  # elements: a task of fewer costs more to hand out than it saves


class Unpool(NamedTuple):
    """The key of a kernel: the dtype, and how many rows a window has."""

    dtype: str
    rows: int


def suits(node: Node) -> bool:
    """Whether the template computes this reduce_window_gradient."""
    window, padding = node.attrs["window"], node.attrs["padding"]
    return (
        node.dtype.name in ("float32", "float64")
        and len(window) >= 2
        and node.attrs["strides"] == window
        and window[-1] == 2
        and window[-2] <= MOST_ROWS
        and all(n == 1 for n in window[:-2])
        and not any(map(any, padding))
    )


class Problem(NamedTuple):
    """One reduce_window_gradient in numbers."""

    dtype: str
    window_rows: int
    planes: int
    sides: tuple[int, ...]  # height and width of x, then of g
    rows: tuple[int, ...]  # of the table of addresses: x, g and the result


def problem(node: Node, outputs: Sequence[Node], rows: Mapping[Node, int]) -> Problem:
    """One reduce_window_gradient in numbers, for `lower`."""
    x, g = node.inputs
    sides = (*x.shape[-2:], *g.shape[-2:])
    table = (rows[x], rows[g], rows[outputs[0]])
    return Problem(node.dtype.name, node.attrs["window"][-2], count(x.shape[:-2]), sides, table)


def lower(p: Problem, threads: int, target: Target) -> Steps:
    """The step of one reduce_window_gradient."""
    elements = p.planes * p.sides[0] * p.sides[1]
    if not elements:
        return Steps([])
    tasks = max(1, min(4 * threads, elements // _GRAIN, p.planes)) if threads > 1 else 1
    chunk = -(-p.planes // tasks)
    numbers = [*p.rows, p.planes, chunk, *p.sides]
    return Steps([(Unpool(p.dtype, p.window_rows), numbers, -(-p.planes // chunk))])


def write_unpool(key: Unpool, name: str, target: Target, declared: set[str]) -> str:
    """The text of the kernel."""
    b = Builder(f"define void @{name}{SIGNATURE}", declared)
    scalar = SCALARS[key.dtype]
    lanes = target.lanes(scalar)
    base = b.value("ptr", 1, "%parameters")
    v = {key: b.load("i64", b.place("i64", base, i)) for i, key in enumerate(_NAMES)}
    x, g, out = (b.load("ptr", b.place("i64", b.value("ptr", 1, "%table"), v[n])) for n in ("x", "g", "out"))
    zero = b.const("i64", 0)
    first = b.value("i64", 1, "%task") * v["chunk"]

    def windows(rows: list[tuple[Value, Value]], gradients: Value, low: Value, n: int) -> None:
        """n windows from column `low` of the result of pooling on."""
        places = [(b.place(scalar, source, low * 2), b.place(scalar, to, low * 2)) for source, to in rows]
        if n == 1:
            taps = [b.load(scalar, b.place(scalar, place, j)) for place, _ in places for j in (0, 1)]
        else:
            pairs = [b.load(scalar, place, 2 * n) for place, _ in places]
            taps = [b.shuffle(p, p, range(j, 2 * n, 2)) for p in pairs for j in (0, 1)]
        most = taps[0]
        for tap in taps[1:]:
            most = b.intrinsic("maximum", most, tap)
        given = b.load(scalar, b.place(scalar, gradients, low), n)
        got, free = [], None
        for tap in taps:
            hit = tap.eq(most) | (tap.isnan() & most.isnan())
            got.append(b.select(hit if free is None else hit & free, given, 0.0))
            free = hit ^ 1 if free is None else free & (hit ^ 1)
        woven = [i for k in range(n) for i in (k, n + k)]
        for k, (_, place) in enumerate(places):
            left, right = got[2 * k : 2 * k + 2]
            if n > 1:
                b.store(b.shuffle(left, right, woven), place)
            else:
                b.store(left, place)
                b.store(right, b.place(scalar, place, 1))

    def sweep(rows: list[tuple[Value, Value]], gradients: Value, n: int) -> None:
        """A row of windows, n at a time; the last n may overlap those before, which is faster than masks."""

        def here() -> None:
            last = v["ow"] - n
            with b.loop(zero, last, n) as low:
                windows(rows, gradients, low, n)
            with b.when(v["ow"] > 0):
                windows(rows, gradients, last, n)

        if n == 1:
            here()
        else:
            b.either(v["ow"] >= n, here, lambda: sweep(rows, gradients, n // 2))

    with b.loop(first, b.smin(first + v["chunk"], v["planes"])) as plane:
        with b.loop(zero, v["oh"]) as i:
            rows = []
            for k in range(key.rows):
                at = (plane * v["h"] + i * key.rows + k) * v["w"]
                rows.append((b.place(scalar, x, at), b.place(scalar, out, at)))
            gradients = b.place(scalar, g, (plane * v["oh"] + i) * v["ow"])
            sweep(rows, gradients, lanes)
            with b.loop(v["ow"] * 2, v["w"]) as column:
                for _, to in rows:
                    b.store(b.const(scalar, 0.0), b.place(scalar, to, column))
        with b.loop((plane * v["h"] + v["oh"] * key.rows) * v["w"], (plane + 1) * v["h"] * v["w"]) as rest:
            b.store(b.const(scalar, 0.0), b.place(scalar, out, rest))
    b.do("ret void")
    return b.text()

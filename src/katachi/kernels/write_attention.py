"""The kernels of the attention template as LLVM functions; what they compute stands in `attention.py`."""

from __future__ import annotations

import math
from collections.abc import Callable

from katachi.kernels.attention import KEYS, LEAD, NAMES, PLACED, QUERIES, Attend, vectors
from katachi.kernels.llvm_text import SCALARS, Builder, Value
from katachi.kernels.matmul import tile, transposed, write_micro
from katachi.kernels.polynomials import exp_of_shifted as exp
from katachi.kernels.polynomials import log
from katachi.kernels.target import Target
from katachi.kernels.write_llvm import SIGNATURE


def write_attention(key: Attend, name: str, target: Target, declared: set[str]) -> str:
    """The text of one kernel with its parts."""
    b = Builder(f"define void @{name}{SIGNATURE}", declared)
    w = _Writer(b, name, SCALARS[key.dtype], target, key.part)
    w.tasks({"forward": w.forward, "gradient": w.gradient}[key.part])
    b.do("ret void")
    tiles = [write_micro(f"{name}.tile{n}", w.scalar, w.lanes, w.mr, n, declared) for n in range(1, w.nv + 1)]
    return "\n".join([*tiles, _write_pack(f"{name}.pack", w.scalar, w.lanes, w.nv, declared), b.text()])


class _Writer:
    def __init__(self, b: Builder, name: str, scalar: str, target: Target, part: str) -> None:
        self.b, self.name, self.scalar = b, name, scalar
        self.lanes, self.nv, self.mr = target.lanes(scalar), vectors(target), tile(target)[0]
        self.width, self.block = self.lanes * self.nv, QUERIES[part]
        base = b.value("ptr", 1, "%parameters")
        self.v = {key: b.load("i64", b.place("i64", base, i)) for i, key in enumerate(NAMES)}
        self.zero = b.const("i64", 0)
        scale = b.load("double", b.place("i64", base, NAMES.index("scale")))
        self.scale = scale if scalar == "double" else scale.to("fptrunc", scalar)
        self.causal = self.v["causal"].ne(0)
        own = self.at(b.scratch(), b.value("i64", 1, "%thread") * self.v["each"])
        self.own = {key: self.at(own, self.v[key]) for key in NAMES[NAMES.index("each") + 1 : NAMES.index("size0")]}
        self.heads: dict[str, Value] = {}  # where each operand's matrix of one head begins

    # Small pieces

    def at(self, base: Value, index: Value | int) -> Value:
        return self.b.place(self.scalar, base, index)

    def there(self, name: str) -> Value:
        return self.v[f"{name}_row"].compare("sge", "", 0)

    def row(self, name: str, i: Value) -> Value:
        """Row i of an operand."""
        return self.at(self.heads[name], i * self.v[f"{name}_step"])

    def smax(self, x: Value, y: Value | int) -> Value:
        return self.b.select(x > y, x, y)

    def when_causal(self, yes: Value, no: Value) -> Value:
        return self.b.select(self.causal, yes, no)

    def up(self, x: Value, size: Value | int) -> Value:
        """x / size, rounded up."""
        size = size if isinstance(size, Value) else self.b.const("i64", size)
        return (x + size - 1) / size

    def number(self, x: float, lanes: int = 1) -> Value:
        return self.b.const(self.scalar, x, lanes)

    def vector(self, at: Value) -> Value:
        return self.b.load(self.scalar, at, self.lanes)

    def split(self, x: Value, size: Value) -> tuple[Value, Value]:
        quotient = x / size
        return quotient, x - quotient * size

    # A task

    def tasks(self, body: Callable[[Value, Value, Value, Value], None]) -> None:
        """`body` gets the first and last query and the first and last key of each unit of a task."""
        b, v = self.b, self.v
        row_parts, key_parts = self.up(v["queries"], v["some_queries"]), self.up(v["keys"], v["some_keys"])
        one = b.const("i64", 1)
        row_parts, key_parts = self.smax(row_parts, one), self.smax(key_parts, one)
        first = b.value("i64", 1, "%task") * v["per_task"]
        with b.loop(first, b.smin(first + v["per_task"], v["units"])) as unit:
            head, part = self.split(unit, row_parts)
            head, key_part = self.split(head, key_parts)
            offsets = {name: v[f"{name}_at"] for name in PLACED}
            for i in range(LEAD - 1, -1, -1):
                head, place = self.split(head, v[f"size{i}"])
                offsets = {name: at + place * v[f"{name}_lead{i}"] for name, at in offsets.items()}
            for name, offset in offsets.items():
                row = b.select(self.there(name), v[f"{name}_row"], self.zero)
                start = b.load("ptr", b.place("i64", b.value("ptr", 1, "%table"), row))
                self.heads[name] = b.place("i1" if name == "mask" else self.scalar, start, offset)
            r, k = part * v["some_queries"], key_part * v["some_keys"]
            body(r, b.smin(r + v["some_queries"], v["queries"]), k, b.smin(k + v["some_keys"], v["keys"]))

    def pack(self, name: str, first: Value, last: Value, depth: Value, factor: Value) -> None:
        args = (self.own[f"packed_{name}"], self.row(name, first), self.v[f"{name}_step"], depth, last - first, factor)
        self.b.do(f"call void @{self.name}.pack({', '.join(x.typed for x in args)})")

    def tile(
        self, a: Value, ars: Value | int, acs: Value | int, right: Value, brs: Value | int, c: Value, ldc: Value | int,
        k: Value, m: Value, n: Value, add: int,
    ) -> None:  # fmt: skip
        """c = (c if `add`) + a right, for a tile's rows and up to its width of columns."""
        args = [
            x if isinstance(x, Value) else self.b.const("i64", x)
            for x in (a, ars, acs, right, brs, c, ldc, k, m, n, add)
        ]

        def narrow(count: int) -> None:
            def call() -> None:
                self.b.do(f"call void @{self.name}.tile{count}({', '.join(x.typed for x in args)})")

            if count == 1:
                call()
            else:
                self.b.either(n > (count - 1) * self.lanes, call, lambda: narrow(count - 1))

        narrow(self.nv)

    def scores(self, name: str, i: Value, rows: Value, panels: Value, count: Value, depth: Value, to: Value) -> None:
        """to[rows, count] = rows of an operand times packed columns."""
        b = self.b
        with b.loop(self.zero, count, self.width) as j, b.loop(self.zero, rows, self.mr) as r:
            self.tile(
                self.row(name, i + r), self.v[f"{name}_step"], 1, self.at(panels, j * depth), self.width,
                self.at(to, r * KEYS + j), KEYS, depth, b.smin(rows - r, self.mr), b.const("i64", self.width), 0,
            )  # fmt: skip

    def across(self, columns: Value, body: Callable[[Value, Value], None]) -> None:
        """`body` gets the first of a tile's columns and how many it has."""
        with self.b.loop(self.zero, columns, self.width) as c:
            body(c, self.b.smin(columns - c, self.width))

    def hide(self, row: Value, count: Value, limit: Value, query: Value, key: Value) -> None:
        """Puts -inf into a row of scores from `limit` on, and where the mask hides a key."""
        b, v = self.b, self.v

        def walk(seen: Callable[[Value, Value], Value] | None) -> None:
            with b.loop(self.zero, count, self.lanes) as j:
                inside = b.lanes_iota(self.lanes) < b.splat(limit - j, self.lanes)
                if seen is not None:
                    inside = inside & seen(j, inside)
                at = self.at(row, j)
                b.store(b.select(inside, self.vector(at), -math.inf), at)

        def masked() -> None:
            column = v["mask_column"]
            start = b.place("i1", self.heads["mask"], query * v["mask_step"] + key * column)

            def straight(j: Value, inside: Value) -> Value:
                return b.load("i1", b.place("i1", start, j), self.lanes, inside)

            def apart(j: Value, inside: Value) -> Value:
                return b.load("i1", b.place("i1", start, (b.lanes_iota(self.lanes) + j) * column), self.lanes, inside)

            b.either(column.eq(1), lambda: walk(straight), lambda: walk(apart))

        def limited() -> None:
            with b.when(limit < count):
                walk(None)

        b.either(self.there("mask"), masked, limited)

    # The way there

    def forward(self, first: Value, last: Value, _: Value, keys: Value) -> None:
        b, v, own = self.b, self.v, self.own
        padded = self.up(v["values"], self.width) * self.width
        wanted = self.there("out")
        self.pack("k", self.zero, self.when_causal(b.smin(keys, last), keys), v["width"], self.scale)
        nothing = self.number(0.0, self.lanes)
        with b.loop(first, last, self.block) as i:
            rows = b.smin(last - i, self.block)
            seen = self.when_causal(b.smin(keys, i + rows), keys)
            with b.loop(self.zero, rows) as r:
                b.store(self.number(-math.inf), self.at(own["top"], r))
                b.store(self.number(0.0), self.at(own["total"], r))
            with b.loop(self.zero, rows * padded, self.lanes) as x:
                b.store(nothing, self.at(own["sums"], x))
            with b.loop(self.zero, seen, KEYS) as j:
                count = b.smin(seen - j, KEYS)
                self.scores("q", i, rows, self.at(own["packed_k"], j * v["width"]), count, v["width"], own["p"])
                with b.loop(self.zero, rows) as r:
                    limit = self.when_causal(b.smin(count, i + r - j + 1), count)
                    self.exponentials(self.at(own["p"], r * KEYS), r, count, limit, i + r, j, padded)
                with b.when(wanted), b.loop(self.zero, rows, self.mr) as r:
                    terms = self.when_causal(b.smin(count, i + r + self.mr - j), count)
                    with b.when(terms > 0):
                        self.across(v["values"], lambda c, n, r=r, terms=terms: self.tile(
                            self.at(own["p"], r * KEYS), KEYS, 1, self.at(self.row("v", j), c), v["v_step"],
                            self.at(own["sums"], r * padded + c), padded, terms, b.smin(rows - r, self.mr), n, 1,
                        ))  # fmt: skip
            with b.loop(self.zero, rows) as r:
                self.finish(i + r, r, padded)

    def exponentials(
        self, row: Value, r: Value, count: Value, limit: Value, query: Value, key: Value, padded: Value
    ) -> None:
        """A row of scores becomes exponentials less the largest score so far, which scales what was added up before."""
        b, own = self.b, self.own
        count = self.up(count, self.lanes) * self.lanes
        self.hide(row, count, limit, query, key)
        largest = b.variable(self.number(-math.inf, self.lanes))
        with b.loop(self.zero, count, self.lanes) as j:
            x = self.vector(self.at(row, j))
            largest.set(b.select(x > largest.get(), x, largest.get()))
        top, total = self.at(own["top"], r), self.at(own["total"], r)
        before, here = b.load(self.scalar, top), b.reduce("fmax", largest.get())
        now = b.select(here > before, here, before)
        less = b.splat(self.finite(now), self.lanes)
        sums = b.variable(self.number(0.0, self.lanes))
        with b.loop(self.zero, count, self.lanes) as j:
            e = exp(b, self.vector(self.at(row, j)) - less)
            b.store(e, self.at(row, j))
            sums.set(sums.get() + e)
        shrink = exp(b, before - self.finite(now))
        b.store(now, top)
        b.store(b.fma(b.load(self.scalar, total), shrink, b.reduce("fadd", sums.get())), total)
        with b.when(shrink.ne(1.0)):
            start, factor = self.at(own["sums"], r * padded), b.splat(shrink, self.lanes)
            with b.loop(self.zero, padded, self.lanes) as c:
                at = self.at(start, c)
                b.store(self.vector(at) * factor, at)

    def finite(self, x: Value) -> Value:
        """x, or 0 for -inf: what a row in which nothing is to be seen is compared with."""
        return self.b.select(x.eq(-math.inf), 0.0, x)

    def finish(self, query: Value, r: Value, padded: Value) -> None:
        b, v, own = self.b, self.v, self.own
        total = b.load(self.scalar, self.at(own["total"], r))
        with b.when(self.there("logsumexp")):
            b.store(b.load(self.scalar, self.at(own["top"], r)) + log(b, total), self.row("logsumexp", query))
        with b.when(self.there("out")):
            inverse = b.splat(b.select(total.eq(0.0), 0.0, 1.0 / total), self.lanes)
            start, to = self.at(own["sums"], r * padded), self.row("out", query)
            self.vectors(
                v["values"], lambda c, mask: b.store(self.vector(self.at(start, c)) * inverse, self.at(to, c), mask)
            )

    def vectors(self, count: Value, body: Callable[[Value, Value | None], None]) -> None:
        """`body` gets each vector's place in a row, and which of its lanes count: None for all."""
        b = self.b
        whole = count & -self.lanes
        with b.loop(self.zero, whole, self.lanes) as c:
            body(c, None)
        with b.when(whole < count):
            body(whole, b.lanes_iota(self.lanes) < b.splat(count - whole, self.lanes))

    # The way back

    def gradient(self, first: Value, last: Value, key: Value, end: Value) -> None:
        b, v, own = self.b, self.v, self.own
        end_seen = self.when_causal(b.smin(end, last), end)
        self.pack("k", key, end_seen, v["width"], self.scale)
        self.pack("v", key, end_seen, v["values"], self.number(1.0))
        for name, low, high, columns in (
            ("dq", first, last, "width"),
            ("dk", key, end, "width"),
            ("dv", key, end, "values"),
        ):
            with b.when(self.there(name)), b.loop(low, high) as i:
                to = self.row(name, i)
                self.vectors(
                    v[columns], lambda c, mask, to=to: b.store(self.number(0.0, self.lanes), self.at(to, c), mask)
                )
        with b.loop(self.when_causal(self.smax(first, key), first), last, self.block) as i:
            rows = b.smin(last - i, self.block)
            seen = self.when_causal(b.smin(end_seen, i + rows), end_seen)
            with b.loop(self.zero, rows) as r:
                self.mean(i + r, r)
            with b.loop(key, seen, KEYS) as j:
                count = b.smin(seen - j, KEYS)
                for name, panels, depth, to in (("q", "packed_k", "width", "p"), ("g", "packed_v", "values", "back")):
                    self.scores(name, i, rows, self.at(own[panels], (j - key) * v[depth]), count, v[depth], own[to])
                with b.loop(self.zero, rows) as r:
                    self.of_scores(i + r, r, count, j)
                self.products(i, rows, j, count)

    def mean(self, query: Value, r: Value) -> None:
        """The mean of what flows back into a row of weights, by the weights: the same as out times g."""
        b = self.b
        out, g = self.row("out", query), self.row("g", query)
        total = b.variable(self.number(0.0, self.lanes))

        def add(c: Value, mask: Value | None) -> None:
            x, y = (b.load(self.scalar, self.at(row, c), self.lanes, mask) for row in (out, g))
            total.set(b.fma(x, y, total.get()))

        self.vectors(self.v["values"], add)
        b.store(b.reduce("fadd", total.get()), self.at(self.own["mean"], r))

    def of_scores(self, query: Value, r: Value, count: Value, key: Value) -> None:
        """A row of scores becomes weights, and of what flows back into weights what flows back into scores."""
        b, lanes = self.b, self.lanes
        row, back = (self.at(self.own[name], r * KEYS) for name in ("p", "back"))
        less = b.splat(self.finite(b.load(self.scalar, self.row("logsumexp", query))), lanes)
        mean = b.splat(b.load(self.scalar, self.at(self.own["mean"], r)), lanes)
        scale = b.splat(self.scale, lanes)
        self.hide(row, count, self.when_causal(b.smin(count, query - key + 1), count), query, key)
        with b.loop(self.zero, count, self.lanes) as j:
            at, of = self.at(row, j), self.at(back, j)
            weight = exp(b, self.vector(at) - less)
            b.store(weight, at)
            b.store(weight * (self.vector(of) - mean) * scale, of)

    def products(self, i: Value, rows: Value, j: Value, count: Value) -> None:
        b, v, own, mr = self.b, self.v, self.own, self.mr
        with b.when(self.there("dq")), b.loop(self.zero, rows, mr) as r:
            terms = self.when_causal(b.smin(count, i + r + mr - j), count)
            with b.when(terms > 0):
                self.across(v["width"], lambda c, n: self.tile(
                    self.at(own["back"], r * KEYS), KEYS, 1, self.at(self.row("k", j), c), v["k_step"],
                    self.at(self.row("dq", i + r), c), v["dq_step"], terms, b.smin(rows - r, mr), n, 1,
                ))  # fmt: skip
        with b.loop(self.zero, count, mr) as c:
            # the queries before the first of these keys do not see them
            low = self.when_causal(b.smin(self.smax(j + c - i, self.zero), rows), self.zero)
            few = b.smin(count - c, mr)
            for name, of, weight, columns in (("dv", "g", "p", "values"), ("dk", "q", "back", "width")):
                with b.when(self.there(name) & (low < rows)):
                    turned = self.at(own[weight], low * KEYS + c)
                    right, to = self.row(of, i + low), self.row(name, j + c)
                    steps = v[f"{of}_step"], v[f"{name}_step"]
                    self.across(v[columns], lambda x, n, a=turned, r=right, to=to, s=steps: self.tile(
                        a, 1, KEYS, self.at(r, x), s[0], self.at(to, x), s[1], rows - low, few, n, 1
                    ))  # fmt: skip


def _write_pack(name: str, scalar: str, lanes: int, nv: int, declared: set[str]) -> str:
    """Rows, times a factor, as columns: panels of a tile's width, with zeros beyond the last row."""
    arguments = "ptr %target, ptr %source, i64 %step, i64 %depth, i64 %rows"
    b = Builder(f"define internal void @{name}({arguments}, {scalar} %factor) noinline", declared)
    target, source = b.value("ptr", 1, "%target"), b.value("ptr", 1, "%source")
    step, depth, rows = (b.value("i64", 1, x) for x in ("%step", "%depth", "%rows"))
    factor, zero, width = b.splat(b.value(scalar, 1, "%factor"), lanes), b.const("i64", 0), lanes * nv
    whole = depth & -lanes
    with b.loop(zero, rows, width) as panel, b.loop(zero, b.const("i64", width), lanes) as j:
        into = b.place(scalar, target, panel * depth + j)
        with b.loop(zero, whole, lanes) as p:
            square = []
            for i in range(lanes):
                row = panel + j + i
                inside = row < rows  # others repeat row 0 and become zero
                at = b.place(scalar, source, b.select(inside, row, zero) * step + p)
                square.append(b.select(inside, b.load(scalar, at, lanes) * factor, 0.0))
            for i, x in enumerate(transposed(b, square)):
                b.store(x, b.place(scalar, into, (p + i) * width))
        with b.loop(whole, depth) as p:
            row = b.lanes_iota(lanes) + (panel + j)
            at = b.place(scalar, source, row * step + p)
            b.store(b.load(scalar, at, lanes, row < b.splat(rows, lanes)) * factor, b.place(scalar, into, p * width))
    b.do("ret void")
    return b.text()

"""The kernels of Winograd's convolution as LLVM functions; what they compute stands in `winograd.py`."""

from __future__ import annotations

from collections.abc import Callable

from katachi.kernels.llvm_text import SCALARS, Builder, Value
from katachi.kernels.matmul import transposed
from katachi.kernels.target import Target
from katachi.kernels.winograd import NAMES, OUT, POINTS, TAPS, TILE, Winograd
from katachi.kernels.write_llvm import SIGNATURE
from katachi.kernels.write_ranges import (
    WIDE,
    largest,
    level_of_pair,
    level_of_taps,
    level_of_tile,
    magnitudes,
    rows_of,
)
from katachi.kernels.write_tiles import A, G, Tiles, write_strip


def write_winograd(key: Winograd, name: str, target: Target, declared: set[str]) -> str:
    """The text of one kernel with its parts."""
    w = _Winograd(Builder(f"define void @{name}{SIGNATURE}", declared), name, SCALARS[key.dtype], target, NAMES)
    parts: dict[str, Callable[[], None]] = {
        "filters": w.filters, "filter levels": w.filter_levels, "image tiles": w.image_tiles,
        "gradient tiles": w.gradient_tiles, "gradient sum": w.gradient_sum,
    }  # fmt: skip
    parts[key.part]()
    text = w.text(declared)
    return text + write_strip(f"{name}.strip", w.scalar, w.lanes, declared) if w.strips else text


class _Winograd(Tiles):
    def filters(self) -> None:
        """The kernels of one channel, transformed, in panels of output channels."""
        b, v, lanes = self.b, self.v, self.lanes
        channel = b.value("i64", 1, "%task")
        source = self.at(self.operand("w"), v["w_offset"] + channel * v["w_term"])
        target = self.at(b.scratch(), channel * self.width)
        taps = self.block(TAPS)
        with b.loop(self.zero, v["row"], lanes) as o:
            lane = b.lanes_iota(lanes) + o
            mask = lane < b.splat(v["channels_out"], lanes)
            for i in range(TAPS):
                place = v["w_step"] * (i // 3) + v["w_across"] * (i % 3)
                tap = b.load(self.scalar, self.at(source, lane * v["w_out"] + place), lanes, mask)
                b.store(tap, self.at(taps, i * lanes))
            panel = o / b.const("i64", self.width)
            to = self.at(target, panel * v["channels"] * self.width + (o - panel * self.width))
            self.transform(G, taps, self.steps(3 * lanes, lanes), to, self.steps(v["matrix"] * TILE, v["matrix"]))
            for i in range(TAPS):
                tap = self.vector(self.at(taps, i * lanes))
                b.store(tap, self.at(to, v["matrix"] * (POINTS + i)))

    def level(self, panel: Value) -> Value:
        return self.b.place("i32", self.at(self.b.scratch(), self.v["matrix"] * (POINTS + TAPS)), panel)

    def filter_levels(self) -> None:
        """The level of a panel: the worst one of its output channels."""
        b, v, lanes = self.b, self.v, self.lanes
        panel = b.value("i64", 1, "%task")
        source = self.at(b.scratch(), v["matrix"] * POINTS + panel * v["channels"] * self.width)
        worst = []
        for j in range(self.nv):
            tops = [b.variable(b.const("i32", 0, lanes)) for _ in range(TAPS)]
            total = b.variable(b.const(self.scalar, 0.0, lanes))
            with b.loop(self.zero, v["channels"]) as c:
                row = self.at(source, c * self.width + j * lanes)
                for i, top in enumerate(tops):
                    tap = magnitudes(b, self.vector(self.at(row, v["matrix"] * i)))
                    top.set(largest(b, [top.get(), tap]))
                    total.set(total.get() + tap.to("bitcast", self.scalar))
            levels = level_of_taps(b, [top.get() for top in tops], total.get(), v["channels"])
            worst.append(b.reduce("umax", levels))
        b.store(largest(b, worst), self.level(panel))

    def image_tiles(self) -> None:
        """Some rows of tiles, of any images, with all output channels."""
        b, v = self.b, self.v
        copy = self.own()
        points, products = self.at(copy, v["points_at"]), self.at(copy, v["second_at"])
        first = b.value("i64", 1, "%task") * v["rows"]
        rows = b.smin(v["rows"], v["images"] * v["down"] - first)
        worst = b.variable(b.const("i32", 0))
        with b.loop(self.zero, rows) as r:
            self.inputs(copy, points, first + r, r)
            levels = b.place("i32", copy, v["levels_at"] + r * v["across"])
            _, y = self.tile_row(first + r)
            down = self.inside(y - v["low"], v["height"])
            with b.loop(self.zero, v["across"]) as t:
                noted = rows_of(b, b.place("i32", copy, v["noted_at"] + t * OUT), v["span"], TILE)
                inside = down * self.inside(t * OUT - v["left"], v["width"])
                level = level_of_tile(b, noted, inside, v["high"] - y, v["wide"] - t * OUT)
                b.store(level, b.place("i32", levels, t))
                worst.set(largest(b, [worst.get(), level]))
        filters = b.scratch()
        with b.loop(self.zero, b.const("i64", POINTS)) as e, b.loop(self.zero, v["panels"]) as panel:
            self.multiply(
                self.at(points, e * v["most"] * v["deep"]), self.table("rows_table", 0), rows * v["across"],
                self.table("terms_table", 0), v["channels"],
                self.at(filters, (e * v["panels"] + panel) * v["channels"] * self.width),
                self.at(products, e * v["most"] * v["row"] + panel * self.width),
                v["channels_out"] - panel * self.width, self.zero,
            )  # fmt: skip
        with b.loop(self.zero, rows) as r:
            self.outputs(self.at(copy, v["last_at"]), products, first + r, r)
        of_panels = b.variable(b.const("i32", 0))
        with b.loop(self.zero, v["panels"]) as panel:
            of_panels.set(largest(b, [of_panels.get(), b.load("i32", self.level(panel))]))
        with b.when(worst.get() + of_panels.get() >= WIDE), b.loop(self.zero, rows) as r:
            self.copied(copy, first + r)
            with b.loop(self.zero, v["across"]) as t, b.loop(self.zero, v["panels"]) as panel:
                level = b.load("i32", b.place("i32", copy, v["levels_at"] + r * v["across"] + t))
                with b.when(level + b.load("i32", self.level(panel)) >= WIDE):
                    self.direct_outputs(copy, first + r, t, panel)

    def direct_outputs(self, copy: Value, number: Value, t: Value, panel: Value) -> None:
        """Some output channels of a tile, summed tap by tap from the copy of its row."""
        b, v, lanes = self.b, self.v, self.lanes
        corner, sums = self.at(copy, t * OUT * v["deep"]), self.at(copy, v["again_at"])
        weights = self.at(b.scratch(), v["matrix"] * POINTS + panel * v["channels"] * self.width)
        left = v["channels_out"] - panel * self.width
        with b.loop(self.zero, b.const("i64", TAPS)) as tap:
            self.multiply(
                self.at(corner, self.pixel(tap, 3) * v["deep"]), self.table("pixels_table", 0),
                b.const("i64", OUT * OUT), self.table("terms_table", 0), v["channels"],
                self.at(weights, v["matrix"] * tap), sums, left, tap,
            )  # fmt: skip
        image, y = self.tile_row(number)
        plane = v["high"] * v["wide"]
        to = self.at(self.operand("y"), (image * v["channels_out"] + panel * self.width) * plane)
        corner = self.at(to, y * v["wide"] + t * OUT)
        high, wide = b.smin(v["high"] - y, OUT), b.smin(v["wide"] - t * OUT, OUT)
        width = b.smin(left, self.width)
        with b.loop(self.zero, high) as i, b.loop(self.zero, wide) as j, b.loop(self.zero, width, lanes) as o:
            x = self.vector(self.at(sums, (i * OUT + j) * v["row"] + o))
            lane = b.lanes_iota(lanes) + o
            b.store(x, self.at(self.at(corner, i * v["wide"] + j), lane * plane), lane < b.splat(left, lanes))

    def outputs(self, block: Value, products: Value, number: Value, index: Value) -> None:
        """Transforms a row of tiles back and writes y[image][channel][row][pixel]."""
        b, v, lanes = self.b, self.v, self.lanes
        image, y = self.tile_row(number)
        line = v["across"] * (OUT * lanes)
        with b.loop(self.zero, v["channels_out"], lanes) as o:
            with b.loop(self.zero, v["across"]) as t:
                at = self.at(products, (index * v["across"] + t) * v["row"] + o)
                each = v["most"] * v["row"]
                to = self.at(block, t * (OUT * lanes))
                self.transform(A.T, at, self.steps(each * TILE, each), to, self.steps(line, lanes))
            left = v["channels_out"] - o
            to = self.at(self.operand("y"), ((image * v["channels_out"] + o) * v["high"] + y) * v["wide"])
            with b.loop(self.zero, b.smin(v["high"] - y, OUT)) as r, b.loop(self.zero, v["wide"], lanes) as i:
                rows = [self.vector(self.at(block, r * line + (i + k) * lanes)) for k in range(lanes)]
                columns = transposed(b, rows)
                corner = self.at(to, r * v["wide"] + i)
                mask = b.lanes_iota(lanes) < b.splat(v["wide"] - i, lanes)
                plane = v["high"] * v["wide"]

                for k, x in enumerate(columns):
                    b.store(x, self.at(corner, plane * k), mask & (left > k))

    def gradient_tiles(self) -> None:
        """The sums of some rows of tiles: at each point, channels by output channels."""
        b, v = self.b, self.v
        task = b.value("i64", 1, "%task")
        sums = self.at(b.scratch(), task * v["acc"])
        self.clear(sums, v["matrix"] * POINTS)
        taps = self.at(sums, v["matrix"] * POINTS)
        used = b.place("i32", taps, v["matrix"] * TAPS)
        b.store(b.const("i32", 0), used)
        copy = self.own()
        points, panels = self.at(copy, v["points_at"]), self.at(copy, v["second_at"])
        begin = task * v["per_part"]
        end = b.smin(begin + v["per_part"], v["images"] * v["down"])
        with b.loop(begin, end, v["rows"]) as first:
            rows = b.smin(v["rows"], end - first)
            with b.loop(self.zero, rows) as r:
                self.inputs(copy, points, first + r, r)
                self.spread(copy, panels, first + r, r)
                self.direct_gradient(copy, points, panels, first + r, r, taps, used)
            with b.loop(self.zero, b.const("i64", POINTS)) as e, b.loop(self.zero, v["panels"]) as panel:
                self.multiply(
                    self.at(points, e * v["most"] * v["deep"]), self.table("rows_table", 0), v["channels"],
                    self.table("terms_table", 0), rows * v["across"],
                    self.at(panels, (e * v["panels"] + panel) * v["most"] * self.width),
                    self.at(sums, e * v["matrix"] + panel * self.width),
                    v["channels_out"] - panel * self.width, b.const("i64", 1),
                )  # fmt: skip

    def gradient_copied(self, into: Value, noted: Value, number: Value) -> None:
        """A row of tiles of the output's gradient: into[row][pixel][output channel]."""
        v = self.v
        image, y = self.tile_row(number)
        source = self.at(self.operand("w"), v["w_offset"] + image * v["w_term"])
        self.strip(
            into, noted, source, (v["w_out"], v["w_step"]), v["channels_out"], v["row"], (v["high"], v["wide"]),
            (y, self.zero), OUT, v["across"] * OUT,
        )  # fmt: skip

    def direct_gradient(
        self, copy: Value, points: Value, panels: Value, number: Value, index: Value, taps: Value, used: Value
    ) -> None:
        """Takes the wide ones of a row of tiles out of the products, and adds them to taps[tap][channel][output]."""
        b, v = self.b, self.v
        levels = b.place("i32", copy, v["levels_at"])
        noted = b.place("i32", copy, v["noted_at"])
        worst = b.variable(b.const("i32", 0))
        _, y = self.tile_row(number)
        down, high = self.inside(y - v["low"], v["height"]), b.smin(v["high"] - y, OUT)
        with b.loop(self.zero, v["across"]) as t:
            inside = down * self.inside(t * OUT - v["left"], v["width"])
            wanted = high * b.smin(v["wide"] - t * OUT, OUT)
            rows = rows_of(b, b.place("i32", noted, t * OUT), v["span"], TILE)
            gradient = rows_of(b, b.place("i32", noted, v["span"] * TILE + t * OUT), v["span"], OUT)
            level = level_of_pair(b, rows, inside, gradient, wanted)
            b.store(level, b.place("i32", levels, t))
            worst.set(largest(b, [worst.get(), level]))
        with b.when(worst.get() >= WIDE):
            with b.when(b.load("i32", used).eq(0)):
                self.clear(taps, v["matrix"] * TAPS)
                b.store(b.const("i32", 1), used)
            again = self.at(copy, v["again_at"])
            self.copied(copy, number)
            self.gradient_copied(again, self.at(noted, v["span"] * TILE), number)
            with b.loop(self.zero, v["across"]) as t, b.when(b.load("i32", b.place("i32", levels, t)) >= WIDE):
                place = index * v["across"] + t
                with b.loop(self.zero, b.const("i64", POINTS)) as e:
                    self.clear(self.at(points, (e * v["most"] + place) * v["deep"]), v["deep"])
                    with b.loop(self.zero, v["panels"]) as panel:
                        at = ((e * v["panels"] + panel) * v["most"] + place) * self.width
                        self.clear(self.at(panels, at), b.const("i64", self.width))
                wide = b.smin(v["wide"] - t * OUT, OUT)
                with b.loop(self.zero, high) as i, b.loop(self.zero, v["panels"]) as panel:
                    row = self.at(again, ((i * v["across"] + t) * OUT) * v["row"] + panel * self.width)
                    self.direct_taps(self.at(copy, (i * v["pitch"] + t * OUT) * v["deep"]), row, wide, panel, taps)

    def direct_taps(self, x: Value, gradient: Value, count: Value, panel: Value, taps: Value) -> None:
        """Adds what `count` pixels of a row give to each tap of some output channels."""
        b, v, lanes = self.b, self.v, self.lanes
        weights = self.block(OUT * self.nv)
        with b.loop(self.zero, count) as j, b.loop(self.zero, b.const("i64", self.width), lanes) as o:
            b.store(self.vector(self.at(gradient, j * v["row"] + o)), self.at(weights, j * self.width + o))
        with b.loop(self.zero, b.const("i64", TAPS)) as tap:
            self.multiply(
                self.at(x, self.pixel(tap, 3) * v["deep"]), self.table("rows_table", 0), v["channels"],
                self.table("pixels_table", 0), count, weights,
                self.at(taps, v["matrix"] * tap + panel * self.width), v["channels_out"] - panel * self.width,
                b.const("i64", 1),
            )  # fmt: skip

    def spread(self, copy: Value, panels: Value, number: Value, index: Value) -> None:
        """A row of tiles of the output's gradient at all points, in panels of output channels."""
        b, v, lanes = self.b, self.v, self.lanes
        pitch = v["across"] * OUT
        self.gradient_copied(copy, b.place("i32", copy, v["noted_at"] + v["span"] * TILE), number)
        with b.loop(self.zero, v["across"]) as t, b.loop(self.zero, v["row"], lanes) as o:
            corner = self.at(copy, t * OUT * v["row"] + o)
            panel = o / b.const("i64", self.width)
            place = (panel * v["most"] + index * v["across"] + t) * self.width + (o - panel * self.width)
            each = v["panels"] * v["most"] * self.width
            self.transform(
                A, corner, self.steps(pitch * v["row"], v["row"]), self.at(panels, place),
                self.steps(each * TILE, each),
            )  # fmt: skip

    def gradient_sum(self) -> None:
        """The parts of one channel, added in order and transformed: y[channel][output channel][tap]."""
        b, v, lanes = self.b, self.v, self.lanes
        channel = b.value("i64", 1, "%task")
        sums = self.at(b.scratch(), channel * v["row"])
        y = self.at(self.operand("y"), channel * v["channels_out"] * TAPS)
        totals, taps = self.block(POINTS), self.block(TAPS)
        with b.loop(self.zero, v["channels_out"], lanes) as o:
            with b.loop(self.zero, b.const("i64", POINTS)) as e:
                total = b.variable(b.const(self.scalar, 0.0, lanes))
                with b.loop(self.zero, v["parts"]) as part:
                    total.set(total.get() + self.vector(self.at(sums, part * v["acc"] + v["matrix"] * e + o)))
                b.store(total.get(), self.at(totals, e * lanes))
            self.transform(
                G.T, totals, self.steps(TILE * lanes, lanes), taps, self.steps(3 * lanes, lanes)
            )  # fmt: skip
            with b.loop(self.zero, v["parts"]) as part:
                direct = self.at(b.scratch(), part * v["acc"] + v["matrix"] * POINTS)
                with (
                    b.when(b.load("i32", b.place("i32", direct, v["matrix"] * TAPS)).ne(0)),
                    b.loop(self.zero, b.const("i64", TAPS)) as t,
                ):
                    tap = self.at(taps, t * lanes)
                    more = self.vector(self.at(direct, v["matrix"] * t + channel * v["row"] + o))
                    b.store(self.vector(tap) + more, tap)
            lane = b.lanes_iota(lanes) + o
            with b.loop(self.zero, b.const("i64", TAPS)) as t:
                tap = self.vector(self.at(taps, t * lanes))
                b.store(tap, self.at(y, lane * TAPS + t), lane < b.splat(v["channels_out"], lanes))

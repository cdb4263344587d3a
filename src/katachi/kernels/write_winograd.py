"""The kernels of Winograd's convolution as LLVM functions; what they compute stands in `winograd.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from katachi.kernels.llvm_text import SCALARS, Builder, Value
from katachi.kernels.matmul import transposed
from katachi.kernels.target import Target
from katachi.kernels.winograd import NAMES, OUT, POINTS, TILE, Array, Winograd, matrices
from katachi.kernels.write_convolution import Writer
from katachi.kernels.write_llvm import SIGNATURE

Steps = tuple[Value, Value]
_A, _G, _B = matrices()


def write_winograd(key: Winograd, name: str, target: Target, declared: set[str]) -> str:
    """The text of one kernel with its parts."""
    w = _Winograd(Builder(f"define void @{name}{SIGNATURE}", declared), name, SCALARS[key.dtype], target, NAMES)
    parts: dict[str, Callable[[], None]] = {
        "filters": w.filters, "image tiles": w.image_tiles, "gradient tiles": w.gradient_tiles,
        "gradient sum": w.gradient_sum,
    }  # fmt: skip
    parts[key.part]()
    text = w.text(declared)
    return text + _write_strip(f"{name}.strip", w.scalar, w.lanes, declared) if w.strips else text


def _write_strip(name: str, scalar: str, lanes: int, declared: set[str]) -> str:
    names = ("step", "line", "channels", "deep", "height", "width", "y", "x", "rows", "pitch")
    head = f"define internal void @{name}(ptr %into, ptr %source, {', '.join('i64 %' + n for n in names)}) noinline"
    b = Builder(head, declared)
    v = {n: b.value("i64", 1, "%" + n) for n in names}
    into, source, zero = b.value("ptr", 1, "%into"), b.value("ptr", 1, "%source"), b.const("i64", 0)
    with b.loop(zero, v["rows"]) as r:
        y = v["y"] + r
        target = b.place(scalar, into, r * v["pitch"] * v["deep"])
        line = b.place(scalar, source, y * v["line"])
        high = b.select(y.compare("ult", "", v["height"]), v["width"], zero)  # a row outside has no pixels
        with b.loop(zero, v["deep"], lanes) as c, b.loop(zero, v["pitch"], lanes) as i:
            x = v["x"] + i
            mask = (b.lanes_iota(lanes) + x).compare("ult", "", high)
            lines = [b.place(scalar, line, b.smin(c + k, v["channels"] - 1) * v["step"] + x) for k in range(lanes)]
            to = b.place(scalar, target, i * v["deep"] + c)
            # what goes beyond a row's end the next row overwrites
            for k, value in enumerate(transposed(b, [b.load(scalar, at, lanes, mask) for at in lines])):
                b.store(value, b.place(scalar, to, v["deep"] * k))
    b.do("ret void")
    return b.text()


class _Winograd(Writer):
    strips = False

    def combine(self, row: Sequence[float], xs: Sequence[Value]) -> Value:
        total: Value | None = None
        for c, x in zip(row, xs, strict=True):
            if abs(c) < 1e-12:
                continue
            factor = self.b.const(self.scalar, float(c), self.lanes)
            if total is None:
                total = x if c == 1 else x * factor
            else:
                total = total + x if c == 1 else total - x if c == -1 else self.b.fma(factor, x, total)
        assert total is not None
        return total

    def block(self, vectors: int) -> Value:
        """A place on the stack."""
        name = self.b.name()
        self.b.entry.append(f"  {name} = alloca [{vectors * self.lanes} x {self.scalar}], align 64")
        return self.b.value("ptr", 1, name)

    def transform(self, matrix: Array, source: Value, across: Steps, target: Value, along: Steps) -> None:
        """matrix @ source @ matrix transposed, of a square of vectors; steps between rows and between columns. In
        loops, because unrolled it takes long to compile and does not fit into registers either."""
        b, (rows, columns) = self.b, matrix.shape
        half = self.block(rows * columns)
        with b.loop(self.zero, b.const("i64", columns)) as j:
            column = self.at(source, j * across[1])
            values = [self.vector(self.at(column, b.const("i64", i) * across[0])) for i in range(columns)]
            for i, row in enumerate(matrix):
                b.store(self.combine(row, values), self.at(half, (j + i * columns) * self.lanes))
        with b.loop(self.zero, b.const("i64", rows)) as i:
            line = self.at(half, i * (columns * self.lanes))
            values = [self.vector(self.at(line, j * self.lanes)) for j in range(columns)]
            into = self.at(target, i * along[0])
            for j, row in enumerate(matrix):
                b.store(self.combine(row, values), self.at(into, b.const("i64", j) * along[1]))

    def steps(self, row: Value | int, column: Value | int) -> Steps:
        wide = [x if isinstance(x, Value) else self.b.const("i64", x) for x in (row, column)]
        return wide[0], wide[1]

    def vector(self, at: Value) -> Value:
        return self.b.load(self.scalar, at, self.lanes)

    def strip(
        self, into: Value, source: Value, steps: tuple[Value, Value], channels: Value, deep: Value,
        size: tuple[Value, Value], first: tuple[Value, Value], rows: int, pitch: Value,
    ) -> None:  # fmt: skip
        """into[row][pixel][channel] from source[channel][row][pixel], with zeros around the image."""
        self.strips = True
        args = (into, source, *steps, channels, deep, *size, *first, self.b.const("i64", rows), pitch)
        self.b.do(f"call void @{self.name}.strip({', '.join(x.typed for x in args)})")

    def filters(self) -> None:
        """The kernels of one channel, transformed, in panels of output channels."""
        b, v, lanes = self.b, self.v, self.lanes
        channel = b.value("i64", 1, "%task")
        source = self.at(self.operand("w"), v["w_offset"] + channel * v["w_term"])
        target = self.at(b.scratch(), channel * self.width)
        taps = self.block(9)
        with b.loop(self.zero, v["channels_out"], lanes) as o:
            lane = b.lanes_iota(lanes) + o
            mask = lane < b.splat(v["channels_out"], lanes)
            for i in range(9):
                place = v["w_step"] * (i // 3) + v["w_across"] * (i % 3)
                tap = b.load(self.scalar, self.at(source, lane * v["w_out"] + place), lanes, mask)
                b.store(tap, self.at(taps, i * lanes))
            panel = o / b.const("i64", self.width)
            each = v["panels"] * v["channels"] * self.width
            to = self.at(target, panel * v["channels"] * self.width + (o - panel * self.width))
            self.transform(_G, taps, self.steps(3 * lanes, lanes), to, self.steps(each * TILE, each))

    def tile_row(self, number: Value) -> tuple[Value, Value]:
        """The image of a row of tiles and its first row of outputs."""
        image, row = self.split(number, self.v["down"])
        return image, row * OUT

    def inputs(self, copy: Value, points: Value, number: Value, index: Value) -> None:
        """Transforms a row of tiles of x: points[e][tile][channel]."""
        b, v, lanes = self.b, self.v, self.lanes
        image, y = self.tile_row(number)
        source = self.at(self.operand("x"), v["x_offset"] + image * v["x_image"])
        self.strip(
            copy, source, (v["x_channel"], v["x_step"]), v["channels"], v["deep"], (v["height"], v["width"]),
            (y - v["low"], 0 - v["left"]), TILE, v["pitch"],
        )  # fmt: skip
        with b.loop(self.zero, v["across"]) as t, b.loop(self.zero, v["deep"], lanes) as c:
            corner = self.at(copy, t * OUT * v["deep"] + c)
            to = self.at(points, (index * v["across"] + t) * v["deep"] + c)
            each = v["most"] * v["deep"]
            self.transform(
                _B.T, corner, self.steps(v["pitch"] * v["deep"], v["deep"]), to, self.steps(each * TILE, each)
            )  # fmt: skip

    def image_tiles(self) -> None:
        """Some rows of tiles, of any images, with all output channels."""
        b, v = self.b, self.v
        copy = self.own()
        points, products = self.at(copy, v["points_at"]), self.at(copy, v["second_at"])
        first = b.value("i64", 1, "%task") * v["rows"]
        rows = b.smin(v["rows"], v["images"] * v["down"] - first)
        with b.loop(self.zero, rows) as r:
            self.inputs(copy, points, first + r, r)
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
                self.transform(_A.T, at, self.steps(each * TILE, each), to, self.steps(line, lanes))
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
        b, v, lanes = self.b, self.v, self.lanes
        task = b.value("i64", 1, "%task")
        sums = self.at(b.scratch(), task * v["acc"])
        with b.loop(self.zero, v["acc"], lanes) as i:
            b.store(b.const(self.scalar, 0.0, lanes), self.at(sums, i))
        copy = self.own()
        points, panels = self.at(copy, v["points_at"]), self.at(copy, v["second_at"])
        begin = task * v["per_part"]
        end = b.smin(begin + v["per_part"], v["images"] * v["down"])
        with b.loop(begin, end, v["rows"]) as first:
            rows = b.smin(v["rows"], end - first)
            with b.loop(self.zero, rows) as r:
                self.inputs(copy, points, first + r, r)
                self.spread(copy, panels, first + r, r)
            with b.loop(self.zero, b.const("i64", POINTS)) as e, b.loop(self.zero, v["panels"]) as panel:
                self.multiply(
                    self.at(points, e * v["most"] * v["deep"]), self.table("rows_table", 0), v["channels"],
                    self.table("terms_table", 0), rows * v["across"],
                    self.at(panels, (e * v["panels"] + panel) * v["most"] * self.width),
                    self.at(sums, e * (v["acc"] / b.const("i64", POINTS)) + panel * self.width),
                    v["channels_out"] - panel * self.width, b.const("i64", 1),
                )  # fmt: skip

    def spread(self, copy: Value, panels: Value, number: Value, index: Value) -> None:
        """A row of tiles of the output's gradient at all points, in panels of output channels."""
        b, v, lanes = self.b, self.v, self.lanes
        image, y = self.tile_row(number)
        source = self.at(self.operand("w"), v["w_offset"] + image * v["w_term"])
        pitch = v["across"] * OUT
        self.strip(
            copy, source, (v["w_out"], v["w_step"]), v["channels_out"], v["row"], (v["high"], v["wide"]),
            (y, self.zero), OUT, pitch,
        )  # fmt: skip
        with b.loop(self.zero, v["across"]) as t, b.loop(self.zero, v["row"], lanes) as o:
            corner = self.at(copy, t * OUT * v["row"] + o)
            panel = o / b.const("i64", self.width)
            place = (panel * v["most"] + index * v["across"] + t) * self.width + (o - panel * self.width)
            each = v["panels"] * v["most"] * self.width
            self.transform(
                _A, corner, self.steps(pitch * v["row"], v["row"]), self.at(panels, place),
                self.steps(each * TILE, each),
            )  # fmt: skip

    def gradient_sum(self) -> None:
        """The parts of one channel, added in order and transformed: y[channel][output channel][tap]."""
        b, v, lanes = self.b, self.v, self.lanes
        channel = b.value("i64", 1, "%task")
        sums = self.at(b.scratch(), channel * v["row"])
        each = v["acc"] / b.const("i64", POINTS)
        y = self.at(self.operand("y"), channel * v["channels_out"] * 9)
        totals, taps = self.block(POINTS), self.block(9)
        with b.loop(self.zero, v["channels_out"], lanes) as o:
            with b.loop(self.zero, b.const("i64", POINTS)) as e:
                total = b.variable(b.const(self.scalar, 0.0, lanes))
                with b.loop(self.zero, v["parts"]) as part:
                    total.set(total.get() + self.vector(self.at(sums, part * v["acc"] + each * e + o)))
                b.store(total.get(), self.at(totals, e * lanes))
            self.transform(
                _G.T, totals, self.steps(TILE * lanes, lanes), taps, self.steps(3 * lanes, lanes)
            )  # fmt: skip
            lane = b.lanes_iota(lanes) + o
            with b.loop(self.zero, b.const("i64", 9)) as t:
                tap = self.vector(self.at(taps, t * lanes))
                b.store(tap, self.at(y, lane * 9 + t), lane < b.splat(v["channels_out"], lanes))

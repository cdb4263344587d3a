"""Tiles as LLVM code: rows of them copied from images and transformed, for Winograd's convolution."""

from __future__ import annotations

from collections.abc import Sequence

from katachi.kernels.llvm_text import Builder, Value
from katachi.kernels.matmul import transposed
from katachi.kernels.winograd import OUT, TILE, Array, matrices
from katachi.kernels.write_convolution import Writer
from katachi.kernels.write_ranges import largest, magnitudes

Steps = tuple[Value, Value]
A, G, B = matrices()


def write_strip(name: str, scalar: str, lanes: int, declared: set[str]) -> str:
    names = ("step", "line", "channels", "deep", "height", "width", "y", "x", "rows", "pitch", "span")
    numbers = ", ".join("i64 %" + n for n in names)
    head = f"define internal void @{name}(ptr %into, ptr %noted, ptr %source, {numbers}) noinline"
    b = Builder(head, declared)
    v = {n: b.value("i64", 1, "%" + n) for n in names}
    into, noted, source = (b.value("ptr", 1, x) for x in ("%into", "%noted", "%source"))
    zero, nothing = b.const("i64", 0), b.const("i32", 0, lanes)
    with b.loop(zero, v["rows"]) as r:
        y = v["y"] + r
        target = b.place(scalar, into, r * v["pitch"] * v["deep"])
        line = b.place(scalar, source, y * v["line"])
        note = b.place("i32", noted, r * v["span"])
        high = b.select(y.compare("ult", "", v["height"]), v["width"], zero)  # a row outside has no pixels
        with b.loop(zero, v["pitch"], lanes) as i:
            b.store(nothing, b.place("i32", note, i))
        with b.loop(zero, v["deep"], lanes) as c, b.loop(zero, v["pitch"], lanes) as i:
            x = v["x"] + i
            mask = (b.lanes_iota(lanes) + x).compare("ult", "", high)
            lines = [b.place(scalar, line, b.smin(c + k, v["channels"] - 1) * v["step"] + x) for k in range(lanes)]
            to = b.place(scalar, target, i * v["deep"] + c)
            values = [b.load(scalar, at, lanes, mask) for at in lines]
            most = b.place("i32", note, i)
            b.store(largest(b, [b.load("i32", most, lanes), *(magnitudes(b, x) for x in values)]), most)
            # what goes beyond a row's end the next row overwrites
            for k, value in enumerate(transposed(b, values)):
                b.store(value, b.place(scalar, to, v["deep"] * k))
    b.do("ret void")
    return b.text()


class Tiles(Writer):
    """What the kernels of images and of gradients are written with."""

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
        self, into: Value, noted: Value, source: Value, steps: Steps, channels: Value, deep: Value, size: Steps,
        first: Steps, rows: int, pitch: Value,
    ) -> None:  # fmt: skip
        """into[row][pixel][channel] from source[channel][row][pixel], with zeros around the image; noted[row][pixel]
        is the largest magnitude of the channels."""
        self.strips = True
        rest = (self.b.const("i64", rows), pitch, self.v["span"])
        args = (into, noted, source, *steps, channels, deep, *size, *first, *rest)
        self.b.do(f"call void @{self.name}.strip({', '.join(x.typed for x in args)})")

    def clear(self, at: Value, count: Value) -> None:
        with self.b.loop(self.zero, count, self.lanes) as i:
            self.b.store(self.b.const(self.scalar, 0.0, self.lanes), self.at(at, i))

    def tile_row(self, number: Value) -> tuple[Value, Value]:
        """The image of a row of tiles and its first row of outputs."""
        image, row = self.split(number, self.v["down"])
        return image, row * OUT

    def inside(self, first: Value, size: Value) -> Value:
        """How many pixels of a tile from `first` on lie inside an image, along one axis."""
        b = self.b
        low, high = b.select(first > 0, first, self.zero), b.smin(first + TILE, size)
        return b.select(high > low, high - low, self.zero)

    def copied(self, copy: Value, number: Value) -> None:
        """A row of tiles of x: copy[row][pixel][channel]."""
        v = self.v
        image, y = self.tile_row(number)
        source = self.at(self.operand("x"), v["x_offset"] + image * v["x_image"])
        self.strip(
            copy, self.at(copy, v["noted_at"]), source, (v["x_channel"], v["x_step"]), v["channels"], v["deep"],
            (v["height"], v["width"]), (y - v["low"], 0 - v["left"]), TILE, v["pitch"],
        )  # fmt: skip

    def inputs(self, copy: Value, points: Value, number: Value, index: Value) -> None:
        """Transforms a row of tiles of x: points[e][tile][channel]."""
        b, v, lanes = self.b, self.v, self.lanes
        self.copied(copy, number)
        with b.loop(self.zero, v["across"]) as t, b.loop(self.zero, v["deep"], lanes) as c:
            corner = self.at(copy, t * OUT * v["deep"] + c)
            to = self.at(points, (index * v["across"] + t) * v["deep"] + c)
            each = v["most"] * v["deep"]
            self.transform(
                B.T, corner, self.steps(v["pitch"] * v["deep"], v["deep"]), to, self.steps(each * TILE, each)
            )  # fmt: skip

    def pixel(self, number: Value, side: int) -> Value:
        """Where pixel `number` of a square lies in the copy."""
        row, column = self.split(number, self.b.const("i64", side))
        return row * self.v["pitch"] + column

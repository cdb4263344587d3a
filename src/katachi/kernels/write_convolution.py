"""The kernels of the convolution template as LLVM functions; what they compute stands in `convolution.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from katachi.kernels.convolution import AXES, NAMES, PHASE, Convolve, vectors
from katachi.kernels.llvm_text import SCALARS, Builder, Value
from katachi.kernels.matmul import SPAN, tile, transposed, write_settle
from katachi.kernels.target import Target
from katachi.kernels.write_llvm import SIGNATURE


def write_convolution(key: Convolve, name: str, target: Target, declared: set[str]) -> str:
    """The text of one kernel with its parts."""
    b = Builder(f"define void @{name}{SIGNATURE}", declared)
    w = _Direct(b, name, SCALARS[key.dtype], target, NAMES)
    {"panels": w.panels, "pixels": w.pixels, "weights": w.weights, "sum": w.sum}[key.part]()
    settle = [write_settle(f"{name}.settle", w.scalar, declared)] if key.part == "weights" else []
    return "\n".join([*settle, w.text(declared)])


class Writer:
    """What the kernels of both convolution templates are written with."""

    def __init__(self, b: Builder, name: str, scalar: str, target: Target, names: Sequence[str]) -> None:
        self.b, self.name, self.scalar = b, name, scalar
        self.lanes, self.nv, self.mr = target.lanes(scalar), vectors(target), tile(target)[0]
        self.width = self.lanes * self.nv
        self.tiles: set[int] = set()
        base = b.value("ptr", 1, "%parameters")
        self.v = {key: b.load("i64", b.place("i64", base, i)) for i, key in enumerate(names)}
        self.zero = b.const("i64", 0)

    # Small pieces

    def at(self, base: Value, index: Value | int) -> Value:
        return self.b.place(self.scalar, base, index)

    def operand(self, name: str) -> Value:
        return self.b.load("ptr", self.b.place("i64", self.b.value("ptr", 1, "%table"), self.v[name]))

    def table(self, name: str, index: Value | int) -> Value:
        return self.b.place("i64", self.b.value("ptr", 1, "%parameters"), self.v[name] + index)

    def entry(self, name: str, index: Value | int) -> Value:
        return self.b.load("i64", self.table(name, index))

    def split(self, x: Value, size: Value) -> tuple[Value, Value]:
        quotient = x / size
        return quotient, x - quotient * size

    def own(self) -> Value:
        all_of_them = self.b.place("i8", self.b.scratch(), self.v["own"])
        return self.at(all_of_them, self.b.value("i64", 1, "%thread") * self.v["each"])

    def up(self, x: Value, size: Value | int) -> Value:
        """x / size, rounded up."""
        size = size if isinstance(size, Value) else self.b.const("i64", size)
        return (x + size - 1) / size

    def multiply(
        self, copy: Value, rows: Value, many: Value, terms: Value, count: Value, panel: Value, sums: Value,
        columns: Value, add: Value,
    ) -> None:  # fmt: skip
        """All tiles of rows with one panel."""
        b = self.b
        with b.loop(self.zero, many, self.mr) as r:
            args = ", ".join(
                x.typed for x in (copy, b.place("i64", rows, r * 2), terms, count, panel, sums, add)
            )  # fmt: skip

            def narrow(n: int) -> None:
                self.tiles.add(n)

                def call() -> None:
                    b.do(f"call void @{self.name}.tile{n}({args})")

                if n == 1:
                    call()
                else:
                    b.either(columns > (n - 1) * self.lanes, call, lambda: narrow(n - 1))

            narrow(self.nv)

    def text(self, declared: set[str]) -> str:
        """The function with the tiles it calls."""
        self.b.do("ret void")
        tiles = [
            _write_tile(f"{self.name}.tile{n}", self.scalar, self.lanes, self.mr, n, self.nv, declared)
            for n in sorted(self.tiles)
        ]
        return "\n".join([*tiles, self.b.text()])


class _Direct(Writer):
    # Blocks

    def block(self, number: Value) -> tuple[Value, Value, list[Value], list[Value], Value]:
        """Where block `number` lies: its first image, how many it has, the index of the block along each axis, its long
        positions along each axis, and whether it is a whole one."""
        b, v = self.b, self.v
        places, extents = [], []
        for i in range(AXES - 1, -1, -1):
            number, place = self.split(number, self.up(v[f"long{i}"], v[f"box{i}"]))
            places.insert(0, place)
            extents.insert(0, b.smin(v[f"box{i}"], v[f"long{i}"] - place * v[f"box{i}"]))
        image = number * v["block_images"]
        images = b.smin(v["block_images"], v["images"] - image)
        whole = images
        for e in extents:
            whole = whole * e
        return image, images, places, extents, whole.eq(v["pixels"])

    def fill(self, copy: Value, source: Value, channels: Value, images: Value, places: list[Value]) -> None:
        """Copies what a block reads of some channels, with zeros around the image."""
        b, v, lanes = self.b, self.v, self.lanes
        start = [v[f"first{i}"] + place * v[f"move{i}"] for i, place in enumerate(places)]
        wide = [v[f"wide{i}"] for i in range(AXES)]
        steps = [v[f"x_step{i}"] for i in range(AXES)]
        nothing = b.const(self.scalar, 0.0, lanes)
        low, high = start[2], v["size2"]

        def inside(i: Value, axis: int) -> Value:
            return i.compare("ult", "", v[f"size{axis}"])

        with b.loop(self.zero, channels) as c, b.loop(self.zero, images) as n, b.loop(self.zero, wide[0]) as d:
            plane = self.at(source, c * v["x_channel"] + n * v["x_image"] + (start[0] + d) * steps[0])
            into = self.at(copy, c * v["p_channel"] + n * v["p_image"] + d * (wide[1] * wide[2]))
            with b.loop(self.zero, wide[1]) as h:
                row = self.at(plane, (start[1] + h) * steps[1])
                target = self.at(into, h * wide[2])

                def read(row: Value = row, target: Value = target) -> None:
                    # what a vector writes beyond a row's end the next row overwrites
                    with b.loop(self.zero, wide[2], lanes) as x:
                        i = low + x
                        to = self.at(target, x)

                        def whole() -> None:
                            b.store(b.load(self.scalar, self.at(row, i), lanes), to)

                        def masked() -> None:
                            lane = b.lanes_iota(lanes) + i
                            mask = lane.compare("ult", "", high)
                            b.store(b.load(self.scalar, self.at(row, i), lanes, mask), to)

                        def gathered() -> None:
                            lane = b.lanes_iota(lanes) + i
                            mask = lane.compare("ult", "", high)
                            b.store(b.load(self.scalar, self.at(row, lane * steps[2]), lanes, mask), to)

                        full = i.compare("sge", "", 0) & (i + lanes <= high)
                        b.either(steps[2].eq(1), lambda: b.either(full, whole, masked), gathered)

                def clear(target: Value = target) -> None:
                    with b.loop(self.zero, wide[2], lanes) as x:
                        b.store(nothing, self.at(target, x))

                b.either(inside(start[0] + d, 0) & inside(start[1] + h, 1), read, clear)

    # Kernels

    def panels(self) -> None:
        """Some terms of a panel of weights: for each, the weights of consecutive output channels."""
        b, v, lanes = self.b, self.v, self.lanes
        chunks = self.up(v["terms"], v["chunk"])
        panel, chunk = self.split(b.value("i64", 1, "%task"), chunks)
        target = self.at(b.scratch(), panel * v["terms"] * self.width)
        group, panel = self.split(panel, v["panels"])
        out = panel * self.width
        source = self.at(self.operand("w"), v["w_offset"] + group * v["w_group"] + out * v["w_out"])
        left = v["channels_out"] - out
        first = chunk * v["chunk"]
        last = b.smin(first + v["chunk"], v["terms"])

        def gathered(low: Value) -> None:
            with b.loop(low, last) as k:
                row = self.at(source, self.entry("sources", k))
                for j in range(0, self.width, lanes):
                    lane = b.lanes_iota(lanes) + j
                    mask = lane < b.splat(left, lanes)
                    weights = b.load(self.scalar, self.at(row, lane * v["w_out"]), lanes, mask)
                    b.store(weights, self.at(target, k * self.width + j))

        def by_squares() -> None:
            whole = first + ((last - first) & -lanes)
            with b.loop(first, whole, lanes) as k, b.loop(self.zero, b.const("i64", self.width), lanes) as j:
                row = self.at(source, self.entry("sources", k))
                rows = []
                for i in range(lanes):  # what is beyond the last channel repeats the first, and nobody reads it
                    out = b.select(j + i < left, j + i, self.zero)
                    rows.append(b.load(self.scalar, self.at(row, out * v["w_out"]), lanes))
                for i, x in enumerate(transposed(b, rows)):
                    b.store(x, self.at(target, (k + i) * self.width + j))
            gathered(whole)

        b.either(v["straight"].ne(0), by_squares, lambda: gathered(first))

    def pixels(self) -> None:
        """A block of outputs: some images, rows and output channels of one group."""
        b, v = self.b, self.v
        rest, share = self.split(b.value("i64", 1, "%task"), self.up(v["panels"], v["some_panels"]))
        blocks = self.up(v["images"], v["block_images"])
        for i in range(AXES):
            blocks = blocks * self.up(v[f"long{i}"], v[f"box{i}"])
        group, number = self.split(rest, blocks)
        image, images, places, extents, whole = self.block(number)
        sums = self.own()
        copy = self.at(sums, v["second"])
        source = self.at(self.operand("x"), v["x_offset"] + group * v["x_group"] + image * v["x_image"])
        first = share * v["some_panels"]
        last = b.smin(first + v["some_panels"], v["panels"])
        weights = self.at(b.scratch(), group * v["panels"] * v["terms"] * self.width)
        with b.loop(self.zero, b.select(v["channels"] > 0, v["channels"], b.const("i64", 1)), v["slice"]) as c:
            channels = b.smin(v["slice"], v["channels"] - c)
            self.fill(copy, self.at(source, c * v["x_channel"]), channels, images, places)
            with b.loop(first, last) as panel, b.loop(self.zero, v["phases"]) as phase:
                row, many, some, term, taps, at = (self.entry("phase_table", phase * PHASE + i) for i in range(PHASE))
                self.multiply(
                    copy, self.table("rows_table", row * 2), b.select(whole, many, some),
                    self.table("terms_table", term), taps * channels,
                    self.at(weights, (panel * v["terms"] + at + c * taps) * self.width),
                    self.at(sums, (panel - first) * self.width), v["channels_out"] - panel * self.width, c,
                )  # fmt: skip
        self.finish(sums, group, first, last, image, images, places, extents)

    def finish(
        self, sums: Value, group: Value, first: Value, last: Value, image: Value, images: Value, places: list[Value],
        extents: list[Value],
    ) -> None:  # fmt: skip
        """Turns sums[pixel][channel] and writes y[image][channel][pixel]."""
        b, v, lanes = self.b, self.v, self.lanes
        start, many = self.zero, b.const("i64", 1)
        each = b.const("i64", 1)
        for i in range(AXES):
            start = start * v[f"long{i}"] + places[i] * v[f"box{i}"]
            many, each = many * extents[i], each * v[f"box{i}"]
        low = first * self.width
        high = b.smin(last * self.width, v["channels_out"])
        every = v["groups"] * v["channels_out"]
        with b.loop(self.zero, images) as n:
            channel = (image + n) * every + group * v["channels_out"]
            with b.loop(low, high, lanes) as o, b.loop(self.zero, many, lanes) as q:
                corner = self.at(sums, (n * each + q) * v["row"] + o - low)
                rows = [b.load(self.scalar, self.at(corner, v["row"] * i), lanes) for i in range(lanes)]
                columns = transposed(b, rows)
                to = self.at(self.operand("y"), (channel + o) * v["plane"] + start + q)

                def full(columns: list[Value] = columns, to: Value = to) -> None:
                    for i, x in enumerate(columns):
                        b.store(x, self.at(to, v["plane"] * i))

                def part(columns: list[Value] = columns, to: Value = to, o: Value = o, q: Value = q) -> None:
                    mask = b.lanes_iota(lanes) < b.splat(many - q, lanes)
                    for i, x in enumerate(columns):
                        with b.when(high - o > i):
                            b.store(x, self.at(to, v["plane"] * i), mask)

                b.either((many - q >= lanes) & (high - o >= lanes), full, part)

    def weights(self) -> None:
        """Partial sums of some channels over some blocks."""
        b, v = self.b, self.v
        task = b.value("i64", 1, "%task")
        rest, share = self.split(task, self.up(v["channels"], v["block_channels"]))
        part, group = self.split(rest, v["groups"])
        first = share * v["block_channels"]
        channels = b.smin(v["block_channels"], v["channels"] - first)
        sums = self.at(b.scratch(), task * v["acc"])
        nothing = b.const(self.scalar, 0.0, self.lanes)
        with b.loop(self.zero, v["acc"], self.lanes) as i:
            b.store(nothing, self.at(sums, i))
        copy = self.own()
        panels = self.at(copy, v["second"])
        source = self.at(self.operand("x"), v["x_offset"] + group * v["x_group"] + first * v["x_channel"])
        begin = part * v["per_part"]
        end = b.smin(begin + v["per_part"], v["blocks"])
        long, totals = end - begin > SPAN, self.at(copy, v["totals"])

        def settle(first: Value, last: Value) -> None:
            one = b.const("i64", 1)
            operands = (sums, v["acc"], totals, v["acc"], one, v["acc"], first, last)
            b.do(f"call void @{self.name}.settle({', '.join(x.typed for x in operands)})")

        with b.loop(begin, end) as number:
            before = (number - begin) & (SPAN - 1)
            with b.when(before.eq(0) & (number > begin)):
                settle((number - begin).eq(SPAN), b.const("i1", 0))
            image, images, places, extents, whole = self.block(number)
            self.fill(copy, self.at(source, image * v["x_image"]), channels, images, places)
            self.turn(panels, group, image, images, places, extents)
            with b.loop(self.zero, v["panels"]) as panel, b.loop(self.zero, v["phases"]) as phase:
                term, many, some, row, taps, at = (self.entry("phase_table", phase * PHASE + i) for i in range(PHASE))
                self.multiply(
                    copy, self.table("rows_table", row * 2), taps * channels, self.table("terms_table", term),
                    b.select(whole, many, some),
                    self.at(panels, (panel * (v["pixels"] + 1) + at) * self.width), self.at(sums, panel * self.width),
                    v["channels_out"] - panel * self.width, before,
                )  # fmt: skip
        with b.when(long):
            settle(b.const("i1", 0), b.const("i1", 1))

    def turn(
        self, panels: Value, group: Value, image: Value, images: Value, places: list[Value], extents: list[Value]
    ) -> None:
        """Writes the panels of a block: for each of its positions, the values of consecutive output channels."""
        b, v, lanes = self.b, self.v, self.lanes
        start = v["w_offset"] + group * v["w_group"] + image * v["w_term"]
        many, each = b.const("i64", 1), b.const("i64", 1)
        for i in range(AXES):
            start = start + places[i] * v[f"w_move{i}"]
            many, each = many * extents[i], each * v[f"box{i}"]
        source = self.at(self.operand("w"), start)
        with b.loop(self.zero, v["channels_out"], lanes) as o, b.loop(self.zero, images) as n:
            panel = o / b.const("i64", self.width)
            into = self.at(panels, panel * (v["pixels"] + 1) * self.width + (o - panel * self.width))
            of_image = self.at(source, n * v["w_term"])
            with b.loop(self.zero, many, lanes) as q:
                mask = b.lanes_iota(lanes) < b.splat(many - q, lanes)
                rows = [self.at(of_image, b.smin(o + i, v["channels_out"] - 1) * v["w_out"]) for i in range(lanes)]

                def write(values: list[Value], n: Value = n, q: Value = q, into: Value = into) -> None:
                    for i, x in enumerate(transposed(b, values)):
                        rank = self.entry("ranks", n * each + q + i)
                        b.store(x, self.at(into, rank * self.width))

                def straight(mask: Value | None, rows: list[Value] = rows, q: Value = q) -> Callable[[], None]:
                    return lambda: write([b.load(self.scalar, self.at(r, q), lanes, mask) for r in rows])

                def gathered(rows: list[Value] = rows, q: Value = q, mask: Value = mask) -> None:
                    offsets = b.load("i64", self.table("sources", q), lanes)
                    write([b.load(self.scalar, self.at(r, offsets), lanes, mask) for r in rows])

                b.either(
                    v["straight"].ne(0),
                    lambda: b.either(many - q >= lanes, straight(None), straight(mask)),
                    gathered,
                )

    def sum(self) -> None:
        """The partial sums of one channel, added in order: y[channel][output channel][output]."""
        b, v, lanes = self.b, self.v, self.lanes
        group, channel = self.split(b.value("i64", 1, "%task"), v["channels"])
        share, within = self.split(channel, v["block_channels"])
        shares = self.up(v["channels"], v["block_channels"])
        first = (group * shares + share) * v["acc"] + within * v["outputs"] * v["row"]
        sums = self.at(b.scratch(), first)
        outs = v["channels_out"]
        y = self.at(self.operand("y"), (channel * v["groups"] + group) * outs * v["outputs"])
        with b.loop(self.zero, outs, lanes) as o:
            lane = b.lanes_iota(lanes) + o
            with b.loop(self.zero, v["outputs"]) as t:
                total = b.variable(b.const(self.scalar, 0.0, lanes))
                with b.loop(self.zero, v["parts"]) as part:
                    at = self.at(sums, part * (v["groups"] * shares * v["acc"]) + t * v["row"] + o)
                    total.set(total.get() + b.load(self.scalar, at, lanes))
                b.store(total.get(), self.at(y, lane * v["outputs"] + t), lane < b.splat(outs, lanes))


def _write_tile(name: str, scalar: str, lanes: int, mr: int, nv: int, panel: int, declared: set[str]) -> str:
    """t[rows, nv * lanes] = (t if `add` is not zero) + the terms' sum."""
    arguments = (
        "ptr noalias %p, ptr noalias %rows, ptr noalias %terms, i64 %k, ptr noalias %w, ptr noalias %t, i64 %add"
    )
    b = Builder(f"define internal void @{name}({arguments}) noinline", declared)
    p, rows, terms, w, t = (b.value("ptr", 1, f"%{x}") for x in ("p", "rows", "terms", "w", "t"))
    k, add = (b.value("i64", 1, x) for x in ("%k", "%add"))
    sums = [[b.variable(b.const(scalar, 0.0, lanes)) for _ in range(nv)] for _ in range(mr)]
    to = [b.place(scalar, t, b.load("i64", b.place("i64", rows, 2 * i + 1))) for i in range(mr)]
    of_row = [b.place(scalar, p, b.load("i64", b.place("i64", rows, 2 * i))) for i in range(mr)]
    with b.loop(b.const("i64", 0), k) as i:
        offset = b.load("i64", b.place("i64", terms, i))
        row = b.place(scalar, w, i * (panel * lanes))
        vectors = [b.load(scalar, b.place(scalar, row, j * lanes), lanes) for j in range(nv)]
        for r in range(mr):
            x = b.splat(b.load(scalar, b.place(scalar, of_row[r], offset)), lanes)
            for j in range(nv):
                sums[r][j].set(b.fma(x, vectors[j], sums[r][j].get()))
    with b.when(add.ne(0)):  # at last: a sum's error grows with the terms that are added to it one after another
        for i in range(mr):
            for j in range(nv):
                sums[i][j].set(sums[i][j].get() + b.load(scalar, b.place(scalar, to[i], j * lanes), lanes))
    for i in range(mr):
        for j in range(nv):
            b.store(sums[i][j].get(), b.place(scalar, to[i], j * lanes))
    b.do("ret void")
    return b.text()

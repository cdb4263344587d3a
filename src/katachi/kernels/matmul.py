"""The matmul template: any strides, any batch, one micro-kernel for all.

A task is a block of the result. Its tiles of MR rows and up to NV vectors of columns stay in registers while a block of
K passes. A is read where it lies, B as well if its rows are contiguous; otherwise each task packs what it reads of B, a
panel of one tile's width at a time, into memory of its thread's own that stays in the caches. Masks guard the last
columns; rows beyond the last repeat row 0 and are not stored. After SPAN blocks of K what was added up joins totals in
float64, so that errors do not grow with K.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from katachi.graph.dtypes import as_dtype
from katachi.graph.node import Node
from katachi.graph.symint import always_equal
from katachi.kernels.llvm_text import HALVES, SCALARS, Builder, Value
from katachi.kernels.loops import Steps
from katachi.kernels.lower import INDEX, ZERO, Index, combine, ones_apart, strides
from katachi.kernels.target import Target

K_BLOCK = 512
SPAN = 64  # blocks of K that are added up before they join a total
OUTER = 4  # loops around a matrix product: batch axes and free axes that do not melt into one
ALONE = 60**3  # multiplications: below, one thread is faster
SHARE = 1 << 22  # multiplications of a task: with fewer, handing tasks out shows
_NAMES = ("a", "b", "c", "a_offset", "b_offset", "m", "n", "k", "ars", "acs", "brs", "bcs", "ldc", "packs", "rows",
          "columns", "totals",
          *(f"{kind}{i}" for i in range(OUTER) for kind in ("size", "astep", "bstep", "cstep")))  # fmt: skip


class Product(NamedTuple):
    """The key of a compiled template: the dtype, and whether K is long enough for totals."""

    dtype: str
    totals: bool


class Problem(NamedTuple):
    """One dot_general in numbers: three sizes and the steps between neighbours, and loops around."""

    dtype: str
    offsets: tuple[int, int]
    m: tuple[int, ...]  # size, step in a, step in the result
    n: tuple[int, ...]  # size, step in b, step in the result
    k: tuple[int, ...]  # size, step in a, step in b
    outer: tuple[tuple[int, ...], ...]  # size, steps in a, b and the result
    rows: tuple[int, ...] = ()  # of the table of addresses: a, b and the result


def base(node: Node) -> Node:
    """The value in memory of which an operand is a view."""
    while node.primitive in ("transpose", "broadcast_in_dim", "reshape"):
        mixes = node.primitive == "reshape" and ones_apart(node.inputs[0].shape, node.shape) is None
        node = node.inputs[0]
        if mixes:
            break
    return node


def _flat(node: Node, at: tuple[Index, ...]) -> Index:
    """Where in its base an element of a view lies."""
    while node.primitive in ("transpose", "broadcast_in_dim", "reshape"):
        operand = INDEX[node.primitive](node, at)
        if operand is None:  # a reshape of what is in memory
            break
        node, at = node.inputs[0], operand
    return combine(*zip(strides(node.shape), at, strict=True))


def melt(loops: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Loops (size, steps...), outermost first, with neighbours made one where all steps agree."""
    out: list[tuple[int, ...]] = []
    for size, *steps in loops:
        if size == 1:
            continue
        if out and all(always_equal(before, step * size) for before, step in zip(out[-1][1:], steps, strict=True)):
            out[-1] = (out[-1][0] * size, *steps)
        else:
            out.append((size, *steps))
    return out


def analyse(node: Node) -> Problem | None:
    """The numbers of a dot_general, or None where its axes are too tangled for the template."""
    a, b = node.inputs
    (ab, bb), (ak, bk) = node.attrs["batch"], node.attrs["contract"]
    variables: dict[tuple[str, int], int] = {}
    for i, (x, y) in enumerate(zip(ab, bb, strict=True)):
        variables["a", x] = variables["b", y] = i
    shift = len(ab)
    for i, (x, y) in enumerate(zip(ak, bk, strict=True)):
        variables["a", x] = variables["b", y] = shift + i
    am = [i for i in range(len(a.shape)) if ("a", i) not in variables]
    bn = [i for i in range(len(b.shape)) if ("b", i) not in variables]
    shift += len(ak)
    for i, key in enumerate([*(("a", i) for i in am), *(("b", i) for i in bn)]):
        variables[key] = shift + i

    def index(name: str, x: Node) -> tuple[Index, ...]:
        return tuple(ZERO if n == 1 else (0, ((variables[name, i], 1),)) for i, n in enumerate(x.shape))

    (a_offset, a_terms), (b_offset, b_terms) = _flat(a, index("a", a)), _flat(b, index("b", b))
    left, right = dict(a_terms), dict(b_terms)
    steps = strides(node.shape)
    batch: list[tuple[int, ...]] = [(a.shape[x], left.get(i, 0), right.get(i, 0), steps[i]) for i, x in enumerate(ab)]
    k = melt([(a.shape[x], left.get(variables["a", x], 0), right.get(variables["a", x], 0)) for x in ak])
    m = melt([(a.shape[x], left.get(variables["a", x], 0), steps[len(ab) + i]) for i, x in enumerate(am)])
    n = melt([(b.shape[x], right.get(variables["b", x], 0), steps[len(ab) + len(am) + i]) for i, x in enumerate(bn)])
    outer = melt(batch + [(s, x, 0, z) for s, x, z in m[:-1]] + [(s, 0, y, z) for s, y, z in n[:-1]])
    if len(k) > 1 or len(outer) > OUTER:
        return None
    one = (1, 0, 0)
    m, n, k = (sizes or [one] for sizes in (m, n, k))
    return Problem(node.dtype.name, (a_offset, b_offset), m[-1], n[-1], k[-1], tuple(outer))


def suits(node: Node) -> bool:
    """Whether the template computes this dot_general."""
    return node.dtype.name not in HALVES and analyse(node) is not None


def tile(target: Target) -> tuple[int, int]:
    """Rows and vectors of the register tile."""
    return (
        (6, 2)
        if target.bits == 256 and target.arch == "x86_64"
        else (4, 2)
        if target.arch == "x86_64" and target.bits == 128
        else (8, 3)
    )


def problem(node: Node, outputs: Sequence[Node], rows: Mapping[Node, int]) -> Problem:
    """One dot_general in numbers, for `lower`."""
    p = analyse(node)
    assert p is not None, node
    a, b = node.inputs
    return p._replace(rows=(rows[base(a)], rows[base(b)], rows[outputs[0]]))


def lower(p: Problem, threads: int, target: Target) -> Steps:
    """The steps of one dot_general."""
    steps = _lower(p._replace(rows=()), threads, target)
    return Steps([(key, [*p.rows, *rest], tasks) for key, rest, tasks in steps.kernels], steps.scratch)


@functools.lru_cache(maxsize=512)  # layers are alike
def _lower(p: Problem, threads: int, target: Target) -> Steps:
    """The same without the rows of the operands, which come first."""
    mr, nv = tile(target)
    dtype = as_dtype(p.dtype)
    itemsize, width = dtype.itemsize, nv * target.lanes(SCALARS[p.dtype])
    (m, ars, ldc), (n, bcs, _), (k, acs, brs) = p.m, p.n, p.k
    outer = p.outer + ((1, 0, 0, 0),) * (OUTER - len(p.outer))
    repeats = 1
    for size, *_ in outer:
        repeats *= size
    if m * n * repeats == 0:
        return Steps([])

    packs = not (bcs == 1 or n == 1 or k == 0)
    work, high, wide = m * n * max(k, 1) * repeats, m, -(-n // width) * width
    if threads > 1 and work >= ALONE:
        wanted = threads * min(max(work // (threads * SHARE), 1), 4)
        shapes = [(48, max(96 // width, 1) * width), (48, width), (24, width), (16, width), (mr, width)]
        if packs:  # the more rows of a task, the less its packing weighs
            shapes = [(max(-(-m // parts // mr) * mr, mr), width) for parts in (1, 2, 4, 8, 16) if m > 64 * (parts - 1)]
        if wanted < 4 * threads:  # small: what is read fits into the caches, so an even division is best
            shapes.insert(0, (-(-m // wanted // mr) * mr, wide))
        for high, wide in shapes:
            if -(-m // high) * -(-n // wide) * repeats >= wanted:
                break
    numbers = {
        "a_offset": p.offsets[0], "b_offset": p.offsets[1], "m": m,
        "n": n, "k": k, "ars": ars, "acs": acs, "brs": brs, "bcs": bcs, "ldc": ldc, "rows": high, "columns": wide,
        "packs": int(packs), "totals": threads * K_BLOCK * width * itemsize,
    }  # fmt: skip
    for i, (size, *steps) in enumerate(outer):
        numbers[f"size{i}"] = size
        numbers.update(zip((f"astep{i}", f"bstep{i}", f"cstep{i}"), steps, strict=True))
    tasks = -(-m // high) * -(-n // wide) * repeats
    totals = dtype.is_floating and k > SPAN * K_BLOCK
    scratch = threads * K_BLOCK * width * itemsize  # of what each packs; behind it the totals of each
    scratch = scratch + threads * high * wide * 8 if totals else scratch if packs else 0
    return Steps([(Product(p.dtype, totals), [numbers[name] for name in _NAMES[3:]], tasks)], scratch)


def write_product(product: Product, name: str, target: Target, declared: set[str]) -> str:
    """The text of a template's kernel with its parts."""
    scalar = SCALARS[product.dtype]
    lanes = target.lanes(scalar)
    mr, nv = tile(target)
    head = f"define void @{name}(ptr %parameters, ptr %table, ptr %status, i64 %task, i64 %thread)"
    b = Builder(head, declared)
    base_pointer = b.value("ptr", 1, "%parameters")
    v = {key: b.load("i64", b.place("i64", base_pointer, i)) for i, key in enumerate(_NAMES)}
    micros = [write_micro(f"{name}.tile{i}", scalar, lanes, mr, i, declared) for i in range(1, nv + 1)]
    _write_multiply(b, v, name, product, lanes, mr, nv)
    parts = [*micros, _write_pack(f"{name}.pack", scalar, lanes, nv, declared), b.text()]
    if product.totals:
        parts.insert(0, write_settle(f"{name}.settle", scalar, declared))
    return "\n".join(parts)


def _row(b: Builder, row: Value) -> Value:
    return b.load("ptr", b.place("i64", b.value("ptr", 1, "%table"), row))


def _remainder(b: Builder, x: Value, size: Value) -> tuple[Value, Value]:
    """x // size and x % size."""
    quotient = x / size
    return quotient, x - quotient * size


def _around(b: Builder, v: dict[str, Value], place: Value, kinds: Sequence[str]) -> list[Value]:
    """The offsets of one iteration of the outer loops."""
    sums = [b.const("i64", 0) for _ in kinds]
    for i in range(OUTER - 1, -1, -1):
        place, at = _remainder(b, place, v[f"size{i}"])
        sums = [s + at * v[f"{kind}{i}"] for s, kind in zip(sums, kinds, strict=True)]
    return sums


def _write_multiply(b: Builder, v: dict[str, Value], name: str, product: Product, lanes: int, mr: int, nv: int) -> None:
    scalar, width = SCALARS[product.dtype], lanes * nv
    down = (v["m"] + v["rows"] - 1) / v["rows"]
    along = (v["n"] + v["columns"] - 1) / v["columns"]
    rest, i_task = _remainder(b, b.value("i64", 1, "%task"), down)
    rest, j_task = _remainder(b, rest, along)
    a_off, b_off, c_off = _around(b, v, rest, ("astep", "bstep", "cstep"))
    packs = v["packs"].ne(0)
    a = b.place(scalar, _row(b, v["a"]), v["a_offset"] + a_off)
    panel = b.place(scalar, b.scratch(), b.value("i64", 1, "%thread") * (K_BLOCK * width))
    right = b.place(scalar, _row(b, v["b"]), v["b_offset"] + b_off)
    c = b.place(scalar, _row(b, v["c"]), c_off)
    i0, j0 = i_task * v["rows"], j_task * v["columns"]
    i1, j1 = b.smin(i0 + v["rows"], v["m"]), b.smin(j0 + v["columns"], v["n"])
    b_step = b.select(packs, b.const("i64", width), v["brs"])
    at_least_once = b.select(v["k"] > 0, v["k"], b.const("i64", 1))
    zero, span = b.const("i64", 0), SPAN * K_BLOCK

    def settle(first: Value, last: Value) -> None:
        mine = b.value("i64", 1, "%thread") * v["rows"] * v["columns"]
        totals = b.place("double", b.place("i8", b.scratch(), v["totals"]), mine)
        corner = b.place(scalar, c, i0 * v["ldc"] + j0)
        operands = (corner, v["ldc"], totals, v["columns"], i1 - i0, j1 - j0, first, last)
        b.do(f"call void @{name}.settle({', '.join(x.typed for x in operands)})")

    with b.loop(zero, at_least_once, K_BLOCK) as p:
        k = b.smin(v["k"] - p, K_BLOCK)
        before = p  # blocks of K that are in the result already
        if product.totals:
            before = p & (span - 1)
            with b.when(before.eq(0) & (p > 0)):
                settle(p.eq(span), b.const("i1", 0))
        a_block = b.place(scalar, a, p * v["acs"])
        b_block = b.place(scalar, right, p * v["brs"])
        with b.loop(j0, j1, width) as j:
            columns = b.smin(j1 - j, width)
            source = b.place(scalar, b_block, j * v["bcs"])
            b_tile = b.select(packs, panel, source)
            with b.when(packs):
                operands = (panel, source, v["brs"], v["bcs"], k, columns)
                b.do(f"call void @{name}.pack({', '.join(x.typed for x in operands)})")
            with b.loop(i0, i1, mr) as i:
                args = [
                    b.place(scalar, a_block, i * v["ars"]), v["ars"], v["acs"], b_tile, b_step,
                    b.place(scalar, c, i * v["ldc"] + j), v["ldc"], k, b.smin(i1 - i, mr), columns, before,
                ]  # fmt: skip

                def narrow(n: int, args: list[Value] = args, columns: Value = columns) -> None:
                    def call() -> None:
                        b.do(f"call void @{name}.tile{n}({', '.join(x.typed for x in args)})")

                    if n == 1:
                        call()
                    else:
                        b.either(columns > (n - 1) * lanes, call, lambda: narrow(n - 1))

                narrow(nv)
    if product.totals:
        settle(b.const("i1", 0), b.const("i1", 1))
    b.do("ret void")


def write_settle(name: str, scalar: str, declared: set[str]) -> str:
    """total[rows, columns] = (0 if `first`, else total) + c[rows, columns], in float64; written to c if `last`. Called
    seldom, so it is short instead of fast."""
    arguments = "ptr noalias %c, i64 %ldc, ptr noalias %total, i64 %step, i64 %rows, i64 %columns, i1 %first, i1 %last"
    b = Builder(f"define internal void @{name}({arguments}) noinline", declared)
    c, total = (b.value("ptr", 1, x) for x in ("%c", "%total"))
    ldc, step, rows, columns = (b.value("i64", 1, x) for x in ("%ldc", "%step", "%rows", "%columns"))
    zero = b.const("i64", 0)
    with b.loop(zero, rows) as i, b.loop(zero, columns) as j:
        at, to = b.place(scalar, c, i * ldc + j), b.place("double", total, i * step + j)
        before = b.select(b.value("i1", 1, "%first"), 0.0, b.load("double", to))
        value = b.load(scalar, at)
        now = before + value.to("fpext", "double")
        b.store(now, to)
        b.store(b.select(b.value("i1", 1, "%last"), now.to("fptrunc", scalar), value), at)
    b.do("ret void")
    return b.text()


def write_micro(name: str, scalar: str, lanes: int, mr: int, nv: int, declared: set[str]) -> str:
    """c[mr, nv * lanes] = (c if `add` is not zero) + a @ b."""
    arguments = "ptr %a, i64 %ars, i64 %acs, ptr %b, i64 %brs, ptr %c, i64 %ldc, i64 %k, i64 %m, i64 %n, i64 %add"
    b = Builder(f"define internal void @{name}({arguments}) noinline", declared)
    a, right, c = (b.value("ptr", 1, x) for x in ("%a", "%b", "%c"))
    ars, acs, brs, ldc, k, m, n, add = (
        b.value("i64", 1, x) for x in ("%ars", "%acs", "%brs", "%ldc", "%k", "%m", "%n", "%add")
    )
    zero = b.const("i64", 0)
    sums = [[b.variable(b.const(scalar, 0.0, lanes)) for _ in range(nv)] for _ in range(mr)]
    rows = [a] + [b.place(scalar, a, b.select(m > i, ars * i, zero)) for i in range(1, mr)]
    masks = [b.lanes_iota(lanes) < b.splat(n - j * lanes, lanes) for j in range(nv)]

    def read(at: Value, j: int, full: bool) -> Value:
        return b.load(scalar, b.place(scalar, at, j * lanes), lanes, None if full else masks[j])

    def multiply(full: bool) -> None:
        with b.loop(zero, k) as p:
            row = b.place(scalar, right, p * brs)
            vectors = [read(row, j, full) for j in range(nv)]
            step = p * acs
            for i in range(mr):
                x = b.splat(b.load(scalar, b.place(scalar, rows[i], step)), lanes)
                for j in range(nv):
                    sums[i][j].set(b.fma(x, vectors[j], sums[i][j].get()))

    def finish(full: bool) -> None:
        def row(i: int) -> None:
            at = b.place(scalar, c, ldc * i)

            def more() -> None:
                for j in range(nv):
                    sums[i][j].set(sums[i][j].get() + read(at, j, full))

            with b.when(add > 0):
                more()
            for j in range(nv):
                b.store(sums[i][j].get(), b.place(scalar, at, j * lanes), None if full else masks[j])

        for i in range(mr):
            if full:
                row(i)
            else:
                with b.when(m > i):
                    row(i)

    b.either(n >= nv * lanes, lambda: multiply(True), lambda: multiply(False))
    b.either((n >= nv * lanes) & (m >= mr), lambda: finish(True), lambda: finish(False))
    b.do("ret void")
    return b.text()


def transposed(b: Builder, rows: list[Value]) -> list[Value]:
    """A square of vectors, rows for columns: log2 rounds of interleaving."""
    if len(rows) == 1:
        return rows
    n = rows[0].lanes
    low = [x for i in range(n // 2) for x in (i, n + i)]
    high = [x + n // 2 for x in low]
    out = []
    for even, odd in zip(transposed(b, rows[0::2]), transposed(b, rows[1::2]), strict=True):
        out += [b.shuffle(even, odd, low), b.shuffle(even, odd, high)]
    return out


def _write_pack(name: str, scalar: str, lanes: int, nv: int, declared: set[str]) -> str:
    """k rows of a panel, a tile's width each, zeros beyond the last column."""
    arguments = "ptr %target, ptr %source, i64 %brs, i64 %bcs, i64 %k, i64 %columns"
    b = Builder(f"define internal void @{name}({arguments}) noinline", declared)
    target, source = b.value("ptr", 1, "%target"), b.value("ptr", 1, "%source")
    brs, bcs, k, columns = (b.value("i64", 1, x) for x in ("%brs", "%bcs", "%k", "%columns"))
    width, zero = lanes * nv, b.const("i64", 0)

    def gathered(low: Value) -> None:
        with b.loop(low, k) as p:
            for j in range(0, width, lanes):
                lane = b.lanes_iota(lanes) + j
                at = b.place(scalar, b.place(scalar, source, p * brs), lane * bcs)
                value = b.load(scalar, at, lanes, lane < b.splat(columns, lanes))
                b.store(value, b.place(scalar, target, p * width + j))

    def by_squares() -> None:
        whole = k & -lanes
        with b.loop(zero, whole, lanes) as p, b.loop(zero, b.const("i64", width), lanes) as j:
            rows = []
            for i in range(lanes):
                column = j + i
                inside = column < columns  # others repeat column 0 and become zero
                at = b.place(scalar, source, b.select(inside, column, zero) * bcs + p)
                rows.append(b.select(inside, b.load(scalar, at, lanes), 0.0))
            for i, row in enumerate(transposed(b, rows)):
                b.store(row, b.place(scalar, target, (p + i) * width + j))
        gathered(whole)

    b.either(brs.eq(1), by_squares, lambda: gathered(zero))
    b.do("ret void")
    return b.text()

"""The sort template: rows of (key, index) by radix, or by counting where they are short; both keep equal keys in order.

A key becomes an unsigned number of the same order, so there is one code for all dtypes. Up to 32 bits it shares 64
with the element's index (`narrow`); a longer one, or one of a longer row, has the index beside it. Each thread has
memory of its own for two copies of a row and how often each byte occurs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from katachi.graph.dtypes import as_dtype
from katachi.graph.node import Node
from katachi.kernels.llvm_text import Builder, Value
from katachi.kernels.loops import Steps
from katachi.kernels.scalar_llvm import UNSIGNED
from katachi.kernels.target import Target

_NAMES = ("key", "payload", "out", "rows", "size", "step", "chunk", "each")
_SHORT = 64  # elements of a row: below, comparing all pairs is faster than counting bytes
_LANES = 8  # at once, in such a row
_ALONE = 4096  # elements: below, one thread is faster
_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF << 52}


class Sort(NamedTuple):
    """The key of a compiled template."""

    dtype: str
    bits: int  # of the key
    payload: int  # bits of the payload
    descending: bool
    narrow: bool


class Problem(NamedTuple):
    """One sort in numbers."""

    dtype: str
    payload: int  # bits of the payload
    descending: bool
    many: int  # rows
    size: int  # of a row
    step: int  # between its elements
    rows: tuple[int, ...]  # of the table of addresses: key, payload and result


def problem(node: Node, outputs: Sequence[Node], rows: Mapping[Node, int]) -> Problem:
    """One sort in numbers, for `lower`."""
    key, payload = node.inputs
    axis, shape = node.attrs["axis"], node.shape
    step = math.prod(shape[axis + 1 :])
    return Problem(
        key.dtype.name, 8 * payload.dtype.itemsize, node.attrs["descending"], math.prod(shape[:axis]) * step,
        shape[axis], step, (rows[key], rows[payload], rows[outputs[0]]),
    )  # fmt: skip


def lower(p: Problem, threads: int, target: Target) -> Steps:
    """The step of one sort."""
    size, step, many = p.size, p.step, p.many
    if size * many == 0:
        return Steps([])
    bits = 8 * as_dtype(p.dtype).itemsize
    narrow = bits <= 32 and size <= 1 << 32  # so that key and index fit into 64 bits together
    kind = Sort(p.dtype, bits, p.payload, p.descending, narrow)
    tasks = min(many, 4 * threads) if size * many > _ALONE else 1
    chunk = -(-many // tasks)
    each = (2 if kind.narrow else 4) * 8 * (-(-size // _LANES) * _LANES) + bits * 256
    numbers = [*p.rows, many, size, step, chunk, each]
    return Steps([(kind, numbers, -(-many // chunk))], threads * each)


def write_sort(kind: Sort, name: str, target: Target, declared: set[str]) -> str:
    """The text of one function: the rows of one task."""
    b = Builder(f"define void @{name}(ptr %parameters, ptr %table, ptr %status, i64 %task, i64 %thread)", declared)
    base = b.value("ptr", 1, "%parameters")
    v = {key: b.load("i64", b.place("i64", base, i)) for i, key in enumerate(_NAMES)}
    first = b.value("i64", 1, "%task") * v["chunk"]
    with b.loop(first, b.smin(first + v["chunk"], v["rows"])) as row:
        _Row(b, kind, v, row).write()
    b.do("ret void")
    return b.text()


class _Row:
    def __init__(self, b: Builder, kind: Sort, v: dict[str, Value], row: Value) -> None:
        self.b, self.kind, self.v = b, kind, v
        self.zero, self.size, self.step = b.const("i64", 0), v["size"], v["step"]
        lead = row / self.step
        self.start = lead * self.size * self.step + (row - lead * self.step)
        self.counts = b.place("i8", b.scratch(), b.value("i64", 1, "%thread") * v["each"])  # 256 of each byte, in i64
        self.length = (self.size + (_LANES - 1)) & -_LANES  # of one copy
        self.copy = b.place("i64", self.counts, kind.bits * 32)

    def write(self) -> None:
        self.b.either(self.size <= _SHORT, self._by_pairs, self._by_bytes)

    def _element(self, row: str, i: Value, bits: int) -> Value:
        b = self.b
        pointer = b.load("ptr", b.place("i64", b.value("ptr", 1, "%table"), self.v[row]))
        return b.place(f"i{bits}", pointer, self.start + i * self.step)

    def _read(self, i: Value) -> Value:
        """Key i as a number of its order: -0 and 0 are equal, and so are all NaN, the largest."""
        b, kind = self.b, self.kind
        bits = b.load(f"i{kind.bits}", self._element("key", i, kind.bits))
        sign = -(2 ** (kind.bits - 1))
        if kind.dtype in _INFINITY:
            magnitude = bits & ~sign
            key = b.select(bits < 0, bits ^ -1, bits ^ sign)
            key = b.select(magnitude.eq(0), b.literal(key, sign), key)
            key = b.select(magnitude > _INFINITY[kind.dtype], b.literal(key, -1), key)
        else:
            key = bits if kind.dtype in UNSIGNED else bits ^ sign
        key = (key ^ -1 if kind.descending else key).to("zext", "i64")
        return (key << 32) | i if kind.narrow else key

    def _fill(self, i: Value) -> Value:
        """Puts an element into the first copy."""
        b, key = self.b, self._read(i)
        b.store(key, b.place("i64", self.copy, i))
        if not self.kind.narrow:
            b.store(i, b.place("i64", self.copy, self.length + i))
        return key

    def _put(self, to: Value, source: Value) -> None:
        """An element of the payload into its place."""
        b, bits = self.b, self.kind.payload
        b.store(b.load(f"i{bits}", self._element("payload", source, bits)), self._element("out", to, bits))

    def _by_pairs(self) -> None:
        """An element's place is the number of those before it."""
        b, wide = self.b, self.kind.narrow is False
        with b.loop(self.zero, self.length) as i:
            b.store(b.const("i64", -1), b.place("i64", self.copy, i))
        with b.loop(self.zero, self.size) as i:
            b.store(self._read(i), b.place("i64", self.copy, i))
        with b.loop(self.zero, self.size) as i:
            mine = b.splat(b.load("i64", b.place("i64", self.copy, i)), _LANES)
            count = b.variable(b.const("i64", 0, _LANES))
            with b.loop(self.zero, self.length, _LANES) as j:
                other = b.load("i64", b.place("i64", self.copy, j), _LANES)
                before = other.compare("ult", "", mine)
                if wide:
                    before = before | (other.eq(mine) & (b.lanes_iota(_LANES) + j < i))
                count.set(count.get() + before.to("zext", "i64"))
            self._put(b.reduce("add", count.get()), i)

    def _by_bytes(self) -> None:
        """By the lowest byte, then by the next, each time in order; bytes that are all equal are left out."""
        b, kind = self.b, self.kind
        passes, lowest = kind.bits // 8, 32 if kind.narrow else 0
        copies = [self.copy, b.place("i64", self.copy, self.length * (1 if kind.narrow else 2))]
        source, target = b.variable(copies[0]), b.variable(copies[1])
        with b.loop(self.zero, b.const("i64", 256 * passes)) as i:
            b.store(self.zero, b.place("i64", self.counts, i))

        def count_of(p: int, key: Value) -> Value:
            return b.place("i64", self.counts, ((key >> (lowest + 8 * p)) & 255) + 256 * p)

        with b.loop(self.zero, self.size) as i:
            key = self._fill(i)
            for p in range(passes):
                at = count_of(p, key)
                b.store(b.load("i64", at) + 1, at)

        def sort_by(p: int) -> None:
            old, new = source.get(), target.get()
            before = b.variable(self.zero)  # where the next byte's elements begin
            with b.loop(self.zero, b.const("i64", 256)) as i:
                at = b.place("i64", self.counts, i + 256 * p)
                many = b.load("i64", at)
                b.store(before.get(), at)
                before.set(before.get() + many)
            with b.loop(self.zero, self.size) as i:
                key = b.load("i64", b.place("i64", old, i))
                at = count_of(p, key)
                to = b.load("i64", at)
                b.store(to + 1, at)
                b.store(key, b.place("i64", new, to))
                if not kind.narrow:
                    index = b.load("i64", b.place("i64", old, self.length + i))
                    b.store(index, b.place("i64", new, self.length + to))
            source.set(new)
            target.set(old)

        for p in range(passes):
            any_key = b.load("i64", source.get())
            with b.when(b.load("i64", count_of(p, any_key)).ne(self.size)):
                sort_by(p)
        done = source.get()
        with b.loop(self.zero, self.size) as i:
            index = b.load("i64", b.place("i64", done, i if kind.narrow else self.length + i))
            self._put(i, index & 0xFFFFFFFF if kind.narrow else index)

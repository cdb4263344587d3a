"""LLVM's language, written as text: values with operators, loops, and what a target can do."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator, Sequence

from katachi.kernels.loops import SCRATCH

SCALARS = {
    "bool": "i1", "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64", "uint8": "i8", "uint16": "i16",
    "uint32": "i32", "uint64": "i64", "float32": "float", "float64": "double", "float16": "float", "bfloat16": "float",
}  # fmt: skip
HALVES = ("float16", "bfloat16")
MEMORY = {**SCALARS, **dict.fromkeys(HALVES, "i16")}  # what an element is in memory, where that is something else
_SHORT = {"float": "f32", "double": "f64", "ptr": "p0"}


class Value:
    """An SSA value or a literal, with LLVM's type. Operators are those of floats or of wrapping integers."""

    __slots__ = ("b", "lanes", "scalar", "text")

    def __init__(self, b: Builder, scalar: str, lanes: int, text: str) -> None:
        self.b, self.scalar, self.lanes, self.text = b, scalar, lanes, text

    def __str__(self) -> str:
        return self.text

    @property
    def type(self) -> str:
        return self.scalar if self.lanes == 1 else f"<{self.lanes} x {self.scalar}>"

    @property
    def typed(self) -> str:
        return f"{self.type} {self.text}"

    @property
    def is_float(self) -> bool:
        return self.scalar in ("float", "double")

    def _with(self, integer: str, floating: str, other: Operand) -> Value:
        a, b = self.b.match(self, other)
        return self.b.op(a.scalar, a.lanes, f"{floating if a.is_float else integer} {a.typed}, {b}")

    def __add__(self, other: Operand) -> Value:
        return self._with("add", "fadd", other)

    def __sub__(self, other: Operand) -> Value:
        return self._with("sub", "fsub", other)

    def __rsub__(self, other: float) -> Value:
        return self.b.literal(self, other) - self

    def __mul__(self, other: Operand) -> Value:
        return self._with("mul", "fmul", other)

    def __truediv__(self, other: Operand) -> Value:
        return self._with("udiv", "fdiv", other)

    def __rtruediv__(self, other: float) -> Value:
        return self.b.literal(self, other) / self

    def __and__(self, other: Operand) -> Value:
        return self._with("and", "and", other)

    def __or__(self, other: Operand) -> Value:
        return self._with("or", "or", other)

    def __xor__(self, other: Operand) -> Value:
        return self._with("xor", "xor", other)

    def __lshift__(self, other: Operand) -> Value:
        return self._with("shl", "shl", other)

    def __rshift__(self, other: Operand) -> Value:
        return self._with("lshr", "lshr", other)

    def sar(self, other: Operand) -> Value:
        return self._with("ashr", "ashr", other)

    def __neg__(self) -> Value:
        return self.b.op(self.scalar, self.lanes, f"fneg {self.typed}") if self.is_float else 0 - self

    def compare(self, integer: str, floating: str, other: Operand) -> Value:
        a, b = self.b.match(self, other)
        kind = f"fcmp {floating}" if a.is_float else f"icmp {integer}"
        return self.b.op("i1", a.lanes, f"{kind} {a.typed}, {b}")

    def __lt__(self, other: Operand) -> Value:
        return self.compare("slt", "olt", other)

    def __le__(self, other: Operand) -> Value:
        return self.compare("sle", "ole", other)

    def __gt__(self, other: Operand) -> Value:
        return self.compare("sgt", "ogt", other)

    def __ge__(self, other: Operand) -> Value:
        return self.compare("sge", "oge", other)

    def eq(self, other: Operand) -> Value:
        return self.compare("eq", "oeq", other)

    def ne(self, other: Operand) -> Value:
        return self.compare("ne", "une", other)

    def isnan(self) -> Value:
        return self.compare("ne", "uno", self)

    def to(self, how: str, scalar: str) -> Value:
        """One of LLVM's conversions; the same type is left alone."""
        if scalar == self.scalar:
            return self
        target = scalar if self.lanes == 1 else f"<{self.lanes} x {scalar}>"
        return self.b.op(scalar, self.lanes, f"{how} {self.typed} to {target}")


Operand = Value | float | int


def literal(scalar: str, x: float) -> str:
    """A number as LLVM writes it: floats by their bits, so that none is rounded in print."""
    if scalar == "float":
        x = struct.unpack("f", struct.pack("f", x))[0] if abs(x) < 3.5e38 else x
        return "0x" + struct.pack(">d", x).hex().upper()
    if scalar == "double":
        return "0x" + struct.pack(">d", x).hex().upper()
    return str(int(x))


class Builder:
    """One function being written."""

    def __init__(self, head: str, module: set[str], scales: bool = False) -> None:
        self.head, self.declared = head, module
        self.scales = scales  # whether the target multiplies vectors by powers of two
        self.lines: list[str] = []
        self.entry: list[str] = []  # stack slots
        self.count = 0
        self.block = "entry"
        self.halves = False  # see Target

    def text(self) -> str:
        return "\n".join([self.head + " {", "entry:", *self.entry, *self.lines, "}", ""])

    def name(self) -> str:
        self.count += 1
        return f"%v{self.count}"

    def value(self, scalar: str, lanes: int, text: str) -> Value:
        return Value(self, scalar, lanes, text)

    def op(self, scalar: str, lanes: int, text: str) -> Value:
        name = self.name()
        self.lines.append(f"  {name} = {text}")
        return Value(self, scalar, lanes, name)

    def do(self, text: str) -> None:
        self.lines.append("  " + text)

    def const(self, scalar: str, x: float, lanes: int = 1) -> Value:
        text = literal(scalar, x)
        return Value(self, scalar, lanes, text if lanes == 1 else f"splat ({scalar} {text})")

    def literal(self, like: Value, x: float) -> Value:
        return self.const(like.scalar, x, like.lanes)

    def match(self, a: Value, b: Operand) -> tuple[Value, Value]:
        """Both with as many lanes as the wider one."""
        if not isinstance(b, Value):
            return a, self.literal(a, b)
        lanes = max(a.lanes, b.lanes)
        return self.splat(a, lanes), self.splat(b, lanes)

    def splat(self, v: Value, lanes: int) -> Value:
        if v.lanes == lanes:
            return v
        kind = f"<{lanes} x {v.scalar}>"
        one = self.op(v.scalar, lanes, f"insertelement {kind} poison, {v.typed}, i32 0")
        return self.op(v.scalar, lanes, f"shufflevector {one.typed}, {kind} poison, <{lanes} x i32> zeroinitializer")

    def lanes_iota(self, lanes: int) -> Value:
        text = ", ".join(f"i64 {i}" for i in range(lanes))
        return Value(self, "i64", lanes, f"<{text}>") if lanes > 1 else self.const("i64", 0)

    def select(self, c: Value, yes: Operand, no: Operand) -> Value:
        if not isinstance(yes, Value):
            assert isinstance(no, Value)
            yes = self.literal(no, yes)
        yes, no = self.match(yes, no)
        lanes = max(c.lanes, yes.lanes)
        c = self.splat(c, lanes) if c.lanes > 1 else c
        yes, no = self.splat(yes, lanes), self.splat(no, lanes)
        return self.op(yes.scalar, lanes, f"select {c.typed}, {yes.typed}, {no.typed}")

    def smin(self, a: Value, b: Operand) -> Value:
        return self.select(a < b, a, b)

    def suffix(self, v: Value) -> str:
        short = _SHORT.get(v.scalar, v.scalar)
        return short if v.lanes == 1 else f"v{v.lanes}{short}"

    def call(self, scalar: str, lanes: int, name: str, *args: Value, flags: str = "") -> Value:
        """A call of a function or intrinsic, declared on the way; scalar "void" gives a value nobody may use."""
        result = scalar if lanes == 1 else f"<{lanes} x {scalar}>"
        self.declared.add(f"declare {result} @{name}({', '.join(a.type for a in args)})")
        text = f"call {flags}{result} @{name}({', '.join(a.typed for a in args)})"
        if scalar == "void":
            self.do(text)
            return Value(self, scalar, 1, "")
        return self.op(scalar, lanes, text)

    def intrinsic(self, name: str, first: Value, *rest: Operand) -> Value:
        """llvm.<name> on operands of one type."""
        lanes = max([first.lanes, *(r.lanes for r in rest if isinstance(r, Value))])
        first = self.splat(first, lanes)
        others = [self.match(first, r)[1] for r in rest]
        return self.call(first.scalar, lanes, f"llvm.{name}.{self.suffix(first)}", first, *others)

    def scalef(self, x: Value, n: Value, kind: str) -> Value:
        """x * 2^n for a vector of 512 bits and integral n."""
        name, mask = f"llvm.x86.avx512.mask.scalef.{kind}.512", f"i{x.lanes}"
        self.declared.add(f"declare {x.type} @{name}({x.type}, {x.type}, {x.type}, {mask}, i32)")
        operands = f"{x.typed}, {n.typed}, {x.type} zeroinitializer, {mask} -1, i32 4"
        return self.op(x.scalar, x.lanes, f"call {x.type} @{name}({operands})")

    def fma(self, a: Value, b: Operand, c: Operand) -> Value:
        return self.intrinsic("fma", a, b, c) if a.is_float else a * b + c

    def reduce(self, name: str, v: Value) -> Value:
        """All lanes combined into one; floating sums in any order."""
        if v.lanes == 1:
            return v
        if name in ("fadd", "fmul"):
            return self.call(
                v.scalar,
                1,
                f"llvm.vector.reduce.{name}.{self.suffix(v)}",
                self.const(v.scalar, -0.0 if name == "fadd" else 1.0),
                v,
                flags="reassoc ",
            )
        return self.call(v.scalar, 1, f"llvm.vector.reduce.{name}.{self.suffix(v)}", v)

    def bits(self, v: Value) -> Value:
        """A float's bits."""
        return v.to("bitcast", "i32" if v.scalar == "float" else "i64")

    # Memory

    def place(self, scalar: str, base: Value, index: Operand) -> Value:
        index = index if isinstance(index, Value) else self.const("i64", index)
        memory = "i8" if scalar == "i1" else scalar
        return self.op("ptr", max(base.lanes, index.lanes), f"getelementptr {memory}, {base.typed}, {index.typed}")

    def scratch(self) -> Value:
        """Where the memory begins that a kernel may use while it runs, all threads together."""
        return self.load("ptr", self.place("i64", self.value("ptr", 1, "%table"), SCRATCH))

    def load(self, scalar: str, at: Value, lanes: int = 1, mask: Value | None = None) -> Value:
        """`lanes` values from a pointer on, or one from each of several pointers. A bool is a byte. Lanes that `mask`
        denies are not read. Nothing is promised about alignment but the element's own."""
        memory = "i8" if scalar == "i1" else scalar
        kind, align = (memory if lanes == 1 else f"<{lanes} x {memory}>"), _align(memory)
        if at.lanes > 1 or mask is not None:
            mask = self.splat(self.const("i1", 1) if mask is None else mask, lanes)
            name = f"llvm.masked.{'gather' if at.lanes > 1 else 'load'}.{_tag(memory, lanes)}.{_tag('ptr', at.lanes)}"
            self.declared.add(f"declare {kind} @{name}({at.type}, {mask.type}, {kind})")
            operands = f"{at.type} align {align} {at}, {mask.typed}, {kind} zeroinitializer"
            v = self.op(memory, lanes, f"call {kind} @{name}({operands})")
        else:
            v = self.op(memory, lanes, f"load {kind}, {at.typed}, align {align}")
        return v.ne(0) if scalar == "i1" else v

    def store(self, v: Value, at: Value, mask: Value | None = None) -> None:
        if v.scalar == "i1":
            v = v.to("zext", "i8")
        align = _align(v.scalar)
        if at.lanes > 1 or mask is not None:
            v = self.splat(v, at.lanes) if at.lanes > 1 else v
            mask = self.splat(self.const("i1", 1) if mask is None else mask, v.lanes)
            name = "scatter" if at.lanes > 1 else "store"
            full = f"llvm.masked.{name}.{_tag(v.scalar, v.lanes)}.{_tag('ptr', at.lanes)}"
            self.declared.add(f"declare void @{full}({v.type}, {at.type}, {mask.type})")
            self.do(f"call void @{full}({v.typed}, {at.type} align {align} {at}, {mask.typed})")
        else:
            self.do(f"store {v.typed}, {at.typed}, align {align}")

    def variable(self, first: Value) -> Variable:
        """A stack slot, which LLVM turns into registers."""
        slot = self.slot(first.scalar, first.lanes)
        slot.set(first)
        return slot

    def slot(self, scalar: str, lanes: int) -> Variable:
        """One with anything in it."""
        name = self.name()
        self.entry.append(f"  {name} = alloca {scalar if lanes == 1 else f'<{lanes} x {scalar}>'}, align 64")
        return Variable(self, scalar, lanes, name)

    # Control

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")
        self.block = name

    def fresh(self) -> int:
        self.count += 1
        return self.count

    @contextlib.contextmanager
    def loop(self, low: Value, high: Value, step: int | Value = 1) -> Iterator[Value]:
        """for i = low; i < high; i += step"""
        k = self.fresh()
        before = self.block
        self.do(f"br label %head{k}")
        self.label(f"head{k}")
        self.lines.append(f"  %i{k} = phi i64 [{low}, %{before}], [%n{k}, %latch{k}]")
        i = Value(self, "i64", 1, f"%i{k}")
        self.do(f"br i1 {i < high}, label %body{k}, label %done{k}")
        self.label(f"body{k}")
        yield i
        self.do(f"br label %latch{k}")
        self.label(f"latch{k}")
        self.do(f"%n{k} = add i64 %i{k}, {step}")
        self.do(f"br label %head{k}")
        self.label(f"done{k}")

    @contextlib.contextmanager
    def when(self, c: Value) -> Iterator[None]:
        k = self.fresh()
        self.do(f"br i1 {c}, label %then{k}, label %end{k}")
        self.label(f"then{k}")
        yield
        self.do(f"br label %end{k}")
        self.label(f"end{k}")

    def either(self, c: Value, yes: Callable[[], None], no: Callable[[], None]) -> None:
        k = self.fresh()
        self.do(f"br i1 {c}, label %then{k}, label %else{k}")
        self.label(f"then{k}")
        yes()
        self.do(f"br label %end{k}")
        self.label(f"else{k}")
        no()
        self.do(f"br label %end{k}")
        self.label(f"end{k}")

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        order = ", ".join(f"i32 {i}" for i in lanes)
        return self.op(a.scalar, len(lanes), f"shufflevector {a.typed}, {b.typed}, <{len(lanes)} x i32> <{order}>")


class Variable:
    """A value that changes."""

    __slots__ = ("b", "lanes", "name", "scalar")

    def __init__(self, b: Builder, scalar: str, lanes: int, name: str) -> None:
        self.b, self.scalar, self.lanes, self.name = b, scalar, lanes, name

    def get(self) -> Value:
        kind = self.scalar if self.lanes == 1 else f"<{self.lanes} x {self.scalar}>"
        return self.b.op(self.scalar, self.lanes, f"load {kind}, ptr {self.name}")

    def set(self, v: Value) -> None:
        self.b.do(f"store {v.typed}, ptr {self.name}")

    @property
    def address(self) -> Value:
        """Where it lies; a slot whose address is used stays in memory."""
        return Value(self.b, "ptr", 1, self.name)


def _tag(scalar: str, lanes: int) -> str:
    short = _SHORT.get(scalar, scalar)
    return short if lanes == 1 else f"v{lanes}{short}"


def _align(scalar: str) -> int:
    return {"i8": 1, "i16": 2, "i32": 4, "float": 4}.get(scalar, 8)

"""One operation of the loop language in LLVM's terms. Nothing traps, whatever the values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from katachi.kernels.halves import EXACT, narrowed, rounded, to_odd, widened
from katachi.kernels.llvm_text import HALVES, SCALARS, Builder, Value
from katachi.kernels.loops import Instr
from katachi.kernels.polynomials import FUNCTIONS, through_double

UNSIGNED = frozenset(("bool", "uint8", "uint16", "uint32", "uint64"))
_FLOATS = ("float32", "float64", *HALVES)
WIDTH = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64}
INFINITY = {  # the smallest and largest value of a signed type
    **{t: (-(2 ** (w - 1)), 2 ** (w - 1) - 1) for t, w in WIDTH.items()},
    "float": (-math.inf, math.inf),
    "double": (-math.inf, math.inf),
}

_ORDER = {"EQ": ("eq", "eq", "oeq"), "NE": ("ne", "ne", "une"), "LT": ("slt", "ult", "olt"),
          "LE": ("sle", "ule", "ole"), "GT": ("sgt", "ugt", "ogt"), "GE": ("sge", "uge", "oge")}  # fmt: skip


def _compare(b: Builder, instr: Instr, x: Value, y: Value) -> Value:
    direction, dtype = instr.extra
    signed, unsigned, floating = _ORDER[direction]
    return x.compare(unsigned if dtype in UNSIGNED else signed, floating, y)


def _divide(b: Builder, instr: Instr, x: Value, y: Value) -> Value:
    """Integers truncate; by zero gives zero. The divisors that would trap are replaced first."""
    if x.is_float:
        return x / y
    zero = y.eq(0)
    if instr.dtype in UNSIGNED:
        return b.select(zero, 0, x / b.select(zero, 1, y))
    minus = y.eq(-1)
    safe = b.select(zero | minus, 1, y)
    quotient = b.op(x.scalar, x.lanes, f"sdiv {x.typed}, {safe}")
    return b.select(zero, 0, b.select(minus, -x, quotient))


def extreme(name: str) -> Callable[..., Value]:
    """maximum or minimum; of floats NaN wins."""

    def write(b: Builder, instr: Instr, x: Value, y: Value) -> Value:
        if x.is_float:
            return b.intrinsic(name, x, y)
        return b.intrinsic(("u" if instr.dtype in UNSIGNED else "s") + name[:3], x, y)

    return write


def _abs(b: Builder, instr: Instr, x: Value) -> Value:
    if x.is_float:
        return b.intrinsic("fabs", x)
    return x if instr.dtype in UNSIGNED else b.select(x < 0, -x, x)


def _sign(b: Builder, instr: Instr, x: Value) -> Value:
    if instr.dtype in UNSIGNED:
        return b.select(x.eq(0), 0, b.literal(x, 1))
    nothing = x + 0.0 if x.is_float else x  # NaN, or a zero that loses its sign
    return b.select(x > 0, b.literal(x, 1), b.select(x < 0, b.literal(x, -1), nothing))


def _shift(b: Builder, instr: Instr, x: Value, y: Value) -> Value:
    fits = y.compare("ult", "", WIDTH[x.scalar])
    return b.select(fits, x >> b.select(fits, y, 0), 0)


def _shift_left(b: Builder, instr: Instr, x: Value, y: Value) -> Value:
    fits = y.compare("ult", "", WIDTH[x.scalar])
    return b.select(fits, x << b.select(fits, y, 0), 0)


def _shift_arithmetic(b: Builder, instr: Instr, x: Value, y: Value) -> Value:
    last = WIDTH[x.scalar] - 1
    return x.sar(b.select(y.compare("ult", "", last), y, last))


def _remainder(b: Builder, instr: Instr, x: Value, y: Value) -> Value:
    """With the dividend's sign; an integer's by zero is zero, as in the reference."""
    if x.is_float:
        return through_double("fmod", b, x, y)
    zero = y.eq(0)
    if instr.dtype in UNSIGNED:
        return b.select(zero, 0, b.op(x.scalar, x.lanes, f"urem {x.typed}, {b.select(zero, 1, y)}"))
    safe = b.select(zero | y.eq(-1), 1, y)
    return b.op(x.scalar, x.lanes, f"srem {x.typed}, {safe}")


def _power(b: Builder, instr: Instr, x: Value, y: Value) -> Value:
    """Integers: by squaring, as often as the largest exponent here has bits. A negative exponent leaves 1, -1 or 0."""
    signed = instr.dtype not in UNSIGNED
    minus = y < 0
    left = b.variable(b.select(minus, 0, y) if signed else y)
    most = b.reduce("umax", left.get())
    unused = b.call(most.scalar, 1, f"llvm.ctlz.{most.scalar}", most, b.const("i1", 0)).to("zext", "i64")
    out, square = b.variable(b.literal(y, 1)), b.variable(x)
    with b.loop(b.const("i64", 0), WIDTH[y.scalar] - unused):
        rest, base = left.get(), square.get()
        out.set(b.select((rest & 1).ne(0), out.get() * base, out.get()))
        square.set(base * base)
        left.set(rest >> 1)
    if not signed:
        return out.get()
    unit = b.select(x.eq(1) | (x.eq(-1) & (y & 1).eq(0)), 1, b.select(x.eq(-1), b.literal(x, -1), b.literal(x, 0)))
    return b.select(minus, unit, out.get())


def _is_finite(b: Builder, instr: Instr, x: Value) -> Value:
    return b.intrinsic("fabs", x) < math.inf


def _bitcast(b: Builder, instr: Instr, x: Value) -> Value:
    if instr.dtype in HALVES:
        return widened(b, instr.dtype, narrowed(b, instr.extra, x))
    return narrowed(b, instr.extra, x).to("bitcast", SCALARS[instr.dtype])


def _convert(b: Builder, instr: Instr, x: Value) -> Value:
    source, target = instr.extra, SCALARS[instr.dtype]
    if instr.dtype == "bool":
        return x.ne(0)
    if source in _FLOATS:
        if instr.dtype == "float16" and source == "float64":
            return to_odd(b, x)
        if instr.dtype in _FLOATS:
            return x.to("fpext" if target == "double" else "fptrunc", target)
        return _to_integer(b, instr.dtype, x)
    if instr.dtype in _FLOATS:
        return x.to("uitofp" if source in UNSIGNED else "sitofp", target)
    have, want = WIDTH[x.scalar], WIDTH[target]
    return x.to("trunc" if want < have else "zext" if source in UNSIGNED else "sext", target)


def _to_integer(b: Builder, dtype: str, x: Value) -> Value:
    """Truncates. Out of range: what x86's instruction and C's narrowing make of it, on every machine."""
    target = SCALARS[dtype]
    if dtype == "uint64":
        high = x >= 2.0**63
        near = _checked(b, b.select(high, x - 2.0**63, x), "i64")
        return near ^ b.select(high, b.const("i64", -(2**63), x.lanes), b.const("i64", 0, x.lanes))
    return _checked(b, x, "i64" if dtype in ("int64", "uint32") else "i32").to("trunc", target)


def _checked(b: Builder, x: Value, scalar: str) -> Value:
    lowest = INFINITY[scalar][0]
    inside = (x < -float(lowest)) & (x >= float(lowest))
    return b.select(inside, b.select(inside, x, 0.0).to("fptosi", scalar), b.const(scalar, lowest, x.lanes))


def _philox(b: Builder, instr: Instr, flat: Value, seed: Value, call: Value) -> Value:
    """Word flat % 4 of block flat // 4, see the primitive's rule."""
    low = 0xFFFFFFFF
    block = flat >> 2
    c = [block & low, block >> 32, call & low, call >> 32]
    key = [seed & low, seed >> 32]
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ key[0], p1 & low, (p0 >> 32) ^ c[3] ^ key[1], p0 & low]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    odd = (flat & 1).ne(0)
    upper, lower = b.select(odd, c[3], c[2]), b.select(odd, c[1], c[0])
    return b.select((flat & 2).ne(0), upper, lower).to("trunc", "i32")


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": lambda b, i, x, y: x + y,
    "subtract": lambda b, i, x, y: x - y,
    "multiply": lambda b, i, x, y: x * y,
    "divide": _divide,
    "maximum": extreme("maximum"),
    "minimum": extreme("minimum"),
    "and": lambda b, i, x, y: x & y,
    "or": lambda b, i, x, y: x | y,
    "xor": lambda b, i, x, y: x ^ y,
    "shift_right_logical": _shift,
    "abs": _abs,
    "negate": lambda b, i, x: -x,
    "sign": _sign,
    "not": lambda b, i, x: x ^ -1,
    "floor": lambda b, i, x: b.intrinsic("floor", x),
    "ceil": lambda b, i, x: b.intrinsic("ceil", x),
    "round_nearest_even": lambda b, i, x: b.intrinsic("roundeven", x),
    "is_finite": _is_finite,
    "bitcast_convert": _bitcast,
    "remainder": _remainder,
    "power": _power,
    "shift_left": _shift_left,
    "shift_right_arithmetic": _shift_arithmetic,
    "compare": _compare,
    "select": lambda b, i, c, x, y: b.select(c, x, y),
    "convert": _convert,
    "philox": _philox,
}


WRITTEN = frozenset((*_OPERATIONS, *FUNCTIONS))  # the instructions that `operation` knows


def operation(b: Builder, instr: Instr, args: Sequence[Value]) -> Value:
    """The value of an instruction that neither loads, stores nor accumulates."""
    function = FUNCTIONS.get(instr.name) if args[-1].is_float else None
    value = function(b, *args) if function else _OPERATIONS[instr.name](b, instr, *args)
    return value if instr.name in EXACT else rounded(b, instr.dtype, value)

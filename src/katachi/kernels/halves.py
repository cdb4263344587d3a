"""float16 and bfloat16: sixteen bits in memory, a float32 in a register that is rounded after each operation. So they
have the reference's bits, but after a function of `polynomials.ULPS`: within one ulp of the half.

With operations on integers, so every target does it, and exactly, even where denormal floats count as zero; float16 in
one instruction where there is one.
"""

from __future__ import annotations

from katachi.kernels.llvm_text import HALVES, Builder, Value

# Operations whose result is a half where the operands are; the last keeps the bits of a NaN as well.
EXACT = frozenset((
    "abs", "negate", "sign", "select", "maximum", "minimum", "floor", "ceil", "round_nearest_even", "remainder",
    "bitcast_convert",
))  # fmt: skip
_SIGN, _SIZE = -(2**31), 2**31 - 1
_INFINITY, _NAN, _SMALLEST = 0x7F800000, 0x7FC00000, 0x38800000  # the last is the first float16 with a whole fraction


def widened(b: Builder, dtype: str, bits: Value) -> Value:
    """The float with the value of sixteen bits; of other dtypes what was read."""
    if dtype not in HALVES:
        return bits
    if dtype == "float16" and b.halves:
        # the fence: of `x > 0 ? 0 : x` LLVM 22 makes a minimum of halves, which loses the sign of -0
        return b.intrinsic("arithmetic.fence", bits.to("bitcast", "half").to("fpext", "float"))
    bits = bits.to("zext", "i32")
    if dtype == "bfloat16":
        return (bits << 16).to("bitcast", "float")
    size = bits & 0x7FFF
    moved = (size << 13) + (112 << 23)
    moved = b.select(size >= 0x7C00, moved + (112 << 23), moved)
    moved = b.select(size < 0x400, b.bits(size.to("uitofp", "float") * 2.0**-24), moved)
    return (moved | ((bits & 0x8000) << 16)).to("bitcast", "float")


def narrowed(b: Builder, dtype: str, x: Value) -> Value:
    """The sixteen bits of a float that is a half; of other dtypes what is to be written."""
    if dtype not in HALVES:
        return x
    if dtype == "float16" and b.halves:
        return x.to("fptrunc", "half").to("bitcast", "i16")
    bits = b.bits(x)
    if dtype == "bfloat16":
        return (bits >> 16).to("trunc", "i16")
    size = bits & _SIZE
    moved = (size >> 13) - (112 << 10)
    moved = b.select(size >= _INFINITY, (size >> 13) - (224 << 10), moved)
    small = (size.to("bitcast", "float") * 2.0**24).to("fptosi", "i32")
    return (b.select(size < _SMALLEST, small, moved) | ((bits >> 16) & 0x8000)).to("trunc", "i16")


def rounded(b: Builder, dtype: str, x: Value) -> Value:
    """The nearest half, to even; of other dtypes x."""
    if dtype not in HALVES:
        return x
    if dtype == "float16" and b.halves:
        return x.to("fptrunc", "half").to("fpext", "float")
    bits = b.bits(x)
    if dtype == "bfloat16":
        near = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        return b.select(x.isnan(), b.const("i32", _NAN), near).to("bitcast", "float")
    size = bits & _SIZE
    near = (size + 0xFFF + ((size >> 13) & 1)) & -0x2000
    near = b.select(near > 0x477FE000, _INFINITY, near)
    small = b.bits(size.to("bitcast", "float") + 0.5 - 0.5)  # the steps of the numbers below 1 are those wanted
    near = b.select(size < _SMALLEST, small, near)
    near = b.select(size > _INFINITY, _NAN, near)
    return (near | (bits & _SIGN)).to("bitcast", "float")


def to_odd(b: Builder, x: Value) -> Value:
    """A double as a float whose last bit says whether more follows, so that rounding it again is as good as once."""
    near = x.to("fptrunc", "float")
    back = near.to("fpext", "double")
    bits = b.bits(near)
    over = (b.intrinsic("fabs", back) > b.intrinsic("fabs", x)).to("zext", "i32")
    return b.select(back.ne(x), (bits - over) | 1, bits).to("bitcast", "float")

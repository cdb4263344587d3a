"""Elementary functions from additions, multiplications and the bits of a float.

Each takes and returns a value of `llvm_text.Builder` (scalar or vector alike, so a tail computes the same bits as a
vector) and treats NaN and the infinities as NumPy does. `ULPS` is what they promise against the exact result. The
coefficients were fitted at Chebyshev points with 50 digits. Where a function of float64 has no polynomial here, the C
library's is called for each lane: right, and slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from katachi.kernels.llvm_text import Builder, Value

ULPS = {
    "exponential": 2, "log": 2, "sqrt": 1, "tanh": 3, "logistic": 4, "erf": 3, "sine": 2, "cosine": 2, "power": 2,
    **dict.fromkeys(("tan", "asin", "acos", "sinh", "cosh", "asinh", "acosh", "atanh"), 2),
    "exponential_minus_one": 2, "log_plus_one": 2, "atan2": 2,
}  # fmt: skip

_LN2_HIGH = {"float": 0.693145751953125, "double": 0.6931471803691238}  # few bits, so that n * this is exact
_LN2_LOW = {"float": math.log(2) - 0.693145751953125, "double": 1.9082149292705877e-10}
_MAGIC = {"float": 1.5 * 2**23, "double": 1.5 * 2**52}  # added and taken away, it rounds to an integer
_FRACTION = {"float": 23, "double": 52}
_BIAS = {"float": 127, "double": 1023}
_INTEGER = {"float": "i32", "double": "i64"}

_EXP = {  # (exp(r) - 1 - r) / r^2 for |r| <= log(2) / 2
    "float": (0.500000001345772715, 0.166666666816142557, 0.0416664650060400488, 0.00833331093444886847,
              0.00139336410319867012, 0.000198909808697503256),
    "double": (0.500000000000000102, 0.166666666666666675, 0.0416666666666241619, 0.00833333333333006445,
               0.00138888889171967191, 0.000198412698630405453, 0.0000248015213223686933, 2.75572684803100255e-6,
               2.76200758799833666e-7, 2.51003758325612337e-8),
}  # fmt: skip
_LOG = {  # (log(m) / s - 2) / s^2 in s^2, where s = (m - 1) / (m + 1) and m^2 lies between 1/2 and 2
    "float": (0.666666665544970916, 0.400001218398061267, 0.285508208159606633, 0.233304672163038363),
    "double": (0.666666666666666665, 0.40000000000000877, 0.285714285708036118, 0.222222223917139174,
               0.181817956401329063, 0.153862397028146582, 0.132687731386568852, 0.130866261478401021),
}  # fmt: skip
_TANH = {  # (tanh(x) / x - 1) / x^2 in x^2 for |x| <= 0.625
    "float": (-0.333333331721403616, 0.133333035569157418, -0.0539592595772045427, 0.0217689186510282102,
              -0.00834394551583915205, 0.00229274481617814234),
    "double": (-0.333333333333333329, 0.133333333333330416, -0.0539682539678969917, 0.0218694885190083058,
               -0.00886323510324087792, 0.00359212175115496227, -0.00145577541204780551, 0.000589660657775704335,
               -0.000237590649605556196, 0.0000925711612955676827, -0.0000312011014257974, 6.48516348279311315e-6),
}  # fmt: skip
_ERF_SMALL = (  # erf(x) / x in x^2 for |x| <= 1
    1.12837916706154342, -0.376126384680287104, 0.112837824952368445, -0.0268654307276702429, 0.0052210318078580228,
    -0.000848408040553510629, 0.00011265959025606609, -9.66704457148699642e-6,
)  # fmt: skip
_ERF_LARGE = (  # log(erfc(x)) / x for 1 <= x <= 4
    -1.12822633552127608, -0.63670687035666339, -0.103936028921080493, 0.0220228638949602906, -0.00293885948308030473,
    0.000179797377297372693,
)  # fmt: skip
_SIN = (-0.166666666638552895, 0.00833333187471020879, -0.000198400867353848456, 2.72499258030597923e-6)
_COS = (0.0416666666643212033, -0.00138888876720167901, 0.000024800600377156728, -2.730095920390147e-7)
_HALF_PI_HIGH, _HALF_PI_LOW = 1.5707963267341256, 6.077100506506192e-11  # the first has 33 bits
_FAR = 2.0**20  # beyond it a sine needs more digits of pi than two numbers hold


def polynomial(b: Builder, x: Value, coefficients: Sequence[float]) -> Value:
    """By Horner's rule; the coefficients begin with the constant one."""
    out = b.literal(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        out = b.fma(out, x, c)
    return out


def _power_of_two(b: Builder, n: Value, like: str) -> Value:
    """2^n for an integer n that a normal float can hold."""
    return ((n + _BIAS[like]) << _FRACTION[like]).to("bitcast", like)


def exp(b: Builder, x: Value) -> Value:
    """e^x: zero and infinity beyond the range, NaN of NaN."""
    t = x.scalar
    edge = 104.0 if t == "float" else 750.0  # beyond it nothing changes, and 2^n is still made in two steps
    y, shifted = _exp_parts(b, b.select(x > edge, edge, b.select(x < -edge, -edge, x)))
    if b.scales and x.lanes * {"float": 32, "double": 64}[t] == 512:  # one instruction
        return b.scalef(y, shifted - _MAGIC[t], "ps" if t == "float" else "pd")
    k = b.bits(shifted) - b.bits(b.const(t, _MAGIC[t]))
    half = k.sar(1)
    return y * _power_of_two(b, half, t) * _power_of_two(b, k - half, t)


def _exp_parts(b: Builder, x: Value) -> tuple[Value, Value]:
    """y around one, and n plus the magic number, so that e^x = y * 2^n."""
    t, magic = x.scalar, _MAGIC[x.scalar]
    shifted = b.fma(x, 1 / math.log(2), magic)
    n = shifted - magic
    r = b.fma(n, -_LN2_LOW[t], b.fma(n, -_LN2_HIGH[t], x))
    return b.fma(polynomial(b, r, _EXP[t]), r * r, r) + 1.0, shifted


def _exp_near(b: Builder, x: Value) -> Value:
    """e^x where that is known to be a normal number."""
    y, shifted = _exp_parts(b, x)
    return y * _power_of_two(b, b.bits(shifted), x.scalar)  # the magic number's last bits are those of n


def exp_of_shifted(b: Builder, x: Value) -> Value:
    """e^x for x that is at most 0, but for rounding: what results less than any normal float would be, is zero."""
    tiny = x < (-87.0 if x.scalar == "float" else -708.0)
    return b.select(tiny, 0.0, _exp_near(b, b.select(tiny, 0.0, x)))


def log(b: Builder, x: Value) -> Value:
    """The natural logarithm: NaN below zero, -inf at zero."""
    t, fraction = x.scalar, _FRACTION[x.scalar]
    tiny = x < 2.0 ** (2 - _BIAS[t])
    scale = fraction + 1
    grown = b.select(tiny, x * 2.0**scale, x)
    bits = b.bits(grown)
    # the exponent for which the mantissa lies between sqrt(1/2) and sqrt(2)
    offset = bits - b.bits(b.const(t, math.sqrt(0.5)))
    k = offset.sar(fraction)
    m = (bits - (k << fraction)).to("bitcast", t)
    n = b.select(tiny, k - scale, k).to("sitofp", t)
    f = m - 1.0
    s = f / (f + 2.0)
    z = s * s
    half = f * f * 0.5
    tail = s * (half + z * polynomial(b, z, _LOG[t]))
    y = b.fma(n, _LN2_HIGH[t], f - (half - b.fma(n, _LN2_LOW[t], tail)))
    y = b.select(x.eq(math.inf), math.inf, y)
    y = b.select(x.eq(0.0), -math.inf, y)
    return b.select((x < 0.0) | x.isnan(), math.nan, y)


def _signed(b: Builder, magnitude: Value, x: Value) -> Value:
    return b.intrinsic("copysign", magnitude, x)


def tanh(b: Builder, x: Value) -> Value:
    """A polynomial near zero, by the exponential elsewhere."""
    a, z = b.intrinsic("fabs", x), x * x
    near = b.fma(polynomial(b, z, _TANH[x.scalar]) * z, x, x)
    far = 1.0 - 2.0 / (exp(b, a + a) + 1.0)
    return _signed(b, b.select(a < 0.625, near, far), x)  # near zero as well, for the sign of -0


def logistic(b: Builder, x: Value) -> Value:
    """1 / (1 + exp(-x)), and exp(x) / (1 + exp(x)) below zero, so that small results keep their digits."""
    e = exp(b, -b.intrinsic("fabs", x))
    return b.select(x < 0.0, e, 1.0) / (e + 1.0)


def erf(b: Builder, x: Value) -> Value:
    """The error function."""
    if x.scalar == "double":
        return library("erf", b, x)
    a, z = b.intrinsic("fabs", x), x * x
    near = x * polynomial(b, z, _ERF_SMALL)
    top = b.select(a > 4.0, 4.0, a)  # where float32's erf is one
    far = 1.0 - _exp_near(b, top * polynomial(b, top, _ERF_LARGE))
    return b.select(a < 1.0, near, _signed(b, far, x))


def _turn(quarter: int, name: str) -> Callable[[Builder, Value], Value]:
    """sin(x + quarter * pi / 2). float32 goes through float64; far out, and for float64, the C library."""

    def function(b: Builder, x: Value) -> Value:
        if x.scalar == "double":
            return library(name, b, x)
        wide = x.to("fpext", "double")
        magic = _MAGIC["double"]
        shifted = b.fma(wide, 2 / math.pi, magic)
        n = shifted - magic
        r = b.fma(n, -_HALF_PI_LOW, b.fma(n, -_HALF_PI_HIGH, wide))
        k = b.bits(shifted) + quarter
        z = r * r
        sine = r * b.fma(polynomial(b, z, _SIN), z, 1.0)
        cosine = b.fma(b.fma(polynomial(b, z, _COS), z, -0.5), z, 1.0)
        y = b.select((k & 1).ne(0), cosine, sine)
        y = b.select((k & 2).ne(0), -y, y)
        result = b.variable(y.to("fptrunc", "float"))
        far = b.intrinsic("fabs", x).compare("ugt", "ugt", _FAR)  # also where it is NaN
        with b.when(b.reduce("or", far)):
            result.set(b.select(far, library(name, b, wide).to("fptrunc", "float"), result.get()))
        return result.get()

    return function


def power(b: Builder, x: Value, y: Value) -> Value:
    """x^y as C defines it. float32 through float64, whose digits the exponent multiplies away."""
    x, y = b.match(x, y)
    if x.scalar == "double":
        return library("pow", b, x, y)
    a, e = b.intrinsic("fabs", x).to("fpext", "double"), y.to("fpext", "double")
    magnitude = exp(b, e * log(b, a))
    magnitude = b.select(a.eq(1.0) | e.eq(0.0), 1.0, magnitude)
    whole = b.intrinsic("floor", e).eq(e)
    half = e * 0.5
    odd = whole & b.intrinsic("floor", half).ne(half)
    minus = b.bits(x) < 0
    out = b.select(minus & odd, -magnitude, magnitude)
    infinite = a.eq(math.inf) | a.eq(0.0) | b.intrinsic("fabs", e).eq(math.inf)
    out = b.select((x < 0.0) & whole.compare("eq", "", 0) & infinite.compare("eq", "", 0), math.nan, out)
    out = b.select(x.eq(1.0) | e.eq(0.0), 1.0, out)
    return out.to("fptrunc", "float")


def library(name: str, b: Builder, *args: Value) -> Value:
    """The C library's function of doubles, a call for each lane."""
    lanes = max(a.lanes for a in args)
    if lanes == 1:
        return b.call("double", 1, name, *args)
    kind = f"<{lanes} x double>"
    out = b.value("double", lanes, "poison")
    for i in range(lanes):
        ones = [b.op("double", 1, f"extractelement {a.typed}, i32 {i}") for a in args]
        one = b.call("double", 1, name, *ones)
        out = b.op("double", lanes, f"insertelement {kind} {out}, {one.typed}, i32 {i}")
    return out


def through_double(name: str, b: Builder, *args: Value) -> Value:
    """The C library's function of doubles, for float32 as well."""
    args = b.match(*args) if len(args) == 2 else args
    out = library(name, b, *(a.to("fpext", "double") for a in args))
    return out if args[0].scalar == "double" else out.to("fptrunc", "float")


def _library(name: str) -> Callable[..., Value]:
    return lambda b, *args: through_double(name, b, *args)


def expm1(b: Builder, x: Value) -> Value:
    """e^x - 1. float32 through float64, where only what is next to zero loses too many digits."""
    if x.scalar == "double":
        return library("expm1", b, x)
    wide = x.to("fpext", "double")
    near = b.fma(wide * wide, 0.5, wide)
    result = b.select(b.intrinsic("fabs", wide) < 1e-5, near, exp(b, wide) - 1.0)
    return _signed(b, result.to("fptrunc", "float"), x)  # for the sign of -0


def log1p(b: Builder, x: Value) -> Value:
    """log(1 + x), as expm1."""
    if x.scalar == "double":
        return library("log1p", b, x)
    wide = x.to("fpext", "double")
    near = b.fma(wide * wide, -0.5, wide)
    return b.select(b.intrinsic("fabs", wide) < 1e-5, near, log(b, wide + 1.0)).to("fptrunc", "float")


FUNCTIONS: dict[str, Callable[..., Value]] = {
    **{n: _library(n) for n in ("tan", "asin", "acos", "sinh", "cosh", "asinh", "acosh", "atanh", "atan2")},
    "exponential_minus_one": expm1,
    "log_plus_one": log1p,
    "exponential": exp,
    "log": log,
    "sqrt": lambda b, x: b.intrinsic("sqrt", x),
    "tanh": tanh,
    "logistic": logistic,
    "erf": erf,
    "sine": _turn(0, "sin"),
    "cosine": _turn(1, "cos"),
    "power": power,
}

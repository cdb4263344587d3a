"""Element-wise functions and operators; a function and the method of the same name are one object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from katachi.errors import DTypeError
from katachi.graph import build as b
from katachi.graph.dtypes import as_dtype, bool_
from katachi.graph.halves import HALVES, in_float32
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.modes import check_device
from katachi.tensor.operand import floating, unify
from katachi.tensor.signatures import binary, choice, comparison
from katachi.tensor.types import _G, _S, Fixed, like
from katachi.tensor.varying import apply_varying

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor


def _binary(name: str, primitive: str | None = None, as_float: bool = False, upcast: int | None = None) -> Op:
    return Op(name, lambda x, y: make(primitive or name, *unify(x, y, floating=as_float)), upcast=upcast)


def _exact(name: str, primitive: str | None = None) -> Op:
    return Op(name, lambda x: make(primitive or name, x))


def _function(name: str, primitive: str | None = None) -> Op:
    return Op(name, lambda x: make(primitive or name, floating(x)), upcast=1)


def _comparison(name: str, direction: str) -> Op:
    return Op(name, lambda x, y: make("compare", *unify(x, y), direction=direction))


ADD, SUBTRACT, MULTIPLY = _binary("add"), _binary("subtract"), _binary("multiply", upcast=2)
DIVIDE = _binary("divide", as_float=True, upcast=2)
MAXIMUM, MINIMUM = _binary("maximum", upcast=2), _binary("minimum", upcast=2)
POW = _binary("pow", "power", upcast=2)
AND, OR, XOR = _binary("bitwise_and", "and"), _binary("bitwise_or", "or"), _binary("bitwise_xor", "xor")
EQUAL, NOT_EQUAL = _comparison("equal", "EQ"), _comparison("not_equal", "NE")
LESS, LESS_EQUAL = _comparison("less", "LT"), _comparison("less_equal", "LE")
GREATER, GREATER_EQUAL = _comparison("greater", "GT"), _comparison("greater_equal", "GE")
EXP, LOG, SQRT, TANH = _function("exp", "exponential"), _function("log"), _function("sqrt"), _function("tanh")
SIN, COS, ERF = _function("sin", "sine"), _function("cos", "cosine"), _function("erf")
SIGMOID = _function("sigmoid", "logistic")
FLOOR = Op("floor", lambda x: make("floor", x) if x.dtype.is_floating else x)
ABS, NEGATIVE, SIGN = _exact("abs"), _exact("negative", "negate"), _exact("sign")
INVERT = _exact("bitwise_invert", "not")


@like(binary)
def add(x1: Any, x2: Any, /) -> Any:
    """x1 + x2, broadcast.

    >>> import katachi as kt
    >>> kt.add(kt.tensor([1, 2]), 3).tolist()
    [4, 5]
    """
    return apply(ADD, (x1, x2))


@like(binary)
def subtract(x1: Any, x2: Any, /) -> Any:
    """x1 - x2, broadcast."""
    return apply(SUBTRACT, (x1, x2))


@like(binary)
def multiply(x1: Any, x2: Any, /) -> Any:
    """x1 * x2, broadcast. Half types are computed in float32 and rounded once."""
    return apply(MULTIPLY, (x1, x2))


@like(binary)
def divide(x1: Any, x2: Any, /) -> Any:
    """x1 / x2, broadcast; integers give float32. Half types are computed in float32 and rounded once."""
    return apply(DIVIDE, (x1, x2))


@like(binary)
def maximum(x1: Any, x2: Any, /) -> Any:
    """The larger of two, broadcast; NaN if either is. The gradient goes to the result, half to each at a tie. Half
    types are computed in float32 and rounded once."""
    return apply(MAXIMUM, (x1, x2))


@like(binary)
def minimum(x1: Any, x2: Any, /) -> Any:
    """The smaller of two, broadcast; NaN if either is. The gradient goes to the result, half to each at a tie. Half
    types are computed in float32 and rounded once."""
    return apply(MINIMUM, (x1, x2))


def _integer_power(x: Node, exponent: int) -> Node:
    """By repeated squaring: few roundings."""
    if exponent < 0 and not x.dtype.is_floating:
        raise DTypeError(f"{x.dtype.name} to the power {exponent} is no integer; convert with astype")
    if x.dtype is bool_:
        raise DTypeError("needs a numeric dtype, got bool")
    if exponent < -1:  # not 1 / x ** n, whose gradient is 0 times infinity where that power is 0 or overflows
        return make("power", x, b.like(x, exponent))
    result, square, left = None, x, exponent if exponent >= 0 else -exponent
    while left:
        if left & 1:
            result = square if result is None else make("multiply", result, square)
        left >>= 1
        square = make("multiply", square, square) if left else square
    if result is None:  # no exponent to multiply for, and yet as variable as x
        return make("power", x, b.like(x, 0))
    return make("divide", b.like(x, 1), result) if exponent < 0 else result


def _vary_power(operands: Sequence[Any], attrs: tuple[Any, ...]) -> Any:
    (x,), (exponent,) = operands, attrs
    # x**0 to x**2 have simpler derivatives, and float32 cannot hold integers of more than 24 bits
    varies = x.dtype.is_floating and not -3 < exponent < 3 and exponent.bit_length() <= 24
    return (POW, (x, exponent), ()) if varies else None


INTEGER_POWER = Op("pow", _integer_power, upcast=1, vary=_vary_power)


@like(binary)
def pow(x1: Any, x2: Any, /) -> Any:
    """x1 to the power x2, broadcast. A Python int as exponent is part of the program; any other exponent is not. Half
    types are computed in float32 and rounded once.

    Raises DTypeError for an integer tensor to a negative power.

    >>> import katachi as kt
    >>> kt.pow(kt.tensor([1, 2, 3]), 2).tolist()
    [1, 4, 9]
    """
    if type(x2) is int:  # not a compiled function's number that varies
        return apply_varying(INTEGER_POWER, (x1,), (x2,))
    return apply(POW, (x1, x2))


@like(comparison)
def equal(x1: Any, x2: Any, /) -> Any:
    """x1 == x2 element by element, broadcast: bool."""
    return apply(EQUAL, (x1, x2))


@like(comparison)
def not_equal(x1: Any, x2: Any, /) -> Any:
    """x1 != x2 element by element, broadcast: bool."""
    return apply(NOT_EQUAL, (x1, x2))


@like(comparison)
def less(x1: Any, x2: Any, /) -> Any:
    """x1 < x2, broadcast: bool."""
    return apply(LESS, (x1, x2))


@like(comparison)
def less_equal(x1: Any, x2: Any, /) -> Any:
    """x1 <= x2, broadcast: bool."""
    return apply(LESS_EQUAL, (x1, x2))


@like(comparison)
def greater(x1: Any, x2: Any, /) -> Any:
    """x1 > x2, broadcast: bool."""
    return apply(GREATER, (x1, x2))


@like(comparison)
def greater_equal(x1: Any, x2: Any, /) -> Any:
    """x1 >= x2, broadcast: bool."""
    return apply(GREATER_EQUAL, (x1, x2))


@like(binary)
def bitwise_and(x1: Any, x2: Any, /) -> Any:
    """x1 & x2, broadcast, for bools and integers."""
    return apply(AND, (x1, x2))


@like(binary)
def bitwise_or(x1: Any, x2: Any, /) -> Any:
    """x1 | x2, broadcast, for bools and integers."""
    return apply(OR, (x1, x2))


@like(binary)
def bitwise_xor(x1: Any, x2: Any, /) -> Any:
    """x1 ^ x2, broadcast, for bools and integers."""
    return apply(XOR, (x1, x2))


def bitwise_invert(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """~x for bools and integers."""
    return apply(INVERT, (x,))


def exp(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """e to the power x. Half types are computed in float32 and rounded once."""
    return apply(EXP, (x,))


def log(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The natural logarithm; -inf at 0, NaN below. Half types are computed in float32 and rounded once."""
    return apply(LOG, (x,))


def sqrt(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The square root; NaN below 0. Half types are computed in float32 and rounded once. Its gradient at 0 is infinite,
    so that of a norm written as `(x * x).sum().sqrt()` is NaN where all is 0; `std`, `hypot` and `abs` have a gradient
    of 0 there."""
    return apply(SQRT, (x,))


def tanh(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The hyperbolic tangent. Half types are computed in float32 and rounded once."""
    return apply(TANH, (x,))


def sin(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The sine of an angle in radians. Half types are computed in float32 and rounded once."""
    return apply(SIN, (x,))


def cos(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The cosine of an angle in radians. Half types are computed in float32 and rounded once."""
    return apply(COS, (x,))


def erf(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x. Half types are computed in float32
    and rounded once."""
    return apply(ERF, (x,))


def sigmoid(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """1 / (1 + exp(-x)). Half types are computed in float32 and rounded once."""
    return apply(SIGMOID, (x,))


def floor(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The largest integer not above x; integers stay as they are."""
    return apply(FLOOR, (x,))


def abs(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The absolute value; the gradient at 0 is 0."""
    return apply(ABS, (x,))


def negative(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """-x."""
    return apply(NEGATIVE, (x,))


def sign(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """-1, 0 or 1; NaN stays NaN."""
    return apply(SIGN, (x,))


def _relu(x: Node) -> Node:
    zero = b.like(x, 0)
    return b.select(b.compare(x, "LE", zero), zero, x)


def _leaky_relu(x: Node, slope: Node) -> Node:
    positive = b.compare(x, "GT", b.like(x, 0))
    return b.select(positive, x, b.multiply(b.select(positive, b.like(x, 0), x), slope))


def _gelu(x: Node, approximate: str) -> Node:
    x = floating(x)
    if x.dtype in HALVES:
        return in_float32(lambda x: b.multiply(x, _CDF[approximate](x)), x)
    if approximate == "tanh":
        return b.multiply(b.scale(x, 0.5), b.shift(make("tanh", _inner(x)), 1.0))
    return b.multiply(b.scale(x, 0.5), b.shift(make("erf", b.scale(x, math.sqrt(0.5))), 1.0))


def _inner(x: Node) -> Node:
    square, most = b.multiply(x, x), b.like(x, 1e4)  # from there on tanh is flat, and the square may be infinite
    square = b.select(b.compare(square, "GT", most), most, square)
    return b.multiply(b.scale(x, math.sqrt(2 / math.pi)), b.shift(b.scale(square, 0.044715), 1.0))


# p of erfc(z) = t exp(p(t) - z**2), t = 1 / (1 + z / 2), in Press et al., Numerical Recipes (1992), 6.2. Fitted by
# least squares at 2000 Chebyshev nodes of 0 <= t <= 1, where it is within 1.1e-7.
_TAIL = (
    -1.2655122, 1.0000237, 0.37409195, 0.09678419, -0.18628806,
    0.27886808, -1.135204, 1.4885159, -0.82215226, 0.17087278,
)  # fmt: skip


def _normal_cdf(x: Node) -> Node:
    """The normal distribution's cumulative function. Far below zero a half still has digits of it, where 1 + erf has
    lost all of float32's."""
    below = b.compare(x, "LT", b.like(x, 0.0))
    z = b.multiply(x, b.select(below, b.like(x, -math.sqrt(0.5)), b.like(x, math.sqrt(0.5))))
    t = b.divide(b.like(z, 1.0), b.shift(b.scale(z, 0.5), 1.0))
    p = b.like(t, _TAIL[-1])
    for coefficient in _TAIL[-2::-1]:
        p = b.shift(b.multiply(p, t), coefficient)
    tail = b.multiply(b.scale(t, 0.5), make("exponential", b.subtract(p, b.multiply(z, z))))
    return b.select(below, tail, b.subtract(b.like(tail, 1.0), tail))


def _tanh_cdf(x: Node) -> Node:
    """(1 + tanh(inner)) / 2 as a sigmoid, which cancels nowhere; beyond 30 it is 0 or 1, but a cube may be infinite."""
    near = make("maximum", make("minimum", x, b.like(x, 30.0)), b.like(x, -30.0))
    return make("logistic", b.scale(_inner(near), 2.0))


_CDF = {"none": _normal_cdf, "tanh": _tanh_cdf}


RELU, LEAKY_RELU = (
    Op("relu", _relu),
    Op("leaky_relu", lambda x, s: _leaky_relu(floating(x), b.convert(s, floating(x).dtype)), upcast=1),
)
GELU = Op("gelu", _gelu, upcast=0)


def relu(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """max(x, 0); the gradient at 0 is 0, NaN stays NaN."""
    return apply(RELU, (x,))


def leaky_relu(x: Tensor[_S, _G], /, negative_slope: float = 0.01) -> Tensor[_S, _G]:
    """x where positive, negative_slope * x elsewhere. Half types are computed in float32 and rounded once."""
    return apply(LEAKY_RELU, (x, negative_slope))


def gelu(x: Tensor[_S, _G], /, approximate: str = "none") -> Tensor[_S, _G]:
    """x times the normal distribution's cumulative function at x (Hendrycks and Gimpel, 2016); `approximate="tanh"` is
    their approximation. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> round(kt.gelu(kt.tensor(1.0)).item(), 4)
    0.8413
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f'gelu: approximate is "none" or "tanh", got {approximate!r}')
    return apply(GELU, (x,), (approximate,))


def _where(which: Node, yes: Node, no: Node) -> Node:
    if which.dtype is not bool_:
        raise DTypeError(f"needs a bool condition, got {which.dtype.name}")
    yes, no = unify(yes, no)
    return b.select(*_same_shape(which, yes, no))


def _same_shape(which: Node, yes: Node, no: Node) -> tuple[Node, Node, Node]:
    flag, _ = unify(which, b.convert(yes, bool_) if yes.dtype is bool_ else b.compare(yes, "EQ", yes))
    return flag, b.spread(yes, flag.shape), b.spread(no, flag.shape)


WHERE = Op("where", _where)


@like(choice)
def where(condition: Any, x1: Any, x2: Any, /) -> Any:
    """x1 where the condition holds, x2 elsewhere, broadcast. Raises DTypeError unless the condition is bool.

    >>> import katachi as kt
    >>> kt.where(kt.tensor([True, False]), 1, kt.tensor([5, 6])).tolist()
    [1, 6]
    """
    return apply(WHERE, (condition, x1, x2))


ASTYPE = Op("astype", lambda x, dtype: b.convert(x, dtype))


def astype(x: Tensor[_S, _G], dtype: Any, /, *, copy: bool = True, device: str | None = None) -> Tensor[_S, _G]:
    """x in another dtype; floats to integers truncate. A variable stays one only between floating-point dtypes.

    `device` as in `x.to(device)`. `copy` makes no difference, because values never change. Raises DTypeError.

    >>> import katachi as kt
    >>> kt.tensor([1.9, -1.9]).astype(kt.int32).tolist()
    [1, -1]
    """
    out = apply(ASTYPE, (x,), (as_dtype(dtype),))
    return out if device is None else out.to(check_device(device))


FREEZE = Op("freeze", lambda x: make("stop_gradient", x))
TRACK = Op("variable", lambda x: make("variable", x))


def freeze(x: Tensor[_S, Fixed], /) -> Tensor[_S, Fixed]:
    """The value as a constant: nothing flows back through it."""
    return apply(FREEZE, (x,))

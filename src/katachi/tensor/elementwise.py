"""Element-wise functions and operators; a function and the method of the same name are one object."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from katachi.errors import DTypeError
from katachi.graph import build as b
from katachi.graph.dtypes import as_dtype, bool_
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.operand import floating, unify
from katachi.tensor.signatures import binary, choice, comparison
from katachi.tensor.types import _G, _S, Fixed, like

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor


def _binary(name: str, primitive: str | None = None, as_float: bool = False) -> Op:
    return Op(name, lambda x, y: make(primitive or name, *unify(x, y, floating=as_float)))


def _unary(name: str, primitive: str | None = None, as_float: bool = True) -> Op:
    return Op(name, lambda x: make(primitive or name, floating(x) if as_float else x))


def _comparison(name: str, direction: str) -> Op:
    return Op(name, lambda x, y: make("compare", *unify(x, y), direction=direction))


ADD, SUBTRACT, MULTIPLY = _binary("add"), _binary("subtract"), _binary("multiply")
DIVIDE = _binary("divide", as_float=True)
MAXIMUM, MINIMUM = _binary("maximum"), _binary("minimum")
POW = Op("pow", lambda x, y: make("power", *unify(x, y)))
AND, OR, XOR = _binary("bitwise_and", "and"), _binary("bitwise_or", "or"), _binary("bitwise_xor", "xor")
EQUAL, NOT_EQUAL = _comparison("equal", "EQ"), _comparison("not_equal", "NE")
LESS, LESS_EQUAL = _comparison("less", "LT"), _comparison("less_equal", "LE")
GREATER, GREATER_EQUAL = _comparison("greater", "GT"), _comparison("greater_equal", "GE")
EXP, LOG, SQRT, TANH = _unary("exp", "exponential"), _unary("log"), _unary("sqrt"), _unary("tanh")
SIN, COS, ERF, SIGMOID = _unary("sin", "sine"), _unary("cos", "cosine"), _unary("erf"), _unary("sigmoid", "logistic")
FLOOR = Op("floor", lambda x: make("floor", x) if x.dtype.is_floating else x)
ABS, NEGATIVE, SIGN = _unary("abs", as_float=False), _unary("negative", "negate", False), _unary("sign", as_float=False)
INVERT = _unary("bitwise_invert", "not", as_float=False)


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
    """x1 * x2, broadcast."""
    return apply(MULTIPLY, (x1, x2))


@like(binary)
def divide(x1: Any, x2: Any, /) -> Any:
    """x1 / x2, broadcast; integers give float32."""
    return apply(DIVIDE, (x1, x2))


@like(binary)
def maximum(x1: Any, x2: Any, /) -> Any:
    """The larger of two, broadcast; NaN if either is. The gradient goes to the result, half to each at a tie."""
    return apply(MAXIMUM, (x1, x2))


@like(binary)
def minimum(x1: Any, x2: Any, /) -> Any:
    """The smaller of two, broadcast; NaN if either is. The gradient goes to the result, half to each at a tie."""
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


INTEGER_POWER = Op("pow", _integer_power)


@like(binary)
def pow(x1: Any, x2: Any, /) -> Any:
    """x1 to the power x2, broadcast. A Python int as exponent is part of the program; any other exponent is not.

    Raises DTypeError for an integer tensor to a negative power.

    >>> import katachi as kt
    >>> kt.pow(kt.tensor([1, 2, 3]), 2).tolist()
    [1, 4, 9]
    """
    if x2.__class__ is int:
        return apply(INTEGER_POWER, (x1,), (x2,))
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
    """e to the power x."""
    return apply(EXP, (x,))


def log(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The natural logarithm; -inf at 0, NaN below."""
    return apply(LOG, (x,))


def sqrt(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The square root; NaN below 0. Its gradient at 0 is infinite, so that of a norm written as `(x * x).sum().sqrt()`
    is NaN where all is 0; `std`, `hypot` and `abs` have a gradient of 0 there."""
    return apply(SQRT, (x,))


def tanh(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The hyperbolic tangent."""
    return apply(TANH, (x,))


def sin(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The sine of an angle in radians."""
    return apply(SIN, (x,))


def cos(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The cosine of an angle in radians."""
    return apply(COS, (x,))


def erf(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    return apply(ERF, (x,))


def sigmoid(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """1 / (1 + exp(-x))."""
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
    if approximate == "tanh":
        square, most = b.multiply(x, x), b.like(x, 1e4)  # from there on tanh is flat, and the square may be infinite
        square = b.select(b.compare(square, "GT", most), most, square)
        inner = b.multiply(b.scale(x, math.sqrt(2 / math.pi)), b.shift(b.scale(square, 0.044715), 1.0))
        return b.multiply(b.scale(x, 0.5), b.shift(make("tanh", inner), 1.0))
    return b.multiply(b.scale(x, 0.5), b.shift(make("erf", b.scale(x, math.sqrt(0.5))), 1.0))


RELU, LEAKY_RELU = (
    Op("relu", _relu),
    Op("leaky_relu", lambda x, s: _leaky_relu(floating(x), b.convert(s, floating(x).dtype))),
)
GELU = Op("gelu", lambda x, how: _gelu(floating(x), how))


def relu(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """max(x, 0); the gradient at 0 is 0, NaN stays NaN."""
    return apply(RELU, (x,))


def leaky_relu(x: Tensor[_S, _G], /, negative_slope: float = 0.01) -> Tensor[_S, _G]:
    """x where positive, negative_slope * x elsewhere."""
    return apply(LEAKY_RELU, (x, negative_slope))


def gelu(x: Tensor[_S, _G], /, approximate: str = "none") -> Tensor[_S, _G]:
    """x times the normal distribution's cumulative function at x (Hendrycks and Gimpel, 2016); `approximate="tanh"` is
    their approximation.

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
    return out if device is None else out.to(device)


FREEZE = Op("freeze", lambda x: make("stop_gradient", x))
TRACK = Op("variable", lambda x: make("variable", x))


def freeze(x: Tensor[_S, Fixed], /) -> Tensor[_S, Fixed]:
    """The value as a constant: nothing flows back through it."""
    return apply(FREEZE, (x,))

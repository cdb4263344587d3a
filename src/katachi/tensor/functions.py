"""More element-wise functions: angles, logarithms, rounding, tests, division with remainder, shifts, truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import bool_
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.operand import floating, unify
from katachi.tensor.signatures import binary, comparison
from katachi.tensor.types import _G, _S, Fixed, like

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor


def _unary(name: str, primitive: str | None = None) -> Op:
    return _of_one(name, lambda x: make(primitive or name, x))


def _rounding(name: str, build: Callable[[Node], Node]) -> Op:
    """Integers and bools are whole already."""
    return Op(name, lambda x: build(x) if x.dtype.is_floating else x)


def _of_one(name: str, build: Callable[[Node], Node]) -> Op:
    return Op(name, lambda x: build(floating(x)), upcast=1)


TAN, ASIN, ACOS, ATANH = _unary("tan"), _unary("asin"), _unary("acos"), _unary("atanh")
SINH, COSH, ASINH, ACOSH = _unary("sinh"), _unary("cosh"), _unary("asinh"), _unary("acosh")
ATAN = _of_one("atan", lambda x: make("atan2", x, b.like(x, 1.0)))
ATAN2 = Op("atan2", lambda y, x: make("atan2", *unify(y, x, floating=True)), upcast=2)
EXPM1, LOG1P = _unary("expm1", "exponential_minus_one"), _unary("log1p", "log_plus_one")


def _logarithm(name: str, base: float) -> Op:
    return _of_one(name, lambda x: b.divide(make("log", x), b.like(x, math.log(base))))


LOG2, LOG10 = _logarithm("log2", 2.0), _logarithm("log10", 10.0)
RECIPROCAL = _of_one("reciprocal", lambda x: b.divide(b.like(x, 1.0), x))
RSQRT = _of_one("rsqrt", lambda x: b.divide(b.like(x, 1.0), make("sqrt", x)))
SQUARE = Op("square", lambda x: make("multiply", x, x), upcast=1)
CEIL = _rounding("ceil", lambda x: make("ceil", x))
ROUND = _rounding("round", lambda x: make("round_nearest_even", x))
TRUNC = _rounding("trunc", lambda x: b.select(b.compare(x, "LT", b.like(x, 0.0)), make("ceil", x), make("floor", x)))


def tan(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The tangent of an angle in radians. Half types are computed in float32 and rounded once."""
    return apply(TAN, (x,))


def asin(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The angle from -pi/2 to pi/2 with this sine; NaN outside -1 to 1. Half types are computed in float32 and rounded
    once."""
    return apply(ASIN, (x,))


def acos(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The angle from 0 to pi with this cosine; NaN outside -1 to 1. Half types are computed in float32 and rounded
    once."""
    return apply(ACOS, (x,))


def atan(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The angle from -pi/2 to pi/2 with this tangent. Half types are computed in float32 and rounded once."""
    return apply(ATAN, (x,))


@like(binary)
def atan2(x1: Any, x2: Any, /) -> Any:
    """The angle of the point (x2, x1), from -pi to pi, broadcast. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> f"{kt.atan2(kt.tensor(1.0), -1.0):.4f}"
    '2.3562'
    """
    return apply(ATAN2, (x1, x2))


def sinh(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The hyperbolic sine. Half types are computed in float32 and rounded once."""
    return apply(SINH, (x,))


def cosh(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The hyperbolic cosine. Half types are computed in float32 and rounded once."""
    return apply(COSH, (x,))


def asinh(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The inverse of the hyperbolic sine. Half types are computed in float32 and rounded once."""
    return apply(ASINH, (x,))


def acosh(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The inverse of the hyperbolic cosine; NaN below 1. Half types are computed in float32 and rounded once."""
    return apply(ACOSH, (x,))


def atanh(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The inverse of the hyperbolic tangent; infinite at -1 and 1, NaN beyond. Half types are computed in float32 and
    rounded once."""
    return apply(ATANH, (x,))


def expm1(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """exp(x) - 1, with all digits near zero. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.expm1(kt.tensor(1e-10, dtype=kt.float64)).item()
    1.00000000005e-10
    """
    return apply(EXPM1, (x,))


def log1p(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """log(1 + x), with all digits near zero; -inf at -1, NaN below. Half types are computed in float32 and rounded
    once."""
    return apply(LOG1P, (x,))


def log2(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The logarithm to base 2. Half types are computed in float32 and rounded once."""
    return apply(LOG2, (x,))


def log10(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The logarithm to base 10. Half types are computed in float32 and rounded once."""
    return apply(LOG10, (x,))


def logaddexp_of(x: Node, y: Node) -> Node:
    """larger + log(1 + exp(smaller - larger)). Which is which is chosen as a whole, so that at a tie either formula
    holds with all its derivatives, where those of maximum and abs have a kink that the sum has not."""
    x, y = unify(x, y, floating=True)
    first = b.compare(x, "GE", y)
    larger, smaller = b.select(first, x, y), b.select(first, y, x)
    # two equal infinities have no difference, and share what comes of them
    alike = make("and", b.compare(x, "EQ", y), make("not", make("is_finite", x)))
    larger = b.select(alike, b.scale(b.add(x, y), 0.5), larger)
    apart = b.select(alike, b.like(x, 0.0), b.subtract(smaller, larger))
    return b.add(larger, make("log_plus_one", make("exponential", apart)))


LOGADDEXP = Op("logaddexp", logaddexp_of, upcast=2)


@like(binary)
def logaddexp(x1: Any, x2: Any, /) -> Any:
    """log(exp(x1) + exp(x2)), broadcast, where the exponentials may overflow. Half types are computed in float32 and
    rounded once.

    >>> import katachi as kt
    >>> kt.logaddexp(kt.tensor(1000.0), -1000.0).item()
    1000.0
    """
    return apply(LOGADDEXP, (x1, x2))


def square(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """x times x. Half types are computed in float32 and rounded once."""
    return apply(SQUARE, (x,))


def reciprocal(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """1 / x; integers give float32. Half types are computed in float32 and rounded once."""
    return apply(RECIPROCAL, (x,))


def rsqrt(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """1 / sqrt(x); infinite at 0, NaN below. Half types are computed in float32 and rounded once."""
    return apply(RSQRT, (x,))


def positive(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """x itself."""
    return x


def ceil(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The smallest integer not below x; integers stay as they are."""
    return apply(CEIL, (x,))


def round(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The nearest integer, of two the even one; integers stay as they are.

    >>> import katachi as kt
    >>> kt.round(kt.tensor([0.5, 1.5, -0.7])).tolist()
    [0.0, 2.0, -1.0]
    """
    return apply(ROUND, (x,))


def trunc(x: Tensor[_S, _G], /) -> Tensor[_S, _G]:
    """The nearest integer towards zero; integers stay as they are."""
    return apply(TRUNC, (x,))


def _finite(x: Node) -> Node:
    return make("is_finite", x) if x.dtype.is_floating else b.full(True, x.shape, bool_, x.device)


ISFINITE = Op("isfinite", _finite)
ISNAN = Op("isnan", lambda x: b.compare(x, "NE", x))
ISINF = Op("isinf", lambda x: make("not", make("or", _finite(x), b.compare(x, "NE", x))))


def isfinite(x: Tensor[_S, Fixed], /) -> Tensor[_S, Fixed]:
    """Whether each element is neither infinite nor NaN: bool."""
    return apply(ISFINITE, (x,))


def isnan(x: Tensor[_S, Fixed], /) -> Tensor[_S, Fixed]:
    """Whether each element is NaN: bool."""
    return apply(ISNAN, (x,))


def isinf(x: Tensor[_S, Fixed], /) -> Tensor[_S, Fixed]:
    """Whether each element is inf or -inf: bool."""
    return apply(ISINF, (x,))


def _truncated(x: Node, y: Node) -> tuple[Node, Node]:
    """What truncating division leaves, and whether flooring division would leave more."""
    left = make("remainder", x, y)
    zero = b.like(x, 0)
    opposite = make("xor", b.compare(left, "LT", zero), b.compare(y, "LT", zero))
    return left, make("and", opposite, b.compare(left, "NE", zero))


def _remainder(x: Node, y: Node) -> Node:
    x, y = unify(x, y)
    left, more = _truncated(x, y)
    return b.select(more, b.add(left, y), left)


def _floor_divide(x: Node, y: Node) -> Node:
    x, y = unify(x, y)
    left, more = _truncated(x, y)
    if not x.dtype.is_floating:
        quotient = b.divide(x, y)
        return b.select(more, b.shift(quotient, -1), quotient) if x.dtype.kind == "int" else quotient
    # a whole number but for rounding
    quotient = make("round_nearest_even", b.divide(b.subtract(x, left), y))
    quotient = b.select(more, b.shift(quotient, -1.0), quotient)
    quotient = b.select(b.compare(y, "EQ", b.like(y, 0.0)), b.divide(x, y), quotient)
    return b.flat(quotient, x, y)


REMAINDER, FLOOR_DIVIDE = Op("remainder", _remainder, upcast=2), Op("floor_divide", _floor_divide, upcast=2)


@like(binary)
def remainder(x1: Any, x2: Any, /) -> Any:
    """x1 % x2, broadcast: what floor_divide leaves, with x2's sign. An integer's by zero is zero, a float's NaN. Half
    types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.remainder(kt.tensor([5, -5]), 3).tolist()
    [2, 1]
    """
    return apply(REMAINDER, (x1, x2))


@like(binary)
def floor_divide(x1: Any, x2: Any, /) -> Any:
    """x1 // x2, broadcast: the quotient, rounded down. An integer divided by zero is zero. Half types are computed in
    float32 and rounded once.

    >>> import katachi as kt
    >>> kt.floor_divide(kt.tensor([5, -5]), 3).tolist()
    [1, -2]
    """
    return apply(FLOOR_DIVIDE, (x1, x2))


def _shift(primitive: str) -> Callable[[Node, Node], Node]:
    def build(x: Node, y: Node) -> Node:
        x, y = unify(x, y)
        if not x.dtype.is_integer:
            raise DTypeError(f"needs integers, got {x.dtype.name}")
        return make("shift_right_logical" if primitive != "shift_left" and x.dtype.kind == "uint" else primitive, x, y)

    return build


LEFT_SHIFT = Op("bitwise_left_shift", _shift("shift_left"))
RIGHT_SHIFT = Op("bitwise_right_shift", _shift("shift_right_arithmetic"))


@like(binary)
def bitwise_left_shift(x1: Any, x2: Any, /) -> Any:
    """x1 << x2, broadcast, for integers: what is shifted out is lost, by the width or more all of it."""
    return apply(LEFT_SHIFT, (x1, x2))


@like(binary)
def bitwise_right_shift(x1: Any, x2: Any, /) -> Any:
    """x1 >> x2, broadcast, for integers: rounds down, keeping the sign."""
    return apply(RIGHT_SHIFT, (x1, x2))


def _logical(primitive: str) -> Callable[..., Node]:
    return lambda *xs: make(primitive, *unify(*(b.convert(x, bool_) for x in xs)))


LOGICAL_AND, LOGICAL_OR = Op("logical_and", _logical("and")), Op("logical_or", _logical("or"))
LOGICAL_XOR, LOGICAL_NOT = Op("logical_xor", _logical("xor")), Op("logical_not", _logical("not"))


@like(comparison)
def logical_and(x1: Any, x2: Any, /) -> Any:
    """Whether both are true (not zero), broadcast: bool."""
    return apply(LOGICAL_AND, (x1, x2))


@like(comparison)
def logical_or(x1: Any, x2: Any, /) -> Any:
    """Whether one or both are true (not zero), broadcast: bool."""
    return apply(LOGICAL_OR, (x1, x2))


@like(comparison)
def logical_xor(x1: Any, x2: Any, /) -> Any:
    """Whether just one of two is true (not zero), broadcast: bool."""
    return apply(LOGICAL_XOR, (x1, x2))


def logical_not(x: Tensor[_S, Fixed], /) -> Tensor[_S, Fixed]:
    """Whether each element is false (zero): bool."""
    return apply(LOGICAL_NOT, (x,))


def _clip(x: Node, *rest: Any) -> Node:
    """rest: the bounds there are, then whether there is a lower and an upper one."""
    bounds, (lower, upper) = list(rest[:-2]), rest[-2:]
    shape = x.shape
    x, *bounds = unify(x, *bounds)
    if x.shape != shape:
        raise ShapeError(f"bounds must broadcast to {shape}; together they give {x.shape}")
    if lower:
        x = _bounded(x, "LT", bounds.pop(0))
    if upper:
        x = _bounded(x, "GT", bounds.pop(0))
    return x


def _bounded(x: Node, beyond: str, bound: Node) -> Node:
    outside = b.compare(x, beyond, bound)
    if x.dtype.is_floating:
        outside = make("or", outside, b.compare(bound, "NE", bound))
    return b.select(outside, bound, x)


CLIP = Op("clip", _clip)


def clip(x: Tensor[_S, _G], /, min: Any = None, max: Any = None) -> Tensor[_S, _G]:
    """x, but nothing below `min` or above `max` (numbers or tensors that broadcast to x, or None). NaN where
    x or a bound is NaN.

    The gradient passes where x lies between, ends included. Raises ShapeError for bounds larger than x.

    >>> import katachi as kt
    >>> kt.clip(kt.tensor([-3, 1, 8]), 0, 5).tolist()
    [0, 1, 5]
    """
    bounds = [v for v in (min, max) if v is not None]
    return apply(CLIP, (x, *bounds), (min is not None, max is not None))

"""Derivatives of element-wise primitives. Both differentiation columns take them from here, so that they agree wherever
a rule has to choose: at ties, at the ends of domains, at infinity."""

from __future__ import annotations

import math
from collections.abc import Callable

from ml_dtypes import finfo

from katachi.graph import build as b
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.transforms.view import View

Derivative = Callable[[Node, View], Node]  # of a cotangent or a tangent: that times the derivative


def _times(slope: Callable[[View], Node]) -> Derivative:
    return lambda g, v: b.multiply(g, slope(v))


def _over(steepness: Callable[[View], Node]) -> Derivative:
    """For a slope of 1 / steepness: one rounding less, and what is small enough stays finite where the slope is not."""
    return lambda g, v: b.divide(g, steepness(v))


def _itself(g: Node, v: View) -> Node:
    return g


def _opposite(g: Node, v: View) -> Node:
    return make("negate", g)


def _nothing(g: Node, v: View) -> Node:
    return b.like(g, 0.0)


def _positive_zero(x: Node) -> Node:
    """x with 0 for -0: the one side from which these functions come to zero is that of positive numbers."""
    return b.shift(x, 0.0)


def _logistic(v: View) -> Node:
    return b.multiply(v.out, b.subtract(b.like(v.node, 1.0), v.out))


def _tanh(v: View) -> Node:
    return b.subtract(b.like(v.node, 1.0), b.multiply(v.out, v.out))


def _erf(v: View) -> Node:
    x = v.x(0)
    return b.scale(make("exponential", make("negate", b.multiply(x, x))), 2 / math.sqrt(math.pi))


def _one_less_square(v: View) -> Node:
    """1 - x ** 2, as a product: near one its digits are kept."""
    x, one = v.x(0), b.like(v.node, 1.0)
    return b.multiply(b.subtract(one, x), b.add(one, x))


def _root_of_one_less_square(v: View) -> Node:
    return make("sqrt", _one_less_square(v))


def _asinh(v: View) -> Node:
    """sqrt(x ** 2 + 1): |x| where the one is nothing beside the square, which may overflow."""
    x = v.x(0)
    size = make("abs", x)
    far = b.compare(size, "GT", b.like(x, math.sqrt(2 / float(finfo(x.dtype.numpy).eps))))
    near = b.select(far, b.like(x, 0.0), x)
    return b.select(far, size, make("sqrt", b.shift(b.multiply(near, near), 1.0)))


def _acosh(g: Node, v: View) -> Node:
    """g / sqrt(x ** 2 - 1), in two factors that neither overflow nor lose digits near one."""
    return b.divide(b.divide(g, make("sqrt", b.shift(v.x(0), -1.0))), make("sqrt", b.shift(v.x(0), 1.0)))


def _atan2(v: View, i: int) -> Node:
    """x / r ** 2 and -y / r ** 2 for the angle of (x, y), with the larger divided out first, so that nothing overflows.
    0 at infinity, where the angle stands still, and at the origin, where there is none."""
    y, x = v.x(0), v.x(1)
    size = make("stop_gradient", make("maximum", make("abs", y), make("abs", x)))
    still = make("or", *(b.compare(size, "EQ", b.like(size, end)) for end in (0.0, math.inf)))
    y, x, size = (b.select(still, b.like(n, 1.0), n) for n in (y, x, size))
    mine, other = b.divide(y, size), b.divide(x, size)
    square = b.multiply(size, b.add(b.multiply(mine, mine), b.multiply(other, other)))
    return b.select(still, b.like(y, 0.0), b.divide(other if i == 0 else make("negate", mine), square))


def _remainder(v: View) -> Node:
    """d(a rem e) / de = -trunc(a / e): what was taken from a, over e. That is a whole number but for rounding, while
    the rounded a / e may be one where the true one is not."""
    return make("negate", make("round_nearest_even", b.divide(b.subtract(v.x(0), v.out), v.x(1))))


def _power_base(v: View) -> Node:
    """d(a ** e) / da = e a ** (e - 1), and 0 where e is 0, whatever a is, in derivatives of this too; and where e is
    infinite and a ** e is 0, on both sides of a."""
    a, e = v.x(0), v.x(1)
    one, zero = b.like(a, 1.0), b.like(a, 0.0)
    safe = make("or", b.compare(e, "NE", zero), make("is_finite", b.divide(one, a)))
    rest = make("power", b.select(safe, a, one), b.shift(e, -1.0))
    gone = make("and", b.compare(rest, "EQ", zero), b.compare(make("abs", e), "EQ", b.like(e, math.inf)))
    return b.multiply(b.select(gone, zero, e), rest)


def _power_exponent(v: View) -> Node:
    """d(a ** e) / de = a ** e log a, and 0 where a ** e stays 0 (or jumps to 1): at 0 for no negative e, at infinity
    for a negative one."""
    a, e, zero = v.x(0), v.x(1), b.like(v.node, 0.0)
    at_zero = make("and", b.compare(a, "EQ", zero), b.compare(e, "GE", zero))
    at_infinity = make("and", b.compare(a, "EQ", b.like(a, math.inf)), b.compare(e, "LT", zero))
    still = make("or", at_zero, at_infinity)
    return b.select(still, zero, b.multiply(v.out, make("log", b.select(still, b.like(a, 1.0), a))))


def _extreme_part(g: Node, v: View, i: int, direction: str) -> Node:
    """What of g belongs to operand i of maximum (direction GE) or minimum (LE): all where it wins, as a NaN does, half
    at a tie."""
    mine, other, zero = v.x(i), v.x(1 - i), b.like(g, 0.0)

    def stays(x: Node, beside: Node) -> Node:
        return make("or", b.compare(x, direction, beside), b.compare(x, "NE", x))

    return b.select(stays(mine, other), b.select(stays(other, mine), b.scale(g, 0.5), g), zero)


# For each operand what becomes of a cotangent or a tangent.
DERIVATIVES: dict[str, tuple[Derivative, ...]] = {
    "add": (_itself, _itself),
    "subtract": (_itself, _opposite),
    "multiply": (lambda g, v: b.multiply(g, v.x(1)), lambda g, v: b.multiply(g, v.x(0))),
    "divide": (
        lambda g, v: b.divide(g, v.x(1)),
        lambda g, v: make("negate", b.divide(b.multiply(g, v.out), v.x(1))),
    ),
    "power": (_times(_power_base), _times(_power_exponent)),
    "maximum": tuple(lambda g, v, i=i: _extreme_part(g, v, i, "GE") for i in range(2)),
    "minimum": tuple(lambda g, v, i=i: _extreme_part(g, v, i, "LE") for i in range(2)),
    "atan2": tuple(_times(lambda v, i=i: _atan2(v, i)) for i in range(2)),
    "remainder": (_itself, _times(_remainder)),
    "tan": (_times(lambda v: b.shift(b.multiply(v.out, v.out), 1.0)),),
    "asin": (_over(_root_of_one_less_square),),
    "acos": (_over(lambda v: make("negate", _root_of_one_less_square(v))),),
    "sinh": (_times(lambda v: make("cosh", v.x(0))),),
    "cosh": (_times(lambda v: make("sinh", v.x(0))),),
    "asinh": (_over(_asinh),),
    "acosh": (_acosh,),
    "atanh": (_over(_one_less_square),),
    "exponential_minus_one": (_times(lambda v: make("exponential", v.x(0))),),
    "log_plus_one": (_over(lambda v: b.shift(v.x(0), 1.0)),),
    "abs": (_times(lambda v: make("sign", v.x(0))),),
    "negate": (_opposite,),
    "exponential": (_times(lambda v: v.out),),
    "log": (_over(lambda v: _positive_zero(v.x(0))),),
    "sqrt": (_over(lambda v: b.scale(_positive_zero(v.out), 2.0)),),
    "tanh": (_times(_tanh),),
    "logistic": (_times(_logistic),),
    "erf": (_times(_erf),),
    "sine": (_times(lambda v: make("cosine", v.x(0))),),
    "cosine": (_times(lambda v: make("negate", make("sine", v.x(0)))),),
    # constant between jumps
    "sign": (_nothing,),
    "floor": (_nothing,),
    "ceil": (_nothing,),
    "round_nearest_even": (_nothing,),
}

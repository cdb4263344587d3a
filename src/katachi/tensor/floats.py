"""What looks at the bits of floating-point numbers (signs, neighbours), and lengths that must not overflow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ml_dtypes import finfo

from katachi.graph import build as b
from katachi.graph.dtypes import bool_, int16, int32, int64
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.operand import unify
from katachi.tensor.signatures import binary, comparison
from katachi.tensor.types import _S, Fixed, like

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor

_INTEGER = {2: int16, 4: int32, 8: int64}  # of a floating-point dtype's width


def _bits(x: Node) -> Node:
    """A float's bits as a signed integer: negative where the sign bit is set, and larger the larger the magnitude."""
    return make("bitcast_convert", x, dtype=_INTEGER[x.dtype.itemsize])


def _signbit(x: Node) -> Node:
    if x.dtype.kind in ("bool", "uint"):
        return b.full(False, x.shape, bool_, x.device)
    x = _bits(x) if x.dtype.is_floating else x
    return b.compare(x, "LT", b.like(x, 0))


def _copysign(x: Node, y: Node) -> Node:
    x, y = unify(x, y, floating=True)
    differ = make("xor", _signbit(x), _signbit(y))
    signed = b.select(differ, make("negate", x), x)
    signed = b.select(b.compare(x, "EQ", b.like(x, 0.0)), make("stop_gradient", signed), signed)  # 0 at 0, as abs
    return b.select(b.full(True, x.shape, bool_, x.device), signed, y) if y.tracked else signed  # flat in y


def _hypot(x: Node, y: Node) -> Node:
    x, y = unify(x, y, floating=True)
    zero, inf, least = (b.like(x, v) for v in (0.0, math.inf, float(finfo(x.dtype.numpy).smallest_normal)))
    far = [b.compare(make("abs", v), "EQ", inf) for v in (x, y)]
    infinite = make("or", *far)  # beside that nothing counts
    largest = make("maximum", *(make("abs", b.select(end, v, zero)) for end, v in zip(far, (x, y), strict=True)))
    x, y = (b.select(infinite, zero, v) for v in (x, y))
    # nothing overflows once the larger is divided out; what it is makes no difference, so nothing flows through it
    size = make("maximum", make("maximum", make("abs", x), make("abs", y)), least)
    size = make("stop_gradient", size)
    p, q = b.divide(x, size), b.divide(y, size)
    root = b.root_of_powers(b.add(b.multiply(p, p), b.multiply(q, q)))
    return b.select(infinite, largest, b.multiply(size, root))


def _nextafter(x: Node, y: Node) -> Node:
    """On integers that have the floats' order, because a device may count what is below the normal numbers as zero."""
    x, y = (make("stop_gradient", v) for v in unify(x, y, floating=True))
    bits, other = _bits(x), _bits(y)
    least, zero, one = (b.like(bits, n) for n in (bits.dtype.bounds[0], 0, 1))
    here, there = (b.select(b.compare(v, "LT", zero), b.subtract(least, v), v) for v in (bits, other))
    away = b.compare(b.compare(here, "LT", there), "EQ", b.compare(here, "GT", zero))  # from zero: the size grows
    step = b.add(bits, b.select(away, one, make("negate", one)))
    step = b.select(b.compare(here, "EQ", zero), make("or", make("and", other, least), one), step)
    step = b.select(b.compare(here, "EQ", there), other, step)
    nan = make("or", b.compare(x, "NE", x), b.compare(y, "NE", y))
    return b.select(nan, b.like(x, math.nan), make("bitcast_convert", step, dtype=x.dtype))


SIGNBIT, COPYSIGN = Op("signbit", _signbit), Op("copysign", _copysign)
NEXTAFTER, HYPOT = Op("nextafter", _nextafter), Op("hypot", _hypot, upcast=2)


def signbit(x: Tensor[_S, Fixed], /) -> Tensor[_S, Fixed]:
    """Whether each element's sign bit is set: bool, true of -0.0 as well; of x's shape.

    >>> import katachi as kt
    >>> kt.signbit(kt.tensor([-2.0, -0.0, 0.0])).tolist()
    [True, True, False]
    """
    return apply(SIGNBIT, (x,))


@like(binary)
def copysign(x1: Any, x2: Any, /) -> Any:
    """The size of x1 with the sign of x2 (that of a zero counts), broadcast; integers give float32.

    Raises ShapeError, DTypeError.

    >>> import katachi as kt
    >>> kt.copysign(kt.tensor([1.0, -2.0]), -0.0).tolist()
    [-1.0, -2.0]
    """
    return apply(COPYSIGN, (x1, x2))


@like(comparison)
def nextafter(x1: Any, x2: Any, /) -> Any:
    """The number of x1's dtype that follows x1 towards x2, broadcast; x2 where they are equal, NaN if either is.

    A constant: nothing flows back. Integers give float32. Raises ShapeError, DTypeError.

    >>> import katachi as kt
    >>> kt.nextafter(kt.tensor(1.0), 2.0).item() - 1 == kt.finfo(kt.float32).eps
    True
    """
    return apply(NEXTAFTER, (x1, x2))


@like(binary)
def hypot(x1: Any, x2: Any, /) -> Any:
    """sqrt(x1**2 + x2**2), broadcast, where the squares may overflow; infinite if either is, even beside NaN. Half
    types are computed in float32 and rounded once.

    Integers give float32. The gradient at the origin is 0. Raises ShapeError, DTypeError.

    >>> import katachi as kt
    >>> kt.hypot(kt.tensor(3e30), 4e30).item() == kt.tensor(5e30).item()
    True
    """
    return apply(HYPOT, (x1, x2))

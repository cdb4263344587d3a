"""Operators with a tensor on the right only, and augmented assignment. Tensor takes them over as its methods."""

from __future__ import annotations

from typing import Any

from katachi.tensor import elementwise, functions, linalg
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.signatures import binary, reflected
from katachi.tensor.types import like


def _reflected(op: Op):
    @like(reflected)
    def operator(x: Any, other: Any) -> Any:
        return apply(op, (other, x))

    return operator


def _value_only(x: Any, sign: str) -> None:
    """`x += 1` binds a new value; of state it would make a computed value, and silently part with the state."""
    if x._cell is not None:
        raise TypeError(f"p {sign}= v would replace this parameter or variable by a value; use p.set(p {sign} v)")


def _augmented(op: Op, sign: str):
    @like(binary)
    def operator(x: Any, other: Any) -> Any:
        _value_only(x, sign)
        return apply(op, (x, other))

    return operator


def ipow(x: Any, other: Any) -> Any:
    _value_only(x, "**")
    return elementwise.pow(x, other)


def imatmul(x: Any, other: Any) -> Any:
    _value_only(x, "@")
    return linalg.matmul(x, other)


# one a line, or checkers lose their overloads
radd = _reflected(elementwise.ADD)
rsub = _reflected(elementwise.SUBTRACT)
rmul = _reflected(elementwise.MULTIPLY)
rtruediv = _reflected(elementwise.DIVIDE)
rpow = _reflected(elementwise.POW)
rmatmul = _reflected(linalg.MATMUL)
rand = _reflected(elementwise.AND)
ror = _reflected(elementwise.OR)
rxor = _reflected(elementwise.XOR)
rmod = _reflected(functions.REMAINDER)
rfloordiv = _reflected(functions.FLOOR_DIVIDE)
rlshift = _reflected(functions.LEFT_SHIFT)
rrshift = _reflected(functions.RIGHT_SHIFT)

iadd = _augmented(elementwise.ADD, "+")
isub = _augmented(elementwise.SUBTRACT, "-")
imul = _augmented(elementwise.MULTIPLY, "*")
itruediv = _augmented(elementwise.DIVIDE, "/")
iand = _augmented(elementwise.AND, "&")
ior = _augmented(elementwise.OR, "|")
ixor = _augmented(elementwise.XOR, "^")
imod = _augmented(functions.REMAINDER, "%")
ifloordiv = _augmented(functions.FLOOR_DIVIDE, "//")
ilshift = _augmented(functions.LEFT_SHIFT, "<<")
irshift = _augmented(functions.RIGHT_SHIFT, ">>")

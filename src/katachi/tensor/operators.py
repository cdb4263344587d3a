"""Operators with a tensor on the right only, and augmented assignment. Tensor takes them over as its methods."""

from __future__ import annotations

from typing import Any

from katachi.tensor import elementwise, functions, linalg
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.signatures import binary, reflected
from katachi.tensor.types import like


@like(reflected)
def radd(x: Any, other: Any) -> Any:
    return apply(elementwise.ADD, (other, x))


@like(reflected)
def rsub(x: Any, other: Any) -> Any:
    return apply(elementwise.SUBTRACT, (other, x))


@like(reflected)
def rmul(x: Any, other: Any) -> Any:
    return apply(elementwise.MULTIPLY, (other, x))


@like(reflected)
def rtruediv(x: Any, other: Any) -> Any:
    return apply(elementwise.DIVIDE, (other, x))


@like(reflected)
def rpow(x: Any, other: Any) -> Any:
    return apply(elementwise.POW, (other, x))


@like(reflected)
def rmatmul(x: Any, other: Any) -> Any:
    return apply(linalg.MATMUL, (other, x))


@like(reflected)
def rand(x: Any, other: Any) -> Any:
    return apply(elementwise.AND, (other, x))


@like(reflected)
def ror(x: Any, other: Any) -> Any:
    return apply(elementwise.OR, (other, x))


@like(reflected)
def rxor(x: Any, other: Any) -> Any:
    return apply(elementwise.XOR, (other, x))


@like(reflected)
def rmod(x: Any, other: Any) -> Any:
    return apply(functions.REMAINDER, (other, x))


@like(reflected)
def rfloordiv(x: Any, other: Any) -> Any:
    return apply(functions.FLOOR_DIVIDE, (other, x))


@like(reflected)
def rlshift(x: Any, other: Any) -> Any:
    return apply(functions.LEFT_SHIFT, (other, x))


@like(reflected)
def rrshift(x: Any, other: Any) -> Any:
    return apply(functions.RIGHT_SHIFT, (other, x))


def _value_only(x: Any, sign: str) -> None:
    """`x += 1` binds a new value; of state it would make a computed value, and silently part with the state."""
    if x._cell is not None:
        raise TypeError(f"p {sign}= v would replace this parameter or variable by a value; use p.set(p {sign} v)")


def _augmented(op: Op, x: Any, other: Any, sign: str) -> Any:
    _value_only(x, sign)
    return apply(op, (x, other))


@like(binary)
def iadd(x: Any, other: Any) -> Any:
    return _augmented(elementwise.ADD, x, other, "+")


@like(binary)
def isub(x: Any, other: Any) -> Any:
    return _augmented(elementwise.SUBTRACT, x, other, "-")


@like(binary)
def imul(x: Any, other: Any) -> Any:
    return _augmented(elementwise.MULTIPLY, x, other, "*")


@like(binary)
def itruediv(x: Any, other: Any) -> Any:
    return _augmented(elementwise.DIVIDE, x, other, "/")


def ipow(x: Any, other: Any) -> Any:
    _value_only(x, "**")
    return elementwise.pow(x, other)


def imatmul(x: Any, other: Any) -> Any:
    return _augmented(linalg.MATMUL, x, other, "@")


def iand(x: Any, other: Any) -> Any:
    return _augmented(elementwise.AND, x, other, "&")


def ior(x: Any, other: Any) -> Any:
    return _augmented(elementwise.OR, x, other, "|")


def ixor(x: Any, other: Any) -> Any:
    return _augmented(elementwise.XOR, x, other, "^")


def imod(x: Any, other: Any) -> Any:
    return _augmented(functions.REMAINDER, x, other, "%")


def ifloordiv(x: Any, other: Any) -> Any:
    return _augmented(functions.FLOOR_DIVIDE, x, other, "//")


def ilshift(x: Any, other: Any) -> Any:
    return _augmented(functions.LEFT_SHIFT, x, other, "<<")


def irshift(x: Any, other: Any) -> Any:
    return _augmented(functions.RIGHT_SHIFT, x, other, ">>")

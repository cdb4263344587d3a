"""Definitions of element-wise primitives and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from katachi.graph.dtypes import DType

Array = np.ndarray[Any, Any]


def _is_float(x: Array) -> bool:
    return x.dtype.kind not in "iub"  # bfloat16 has a kind of its own


def _exact(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """f computed in float64, rounded once."""
    return lambda x: np.asarray(f(x.astype(np.float64))).astype(x.dtype)


def _arithmetic(f: Callable[..., Array]) -> Callable[..., Array]:
    """f in the operands' own dtype; halves through float32, which rounds the same as computing exactly."""

    def define(*xs: Array) -> Array:
        dtype = xs[0].dtype
        if _is_float(xs[0]) and dtype.itemsize == 2:
            xs = tuple(x.astype(np.float32) for x in xs)
        return np.asarray(f(*xs)).astype(dtype, copy=False)

    return define


def _divide(a: Array, b: Array) -> Array:
    """Integers truncate towards zero; an integer divided by zero is zero."""
    if _is_float(a):
        return np.divide(a, b)
    quotient = np.floor_divide(a, b)
    inexact = quotient * b != a
    return np.where(b == 0, 0, quotient + (inexact & ((a < 0) != (b < 0))))


def _power(a: Array, b: Array) -> Array:
    """Integers to a negative power truncate towards zero."""
    if _is_float(a):
        return np.power(a.astype(np.float64), b.astype(np.float64))
    odd = np.where(b % 2 == 0, 1, -1).astype(a.dtype)
    negative = np.where(a == 1, 1, np.where(a == np.asarray(-1).astype(a.dtype), odd, 0)) if a.dtype.kind == "i" else 0
    return np.where(b < 0, negative, np.power(a, np.maximum(b, 0)))


def _shift_right_logical(a: Array, b: Array) -> Array:
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    bits, by = a.view(unsigned) if a.ndim else a.astype(unsigned), b.astype(unsigned)
    return np.where(by < a.dtype.itemsize * 8, bits >> by, 0).astype(a.dtype)


def _signed(a: Array) -> np.dtype[Any]:
    return np.dtype(f"i{a.dtype.itemsize}")


def _shift_right_arithmetic(a: Array, b: Array) -> Array:
    """Beyond the width nothing but copies of the sign is left."""
    unsigned, bits = np.dtype(f"u{a.dtype.itemsize}"), a.dtype.itemsize * 8
    by = np.minimum(b.astype(unsigned), bits - 1).astype(_signed(a))
    return np.asarray(a.astype(_signed(a)) >> by).astype(a.dtype)


def _shift_left(a: Array, b: Array) -> Array:
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    by = b.astype(unsigned)
    return np.where(by < a.dtype.itemsize * 8, a.astype(unsigned) << by, 0).astype(a.dtype)


def _remainder(a: Array, b: Array) -> Array:
    """What truncating division leaves: it has a's sign. An integer's by zero is zero."""
    return np.fmod(a, b)


def _is_finite(x: Array) -> Array:
    return np.asarray(np.isfinite(x))


def _bitcast_convert(x: Array, *, dtype: DType) -> Array:
    return np.ascontiguousarray(x).view(dtype.numpy).reshape(x.shape)


def _logistic(x: Array) -> Array:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def _erf(x: Array) -> Array:
    return np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


_COMPARE = {
    "EQ": np.equal,
    "NE": np.not_equal,
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
}


def _compare(a: Array, b: Array, *, direction: str) -> Array:
    return np.asarray(_COMPARE[direction](a, b))


def _select(which: Array, yes: Array, no: Array) -> Array:
    return np.where(which, yes, no)


def _convert(x: Array, *, dtype: DType) -> Array:
    return x.astype(dtype.numpy)


def _reduce_sum(x: Array, *, axes: tuple[int, ...]) -> Array:
    inside = np.float64 if _is_float(x) else x.dtype
    return np.asarray(np.sum(x, axis=axes, dtype=inside)).astype(x.dtype, copy=False)


def _extreme(f: Callable[..., Any]) -> Callable[..., Array]:
    def define(x: Array, *, axes: tuple[int, ...]) -> Array:
        wide = x.astype(np.float32) if _is_float(x) and x.dtype.itemsize == 2 else x
        return np.asarray(f(wide, axis=axes)).astype(x.dtype, copy=False)

    return define


def _reduce_prod(x: Array, *, axes: tuple[int, ...]) -> Array:
    inside = np.float64 if _is_float(x) else x.dtype
    return np.asarray(np.prod(x, axis=axes, dtype=inside)).astype(x.dtype, copy=False)


def _bitwise_over(f: np.ufunc) -> Callable[..., Array]:
    return lambda x, *, axes: np.asarray(f.reduce(x, axis=axes)).astype(x.dtype, copy=False)


def _cumulative(f: np.ufunc, exact: bool) -> Callable[..., Array]:
    def define(x: Array, *, axis: int) -> Array:
        inside = np.float64 if _is_float(x) and (exact or x.dtype.itemsize == 2) else x.dtype
        return f.accumulate(x.astype(inside), axis=axis, dtype=inside).astype(x.dtype)

    return define


def _sort(key: Array, payload: Array, *, axis: int, descending: bool) -> Array:
    wide = key.astype(np.float32) if _is_float(key) and key.dtype.itemsize == 2 else key
    if descending:  # both turned round before and after, so that equal keys keep their order
        wide, payload = np.flip(wide, axis), np.flip(payload, axis)
    out = np.take_along_axis(payload, np.argsort(wide, axis, kind="stable"), axis)
    return np.flip(out, axis) if descending else out


def _argmax(x: Array, *, axis: int) -> Array:
    wide = x.astype(np.float32) if _is_float(x) and x.dtype.itemsize == 2 else x
    return np.asarray(np.argmax(wide, axis=axis)).astype(np.int64, copy=False)


def _same(x: Array) -> Array:
    return x


def _first(x: Array, *rest: Array, arguments: int) -> Array:
    return x


ELEMENTWISE: dict[str, Callable[..., Array]] = {
    "abs": _arithmetic(np.abs),
    "negate": _arithmetic(np.negative),
    "sign": _arithmetic(np.sign),
    "not": np.invert,
    "floor": _arithmetic(np.floor),
    "ceil": _arithmetic(np.ceil),
    "round_nearest_even": _arithmetic(np.rint),
    "is_finite": _is_finite,
    "bitcast_convert": _bitcast_convert,
    "exponential": _exact(np.exp),
    "log": _exact(np.log),
    "sqrt": _exact(np.sqrt),
    "tanh": _exact(np.tanh),
    "logistic": _exact(_logistic),
    "erf": _exact(_erf),
    "sine": _exact(np.sin),
    "cosine": _exact(np.cos),
    "tan": _exact(np.tan),
    "asin": _exact(np.arcsin),
    "acos": _exact(np.arccos),
    "sinh": _exact(np.sinh),
    "cosh": _exact(np.cosh),
    "asinh": _exact(np.arcsinh),
    "acosh": _exact(np.arccosh),
    "atanh": _exact(np.arctanh),
    "exponential_minus_one": _exact(np.expm1),
    "log_plus_one": _exact(np.log1p),
    "atan2": lambda y, x: np.asarray(np.arctan2(y.astype(np.float64), x.astype(np.float64))).astype(x.dtype),
    "add": _arithmetic(np.add),
    "subtract": _arithmetic(np.subtract),
    "multiply": _arithmetic(np.multiply),
    "divide": _arithmetic(_divide),
    "power": _arithmetic(_power),
    "remainder": _arithmetic(_remainder),
    "maximum": _arithmetic(np.maximum),
    "minimum": _arithmetic(np.minimum),
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shift_right_logical": _shift_right_logical,
    "shift_right_arithmetic": _shift_right_arithmetic,
    "shift_left": _shift_left,
    "compare": _compare,
    "select": _select,
    "convert": _convert,
    "reduce_sum": _reduce_sum,
    "reduce_max": _extreme(np.max),
    "reduce_min": _extreme(np.min),
    "reduce_prod": _reduce_prod,
    "reduce_and": _bitwise_over(np.bitwise_and),
    "reduce_or": _bitwise_over(np.bitwise_or),
    "argmax": _argmax,
    "sort": _sort,
    "cumulative_sum": _cumulative(np.add, True),
    "cumulative_prod": _cumulative(np.multiply, True),
    "cumulative_max": _cumulative(np.maximum, False),
    "cumulative_min": _cumulative(np.minimum, False),
    "stop_gradient": _same,
    "variable": _same,
    "to_device": lambda x, *, target: x,
    "optimization_barrier": _same,
    "custom_gradient": _first,
}

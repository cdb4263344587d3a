"""Questions about dtypes, as the Array API asks them."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from katachi.errors import DTypeError
from katachi.graph.dtypes import DType, as_dtype, promote, promote_scalar
from katachi.tensor.handle import Handle

KINDS: dict[str, tuple[str, ...]] = {
    "bool": ("bool",), "signed integer": ("int",), "unsigned integer": ("uint",), "integral": ("int", "uint"),
    "real floating": ("float",), "complex floating": (), "numeric": ("int", "uint", "float"),
}  # fmt: skip


class FloatInfo(NamedTuple):
    """What a floating-point dtype can hold."""

    bits: int
    eps: float  # from 1 to the next larger number
    max: float
    min: float
    smallest_normal: float
    dtype: DType


class IntInfo(NamedTuple):
    """What an integer dtype can hold."""

    bits: int
    max: int
    min: int
    dtype: DType


def _dtype_of(x: Any) -> DType:
    return x._aval.dtype if isinstance(x, Handle) else as_dtype(x.dtype if isinstance(x, np.ndarray) else x)


def finfo(type: Any, /) -> FloatInfo:
    """Limits of a floating-point dtype or of a tensor's. Raises DTypeError for any other.

    >>> import katachi as kt
    >>> kt.finfo(kt.float32).bits, kt.finfo(kt.bfloat16).eps
    (32, 0.0078125)
    """
    dtype = _dtype_of(type)
    if not dtype.is_floating:
        raise DTypeError(f"finfo: needs a floating-point dtype, got {dtype.name}")
    info = ml_dtypes.finfo(dtype.numpy)
    eps, largest, least = float(info.eps), float(info.max), float(info.min)
    return FloatInfo(dtype.itemsize * 8, eps, largest, least, float(info.smallest_normal), dtype)


def iinfo(type: Any, /) -> IntInfo:
    """Limits of an integer dtype or of a tensor's. Raises DTypeError for any other.

    >>> import katachi as kt
    >>> kt.iinfo(kt.int8).min, kt.iinfo(kt.int8).max
    (-128, 127)
    """
    dtype = _dtype_of(type)
    if not dtype.is_integer:
        raise DTypeError(f"iinfo: needs an integer dtype, got {dtype.name}")
    return IntInfo(dtype.itemsize * 8, dtype.bounds[1], dtype.bounds[0], dtype)


def result_type(*xs: Any) -> DType:
    """The dtype of an operation on these tensors, dtypes and Python numbers. Raises DTypeError if there is none.

    >>> import katachi as kt
    >>> kt.result_type(kt.int8, kt.zeros(1), 2)
    katachi.float32
    """
    numbers = [type(x) for x in xs if isinstance(x, (bool, int, float)) and not isinstance(x, np.generic)]
    dtypes = [_dtype_of(x) for x in xs if isinstance(x, np.generic) or not isinstance(x, (bool, int, float))]
    if not dtypes:
        if not numbers:
            raise DTypeError("result_type: needs at least one tensor, dtype or number")
        return as_dtype(float if float in numbers else int if int in numbers else bool)
    dtype = dtypes[0]
    for other in dtypes[1:]:
        dtype = promote(dtype, other)
    for number in numbers:
        dtype = promote_scalar(dtype, number)
    return dtype


def can_cast(source: Any, target: Any, /) -> bool:
    """Whether promotion takes the first dtype (or tensor's) to the second.

    >>> import katachi as kt
    >>> kt.can_cast(kt.int8, kt.int64), kt.can_cast(kt.float32, kt.int64)
    (True, False)
    """
    a, b = _dtype_of(source), as_dtype(target)
    try:
        return promote(a, b) is b
    except DTypeError:
        return False


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is of a kind: a dtype, one of the Array API's names such as "integral", or a tuple of these.

    >>> import katachi as kt
    >>> kt.isdtype(kt.uint8, "integral"), kt.isdtype(kt.uint8, (kt.int8, "real floating"))
    (True, False)
    """
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, str) and kind in KINDS:
        return as_dtype(dtype).kind in KINDS[kind]
    if isinstance(kind, DType):
        return as_dtype(dtype) is kind
    raise ValueError(f"isdtype: a kind is a dtype or one of {', '.join(KINDS)}, got {kind!r}")

"""From a user's data to a NumPy array: integers are kept exactly or refused, Python's floats go straight to the dtype
that is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from katachi.errors import DTypeError, ShapeError
from katachi.graph.dtypes import DType, as_dtype, float32, float64, int64, promote, promote_scalar, uint64
from katachi.tensor.foreign import as_numpy, is_foreign
from katachi.tensor.handle import Handle
from katachi.tensor.trace import look

Array = np.ndarray[Any, Any]
EXACT = 1 << 53  # float64 holds every integer up to here
PLAIN = (bool, int, float)


def as_array(x: Any, dtype: DType | None = None) -> Array:
    """x as an array of `dtype`, or of one that katachi has: arrays and NumPy's numbers keep their own, Python's floats
    are float32, its ints int64, or uint64 where one of them needs it.

    Raises DTypeError for anything but numbers and bools, ShapeError for rows of unequal length, OverflowError for a
    number that the dtype cannot hold.
    """
    if isinstance(x, Handle):
        value = look(x)
        if x._cell is not None:
            value.pin()  # the array goes on without the buffer
        array = value.array
    elif isinstance(x, np.ndarray):
        array = x if x.dtype != object else _of_numbers(x, x, dtype)
    elif isinstance(x, np.generic):
        array = np.asarray(x)
    elif is_foreign(x):
        array = as_numpy(x)
    else:
        array = _of_numbers(_plain(x), x, dtype)
    if array.dtype.kind in "OSUMmVc" and array.dtype.name != "bfloat16":
        raise DTypeError(f"tensor: cannot make a tensor of {_short(x)}: numbers and bools only, got {array.dtype}")
    kind = dtype or as_dtype(array.dtype)
    if kind.is_integer and array.dtype != kind.numpy and array.size:
        for n in _extremes(array):
            fitting("tensor", n, kind)
    return array.astype(kind.numpy, copy=False)


def fitting(what: str, number: Any, dtype: DType) -> Any:
    """A Python number as an operand of a dtype: for an integer dtype an int, towards zero. Raises OverflowError if the
    dtype cannot hold it; `what` names the operation."""
    if not dtype.is_integer:
        return number
    finite = number.__class__ is not float or math.isfinite(number)
    if not finite or not dtype.bounds[0] <= int(number) <= dtype.bounds[1]:
        raise OverflowError(f"{what}: {brief(number)} does not fit {dtype.name}")
    return int(number)


def brief(number: Any) -> str:
    """A number in a message."""
    short = number.__class__ is float or -(1 << 64) <= number <= 1 << 64
    return str(number) if short else f"an int of {int(number).bit_length()} bits"


def dtype_of_number(x: bool | int | float) -> DType:
    """The dtype that a Python number has where nothing else says it."""
    return uint64 if x.__class__ is int and x > int64.bounds[1] else as_dtype(x.__class__)


def as_float(what: str, number: Any, dtype: DType) -> float:
    """A Python number as a float64 that rounds to the dtype as the number itself does. Raises OverflowError.

    Rounding to nearest twice may end a unit off, so ints for narrower dtypes are rounded to odd first (Boldo and
    Melquiond, 2008).
    """
    if number.__class__ is float:
        return number
    size, shift = abs(number), int(number).bit_length() - 53
    if shift > 0 and dtype is not float64 and (size >> shift) << shift != size:
        size = (size >> shift | 1) << shift
    try:
        return float(-size if number < 0 else size)
    except OverflowError:
        raise OverflowError(f"{what}: {brief(number)} does not fit {dtype.name}") from None


def _of_numbers(plain: Any, x: Any, dtype: DType | None) -> Array:
    """An array of what may be nested lists, x without its tensors, or of an array of objects."""
    try:
        array = np.asarray(plain)
    except ValueError:
        raise ShapeError(f"tensor: ragged nesting, rows differ in length: {_short(x)}") from None
    except OverflowError:  # an int beyond float64 beside a float
        array = np.asarray(plain, dtype=object)
    if not array.size:
        return array.astype(np.float32) if array.dtype == np.float64 else array
    if array.dtype not in (np.float64, object):
        return array
    kinds = _kinds(plain)
    if not all(k in PLAIN or isinstance(k, DType) for k in kinds):
        return array  # not numbers: the caller says so
    whole = [k for k in kinds if k in (bool, int) or (isinstance(k, DType) and not k.is_floating)]
    if len(whole) == len(kinds):
        return _integers(plain, x, dtype)
    if whole and (array.dtype == object or (np.abs(array) >= EXACT).any() or (dtype is not None and dtype.is_integer)):
        return _mixed(plain, dtype or _common(kinds))
    return np.asarray(array, dtype=np.float64 if dtype is not None else _common(kinds).numpy)


def _integers(plain: Any, x: Any, dtype: DType | None) -> Array:
    """Of ints alone, for which NumPy has no common dtype."""
    objects = np.asarray(plain, dtype=object)
    values = [int(v) for v in objects.flat]
    if dtype is not None and not dtype.is_integer:
        return _mixed(plain, dtype)
    if dtype is None:
        low, high = min(values), max(values)
        dtype = int64 if high <= int64.bounds[1] else uint64
        for n in (low, high):
            if not dtype.bounds[0] <= n <= dtype.bounds[1]:
                raise OverflowError(f"tensor: {brief(n)} does not fit {dtype.name}, in {_short(x)}")
    for n in values:
        fitting("tensor", n, dtype)
    return np.array(values, dtype.numpy).reshape(objects.shape)


def _mixed(plain: Any, dtype: DType) -> Array:
    """Of ints and floats, one by one, because NumPy would have the ints pass through float64."""
    objects = np.asarray(plain, dtype=object)
    numbers = [v.item() if hasattr(v, "item") else v for v in objects.flat]
    convert = fitting if dtype.is_integer else as_float
    array = np.array([convert("tensor", v, dtype) for v in numbers], dtype.numpy if dtype.is_integer else np.float64)
    return array.astype(dtype.numpy).reshape(objects.shape)


def _common(kinds: set[Any]) -> DType:
    """The dtype of numbers beside one another, floats among them, as of operands: Python's are weak."""
    dtype: DType | None = None
    typed = sorted((k for k in kinds if isinstance(k, DType)), key=lambda k: not k.is_floating)
    for kind in typed:
        dtype = kind if dtype is None else promote(dtype, kind)
    if dtype is None:
        return float32
    return promote_scalar(dtype, float) if float in kinds else dtype


def _kinds(x: Any) -> set[Any]:
    """What numbers are in nested lists or an array of objects: bool, int, float, dtypes of NumPy's; else other types.

    >>> sorted(map(str, _kinds([1, [np.float32(2)], (3.0,)])))
    ["<class 'float'>", "<class 'int'>", 'katachi.float32']
    """
    if isinstance(x, np.ndarray):
        return _kinds(x.ravel().tolist()) if x.dtype == object else {_dtype_or_type(x.dtype)}
    if isinstance(x, np.generic):
        return {_dtype_or_type(x.dtype)}
    if not isinstance(x, Sequence) or isinstance(x, str):
        return {_plain_type(type(x))}
    found = set(map(type, x))
    if found <= {bool, int, float}:
        return found
    return set().union(*map(_kinds, x))


def _dtype_or_type(dtype: np.dtype[Any]) -> Any:
    try:
        return as_dtype(dtype)
    except DTypeError:
        return dtype.type


def _plain_type(kind: type) -> type:
    return next((plain for plain in PLAIN if issubclass(kind, plain)), kind)


def _extremes(array: Array) -> tuple[Any, Any]:
    if array.dtype.kind == "b":
        return 0, 1
    if array.dtype.kind in "iu":
        return int(array.min()), int(array.max())
    wide = array.astype(np.float64)
    return float(wide.min()), float(wide.max())


def _plain(x: Any) -> Any:
    """Nested lists with tensors in them as nested lists of arrays."""
    if isinstance(x, (list, tuple)):
        return [_plain(v) for v in x]
    if x.__class__ in PLAIN:
        return x
    return as_array(x) if isinstance(x, Handle) or is_foreign(x) else x


def _short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 60 else text[:57] + "..."


def all_plain(x: Any) -> bool:
    """Whether x is a Python number or nested lists of them, and nothing of NumPy's."""
    return not isinstance(x, (Handle, np.ndarray)) and _kinds(x) <= {bool, int, float}

"""Element types and how they promote (Array API tables; Python scalars are weak)."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from katachi.errors import DTypeError


class DType:
    """An element type. There is one object a type, so `is` and `==` mean the same.

    >>> float32.itemsize, float32.kind, int8.numpy
    (4, 'float', dtype('int8'))
    """

    __slots__ = ("bounds", "itemsize", "kind", "name", "numpy")

    name: str
    kind: str  # "bool", "int", "uint" or "float"
    numpy: np.dtype
    itemsize: int
    bounds: tuple[int, int]  # smallest and largest value of an integer type

    def __init__(self, name: str, kind: str, numpy: np.dtype) -> None:
        self.name, self.kind, self.numpy, self.itemsize = name, kind, numpy, numpy.itemsize
        info = np.iinfo(numpy) if kind in ("int", "uint") else None
        self.bounds = (int(info.min), int(info.max)) if info else (0, 1)

    def __repr__(self) -> str:
        return f"katachi.{self.name}"

    def __reduce__(self) -> str:
        return "bool_" if self.name == "bool" else self.name  # the global's name

    @property
    def is_floating(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")


bool_ = DType("bool", "bool", np.dtype(np.bool_))
int8 = DType("int8", "int", np.dtype(np.int8))
int16 = DType("int16", "int", np.dtype(np.int16))
int32 = DType("int32", "int", np.dtype(np.int32))
int64 = DType("int64", "int", np.dtype(np.int64))
uint8 = DType("uint8", "uint", np.dtype(np.uint8))
uint16 = DType("uint16", "uint", np.dtype(np.uint16))
uint32 = DType("uint32", "uint", np.dtype(np.uint32))
uint64 = DType("uint64", "uint", np.dtype(np.uint64))
float16 = DType("float16", "float", np.dtype(np.float16))
bfloat16 = DType("bfloat16", "float", np.dtype(ml_dtypes.bfloat16))
float32 = DType("float32", "float", np.dtype(np.float32))
float64 = DType("float64", "float", np.dtype(np.float64))

DTYPES = (
    bool_, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, bfloat16, float32, float64,
)  # fmt: skip
_BY_NUMPY = {d.numpy: d for d in DTYPES}
_BY_NAME = {d.name: d for d in DTYPES}
_BY_PYTHON = {bool: bool_, int: int64, float: float32}


def as_dtype(what: object) -> DType:
    """The DType meant by a DType, a name, a NumPy dtype or `bool`, `int`, `float`."""
    if isinstance(what, DType):
        return what
    if isinstance(what, str) and what in _BY_NAME:
        return _BY_NAME[what]
    if isinstance(what, type) and what in _BY_PYTHON:
        return _BY_PYTHON[what]
    try:
        if what is None:  # float64 to NumPy
            raise TypeError
        return _BY_NUMPY[np.dtype(what)]  # type: ignore[arg-type]
    except (TypeError, KeyError):
        names = ", ".join(d.name for d in DTYPES)
        raise DTypeError(f"katachi has no dtype {what!r}; it has {names}") from None


def promote(a: DType, b: DType) -> DType:
    """The dtype of an operation on `a` and `b`; raises DTypeError for uint64 with a signed integer."""
    if a is b:
        return a
    if a.kind == "bool":
        return b
    if b.kind == "bool":
        return a
    if a.kind == b.kind:
        if a.itemsize == b.itemsize:  # float16 with bfloat16
            return float32
        return a if a.itemsize > b.itemsize else b
    if a.kind == "float" or b.kind == "float":
        return a if a.kind == "float" else b
    signed, unsigned = (a, b) if a.kind == "int" else (b, a)
    if unsigned.itemsize < signed.itemsize:
        return signed
    if unsigned is uint64:
        raise DTypeError(f"{a.name} and {b.name} have no common dtype; convert one with astype")
    return {1: int16, 2: int32, 4: int64}[unsigned.itemsize]


def promote_scalar(dtype: DType, scalar: type) -> DType:
    """The dtype of an operation on a tensor of `dtype` and a Python `bool`, `int` or `float`."""
    if scalar is float and dtype.kind != "float":
        return float32
    if scalar is int and dtype.kind == "bool":
        return int64
    return dtype

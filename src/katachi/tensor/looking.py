"""Looking at a value, which computes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from katachi.errors import DTypeError, ShapeError
from katachi.graph.sizes import count
from katachi.tensor.handle import Handle
from katachi.tensor.trace import look


class Looked(Handle):
    """A handle whose value can be looked at, as NumPy's array or as Python's numbers."""

    __slots__ = ()

    def numpy(self) -> np.ndarray[Any, Any]:
        """The value as a read-only NumPy array; its memory is never overwritten afterwards."""
        value = look(self)
        value.pin()
        view = value.array.view()
        view.flags.writeable = False
        return view

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **how: Any) -> Any:
        return self.numpy().__dlpack__(**how)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def item(self) -> Any:
        """The value of a tensor with one element, as a Python number. Raises ShapeError for any other size."""
        if count(self._aval.shape) != 1:
            raise ShapeError(f"item: needs one element, got shape {self._aval.shape}")
        held = look(self)
        value = held.array.item()
        return value if isinstance(value, (bool, int, float)) else float(value)

    def tolist(self) -> Any:
        """The value as (nested lists of) Python numbers."""
        array = self.numpy()
        return array.astype(np.float64).tolist() if self._aval.dtype.name in ("bfloat16", "float16") else array.tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        if count(self._aval.shape) != 1:
            raise ShapeError(
                f"bool: a tensor of shape {self._aval.shape} is neither true nor false; use .any() or .all()"
            )
        return bool(self.item())

    def __index__(self) -> int:
        if not self._aval.dtype.is_integer or self._aval.shape:
            raise DTypeError(f"an index needs an integer scalar, got {self._aval!r}")
        return int(self.item())

    def __len__(self) -> int:
        if not self._aval.shape:
            raise TypeError("len: a scalar has no length")
        return self._aval.shape[0]

    def __repr__(self) -> str:
        array = self.numpy()
        wide = array.astype(np.float32) if self._aval.dtype.name == "bfloat16" else array
        text = np.array2string(wide, separator=", ", precision=4, threshold=200, prefix="tensor(")
        notes = [f"dtype={self._aval.dtype.name}"] if self._aval.dtype.name not in ("float32", "int64", "bool") else []
        notes += ["variable"] if self._aval.tracked else []
        notes += [f"shape={self._aval.shape}"] if not count(self._aval.shape) else []
        return f"tensor({', '.join([text, *notes])})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

"""Other libraries' arrays as NumPy's, without importing any of these libraries."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np

from katachi.errors import DTypeError
from katachi.tensor.handle import Handle


def is_foreign(x: object) -> bool:
    """Whether x is an array of a library other than this one and NumPy."""
    known = isinstance(x, (Handle, np.ndarray, np.generic, type))
    return not known and (hasattr(x, "__array__") or hasattr(x, "__dlpack__"))


def as_numpy(x: Any) -> np.ndarray[Any, Any]:
    """The values of another library's array, which may share its memory. Of torch's tensors any that have values: those
    that require gradients, of bfloat16, on another device. Raises DTypeError that says what stands in the way."""
    torch = sys.modules.get("torch")  # whoever has a torch tensor has imported it
    try:
        if torch is not None and isinstance(x, torch.Tensor):
            return _of_torch(torch, x)
        return np.asarray(x) if hasattr(x, "__array__") else np.from_dlpack(x)
    except (DTypeError, MemoryError):
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise DTypeError(f"tensor: cannot read this {_name(x)}: {said or type(error).__name__}") from None


def _of_torch(torch: Any, x: Any) -> np.ndarray[Any, Any]:
    if x.layout is not torch.strided:
        raise DTypeError(
            f"tensor: cannot read a sparse torch tensor ({x.layout}); x.to_dense() makes it an ordinary one"
        )
    if x.is_quantized:
        raise DTypeError(f"tensor: cannot read a quantised torch tensor ({x.dtype}); x.dequantize() makes it floats")
    if x.device.type == "meta":
        raise DTypeError("tensor: a torch tensor on the device meta has a shape and no values")
    x = x.detach().cpu().resolve_conj().resolve_neg()
    if x.dtype is torch.bfloat16:  # NumPy has none of its own, so torch gives it none
        return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    try:
        return x.numpy()
    except TypeError:
        raise DTypeError(
            f"tensor: katachi has no dtype {x.dtype}; convert it in torch, for example x.float()"
        ) from None


def _name(x: object) -> str:
    return f"{type(x).__module__.partition('.')[0]}.{type(x).__name__}"

"""What an Array API library says of itself: constants, and the answers of `__array_namespace_info__`."""

from __future__ import annotations

import math
from typing import Any

from katachi.graph.dtypes import DTYPES, DType, float32, int64
from katachi.tensor import modes
from katachi.tensor.kinds import isdtype
from katachi.tensor.trace import current

VERSION = "2024.12"
KNOWN = ("2021.12", "2022.12", "2023.12", VERSION)  # each contains the one before
e, inf, nan, newaxis, pi = math.e, math.inf, math.nan, None, math.pi

BEYOND = ("float16", "bfloat16")  # katachi has these, the standard has not


class NamespaceInfo:
    """What this library can do, as the Array API asks it.

    >>> import katachi as kt
    >>> info = kt.__array_namespace_info__(); info.default_dtypes()["real floating"], info.devices()
    (katachi.float32, ('cpu', 'reference'))
    """

    def capabilities(self) -> dict[str, Any]:
        """Masks as indices and shapes that depend on values both work; there is no limit to the number of axes but
        NumPy's."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        """Where new tensors of this thread live."""
        return current().modes.device

    def devices(self) -> tuple[str, ...]:
        """The devices of this machine."""
        return modes.devices()

    def default_dtypes(self, *, device: str | None = None) -> dict[str, DType]:
        """The dtypes that Python's numbers become, and that of indices. There is no complex one. Raises DeviceError."""
        modes.check_device(device or self.default_device())
        return {"real floating": float32, "integral": int64, "indexing": int64}

    def dtypes(self, *, device: str | None = None, kind: Any = None) -> dict[str, DType]:
        """The standard's dtypes by name, of one kind or of several (see kt.isdtype). Raises DeviceError, ValueError."""
        modes.check_device(device or self.default_device())
        return {d.name: d for d in DTYPES if d.name not in BEYOND and (kind is None or isdtype(d, kind))}


def namespace_info() -> NamespaceInfo:
    """What this library can do: `kt.__array_namespace_info__()`."""
    return NamespaceInfo()

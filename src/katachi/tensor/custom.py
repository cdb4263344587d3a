"""Functions of the user's own as operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from katachi.graph.dtypes import as_dtype
from katachi.graph.primitives import make
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.operand import as_shape

CUSTOM_CALL = Op(
    "custom_call",
    lambda nodes, function, shape, dtype: make("custom_call", *nodes, function=function, shape=shape, dtype=dtype),
    variadic=True,
)


def custom_call(function: Callable[..., Any], shape: Any, dtype: Any, /, *operands: Any) -> Any:
    """function(*arrays), called with read-only NumPy arrays when the value is computed; it returns an array of the
    promised shape and dtype. It must depend on nothing else and change nothing: it runs as often as the program that it
    is part of. It may compute with katachi itself, but not wait for another thread that does: the program that it is
    part of has not ended, and programs run one at a time.

    Raises ShapeError, when computed, for another shape or dtype; GradientError when differentiated, unless
    kt.custom_gradient says how.

    >>> import katachi as kt, numpy as np
    >>> kt.custom_call(np.hypot, (2,), kt.float32, kt.tensor([3.0, 5.0]), kt.tensor([4.0, 12.0])).tolist()
    [5.0, 13.0]
    """
    return apply(CUSTOM_CALL, operands, (function, as_shape(shape), as_dtype(dtype)))

"""Arrays of other libraries, by the protocols they share."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import katachi as kt
from katachi import nn


class Array:
    """What another library's array looks like from outside."""

    def __init__(self, array: Any, error: Exception | None = None) -> None:
        self.array, self.error = array, error

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if self.error:
            raise self.error
        return self.array


class Capsule:
    """One that has nothing but DLPack."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **how: Any) -> Any:
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def test_arrays_by_both_protocols() -> None:
    for dtype in (np.float32, np.float64, np.int8, ml_dtypes.bfloat16, np.float16):
        array = np.arange(6).reshape(2, 3).astype(dtype)
        made = kt.tensor(Array(array))
        assert made.tolist() == array.tolist() and made.numpy().dtype == array.dtype
        assert kt.tensor([Array(array)]).tolist() == [array.tolist()]  # type: ignore[call-overload]
        if dtype is not ml_dtypes.bfloat16:
            for read in (kt.tensor, kt.asarray, kt.from_dlpack):
                assert read(Capsule(array)).tolist() == array.tolist()  # type: ignore[operator]


def test_bfloat16_of_numpy_loads() -> None:
    layer = nn.Linear(2, 1)
    state = {"weight": np.array([[1.5, -2.0]], ml_dtypes.bfloat16), "bias": Array(np.array([3], ml_dtypes.bfloat16))}
    layer.load_state_dict(state)
    assert layer.weight.tolist() == [[1.5, -2.0]] and layer.bias.tolist() == [3.0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "error",
    [
        TypeError("no implicit copy\nand more"),
        RuntimeError("no implicit copy"),
        NotImplementedError("no implicit copy"),
    ],
)
def test_a_refusal_is_told_in_one_line(error: Exception) -> None:
    with pytest.raises(kt.DTypeError, match=r"tensor: cannot read this \w+\.Array: no implicit copy$"):
        kt.tensor(Array(None, error))
    with pytest.raises(kt.CheckpointError, match=r"bias: tensor: cannot read this"):
        nn.Linear(1, 1).load_state_dict({"bias": Array(None, error)}, strict=False)
    with pytest.raises(kt.DTypeError, match=r"cannot make a tensor of .*got object"):
        kt.tensor(Array(np.array([None])))


def test_memory_that_ends_is_no_matter_of_dtypes() -> None:
    with pytest.raises(MemoryError):
        kt.tensor(Array(None, MemoryError()))

"""From a list of items to one batch of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from katachi.errors import DTypeError, ShapeError
from katachi.tensor import Tensor, tensor


def collate(items: list[Any]) -> Any:
    """Stacks items along a new first axis; tuples (named ones stay named), lists and dicts part by part.

    Items of shape S become one tensor of shape (len(items), *S). Python numbers become the default dtypes, arrays keep
    theirs. Raises `ShapeError` if items disagree in shape or structure, `DTypeError` if they disagree in dtype or are
    none of these things.

    >>> collate([(np.zeros(3), 1), (np.ones(3), 0)])[0].shape
    (2, 3)
    """
    first = items[0]
    if isinstance(first, dict):
        for item in items:
            if not isinstance(item, dict) or item.keys() != first.keys():
                raise ShapeError(f"item 0 of the batch is a dict of {list(first)}, another is {_describe(item)}")
        return {key: collate([item[key] for item in items]) for key in first}
    if isinstance(first, (tuple, list)):
        for item in items:
            if not isinstance(item, (tuple, list)) or len(item) != len(first):
                raise ShapeError(f"item 0 of the batch is {_describe(first)}, another is {_describe(item)}")
        parts = [collate(list(column)) for column in zip(*items, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    return tensor(np.stack(_alike([_array(item) for item in items])))


def _array(item: Any) -> np.ndarray:
    if isinstance(item, (np.ndarray, np.generic)):
        return np.asarray(item)
    if isinstance(item, Tensor):
        return item.numpy()
    if isinstance(item, (bool, int, float)):
        return tensor(item).numpy()
    raise DTypeError(
        f"cannot batch {_describe(item)}: expected an array, a number, or a tuple or dict of them; "
        "give the DataLoader a collate_fn"
    )


def _alike(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The arrays, once they are known to agree: NumPy would promote dtypes in silence."""
    first = arrays[0]
    for position, array in enumerate(arrays):
        if array.shape != first.shape:
            raise ShapeError(f"item 0 of the batch has shape {first.shape}, item {position} has {array.shape}")
        if array.dtype != first.dtype:
            raise DTypeError(f"item 0 of the batch has dtype {first.dtype}, item {position} has {array.dtype}")
    return arrays


def _describe(item: Any) -> str:
    if isinstance(item, dict):
        return f"a dict of {list(item)}"
    if isinstance(item, (tuple, list)):
        return f"a {type(item).__name__} of {len(item)} parts"
    return f"a {type(item).__name__}"

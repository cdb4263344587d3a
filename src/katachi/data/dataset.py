"""What a dataset is: a length, and items by number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Generic, TypeVar

import numpy as np

from katachi.errors import IndexBoundsError, ShapeError
from katachi.tensor import Tensor, tensor
from katachi.tensor.random import default_generator

Item = TypeVar("Item")


class Dataset(Generic[Item]):
    """A collection whose items have numbers from 0 to `len(dataset) - 1`.

    A subclass defines `__len__` and `__getitem__`. An item is an array, a number, or a tuple, list or dict of them; a
    `DataLoader` stacks each part over the batch. With worker threads `__getitem__` is called from several at once.

    >>> class Squares(Dataset[int]):
    ...     def __len__(self) -> int:
    ...         return 5
    ...     def __getitem__(self, index: int) -> int:
    ...         return range(5)[index] ** 2
    >>> Squares()[3]
    9
    """

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} has no length: a Dataset defines __len__(self) -> int")

    def __getitem__(self, index: int) -> Item:
        raise TypeError(f"{type(self).__name__} has no items: a Dataset defines __getitem__(self, index)")

    def __iter__(self) -> Iterator[Item]:
        # Without it Python would ask for items until an IndexError, which a dataset need not raise.
        return (self[i] for i in range(len(self)))


class Subset(Dataset[Item]):
    """Some items of a dataset, by their numbers there. Raises IndexBoundsError for one that is not there.

    >>> Subset([10, 11, 12], [2, 0])[0]
    12
    """

    def __init__(self, dataset: Dataset[Item] | Sequence[Item], indices: Iterable[int]) -> None:
        self.dataset, self.indices = dataset, indices if isinstance(indices, range) else [int(i) for i in indices]
        for i in self.indices[:: max(len(self.indices) - 1, 1)] if isinstance(indices, range) else self.indices:
            if not 0 <= i < len(dataset):
                raise IndexBoundsError(f"Subset of {len(dataset)} items, asked for {i}")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Item:
        return self.dataset[self.indices[index]]


def random_split(
    dataset: Dataset[Item] | Sequence[Item], lengths: Sequence[float], seed: int | None = None
) -> list[Subset[Item]]:
    """The items in random order, which `seed` decides (without one `kt.manual_seed`), cut into parts of these lengths:
    numbers of items that add up to all, or shares that add up to 1. Raises ValueError for others.

    >>> [len(part) for part in random_split(range(10), [0.75, 0.25], seed=0)]
    [8, 2]
    """
    size, counts = len(dataset), list(lengths)
    if all(isinstance(n, float) for n in counts) and abs(sum(counts) - 1) < 1e-6 and min(counts, default=0.0) >= 0:
        whole = [int(size * share) for share in counts]
        counts = [n + (i < size - sum(whole)) for i, n in enumerate(whole)]  # what is left goes to the first ones
    if any(n != int(n) or n < 0 for n in counts) or sum(counts) != size:
        raise ValueError(f"random_split: {list(lengths)} are no lengths of parts of {size} items, and no shares of 1")
    seed = default_generator.random_seed() if seed is None else seed
    order, ends = np.random.default_rng(seed).permutation(size), np.cumsum([0, *counts], dtype=int)
    return [Subset(dataset, order[a:z]) for a, z in pairwise(ends)]


class TensorDataset(Dataset[tuple[np.ndarray, ...]]):
    """Arrays of equal length; item `i` is the tuple of their rows `i`.

    Arrays of any dtype that a tensor can have are taken as they are, without a copy; rows are read-only views.
    Lists and tensors become arrays by the rules of `katachi.tensor`. `dataset[i]` takes an int, a slice or an array
    of ints.

    Raises `ShapeError` for arrays without rows or of unequal length, `DTypeError` for a dtype that no tensor has,
    `IndexBoundsError` for a row that is not there.

    >>> dataset = TensorDataset(np.zeros((5, 3), np.float32), np.arange(5))
    >>> len(dataset), [part.shape for part in dataset[0]], [part.shape for part in dataset[1:3]]
    (5, [(3,), ()], [(2, 3), (2,)])
    """

    def __init__(self, *arrays: Any) -> None:
        if not arrays:
            raise ValueError("TensorDataset() got no arrays, expected at least one")
        self.arrays = tuple(_rows(array, position) for position, array in enumerate(arrays))
        if len({len(array) for array in self.arrays}) > 1:
            shapes = ", ".join(str(array.shape) for array in self.arrays)
            raise ShapeError(f"TensorDataset got arrays of shapes {shapes}, expected the same first size in all")

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int | slice | np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            return tuple(array[index] for array in self.arrays)
        except IndexError as error:
            raise IndexBoundsError(f"TensorDataset of {len(self)} items, asked for {index}: {error}") from None


def _rows(value: Any, position: int) -> np.ndarray:
    """A read-only view of `value` as an array with a first axis; `position` is for the message."""
    if isinstance(value, np.ndarray):
        array = value.view()
    else:
        array = (value if isinstance(value, Tensor) else tensor(value)).numpy().view()
    if array.ndim == 0:
        raise ShapeError(f"TensorDataset got shape () as array {position}, expected a first axis of items")
    tensor(array[:0])  # raises for a dtype that no tensor has, here and not at the first batch
    array.flags.writeable = False
    return array

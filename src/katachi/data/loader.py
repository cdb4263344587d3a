"""DataLoader: epochs of batches, in order, loaded ahead by worker threads if asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from operator import index as as_int
from threading import Event
from typing import Any

import numpy as np

from katachi.data.collate import collate
from katachi.data.dataset import Dataset, TensorDataset
from katachi.tensor import tensor
from katachi.tensor.modes import device, eager
from katachi.tensor.random import default_generator
from katachi.tensor.trace import current, only_outside


class DataLoader:
    """Batches of a dataset's items; each `for` loop over it is one epoch.

    `batch_size` items make a batch; a smaller last one is kept unless `drop_last`. With `shuffle` each epoch has its
    own order, a function of `seed` and the epoch's number alone: `loader.seed` and `loader.epoch` repeat a run. Without
    `seed` the default generator gives one when the first epoch begins, and another one, with epochs counted anew, in
    the first epoch after a `kt.manual_seed`, which so decides the orders. With `num_workers` threads, up to `prefetch`
    batches a thread are loaded ahead; the order of batches does not depend on it. An error in a worker is raised in the
    loop, with its traceback. Leaving the loop early tells the workers to stop after the item in hand.

    A batch is one tensor of shape (batch, *item) for each part of an item (see `collate`), or what `collate_fn` makes
    of the list of items.

    Raises `ValueError` for an argument out of range, `TypeError` for something that is not a dataset.

    >>> from katachi.data import TensorDataset
    >>> loader = DataLoader(TensorDataset(np.zeros((5, 3), np.float32), np.arange(5)), batch_size=2)
    >>> [images.shape for images, labels in loader]
    [(2, 3), (2, 3), (1, 3)]
    """

    def __init__(
        self,
        dataset: Dataset[Any] | Sequence[Any],
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        num_workers: int = 0,
        prefetch: int = 2,
        drop_last: bool = False,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        seed: int | None = None,
    ) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise TypeError(f"DataLoader got a {type(dataset).__name__}, expected a dataset: __len__ and __getitem__")
        if collate_fn is not None and not callable(collate_fn):
            raise TypeError(f"DataLoader got collate_fn={collate_fn!r}, expected a function of a list of items")
        self.dataset = dataset
        self.batch_size = _at_least(1, batch_size, "batch_size")
        self.shuffle = shuffle
        self.num_workers = _at_least(0, num_workers, "num_workers")
        self.prefetch = _at_least(1, prefetch, "prefetch")
        self.drop_last = drop_last
        self.collate_fn = collate_fn
        self.seed = None if seed is None else _at_least(0, seed, "seed")
        self._unseeded = seed is None
        self._drawn: tuple[int | None, int] = (None, 0)  # a seed, and how often the generator had been seeded by then
        self.epoch = 0
        self.batch = 0  # batches taken of the epoch under way
        self._skip = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the data stands: after which batch of which epoch, in which order."""
        return {"seed": self.seed, "epoch": self.epoch, "batch": self.batch, "batch_size": self.batch_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken: the next loop is the rest of that epoch. Raises ValueError within an
        epoch of batches of another size."""
        size = int(state.get("batch_size", self.batch_size))
        if state["batch"] and size != self.batch_size:
            raise ValueError(
                f"DataLoader: the state is of after batch {state['batch']} of {size} items, this loader has batches of "
                f"{self.batch_size}"
            )
        self.seed = None if state["seed"] is None else int(state["seed"])
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])
        self._skip, self._drawn = self.batch, (self.seed, 0 if self.seed is None else default_generator.seedings)
        if self.batch:  # the epoch was counted when it began
            self.epoch -= 1

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        # Not a generator itself: the epoch is taken here, not at the first batch.
        only_outside("a DataLoader is iterated")
        numbers = np.arange(len(self.dataset))
        if self.shuffle:
            numbers = np.random.default_rng([self._seed_now(), self.epoch]).permutation(numbers)
        self.epoch += 1
        batches = [numbers[start : start + self.batch_size] for start in range(0, len(numbers), self.batch_size)]
        batches = batches[self._skip : len(self)]
        self.batch, self._skip = self._skip, 0
        # A generator and not `map`, which would take a StopIteration from the dataset for the end of the epoch.
        return self._counted(self._ahead(batches) if self.num_workers else (self._load(n) for n in batches), self.epoch)

    def _seed_now(self) -> int:
        """The seed of the epoch that begins, drawn if it was not given."""
        seedings = default_generator.seedings
        seeded_anew = self._unseeded and not self._skip and self.seed == self._drawn[0] and seedings != self._drawn[1]
        if self.seed is None or seeded_anew:
            self.seed, self.epoch = default_generator.random_seed(), 0
            self._drawn = self.seed, seedings
        return self.seed

    def _counted(self, batches: Iterator[Any], epoch: int) -> Iterator[Any]:
        try:
            for batch in batches:
                if self.epoch == epoch:
                    self.batch += 1
                yield batch
            if self.epoch == epoch:
                self.batch = 0
        finally:
            batches.close()  # type: ignore[attr-defined]

    def _ahead(self, batches: list[np.ndarray]) -> Iterator[Any]:
        left, where = Event(), current().modes.device
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="katachi-loader")
        pending: deque[Future[Any]] = deque()
        try:
            for numbers in batches:
                pending.append(pool.submit(self._load_aside, numbers, left, where))
                if len(pending) > self.num_workers * self.prefetch:
                    yield _result(pending.popleft())
            while pending:
                yield _result(pending.popleft())
        finally:
            # The workers are not waited for: one may itself wait for something that the consumer holds.
            left.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _load_aside(self, numbers: np.ndarray, left: Event, where: str) -> Any:
        """In a worker: on the consumer's device, and computed here, so that nothing is pending when it changes
        threads."""
        with device(where), eager():
            return self._load(numbers, left)

    def _load(self, numbers: np.ndarray, left: Event | None = None) -> Any:
        dataset = self.dataset
        plain = type(dataset).__getitem__ is TensorDataset.__getitem__  # a subclass may make items of its own
        if plain and isinstance(dataset, TensorDataset) and self.collate_fn is None:
            return tuple(tensor(part) for part in dataset[numbers])  # one fancy index, no items
        items = []
        for number in numbers.tolist():
            if left is not None and left.is_set():
                return None
            try:
                items.append(dataset[number])
            except Exception as error:
                error.add_note(f"while loading item {number} of the {type(dataset).__name__}")
                raise
        return (self.collate_fn or collate)(items)


def _result(future: Future[Any]) -> Any:
    # A wait without an end cannot be interrupted on Windows; short ones let Ctrl-C in.
    while not future.done():
        wait([future], timeout=0.2)
    return future.result()


def _at_least(least: int, value: int, name: str) -> int:
    try:
        number = as_int(value)
    except TypeError:
        number = None
    if number is None or number < least or isinstance(value, bool):
        raise ValueError(f"DataLoader got {name}={value!r}, expected an int of at least {least}")
    return number

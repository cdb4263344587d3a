"""Datasets and the loader: every item once, in an order that the seed decides, and no way of leaving that hangs."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from katachi.data import DataLoader, Dataset, Subset, TensorDataset, digits, random_split
from katachi.errors import DTypeError, IndexBoundsError, ShapeError
from katachi.tensor import Tensor, tensor
from katachi.tensor.modes import device


class Items(Dataset[Any]):
    """`count` items, each what `make` returns for its number (the number itself by default)."""

    def __init__(self, count: int, make: Callable[[int], Any] = lambda number: number) -> None:
        self.count, self.make = count, make

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


def numbers(loader: DataLoader) -> list[list[int]]:
    """One epoch of a loader over numbers, as lists."""
    return [(batch[0] if isinstance(batch, tuple) else batch).numpy().tolist() for batch in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("katachi-loader")]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Any:
    yield
    deadline = time.monotonic() + 10
    while loader_threads() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert loader_threads() == []


# TensorDataset


def test_items_are_rows_and_batches_of_rows() -> None:
    images, labels = np.arange(30, dtype=np.float32).reshape(5, 2, 3), np.arange(5)
    dataset = TensorDataset(images, labels)
    assert len(dataset) == 5
    image, label = dataset[3]
    assert np.array_equal(image, images[3]) and label == 3
    assert np.array_equal(dataset[np.array([4, 0])][0], images[[4, 0]])
    assert np.array_equal(dataset[1:3][1], [1, 2])
    assert np.array_equal(dataset[-1][0], images[-1])
    assert len(list(iter(dataset))) == 5


def test_arrays_are_not_copied_and_cannot_be_changed_through_the_dataset() -> None:
    array = np.zeros((4, 2), np.float32)
    dataset = TensorDataset(array)
    assert np.shares_memory(dataset.arrays[0], array)
    with pytest.raises(ValueError, match="read-only"):
        dataset[0][0][0] = 1
    array[0] = 1  # the user's own array stays theirs


def test_lists_and_tensors_become_arrays() -> None:
    dataset = TensorDataset([1.5, 2.5], [1, 2], tensor(np.ones((2, 3), np.float32)))
    assert [array.dtype for array in dataset.arrays] == [np.float32, np.int64, np.float32]


def test_tensor_dataset_refuses() -> None:
    with pytest.raises(ValueError, match="no arrays"):
        TensorDataset()
    with pytest.raises(ShapeError, match=r"\(3, 2\), \(4,\)"):
        TensorDataset(np.zeros((3, 2)), np.zeros(4))
    with pytest.raises(ShapeError, match="array 1"):
        TensorDataset(np.zeros(3), np.float32(1))
    with pytest.raises(DTypeError):
        TensorDataset(np.array(["a", "b"]))
    with pytest.raises(IndexBoundsError, match=r"5 items, asked for 5"):
        TensorDataset(np.zeros(5))[5]


def test_a_dataset_without_its_methods_says_so() -> None:
    class Bare(Dataset[int]):
        pass

    with pytest.raises(TypeError, match="Bare has no length"):
        len(Bare())
    with pytest.raises(TypeError, match="Bare has no items"):
        Bare()[0]


# What a batch is


def test_fast_path_equals_item_by_item() -> None:
    class OneByOne(TensorDataset):
        def __getitem__(self, index: Any) -> tuple[np.ndarray, ...]:
            assert isinstance(index, int)
            return super().__getitem__(index)

    arrays = np.arange(21, dtype=np.float32).reshape(7, 3), np.arange(7)
    fast = DataLoader(TensorDataset(*arrays), 3, shuffle=True, seed=1)
    slow = DataLoader(OneByOne(*arrays), 3, shuffle=True, seed=1)
    for (a, b), (c, d) in zip(fast, slow, strict=True):
        assert isinstance(a, Tensor) and isinstance(c, Tensor)
        assert np.array_equal(a.numpy(), c.numpy()) and np.array_equal(b.numpy(), d.numpy())
        assert a.numpy().dtype == np.float32 and b.numpy().dtype == np.int64
        assert (a.shape, b.shape) == (c.shape, d.shape)


def test_batches_keep_the_structure_of_items() -> None:
    dataset = Items(4, lambda i: {"image": np.full((2, 2), i, np.float32), "pair": (i, [float(i), i % 2 == 0])})
    batch = next(iter(DataLoader(dataset, 4)))
    number, (real, even) = batch["pair"]
    assert batch["image"].shape == (4, 2, 2)
    assert [part.numpy().dtype for part in (number, real, even)] == [np.int64, np.float32, np.bool_]
    assert number.numpy().tolist() == [0, 1, 2, 3]


def test_items_may_be_tensors_or_numpy_scalars() -> None:
    x, y = next(iter(DataLoader(Items(3, lambda i: (tensor(np.full(2, i, np.float32)), np.float64(i))), 3)))
    assert x.shape == (3, 2) and y.numpy().dtype == np.float64


def test_a_list_is_a_dataset() -> None:
    (x, y), *_ = DataLoader([(1, 2.0), (3, 4.0)], 2)
    assert x.numpy().tolist() == [1, 3] and y.numpy().tolist() == [2.0, 4.0]


def test_collate_fn_gets_the_items_and_its_result_is_the_batch() -> None:
    assert list(DataLoader(Items(5), 2, collate_fn=lambda items: items)) == [[0, 1], [2, 3], [4]]
    dataset = TensorDataset(np.arange(4))
    assert list(DataLoader(dataset, 2, collate_fn=lambda items: sum(int(x) for (x,) in items))) == [1, 5]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda i: np.zeros(2 + i), ShapeError, r"item 0 of the batch has shape \(2,\), item 1 has \(3,\)"),
        (lambda i: np.zeros(2, ["f4", "f8"][i]), DTypeError, "float32, item 1 has float64"),
        (lambda i: (0,) * (i + 1), ShapeError, "tuple of 1 parts, another is a tuple of 2 parts"),
        (lambda i: {"ab"[i]: 0}, ShapeError, r"dict of \['a'\], another is a dict of \['b'\]"),
        (lambda i: "text", DTypeError, "cannot batch a str.*collate_fn"),
    ],
)
def test_items_that_make_no_batch(make: Callable[[int], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(DataLoader(Items(2, make), 2))


# Epochs

sizes = st.integers(0, 40)
batch_sizes = st.integers(1, 12)
worker_counts = st.sampled_from([0, 1, 3])


@settings(deadline=None, max_examples=60)
@given(sizes, batch_sizes, worker_counts, st.booleans(), st.booleans(), st.integers(1, 3))
def test_every_item_exactly_once_an_epoch(
    count: int, batch_size: int, num_workers: int, shuffle: bool, fast: bool, prefetch: int
) -> None:
    dataset = TensorDataset(np.arange(count)) if fast else Items(count)
    loader = DataLoader(dataset, batch_size, shuffle, num_workers=num_workers, prefetch=prefetch)
    for _ in range(2):
        batches = numbers(loader)
        assert len(batches) == len(loader)
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert sorted(flat(batches)) == list(range(count))
        assert shuffle or flat(batches) == list(range(count))


@settings(deadline=None)
@given(sizes, batch_sizes, worker_counts)
def test_drop_last_drops_the_smaller_batch_only(count: int, batch_size: int, num_workers: int) -> None:
    loader = DataLoader(TensorDataset(np.arange(count)), batch_size, drop_last=True, num_workers=num_workers)
    batches = numbers(loader)
    assert len(batches) == len(loader) == count // batch_size
    assert all(len(batch) == batch_size for batch in batches)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**64), sizes, batch_sizes)
def test_order_is_the_seeds_whatever_the_workers(seed: int, count: int, batch_size: int) -> None:
    def epochs(num_workers: int) -> list[list[list[int]]]:
        loader = DataLoader(Items(count), batch_size, shuffle=True, seed=seed, num_workers=num_workers)
        return [numbers(loader) for _ in range(3)]

    assert epochs(0) == epochs(1) == epochs(3)


def test_slow_items_do_not_change_the_order() -> None:
    def slow_first(index: int) -> int:
        time.sleep(0.02 if index < 2 else 0)
        return index

    assert flat(numbers(DataLoader(Items(12, slow_first), 2, num_workers=3))) == list(range(12))


def test_epochs_differ_and_can_be_repeated() -> None:
    loader = DataLoader(TensorDataset(np.arange(100)), 10, shuffle=True)
    first, second = numbers(loader), numbers(loader)
    assert first != second
    again = DataLoader(TensorDataset(np.arange(100)), 10, shuffle=True, seed=loader.seed)
    again.epoch = 1
    assert numbers(again) == second
    other = DataLoader(TensorDataset(np.arange(100)), 10, shuffle=True)
    assert numbers(other) != first


def test_two_loops_over_one_loader_do_not_meet() -> None:
    loader = DataLoader(TensorDataset(np.arange(6)), 2, num_workers=1)
    for one, other in zip(loader, loader, strict=True):
        assert np.array_equal(one[0].numpy(), other[0].numpy())


@pytest.mark.parametrize("prefetch", [1, 3])
def test_no_more_is_loaded_ahead_than_asked(prefetch: int) -> None:
    loaded: list[int] = []
    loader = DataLoader(Items(100, lambda i: loaded.append(i) or i), num_workers=2, prefetch=prefetch)
    for done, _ in enumerate(loader, start=1):
        if done <= 3:
            time.sleep(0.05)  # time enough to overrun
        assert len(loaded) <= done + 2 * prefetch


def test_workers_run_at_once() -> None:
    meeting = threading.Barrier(3, timeout=10)
    loader = DataLoader(Items(3, lambda i: meeting.wait() * 0 + i), num_workers=3, prefetch=1)
    assert flat(numbers(loader)) == [0, 1, 2]


# Leaving


class Broken(Exception):
    pass


def fail_at(bad: int) -> Callable[[int], int]:
    def load_one(index: int) -> int:
        if index == bad:
            raise Broken(f"no item {index}")
        return index

    return load_one


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_an_error_comes_at_its_batch_with_its_traceback(num_workers: int) -> None:
    seen = []
    with pytest.raises(Broken, match="no item 7") as caught:
        for batch in DataLoader(Items(20, fail_at(7)), 2, num_workers=num_workers):
            seen.append(batch.numpy().tolist())
    assert seen == [[0, 1], [2, 3], [4, 5]]
    text = "".join(traceback.format_exception(caught.value))
    assert "in load_one" in text and "while loading item 7 of the Items" in text


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_a_stop_iteration_does_not_pass_for_the_end(num_workers: int) -> None:
    def stop(index: int) -> int:
        return next(iter(())) if index == 3 else index

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(DataLoader(Items(6, stop), num_workers=num_workers))


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_leaving_early_stops_the_workers(num_workers: int) -> None:
    loaded: list[int] = []
    for _ in DataLoader(Items(10_000, lambda i: loaded.append(i) or i), 10, num_workers=num_workers):
        break
    time.sleep(0.02)
    settled = len(loaded)
    time.sleep(0.05)
    assert len(loaded) == settled <= 10 + 10 * 2 * num_workers


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_error_in_the_loop_stops_the_workers(error: type[BaseException]) -> None:
    with pytest.raises(error):
        for _ in DataLoader(Items(1000), 10, num_workers=3):
            raise error
    # no_thread_stays does the rest


def test_leaving_does_not_wait_for_an_item_in_hand() -> None:
    held = threading.Lock()

    def needs_the_lock(index: int) -> int:
        if index:
            with held:
                pass
        return index

    start = time.monotonic()
    with held:  # a loader that joined its workers here would never return
        for _ in DataLoader(Items(100, needs_the_lock), num_workers=2):
            break
    assert time.monotonic() - start < 5


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no interval timer to interrupt with")
def test_ctrl_c_while_waiting_for_a_batch() -> None:
    import signal

    gate = threading.Event()
    loader = DataLoader(Items(10, lambda i: gate.wait(30) * 0 + i), num_workers=2)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    start = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            next(iter(loader))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gate.set()
    assert time.monotonic() - start < 5


def test_an_iterator_never_started_starts_no_thread() -> None:
    iter(DataLoader(Items(10), num_workers=3))
    assert loader_threads() == []


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0, expected an int of at least 1"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"batch_size": True}, "batch_size=True"),
        ({"num_workers": -1}, "num_workers=-1, expected an int of at least 0"),
        ({"prefetch": 0}, "prefetch=0"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": "one"}, "seed='one'"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataLoader(Items(3), **arguments)


def test_arguments_of_the_wrong_kind() -> None:
    with pytest.raises(TypeError, match="got a list_iterator, expected a dataset"):
        DataLoader(iter([1, 2, 3]))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="collate_fn=3"):
        DataLoader(Items(3), collate_fn=3)  # type: ignore[arg-type]


def test_numpy_integers_are_integers() -> None:
    assert len(DataLoader(Items(10), np.int64(3))) == 4  # type: ignore[arg-type]


# The digits


def test_digits() -> None:
    train, test = digits()
    assert (len(train), len(test)) == (1437, 360)
    for part in (train, test):
        images, labels = part.arrays
        assert images.dtype == np.float32 and images.shape[1:] == (1, 8, 8)
        assert images.min() == 0 and images.max() == 1
        assert labels.dtype == np.int64 and set(labels.tolist()) == set(range(10))


def test_digits_are_the_same_for_everybody() -> None:
    train, test = digits()
    images = np.concatenate([train.arrays[0], test.arrays[0]]).reshape(-1, 64) * 16
    labels = np.concatenate([train.arrays[1], test.arrays[1]])[:, None]
    rows = np.concatenate([images, labels], 1).astype(np.uint8)
    assert hashlib.sha256(rows.tobytes()).hexdigest() == (
        "d9b63fcfcda797a4bb96113fe49bf61556dc61121195766042fb9c8c1c41e4c2"
    )


def test_workers_load_for_the_device_of_the_loop() -> None:
    loader = DataLoader(TensorDataset(np.zeros((8, 2), np.float32)), batch_size=4, num_workers=2)
    with device("cpu"):
        assert {x.device for (x,) in loader} == {"cpu"}


class Pair(NamedTuple):
    image: Any
    label: Any


def test_named_tuples_stay_named() -> None:
    loader = DataLoader(Items(3, lambda n: Pair(np.full(2, n, np.float32), n)), batch_size=3)
    (batch,) = loader
    assert type(batch) is Pair and batch.image.shape == (3, 2) and batch.label.tolist() == [0, 1, 2]


def test_a_dataset_that_raises_no_index_error_ends() -> None:
    assert list(Items(3)) == [0, 1, 2]


@pytest.mark.parametrize(("lengths", "sizes"), [([7, 3], [7, 3]), ([0.5, 0.25, 0.25], [6, 2, 2]), ([10], [10])])
def test_random_splits_have_every_item_once(lengths: list[float], sizes: list[int]) -> None:
    parts = random_split(Items(10), lengths, seed=1)
    assert [len(part) for part in parts] == sizes
    assert sorted(i for part in parts for i in part) == list(range(10))
    again = [list(part) for part in random_split(Items(10), lengths, seed=1)]
    assert again == [list(part) for part in parts] != [list(part) for part in random_split(Items(10), lengths, seed=2)]
    assert sorted(n for batch in numbers(DataLoader(parts[0], 4, num_workers=2)) for n in batch) == sorted(again[0])


@pytest.mark.parametrize("lengths", [[7, 4], [0.5, 0.6], [1.5, 8.5], [-1, 11], []])
def test_lengths_that_are_none(lengths: list[float]) -> None:
    with pytest.raises(ValueError, match="are no lengths of parts of 10 items"):
        random_split(Items(10), lengths)


@pytest.mark.parametrize("indices", [[0, 3], [-1], range(4), range(2, -2, -1)])
def test_a_subset_of_what_is_not_there(indices: Any) -> None:
    with pytest.raises(IndexBoundsError, match="Subset of 3 items, asked for"):
        Subset(Items(3), indices)


def test_batches_of_another_size_are_at_another_place() -> None:
    loader = DataLoader(Items(10), batch_size=2)
    next(iter(loader))
    state = loader.state_dict()
    with pytest.raises(ValueError, match="after batch 1 of 2 items, this loader has batches of 4"):
        DataLoader(Items(10), batch_size=4).load_state_dict(state)
    list(loader)
    DataLoader(Items(10), batch_size=4).load_state_dict(loader.state_dict())  # between epochs it does not matter

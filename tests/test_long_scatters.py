"""Scattered sums: however many updates one place gets, the error stays that of a rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import katachi as kt

Array = np.ndarray[Any, Any]
LEAST = 1e-6  # the relative error that is allowed
N = 5_000_000


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Any:
    with kt.device("cpu"):
        yield


def added(x: Array, index: Array, update: Array) -> Array:
    """What the same sum is in float64."""
    out = x.astype(np.float64)
    np.add.at(out, index, update.astype(np.float64))
    return out


def check(x: Array, index: Array, update: Array) -> Array:
    got = kt.tensor(x).at[kt.tensor(index)].add(kt.tensor(update)).numpy()
    np.testing.assert_allclose(got, added(x, index, update), rtol=LEAST, atol=0)
    return got


@pytest.mark.parametrize("places", [3, N + 1])
def test_five_million_equal_indices(places: int) -> None:
    """With fewer places than indices, and with more."""
    index = np.full(N, 2)
    for c in (0.1, 1 / 3, 1.0000001):
        check(np.ones(places, np.float32), index, np.full(N, c, np.float32))
    near_one = np.random.default_rng(0).uniform(0.9, 1.1, N).astype(np.float32)
    got = check(np.ones(places, np.float32), index, near_one)
    np.testing.assert_array_equal(got, check(np.ones(places, np.float32), index, near_one))


def test_gradients_of_what_reads_one_element_often() -> None:
    index = kt.tensor(np.full(N, 1))
    w = np.random.default_rng(1).uniform(0.9, 1.1, N).astype(np.float32)
    want = [0.0, w.astype(np.float64).sum(), 0.0]
    x = kt.variable(np.ones(3, np.float32))
    for read in (
        lambda: x[index],
        lambda: kt.take(x, index, 0),
        lambda: kt.take_along_axis(x, index, 0),
        lambda: kt.nn.functional.embedding(index, x.reshape((3, 1))).reshape((N,)),
    ):
        got = kt.gradients((read() * kt.tensor(w)).sum(), [x])[x].numpy()
        np.testing.assert_allclose(got, want, rtol=LEAST, atol=0)


@pytest.mark.parametrize("shape", [(5, 3), (40_000, 3), (5, 70), (30_000, 70), (4, 1), (60_000, 1)], ids=str)
def test_mixed_indices(shape: tuple[int, int]) -> None:
    r = np.random.default_rng(2)
    index = np.where(r.random(20_000) < 0.7, r.integers(0, 4, 20_000) ** 2, r.integers(0, 10**6, 20_000)) % shape[0]
    x, update = (r.uniform(0.5, 1.5, (n, shape[1])).astype(np.float32) for n in (shape[0], len(index)))
    check(x, index, update)


@pytest.mark.parametrize("places", [(3, 4), (200, 300)], ids=str)
def test_pairs_of_indices(places: tuple[int, int]) -> None:
    """Of the first two axes, and of the outer two of three."""
    r = np.random.default_rng(3)
    i, j = (r.integers(0, n, (50, 100)) for n in places)
    i[::2], j[::2] = i[::2] % 3, j[::2] % 2
    x, update = (r.uniform(0.5, 1.5, s).astype(np.float32) for s in ((*places, 5), (50, 100, 5)))
    got = kt.tensor(x).at[kt.tensor(i), kt.tensor(j)].add(kt.tensor(update)).numpy()
    want = x.astype(np.float64)
    np.add.at(want, (i, j), update.astype(np.float64))
    np.testing.assert_allclose(got, want, rtol=LEAST, atol=0)

    x = np.ascontiguousarray(x.transpose(0, 2, 1))
    got = kt.tensor(x).at[kt.tensor(i), :, kt.tensor(j)].add(kt.tensor(update)).numpy()
    want = x.astype(np.float64)
    np.add.at(want.transpose(0, 2, 1), (i, j), update.astype(np.float64))
    np.testing.assert_allclose(got, want, rtol=LEAST, atol=0)


@pytest.mark.parametrize("columns", [3, 90_000])
def test_rows_of_their_own(columns: int) -> None:
    """take_along_axis: each row has its indices."""
    r = np.random.default_rng(4)
    index, w = r.integers(0, columns, (7, 40_000)), r.uniform(0.5, 1.5, (7, 40_000)).astype(np.float32)
    index[:, ::2] %= 3
    x = kt.variable(np.ones((7, columns), np.float32))
    loss = (kt.take_along_axis(x, kt.tensor(index), 1) * kt.tensor(w)).sum()
    want = np.zeros((7, columns))
    np.add.at(want, (np.arange(7)[:, None], index), w.astype(np.float64))
    np.testing.assert_allclose(kt.gradients(loss, [x])[x].numpy(), want, rtol=LEAST, atol=0)


@pytest.mark.parametrize("places", [4, 1000])
@pytest.mark.parametrize("wrong", [-1001, 1000])
def test_indices_are_still_checked(places: int, wrong: int) -> None:
    index = np.zeros(100, np.int64)
    index[77] = wrong
    with pytest.raises(IndexError, match=str(wrong)):
        kt.zeros((places, 2)).at[kt.tensor(index)].add(kt.ones((100, 2))).numpy()


def test_memory_goes_with_the_updates() -> None:
    """A large table of which few rows are read needs no second one."""

    def step(table: Any, index: Any) -> Any:
        return table.at[index].add(kt.ones((64, 256)))

    with kt.device("cpu"):
        table, index = kt.zeros((20_000, 256)), kt.tensor(np.zeros(64, np.int64))
        told = kt.explain(step, table, index)
    assert 0 < max(f.program.plan.scratch for f in told.flushes) < 500_000


def test_few_and_many_in_one_table() -> None:
    """Up to the number that float32 sums take, and beyond it, in all three forms."""
    index = np.repeat(np.arange(40), np.arange(40))
    update = np.random.default_rng(5).uniform(0.9, 1.1, (len(index), 33)).astype(np.float32)
    x = np.ones((2000, 33), np.float32)
    want = added(x, index, update)

    def sums(x: Any, index: Any, update: Any) -> Any:
        return x.at[index].add(update)

    tensors = [kt.tensor(a) for a in (x, index, update)]
    with kt.eager():
        np.testing.assert_allclose(sums(*tensors).numpy(), want, rtol=LEAST, atol=0)
    for form in (sums, kt.compile(sums)):
        np.testing.assert_allclose(form(*tensors).numpy(), want, rtol=LEAST, atol=0)

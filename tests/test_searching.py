"""Searching, sets, neighbours, diagonals and the derivatives of sorting, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import katachi
from katachi.errors import DTypeError, IndexBoundsError, ShapeError
from katachi.graph.dtypes import float32, int64

from .samples import RNG, Array, Ints, shapes  # pyrefly: ignore[missing-import]
from .test_more_operations import normals, same, slope  # pyrefly: ignore[missing-import]

kt: Any = katachi
DEVICES = ["reference", "cpu"]


# ---- searching ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("side", ["left", "right"])
@given(n=st.integers(0, 20), shape=shapes(most=2), rng=RNG, kind=st.sampled_from(["f8", "f4", "i8", "u1", "?"]))
def test_searchsorted(n: int, shape: Ints, rng: np.random.Generator, kind: str, device: str, side: Any) -> None:
    def some(size: Any) -> Array:
        values = rng.integers(0, 6, size).astype(kind)
        if values.dtype.kind == "f":
            values = np.where(rng.random(size) < 0.2, rng.choice([np.nan, np.inf, -np.inf], size), values)
        return np.asarray(values.astype(kind))

    line, values = some(n), some(shape)
    ordered: Any = np.sort(line)
    x, v = kt.tensor(line, device=device), kt.tensor(values, device=device)
    want = np.searchsorted(ordered, values, side)
    same(kt.searchsorted(kt.tensor(ordered, device=device), v, side=side), want)
    same(kt.searchsorted(x, v, side=side, sorter=kt.argsort(x)), want)


def test_searchsorted_says_what_is_wrong() -> None:
    line = kt.tensor([1, 2, 5])
    assert kt.searchsorted(line, 2).item() == 1 and kt.searchsorted(line, 2.5).dtype is int64
    with pytest.raises(ShapeError, match=r"searchsorted\(int64\[1, 3\], int64\[3\]\): needs a sorted vector"):
        kt.searchsorted(line.reshape(1, 3), line)
    with pytest.raises(ShapeError, match=r"needs a sorter of shape \(3,\), got \(2,\)"):
        kt.searchsorted(line, line, sorter=kt.tensor([0, 1]))
    with pytest.raises(DTypeError, match="integer"):
        kt.searchsorted(line, line, sorter=kt.tensor([0.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match=r'"left" or "right", got \'both\''):
        kt.searchsorted(line, line, side="both")
    with pytest.raises(IndexBoundsError):
        kt.searchsorted(line, line, sorter=kt.tensor([0, 1, 7])).tolist()


@given(shapes(1), RNG)
def test_nonzero(shape: Ints, rng: np.random.Generator) -> None:
    x = rng.integers(0, 2, shape) * rng.choice([1.5, np.nan, -1.0], shape)
    found = kt.nonzero(kt.tensor(x))
    assert len(found) == len(shape)
    for got, want in zip(found, np.nonzero(x), strict=True):
        same(got, want)
    with pytest.raises(ShapeError, match="scalar"):
        kt.nonzero(kt.tensor(1.0))


@pytest.mark.parametrize("device", DEVICES)
@given(shape=shapes(), rng=RNG, kind=st.sampled_from(["f8", "f4", "f2", "i8", "u1", "?"]))
def test_unique(shape: Ints, rng: np.random.Generator, kind: str, device: str) -> None:
    x = np.asarray(rng.integers(0, 4, shape).astype(kind))
    if x.dtype.kind == "f":
        x = np.asarray(np.where(rng.random(shape) < 0.2, np.nan, x).astype(kind))
    want: Any = np.unique(x, True, True, True, equal_nan=False)
    t = kt.tensor(x, device=device)
    found = kt.unique_all(t)
    for got, expected in zip(found, [*want[:2], want[2].reshape(shape), want[3]], strict=True):
        same(got, expected)
    assert found.values.dtype is t.dtype and found.values.device == device
    same(kt.unique_values(t), want[0])
    same(kt.unique_counts(t).counts, want[3])
    same(kt.unique_inverse(t).inverse_indices, want[2].reshape(shape))


def test_the_gradient_of_unique_values_goes_to_the_first() -> None:
    v = kt.variable([3.0, 1.0, 3.0, 1.0])
    (kt.unique_values(v) * kt.tensor([10.0, 7.0])).sum().backward()
    assert v.grad.tolist() == [7, 10, 0, 0]


# ---- neighbours, diagonals, order -----------------------------------------------------------------------------------


@given(shapes(1), st.data(), RNG)
def test_diff(shape: Ints, data: st.DataObject, rng: np.random.Generator) -> None:
    x, axis, n = normals(rng, shape), data.draw(st.integers(-len(shape), len(shape) - 1)), data.draw(st.integers(0, 3))
    ends = {}
    for name in data.draw(st.sampled_from([(), ("prepend",), ("append",), ("prepend", "append")])):
        size = list(shape)
        size[axis] = data.draw(st.integers(0, 2))
        ends[name] = normals(rng, tuple(size))
    mine = {k: kt.tensor(v) for k, v in ends.items()}
    if n:  # NumPy leaves x alone without a difference to take, whatever it is to be joined with
        same(kt.diff(kt.tensor(x), axis=axis, n=n, **mine), np.diff(x, n, axis, **ends))
        slope(lambda v: kt.diff(v, axis=axis, n=n), x, rng)
    else:
        same(kt.diff(kt.tensor(x), axis=axis, n=0), x)


def test_diff_says_what_is_wrong() -> None:
    x = kt.zeros((2, 3))
    assert kt.diff(kt.tensor([1, 0], dtype=kt.uint8)).tolist() == [255]
    assert kt.diff(kt.tensor([1, 4]), prepend=kt.tensor([0.5])).dtype is float32
    with pytest.raises(ShapeError, match=r"may differ on axis 1 only, got \(3, 1\)"):
        kt.diff(x, prepend=kt.zeros((3, 1)))
    with pytest.raises(ShapeError, match="at least 0, got -1"):
        kt.diff(x, n=-1)
    with pytest.raises(DTypeError, match="numeric dtype, got bool"):
        kt.diff(x > 0)


@given(st.integers(0, 4), st.integers(-4, 4), RNG)
def test_diag(n: int, k: int, rng: np.random.Generator) -> None:
    x = normals(rng, (n,))
    same(kt.diag(kt.tensor(x), k), np.diag(x, k))
    slope(lambda v: kt.diag(v, k), x, rng)
    y = normals(rng, (n, 3))
    same(kt.diag(kt.tensor(y), k), np.diagonal(y, k))
    assert kt.diag(kt.tensor([1, 2]), k).dtype is int64
    same(kt.eye(n, 3, k=k, dtype=kt.float64), np.eye(n, 3, k))
    with pytest.raises(ShapeError, match=r"a vector or a matrix, got \(1, 1, 1\)"):
        kt.diag(kt.zeros((1, 1, 1)))


@given(st.lists(shapes(most=3, sizes=st.sampled_from([1, 2])), max_size=3))
def test_broadcast_arrays(sizes: list[Ints]) -> None:
    xs = [np.zeros(s) for s in sizes]
    try:
        want = np.broadcast_arrays(*xs)
    except ValueError:
        with pytest.raises(ShapeError, match="do not broadcast"):
            kt.broadcast_arrays(*map(kt.tensor, xs))
        return
    assert [x.shape for x in kt.broadcast_arrays(*map(kt.tensor, xs))] == [x.shape for x in want]


@given(shapes(1), st.data(), RNG, st.booleans())
def test_second_slopes_of_sorting(shape: Ints, data: st.DataObject, rng: np.random.Generator, descending: bool) -> None:
    x = (rng.permutation(int(np.prod(shape))) * 0.5).reshape(shape)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    c = kt.tensor(normals(rng, shape))
    cube = kt.grad(lambda v: (kt.sort(v, axis, descending=descending) ** 3 * c).sum())
    order = np.argsort(-x if descending else x, axis, kind="stable")
    weight = np.empty_like(x)
    np.put_along_axis(weight, order, c.numpy(), axis)
    d = normals(rng, shape)
    bent = kt.grad(lambda v: (cube(v) * kt.tensor(d)).sum())(kt.tensor(x))
    same(bent, 6 * x * weight * d)
    t = normals(rng, shape)
    _, pushed = kt.jvp(lambda v: kt.sort(v, axis, descending=descending), (kt.tensor(x),), (kt.tensor(t),))
    same(pushed, np.take_along_axis(t, order, axis))

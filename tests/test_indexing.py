"""Indexing by arrays, masks and tensors, and writing to places, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import katachi
from katachi.errors import DTypeError, IndexBoundsError, ShapeError

from .samples import RNG, Array, Ints, shapes  # pyrefly: ignore[missing-import]
from .test_more_operations import slope  # pyrefly: ignore[missing-import]

kt: Any = katachi
BOUND = st.one_of(st.none(), st.integers(-5, 5))
SLICE = st.builds(slice, BOUND, BOUND, st.one_of(st.none(), st.sampled_from([-2, -1, 1, 2, 3])))
KINDS = ["slice", "int", "array", "array", "tensor", "mask", "list", "scalar"]


def normals(rng: np.random.Generator, shape: Ints) -> Array:
    return np.asarray(rng.standard_normal(shape))


@st.composite
def advanced(draw: Any) -> tuple[Ints, Any, Any]:
    """A shape, an index of it for NumPy and the same for katachi."""
    shape = draw(shapes(1, 4, st.integers(0, 4)))
    rng = draw(RNG)
    common = draw(shapes(most=2, sizes=st.integers(1, 3)))
    theirs: list[Any] = []
    ours: list[Any] = []
    skip = draw(st.integers(0, 1))
    axis = 0
    while axis < len(shape) - skip:
        n, kind = shape[axis], draw(st.sampled_from(KINDS))
        if n == 0 and kind not in ("slice", "mask"):
            kind = "slice"
        wide = 1
        if kind == "slice":
            a = o = draw(SLICE)
        elif kind == "int":
            a = o = draw(st.integers(-n, n - 1))
        elif kind == "mask":
            wide = draw(st.integers(1, max(1, min(2, len(shape) - skip - axis))))
            a = rng.random(shape[axis : axis + wide]) < 0.6
            o = draw(st.sampled_from([a, kt.tensor(a), a.tolist()])) if a.size else a
        else:
            cut = draw(st.integers(0, len(common)))
            size = () if kind == "scalar" else tuple(1 if rng.random() < 0.2 else m for m in common[cut:])
            low = -n if kind != "tensor" or draw(st.booleans()) else 0
            a = rng.integers(low, n, size).astype(draw(st.sampled_from(["int64", "int32", "int8"])))
            o = a.tolist() if kind == "list" and a.ndim else kt.tensor(a) if kind in ("tensor", "scalar") else a
        theirs.append(a)
        ours.append(o)
        axis += wide
    if draw(st.booleans()):
        at = draw(st.integers(0, len(theirs)))
        if at == len(theirs) or skip == 0:
            theirs.insert(at, Ellipsis)
            ours.insert(at, Ellipsis)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(theirs)))
        theirs.insert(at, None)
        ours.insert(at, None)
    if len(theirs) == 1 and draw(st.booleans()):
        return shape, theirs[0], ours[0]
    return shape, tuple(theirs), tuple(ours)


def read(x: Array, index: Any) -> Array:
    try:
        return np.asarray(x[index])
    except IndexError:  # arrays that do not broadcast: masks found different numbers
        assume(False)
        raise


@given(advanced(), RNG)
def test_reading(case: tuple[Ints, Any, Any], rng: np.random.Generator) -> None:
    shape, theirs, ours = case
    x = normals(rng, shape)
    want = read(x, theirs)
    np.testing.assert_array_equal(kt.tensor(x)[ours].numpy(), want)
    v = kt.variable(x)
    weights = normals(rng, want.shape)
    (v[ours] * kt.tensor(weights)).sum().backward()
    gradient = np.zeros_like(x)
    np.add.at(gradient, theirs, weights)
    np.testing.assert_allclose(v.grad.numpy(), gradient, atol=1e-12)


def positions(shape: Ints, index: Any) -> Array:
    """Which element of x each place of the result is."""
    return np.arange(int(np.prod(shape))).reshape(shape)[index]


@given(advanced(), RNG, st.booleans())
def test_writing(case: tuple[Ints, Any, Any], rng: np.random.Generator, whole: bool) -> None:
    shape, theirs, ours = case
    x = normals(rng, shape)
    want = read(x, theirs)
    value = normals(rng, want.shape if whole else want.shape[1:])
    set_, added = x.copy(), x.copy()
    flat = positions(shape, theirs)
    full = np.broadcast_to(value, want.shape)
    winner = {int(p): i for i, p in enumerate(flat.ravel())}  # the last of several counts
    for p, i in winner.items():
        set_.flat[p] = full.flat[i]
    np.add.at(added, theirs, value)
    np.testing.assert_array_equal(kt.tensor(x).at[ours].set(kt.tensor(value)).numpy(), set_)
    np.testing.assert_allclose(kt.tensor(x).at[ours].add(kt.tensor(value)).numpy(), added, atol=1e-12)
    hit = np.isin(positions(shape, ()), flat)
    np.testing.assert_array_equal(kt.tensor(x).at[ours].set(7).numpy(), np.where(hit, 7, x))

    v, w, c = kt.variable(x), kt.variable(value), normals(rng, shape)
    (v.at[ours].set(w) * kt.tensor(c)).sum().backward()
    np.testing.assert_allclose(v.grad.numpy(), np.where(hit, 0, c), atol=1e-12)
    kept = np.zeros(want.shape)
    for p, i in winner.items():
        kept.flat[i] = c.flat[p]
    np.testing.assert_allclose(w.grad.numpy(), unbroadcast(kept, value.shape), atol=1e-12)
    v, w = kt.variable(x), kt.variable(value)
    (v.at[ours].add(w) * kt.tensor(c)).sum().backward()
    np.testing.assert_allclose(v.grad.numpy(), c, atol=1e-12)
    np.testing.assert_allclose(w.grad.numpy(), unbroadcast(c[theirs], value.shape), atol=1e-12)


WAYS = {"multiply": np.multiply, "max": np.maximum, "min": np.minimum}


@pytest.mark.parametrize("way", WAYS)
@given(case=advanced(), rng=RNG, whole=st.booleans())
def test_combining(way: str, case: tuple[Ints, Any, Any], rng: np.random.Generator, whole: bool) -> None:
    shape, theirs, ours = case
    n = int(np.prod(shape))
    places = read(np.zeros(shape), theirs).shape
    size = places if whole else places[1:]
    apart = (rng.permutation(n + int(np.prod(size))) - n // 2) * 0.37  # of which one is zero
    x, value = apart[:n].reshape(shape), apart[n:].reshape(size)
    want = x.copy()
    WAYS[way].at(want, theirs, value)

    def change(x: Any, value: Any) -> Any:
        return getattr(x.at[ours], way)(value)

    np.testing.assert_allclose(change(kt.tensor(x), kt.tensor(value)).numpy(), want, rtol=1e-12, atol=1e-12)
    rounded = np.round(x).astype(np.int32)
    whole_want = rounded.copy()
    WAYS[way].at(whole_want, theirs, 2)
    got = change(kt.tensor(rounded), 2)
    assert got.dtype is kt.int32 and got.tolist() == whole_want.tolist()
    repeated = not whole and places != size and len(places) > len(size)  # one value at several places: ties
    slope(lambda v: change(v, kt.tensor(value)), x, rng, 1e-4)
    if way == "multiply" or not repeated:
        slope(lambda v: change(kt.tensor(x), v), value, rng, 1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_combining_on_the_cpu(way: str) -> None:
    x, value = np.arange(12.0).reshape(3, 4) - 5, np.array([[2.0, -3.0, 0.5, 4.0]])
    indices: list[Any] = [1, slice(None, None, -2), [0, 2, 2], (slice(1, 3), [3, 0, 3, 1]), (2, -1)]
    for index in indices:
        want = x.copy()
        WAYS[way].at(want, index, value[0, 0] if index == (2, -1) else value[0])
        found = []
        for device in ("reference", "cpu"):
            v, w = kt.variable(x, device=device), kt.variable(value[0, 0] if index == (2, -1) else value, device=device)
            out = getattr(v.at[index], way)(w if index == (2, -1) else w[0])
            (out * out).sum().backward()
            np.testing.assert_allclose(out.numpy(), want, rtol=1e-12)
            found.append((v.grad.numpy(), w.grad.numpy()))
        np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-12)
        np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-12)


def test_combining_where_factors_are_zero_and_extremes_tie() -> None:
    x, u = kt.variable([2.0, 5.0]), kt.variable([0.0, 0.0, 3.0])
    out = x.at[[0, 0, 0]].multiply(u)
    assert out.tolist() == [0, 5]
    product = kt.grad(lambda u: kt.tensor([2.0, 5.0]).at[[0, 0, 0]].multiply(u).sum())
    assert product(u.freeze()).tolist() == [0, 0, 0]
    mixed = kt.grad(lambda u: product(u)[0])  # d2 / du0 du: the product of x and all but two
    assert mixed(u.freeze()).tolist() == [0, 6, 0]
    triple = kt.grad(lambda u: mixed(u)[1])
    assert triple(u.freeze()).tolist() == [0, 0, 2]
    x, u = kt.variable([1.0, 1.0, 0.0]), kt.variable([1.0, 1.0, 4.0, 4.0])
    x.at[[0, 0, 2, 2]].max(u).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [1 / 3, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(u.grad.numpy(), [1 / 3, 1 / 3, 0.5, 0.5], rtol=1e-6)
    nan = kt.zeros(2).at[[0, 0]].min(kt.tensor([np.nan, -1.0]))
    assert np.isnan(nan.numpy()).tolist() == [True, False]
    v, u = kt.variable([1.0, np.nan, 2.0]), kt.variable([3.0, np.inf, 5.0])
    v.at[[0, 2, 0]].multiply(u)[0].backward()
    assert v.grad.tolist()[:2] == [15, 0] and u.grad.tolist() == [5, 0, 3]
    v, u = kt.variable(v.numpy()), kt.variable(u.numpy())
    v.at[[0, 2, 0]].max(u).sum().backward()
    assert v.grad.tolist() == [0, 1, 0] and u.grad.tolist() == [0, 1, 1]
    v = kt.variable([1.0, np.inf, 2.0])  # what is not addressed has no part in the gradient
    v.at[kt.tensor(0).item()].multiply(3.0)[0].backward()
    assert v.grad.tolist() == [3, 0, 0]


def unbroadcast(g: Array, shape: Ints) -> Array:
    return np.asarray(g).sum(0) if np.ndim(g) > len(shape) else np.asarray(g)


def test_an_ellipsis_without_axes_stands_between() -> None:
    x = np.arange(6.0).reshape(2, 3)
    for index in ((None, [0, 1], ..., [1, 2]), (..., None, [0], [1, 2]), (None, [0], [1, 2], ...)):
        want = x[index]
        assert kt.tensor(x)[index].shape == want.shape and kt.tensor(x)[index].tolist() == want.tolist()
        assert kt.tensor(x).at[index].set(kt.tensor(-want))[index].tolist() == (-want).tolist()
    assert kt.tensor(x)[0, ..., 1].item() == 1 and kt.tensor(x)[..., 0, 1].item() == 1


@pytest.mark.parametrize("flag", [True, False])
def test_masks_without_axes(flag: bool) -> None:
    x = np.arange(6.0).reshape(2, 3)
    for index in (flag, (flag, 0), (slice(None), flag), (0, flag, [1])):
        want = x[index]
        assert kt.tensor(x)[index].tolist() == want.tolist() and kt.tensor(x)[index].shape == want.shape
    want = x.copy()
    want[flag] = 1
    assert kt.tensor(x).at[flag].set(1.0).tolist() == want.tolist()


def test_integer_tensors_are_not_looked_at() -> None:
    from katachi.tensor import events

    seen: list[Any] = []
    note = seen.append
    events.observers.append(note)
    try:
        i = kt.tensor([2, 0]) * 1
        y = kt.arange(3).at[i].set(9)[i - 1]
        assert not seen
        assert y.tolist() == [1, 9] and seen
    finally:
        events.observers.remove(note)


@given(shapes(1, 3, st.integers(1, 4)), st.data(), RNG)
def test_take_and_take_along_axis(shape: Ints, data: st.DataObject, rng: np.random.Generator) -> None:
    x, axis = normals(rng, shape), data.draw(st.integers(-len(shape), len(shape) - 1))
    n = shape[axis]
    index = rng.integers(-n, n, data.draw(shapes(most=2)))
    for i in (index, kt.tensor(index)):
        np.testing.assert_array_equal(kt.take(kt.tensor(x), i, axis=axis).numpy(), np.take(x, index, axis))
    along = rng.integers(-n, n, tuple(3 if a == axis % len(shape) else m for a, m in enumerate(shape)))
    want = np.take_along_axis(x, along, axis)
    np.testing.assert_array_equal(kt.take_along_axis(kt.tensor(x), kt.tensor(along), axis).numpy(), want)
    v, c = kt.variable(x), normals(rng, want.shape)
    (kt.take_along_axis(v, along, axis) * kt.tensor(c)).sum().backward()
    gradient = np.zeros_like(x)
    where = list(np.indices(along.shape))
    where[axis] = along
    np.add.at(gradient, tuple(where), c)
    np.testing.assert_allclose(v.grad.numpy(), gradient, atol=1e-12)


def matrix() -> Any:
    return kt.zeros((2, 3))


WRONG: list[tuple[Any, Any, str]] = [
    (lambda: matrix()[[0, 2]], IndexBoundsError, r"index: 2 is outside axis 0 of size 2, shape \(2, 3\)"),
    (lambda: matrix()[:, np.array([[1], [-4]])], IndexBoundsError, r"-4 is outside axis 1 of size 3"),
    (lambda: matrix()[kt.tensor([0, 5])].numpy(), IndexBoundsError, r"index 5 is outside axis 0 of size 2"),
    (lambda: matrix()[kt.tensor([0, -3])].numpy(), IndexBoundsError, r"index -3 is outside axis 0 of size 2"),
    (lambda: matrix()[kt.tensor(2**64 - 1, dtype=kt.uint64)].numpy(), IndexBoundsError, "is outside axis 0 of size 2"),
    (lambda: matrix().at[kt.tensor([2])].add(1.0).numpy(), IndexBoundsError, r"index 2 is outside axis 0 of size 2"),
    (lambda: matrix()[[0.5]], DTypeError, "index: needs integers or bools, got an array of float32"),
    (lambda: matrix()[kt.tensor([0.5])], DTypeError, "index: needs integers or bools, got a tensor of float32"),
    (lambda: matrix()[np.array([True])], ShapeError, r"a mask of shape \(1,\) does not fit axis 0 of shape \(2, 3\)"),
    (lambda: matrix()[np.ones((3, 2), bool)], ShapeError, r"mask of shape \(3, 2\) does not fit axes 0 to 1"),
    (lambda: matrix()[[0, 1], [0, 1, 2]], ShapeError, r"index\(.*arrays of shapes \(2,\) and \(3,\) do not broadcast"),
    (lambda: matrix()[[0], [0], [0]], ShapeError, r"3 indices for 2 axes of shape \(2, 3\)"),
    (lambda: kt.tensor(1.0)[[0]], ShapeError, r"1 indices for 0 axes"),
    (lambda: matrix()[["a"]], DTypeError, "numbers and bools only"),
    (lambda: matrix()["a"], DTypeError, "ints, slices, None or ..., got 'a'"),
    (lambda: matrix().at[0].set(kt.zeros(2)), ShapeError,
     r"at\[...\].set\(.*value of shape \(2,\) does not broadcast to the places' shape \(3,\)"),
    (lambda: matrix().at[[0, 1]].add(kt.zeros((3, 3))), ShapeError, r"at\[...\].add\(.*places' shape \(2, 3\)"),
    (lambda: kt.zeros(2, dtype=kt.int64).at[0].set(0.5), DTypeError, r"at\[...\].set: int64 cannot hold 0.5"),
    (lambda: kt.zeros(2, dtype=kt.int8).at[0].set(kt.tensor(300)), DTypeError, "int8 cannot hold int64"),
    (lambda: kt.zeros(2, dtype=kt.int8).at[0].set(300), OverflowError, "300 does not fit int8"),
    (lambda: kt.zeros(2, dtype=kt.bool_).at[0].add(True), DTypeError, "numeric dtype, got bool"),
    (lambda: kt.zeros(2, dtype=kt.bool_).at[0].max(True), DTypeError, r"at\[...\].max: needs a numeric dtype"),
    (lambda: matrix().at[[0, 1]].multiply(kt.zeros((3, 3))), ShapeError, r"at\[...\].multiply\(.*shape \(2, 3\)"),
    (lambda: kt.zeros(2, dtype=kt.int64).at[0].min(kt.tensor(0.5)), DTypeError, "int64 cannot hold float32"),
    (lambda: matrix().at[[0, 2]].max(1.0), IndexBoundsError, "index 2 is outside|2 is outside axis 0"),
    (lambda: kt.take(matrix(), [0]), ShapeError, r"take: needs an axis for shape \(2, 3\)"),
    (lambda: kt.take(matrix(), [0.5], axis=0), DTypeError, "needs integers or bools"),
    (lambda: kt.take_along_axis(matrix(), kt.tensor([0]), 0), ShapeError, r"take_along_axis\(.*2 axes for \(2, 3\)"),
    (lambda: kt.take_along_axis(matrix(), kt.tensor([[0]] * 3), 1), ShapeError, "do not broadcast outside axis 1"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_misuse(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_loop_that_indexes_by_tensors_compiles_once() -> None:
    from katachi.tensor.trace import current

    table, counts = kt.tensor(np.arange(12.0).reshape(4, 3)), []
    for k in range(4):
        i = kt.tensor([k % 4, 3 - k % 4])
        y = (table[i] * 2).at[0].set(float(k))
        assert y.tolist()[0] == [float(k)] * 3
        counts.append(current().entries)
    assert counts[1:] == [counts[1]] * 3

"""Sums of equal numbers, where every rounding errs the same way: however many there are and however the axes lie, the
error stays that of a few additions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import katachi as kt
from katachi import nn
from katachi.nn import functional as F

Array = np.ndarray[Any, Any]
LEAST = 1e-6  # the relative error that is allowed
EQUAL = (0.1, 1.1, 1 / 3, 3.14159, 0.9999999, 1.0000001)
N = 3_000_000
CASES: list[tuple[tuple[int, ...], Any]] = [
    ((N,), None), ((N // 2, 2), 0), ((2, N // 2), 1), ((N // 7, 7), 0), ((N // 100, 100), 0), ((N // 1000, 1000), 0),
    ((3000, 1000), 1), ((N // 125, 5, 25), (0, 2)), ((N // 1000, 40, 25), (0, 2)), ((50, 3, 200, 100), (0, 2, 3)),
    ((N // 33, 33), None), ((4, N // 16, 4), 1),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Any:
    with kt.device("cpu"):
        yield


def near(got: Any, want: Any, least: float = LEAST) -> None:
    np.testing.assert_allclose(got.numpy().astype(np.float64), want, rtol=least, atol=0)


def filled(shape: tuple[int, ...], c: float) -> tuple[Any, float]:
    """A tensor of one number, in memory, and the number as float32 has it."""
    x = np.full(shape, c, np.float32)
    return kt.tensor(x), float(x.flat[0])


@pytest.mark.parametrize(("shape", "axis"), CASES, ids=str)
def test_sums_of_equal_numbers(shape: tuple[int, ...], axis: Any) -> None:
    axes = tuple(range(len(shape))) if axis is None else (axis,) if isinstance(axis, int) else axis
    count, last = math.prod(shape[i] for i in axes), np.ones(shape[-1], np.float32)
    for c in EQUAL:
        x, exact = filled(shape, c)
        near(x.sum(axes), exact * count)
        near(x.mean(axes), exact)
        near((x * kt.tensor(last)).sum(axes), exact * count)  # a factor along one axis, so that loops do not melt
        near((x * x).sum(axes), exact**2 * count, 1.2 * LEAST)  # each term is rounded as well
        near(x.exp().sum(axes), math.exp(exact) * count, 1.4 * LEAST)


def test_fifty_million() -> None:
    for c in EQUAL:
        near(kt.full((50_000_000,), c).sum(), float(np.float32(c)) * 50_000_000)
        near(kt.full((25_000_000, 2), c).sum(0), float(np.float32(c)) * 25_000_000)


@given(st.integers(0, 2**23 - 1), st.integers(1, 70_000), st.sampled_from([1, 2, 3, 17, 40]))
def test_any_number_any_count(digits: int, n: int, m: int) -> None:
    c = float(np.float32(1 + digits / 2**23))
    x = kt.tensor(np.full((n, m), c, np.float32))
    with kt.device("cpu"):
        near(x.sum(), c * n * m)
        near(x.sum(0), c * n)
        near(x.sum(1), c * m)


def test_what_is_made_of_sums() -> None:
    x, c = filled((N,), 0.1)
    pairs = x.reshape((N // 2, 2))
    near(kt.cumulative_sum(x)[-1], c * N)
    near(x.softmax(0), 1 / N)
    near(kt.logsumexp(x), c + math.log(N))
    near(pairs.log_softmax(0), -math.log(N // 2))
    alternating = np.where(np.arange(N) % 2, np.float32(2.1), np.float32(0.1))
    wide = alternating.astype(np.float64)
    near(kt.tensor(alternating).var(), wide.var())
    near(kt.tensor(alternating).std(), wide.std())
    near((x * x).sum().sqrt(), c * math.sqrt(N))
    near(F.mse_loss(x, kt.zeros((N,))), c * c)
    near(F.l1_loss(x, kt.zeros((N,))), c)
    logits = kt.tensor(np.tile(np.array([[0.3, 0.7]], np.float32), (N // 2, 1)))
    row = np.array([0.3, 0.7], np.float32).astype(np.float64)
    near(F.cross_entropy(logits, kt.zeros((N // 2,), dtype=kt.int64)), np.log(np.exp(row).sum()) - row[0])
    image = kt.tensor(np.tile(alternating.reshape(1, 1, 3000, 1000), (1, 2, 1, 1)))
    normal = nn.BatchNorm2d(2)(image)
    near(normal.abs(), np.abs(wide[0] - wide.mean()) / math.sqrt(wide.var() + 1e-5))


def test_products_of_many_factors() -> None:
    for shape, axis in (((N,), 0), ((N // 2, 2), 0), ((2, N // 2), 1)):
        c = float(np.float32(1 - 3 * 2.0**-24))
        near(kt.tensor(np.full(shape, c, np.float32)).prod(axis), c ** shape[axis])


@pytest.mark.parametrize("dtype", [kt.float16, kt.bfloat16], ids=lambda d: d.name)
def test_halves_are_rounded_once(dtype: Any) -> None:
    """Sums of halves are within half a step of the half, and a little."""
    least = 2.0**-11 if dtype is kt.float16 else 2.0**-8
    for shape, axis in (((N,), 0), ((N // 2, 2), 0), ((2, N // 2), 1)):
        x = kt.tensor(np.full(shape, 1 / 512, np.float32)).astype(dtype)
        near(x.sum(axis).astype(kt.float32), shape[axis] / 512, 1.01 * least)
        near((x * 3).sum(axis).astype(kt.float32), 3 * shape[axis] / 512, 1.01 * least)


def gradients(f: Callable[..., Any], *leaves: Any) -> list[Any]:
    return list(kt.gradients(f(*leaves), list(leaves)).values())


def test_gradients_that_add_up() -> None:
    x, c = filled((N // 3, 3), 0.1)
    bias, scale, number = (
        kt.variable(np.ones(3, np.float32)),
        kt.variable(np.ones((1, 3), np.float32)),
        kt.variable(1.0),
    )
    near(gradients(lambda b: ((x + b) * c).sum(), bias)[0], c * (N // 3))
    near(gradients(lambda s: (x * s).sum(), scale)[0], [[c * (N // 3)] * 3])
    near(gradients(lambda s: (x * s).mean(), number)[0], c)
    weight = kt.variable(np.ones((1, 3), np.float32))
    near(gradients(lambda w: F.linear(x, w).sum(), weight)[0], [[c * (N // 3)] * 3])


@pytest.mark.parametrize("c", EQUAL)
def test_products_with_a_vector(c: float) -> None:
    x, exact = filled((N,), c)
    rows = x.reshape((4, N // 4))
    ones = kt.tensor(np.ones(N, np.float32))
    near(x @ ones, exact * N)
    near(x.reshape((1, N)) @ ones.reshape((N, 1)), [[exact * N]])
    near(rows @ ones[: N // 4], exact * (N // 4))
    near(ones[: N // 4] @ rows.T, exact * (N // 4))
    near(ones[: N // 50] @ x.reshape((N // 50, 50)), exact * (N // 50))
    near(x.reshape((2, 1, N // 2)) @ ones.reshape((2, N // 2, 1)), exact * (N // 2))


@pytest.mark.parametrize("c", EQUAL)
def test_long_matrix_products_and_weight_gradients(c: float) -> None:
    """They add up some hundred terms one after another, and no more of them where there are millions."""
    x, exact = filled((4, N // 4), c)
    ones = kt.tensor(np.ones((N // 4, 3), np.float32))
    near(x @ ones, exact * (N // 4), 1e-5)
    near(ones.T @ x.T, exact * (N // 4), 1e-5)
    images, _ = filled((60, 2, 100, 100), c)
    for size, stride in ((1, 1), (3, 1), (6, 2)):
        weight = kt.variable(np.ones((4, 2, size, size), np.float32))
        outputs = ((100 - size) // stride + 1) ** 2 * 60
        near(gradients(lambda w, s=stride: F.conv2d(images, w, stride=s).sum(), weight)[0], exact * outputs, 1e-5)


@pytest.mark.parametrize("k", [32768, 32769, 65536, 65537, 100_000])
def test_a_long_product_at_the_edges_of_its_spans(k: int) -> None:
    """Several blocks of rows and columns, packed and not, in both precisions."""
    r = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        a, b = r.random((10, k)).astype(dtype), r.random((k, 70)).astype(dtype)
        exact = a.astype(np.float64) @ b.astype(np.float64)
        near(kt.tensor(a) @ kt.tensor(b), exact, 1e-5 if dtype is np.float32 else 1e-13)
        near(kt.tensor(a) @ kt.tensor(np.ascontiguousarray(b.T)).T, exact, 1e-5 if dtype is np.float32 else 1e-13)
        near(kt.tensor(b).T @ kt.tensor(a).T, exact.T, 1e-5 if dtype is np.float32 else 1e-13)


def test_infinities_and_nan_in_long_sums() -> None:
    x = np.full(100_000, 0.1, np.float32)
    x[77_777] = np.inf
    assert kt.tensor(x).sum().item() == math.inf
    x[5] = -np.inf
    assert math.isnan(kt.tensor(x).sum().item())
    assert kt.tensor(np.full(100_000, 3e38, np.float32)).sum().item() == math.inf

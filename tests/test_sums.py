"""Long sums keep their digits, however the axes lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import katachi as kt

CASES: list[tuple[tuple[int, ...], Any]] = [
    ((3_000_000,), None), ((1 << 18, 16), None), ((16, 1 << 18), None), ((2000, 1500), None), ((300_000, 7), 0),
    ((5, 300_000), 1), ((64, 20, 40, 40), (0, 2, 3)), ((1 << 17, 3, 5), (0, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "axis"), CASES)
@pytest.mark.parametrize("broadcast", [False, True])
def test_a_long_sum(shape: tuple[int, ...], axis: Any, broadcast: bool) -> None:
    """With a value that repeats along the other axes, the loops cannot melt into one."""
    rng = np.random.default_rng(0)
    x, row = rng.random(shape).astype(np.float32), rng.random(shape[-1:]).astype(np.float32)
    with kt.device("cpu"):
        value = kt.tensor(x) * kt.tensor(row) if broadcast else kt.tensor(x)
        total = (kt.sum(value) if axis is None else kt.sum(value, axis)).numpy()
    exact = (x.astype(np.float64) * row if broadcast else x.astype(np.float64)).sum(axis)
    np.testing.assert_allclose(total, exact, rtol=2e-6)


EDGES = (1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1023, 1025, 4097)  # around the vectors that are taken at a time


@pytest.mark.parametrize("axis", [0, 1])
def test_every_edge_of_what_is_taken_at_a_time(axis: int) -> None:
    """Integers and truths are exact, whatever goes side by side; the largest is, NaN and infinities included."""
    rng = np.random.default_rng(0)
    shapes = [(n, m) for n in EDGES for m in (1, 3, 33)]
    for shape in (*shapes, *((m, n) for n, m in shapes)):
        whole = rng.integers(-100, 100, shape)
        x = kt.tensor(whole, device="cpu")
        np.testing.assert_array_equal(x.sum(axis).numpy(), whole.sum(axis))
        np.testing.assert_array_equal((x * x - x).sum(axis).numpy(), (whole * whole - whole).sum(axis))
        truth = whole > -99
        np.testing.assert_array_equal(kt.tensor(truth, device="cpu").all(axis).numpy(), truth.all(axis))
        real = rng.standard_normal(shape).astype(np.float32)
        real[rng.random(shape) < 0.002] = np.nan
        real[rng.random(shape) < 0.01] = -np.inf
        y = kt.tensor(real, device="cpu")
        np.testing.assert_array_equal(y.max(axis).numpy(), real.max(axis))
        np.testing.assert_array_equal((-y).min(axis).numpy(), (-real).min(axis))
        fine = np.nan_to_num(real, neginf=-3.0)
        z = kt.tensor(fine, device="cpu")
        both = kt.stack([z.sum(axis), (z * z).sum(axis)]).numpy()
        wide = fine.astype(np.float64)
        np.testing.assert_allclose(both, [wide.sum(axis), (wide**2).sum(axis)], rtol=1e-5, atol=1e-3)

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

"""The operands of the kernel rows, the same for everybody."""

from __future__ import annotations

import numpy as np

Array = np.ndarray

REPEATS = 100  # dependent matmuls
CHAIN = 1 << 24
ROWS, COLUMNS = 1024, 4096
PARAMETERS = 50_000_000


def size(row: str) -> int:
    """The number in a row's name."""
    return int(row.split("-")[1])


def matrices(row: str) -> tuple[Array, Array]:
    """Two square ones; the second is orthogonal where products follow one another, so that they keep their size."""
    n, rng = size(row), np.random.default_rng(0)
    a, b = (rng.standard_normal((n, n), np.float32) for _ in range(2))
    return a, np.linalg.qr(b)[0].astype(np.float32) if row.startswith("matmuls") else b


def vector() -> Array:
    return np.random.default_rng(0).standard_normal(CHAIN, np.float32)


def normalised() -> tuple[Array, Array, Array, Array]:
    """x, the gradient that comes back, and a layer norm's weight and bias."""
    rng = np.random.default_rng(0)
    shapes = [(ROWS, COLUMNS), (ROWS, COLUMNS), (COLUMNS,), (COLUMNS,)]
    x, g, w, b = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return x, g, w, b


def parameters() -> tuple[Array, Array]:
    """Parameters and their gradients."""
    rng = np.random.default_rng(0)
    p, g = (rng.standard_normal(PARAMETERS, np.float32) for _ in range(2))
    return p, g

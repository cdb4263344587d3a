"""The kernel rows in NumPy: the matmuls of its OpenBLAS."""

from __future__ import annotations

from collections.abc import Callable

from bench import operands


def build(row: str, compiled: bool) -> Callable[[], object]:
    """What computes the row once, anew at each call."""
    a, b = operands.matrices(row)
    return lambda: a @ b

"""What functions of several families share: one dtype for operands, one or two sizes."""

from __future__ import annotations

from typing import Any

from katachi.errors import ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import promote
from katachi.graph.node import Node


def common(*xs: Node) -> list[Node]:
    """The operands in the dtype they promote to."""
    dtype = xs[0].dtype
    for x in xs[1:]:
        dtype = promote(dtype, x.dtype)
    return [b.convert(x, dtype) for x in xs]


def check_probability(name: str, p: float) -> float:
    """p itself. Raises ValueError unless it is between 0 and 1."""
    if isinstance(p, str) or not 0.0 <= p <= 1.0:
        raise ValueError(f"{name}: p is a probability, got {p!r}")
    return p


def sizes(value: Any, axes: int, what: str, least: int = 1) -> tuple[int, ...]:
    """A size for each axis, from one for all or from as many; raises ShapeError for anything else."""
    found = tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes
    if len(found) != axes or not all(isinstance(n, int) and n >= least for n in found):
        many = " or two" if axes == 2 else ""
        raise ShapeError(f"{what} must be an int{many}, at least {least}, got {value!r}")
    return found


def pair(value: Any, what: str, least: int = 1) -> tuple[int, int]:
    """Two sizes from one or two; raises ShapeError for anything else."""
    first, second = sizes(value, 2, what, least)
    return first, second

"""Gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from katachi.errors import GradientError
from katachi.tensor import elementwise, reduce


def clip_grad_norm_(parameters: Iterable[Any], max_norm: float) -> Any:
    """Scale all gradients together so that their common 2-norm is at most `max_norm`; returns the norm before.

    Nothing is computed here: scaling joins the step's program. Raises ValueError for a negative norm, GradientError
    when no parameter has a gradient.

    >>> import katachi as kt
    >>> v = kt.variable([3.0, 4.0]); (v * v).sum().backward()
    >>> kt.optim.clip_grad_norm_([v], 1.0).item(), [round(x, 3) for x in v.grad.tolist()]
    (10.0, [0.6, 0.8])
    """
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm_: max_norm must not be negative, got {max_norm}")
    params = [p for p in parameters if p.grad is not None]
    if not params:
        raise GradientError("clip_grad_norm_: no parameter has a gradient; call backward() first")
    total: Any = None
    for p in params:
        square = reduce.sum(elementwise.multiply(p.grad, p.grad))
        total = square if total is None else elementwise.add(total, square)
    norm = elementwise.sqrt(total)
    scale = elementwise.minimum(elementwise.divide(max_norm, elementwise.add(norm, 1e-6)), 1.0)
    for p in params:
        p.grad = elementwise.multiply(p.grad, scale)
    return norm

"""Gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from katachi.errors import GradientError
from katachi.graph import build as b
from katachi.graph.dtypes import float32, promote
from katachi.optim.build import part_of_update
from katachi.tensor import Tensor, elementwise, reduce
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op

ROOT = Op("norm", part_of_update("norm", b.root_of_powers))


def clip_grad_norm_(parameters: Any, max_norm: float, norm_type: float = 2.0) -> Any:
    """Scale all gradients together so that their common norm, of order `norm_type` (`math.inf` takes the largest
    element), is at most `max_norm`; returns the norm before.

    Nothing is computed here: scaling joins the step's program. Half types are computed in float32 and rounded once; the
    norm is float32. Raises ValueError for a negative norm or order, GradientError when no parameter has a gradient.

    >>> import katachi as kt
    >>> v = kt.variable([3.0, 4.0]); (v * v).sum().backward()
    >>> kt.optim.clip_grad_norm_([v], 1.0).item(), [round(x, 3) for x in v.grad.tolist()]
    (10.0, [0.6, 0.8])
    """
    _check("clip_grad_norm_", max_norm=max_norm, norm_type=norm_type)
    params = _with_gradients("clip_grad_norm_", parameters)
    parts = [_part(p.grad, float(norm_type)) for p in params]
    total = parts[0]
    for part in parts[1:]:
        total = elementwise.maximum(total, part) if norm_type == math.inf else elementwise.add(total, part)
    norm = total if norm_type in (1.0, math.inf) else apply(ROOT, (total,), (float(norm_type),))
    scale = elementwise.minimum(elementwise.divide(max_norm, elementwise.add(norm, 1e-6)), 1.0)
    for p in params:
        # of a half it is a float32 scale: one of a half would have lost its digits before it is used
        fitting = scale if scale.dtype == p.grad.dtype else elementwise.astype(scale, promote(p.grad.dtype, float32))
        scaled = elementwise.multiply(p.grad, fitting)
        p.grad = scaled if scaled.dtype == p.grad.dtype else elementwise.astype(scaled, p.grad.dtype)
    return norm


def clip_grad_value_(parameters: Any, clip_value: float) -> None:
    """Move every element of every gradient into [-clip_value, clip_value]. Raises ValueError for a negative one,
    GradientError when no parameter has a gradient.

    >>> import katachi as kt
    >>> v = kt.variable([3.0, 0.1]); (v * v).sum().backward()
    >>> kt.optim.clip_grad_value_([v], 1.0); [round(x, 3) for x in v.grad.tolist()]
    [1.0, 0.2]
    """
    _check("clip_grad_value_", clip_value=clip_value)
    for p in _with_gradients("clip_grad_value_", parameters):
        p.grad = elementwise.minimum(elementwise.maximum(p.grad, -float(clip_value)), float(clip_value))


def _part(grad: Any, order: float) -> Any:
    """What one gradient adds to the norm. Half floats would overflow: 300 squared is infinite there."""
    if grad.dtype.numpy.itemsize < float32.numpy.itemsize:
        grad = elementwise.astype(grad, float32)
    if order == 2.0:
        return reduce.sum(elementwise.multiply(grad, grad))
    size = elementwise.abs(grad)
    if order == math.inf:
        return reduce.max(size)
    return reduce.sum(size if order == 1.0 else elementwise.pow(size, order))


def _check(name: str, **values: float) -> None:
    for what, value in values.items():
        if not value >= 0 or (what == "norm_type" and value == 0):
            raise ValueError(
                f"{name}: {what} must not be {'zero or ' if what == 'norm_type' else ''}negative, got {value}"
            )


def _with_gradients(name: str, parameters: Any) -> list[Any]:
    if not isinstance(parameters, Iterable):
        raise TypeError(f"{name}: needs parameters, such as model.parameters(), got {type(parameters).__name__}")
    params = [p for p in ([parameters] if isinstance(parameters, Tensor) else parameters) if p.grad is not None]
    if not params:
        raise GradientError(f"{name}: no parameter has a gradient; call backward() first")
    return params

"""Initial values. Drawn on the reference device: draws are equal on all devices, and nothing need be compiled for
numbers that are drawn once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from katachi.errors import ShapeError
from katachi.graph.dtypes import DType, float32, float64
from katachi.nn.module import Parameter
from katachi.tensor.creation import full, zeros
from katachi.tensor.modes import device, no_grad
from katachi.tensor.random import rand, randn
from katachi.tensor.trace import current
from katachi.tensor.types import Shaped, shape_vars

Draw = Callable[[tuple[int, ...], DType], Any]


def _drawn(draw: Draw, shape: tuple[int, ...], dtype: DType = float32) -> Any:
    with no_grad(), device("reference"):
        return draw(shape, float64 if dtype is float64 else float32)  # halves are rounded once, from float32


def _within(bound: float) -> Draw:
    return lambda shape, dtype: rand(shape, dtype=dtype) * (2 * bound) - bound


def _around_zero(std: float) -> Draw:
    return lambda shape, dtype: randn(shape, dtype=dtype) * std


@shape_vars("*D")
def uniform(shape: Shaped[tuple[int, ...], "D"], bound: float) -> Parameter[Shaped[Any, "D"]]:
    """A parameter that starts uniform in [-bound, bound)."""
    return Parameter(_drawn(_within(bound), shape), device=current().modes.device)


@shape_vars("*D")
def normal(shape: Shaped[tuple[int, ...], "D"], std: float) -> Parameter[Shaped[Any, "D"]]:
    """A parameter that starts normal with mean 0."""
    return Parameter(_drawn(_around_zero(std), shape), device=current().modes.device)


@shape_vars("*D")
def zero(shape: Shaped[tuple[int, ...], "D"]) -> Parameter[Shaped[Any, "D"]]:
    """A parameter that starts at zero."""
    return Parameter(_drawn(lambda shape, dtype: zeros(shape, dtype=dtype), shape), device=current().modes.device)


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) < 2:
        raise ShapeError(f"initial values by fan need a weight (out, in, *window), got {shape}")
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def _gain(nonlinearity: str, a: float) -> float:
    gains = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + a * a)),
    }
    if nonlinearity not in gains:
        raise ValueError(f"nonlinearity is one of {', '.join(gains)}, got {nonlinearity!r}")
    return gains[nonlinearity]


def _set(p: Any, draw: Draw) -> Any:
    with no_grad():
        p.set(_drawn(draw, p.shape, p.dtype).to(p.device))
    return p


def _fan(p: Any, mode: str) -> int:
    fans = dict(zip(("fan_in", "fan_out"), _fans(p.shape), strict=True))
    if mode not in fans:
        raise ValueError(f'mode is "fan_in" or "fan_out", got {mode!r}')
    return fans[mode]


def kaiming_uniform_(p: Any, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Any:
    """Give p uniform values within gain sqrt(3 / fan), which keep the variance through layers with this nonlinearity
    (He et al., 2015): of the values with `fan_in`, of the gradients with `fan_out`. Raises ShapeError, ValueError.

    >>> import katachi as kt
    >>> bool((kt.nn.init.kaiming_uniform_(kt.nn.Parameter(kt.zeros(4, 6))).numpy().__abs__() <= 1).all())
    True
    """
    return _set(p, _within(_gain(nonlinearity, a) * math.sqrt(3 / _fan(p, mode))))


def kaiming_normal_(p: Any, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Any:
    """Give p normal values of standard deviation gain / sqrt(fan), as kaiming_uniform_. Raises ShapeError, ValueError.

    >>> import katachi as kt
    >>> kt.nn.init.kaiming_normal_(kt.nn.Parameter(kt.zeros(4, 6)), nonlinearity="relu").shape
    (4, 6)
    """
    return _set(p, _around_zero(_gain(nonlinearity, a) / math.sqrt(_fan(p, mode))))


def xavier_uniform_(p: Any, gain: float = 1.0) -> Any:
    """Give p uniform values within gain sqrt(6 / (fan_in + fan_out)), which balance the variance of both passes (Glorot
    and Bengio, 2010). Raises ShapeError.

    >>> import katachi as kt
    >>> bool((kt.nn.init.xavier_uniform_(kt.nn.Parameter(kt.zeros(3, 3))).numpy().__abs__() <= 1).all())
    True
    """
    fan_in, fan_out = _fans(p.shape)
    return _set(p, _within(gain * math.sqrt(6 / (fan_in + fan_out))))


def xavier_normal_(p: Any, gain: float = 1.0) -> Any:
    """Give p normal values of standard deviation gain sqrt(2 / (fan_in + fan_out)), as xavier_uniform_. Raises
    ShapeError.

    >>> import katachi as kt
    >>> kt.nn.init.xavier_normal_(kt.nn.Parameter(kt.zeros(3, 3))).shape
    (3, 3)
    """
    fan_in, fan_out = _fans(p.shape)
    return _set(p, _around_zero(gain * math.sqrt(2 / (fan_in + fan_out))))


def uniform_(p: Any, a: float = 0.0, b: float = 1.0) -> Any:
    """Give p uniform values in [a, b). Raises ValueError unless a <= b.

    >>> import katachi as kt
    >>> kt.nn.init.uniform_(kt.nn.Parameter(kt.zeros(2)), 3.0, 3.0).tolist()
    [3.0, 3.0]
    """
    if not a <= b:
        raise ValueError(f"uniform_: a must not be above b, got {a} and {b}")
    return _set(p, lambda shape, dtype: rand(shape, dtype=dtype) * (b - a) + a)


def normal_(p: Any, mean: float = 0.0, std: float = 1.0) -> Any:
    """Give p normal values. Raises ValueError for a negative `std`.

    >>> import katachi as kt
    >>> kt.nn.init.normal_(kt.nn.Parameter(kt.zeros(2)), 3.0, 0.0).tolist()
    [3.0, 3.0]
    """
    if not std >= 0:
        raise ValueError(f"normal_: std must not be negative, got {std}")
    return _set(p, lambda shape, dtype: randn(shape, dtype=dtype) * std + mean)


def constant_(p: Any, val: float) -> Any:
    """Give every element of p one value.

    >>> import katachi as kt
    >>> kt.nn.init.constant_(kt.nn.Parameter(kt.zeros(2)), 3.0).tolist()
    [3.0, 3.0]
    """
    return _set(p, lambda shape, dtype: full(shape, float(val), dtype=dtype))


def zeros_(p: Any) -> Any:
    """Give every element of p the value 0.

    >>> import katachi as kt
    >>> kt.nn.init.zeros_(kt.nn.Parameter(kt.ones(2))).tolist()
    [0.0, 0.0]
    """
    return constant_(p, 0.0)


def ones_(p: Any) -> Any:
    """Give every element of p the value 1.

    >>> import katachi as kt
    >>> kt.nn.init.ones_(kt.nn.Parameter(kt.zeros(2))).tolist()
    [1.0, 1.0]
    """
    return constant_(p, 1.0)

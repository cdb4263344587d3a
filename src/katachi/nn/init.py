"""Initial values. Drawn on the reference device: draws are equal on all devices, and nothing need be compiled for
numbers that are drawn once."""

from __future__ import annotations

import math
from typing import Any

from katachi.errors import ShapeError
from katachi.nn.module import Parameter
from katachi.tensor.modes import device, no_grad
from katachi.tensor.random import rand, randn
from katachi.tensor.trace import current
from katachi.tensor.types import Shaped, shape_vars


def _parameter(draw: Any) -> Any:
    where = current().modes.device
    with no_grad(), device("reference"):
        start = draw()
    return Parameter(start, device=where)


@shape_vars("*D")
def uniform(shape: Shaped[tuple[int, ...], "D"], bound: float) -> Parameter[Shaped[Any, "D"]]:
    """A parameter that starts uniform in [-bound, bound)."""
    return _parameter(lambda: rand(shape) * (2 * bound) - bound)


@shape_vars("*D")
def normal(shape: Shaped[tuple[int, ...], "D"], std: float) -> Parameter[Shaped[Any, "D"]]:
    """A parameter that starts normal with mean 0."""
    return _parameter(lambda: randn(shape) * std)


@shape_vars("*D")
def zero(shape: Shaped[tuple[int, ...], "D"]) -> Parameter[Shaped[Any, "D"]]:
    """A parameter that starts at zero."""
    from katachi.tensor.creation import zeros

    return _parameter(lambda: zeros(shape))


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


def _set(p: Any, fresh: Parameter) -> Any:
    with no_grad():
        p.set(fresh.to(p.device) if fresh.device == p.device else fresh.freeze().to(p.device))
    return p


def kaiming_uniform_(p: Any, a: float = 0.0, nonlinearity: str = "leaky_relu") -> Any:
    """Give p uniform values that keep the variance through layers with this nonlinearity (He et al., 2015)."""
    fan_in, _ = _fans(p.shape)
    return _set(p, uniform(p.shape, _gain(nonlinearity, a) * math.sqrt(3 / fan_in)))


def kaiming_normal_(p: Any, a: float = 0.0, nonlinearity: str = "leaky_relu") -> Any:
    """Give p normal values that keep the variance through layers with this nonlinearity (He et al., 2015)."""
    fan_in, _ = _fans(p.shape)
    return _set(p, normal(p.shape, _gain(nonlinearity, a) / math.sqrt(fan_in)))


def xavier_uniform_(p: Any, gain: float = 1.0) -> Any:
    """Give p uniform values that balance the variance of both passes (Glorot and Bengio, 2010)."""
    fan_in, fan_out = _fans(p.shape)
    return _set(p, uniform(p.shape, gain * math.sqrt(6 / (fan_in + fan_out))))


def xavier_normal_(p: Any, gain: float = 1.0) -> Any:
    """Give p normal values that balance the variance of both passes (Glorot and Bengio, 2010)."""
    fan_in, fan_out = _fans(p.shape)
    return _set(p, normal(p.shape, gain * math.sqrt(2 / (fan_in + fan_out))))

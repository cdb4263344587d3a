"""Layers without parameters."""

from __future__ import annotations

from typing import Any

from katachi.nn import functional as F
from katachi.nn.module import Module


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Any) -> Any:
        return F.relu(x)


class GELU(Module):
    """x times the normal distribution's cumulative function at x."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Any) -> Any:
        return F.gelu(x, self.approximate)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Any) -> Any:
        return F.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Any) -> Any:
        return F.sigmoid(x)


class Flatten(Module):
    """All axes but the first as one: (N, ...) becomes (N, M)."""

    def forward(self, x: Any) -> Any:
        return x.flatten(1)


class Dropout(Module):
    """Each element zero with probability p while training, the others scaled by 1 / (1 - p); the identity otherwise."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"Dropout: p is a probability, got {p}")
        self.p = p

    def forward(self, x: Any) -> Any:
        return F.dropout(x, self.p, self.training)

    def describe(self) -> str:
        return f"p={self.p}"

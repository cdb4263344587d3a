"""Layers without parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from katachi.nn import functional as F
from katachi.nn.module import Module
from katachi.tensor.types import _G, _S, Shaped, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.shape_rules import first_size, rest_size
    from katachi.tensor.tensor import Tensor


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.relu(x)


class GELU(Module):
    """x times the normal distribution's cumulative function at x."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.gelu(x, self.approximate)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.sigmoid(x)


class Flatten(Module):
    """All axes but the first as one: (N, ...) becomes (N, M)."""

    @shape_vars("*A")
    def forward(
        self, x: Tensor[Shaped[Any, "A"], _G]
    ) -> Tensor[Shaped[tuple[int, int], "[first_size(A), rest_size(A)]"], _G]:
        return x.flatten(1)


class Dropout(Module):
    """Each element zero with probability p while training, the others scaled by 1 / (1 - p); the identity otherwise."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"Dropout: p is a probability, got {p}")
        self.p = p

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.dropout(x, self.p, self.training)

    def describe(self) -> str:
        return f"p={self.p}"

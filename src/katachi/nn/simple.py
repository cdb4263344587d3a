"""Layers without parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from katachi.nn import functional as F
from katachi.nn.common import check_probability
from katachi.nn.module import Module
from katachi.tensor.types import _G, _S, Shaped, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.shape_rules import first_size, rest_size, same_shape
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Int


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.relu(x)


class GELU(Module):
    """x times the normal distribution's cumulative function at x."""

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f'GELU: approximate is "none" or "tanh", got {approximate!r}')
        self.approximate = approximate

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.gelu(x, self.approximate)

    def describe(self) -> str:
        return f"approximate={self.approximate!r}" if self.approximate != "none" else ""


class LeakyReLU(Module):
    """x where positive, negative_slope * x elsewhere (Maas et al., 2013).

    >>> import katachi as kt
    >>> kt.nn.LeakyReLU(0.5)(kt.tensor([-2.0, 2.0])).tolist()
    [-1.0, 2.0]
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.leaky_relu(x, self.negative_slope)

    def describe(self) -> str:
        return f"negative_slope={self.negative_slope}"


class SiLU(Module):
    """x / (1 + exp(-x)) (Elfwing et al., 2018).

    >>> import katachi as kt
    >>> kt.nn.SiLU()(kt.tensor([0.0, 100.0])).tolist()
    [0.0, 100.0]
    """

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.silu(x)


class Identity(Module):
    """x itself; takes and forgets any arguments, so that it can stand in for any layer.

    >>> import katachi as kt
    >>> kt.nn.Identity(3, bias=False)(kt.tensor([1.0])).tolist()
    [1.0]
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return x


@shape_vars("D")
class Softmax(Module):
    """exp(x), divided by its sum along `dim`. Raises ShapeError for an axis that is not there.

    >>> import katachi as kt
    >>> kt.nn.Softmax(dim=1)(kt.zeros((1, 4))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """

    def __init__(self, dim: Shaped[int, "D"] = -1) -> None:
        self.dim = dim

    @shape_vars("*A")
    def forward(self, x: Tensor[Shaped[Any, "A"], _G]) -> Tensor[Shaped[Any, "same_shape(A, Int[D])"], _G]:
        out: Any = F.softmax(x, self.dim)
        return out

    def describe(self) -> str:
        return f"dim={self.dim}"


@shape_vars("D")
class LogSoftmax(Module):
    """The logarithm of softmax along `dim`. Raises ShapeError for an axis that is not there.

    >>> import katachi as kt
    >>> round(kt.nn.LogSoftmax(dim=0)(kt.zeros(2))[0].item(), 4)
    -0.6931
    """

    def __init__(self, dim: Shaped[int, "D"] = -1) -> None:
        self.dim = dim

    @shape_vars("*A")
    def forward(self, x: Tensor[Shaped[Any, "A"], _G]) -> Tensor[Shaped[Any, "same_shape(A, Int[D])"], _G]:
        out: Any = F.log_softmax(x, self.dim)
        return out

    def describe(self) -> str:
        return f"dim={self.dim}"


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
        self.p = check_probability("Dropout", p)

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.dropout(x, self.p, self.training)

    def describe(self) -> str:
        return f"p={self.p}"

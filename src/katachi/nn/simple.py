"""Layers without parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from katachi.errors import ShapeError
from katachi.graph import build as b
from katachi.graph.node import Node
from katachi.graph.sizes import count
from katachi.nn import functional as F
from katachi.nn.common import check_probability
from katachi.nn.module import Module
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.operand import as_axis
from katachi.tensor.types import _G, _S, Shaped, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.shape_rules import first_size, rest_size, same_shape
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Int


def _in_place(name: str, inplace: Any) -> None:
    """Raises ValueError for the wish to overwrite a tensor."""
    if inplace:
        raise ValueError(
            f"{name}: inplace={inplace!r}, but a tensor is a value and never changes, so that what a gradient needs "
            "stays as it was; leave it out: what nobody needs any more gives its memory to the result by itself"
        )


class ReLU(Module):
    """max(x, 0). `inplace` can only be False: raises ValueError."""

    def __init__(self, inplace: Literal[False] = False) -> None:
        _in_place("ReLU", inplace)

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.relu(x)


class GELU(Module):
    """x times the normal distribution's cumulative function at x. Half types are computed in float32 and rounded
    once."""

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f'GELU: approximate is "none" or "tanh", got {approximate!r}')
        self.approximate = approximate

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.gelu(x, self.approximate)

    def describe(self) -> str:
        return f"approximate={self.approximate!r}" if self.approximate != "none" else ""


class LeakyReLU(Module):
    """x where positive, negative_slope * x elsewhere (Maas et al., 2013). `inplace` can only be False: ValueError. Half
    types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.LeakyReLU(0.5)(kt.tensor([-2.0, 2.0])).tolist()
    [-1.0, 2.0]
    """

    def __init__(self, negative_slope: float = 0.01, inplace: Literal[False] = False) -> None:
        _in_place("LeakyReLU", inplace)
        self.negative_slope = negative_slope

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.leaky_relu(x, self.negative_slope)

    def describe(self) -> str:
        return f"negative_slope={self.negative_slope}"


class SiLU(Module):
    """x / (1 + exp(-x)) (Elfwing et al., 2018). `inplace` can only be False: ValueError. Half types are computed in
    float32 and rounded once.

    >>> import katachi as kt
    >>> kt.nn.SiLU()(kt.tensor([0.0, 100.0])).tolist()
    [0.0, 100.0]
    """

    def __init__(self, inplace: Literal[False] = False) -> None:
        _in_place("SiLU", inplace)

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
    """exp(x), divided by its sum along `dim`. Raises ShapeError for an axis that is not there. Half types are computed
    in float32 and rounded once.

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
    """The logarithm of softmax along `dim`. Raises ShapeError for an axis that is not there. Half types are computed in
    float32 and rounded once.

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
    """The hyperbolic tangent. Half types are computed in float32 and rounded once."""

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x)). Half types are computed in float32 and rounded once."""

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.sigmoid(x)


def _flatten(x: Node, start: int, end: int) -> Node:
    if not x.shape:
        return b.reshape(x, (1,))
    first, last = as_axis(start, len(x.shape)), as_axis(end, len(x.shape))
    if first > last:
        raise ShapeError(f"the axes from {start} to {end} of {x.shape} are none")
    return b.reshape(x, (*x.shape[:first], count(x.shape[first : last + 1]), *x.shape[last + 1 :]))


FLATTEN = Op("flatten", _flatten)


class Flatten(Module):
    """The axes from `start_dim` to `end_dim` as one, all but the first unless said otherwise: (N, ...) becomes (N, M).
    Raises ShapeError for axes that are not there or end before they start, TypeError for what is no int.

    >>> import katachi as kt
    >>> kt.nn.Flatten()(kt.ones((2, 3, 4))).shape, kt.nn.Flatten(0, 1)(kt.ones((2, 3, 4))).shape
    ((2, 12), (6, 4))
    """

    if TYPE_CHECKING:

        @overload
        def __new__(cls, start_dim: Literal[1] = 1, end_dim: Literal[-1] = -1) -> Flatten: ...
        @overload
        def __new__(cls, start_dim: int = 1, end_dim: int = -1) -> FlattenSome: ...

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        if type(start_dim) is not int or type(end_dim) is not int:
            raise TypeError(f"Flatten: start_dim and end_dim are ints, got {start_dim!r} and {end_dim!r}")
        self.start_dim, self.end_dim = start_dim, end_dim

    @shape_vars("*A")
    def forward(
        self, x: Tensor[Shaped[Any, "A"], _G]
    ) -> Tensor[Shaped[tuple[int, int], "[first_size(A), rest_size(A)]"], _G]:
        out: Any = apply(FLATTEN, (x,), (self.start_dim, self.end_dim))
        return out

    def describe(self) -> str:
        return "" if (self.start_dim, self.end_dim) == (1, -1) else f"{self.start_dim}, {self.end_dim}"


if TYPE_CHECKING:

    class FlattenSome(Module):
        """What checkers take a Flatten of other axes for; at run time it is a Flatten."""

        def forward(self, x: Tensor[Any, _G]) -> Tensor[Any, _G]: ...


class Dropout(Module):
    """Each element zero with probability p while training, the others scaled by 1 / (1 - p); the identity otherwise.
    `inplace` can only be False: raises ValueError, as for another p. Half types are computed in float32 and rounded
    once."""

    def __init__(self, p: float = 0.5, inplace: Literal[False] = False) -> None:
        _in_place("Dropout", inplace)
        self.p = check_probability("Dropout", p)

    def forward(self, x: Tensor[_S, _G]) -> Tensor[_S, _G]:
        return F.dropout(x, self.p, self.training)

    def describe(self) -> str:
        return f"p={self.p}"

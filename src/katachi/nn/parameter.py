"""State that modules hold in fields: parameters and buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from katachi.tensor.creation import leaf
from katachi.tensor.tensor import Tensor
from katachi.tensor.types import _S, Fixed, S, Tracked

if TYPE_CHECKING:
    from katachi.tensor.types import _L, RegularNestedList


class Parameter(Tensor[S, Tracked]):
    """State that is trained: a variable whose value an optimiser changes. In a frozen module it is a constant with the
    value of the original.

    >>> from katachi import nn
    >>> nn.Parameter([1.0, 2.0]).shape
    (2,)
    """

    __slots__ = ()

    if TYPE_CHECKING:

        @overload
        def __new__(cls, data: Tensor[_S, Any], dtype: Any = None, device: str | None = None) -> Parameter[_S]: ...
        @overload
        def __new__(
            cls, data: RegularNestedList[_L, bool | int | float], dtype: Any = None, device: str | None = None
        ) -> Parameter[_L]: ...
        @overload
        def __new__(cls, data: Any, dtype: Any = None, device: str | None = None) -> Parameter[tuple[Any, ...]]: ...

    def __new__(cls, data: Any, dtype: Any = None, device: str | None = None) -> Any:
        return leaf(cls, data, dtype, device)

    def __init__(self, data: Any, dtype: Any = None, device: str | None = None) -> None:
        pass

    @property
    def requires_grad(self) -> bool:
        """Whether it is trained: False in a frozen module."""
        return self._aval.tracked

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        raise AttributeError(
            "requires_grad cannot be set: to train a part of a model, freeze the rest (model.body = "
            "model.body.freeze()) or give the optimiser only the parameters it shall change"
        )


class Buffer(Tensor[S, Fixed]):
    """State that is not trained, running statistics for example: a constant that `set` changes."""

    __slots__ = ()

    if TYPE_CHECKING:

        @overload
        def __new__(cls, data: Tensor[_S, Any], dtype: Any = None, device: str | None = None) -> Buffer[_S]: ...
        @overload
        def __new__(
            cls, data: RegularNestedList[_L, bool | int | float], dtype: Any = None, device: str | None = None
        ) -> Buffer[_L]: ...
        @overload
        def __new__(cls, data: Any, dtype: Any = None, device: str | None = None) -> Buffer[tuple[Any, ...]]: ...

    def __new__(cls, data: Any, dtype: Any = None, device: str | None = None) -> Any:
        return leaf(cls, data, dtype, device, tracked=False)

    def __init__(self, data: Any, dtype: Any = None, device: str | None = None) -> None:
        pass


class Statistic(Buffer[S]):
    """A running average: in a half it would overflow, or stand still, so `Module.to` leaves it in float32 at least."""

    __slots__ = ()

"""The names that annotations are written in: Pyrefly reads exact shapes from them, other checkers a rank.

`Tensor[S, G]`: S is the shape, a tuple type; G says whether the tensor is tracked. Nothing of shape_extensions is
imported at run time, where `Shaped[X, "..."]` is `Annotated` and `shape_vars` only marks; those for users, which check
their functions as they run, are in `tensor/shaped.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from shape_extensions import Elements as Elements
    from shape_extensions import Int as Int
    from shape_extensions import IntTuple as IntTuple
    from shape_extensions import RegularNestedList as RegularNestedList
    from shape_extensions import Shaped as Shaped
    from shape_extensions import broadcast as broadcast
    from shape_extensions import shape_vars as shape_vars
    from typing_extensions import TypeVar as TypeVar

    Array: TypeAlias = np.ndarray[Any, Any]
else:
    import typing
    from typing import Annotated as Shaped  # noqa: F401

    def TypeVar(name, *constraints, default=None, **how):
        """typing's, less the default, which Python 3.11 does not know."""
        return typing.TypeVar(name, *constraints, **how)

    def shape_vars(declaration):
        """Marks a function or class whose annotations name sizes; for the library, which checks shapes anyway."""

        def mark(thing):
            if isinstance(thing, type) and "__class_getitem__" not in vars(thing):
                thing.__class_getitem__ = classmethod(_itself)
            return thing

        return mark

    def _itself(cls, parameters):
        return cls


class Fixed:
    """Gradient marker of a tensor that is not known to be tracked: a constant, for all the types can tell."""


class Tracked(Fixed):
    """Gradient marker of a variable."""


S = TypeVar("S", bound=tuple[int, ...], default=tuple[Any, ...], covariant=True)
G = TypeVar("G", bound=Fixed, default=Fixed, covariant=True)
_S = TypeVar("_S", bound=tuple[int, ...])
_G = TypeVar("_G", bound=Fixed)
_L = TypeVar("_L", bound="IntTuple")  # the shape of a list of lists
_F = TypeVar("_F")

Number: TypeAlias = float  # beside a tensor: int and bool as well, as everywhere in typing


def like(signature: _F) -> Callable[[Callable[..., Any]], _F]:
    """Decorates a function whose parameters and result are those of `signature`, for checkers; at run time, nothing."""
    return _same  # type: ignore[return-value]  # what checkers are told is more than the body knows


def _same(function: Any) -> Any:
    return function

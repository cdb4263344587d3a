"""The plain part of a tensor: what the trace reads and writes. `tensor/tensor.py` adds what a user calls."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from katachi.devices.memory import Buffer
from katachi.graph.node import Aval, Node

if TYPE_CHECKING:
    from katachi.tensor.deferred import Deferred
    from katachi.tensor.tape import Tape

CONCRETE = -1  # a slot below every trace's base


class Leaf:
    """Marks a handle as the place where gradients arrive: a Parameter or a variable made by the user."""


LEAF = Leaf()


class Lost:
    """The origin of a tracked value whose graph is gone: it was computed outside its own trace."""


LOST = Lost()


class Cell:
    """State: a value that changes. Its handles (a parameter, and perhaps a frozen twin) always hold the same one."""

    __slots__ = ("handles",)

    def __init__(self) -> None:
        self.handles: list[weakref.ref[Handle]] = []

    def live(self) -> list[Handle]:
        return [h for r in self.handles if (h := r()) is not None]

    def holders(self) -> int:
        """How many handles hold the value."""
        return len([None for r in self.handles if r() is not None])

    def adopt(self, handle: Handle) -> None:
        handle._cell = self
        self.handles = [r for r in self.handles if r() is not None]
        self.handles.append(weakref.ref(handle))


class Handle:
    """A slot in a trace until its value is computed, the value afterwards."""

    __slots__ = ("__weakref__", "_aval", "_cell", "_grad", "_node", "_origin", "_slot", "_value")

    _aval: Aval
    _slot: int  # the trace's base + the number of the slot; meaningful while that trace lasts
    _value: Buffer | None
    _origin: Leaf | Lost | Tape | Deferred | None
    _node: Node  # with a Tape: where in its graph this value stands
    _grad: Any
    _cell: Cell | None


def handle(cls: type, aval: Aval, value: Buffer | None = None, slot: int = CONCRETE) -> Any:
    """A new handle of a class derived from Handle, without running its constructor."""
    h = object.__new__(cls)
    h._aval, h._value, h._slot = aval, value, slot
    h._origin = h._grad = h._cell = None
    return h

"""What is done to state as it is: a snapshot, a frozen twin, a move to another device or dtype."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np

from katachi.graph.dtypes import DType
from katachi.graph.node import aval
from katachi.tensor.creation import tensor
from katachi.tensor.handle import Cell, handle
from katachi.tensor.recording import Changes
from katachi.tensor.running import locked
from katachi.tensor.tensor import Tensor
from katachi.tensor.trace import arrive, current, look, settle, use_state

State = TypeVar("State", bound=Tensor)


def snapshot(state: Tensor) -> Any:
    """The value that a parameter or buffer has now, as a constant."""
    return handle(Tensor, aval(state.shape, state.dtype, state.device, False), look(state))


def frozen(p: State) -> State:
    """A constant of the same class that shares the cell of this parameter: it always has the same value."""
    if not p._aval.tracked:
        return p
    return locked(_twin, p)


def _twin(p: Any) -> Any:
    settle(p)
    twin = handle(type(p), aval(p.shape, p.dtype, p.device, False), p._value)
    p._cell.adopt(twin)
    return twin


def move(states: Iterable[Tensor], device: str | None, dtype: DType | None) -> None:
    """Give cells another device, and those of floating-point numbers another dtype, with all that share them and with
    their gradients. All or nothing."""
    locked(_move, states, device, dtype)


def _move(states: Iterable[Tensor], device: str | None, dtype: DType | None) -> None:
    use_state(current())
    moved: dict[Cell, tuple[Any, list[tuple[Any, Any]]]] = {}  # the new value, and the new gradient of each handle
    for state in states:
        cell = state._cell
        assert cell is not None
        other = dtype if dtype is not state.dtype and state.dtype.is_floating else None
        if cell not in moved and (other is not None or device not in (None, state.device)):
            arrive(state)
            value = handle(Tensor, aval(state.shape, state.dtype, device or state.device, False), state._value)
            if other is not None:
                with np.errstate(over="ignore"):
                    value = tensor(value, other)
            handles: list[Any] = cell.live()
            moved[cell] = value, [(h, None if h._grad is None else h._grad.to(device, other)) for h in handles]
    for value, handles in moved.values():
        for h, grad in handles:
            h._aval = aval(value.shape, value.dtype, value.device, h._aval.tracked)
            h._value, h._slot, h._grad = value._value, -1, grad
    if moved:
        Changes.count += 1  # compiled functions and backward passes must look again

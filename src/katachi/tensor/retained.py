"""`.grad` as a user reads it, and intermediate values that are to have one."""

from __future__ import annotations

import dis
import functools
import sys
import warnings
import weakref
from collections.abc import Sequence
from types import CodeType
from typing import Any

from katachi.errors import GradientError
from katachi.tensor.handle import Handle
from katachi.tensor.tape import Tape
from katachi.tensor.trace import SPAN, Trace, note_grad

INTERMEDIATE = (
    "grad: backward() leaves gradients in parameters and leaf variables, and this tensor was computed from them; call "
    "its retain_grad() before backward(), or use kt.gradients(loss, [x])"
)
TAKEN = (
    "grad: it is None, since no backward() has reached this parameter after opt.step() or zero_grad() took its "
    "gradient; look at gradients between backward() and step(), where optim.clip_grad_norm_ gives their norm as well"
)
FROZEN = "grad: it is None, since this is not trained: it is frozen, or a buffer"

_retained: dict[int, weakref.ref[Handle]] = {}  # by id; an entry goes when its tensor does


def retain(x: Handle) -> None:
    """backward() gives x a gradient, though it is no leaf. Raises GradientError for a constant."""
    if not x._aval.tracked:
        raise GradientError(
            f"retain_grad: this {x._aval!r} is a constant, so it has no gradient; a parameter, kt.variable(...), "
            "x.unfreeze() and what is computed from them have one"
        )
    if x._cell is None:
        key = id(x)
        _retained[key] = weakref.ref(x, lambda _: _retained.pop(key, None))


def retained(t: Trace, tapes: Sequence[Tape]) -> list[Handle]:
    """The intermediate values to be given gradients by a backward pass through the trace and these tapes."""
    if not _retained:
        return []
    known = set(map(id, tapes))
    found = [h for r in list(_retained.values()) if (h := r()) is not None]
    return [
        h for h in found if id(h._origin) in known or (h._value is None and t.base <= h._slot < t.base + SPAN)
    ]  # fmt: skip


def read(x: Any) -> Any:
    """`x.grad`: the gradient that backward() calls have added up, or None."""
    tracked, state = x._aval.tracked, x._cell is not None
    if not (tracked or state):
        raise GradientError(
            "grad: this is a constant, so it has no gradient; a parameter, kt.variable(...) or x.unfreeze() has one"
        )
    if state:
        note_grad(x)
    if x._grad is None:
        frame = sys._getframe(2)
        if not state and id(x) not in _retained:
            warnings.warn(INTERMEDIATE, UserWarning, stacklevel=3)
        elif state and _attribute_follows(frame.f_code, frame.f_lasti):  # not in `if p.grad is not None`
            warnings.warn(TAKEN if tracked else FROZEN, UserWarning, stacklevel=3)
    return x._grad


@functools.lru_cache(1024)
def _attribute_follows(code: CodeType, offset: int) -> bool:
    """Whether an attribute is read of what the instruction at `offset` gives, which fails if that is None."""
    rest = [i.opname for i in dis.get_instructions(code) if i.offset > offset and i.opname != "EXTENDED_ARG"]
    return bool(rest) and rest[0] in ("LOAD_ATTR", "LOAD_METHOD")


def assign(x: Any, value: Any) -> None:
    """`x.grad = value`, a tensor like x or None."""
    if value is not None:
        if not x._aval.tracked:
            raise GradientError(f"grad: this {x._aval!r} is a constant, so it cannot have a gradient")
        if not isinstance(value, Handle):
            raise GradientError(f"grad: needs a tensor or None, got {type(value).__name__}")
        if value._aval.shape != x._aval.shape or value._aval.dtype is not x._aval.dtype:
            raise GradientError(f"grad: must be {x._aval!r} like its variable, got {value._aval!r}")
    if x._cell is not None:
        note_grad(x)
    x._grad = value

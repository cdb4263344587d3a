"""Numbers of the host's that vary from step to step: where a slice starts, how far a roll goes, an exponent.

Such a number is part of the program as long as it stays the same. Once it differs from the one that came at the same
place of a trace before, it is an operand there, and no further program is built:

    for i in range(0, n, 32):
        x = X[i : i + 32]      step 0: the rows 0 to 32; from step 1 on: 32 rows, from a start that each step gives
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from katachi.graph.site import beginnings, caller
from katachi.tensor.apply import apply
from katachi.tensor.entry import Entry, Op
from katachi.tensor.handle import Handle
from katachi.tensor.trace import current, local

VARIES = object()


def apply_varying(op: Op, operands: Sequence[Any], attrs: tuple[Any, ...]) -> Any:
    """What `apply` does, with the numbers in `attrs` as operands where they vary: as `op.vary(operands, attrs)` has it,
    which gives another operation, its operands and attributes, or None if they have to stay."""
    t = local.trace
    if t.taken:
        t = current()
    e = t.entry.hot
    varies = e is not None and e.varied is op and _stands(e, sys._getframe(1))
    if not varies and (e is None or e.op is not op or e.attrs != attrs):
        place = (op, beginnings(caller()), t.entry.end)
        varies = t.settings.setdefault(place, attrs) != attrs
        if varies:
            t.settings[place] = VARIES
    other = op.vary(operands, attrs) if varies and isinstance(operands[0], Handle) and op.vary is not None else None
    asked, (op, operands, attrs) = op, other or (op, operands, attrs)
    result = apply(op, operands, attrs)  # the only call, for where it stands is part of what a trace is known by
    if other is not None:
        t.last.varied = asked
    return result


def _stands(e: Entry, frame: Any) -> bool:
    """Whether the entry was asked for where the interpreter stands now: in `frame` and outwards."""
    for code, offset in e.seen[1:]:  # the first is apply_varying itself
        if frame.f_code is not code or frame.f_lasti != offset:
            return False
        frame = frame.f_back
    return True

"""Numbers of the host's that vary from step to step: where a slice starts, how far a roll goes, an exponent.

Such a number is part of the program as long as it stays the same. Once it differs from the one that came at the same
place of a trace before, or in the same turn of its line, it is an operand there, and no further program is built:

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
from katachi.tensor.trace import Trace, current, local

VARIES = object()
MOST_TURNS = 1000  # operations of a trace among which turns are counted


def apply_varying(op: Op, operands: Sequence[Any], attrs: tuple[Any, ...]) -> Any:
    """What `apply` does, with the numbers in `attrs` as operands where they vary: as `op.vary(operands, attrs)` has it,
    which gives another operation, its operands and attributes, or None if they have to stay."""
    t = local.trace
    if t.taken:
        t = current()
    e = t.entry.hot
    varies = e is not None and e.varied is op and _stands(e, sys._getframe(1))
    if not varies and (e is None or e.op is not op or e.attrs != attrs):
        varies = _differs(t, op, beginnings(caller()), attrs)
    other = op.vary(operands, attrs) if varies and isinstance(operands[0], Handle) and op.vary is not None else None
    asked, (op, operands, attrs) = op, other or (op, operands, attrs)
    result = apply(op, operands, attrs)  # the only call, for where it stands is part of what a trace is known by
    if other is not None:
        t.last.varied = asked
    return result


class _Line:
    """The numbers that a line of code had: in each of its turns, and at each place of a thread's traces."""

    def __init__(self) -> None:
        self.turns: dict[int, Any] = {}
        self.places: dict[int, Any] = {}  # by how many slots the trace had before
        self.all = False  # a number was another one when its place came again, so the others will be, too


def _differs(t: Trace, op: Op, sites: Any, attrs: tuple[Any, ...]) -> bool:
    """Whether the numbers at a line vary."""
    line = t.settings.setdefault((op, sites), _Line())
    place = t.entry.end
    before = line.places.get(place)
    if before is None:  # a trace that is not known yet: the line may be
        first = line.turns.setdefault(_turn(t.entry, sites), attrs)
        line.places[place] = before = attrs if first == attrs and not line.all else VARIES
    elif before is not VARIES and (before != attrs or line.all):
        line.all = line.all or len(line.turns) > 1
        line.places[place] = before = VARIES
    return before is VARIES


def _turn(e: Entry, sites: Any) -> int:
    """How often the line has come in a trace that stands at an entry."""
    turn = 0
    for _ in range(MOST_TURNS):
        if e.parent is None:
            break
        turn += e.sites[1:] == sites  # the first is `apply_varying` itself
        e = e.parent
    return turn


def _stands(e: Entry, frame: Any) -> bool:
    """Whether the entry was asked for where the interpreter stands now: in `frame` and outwards."""
    for code, offset in e.seen[1:]:  # the first is apply_varying itself
        if frame.f_code is not code or frame.f_lasti != offset:
            return False
        frame = frame.f_back
    return True

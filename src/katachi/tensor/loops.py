"""Loops of the user's: where their work is computed, though nobody looks at it.

    for x, y in batches:                                      # a few iterations are one program,
        correct = correct + (model(x).argmax(1) == y).sum()   # the next ones the same

Values with a graph would leave it for a later backward pass, so there much more must be pending; but not for a loop
whose number of turns has been seen to vary, where each number would be a program of its own:

    for log_p, r in episode:                                  # 16 terms are one program, whatever the
        loss = loss - log_p * r                               # episode's length is
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from katachi.graph.site import beginnings, frames
from katachi.tensor.entry import Entry

if TYPE_CHECKING:
    from katachi.tensor.trace import Trace

ENOUGH = 250.0  # weight of pending work that is worth a program of its own, if a loop made it
TRACKED = 20  # times ENOUGH must be pending before a loop's work is computed that leaves values with a graph
PIECE = 32.0  # weight that is enough where a loop's number of turns has been seen to vary
LONG, DIFFERENT = 48, 3  # operations of a loop that is looked at; numbers of turns that are too many


class Loops:
    """What is known of the loops of one thread."""

    def __init__(self) -> None:
        self.turns: dict[Any, set[int]] = {}  # numbers: by the operation before a loop and the one that it begins with
        self.varying: set[Any] = set()  # where those begin whose number of turns varies

    def note(self, e: Entry) -> None:
        """A program is built for the work that ends at entry e."""
        if e.weight < LONG:
            return
        path = e.path()
        head, count = first_loop(path)
        if head is None or count < 3:
            return
        before = next(x for x in path if x.sites == head).parent
        assert before is not None
        seen = self.turns.setdefault((before.structure or before, head), set())
        seen.add(count)
        if len(seen) == DIFFERENT:
            self.varying.add(head)
            for place in (before, before.structure):
                if place is not None:
                    _forget(place, head)


def _forget(place: Any, head: Any) -> None:
    """Whatever follows there with the loop's first operation is recorded anew."""
    place.hot = None
    place.children = {key: x for key, x in place.children.items() if key[-1] != head}


def first_loop(path: Sequence[Entry]) -> tuple[Any, int]:
    """Where the outermost loop among some operations begins a turn, and how many turns there are; None if none does."""
    often = Counter(e.sites for e in path)
    least = min((n for n in often.values() if n > 1), default=0)
    # the first of its operations, which may have been there once more than the others
    head = next((e.sites for e in path if 1 < often[e.sites] <= least + 1), None)
    return head, often[head] if head is not None else 0


def may_end(t: Trace) -> bool:
    """Whether a trace may be computed before anybody looks: nobody needs all that is pending to be one program."""
    return not (t.nesting or t.unfinished or t.recording is not None or t.examples or t.modes.tracing)


def varies(t: Trace, what: Any, number: int) -> bool:
    """Whether a number that is part of a program's structure has been seen to vary: how many tensors a line joins."""
    if not may_end(t):
        return False
    seen = t.loops.turns.setdefault(what, set())
    if len(seen) < DIFFERENT:
        seen.add(number)
    return len(seen) == DIFFERENT


def starts_again(t: Trace, start: Entry) -> bool:
    """Whether a loop begins anew behind this entry, that enough is pending, and that it may be computed. Called for an
    operation that is not known there."""
    if not may_end(t):
        return False
    if start.ends:
        return True
    if t.loops.varying and start.weight >= PIECE and beginnings(frames(sys._getframe(2))) in t.loops.varying:
        start.ends = True
        return True
    head, at = t.loop
    if start.weight < at:
        return False
    if head is None or start.weight > at + ENOUGH:  # none is known, or it has ended
        path = start.path()
        head, _ = first_loop(path[len(path) // 2 :] if head is not None else path)
        if head is None:
            t.loop = None, 2 * start.weight
            return False
        t.loop = head, start.weight
    if head == beginnings(frames(sys._getframe(2))):
        tracked = any((h := r()) is not None and h._aval.tracked for r in t.refs)
        start.ends = not tracked or start.weight >= TRACKED * ENOUGH
        if tracked and not start.ends:
            t.loop = None, 2 * start.weight
    return start.ends

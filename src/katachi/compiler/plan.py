"""Memory before the run: each temporary gets an offset in one arena, and the arena's size is the plan.

Values are placed when they are made and free their place after their last use; a new value takes the smallest hole that
fits, else the arena grows. Inputs and outputs live outside.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ALIGNMENT = 64


@dataclass(frozen=True)
class Plan:
    """`offsets` in bytes by temporary; `arena` is the size that holds them; `output` the bytes handed out beside it;
    `scratch` what templates pack into, which all programs share."""

    offsets: dict[int, int]
    arena: int
    output: int
    scratch: int = 0

    @property
    def bytes(self) -> int:
        """What running the program adds to memory at the most."""
        return self.arena + self.output + self.scratch


def aligned(size: Any) -> Any:
    """What a value of so many bytes takes."""
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def plan(
    made: Sequence[Sequence[int]],
    last_used: Sequence[Sequence[int]],
    size: Mapping[int, int],
    outputs: Mapping[int, int],
) -> Plan:
    """Step i makes `made[i]` and is the last to use `last_used[i]`; `size[v]` in bytes; `outputs[v]` likewise."""
    holes: list[tuple[int, int]] = []  # (start, length), ascending, never adjacent
    offsets: dict[int, int] = {}
    end = 0
    for new, dead in zip(made, last_used, strict=True):
        for v in new:
            need = aligned(size[v])
            fits = [h for h in holes if h[1] >= need]
            if fits:
                start, length = min(fits, key=lambda h: (h[1], h[0]))
                holes.remove((start, length))
                if length > need:
                    holes.append((start + need, length - need))
                    holes.sort()
            else:
                start = end
                if holes and sum(holes[-1]) == end:  # grow the last hole instead of starting behind it
                    start = holes.pop()[0]
                end = start + need
            offsets[v] = start
        for v in dead:
            if v in offsets:
                _give_back(holes, offsets[v], aligned(size[v]))
    return Plan(offsets, end, sum(outputs.values()))


def _give_back(holes: list[tuple[int, int]], start: int, length: int) -> None:
    if not length:
        return
    before = next((h for h in holes if sum(h) == start), None)
    after = next((h for h in holes if h[0] == start + length), None)
    if before:
        holes.remove(before)
        start, length = before[0], length + before[1]
    if after:
        holes.remove(after)
        length += after[1]
    holes.append((start, length))
    holes.sort()


Stack = tuple[tuple[int, tuple[int, ...]], ...]
"""Temporaries, each with those that lie directly below it while both are there; these come before it."""


def stack(made: Sequence[Sequence[int]], last_used: Sequence[Sequence[int]], offsets: Mapping[int, int]) -> Stack:
    """What a plan decides beside the numbers: which temporary lies above which.

    plan    a at 0 .. 64, then b at 64 .. 128, then a ends and c at 0 .. 64
    stack   a on nothing, b on a, c on nothing, and b on c
    """
    below: dict[int, list[int]] = {v: [] for v in offsets}
    there: list[tuple[int, int]] = []  # (offset, temporary), ascending
    for new, dead in zip(made, last_used, strict=True):
        for v in new:
            i = bisect_left(there, (offsets[v], v))
            if i:
                below[v].append(there[i - 1][1])
            if i < len(there):
                below[there[i][1]].append(v)
            insort(there, (offsets[v], v))
        for v in dead:
            if v in offsets:
                del there[bisect_left(there, (offsets[v], v))]
    return tuple((v, tuple(below[v])) for v in sorted(offsets, key=lambda v: (offsets[v], v)))


def stacked(order: Stack, size: Mapping[int, int]) -> tuple[dict[int, int], int]:
    """Offsets for other sizes, and the size of the arena."""
    ends: dict[int, int] = {}
    offsets: dict[int, int] = {}
    for v, below in order:
        offsets[v] = start = max([ends[x] for x in below]) if below else 0
        ends[v] = start + aligned(size[v])
    return offsets, max(ends.values(), default=0)

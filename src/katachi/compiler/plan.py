"""Memory before the run: each temporary gets an offset in one arena, and the arena's size is the plan.

Values are placed when they are made and free their place after their last use; a new value takes the smallest hole that
fits, else the arena grows. Inputs and outputs live outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
            need = (size[v] + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
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
                _give_back(holes, offsets[v], (size[v] + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT)
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

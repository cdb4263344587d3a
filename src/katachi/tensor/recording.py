"""What is noted while a function under kt.compile runs, and of state that moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from katachi.tensor.numbers import Compute, Condition, StandIn

if TYPE_CHECKING:
    from katachi.tensor.entry import Entry


class Passed(NamedTuple):
    """A number of a call as an operand: its place among the scalars, and what it has to be."""

    place: int
    compute: Compute
    kind: type
    least: float
    most: float


class Changes:
    """Counts moves of state to another device or dtype, so that whoever depends on one knows when to look."""

    count = 0


class Recording:
    """What a function under kt.compile does besides computing, noted while it is traced."""

    active = 0  # how many there are, in all threads

    def __init__(self, arguments: list[Any]) -> None:
        self.arguments = {id(x) for x in arguments}
        self.grads: dict[Any, Any] = {}  # every leaf whose gradient was touched, with the one it had
        # (place among the scalars, where the numbers there come from, what that was before)
        self.sources: list[tuple[int, Any, Any]] = []
        self.numbers: list[Passed] = []
        self.conditions: list[Condition] = []
        self.modules: dict[int, Any] = {}
        self.steps: list[tuple[dict[str, Any], int]] = []  # an optimiser's state, and its count of steps before

    def note_numbers(self, e: Entry, asked: Sequence[Any], place: int) -> None:
        """Operands of an entry may be stand-ins; its numbers come to the scalars from `place` on."""
        for k, i in enumerate(e.numbers):
            x = asked[i]
            if type(x) is StandIn:
                least, most = next(((lo, hi) for j, lo, hi, _ in e.ranges if j == i), (-math.inf, math.inf))
                self.numbers.append(Passed(place + k, x.compute, type(x.value), least, most))

    def undo(self) -> None:
        for _, source, before in reversed(self.sources):
            source.undo(before)
        for state, step in reversed(self.steps):
            state["step"] = step
        for leaf, grad in self.grads.items():
            leaf._grad = grad

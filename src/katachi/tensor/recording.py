"""What is noted while a function under kt.compile runs, and of state that moves."""

from __future__ import annotations

from typing import Any


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
        self.modules: dict[int, Any] = {}
        self.steps: list[tuple[dict[str, Any], int]] = []  # an optimiser's state, and its count of steps before

    def undo(self) -> None:
        for _, source, before in reversed(self.sources):
            source.undo(before)
        for state, step in reversed(self.steps):
            state["step"] = step
        for leaf, grad in self.grads.items():
            leaf._grad = grad

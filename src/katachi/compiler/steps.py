"""What the kinds of program share: one primitive as a step, sizes, stubbing, errors with the user's line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from katachi.compiler.plan import Plan
from katachi.devices.memory import Usage, admit, arena, free, kept, refused
from katachi.devices.reference import REFERENCE
from katachi.errors import Error, OutOfMemoryError
from katachi.graph.node import Node
from katachi.graph.site import Group, describe

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Step:
    """One primitive of the reference device: rows read, row written, rows that nobody needs afterwards."""

    node: Node
    reads: tuple[int, ...]
    writes: int
    dead: tuple[int, ...]
    attrs: Mapping[str, Any] | None = None  # if not the node's

    def run(self, env: list[Any]) -> Array:
        """The value, from the arrays in `env`; raises what the primitive raises, with the user's line added."""
        attrs = self.node.attrs if self.attrs is None else self.attrs
        try:
            return REFERENCE[self.node.primitive](*[env[r] for r in self.reads], **attrs)
        except Error as error:
            raise located(error, self.node) from None
        except MemoryError as error:
            raise lacking(error, self.node) from None
        except Exception as error:  # a function's of the user's
            with suppress(AttributeError):
                error.node = self.node  # type: ignore[attr-defined]
            raise


def located(error: Error, node: Node | None) -> Error:
    """The error with the operation and the user's line; found later than the call, so the line must be said."""
    if node is None or getattr(error, "located", False):  # as in a body
        return error
    found = type(error)(f"{operation(node)}: {error} (asked for at {describe(node.site)})")
    found.located, found.node = True, node  # type: ignore[attr-defined]
    return found


def lacking(error: MemoryError, node: Node) -> Error:
    """NumPy's error, and a program's inside it, as one of ours that names the operation."""
    ours = error if isinstance(error, Error) else OutOfMemoryError(f"{error}, and {free():,} B are free")
    return located(ours, node)


def operation(node: Node) -> str:
    """The name of what the user asked for that made the node."""
    group = node.group
    while isinstance(group, tuple):  # a copy of an earlier trace's node
        group = group[-1]
    return group.name if isinstance(group, Group) else node.primitive


def needs(plan: Plan, results: int, made: Iterable[Node]) -> str:
    """What a program with this plan, whose results take so many bytes of new memory, needs it for."""
    largest = max(made, key=nbytes, default=None)
    text = (
        f"the program needs {plan.arena + plan.scratch + results:,} B ({plan.arena:,} B of temporaries, "
        f"{plan.scratch:,} B of scratch memory, {results:,} B of results"
    )
    if largest is not None:
        text += f"; the largest value is {largest.aval!r} of {operation(largest)} at {describe(largest.site)}"
    return text + ")"


def within_limit(plan: Plan, results: int, made: Callable[[], Iterable[Node]]) -> None:
    """Raises MemoryLimitError if a program's plan and its results exceed the limit. It is called under a limit only,
    before anything is allocated or written."""
    at_once = plan.arena + plan.scratch
    asked, limit = at_once + results, Usage.limit
    admit(asked, lambda: needs(plan, results, made()))
    if limit is not None and Usage.live + kept() + asked - at_once > limit:
        arena.at_most(at_once)


def unmet(plan: Plan, made: Iterable[Node], error: OutOfMemoryError) -> OutOfMemoryError:
    """The error of a program that cannot have its memory."""
    found = refused(needs(plan, plan.output, made), error)
    found.located = True  # type: ignore[attr-defined]
    return found


class Launched(NamedTuple):
    """What a program runs as one: nodes that are computed together, and the values in memory they read and write."""

    kind: str
    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]


def nbytes(node: Node) -> int:
    """Size of a node's value."""
    size = node.dtype.itemsize
    for n in node.shape:
        size *= n
    return size


def aliases(results: Sequence[int], inputs: Sequence[int]) -> list[int]:
    """Which results somebody else holds as well: those that are inputs, and those that are there several times.

    `aliases([5, 7, 7, 2], inputs=[2, 3])` is `[1, 2, 3]`.
    """
    times = Counter([*results, *inputs])
    return [i for i, row in enumerate(results) if times[row] > 1]


def last_uses(reads: list[list[int]], made: list[list[int]], keep: set[int]) -> list[list[int]]:
    """Per step the rows that no later step reads, of those that steps make."""
    last = {r: i for i, (rs, ms) in enumerate(zip(reads, made, strict=True)) for r in (*rs, *ms)}
    ours = {r for ms in made for r in ms} - keep
    dead: list[list[int]] = [[] for _ in made]
    for r, i in last.items():
        if r in ours:
            dead[i].append(r)
    return dead


class Stub:
    """Whether programs leave their results uncomputed, to measure everything else."""

    active = False


@contextmanager
def stubbed() -> Iterator[None]:
    """Within it programs allocate their results and compute nothing."""
    Stub.active = True
    try:
        yield
    finally:
        Stub.active = False

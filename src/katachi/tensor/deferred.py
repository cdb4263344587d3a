"""Traces that did not come to their end: an interrupt or an error came, or their thread ended. What they wrote to state
is forgotten, and their values are computed one by one, if somebody looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from katachi.compiler import program as compiler
from katachi.devices.memory import Buffer
from katachi.errors import Error
from katachi.graph.concrete import at_sizes
from katachi.graph.node import Node, toposort
from katachi.tensor.entry import Entry
from katachi.tensor.handle import LOST, Handle
from katachi.tensor.running import Run, locked

if TYPE_CHECKING:
    from katachi.tensor.trace import Trace


class Deferred:
    """A trace that did not come to its end: its handles are computed one by one when looked at."""

    __slots__ = ("base", "entry", "scalars", "values")

    def __init__(self, base: int, entry: Entry, values: list[Buffer], scalars: list[float]) -> None:
        self.base, self.entry, self.values, self.scalars = base, entry, values, scalars

    def compute(self, handles: Sequence[Handle]) -> list[Buffer]:
        """The handles' values. With the lock held."""
        slots = tuple([h._slot - self.base for h in handles])
        key = ("alone", slots)
        program = self.entry.programs.get(key)
        if program is None:
            nodes = self.entry.slots()
            outputs = at_sizes(self.entry.sizes)([nodes[slot] for slot in slots])
            program = self.entry.programs[key] = compiler.build(outputs)
        return Run(program)(self.values, self.scalars)

    def settle(self, handles: Sequence[Handle]) -> None:
        """Make the handles computed values. With the lock held."""
        for h, value in zip(handles, self.compute(handles), strict=True):
            h._origin = LOST if h._aval.tracked else None
            h._value = value


class Escaped(Deferred):
    """What a tensor has that stood for values inside a function that was only traced, and is still held outside."""

    __slots__ = ("operation", "was")

    def __init__(self, operation: str, was: str) -> None:
        self.operation, self.was = operation, was

    def compute(self, handles: Sequence[Handle]) -> list[Buffer]:
        raise Error(
            f"{self.operation}: this {handles[0]._aval!r} {self.was}, so it has no value outside; return it from the "
            "function"
        )


def defer(t: Trace) -> Deferred:
    """Let every handle that is still pending be computed on its own when looked at."""
    values = locked(lambda: [v.alias() for v in t.values])
    rest = Deferred(t.base, t.entry, values, list(t.scalars))
    for h in [h for r in t.refs if (h := r()) is not None and h._value is None]:
        if h._origin is None:
            h._origin = rest
    return rest


def let_be_computed(t: Trace) -> Deferred:
    """End a trace without running it: what it wrote to cells is forgotten, its handles are computed when looked at."""
    rest = defer(t)
    for cell in list(t.written):
        for h in cell.live():
            h._slot = -1
    t.reset()
    return rest


def failed_with(error: BaseException, rest: Deferred, leaves: Sequence[tuple[Handle, int]]) -> list[Handle]:
    """Of some leaves those whose gradients, in these slots of the rest of a trace, can never be had because of the
    error: they depend on the operation that failed, or memory was lacking. After an interrupt there are none."""
    if isinstance(error, MemoryError):
        return [x for x, _ in leaves]
    failed: Node | None = getattr(error, "node", None)
    if failed is None:
        return []
    nodes = rest.entry.slots()
    mine = {n for n in toposort(nodes) if n.site == failed.site and _asked(n) is _asked(failed)}  # passes copy nodes
    reached = [toposort([nodes[slot - rest.base]]) for _, slot in leaves]
    return [x for (x, _), ns in zip(leaves, reached, strict=True) if not mine or not mine.isdisjoint(ns)]


def _asked(n: Node) -> object:
    """The operation of the user's that a node, or a copy of a copy of it, belongs to."""
    group = n.group
    while isinstance(group, tuple):
        group = group[-1]
    return group


def forget_failed(t: Trace) -> None:
    """Gradients that cannot be had are gone: the next backward pass shall not add to them."""
    leaves, t.failed_leaves = t.failed_leaves, []
    for x in leaves:
        if x._grad is not None and x._grad._value is None:
            x._grad = None

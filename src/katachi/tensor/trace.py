"""Pending work. A thread's trace is a walk along a tree of entries that earlier walks have left behind.

An entry is one operation on slots; a path from the root is one possible trace, and every entry keeps the nodes that it
stands for. `tensor/apply.py` takes the steps of the walk; here is where it stands, and how it ends: a flush runs the
program that belongs to the entry reached and to the set of handles still alive.
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from katachi.compiler import program as compiler
from katachi.devices.memory import Buffer
from katachi.errors import Error
from katachi.graph.node import Node
from katachi.graph.site import describe, frames
from katachi.tensor import events
from katachi.tensor.entry import Entry, unlike
from katachi.tensor.handle import LEAF, Cell, Handle, Lost
from katachi.tensor.modes import modes
from katachi.tensor.tape import Finish

LOOKING = (
    "a value is looked at inside a compiled function, which is traced before there are values; return it and look at "
    "it outside, or use kt.where, kt.cond and kt.while_loop instead of Python's if and while"
)
LOOKING_FOR_ALL = (
    "a value is looked at inside a function that runs once for all examples, so there is not one value; return it and "
    "look at it outside, or use kt.where, kt.cond and kt.while_loop instead of Python's if and while"
)
LOOKING_AHEAD = (
    "a value is looked at inside a function that is traced before there are values; look at it before, or return it "
    "and look at it outside, or use kt.where, kt.cond and kt.while_loop instead of Python's if and while"
)
SPAN = 1 << 24  # slots of one trace lie in base .. base + SPAN
MOST_ENTRIES = 100_000  # in one thread's tree, after which it is grown anew


class Changes:
    """Counts changes of modules, so that whoever depends on one knows when to look."""

    count = 0


class Recording:
    """What a function under kt.compile does besides computing, noted while it is traced."""

    active = 0  # how many there are, in all threads

    def __init__(self, arguments: list[Any]) -> None:
        self.arguments = {id(x) for x in arguments}
        self.grads: dict[Any, Any] = {}  # every leaf whose gradient was touched, with the one it had
        self.sources: list[tuple[int, Any]] = []  # (place among the scalars, where the numbers there come from)
        self.modules: dict[int, Any] = {}
        self.steps: list[tuple[dict[str, Any], int]] = []  # an optimiser's state, and its count of steps before

    def undo(self) -> None:
        for _, source in reversed(self.sources):
            source.undo()
        for state, step in reversed(self.steps):
            state["step"] = step
        for leaf, grad in self.grads.items():
            leaf._grad = grad


class Trace:
    """One thread's pending work: where in the tree it stands and the values that entered on the way."""

    def __init__(self) -> None:
        self.root = Entry(None)
        self.entries = 0
        self.modes = modes()
        self.nesting = 0  # functions under differentiation that run now
        self.known: tuple[Entry, list[Node]] = (self.root, [])  # the node in every slot, as far as this entry
        self.context: Any = None  # what a contextual operation needs beside its operands
        self.last = self.root
        self.failed: Deferred | None
        self.committed = True  # whether the last flush came to its end
        self.recording: Recording | None = None
        self.examples: frozenset[Node] = frozenset()  # under vmap: the nodes that stand for one of many examples
        self.reset()

    def reset(self) -> None:
        """A new walk from the root."""
        if self.entries > MOST_ENTRIES:
            self.root, self.entries = Entry(None), 0
        self.base = next(_bases)
        self.entry = self.root
        self.handles: list[Handle] = []  # imported, in order
        self.values: list[Buffer] = []  # what they held at the call
        self.scalars: list[float] = []
        self.leaves: list[Handle] = []  # one an occurrence
        self.refs: list[weakref.ref[Handle]] = []  # results
        self.written: dict[Cell, int] = {}
        self.regions = self.modes.region  # checkpointed ones so far
        self.pending_bytes = 0
        self.failed = None
        self.fresh: list[Handle] = []  # what enters with the operation that is being taken
        _traces[self.base] = self

    def close(self) -> None:
        """All of it has been computed, and what it wrote to cells is theirs."""
        self.committed = True
        self.reset()

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        """The thread has ended: what it wrote to cells is committed, what others still hold stays computable."""
        if finalizing() or self.entry is self.root:
            return
        if self.written:
            flush(self)
        else:
            _defer(self)

    def slots(self) -> list[Node]:
        """The node in every slot, to be extended by whoever records the next entry."""
        entry, known = self.known
        if entry is not self.entry:
            known = self.entry.slots()
        self.known = (self.root, [])
        return known

    def snapshot(self) -> Deferred:
        """What is needed to compute one of this trace's handles without the trace."""
        return Deferred(self.base, self.entry, list(self.values), list(self.scalars))


class Deferred:
    """A trace that did not come to its end, or another thread's: its handles are computed one by one when looked at."""

    __slots__ = ("base", "entry", "scalars", "values")

    def __init__(self, base: int, entry: Entry, values: list[Buffer], scalars: list[float]) -> None:
        self.base, self.entry, self.values, self.scalars = base, entry, values, scalars

    def compute(self, h: Handle) -> None:
        slot = h._slot - self.base
        key = ("alone", slot)
        program = self.entry.programs.get(key)
        with launching:
            if program is None:
                program = self.entry.programs[key] = compiler.build([self.entry.slots()[slot]])
            (h._value,) = program.run(self.values, self.scalars)
        if h._aval.tracked and h._origin is not LEAF:
            h._origin = Lost()


class Escaped(Deferred):
    """What a tensor has that stood for values inside a function that was only traced, and is still held outside."""

    __slots__ = ("operation", "was")

    def __init__(self, operation: str, was: str) -> None:
        self.operation, self.was = operation, was

    def compute(self, h: Handle) -> None:
        raise Error(
            f"{self.operation}: this {h._aval!r} {self.was}, so it has no value outside; return it from the function"
        )


class _Local(threading.local):
    def __init__(self) -> None:
        self.trace = Trace()


_bases = itertools.count(SPAN, SPAN)
_traces: weakref.WeakValueDictionary[int, Trace] = weakref.WeakValueDictionary()
local = _Local()
launching = threading.RLock()


def current() -> Trace:
    """This thread's trace."""
    return local.trace


def note_grad(leaf: Handle) -> None:
    """Its gradient is about to be read or replaced."""
    recording = local.trace.recording
    if recording is not None:
        recording.grads.setdefault(leaf, leaf._grad)


def note_module(module: Any) -> None:
    """It is called, here or in another thread, while a function is being recorded."""
    recording = local.trace.recording
    if recording is not None:
        recording.modules[id(module)] = module


def settle(x: Handle) -> None:
    """Somebody looks at x: make it a computed value. Pending work of this thread ends; another thread's trace goes on
    undisturbed. Raises Error inside a compiled function, or one under vmap."""
    recording = local.trace.recording
    if recording is not None and (x._value is None or x._cell is not None or id(x) in recording.arguments):
        raise Error(f"compile: {LOOKING} ({x._aval!r})")
    if local.trace.examples and (x._value is None or (x._cell is not None and x._cell in local.trace.written)):
        raise Error(f"vmap: {LOOKING_FOR_ALL} ({x._aval!r} at {describe(frames(sys._getframe(1))[-1])})")
    tracing = local.trace.modes.tracing
    if tracing and (x._value is None or (x._cell is not None and x._cell in local.trace.written)):
        raise Error(f"{tracing}: {LOOKING_AHEAD} ({x._aval!r} at {describe(frames(sys._getframe(1))[-1])})")
    arrive(x)


def arrive(x: Handle) -> None:
    """Make x a computed value, so that it may enter a trace."""
    if x._value is not None and (x._cell is None or x._cell not in local.trace.written):
        return
    source = x._origin
    if isinstance(source, Deferred):
        source.compute(x)
        return
    owner = _traces.get(x._slot // SPAN * SPAN)
    if owner is None:
        raise Error("internal: a pending tensor lost its trace")
    if owner is local.trace:
        flush(owner)
    else:
        owner.snapshot().compute(x)


def flush(t: Trace | None = None) -> None:
    """End the trace: compute every handle of it that is still alive, and commit what was written to cells.

    Raises what computing raises. Then no cell has changed, handles that do not depend on the failure are still
    computable, and the others raise it again when looked at.
    """
    t = t or local.trace
    e = t.entry
    if e is t.root or t.recording is not None or t.examples or t.modes.tracing:
        return  # a compiled function is one program; vmap, cond, while_loop and scan are one operation
    base = t.base
    live = [h for r in t.refs if (h := r()) is not None and h._value is None and h._slot >= base]
    written = tuple(t.written.items())
    key = (tuple([h._slot - base for h in live]), tuple([s - base for _, s in written]))
    finish = e.programs.get(key)
    built = finish is None
    why = unlike(e) if built else ""
    t.committed = False
    try:
        with launching:
            if finish is None:
                finish = e.programs[key] = Finish(t, key[0], key[1])
            program = finish.program
            buffers = program.prepare(t.values, t.scalars, [cell.holders() for cell in t.written])
            commit(finish, live, buffers, t.written, finish.tape(t, buffers), t.close)
    except BaseException:
        if t.entry is e:
            t.failed = let_be_computed(t)
        raise
    if events.observers:
        events.tell(events.Flush(program, built, len(e.path()), why))


def commit(
    finish: Finish,
    live: Sequence[Handle],
    buffers: Sequence[Buffer],
    written: Iterable[Cell],
    tape: Callable[[Node], Any],
    end: Callable[[], None],
) -> None:
    """Launch what was prepared: `live` handles get the first buffers, `written` cells the next. The books are written
    first, so that the launch, one call that does or does not come to its end, decides for all. `end` may run twice."""
    cells = [(h, h._value, h._slot, buffer) for c, buffer in zip(written, buffers[len(live) :]) for h in c.live()]  # noqa: B905
    origins = [h._origin for h in live]
    try:
        for h, _, _, buffer in cells:
            h._value, h._slot = buffer, -1
        for h, buffer, node in zip(live, buffers, finish.nodes):  # noqa: B905 - more buffers: cells and the tape's
            h._value = buffer
            if h._aval.tracked and h._origin is None:
                h._origin, h._node = tape(node), node
        finish.program.launch()
        end()
    except BaseException:
        if finish.program.committed():  # it was an interrupt that came too late
            end()
        else:
            for h, value, slot, _ in cells:
                h._value, h._slot = value, slot
            for h, origin in zip(live, origins, strict=True):
                h._value, h._origin = None, origin
        raise


def _defer(t: Trace) -> Deferred:
    """Let every handle that is still pending be computed on its own when looked at."""
    rest = t.snapshot()
    for h in [h for r in t.refs if (h := r()) is not None and h._value is None]:
        if h._origin is None:
            h._origin = rest
    return rest


def let_be_computed(t: Trace) -> Deferred:
    """End a trace without running it: what it wrote to cells is forgotten, its handles are computed when looked at."""
    rest = _defer(t)
    for cell in t.written:
        for h in cell.live():
            h._slot = -1
    t.reset()
    return rest

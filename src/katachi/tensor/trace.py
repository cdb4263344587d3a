"""Pending work. A thread's trace is a walk along a tree of entries that earlier walks have left behind.

An entry is one operation on slots; a path from the root is one possible trace, and every entry keeps the nodes that it
stands for. `tensor/apply.py` takes the steps of the walk; here is where it stands, and how it ends: a flush runs the
program that belongs to the entry reached and to the set of handles still alive.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from katachi.devices.memory import Buffer
from katachi.errors import Error
from katachi.graph.node import Aval, Node
from katachi.graph.site import describe, frames
from katachi.tensor import events
from katachi.tensor.building import Builds
from katachi.tensor.deferred import Deferred, defer, failed_with, let_be_computed
from katachi.tensor.entry import Entry, Structure
from katachi.tensor.handle import LOST, Cell, Handle, handle
from katachi.tensor.keeping import Kept
from katachi.tensor.loops import ENOUGH, Loops
from katachi.tensor.modes import modes
from katachi.tensor.recording import Recording
from katachi.tensor.running import Run, catch_up, locked, readable
from katachi.tensor.tape import Finish, resized

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
R = TypeVar("R")
SPAN = 1 << 24  # slots of one trace lie in base .. base + SPAN
PATIENCE = 1000  # times, a millisecond apart
MOST_ENTRIES = 100_000  # in one thread's tree, after which it is grown anew


class Trace:
    """One thread's pending work: where in the tree it stands and the values that entered on the way.

    While an operation changes it, it is `taken`: whatever runs amid that (a signal handler, a finaliser) gets another
    trace from `current`, on which each operation is computed at once.
    """

    def __init__(self, structure: Structure | None = None) -> None:
        """`structure`: what is known of walks like this one."""
        self.root = self.entry = _root(structure)
        self.entries = 0
        self.settings: dict[Any, Any] = {}  # per place of the tree: the numbers that came there (`tensor/varying.py`)
        self.modes = modes()
        self.nesting = 0  # functions under differentiation that run now
        self.unfinished = 0  # operations for which the user's function runs now, with stand-ins of theirs in the trace
        self.known: tuple[Entry, list[Node]] = (self.root, [])  # the node in every slot, as far as this entry
        self.context: Any = None  # what a contextual operation needs beside its operands
        self.last = self.root
        self.failed: Deferred | None
        self.failed_leaves: list[Handle] = []  # whose gradients could not be computed
        self.committed = True  # whether the last flush came to its end
        self.recording: Recording | None = None
        self.examples: frozenset[Node] = frozenset()  # under vmap: the nodes that stand for one of many examples
        self.taken = False
        self.inner: Trace | None = None  # of what runs while this one is taken
        self.nested = False  # this is one
        self.builds, self.kept, self.loops = Builds(), Kept(), Loops()
        self.uses_state = False
        self.around: Any = None  # the modes of the one around it
        self.reset()
        me = id(self)
        _traces[me] = weakref.ref(self, lambda _, forget=_traces.pop: forget(me, None))

    def reset(self) -> None:
        """A new walk from the root."""
        if self.entries > MOST_ENTRIES or self.kept.seen != Kept.cleared:
            self.root, self.entries, self.settings, self.kept, self.loops = _root(), 0, {}, Kept(), Loops()
            self.known, self.last = (self.root, []), self.root
        self.base = next(_bases)  # the base first: who reads the rest for another thread looks at it
        self.entry = self.root
        self.handles: list[Handle] = []  # imported, in order
        self.values: list[Buffer] = []  # what they held at the call
        self.scalars: list[float] = []
        self.kinds: dict[Aval, Aval] = {}  # what types with sizes are for those of this walk
        self.leaves: list[Handle] = []  # one an occurrence
        self.refs: list[weakref.ref[Handle]] = []  # results
        self.written: dict[Cell, int] = {}
        self.graded: list[Handle] = []  # leaves with a gradient from here
        self.then: list[Callable[[], None]] = []  # what is to be done when it is committed; each may be called twice
        self.regions = self.modes.region  # checkpointed ones so far
        self.pending_bytes = 0
        self.failed = None
        self.fresh: list[Handle] = []  # what enters with the operation that is being taken
        self.loop: tuple[Any, float] = (None, ENOUGH)  # where a loop begins anew; the weight at which to look

    def close(self) -> None:
        """All of it has been computed, and what it wrote to cells is theirs."""
        for do in self.then:
            do()
        self.committed = True
        self.reset()

    def amid(self) -> Trace:
        """The trace of what runs while this one is taken."""
        if self.inner is None:
            self.inner = Trace()
            self.inner.nested = True
        if self.inner.around is not self.modes:
            self.inner.around = self.modes
            self.inner.modes = modes(self.modes.grad, True, self.modes.device)
        return self.inner

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        """The thread has ended: what it wrote to cells is committed, what others still hold stays computable."""
        if finalizing() or not hasattr(self, "entry") or self.entry is self.root:  # or it was never quite made
            return
        if self.written:
            flush(self)
        else:
            defer(self)

    def slots(self) -> list[Node]:
        """The node in every slot, to be extended by whoever records the next entry."""
        entry, known = self.known
        if entry is not self.entry:
            known = self.entry.slots()
        self.known = (self.root, [])
        return known


def _root(structure: Structure | None = None) -> Entry:
    e = Entry(None)
    e.structure = structure or Structure(None, e)
    return e


class _Local(threading.local):
    def __init__(self) -> None:
        self.trace = Trace()


_bases = itertools.count(SPAN, SPAN)
_traces: dict[int, weakref.ref[Trace]] = {}  # by id: all there are
_users: weakref.WeakSet[Trace] = weakref.WeakSet()  # those of threads that have used state
local = _Local()


def current() -> Trace:
    """This thread's trace."""
    t = local.trace
    while t.taken:
        t = t.amid()
    return t


def taking(t: Trace, f: Callable[..., R], *args: Any) -> R:
    """f(*args), which changes trace t in several steps: what runs amid it has another one."""
    taken = t.taken
    try:
        t.taken = True
        result = f(*args)
        t.taken = taken
        return result
    except BaseException:
        t.taken = taken
        raise


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


def only_outside(what: str) -> None:
    """Raises Error inside a compiled function: what is done there by Python alone happens only when it is traced."""
    if local.trace.recording is not None:
        raise Error(
            f"compile: {what} inside a compiled function, whose Python runs only when it is traced; do it outside"
        )


def look(x: Handle) -> Buffer:
    """x's value, which nobody overwrites while it is held. Pending work of this thread ends; another thread's trace
    goes on undisturbed. Raises Error inside a compiled function, or one under vmap."""
    if x._value is not None and x._cell is None:
        t = local.trace
        if t.recording is None or id(x) not in t.recording.arguments:
            return x._value
    t = current()
    if t.recording is not None and (x._value is None or x._cell is not None or id(x) in t.recording.arguments):
        raise Error(f"compile: {LOOKING} ({x._aval!r})")
    if t.examples and (x._value is None or (x._cell is not None and x._cell in t.written)):
        raise Error(f"vmap: {LOOKING_FOR_ALL} ({x._aval!r} at {describe(frames(sys._getframe(1))[-1])})")
    tracing = t.modes.tracing
    if tracing and (x._value is None or (x._cell is not None and x._cell in t.written)):
        raise Error(f"{tracing}: {LOOKING_AHEAD} ({x._aval!r} at {describe(frames(sys._getframe(1))[-1])})")
    if x._cell is None:
        value = arrive(x)._value
        assert value is not None
        return value
    return locked(_state, x)


def _state(x: Handle) -> Buffer:
    """A cell's value, for somebody who holds it longer than the lock."""
    use_state(current())
    value = arrive(x)._value
    assert value is not None
    return readable(value)


def settle(x: Handle) -> None:
    """Make x a computed value, as somebody who looks at it does."""
    look(x)


def arrive(x: Handle) -> Handle:
    """x with its value computed, so that it may enter a trace; what stands for it where x is pending in another
    thread's trace, which goes on undisturbed."""
    for _ in range(PATIENCE):
        if x._value is not None and (x._cell is None or x._cell not in current().written):
            return x
        found = locked(_arrive, x)
        if found is not None:
            return found
        time.sleep(0.001)  # its thread has just ended, and computes it as soon as it gets the lock
    raise Error(f"internal: a pending tensor {x._aval!r} lost its trace")


def _arrive(x: Handle) -> Handle | None:
    """With the lock held; None if x's trace is just coming to its end."""
    catch_up()
    t = current()
    pending = x._cell is not None and x._cell in t.written
    if x._value is not None and not pending:
        return x
    source = x._origin
    if isinstance(source, Deferred):
        source.settle([x])
        return x
    owner = t if pending else next((o for o in _all() if 0 <= x._slot - o.base < SPAN), None)
    if owner is t:
        flush(t)
        return x
    if owner is None:
        return None
    if owner.recording is not None or owner.examples:
        raise Error(f"another thread is tracing this {x._aval!r} for kt.compile or kt.vmap, so it has no value yet")
    rest = Deferred(owner.base, owner.entry, list(owner.values), list(owner.scalars))
    if owner.base != rest.base or not 0 <= x._slot - rest.base < SPAN:
        return None
    twin = handle(Handle, x._aval, rest.compute([x])[0])
    if x._aval.tracked:
        twin._origin = LOST
    return twin


def use_state(t: Trace) -> None:
    """With the lock held, before trace t reads or sets state. The first time, what other threads have set is computed,
    and no longer pending there. From here on they compute at once what they set (`set_for_all`).

        thread A   p.set(p + 1)                     pending, p is 0
        thread B                     p.set(p + 1)   computes A's 1, then its own 2
    """
    if not (t.uses_state or t.nested or t.recording is not None):
        for owner in _all():  # not amid an optimiser's step, which is all or nothing
            if owner is not t and owner.written and owner.recording is None and not owner.then:
                _commit(owner)
        _users.add(t)
    t.uses_state = True


def _commit(owner: Trace) -> None:
    """Compute what another thread's trace has set, while that goes on undisturbed. What fails stays with it."""
    rest = Deferred(owner.base, owner.entry, list(owner.values), list(owner.scalars))
    written = [(cell, at, hs) for cell, at in list(owner.written.items()) if (hs := cell.live())]
    written = [w for w in written if 0 <= w[1] - rest.base < rest.entry.end]  # it may have gone on
    if owner.base != rest.base:
        return
    try:
        values = rest.compute([handle(Handle, hs[0]._aval, None, at) for _, at, hs in written])
    except Exception:  # its own thread meets it as well, and is told
        return
    for (cell, _, handles), value in zip(written, values, strict=True):
        for h in handles:
            h._value, h._slot = value, -1
        owner.written.pop(cell, None)


def set_for_all() -> None:
    """State has been set. If other threads use state, they see it from here on."""
    if len(_users) > 1:
        flush()


def enter(fresh: Sequence[Handle]) -> list[Buffer]:
    """The values of computed tensors that enter the trace of what runs amid something else."""
    return locked(_enter, fresh)


def _enter(fresh: Sequence[Handle]) -> list[Buffer]:
    catch_up()
    return [readable(x._value) if x._cell is not None else x._value for x in fresh]  # type: ignore[arg-type, misc]


def clear_caches() -> None:
    """Forget the programs that loops have built, in every thread: each does so at its next flush. What
    `kt.compile` keeps belongs to the compiled functions, machine code on disk to KATACHI_CACHE.

    >>> import katachi as kt
    >>> kt.clear_caches(); kt.memory.report().programs
    0
    """
    Kept.cleared += 1
    t = current()
    flush(t)
    if t.entry is t.root:
        t.reset()


def programs_kept() -> int:
    """Bytes, roughly, of what threads keep for later steps."""
    return sum(t.kept.bytes for t in _all() if t.kept.seen == Kept.cleared)


def held_elsewhere(t: Trace) -> set[int]:
    """The ids of buffers that pending work of others than t will read."""
    return {id(v) for o in _all() if o is not t for v in o.values}


def _all() -> list[Trace]:
    """Every thread's trace, and those that are nested in them."""
    return [t for ref in list(_traces.values()) if (t := ref()) is not None]


def flush(t: Trace | None = None) -> None:
    """End the trace: compute every handle of it that is still alive, and commit what was written to cells.

    Raises what computing raises. Then no cell has changed, handles that do not depend on the failure are still
    computable, and the others raise it again when looked at.
    """
    t = t or current()
    e, taken = t.entry, t.taken
    if e is t.root or t.recording is not None or t.examples or t.modes.tracing:
        return  # a compiled function is one program; vmap, cond, while_loop and scan are one operation
    try:
        t.taken = True
        ran = locked(_flush, t, e)
        t.taken = taken
    except BaseException as error:
        if t.entry is e:
            leaves = [(x, x._grad._slot) for x in t.graded if x._grad is not None and x._grad._value is None]
            t.failed = let_be_computed(t)
            t.failed_leaves += failed_with(error, t.failed, leaves)
        t.taken = taken
        if t.nested and isinstance(error, ImportError):  # amid the import of the same module
            raise Error(f"katachi is still being loaded, and cannot compute amid that ({error})") from error
        raise
    if events.observers:
        events.tell(ran)


def _flush(t: Trace, e: Entry) -> events.Flush:
    """With the lock held."""
    base = t.base
    live = [h for r in t.refs if (h := r()) is not None and h._value is None and h._slot >= base]
    key = (tuple([h._slot - base for h in live]), tuple([s - base for s in t.written.values()]))
    seconds, found = 0.0, False
    finish = e.programs.get(key)
    if finish is None and e.structure is not None:
        start = time.perf_counter()
        finish = resized(e, key)
        seconds, found = time.perf_counter() - start, finish is not None
        if finish is not None:
            e.programs[key] = finish
            finish.used = t.builds.flushes
            t.entries -= t.kept.add(e, key, finish, built=False)
    built, why = finish is None, ""
    t.builds.flushes += 1
    if built:
        why = t.builds.note(e, key)
        t.loops.note(e)
    t.committed = False
    if finish is None:
        start = time.perf_counter()
        finish = e.programs[key] = resized(e, key, build=True) or Finish(t, *key)
        seconds = time.perf_counter() - start
        finish.used = t.builds.flushes
        t.entries -= t.kept.add(e, key, finish, built=True)
    finish.used = finish.first.used = t.builds.flushes
    run = Run(finish.program, live, finish.nodes, list(t.written), t.close)
    held = held_elsewhere(t) if t.written else None
    entries = len(e.path()) if events.observers else 0
    run(t.values, t.scalars, held, (lambda results: finish.tape(t, results)) if finish.tracked else None)
    return events.Flush(run.program, built, entries, why, e.sites[-1], seconds, found)

"""Pending work. A thread's trace is a walk along a tree of entries that earlier walks have left behind.

An entry is one operation on slots; a path from the root is one possible trace, and every entry keeps the nodes it
stands for. Each call is compared with the entry that followed last time: equal means one step along the tree and
nothing is built. At a difference another known entry is taken, or a new one is added and its nodes are made. A flush
runs the program that belongs to the entry reached and to the set of handles still alive.
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from katachi.compiler import program as compiler
from katachi.devices.memory import Buffer
from katachi.errors import DeviceError, DTypeError, Error
from katachi.graph.dtypes import DType, as_dtype, promote, promote_scalar
from katachi.graph.node import Aval, Node, aval, next_serial
from katachi.graph.primitives import input_node, make
from katachi.graph.site import Site, frames, origin
from katachi.tensor import events
from katachi.tensor.handle import LEAF, Cell, Handle, Lost, handle
from katachi.tensor.modes import Modes, modes
from katachi.tensor.tape import Finish, Link, Tape

SPAN = 1 << 24  # slots of one trace lie in base .. base + SPAN
MOST_NODES = 50_000
MOST_BYTES = 1 << 31  # of inputs that only pending work keeps alive
MOST_ENTRIES = 100_000  # in one thread's tree, after which it is grown anew


class Op:
    """An operation as the user knows it: a name for messages and what it builds of its operands' nodes.

    `build(*nodes, *attrs)`, or `build(nodes, *attrs)` if variadic, returns a node or a tuple of nodes. `scalar` is the
    dtype of operands that are Python numbers; without it they take that of the tensors beside them.
    """

    __slots__ = ("build", "contextual", "name", "scalar", "variadic")

    def __init__(
        self,
        name: str,
        build: Callable[..., Any],
        *,
        variadic: bool = False,
        scalar: DType | None = None,
        contextual: bool = False,
    ) -> None:
        self.name, self.build, self.variadic, self.scalar, self.contextual = name, build, variadic, scalar, contextual


class Import(NamedTuple):
    """What must be known of a computed tensor that enters a trace."""

    aval: Aval
    origin: Any  # None, LEAF or the template of its tape
    node: Node | None
    consumed: tuple[frozenset[Node], ...]
    slot: int


class Write(NamedTuple):
    """Operand `cell` is state that takes the value of result `result`; the next result is the same, tracked."""

    operand: int
    result: int


class Entry:
    """One operation of a trace, and what followed it."""

    __slots__ = (
        "aliases", "attrs", "children", "consumed", "cost", "end", "extra", "first", "flushes", "hot", "imports",
        "leaf_nodes", "modes", "nodes", "numbers", "op", "out_avals", "parent", "programs", "ranges", "sites",
        "wants", "writes",
    )  # fmt: skip

    op: Op
    attrs: tuple[Any, ...]
    wants: tuple[Any, ...]  # per operand: a slot, a class of Python number, or an Import
    modes: Modes
    sites: tuple[Site, ...]
    parent: Entry | None
    hot: Entry | None  # the child that was taken last
    imports: tuple[Node, ...]
    numbers: tuple[int, ...]  # operands that are Python numbers
    ranges: tuple[tuple[int, int, int, str], ...]  # (operand, least, greatest, dtype) of integer ones
    nodes: tuple[Node, ...]  # results
    out_avals: tuple[Aval, ...]
    cost: int  # nodes made for the path up to here
    first: int  # slot of the first result
    end: int  # first slot after this entry
    leaf_nodes: tuple[Node, ...]  # nodes of this entry that are a leaf's value
    writes: tuple[Write, ...]
    consumed: frozenset[Node]  # nodes of the trace whose values a backward pass has used up
    aliases: tuple[Link, ...]  # nodes that stand for values of older tapes' nodes
    extra: Any  # what a contextual operation noted

    def __init__(self, parent: Entry | None) -> None:
        self.parent, self.hot = parent, None
        self.children: dict[Any, Entry] = {}
        self.programs: dict[Any, Any] = {}
        self.first = self.end = self.cost = 0
        self.imports, self.nodes, self.leaf_nodes, self.writes = (), (), (), ()
        self.flushes, self.consumed, self.aliases = False, frozenset(), ()

    def arrivals(self) -> list[Import]:
        """What is known of each import."""
        return [w for w in self.wants if w.__class__ is Import]

    def path(self) -> list[Entry]:
        """Entries from the first operation to this one."""
        out: list[Entry] = []
        entry: Entry | None = self
        while entry is not None and entry.parent is not None:
            out.append(entry)
            entry = entry.parent
        return out[::-1]

    def slots(self) -> list[Node]:
        """The node in every slot."""
        return [n for e in self.path() for n in (*e.imports, *e.nodes)]


class Trace:
    """One thread's pending work: where in the tree it stands and the values that entered on the way."""

    def __init__(self) -> None:
        self.root = Entry(None)
        self.entries = 0
        self.modes = modes()
        self.known: tuple[Entry, list[Node]] = (self.root, [])  # the node in every slot, as far as this entry
        self.context: Any = None  # what a contextual operation needs beside its operands
        self.fresh: list[Handle] = []
        self.last = self.root
        self.failed: Deferred | None = None
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
        self.pending_bytes = 0
        _traces[self.base] = self

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
        with _launch:
            if program is None:
                program = self.entry.programs[key] = compiler.build([self.entry.slots()[slot]])
            (h._value,) = program.run(self.values, self.scalars)
        if h._aval.tracked and h._origin is not LEAF:
            h._origin = Lost()


class Result:
    """The class of operations' results: Tensor, which says so when it is defined."""

    kind: type = Handle


class _Local(threading.local):
    def __init__(self) -> None:
        self.trace = Trace()


_groups = itertools.count()
_bases = itertools.count(SPAN, SPAN)
_traces: weakref.WeakValueDictionary[int, Trace] = weakref.WeakValueDictionary()
_local = _Local()
_launch = threading.RLock()
_new, _new_ref = object.__new__, weakref.ref


def current() -> Trace:
    """This thread's trace."""
    return _local.trace


def apply(
    op: Op, operands: Sequence[Any], attrs: tuple[Any, ...] = (), writes: tuple[Write, ...] = (), many: bool = False
) -> Any:
    """The handle (or handles, if the operation has several results) of an operation on tensors and Python numbers.

    One that writes to cells has no results but these.
    """
    t = _local.trace
    e = t.entry.hot
    if e is None or not _follow(t, e, op, operands, attrs):
        operands = [_operand(op, x) for x in operands]
        e = _find(t, op, operands, attrs, writes)
    if e.numbers:
        for i, least, most, name in e.ranges:
            if not least <= operands[i] <= most:
                for x in t.fresh:  # they have not entered the trace after all
                    x._slot = -1
                raise OverflowError(f"{op.name}: {operands[i]} does not fit {name} ({least} to {most})")
        t.scalars.extend([operands[i] for i in e.numbers])
    if e.imports:
        fresh = t.fresh
        t.handles.extend(fresh)
        t.values.extend([x._value for x in fresh])  # type: ignore[misc]  # what enters has been computed
        t.pending_bytes += sum([x._value.array.nbytes for x in fresh if x._cell is None])  # type: ignore[union-attr]
        t.leaves.extend([x for x in fresh if x._origin is LEAF])
    t.entry.hot = e
    t.entry = t.last = e
    slot = t.base + e.first
    if e.writes:
        _pend_writes(t, e, operands, slot)
        if e.flushes:
            flush(t)
        return []
    refs = t.refs
    if len(e.out_avals) == 1 and not many:
        h = _new(Result.kind)
        h._aval, h._value, h._slot = e.out_avals[0], None, slot
        h._origin = h._grad = h._cell = None
        refs.append(_new_ref(h))
        if e.flushes or t.pending_bytes > MOST_BYTES:
            flush(t)
        return h
    out = [handle(Result.kind, a, None, slot + i) for i, a in enumerate(e.out_avals)]
    refs.extend(map(_new_ref, out))
    if e.flushes:
        flush(t)
    return out


def _follow(t: Trace, e: Entry, op: Op, operands: Sequence[Any], attrs: tuple[Any, ...]) -> bool:
    """Whether the call equals entry e; if so the tensors that enter have their slots, if not nothing has changed."""
    if e.op is not op or e.modes is not t.modes or e.attrs != attrs or len(operands) != len(e.wants):
        return False
    fresh: list[Handle] = []
    base = t.base
    try:
        frame = sys._getframe(2)
        for code, offset in e.sites:
            if frame.f_code is not code or frame.f_lasti != offset:  # type: ignore[union-attr]  # as deep as recorded
                return False
            frame = frame.f_back  # type: ignore[assignment]
        for x, want in zip(operands, e.wants):  # noqa: B905 - lengths were compared
            kind = want.__class__
            if kind is int:
                if x._slot != base + want:
                    break
            elif kind is type:
                if x.__class__ is not want:
                    break
            else:
                source = x._origin
                if (
                    x._aval is not want[0]
                    or x._value is None
                    or x._slot >= base
                    or not (source is want[1] or (source.__class__ is Tape and _same_tape(x, source, want)))
                ):
                    break
                x._slot = base + want[4]
                fresh.append(x)
        else:
            t.fresh = fresh
            return True
    except AttributeError:  # an operand of another kind than recorded
        pass
    for x in fresh:
        x._slot = -1
    return False


def _same_tape(x: Handle, tape: Any, want: Import) -> bool:
    return tape.template is want.origin and x._node is want.node and tape.consumed == want.consumed


def _operand(op: Op, x: Any) -> Any:
    """x as a tensor or an exact Python bool, int or float."""
    kind = x.__class__
    if kind is float or kind is int or kind is bool or isinstance(x, Handle):
        return x
    if isinstance(x, np.generic) and x.dtype.kind in "biuf":
        return x.item()
    if isinstance(x, np.ndarray):
        from katachi.tensor.creation import tensor

        return tensor(x)
    for plain in (bool, int, float):
        if isinstance(x, plain):
            return plain(x)
    raise DTypeError(f"{op.name}: operands are tensors and numbers, got {kind.__name__}")


def _find(t: Trace, op: Op, operands: Sequence[Any], attrs: tuple[Any, ...], writes: tuple[Write, ...]) -> Entry:
    """A known entry other than the last, or a new one."""
    fresh: list[Handle] = []
    try:
        wants = tuple([_want(t, x, fresh, op) for x in operands])
        sites = frames(sys._getframe(2))
        key = (op, attrs, wants, t.modes, sites)
        e = t.entry.children.get(key)
        if e is None:
            e = _record(t, op, operands, attrs, wants, sites, fresh, writes)
            t.entry.children[key] = e
            t.entries += 1
    except BaseException:
        for x in fresh:
            x._slot = -1
        raise
    t.fresh = fresh
    return e


def _want(t: Trace, x: Any, fresh: list[Handle], op: Op) -> Any:
    if not isinstance(x, Handle):
        return x.__class__
    inside = x._slot - t.base
    if 0 <= inside < SPAN:
        return inside
    settle(x)
    source: Any = x._origin
    slot = t.entry.end + len(fresh)
    node, consumed = None, ()
    if source.__class__ is Tape:
        node, consumed, source = x._node, source.consumed, source.template
    elif source is not None and source is not LEAF:  # Lost: as good as consumed
        source = Lost
    x._slot = t.base + slot
    fresh.append(x)
    return Import(x._aval, source, node, consumed, slot)


def settle(x: Handle) -> None:
    """Make x a computed value. Pending work of this thread ends; another thread's trace goes on undisturbed."""
    if x._value is not None and (x._cell is None or x._cell not in _local.trace.written):
        return
    source = x._origin
    if isinstance(source, Deferred):
        source.compute(x)
        return
    owner = _traces.get(x._slot // SPAN * SPAN)
    if owner is None:
        raise Error("internal: a pending tensor lost its trace")
    if owner is _local.trace:
        flush(owner)
    else:
        owner.snapshot().compute(x)


def _record(
    t: Trace,
    op: Op,
    operands: Sequence[Any],
    attrs: tuple[Any, ...],
    wants: tuple[Any, ...],
    sites: tuple[Site, ...],
    fresh: list[Handle],
    writes: tuple[Write, ...],
) -> Entry:
    """A new entry, with its nodes."""
    e = Entry(t.entry)
    e.op, e.attrs, e.wants, e.sites, e.modes, e.writes = op, attrs, wants, sites, t.modes, writes
    known = t.slots()
    imports = e.arrivals()
    before = next_serial()
    origin.site, origin.group = sites[-1], next(_groups)
    number = len(t.handles)
    e.imports = tuple(input_node(w.aval, number + i) for i, w in enumerate(imports))
    e.leaf_nodes = tuple(n for n, w in zip(e.imports, imports, strict=True) if w.origin is LEAF)
    known.extend(e.imports)
    e.numbers = tuple(i for i, w in enumerate(wants) if w.__class__ is type)
    nodes: list[Node | None] = [None] * len(operands)
    for i, (x, w) in enumerate(zip(operands, wants, strict=True)):
        if isinstance(x, Handle):
            node = known[w if w.__class__ is int else w.slot]
            # what is written to state stays state, whatever the mode
            constant = node.tracked and not t.modes.grad and not writes
            nodes[i] = make("stop_gradient", node) if constant else node
    present = [n for n in nodes if n is not None]
    device = _one_device(op, operands, present) if present else t.modes.device
    ranges = []
    for place, i in enumerate(e.numbers):
        dtype = op.scalar or _scalar_dtype(op, operands, i, present)
        kind = aval((), dtype, device, False)
        nodes[i] = input_node(kind, len(t.scalars) + place, scalar=True)
        if dtype.is_integer:
            ranges.append((i, *dtype.bounds, dtype.name))
    e.ranges = tuple(ranges)
    try:
        if op.contextual:
            results = op.build(t, e, fresh, nodes, *attrs)
        else:
            results = op.build(nodes, *attrs) if op.variadic else op.build(*nodes, *attrs)
    except Error as error:
        raise type(error)(f"{op.name}({', '.join(map(_show, operands))}): {error}") from None
    e.nodes = results if isinstance(results, tuple) else (results,)
    e.out_avals = tuple(n.aval for n in e.nodes)
    e.first = t.entry.end + len(e.imports)
    e.end = e.first + len(e.nodes)
    e.leaf_nodes += tuple(e.nodes[w.result + 1] for w in writes if e.nodes[w.result + 1].tracked)
    known.extend(e.nodes)
    t.known = (e, known)
    e.cost = t.entry.cost + next_serial() - before
    e.flushes = t.modes.eager or e.cost > MOST_NODES
    return e


def _one_device(op: Op, operands: Sequence[Any], nodes: list[Node]) -> str:
    found = {n.device for n in nodes if n.shape} or {n.device for n in nodes}
    if len(found) > 1:
        raise DeviceError(
            f"{op.name}({', '.join(map(_show, operands))}): operands are on {' and '.join(sorted(found))}; "
            "bring them together with x.to(device)"
        )
    return found.pop()


def _scalar_dtype(op: Op, operands: Sequence[Any], i: int, present: list[Node]) -> DType:
    if not present:
        return as_dtype(operands[i].__class__)
    dtype = present[0].dtype
    for n in present[1:]:
        if n.dtype.kind != "bool" or dtype.kind == "bool":
            dtype = promote(dtype, n.dtype)
    return promote_scalar(dtype, operands[i].__class__)


def _show(x: Any) -> str:
    if isinstance(x, Handle):
        return f"{x._aval.dtype.name}{list(x._aval.shape)}"
    return repr(x)


def _pend_writes(t: Trace, e: Entry, operands: Sequence[Any], slot: int) -> None:
    """Later reads of the written cells see the new value; the buffers change when the trace ends."""
    for w in e.writes:
        cell = operands[w.operand]._cell
        t.written[cell] = slot + w.result
        tracked = e.nodes[w.result + 1].tracked
        for h in cell.live():
            h._slot = slot + w.result + (1 if h._aval.tracked else 0)
        if tracked:
            t.leaves.append(operands[w.operand])


def flush(t: Trace | None = None, discard: frozenset[int] = frozenset()) -> None:
    """End the trace: compute every handle of it that is still alive, and commit what was written to cells.

    Raises what computing raises. Then no cell has changed, handles that do not depend on the failure are still
    computable, and the others raise it again when looked at.
    """
    t = t or _local.trace
    e = t.entry
    if e is t.root:
        return
    base = t.base
    live = [h for r in t.refs if (h := r()) is not None and h._value is None and h._slot >= base]
    written = tuple(t.written.items())
    key = (tuple([h._slot for h in live]), tuple([s for _, s in written]))
    key = (tuple([s - base for s in key[0]]), tuple([s - base for s in key[1]]))
    finish = e.programs.get(key)
    built = finish is None
    try:
        with _launch:
            if finish is None:
                finish = e.programs[key] = Finish(t, key[0], key[1])
            buffers = finish.program.run(t.values, t.scalars)
    except BaseException:
        _fail(t, live)
        raise
    if events.observers:
        events.tell(events.Flush(finish.program, built, len(e.path())))
    tape = finish.tape(t, buffers)
    for h, buffer, node in zip(live, buffers, finish.nodes):  # noqa: B905 - more buffers: cells and the tape's
        h._value = buffer
        if h._aval.tracked and h._origin is None:
            h._origin, h._node = tape(node), node
    for (cell, _), buffer in zip(written, buffers[len(live) :]):  # noqa: B905
        cell.version += 1
        for h in cell.live():
            h._value, h._slot = buffer, -1
    t.reset()


def _fail(t: Trace, live: list[Handle]) -> None:
    rest = t.snapshot()
    for h in live:
        if h._origin is None:
            h._origin = rest
    for cell in t.written:
        for h in cell.live():
            h._slot = -1
    t.reset()
    t.failed = rest

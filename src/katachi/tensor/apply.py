"""One step of a trace's walk.

Each call is compared with the entry that followed last time: equal means one step along the tree, and nothing is built.
At a difference another known entry is taken, or a new one is added and its nodes are made.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from katachi.errors import DeviceError, DTypeError, Error
from katachi.graph import build as b
from katachi.graph.attention import FIRST_MASK
from katachi.graph.costs import operations
from katachi.graph.dtypes import DType, as_dtype, float32, promote, promote_scalar
from katachi.graph.halves import HALVES, half_of, round_to, upcast
from katachi.graph.node import Node, aval, next_serial, toposort
from katachi.graph.primitives import input_node, make
from katachi.graph.shape_env import ShapeEnv, holds
from katachi.graph.site import Group, Site, beginnings, frames, origin
from katachi.graph.sizes import count
from katachi.graph.symint import active, always_equal
from katachi.tensor.arrays import EXACT, as_float, brief
from katachi.tensor.deferred import let_be_computed
from katachi.tensor.entry import Entry, Import, Op, Structure, Write, with_symbols
from katachi.tensor.handle import LEAF, LOST, Handle, handle
from katachi.tensor.loops import starts_again
from katachi.tensor.numbers import StandIn
from katachi.tensor.running import locked
from katachi.tensor.tape import GONE, Tape
from katachi.tensor.trace import SPAN, Trace, arrive, current, enter, flush, local, use_state

MOST_NODES = 50_000  # pending at once
MOST_CASES = 32  # of one operation at different sizes: the latest are looked at
ELEMENTS, OPERATIONS = 40_000, 800_000  # of an element-wise operation, and of a product, that add one to its weight
MOST_BYTES = 1 << 31  # of inputs that only pending work keeps alive


class Result:
    """The class of operations' results: Tensor, which says so when it is defined."""

    kind: type = Handle


_instance, _new_ref, _frame = object.__new__, weakref.ref, sys._getframe


def apply(
    op: Op,
    operands: Sequence[Any],
    attrs: tuple[Any, ...] = (),
    writes: tuple[Write, ...] = (),
    many: bool = False,
    trace: Trace | None = None,
) -> Any:
    """The handle (or handles, if the operation has several results) of an operation on tensors and Python numbers.

    One that writes to cells has no results but these. `trace`: which the caller has taken, if not the thread's own.
    """
    t = trace or local.trace
    taken = t.taken
    if taken and trace is None:  # somebody is amid changing it, and was interrupted
        t, taken = current(), False
    start: Any = None
    base = 0
    try:
        t.taken = True
        start, base = t.entry, t.base
        e = start.hot
        if (
            e is None
            and trace is None
            and (start.ends or start.weight >= t.loop[1] or t.loops.varying)
            and starts_again(t, start)
        ):
            flush(t)
            start, base = t.entry, t.base
            e = start.hot
        if e is None and start.structure is not None:
            e = _at_new_sizes(t, start, op, operands, attrs)
        elif e is not None and not _follow(t, e, op, operands, attrs):
            e = None
        if e is None:
            asked = operands
            operands = [_operand(op, x, t) for x in operands]
            e = _find(t, op, operands, attrs, writes)
            if t.recording is not None and e.numbers:
                t.recording.note_numbers(e, asked, len(t.scalars))
        if e.plain and not many:
            start.hot = t.entry = t.last = e
            out = _instance(Result.kind)
            out._aval, out._value, out._slot = e.out_avals[0], None, base + e.first
            out._origin = out._grad = out._cell = None
            t.refs.append(_new_ref(out))
            t.taken = taken
            return out
        if e.numbers:
            for i, least, most, dtype in e.ranges:
                if not least <= operands[i] <= most:
                    operands = _fitted(op, operands, i, dtype)
        if e.imports:
            fresh = t.fresh
            values: Any = enter(fresh) if t.nested else [x._value for x in fresh]  # what enters has been computed
            t.handles.extend(fresh)
            t.values.extend(values)
            t.pending_bytes += sum([x._value.array.nbytes for x in fresh if x._cell is None])  # type: ignore[union-attr]
            t.leaves.extend([x for x in fresh if x._origin is LEAF])
        if e.numbers:
            t.scalars.extend([operands[i] for i in e.numbers])
        start.hot = e
        t.entry = t.last = e
        slot = base + e.first
        results: list[Handle] = []
        if e.writes:
            _pend_writes(t, e, operands, slot)
        else:
            results = [handle(Result.kind, a, None, slot + i) for i, a in enumerate(e.out_avals)]
            t.refs.extend(map(_new_ref, results))
        if e.flushes or t.pending_bytes > MOST_BYTES:
            flush(t)
        t.taken = taken
        return results[0] if len(results) == 1 and not many else results
    except BaseException:
        if start is not None and t.base == base:
            _undo(t, start, operands)
        t.taken = taken
        raise


def _undo(t: Trace, start: Entry, operands: Sequence[Any]) -> None:
    """An operation was refused, or interrupted anywhere: the trace is at `start` again, and nothing has entered it
    since. Where it has been recorded already it stays, and nobody has its results; one that writes ends the trace."""
    t.kinds = {}
    if t.entry is not start:
        if t.entry.writes:
            t.failed = let_be_computed(t)
        return
    end, path = t.base + start.end, start.path()
    for x in operands:
        if isinstance(x, Handle) and end <= x._slot < t.base + SPAN:
            x._slot = -1
    entered = sum([len(e.imports) for e in path])
    del t.handles[entered:], t.values[entered:]
    del t.scalars[sum([len(e.numbers) for e in path]) :], t.leaves[sum([len(e.leaf_nodes) for e in path]) :]


def _fitted(op: Op, operands: Sequence[Any], i: int, dtype: DType) -> list[Any]:
    """The operands with number i as a float that rounds to the dtype as it does. Raises OverflowError."""
    if dtype.is_floating:
        return [as_float(op.name, x, dtype) if k == i else x for k, x in enumerate(operands)]
    least, most = dtype.bounds
    raise OverflowError(f"{op.name}: {brief(operands[i])} does not fit {dtype.name} ({least} to {most})")


def _follow(t: Trace, e: Entry, op: Op, operands: Sequence[Any], attrs: tuple[Any, ...], depth: int = 2) -> bool:
    """Whether the call equals entry e; if so the tensors that enter have their slots, if not nothing has changed.
    `depth`: of the call in the stack."""
    if e.op is not op or e.modes is not t.modes or e.attrs != attrs or len(operands) != len(e.wants):
        return False
    fresh: list[Handle] = []
    base = t.base
    try:
        frame = _frame(depth)
        for code, offset in e.seen:
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
                    or (t.written and x._cell in t.written)
                    or not (source is want[1] or (source.__class__ is Tape and want[1] is _kind(source)))
                ):
                    break
                x._slot = base + want[2]
                fresh.append(x)
        else:
            t.fresh = fresh
            return True
    except AttributeError:  # an operand of another kind than recorded
        pass
    for x in fresh:
        x._slot = -1
    return False


def _kind(source: Any) -> Any:
    """What an import knows of the tape that is its origin."""
    return LOST if source.template is GONE else Tape


def _operand(op: Op, x: Any, t: Trace) -> Any:
    """x as a tensor or an exact Python bool, int or float."""
    if type(x) is StandIn:
        return x.value
    kind = x.__class__
    if kind is float or kind is int or kind is bool or isinstance(x, Handle):
        return x
    if isinstance(x, np.generic) and x.dtype.kind in "biuf":
        return x.item()
    if isinstance(x, np.ndarray):
        from katachi.tensor.creation import tensor

        return tensor(x, device=t.modes.device)
    for plain in (bool, int, float):
        if isinstance(x, plain):
            return plain(x)
    hint = "; a parameter's .grad is None once opt.step() has taken it" if x is None else ""
    raise DTypeError(f"{op.name}: operands are tensors and numbers, got {kind.__name__}{hint}")


def _find(t: Trace, op: Op, operands: Sequence[Any], attrs: tuple[Any, ...], writes: tuple[Write, ...]) -> Entry:
    """A known entry other than the last, or a new one."""
    fresh: list[Handle] = []
    wants = tuple([_want(t, x, fresh, op) for x in operands])
    seen = frames(_frame(2))
    sites = beginnings(seen)
    key = (op, attrs, wants, t.modes, sites)
    e = t.entry.children.get(key)
    if e is None:
        start = t.entry
        try:
            if start.structure is not None and _needs_sizes(t):
                t.entry = start.without_structure()
                e = t.entry.children.get(key)
            if e is None:
                e = _new(t, op, operands, attrs, wants, sites, fresh, writes)
                t.entries += 1
            t.entry.children[key] = start.children[key] = e
            e.key = key
            if start.structure is not None and e.structure is not None:
                start.structure.hot = e
        finally:
            t.entry = start
    e.seen, t.fresh = seen, fresh
    return e


def _at_new_sizes(t: Trace, start: Entry, op: Op, operands: Sequence[Any], attrs: tuple[Any, ...]) -> Entry | None:
    """What followed entries of this structure at other sizes, if the call equals it and brings no sizes of its own."""
    structure = start.structure
    assert structure is not None
    other = structure.hot
    if other is None or len(other.sizes) != len(start.sizes) or not _follow(t, other, op, operands, attrs, 3):
        return None
    child = other.structure
    if (
        child is None
        or _needs_sizes(t)
        or not holds(child.guards, start.sizes)
        or (op.sizes is not None and not _alike(start, child, op, operands, attrs, other.wants))
    ):
        for x in t.fresh:
            x._slot = -1
        return None
    e = child.at(start, attrs, other.wants, start.sizes, t.kinds)
    e.seen = other.seen
    e.key = (op, attrs, other.wants, t.modes, other.sites)
    start.children[e.key] = e
    t.entries += 1
    return e


def _alike(
    start: Entry, child: Structure, op: Op, operands: Sequence[Any], attrs: tuple[Any, ...], wants: tuple[Any, ...]
) -> bool:
    """Whether the same numbers among the attributes are sizes as in a structure: 8 may have been a size by chance."""
    free, _, own = with_symbols(start, op, operands, attrs, wants)
    return not own and always_equal(tuple(free), tuple(child.entry.attrs))


def _needs_sizes(t: Trace) -> bool:
    """Whether nodes are made for the sizes at hand alone, as within functions that are traced once."""
    return bool(t.unfinished or t.examples or t.nested or t.modes.tracing)


def _new(
    t: Trace,
    op: Op,
    operands: Sequence[Any],
    attrs: tuple[Any, ...],
    wants: tuple[Any, ...],
    sites: tuple[Site, ...],
    fresh: list[Handle],
    writes: tuple[Write, ...],
) -> Entry:
    """An entry that was not there, of a known structure if that is possible."""
    parent = t.entry
    structure = parent.structure
    if structure is None:
        e = _record(t, op, operands, attrs, wants, sites, fresh, writes)
        e.weigh()
        return e
    free_attrs, free_wants, own = with_symbols(parent, op, operands, attrs, wants)
    sizes = parent.sizes + own
    known = structure.children.setdefault((op, free_attrs, free_wants, t.modes, sites), [])
    for child in known[: -MOST_CASES - 1 : -1]:
        if holds(child.guards, sizes):
            return child.at(parent, attrs, wants, sizes, t.kinds)
    if not t.nested:
        active.env = None  # of work that was interrupted
    with ShapeEnv(sizes, structure.equal) as env:
        recorded = _record(t, op, operands, free_attrs, free_wants, sites, fresh, writes)
    child = Structure(structure, recorded, tuple(env.guards), env.equal)
    e = child.at(parent, attrs, wants, sizes, t.kinds)
    if t.known[0] is recorded:
        t.known = (e, t.known[1])
    known.append(child)
    return e


def _want(t: Trace, x: Any, fresh: list[Handle], op: Op) -> Any:
    if not isinstance(x, Handle):
        return x.__class__
    inside = x._slot - t.base
    if 0 <= inside < SPAN:
        return inside
    if x._cell is not None:
        if x._cell in t.written:  # and another thread's trace has used x since
            return t.written[x._cell] - t.base + (1 if x._aval.tracked else 0)
        if not t.uses_state:
            locked(use_state, t)
    x = arrive(x)
    source: Any = x._origin
    slot = t.entry.end + len(fresh)
    if source.__class__ is Tape:
        source = _kind(source)
    x._slot = t.base + slot
    fresh.append(x)
    return Import(x._aval, source, slot)


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
    if writes and t.modes.tracing:
        raise Error(
            f"{op.name}: state is set inside a function that {t.modes.tracing} traces once, however often it runs; "
            "return the new value from it, and set it outside"
        )
    e = Entry(t.entry)
    e.op, e.attrs, e.wants, e.modes, e.writes = op, attrs, wants, t.modes, writes
    e.sites = e.seen = sites
    known = t.slots()
    imports = e.arrivals()
    before, outer = next_serial(), (origin.site, origin.group)
    origin.site, origin.group = sites[-1], Group(op.name, t.modes.region)
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
    device = t.modes.device
    if present:  # a contextual operation goes through graphs that may be on several
        device = present[0].device if op.contextual else _one_device(op, operands, present)
    if not writes and not op.contextual:
        nodes = [n and b.to_device(n, device) for n in nodes]
    half = half_of(n for n in nodes[: op.upcast or 0] if n is not None)
    ranges = []
    for place, i in enumerate(e.numbers):
        dtype = op.scalar or _scalar_dtype(op, operands, i, present)
        kind = aval((), dtype, device, False)
        nodes[i] = input_node(kind, len(t.scalars) + place, scalar=True)
        if dtype.is_integer:
            ranges.append((i, *dtype.bounds, dtype))
        elif dtype.is_floating and operands[i].__class__ is int:  # larger ones need care, for numbers pass as float64
            ranges.append((i, -EXACT, EXACT, dtype))
    e.ranges = tuple(ranges)
    try:
        if half is not None:
            nodes = [n and upcast(n) for n in nodes]
        if op.contextual:
            results = op.build(t, e, fresh, nodes, *attrs)
        else:
            results = op.build(nodes, *attrs) if op.variadic else op.build(*nodes, *attrs)
    except Error as error:
        raise type(error)(f"{op.name}({', '.join(map(_show, operands))}): {error}") from None
    e.nodes = results if isinstance(results, tuple) else (results,)
    if half is not None:
        e.nodes = tuple(round_to(half, n) for n in e.nodes)
    if not writes:  # a result that is an operand's own node would have the operand's gradient
        same = [n.tracked and (n.primitive == "input" or (n in nodes and not op.contextual)) for n in e.nodes]
        e.nodes = tuple(make("reshape", n, shape=n.shape) if k else n for n, k in zip(e.nodes, same, strict=True))
    if writes and not t.examples.isdisjoint(toposort(e.nodes)):
        raise Error(f"{op.name}: inside vmap the new value differs from example to example, and state has only one")
    e.out_avals = tuple(n.aval for n in e.nodes)
    e.work = tuple(map(_work, e.nodes))
    e.first = t.entry.end + len(e.imports)
    e.end = e.first + len(e.nodes)
    e.leaf_nodes += tuple(e.nodes[w.result + 1] for w in writes if e.nodes[w.result + 1].tracked)
    known.extend(e.nodes)
    t.known = (e, known)
    e.cost = t.entry.cost + next_serial() - before
    e.flushes = t.modes.eager or e.cost > MOST_NODES
    e.plain = len(e.out_avals) == 1 and not (e.imports or e.numbers or e.writes or e.flushes)
    if t.nested:
        origin.site, origin.group = outer
    return e


def _work(n: Node) -> tuple[float, tuple[Any, ...]]:
    """Of a node, for `Entry.work`."""
    if n.primitive in ("dot_general", "convolution", "sort", *FIRST_MASK):
        return 1 / OPERATIONS, (operations(n),)
    return 1 / ELEMENTS, tuple([count(x.shape) for x in (n, *n.inputs)])


def _one_device(op: Op, operands: Sequence[Any], nodes: list[Node]) -> str:
    """Where the operation runs. Zero-dimensional operands follow the others; if there are no others, those on the CPU
    follow the rest."""
    found = {n.device for n in nodes if n.shape} or {n.device for n in nodes}
    if len(found) > 1 and not any(n.shape for n in nodes):
        found.discard("cpu")
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
    dtype = promote_scalar(dtype, operands[i].__class__)
    return float32 if op.upcast is not None and dtype in HALVES else dtype


def _show(x: Any) -> str:
    if isinstance(x, Handle):
        return f"{x._aval.dtype.name}{list(x._aval.shape)}"
    return repr(x)


def _pend_writes(t: Trace, e: Entry, operands: Sequence[Any], slot: int) -> None:
    """Later reads of the written cells see the new value; the buffers change when the trace ends."""
    nodes = e.nodes
    for operand, result in e.writes:
        x = operands[operand]
        cell = x._cell
        t.written[cell] = at = slot + result
        for ref in cell.handles:
            h = ref()
            if h is not None:
                h._slot = at + 1 if h._aval.tracked else at
        if nodes[result + 1].tracked:
            t.leaves.append(x)

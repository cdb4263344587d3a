"""What a trace is made of: operations, and the entries that record one operation each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from katachi.errors import OutOfMemoryError
from katachi.graph.concrete import Resized, at_sizes, concrete_aval
from katachi.graph.dtypes import DType
from katachi.graph.node import Aval, Node, aval
from katachi.graph.shape_env import Guard, holds
from katachi.graph.site import Site, describe
from katachi.graph.sizes import count
from katachi.graph.symint import evaluate, is_symbolic, symbol
from katachi.tensor.handle import LEAF, Handle
from katachi.tensor.modes import Modes
from katachi.tensor.tape import Link

NEW = "first seen"  # why a program is built that is like no other
LARGEST = (1 << 63) - 1  # bytes of one value


class Op:
    """An operation as the user knows it: a name for messages and what it builds of its operands' nodes.

    `build(*nodes, *attrs)`, or `build(nodes, *attrs)` if variadic, returns a node or a tuple of nodes. `scalar` is the
    dtype of operands that are Python numbers; without it they take that of the tensors beside them.

    `upcast` is for what rounds several times. Where the first so many operands promote to float16 or bfloat16, `build`
    gets all halves as float32, and its float32 results are rounded to that half. Numbers beside halves are float32.
    With 0 only the numbers are: `build` converts the rest by itself.

    `vary` is for what has numbers among its attributes that need not be there (`tensor/varying.py`). `sizes` says which
    of them are sizes that may differ (`tensor/free_sizes.py`): `build` gets these as a `SymInt` each.
    """

    __slots__ = ("build", "contextual", "name", "scalar", "sizes", "upcast", "variadic", "vary")

    def __init__(
        self,
        name: str,
        build: Callable[..., Any],
        *,
        variadic: bool = False,
        scalar: DType | None = None,
        contextual: bool = False,
        upcast: int | None = None,
        vary: Callable[[Sequence[Any], tuple[Any, ...]], Any] | None = None,
        sizes: Callable[..., tuple[Any, ...]] | None = None,
    ) -> None:
        self.name, self.build, self.variadic, self.scalar, self.contextual = name, build, variadic, scalar, contextual
        self.upcast, self.vary, self.sizes = upcast, vary, sizes


class Import(NamedTuple):
    """What must be known of a computed tensor that enters a trace: what it is, not which program made it. So
    `running = running + loss` is the same operation in every step, though each step's program makes another `running`.
    """

    aval: Aval
    origin: Any  # None for a constant, LEAF, Tape for a value with a graph, LOST where that is consumed
    slot: int


class Write(NamedTuple):
    """Operand `cell` is state that takes the value of result `result`; the next result is the same, tracked."""

    operand: int
    result: int


class Entry:
    """One operation of a trace at the sizes that its operands have, and what followed it."""

    __slots__ = (
        "aliases", "attrs", "children", "consumed", "copies", "cost", "end", "ends", "extra", "first", "flushes", "hot",
        "imports", "key", "leaf_nodes", "modes", "nodes", "numbers", "op", "out_avals", "parent", "pinned", "plain",
        "programs", "ranges", "seen", "sites", "sizes", "structure", "varied", "wants", "weight", "work", "writes",
    )  # fmt: skip

    op: Op
    attrs: tuple[Any, ...]
    wants: tuple[Any, ...]  # per operand: a slot, a class of Python number, or an Import
    modes: Modes
    sites: tuple[Site, ...]  # where each instruction begins
    seen: tuple[Site, ...]  # where in them the interpreter stood the last time
    parent: Entry | None
    hot: Entry | None  # the child that was taken last
    imports: tuple[Node, ...]
    numbers: tuple[int, ...]  # operands that are Python numbers
    ranges: tuple[tuple[int, int, int, DType], ...]  # (operand, least, greatest, dtype) of what may need care
    nodes: tuple[Node, ...]  # results
    out_avals: tuple[Aval, ...]
    plain: bool  # one result, and nothing but tensors of this trace goes in
    cost: int  # nodes made for the path up to here
    work: tuple[tuple[float, tuple[Any, ...]], ...]  # of each result: the largest of some sizes, times a factor
    weight: float  # work of the path up to here: 1 an operation, and more for large ones
    varied: Op | None  # the operation that was asked for, numbers of which are operands of this one
    ends: bool  # the user's loop starts its next iteration after it; the program runs before that
    first: int  # slot of the first result
    end: int  # first slot after this entry
    leaf_nodes: tuple[Node, ...]  # nodes of this entry that are a leaf's value
    writes: tuple[Write, ...]
    consumed: frozenset[Node]  # nodes of the trace whose values a backward pass has used up
    aliases: tuple[Link, ...]  # nodes that stand for values of older tapes' nodes
    extra: Any  # what a contextual operation noted
    structure: Structure | None  # the same operation at any sizes; None where its nodes are of these sizes only
    sizes: tuple[int, ...]  # the sizes of the path up to here, by their numbers in the structure
    pinned: Entry | None  # the same entry without a structure
    copies: Mapping[Node, Node]  # of one without: what its nodes were made from, and before it was not there

    def __init__(self, parent: Entry | None) -> None:
        self.parent, self.hot, self.pinned, self.structure, self.sizes, self.work = parent, None, None, None, (), ()
        self.children: dict[Any, Entry] = {}
        self.key: Any = None  # under which its parent has it
        self.programs: dict[Any, Any] = {}
        self.first = self.end = self.cost = 0
        self.weight, self.ends, self.varied = 0.0, False, None
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

    def node(self, slot: int) -> Node:
        """The node in a slot."""
        e = self
        while slot < e.first - len(e.imports):
            assert e.parent is not None
            e = e.parent
        return e.imports[slot - e.first] if slot < e.first else e.nodes[slot - e.first]

    def without_structure(self) -> Entry:
        """The same place of the tree with nodes of these sizes only, for operations that need to know them."""
        if self.structure is None:
            return self
        if self.pinned is None:
            copies = at_sizes(self.sizes)
            root = self.root()
            before = root.pinned = root.pinned or Entry(None)
            for e in self.path():
                if e.pinned is None:
                    e.pinned = e._pinned_copy(before, copies)
                else:
                    copies.known.update(e.pinned.copies)
                before = e.pinned
        assert self.pinned is not None
        return self.pinned

    def weigh(self) -> None:
        """Once its parent is known, and all sizes. Raises OutOfMemoryError for a result that no machine can hold."""
        for kind in self.out_avals:
            _check(self.op, kind)
        assert self.parent is not None
        self.weight = self.parent.weight + sum([1 + factor * max(counts) for factor, counts in self.work])

    def root(self) -> Entry:
        """Where the path begins."""
        e = self
        while e.parent is not None:
            e = e.parent
        return e

    def _pinned_copy(self, parent: Entry | None, copies: Resized) -> Entry:
        e, before = self.copy(), set(copies.known)
        e.parent, e.structure, e.sizes = parent, None, ()
        e.imports, e.nodes, e.leaf_nodes = (copies(nodes) for nodes in (self.imports, self.nodes, self.leaf_nodes))
        e.consumed = frozenset(copies(tuple(self.consumed)))
        e.aliases = tuple([link._replace(node=copies((link.node,))[0]) for link in self.aliases])
        e.copies = {n: copy for n, copy in copies.known.items() if n not in before}
        return e

    def copy(self) -> Entry:
        """Another entry of the same operation, which nothing follows yet."""
        e = Entry(self.parent)
        e.op, e.attrs, e.wants, e.modes, e.sites, e.seen = (
            self.op, self.attrs, self.wants, self.modes, self.sites, self.seen,
        )  # fmt: skip
        e.imports, e.numbers, e.ranges, e.nodes, e.out_avals = (
            self.imports, self.numbers, self.ranges, self.nodes, self.out_avals,
        )  # fmt: skip
        e.plain, e.cost, e.work, e.weight, e.flushes = self.plain, self.cost, self.work, self.weight, self.flushes
        e.first, e.end, e.leaf_nodes, e.writes = self.first, self.end, self.leaf_nodes, self.writes
        e.consumed, e.aliases = self.consumed, self.aliases
        if self.op.contextual:
            e.extra = self.extra
        return e


class Structure:
    """An operation at any sizes: what the entries of all sizes have in common.

        step 1    x float32[64, 784] @ w -> float32[64, 10]    an entry
        step 9    x float32[37, 784] @ w -> float32[37, 10]    another one
                  x [s0, s1] @ w -> [s0, 10], if s1 == 784     their structure

    The sizes of what enters, and of attributes that are sizes, are numbered along the path.
    """

    __slots__ = ("children", "entry", "equal", "guards", "hot", "parent", "programs", "sized", "weight", "work")

    def __init__(
        self,
        parent: Structure | None,
        entry: Entry,
        guards: Sequence[Guard] = (),
        equal: Mapping[int, Any] | None = None,
    ) -> None:
        self.parent = parent
        self.entry = entry  # as it was recorded first, with symbolic types
        self.guards = guards  # what must hold of the sizes, beside what its parents' do
        self.equal: Mapping[int, Any] = equal or {}  # what the guards so far say of sizes
        self.children: dict[Any, list[Structure]] = {}  # those of one key differ in their guards
        self.programs: dict[Any, list[Any]] = {}
        self.hot: Entry | None = None  # of the child, and the sizes, that were taken last
        # which results have sizes; what their work adds to the weight of an entry, and what that of the others does
        kinds = entry.out_avals if entry.parent is not None else ()
        self.sized = [i for i, kind in enumerate(kinds) if is_symbolic(kind.shape)]
        for i, kind in enumerate(kinds):
            if i not in self.sized:
                _check(entry.op, kind)
        self.work = [w for w in entry.work if is_symbolic(w[1])]
        self.weight = sum([1 + factor * max(counts) for factor, counts in entry.work if not is_symbolic(counts)])

    def forget(self, key: Any, program: Any) -> None:
        """Drop a program, and what led to it alone."""
        if program in self.programs.get(key, ()):
            self.programs[key].remove(program)
            if not self.programs[key]:
                del self.programs[key]
        s: Structure = self
        while s.parent is not None and not s.programs and not s.children:
            parent = s.parent
            parent.children = {
                k: rest for k, found in parent.children.items() if (rest := [c for c in found if c is not s])
            }
            if parent.hot is not None and parent.hot.structure is s:
                parent.hot = None
            s = parent

    def at(
        self,
        parent: Entry,
        attrs: tuple[Any, ...],
        wants: tuple[Any, ...],
        sizes: tuple[int, ...],
        known: dict[Aval, Aval],
    ) -> Entry:
        """The entry for these sizes, which follows `parent`. `known`: what types with sizes are in this trace."""
        e = self.entry.copy() if sizes else self.entry  # without sizes it is the only one
        e.parent, e.structure, e.sizes, e.attrs, e.wants = parent, self, sizes, attrs, wants
        if self.sized:
            kinds = list(e.out_avals)
            for i in self.sized:
                kind = known.get(kinds[i])
                if kind is None:
                    kind = known[kinds[i]] = concrete_aval(kinds[i], sizes)
                    _check(e.op, kind)
                kinds[i] = kind
            e.out_avals = tuple(kinds)
        e.weight = parent.weight + self.weight
        for factor, counts in self.work:
            e.weight += 1 + factor * max([evaluate(n, sizes) for n in counts])
        return e


def _check(op: Op, kind: Aval) -> None:
    if count(kind.shape) > LARGEST // kind.dtype.itemsize:
        raise OutOfMemoryError(
            f"{op.name}: a result {kind!r} has {count(kind.shape):,} elements, which no machine can address"
        )


def with_symbols(
    parent: Entry, op: Op, operands: Sequence[Any], attrs: tuple[Any, ...], wants: tuple[Any, ...]
) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[int, ...]]:
    """Attributes and wants with symbols, numbered behind those of `parent`, in place of the sizes that may differ: of
    tensors that are not state, but for 0 and 1. And these sizes."""
    number = len(parent.sizes)
    sizes: list[int] = []

    def symbolic(x: Any) -> Any:
        if x.__class__ is tuple:
            return tuple([symbolic(n) for n in x])
        if x.__class__ is not int or x < 2:
            return x
        sizes.append(x)
        return symbol(number + len(sizes) - 1)

    others = list(wants)
    for i, want in enumerate(wants):
        if want.__class__ is Import and want.origin is not LEAF and want.aval.shape:
            x: Handle = operands[i]
            if x._cell is None:
                others[i] = want._replace(aval=with_shape(want.aval, symbolic(want.aval.shape)))

    def shapes() -> list[tuple[Any, Any]]:
        arrived = {w.slot: w.aval.shape for w in others if w.__class__ is Import}
        slots = [w.slot if w.__class__ is Import else w for w in others]
        return [
            (x._aval.shape, arrived[slot] if slot in arrived else parent.node(slot).shape)
            for x, slot in zip(operands, slots, strict=True)
            if isinstance(x, Handle)
        ]

    if op.sizes is not None:
        attrs = op.sizes(attrs, symbolic, shapes)
    return attrs, tuple(others) if sizes else wants, tuple(sizes)


def with_shape(kind: Aval, shape: Any) -> Aval:
    """The type with another shape."""
    return aval(shape, kind.dtype, kind.device, kind.tracked)


def unlike(e: Entry, key: Any) -> str:
    """Why no program is known yet for a trace that ends here with these values alive (`key`): how it differs from the
    ones before it."""
    if e.structure is not None and (known := e.structure.programs.get(key)):
        return _failed_guard(e, known[-1].guards)
    if any(key[0] != "alone" for key in e.programs):
        return "other values are alive at its end"
    for entry in e.path():
        assert entry.parent is not None
        if entry.structure is not None and entry.structure.parent is not None:
            siblings = [found for found in entry.structure.parent.children.values() if entry.structure in found]
            if siblings and siblings[0][0] is not entry.structure:
                return _failed_guard(entry, siblings[0][0].guards)
        others = list(entry.parent.children.values())
        for other in others[::-1]:  # the latest first
            if other.structure is not None and other.structure is entry.structure:
                continue  # at other sizes
            if other is not entry and other.op.name == entry.op.name and other.sites == entry.sites:
                return f"{entry.op.name} at {describe(entry.sites[-1])}: {_difference(other, entry)}"
    return NEW


FAILURES = {"==": "that were equal differ", "!=": "that were different are equal"}


def _failed_guard(e: Entry, guards: Sequence[Guard]) -> str:
    """Which guard of what is known does not hold."""
    failed = next((g for g in guards if not holds([g], e.sizes)), None)
    if failed is None:
        return "its sizes are new, and parts of it run in Python or on the reference device, so it is made for each"
    where, kinds = describe(e.sites[-1]), ", ".join(repr(w.aval) for w in e.arrivals())
    what = f"sizes {FAILURES[failed.relation]}" if failed.relation in FAILURES else "a size is beyond a limit"
    return f"{e.op.name} at {where}{f' of {kinds}' if kinds else ''}: {what} (it was built for {failed})"


def _difference(old: Entry, new: Entry) -> str:
    if old.modes is not new.modes:
        return "in other modes"
    if len(old.wants) != len(new.wants):
        if new.op.vary is not None or new.varied is not None:
            return "a number varies, and is an operand from now on"
        return f"it has {len(new.wants)} operands, not {len(old.wants)}"
    if old.attrs != new.attrs:
        return f"settings {new.attrs}, not {old.attrs}"
    for a, b in zip(old.arrivals(), new.arrivals()):  # noqa: B905 - one may have more
        if a.aval is not b.aval:
            return f"an operand is {_show(b.aval)}, not {_show(a.aval)}"
    return "operands of another origin"


def _show(kind: Aval) -> str:
    return f"{kind!r}{' variable' if kind.tracked else ''} on {kind.device}"

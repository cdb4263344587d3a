"""What a trace is made of: operations, and the entries that record one operation each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from katachi.graph.dtypes import DType
from katachi.graph.node import Aval, Node
from katachi.graph.site import Site, describe
from katachi.tensor.modes import Modes
from katachi.tensor.tape import Link

NEW = "first seen"  # why a program is built that is like no other


class Op:
    """An operation as the user knows it: a name for messages and what it builds of its operands' nodes.

    `build(*nodes, *attrs)`, or `build(nodes, *attrs)` if variadic, returns a node or a tuple of nodes. `scalar` is the
    dtype of operands that are Python numbers; without it they take that of the tensors beside them.

    `upcast` is for what rounds several times. Where the first so many operands promote to float16 or bfloat16, `build`
    gets all halves as float32, and its float32 results are rounded to that half. Numbers beside halves are float32.
    With 0 only the numbers are: `build` converts the rest by itself.

    `vary` is for what has numbers among its attributes that need not be there (`tensor/varying.py`).
    """

    __slots__ = ("build", "contextual", "name", "scalar", "upcast", "variadic", "vary")

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
    ) -> None:
        self.name, self.build, self.variadic, self.scalar, self.contextual = name, build, variadic, scalar, contextual
        self.upcast, self.vary = upcast, vary


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
    """One operation of a trace, and what followed it."""

    __slots__ = (
        "aliases", "attrs", "children", "consumed", "cost", "end", "ends", "extra", "first", "flushes", "hot",
        "imports", "leaf_nodes", "modes", "nodes", "numbers", "op", "out_avals", "parent", "plain", "programs",
        "ranges", "seen", "sites", "varied", "wants", "weight", "writes",
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

    def __init__(self, parent: Entry | None) -> None:
        self.parent, self.hot = parent, None
        self.children: dict[Any, Entry] = {}
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


def unlike(e: Entry) -> str:
    """Why no program is known yet for a trace that ends here: how it differs from the ones before it."""
    if any(key[0] != "alone" for key in e.programs):
        return "other values are alive at its end"
    for entry in e.path():
        assert entry.parent is not None
        others = list(entry.parent.children.values())
        for other in others[::-1]:  # the latest first
            if other is not entry and other.op.name == entry.op.name and other.sites == entry.sites:
                return f"{entry.op.name} at {describe(entry.sites[-1])}: {_difference(other, entry)}"
    return NEW


def _difference(old: Entry, new: Entry) -> str:
    if old.modes is not new.modes:
        return "in other modes"
    if new.varied is not None or len(old.wants) != len(new.wants):
        return "a number varies, and is an operand from now on"
    if old.attrs != new.attrs:
        return f"settings {new.attrs}, not {old.attrs}"
    for a, b in zip(old.arrivals(), new.arrivals()):  # noqa: B905 - one may have more
        if a.aval is not b.aval:
            return f"an operand is {_show(b.aval)}, not {_show(a.aval)}"
    return "operands of another origin"


def _show(kind: Aval) -> str:
    return f"{kind!r}{' variable' if kind.tracked else ''} on {kind.device}"

"""What a flush leaves behind for a later backward pass, and how that pass takes it up again.

A flush that computes tracked values which no backward has consumed tries the backward pass out and keeps the values
that its rules ask for. Its graph stays too, as a template that all iterations share; a tape is the template with one
iteration's values. Differentiating a taped value copies the template's nodes into the current trace and lets the kept
values stand for them.
"""

from __future__ import annotations

import copy
import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from katachi.compiler import program as compiler
from katachi.compiler.steps import nbytes
from katachi.devices.memory import Buffer
from katachi.errors import GradientError
from katachi.graph import build as b
from katachi.graph.concrete import concrete_attrs, concrete_aval
from katachi.graph.costs import CHEAP, DEAR, costing
from katachi.graph.node import Node, aval, toposort
from katachi.graph.shape_env import ShapeEnv, assume_equal, current, holds
from katachi.graph.symint import active, evaluate
from katachi.tensor.handle import LEAF, LOST, Handle, handle
from katachi.transforms import vjp
from katachi.transforms.recompute import entering

if TYPE_CHECKING:
    from katachi.tensor.entry import Entry
    from katachi.tensor.trace import Trace

MOST_CASES = 32  # of a program at different sizes: the latest are looked at
CONSUMED = (
    "its graph was consumed by an earlier backward(), which frees what it kept; "
    "pass retain_graph=True to the first one to go through it again"
)


class Link(NamedTuple):
    """A node whose value is also that of an older tape's node: the tape that the trace's `handle`-th import belongs to,
    and there `target`, or where that import stands."""

    node: Node
    handle: int
    target: Node | None


class Template:
    """The part of a tape that every iteration shares."""

    def __init__(
        self,
        roots: Sequence[Node] = (),
        asking: frozenset[Node] = frozenset(),
        kept: Sequence[Node] = (),
        links: Sequence[Link] = (),
        leaves: Sequence[tuple[Node, int]] = (),
        equal: Mapping[int, Any] | None = None,
    ) -> None:
        self.roots, self.asking = roots, asking  # taped nodes; nodes whose rules ask for a value
        self.kept = kept  # nodes with a value of their own, host numbers among them
        self.links = links  # nodes that older tapes continue
        self.leaves = leaves  # (node, which of the trace's leaves it is)
        self.equal = equal or {}  # what is known of the sizes of its graph


GONE = Template()  # of values whose graph is consumed


_serials = itertools.count()


class Tape:
    """One flush's values for a later backward pass."""

    __slots__ = ("consumed", "kept", "leaves", "links", "serial", "sizes", "template")

    def __init__(
        self,
        template: Template,
        kept: list[Handle],
        links: list[Handle],
        leaves: list[Handle],
        sizes: tuple[int, ...] = (),
    ) -> None:
        self.template, self.kept, self.links, self.leaves = template, kept, links, leaves
        self.sizes = sizes  # of the template's graph
        self.consumed: tuple[frozenset[Node], ...] = ()
        self.serial = next(_serials)

    def tracked(self) -> list[Handle]:
        """The kept values as handles that belong to this tape, so that what is computed from them can be
        differentiated."""
        handles = [
            handle(Handle, concrete_aval(n.aval, self.sizes), h._value)
            for n, h in zip(self.template.kept, self.kept, strict=True)
        ]
        for n, h in zip(self.template.kept, handles, strict=True):
            if n.tracked:
                h._origin, h._node = self, n
        return handles

    def consume(self, nodes: frozenset[Node]) -> None:
        """A backward pass went through these nodes and nobody asked to retain them."""
        if not nodes:
            return
        self.consumed += (nodes,)
        # The values of a tape go together: whoever still needs a part holds on to all of it, as long as it is alive.
        if self.template.asking <= frozenset().union(*self.consumed):
            self.template, self.kept, self.links = GONE, [], []


class Finish:
    """How a trace ends that stands at one entry with one set of live handles: the program, and the tape it leaves."""

    def __init__(self, t: Trace, live: tuple[int, ...], written: tuple[int, ...]) -> None:
        self.used = 0  # which of the thread's flushes was the last that it ended
        self.first = self  # the one that was made, of those for several sizes
        e = t.entry
        self.sizes = e.sizes
        if not t.nested:
            active.env = None  # of work that was interrupted
        with ShapeEnv(e.sizes, e.structure.equal if e.structure else None) as env:
            self._build(t, live, written)
        self.guards = tuple(env.guards)
        if e.structure is not None:
            e.structure.programs.setdefault((live, written), []).append(self)

    def at(self, sizes: tuple[int, ...]) -> Finish | None:
        """The same for other sizes, if what was decided for it is true for them."""
        if sizes == self.sizes:
            return self
        if not holds(self.guards, sizes):
            return None
        other = copy.copy(self)
        other.sizes, other.program = sizes, self.specializer.at(sizes)
        return other

    def _build(self, t: Trace, live: tuple[int, ...], written: tuple[int, ...]) -> None:
        path, slots = t.entry.path(), t.entry.slots()
        self.nodes = [slots[s] for s in live]
        self.tracked = any(n.tracked for n in self.nodes)
        used = frozenset().union(*[e.consumed for e in path])
        self.gone = {n for e in path for n, w in zip(e.imports, e.arrivals(), strict=True) if w.origin is LOST}
        leaf_nodes = [n for e in path for n in e.leaf_nodes]
        self.roots: set[Node] = set()
        self.aliases = [link for e in path for link in e.aliases]
        self.template = GONE
        taped = [n for n in self.nodes if n.tracked and n not in set(leaf_nodes)]
        if taped:
            self._try_out(taped, used, leaf_nodes)
        extra = [n for n in self.template.kept if n.primitive != "input"]
        keeps = {n.attrs["slot"] for n in self.template.kept if n.primitive == "input" and not n.attrs["scalar"]}
        replaces = {len(live) + i: k for i, k in enumerate(_replaced(path, written)) if k not in keeps}
        self.specializer = compiler.Specializer([*self.nodes, *[slots[s] for s in written], *extra], replaces)
        self.program = self.specializer.at(self.sizes)
        self.first_extra = len(live) + len(written)

    def _try_out(self, taped: list[Node], used: frozenset[Node], leaf_nodes: list[Node]) -> None:
        """Run the backward pass of each root on paper, to see which values it asks for."""
        asked: set[Node] = set()
        asking: set[Node] = set()
        reached: set[Node] = set()
        for root in taped:
            try:
                wanted, by, walked = _ask(root)
            except GradientError:  # there is no way back: whoever asks for one is told so
                continue
            if not by & used and not walked & self.gone:
                self.roots.add(root)
                asked |= wanted
                asking |= by or {root}  # a root that asks for nothing is never used up
                reached |= walked
        if not self.roots:
            return
        kept = _cheaper(asked) | {n for n in leaf_nodes if n in reached and n.primitive != "input"}
        inputs = [n for n in toposort(list(self.roots)) if n.primitive == "input" and n.attrs["slot"] >= 0]
        links = [Link(n, n.attrs["slot"], None) for n in inputs if n.tracked and n not in set(leaf_nodes)]
        links += [link for link in self.aliases if link.node in reached]
        self.template = Template(
            sorted(self.roots, key=lambda n: n.serial),
            frozenset(asking),
            sorted({*kept, *inputs}, key=lambda n: n.serial),
            links,
            [(n, i) for i, n in enumerate(leaf_nodes) if n in reached],
            current().equal,
        )

    def tape(self, t: Trace, buffers: Sequence[Buffer]) -> Callable[[Node], Tape]:
        """The tape of a root: one for all roots that can still be differentiated, an empty one for the others."""
        template, leaves = self.template, t.leaves
        gone = Tape(GONE, [], [], leaves)
        if not self.roots:
            return lambda node: gone
        extra = iter(buffers[self.first_extra :])
        kept = [_constant(n, _entered(t, n).alias() if n.primitive == "input" else next(extra)) for n in template.kept]
        links = [t.handles[link.handle] for link in template.links]
        whole = Tape(template, kept, links, leaves, self.sizes)
        roots = self.roots
        return lambda node: whole if node in roots else gone


def resized(e: Entry, key: tuple[tuple[int, ...], tuple[int, ...]], build: bool = False) -> Finish | None:
    """How a trace ends at an entry, as it was made for other sizes, at these. Some programs are built for each sizes:
    these only with `build`."""
    known = e.structure.programs.get(key, ()) if e.structure is not None else ()
    for other in known[: -MOST_CASES - 1 : -1]:
        if build or other.specializer.symbolic is not None or other.sizes == e.sizes:
            finish = other.at(e.sizes)
            if finish is not None:
                return finish
    return None


def _replaced(path: Sequence[Entry], written: Sequence[int]) -> list[int]:
    """For each result that a cell takes, as which import the cell's old value entered."""
    number: dict[int, int] = {}  # slot: that import
    count = 0
    for e in path:
        for w in e.arrivals():
            number[w.slot] = count
            count += 1
        for w in e.writes:
            want = e.wants[w.operand]
            old = number[want if want.__class__ is int else want.slot]
            number[e.first + w.result] = number[e.first + w.result + 1] = old
    return [number[slot] for slot in written]


def _entered(t: Trace, node: Node) -> Buffer:
    """What entered the trace at an input node: a tensor's value, or a host number as the dtype it was taken for."""
    slot = node.attrs["slot"]
    return Buffer(np.asarray(t.scalars[slot]).astype(node.dtype.numpy)) if node.attrs["scalar"] else t.values[slot]


def _constant(node: Node, buffer: Buffer) -> Handle:
    return handle(Handle, aval(buffer.array.shape, node.dtype, node.device, False), buffer)


def _ask(root: Node) -> tuple[set[Node], set[Node], set[Node]]:
    """The values that a backward pass from root asks for, the nodes whose rules ask, and all that it walks through."""
    asked: set[Node] = set()
    asking: set[Node] = set()
    walking: list[Node] = []

    def value(n: Node) -> Node:
        asked.update(entering(n))
        asking.add(walking[-1])
        return n

    ct = vjp.backward({root: b.like(root, 1.0)}, toposort([root]), value, visit=walking.append)
    return asked, asking, set(ct)


_CHEAP, _DEAR = costing(CHEAP), costing(DEAR)


def _cheaper(asked: set[Node]) -> set[Node]:
    """What to keep so that the values asked for can be had without much work: instead of a value that is cheap to
    compute again its inputs, where those are kept anyway or take no more memory; of a dear value where they are."""
    heap = [(-n.serial, n) for n in asked]
    heapq.heapify(heap)
    wanted, kept = set(asked), set()
    while heap:  # latest first, so that whole chains give way to what they start from
        _, node = heapq.heappop(heap)
        if node.primitive == "input":
            continue  # kept in any case
        more = {x for x in node.inputs if x.primitive != "input" and x not in wanted}
        again = node.primitive in _CHEAP and sum(map(_weight, more)) <= nbytes(node)
        if again or (node.primitive in _DEAR and _within(node, wanted)):
            wanted |= more
            for x in more:
                heapq.heappush(heap, (-x.serial, x))
        else:
            kept.add(node)
    return kept


def _within(node: Node, wanted: set[Node]) -> bool:
    """Whether cheap work leads from values wanted anyway to the node's operands."""
    stack = list(node.inputs)
    while stack:
        x = stack.pop()
        if x in wanted or not _weight(x):
            continue
        if x.primitive not in _CHEAP:
            return False
        stack += x.inputs
    return True


def _weight(node: Node) -> int:
    """Bytes that keeping a node takes, or keeping what a copy of values was copied from."""
    while node.primitive in ("broadcast_in_dim", "reshape", "transpose", "convert") and node.inputs:
        node = node.inputs[0]
    return 0 if node.primitive in ("constant", "iota", "input") else nbytes(node)


# ---- taking tapes up again ------------------------------------------------------------------------------------------


def tapes_of(t: Trace, roots: Sequence[Handle]) -> list[Tape]:
    """Every tape that a backward pass from `roots` may enter, older ones first."""
    found: dict[int, Tape] = {}
    stack = [*t.handles, *roots]
    while stack:  # no recursion: in eager mode every operation leaves a tape
        tape = stack.pop()._origin
        if isinstance(tape, Tape) and id(tape) not in found:
            found[id(tape)] = tape
            stack += tape.links
    return sorted((tape for tape in found.values() if tape.template is not GONE), key=lambda tape: tape.serial)


class Unfolded:
    """The current trace's graph with the tapes' graphs copied in front of it. Copies only carry structure: what stands
    for their values is what was kept, or is computed from that."""

    def __init__(
        self,
        t: Trace,
        e: Entry,
        fresh: Sequence[Handle],
        tapes: Sequence[Tape],
        sizes: Sequence[Sequence[Any]],
        values: Sequence[Node],
    ) -> None:
        """`values` are the nodes of the tapes' kept values, in order; `sizes` those of the tapes' graphs here."""
        self.stand_in: dict[Node, Node] = {}
        self.links: dict[Node, Node] = {}
        self.gone: set[Node] = set()
        self.copies: list[Node] = []
        self.tape_of: dict[Node, tuple[int, Node]] = {}
        self.leaf_nodes: list[list[Node]] = []
        self.place: dict[tuple[int, Node], Node] = {}
        self.computed: list[tuple[Node, int, Node]] = []  # (node, tape, its original): values computed again
        rest = iter(values)
        for i, tape in enumerate(tapes):
            self._copy(i, tape, sizes[i], rest)
        nodes = [n for p in t.entry.path() for n in p.imports] + list(e.imports)
        handles = [*t.handles, *fresh]
        for n, h in zip(nodes, handles, strict=True):
            if n.tracked and h._origin is not LEAF:
                self._join(n, h, None)
        for link in [link for p in t.entry.path() for link in p.aliases]:
            self._join(link.node, handles[link.handle], link.target)

    def _join(self, n: Node, h: Handle, target: Node | None) -> None:
        """n continues where handle h stands in its tape, or at `target` there."""
        source = h._origin
        if isinstance(source, Tape) and source.template is not GONE:
            at = self.place.get((id(source), target or h._node))
            if at is not None:
                self.links[n] = at
        else:
            self.gone.add(n)

    def _copy(self, i: int, tape: Tape, sizes: Sequence[Any], rest: Any) -> None:
        template = tape.template
        given = {n: next(rest) for n in template.kept}
        for number, size in template.equal.items():
            assume_equal(sizes[number], evaluate(size, sizes))
        for n, value in given.items():
            for a, size in zip(value.shape, n.shape, strict=True):
                assume_equal(a, evaluate(size, sizes))
        ends = {n for n, _ in template.leaves} | {link.node for link in template.links}
        new: dict[Node, Node] = {}
        for n in toposort(list(template.roots)):
            inputs = () if n in ends else tuple(new[x] for x in n.inputs)
            copied = Node(n.primitive, inputs, concrete_attrs(n.attrs, sizes), concrete_aval(n.aval, sizes))
            copied.site, copied.group = n.site, (i, n.group)
            if n in given:
                self.stand_in[copied] = given[n]
            new[n] = copied
            self.copies.append(copied)
            self.tape_of[copied] = (i, n)
            self.place[id(tape), n] = copied
        for link, h in zip(template.links, tape.links, strict=True):
            self._join(new[link.node], h, link.target)
        self.leaf_nodes.append([new[n] for n, _ in template.leaves])

    def value(self, n: Node) -> Node:
        """The node that stands for n's value: what was kept, else n computed again from what was kept."""
        stack = [n]  # no recursion: a chain may be as long as the user's graph
        while stack:
            m = stack[-1]
            again = m in self.links  # computed again once before
            wanted = (self.links[m],) if again else m.inputs
            missing = [x for x in wanted if x in self.tape_of and x not in self.stand_in]
            if m not in self.tape_of or m in self.stand_in:
                stack.pop()
            elif missing:
                stack += missing[::-1]
            elif again:
                self.stand_in[m] = self._known(self.links[m])
            else:
                i, original = self.tape_of[m]
                found = Node(m.primitive, tuple(map(self._known, m.inputs)), m.attrs, m.aval)
                self.stand_in[m] = found
                self.links[found] = m
                self.computed.append((found, i, original))
        return self._known(n)

    def _known(self, n: Node) -> Node:
        return self.stand_in[n] if n in self.tape_of else n

    def order(self, outputs: Sequence[Node]) -> list[Node]:
        """All of the graph that `outputs` need, topologically: the tapes' copies, then the current trace."""
        return [*self.copies, *[n for n in toposort(list(outputs)) if n not in self.tape_of]]

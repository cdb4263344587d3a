"""backward(), gradients and jvp as entries of the trace: one entry each, however large the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from katachi.errors import GradientError
from katachi.graph import build as b
from katachi.graph.node import Aval, Node, toposort
from katachi.graph.primitives import make
from katachi.tensor.apply import apply
from katachi.tensor.entry import Entry, Op
from katachi.tensor.handle import LEAF, Handle
from katachi.tensor.retained import retained
from katachi.tensor.tape import CONSUMED, Link, Tape, Unfolded, tapes_of
from katachi.tensor.trace import Trace, current, note_grad, taking
from katachi.transforms import jvp as forward_mode
from katachi.transforms import vjp as reverse_mode
from katachi.transforms.recompute import Recompute


class Layout(NamedTuple):
    """Everything but values that a differentiation depends on; equal layouts build equal graphs."""

    roots: int
    seeds: tuple[bool, ...]
    tapes: tuple[Any, ...]  # (template, what is consumed of it, where its links stand) each
    sizes: tuple[tuple[int, ...], ...]  # of the graph of each tape
    stands: tuple[Any, ...]  # for what entered with a graph: its number, and where it stands
    leaves: tuple[int, ...]  # per occurrence, which leaf it is
    grads: tuple[bool, ...]  # per leaf, and then per retained value, whether it has a gradient to add to
    wanted: tuple[int, ...] = ()  # per wanted value, which leaf it is, or -1
    create_graph: bool = False
    retain_graph: bool = False
    dissolve: bool = False
    lasting: bool = False


class Found(NamedTuple):
    """Noted on the entry: which leaves or wanted values the results belong to, and what was used up of each tape."""

    reached: tuple[int, ...]
    consumed: tuple[frozenset[Node], ...]


def check_kind(leaf: Handle, then: Aval | Node) -> None:
    """Raises GradientError if a leaf has been given another dtype or device since it was used."""
    now = leaf._aval
    if then.dtype is not now.dtype or then.device != now.device:
        raise GradientError(
            f"backward: this was computed from {then.dtype.name}{list(then.shape)} on {then.device}, which has become "
            f"{now!r} on {now.device} since; compute it again after to()"
        )


def gradients(
    roots: Sequence[Handle],
    seeds: Sequence[Handle | None],
    wanted: Sequence[Handle],
    retain_graph: bool = False,
    create_graph: bool = False,
    dissolve: bool = False,
    nested: bool = False,
) -> tuple[list[Handle], list[Handle | None]]:
    """The roots, and the gradient of their sum with respect to each of `wanted`, None where there is no path.

    `dissolve`: the wanted values were made variable for this differentiation only; the results forget it. `nested`: an
    outer differentiation is under way, which may go through the results.
    """
    t = current()

    def pull_back() -> tuple[list[Handle], Found]:
        run = Run(t, roots, seeds, wanted, accumulate=False, nested=nested)
        results, found = run.apply(
            _GRADIENTS, create_graph=create_graph, retain_graph=retain_graph or create_graph, dissolve=dissolve
        )
        run.consume(found)
        return results, found

    results, found = taking(t, pull_back)
    by_place = dict(zip(found.reached, results[len(roots) :], strict=True))
    return results[: len(roots)], [by_place.get(i) for i in range(len(wanted))]


def jvp(outputs: Sequence[Handle], inputs: Sequence[Handle], tangents: Sequence[Handle], nested: bool) -> list[Handle]:
    """Outputs and then their tangents, for inputs that were made variable for this purpose."""
    t = current()

    def push_forward() -> list[Handle]:
        run = Run(t, outputs, list(tangents), inputs, accumulate=False, nested=nested)
        return run.apply(_JVP, retain_graph=True, dissolve=True)[0]

    return taking(t, push_forward)


def leaves_of(root: Handle) -> list[Handle]:
    """The leaves that a value depends on, whether its graph is consumed or not."""
    if root._origin is LEAF:
        return [root]
    t = current()
    found: list[Handle] = []
    stack = [root]
    seen: set[int] = set()
    if root._value is None and root._slot >= t.base:
        path = t.entry.path()
        reach = set(toposort([t.entry.slots()[root._slot - t.base]]))
        found = [h for n, h in zip([n for e in path for n in e.leaf_nodes], t.leaves, strict=True) if n in reach]
        stack = [h for h, n in zip(t.handles, [n for e in path for n in e.imports], strict=True) if n in reach]
    while stack:
        tape = stack.pop()._origin
        if isinstance(tape, Tape) and id(tape) not in seen:
            seen.add(id(tape))
            found += tape.leaves
            stack += tape.links
    return found


class Run:
    """One differentiation: its operands in the order in which the builders take them apart."""

    def __init__(
        self,
        t: Trace,
        roots: Sequence[Handle],
        seeds: Sequence[Handle | None],
        wanted: Sequence[Handle],
        accumulate: bool,
        nested: bool = False,
    ) -> None:
        self.trace = t
        self.roots, self.seeds, self.wanted = list(roots), list(seeds), list(wanted)
        self.nested = nested
        self.tapes = tapes_of(t, [*roots, *wanted])
        if accumulate:
            self.wanted = retained(t, self.tapes)
        occurrences = [*t.leaves, *[h for h in (*roots, *wanted) if h._origin is LEAF]]
        for tape in self.tapes:
            occurrences += [tape.leaves[i] for _, i in tape.template.leaves]
        number: dict[int, int] = {}
        self.leaves: list[Handle] = []
        self.occurrences = []
        for leaf in occurrences:
            i = number.setdefault(id(leaf), len(self.leaves))
            if i == len(self.leaves):
                self.leaves.append(leaf)
            self.occurrences.append(i)
        if accumulate and t.recording is not None:
            for leaf in self.leaves:
                note_grad(leaf)
        self.takers = self.leaves + self.wanted if accumulate and self.wanted else self.leaves  # of gradients
        self.old = [h._grad if accumulate else None for h in self.takers]
        self.number = number

    @classmethod
    def of_tape(
        cls,
        t: Trace,
        tape: Tape,
        given: Sequence[tuple[Handle, Handle | None]],
        leaves: Sequence[Handle],
        old: Sequence[Handle | None],
    ) -> Run:
        """The way back through one tape alone, from the cotangents of some of its values. `old`: what has reached its
        leaves, and then its links, from elsewhere."""
        run = object.__new__(cls)
        run.trace, run.wanted, run.nested, run.tapes = t, [], False, [tape]
        run.roots, run.seeds = [h for h, _ in given], [g for _, g in given]
        run.leaves, run.old = list(leaves), list(old)
        run.number = {id(leaf): i for i, leaf in enumerate(leaves)}
        run.occurrences = [run.number[id(tape.leaves[i])] for _, i in tape.template.leaves]
        return run

    def apply(self, op: Op, **how: bool) -> tuple[list[Handle], Found]:
        t, tapes = self.trace, self.tapes
        # may the results be differentiated again? A dissolved one only by what is variable anyway
        lasting = how.get("create_graph", False) or (how.get("dissolve", False) and bool(self.leaves or self.nested))
        place = {id(tape): i for i, tape in enumerate(tapes)}

        def stands(h: Handle) -> Any:
            return (place.get(id(h._origin), -1), h._node) if h._origin.__class__ is Tape else None

        entered = [*t.handles, *self.roots, *self.wanted]
        entered += [h for h in (*self.seeds, *self.old) if h is not None]
        layout = Layout(
            len(self.roots),
            tuple([s is not None for s in self.seeds]),
            tuple([(tape.template, tape.consumed, tuple(map(stands, tape.links))) for tape in tapes]),
            tuple([tape.sizes for tape in tapes]),
            tuple([(i, stands(h)) for i, h in enumerate(entered) if h._origin.__class__ is Tape]) if tapes else (),
            tuple(self.occurrences),
            tuple([g is not None for g in self.old]),
            tuple([self.number[id(h)] if h._origin is LEAF else -1 for h in self.wanted]),
            **how,
            lasting=lasting,
        )  # fmt: skip
        operands: list[Any] = [*self.roots, *[s for s in self.seeds if s is not None], *self.wanted]
        for tape in tapes:
            operands += tape.tracked() if lasting else tape.kept
        operands += [g for g in self.old if g is not None]
        t.context = self
        try:
            results = apply(op, operands, layout, many=True, trace=t)
        finally:
            t.context = None
        return results, t.last.extra

    def consume(self, found: Found) -> None:
        for tape, used in zip(self.tapes, found.consumed, strict=True):
            tape.consume(used)


class _Graph:
    """What the builders share: operands taken apart, tapes unfolded, nodes of leaves and wanted values found."""

    def __init__(self, t: Trace, e: Entry, fresh: Sequence[Handle], nodes: Sequence[Node], layout: Layout) -> None:
        self.t, self.e, self.fresh, self.layout = t, e, fresh, layout
        run: Run = t.context
        rest = iter(nodes)
        self.roots = [next(rest) for _ in range(layout.roots)]
        self.seeds = [next(rest) if given else None for given in layout.seeds]
        wanted = [next(rest) for _ in layout.wanted]
        values = [next(rest) for tape in run.tapes for _ in tape.kept]
        self.old = [next(rest) if given else None for given in layout.grads]
        self.unfolded = u = Unfolded(t, e, fresh, run.tapes, layout.sizes, values)
        self.tapes = run.tapes
        self.own = [n for p in t.entry.path() for n in p.leaf_nodes]
        at_leaf: list[list[Node]] = [[] for _ in run.leaves]
        for n, leaf in zip(
            [*self.own, *e.leaf_nodes], [*t.leaves, *[h for h in fresh if h._origin is LEAF]], strict=True
        ):
            if id(leaf) in run.number:
                at_leaf[run.number[id(leaf)]].append(n)
        for tape, copies in zip(run.tapes, u.leaf_nodes, strict=True):
            for (_, i), n in zip(tape.template.leaves, copies, strict=True):
                at_leaf[run.number[id(tape.leaves[i])]].append(n)
        for leaf, ns in zip(run.leaves, at_leaf, strict=True):
            for n in ns:
                check_kind(leaf, n)
        for ns in at_leaf:  # all that is a leaf's value flows together at its first node
            u.links.update({n: ns[0] for n in ns[1:] if n is not ns[0]})
        self.at_leaf = [ns[0] if ns else None for ns in at_leaf]
        self.wanted: list[Any] = [
            self.at_leaf[i] if i >= 0 else u.links.get(n, n) for n, i in zip(wanted, layout.wanted, strict=True)
        ]

    def pull_back(
        self, until: frozenset[Node] = frozenset(), before: Mapping[Node, Node] | None = None
    ) -> tuple[dict[Node, Node], Found]:
        """Cotangents of everything the roots depend on, added to `before`, and what asking for them used up."""
        u = self.unfolded
        seeds: dict[Node, Node] = dict(before or {})
        for root, given in zip(self.roots, self.seeds, strict=True):
            seed = self._seed(root, given)
            seeds[root] = seed if root not in seeds else b.add(seeds[root], seed)
        walking: list[Node] = []
        asking: set[Node] = set()
        recompute = Recompute(u.value)

        def value(n: Node) -> Node:
            asking.add(walking[-1])
            return recompute(n)

        ct = reverse_mode.backward(seeds, u.order(self.roots), value, u.links, walking.append, until)
        used = frozenset().union(*[p.consumed for p in self.t.entry.path()])
        again = asking & used or any(n in ct and n not in until for n in u.gone)
        by_tape: list[set[Node]] = [set() for _ in self.tapes]
        for n in asking:
            if n in u.tape_of:
                i, original = u.tape_of[n]
                by_tape[i].add(original)
        for tape, nodes in zip(self.tapes, by_tape, strict=True):
            again = again or any(nodes & part for part in tape.consumed)
        if again:
            raise GradientError(f"cannot differentiate a second time: {CONSUMED}")
        if self.layout.lasting:
            self._remember_computed()
        retain = self.layout.retain_graph
        if not retain:
            self.e.consumed = frozenset(n for n in asking if n not in u.tape_of)
        return ct, Found((), tuple(frozenset() if retain else frozenset(ns) for ns in by_tape))

    def _remember_computed(self) -> None:
        """Values computed again stand for their originals in later differentiations too."""
        u, run = self.unfolded, self.t.context
        handles = [*self.t.handles, *self.fresh]
        first = {id(h._origin): k for k, h in reversed(list(enumerate(handles)))}
        for node, i, original in u.computed:
            self.e.aliases += (Link(node, first[id(run.tapes[i])], original),)

    def _seed(self, root: Node, given: Node | None) -> Node:
        if not root.tracked:
            raise GradientError(
                "needs a variable, but this is a constant: nothing it was computed from is tracked "
                "(a parameter, kt.variable(...) or x.unfreeze() is; results under kt.no_grad() are not)"
            )
        if given is None:
            if root.shape != ():
                raise GradientError(
                    f"needs a scalar, got shape {root.shape}; reduce it, for example with .sum() or .mean(), "
                    "or pass the gradient to start from"
                )
            return b.like(root, 1.0)
        if given.shape != root.shape or given.dtype is not root.dtype:
            raise GradientError(
                f"the gradient to start from must be {root.dtype.name}{list(root.shape)}, "
                f"got {given.dtype.name}{list(given.shape)}"
            )
        return given

    def finish(self, outputs: list[Node]) -> list[Node]:
        if self.layout.dissolve:
            outputs = dissolve(outputs, {n for n in self.wanted if n is not None and n.primitive == "variable"})
        if not self.layout.lasting:
            outputs = [make("stop_gradient", n) if n.tracked else n for n in outputs]
        return outputs


def _build_backward(
    t: Trace, e: Entry, fresh: Sequence[Handle], nodes: Sequence[Node], *fields: Any
) -> tuple[Node, ...]:
    graph = _Graph(t, e, fresh, nodes, Layout(*fields))
    ct, found = graph.pull_back()
    reached, results = [], []
    for i, (at, old) in enumerate(zip(graph.at_leaf + graph.wanted, graph.old, strict=True)):
        g = ct.get(at) if at is not None else None
        if g is not None:
            (g,) = graph.finish([g])
            reached.append(i)
            results.append(g if old is None else b.add(old, g))
    e.extra = found._replace(reached=tuple(reached))
    return tuple(results)


def _build_piece(t: Trace, e: Entry, fresh: Sequence[Handle], nodes: Sequence[Node], *fields: Any) -> tuple[Node, ...]:
    """The way back through a part of the graph: what has reached its leaves and its ends before goes on there."""
    graph = _Graph(t, e, fresh, nodes, Layout(*fields))
    (tape,) = graph.tapes
    ends = [graph.unfolded.place[id(tape), link.node] for link in tape.template.links]
    places = [*graph.at_leaf, *ends]
    before = {at: g for at, g in zip(places, graph.old, strict=True) if at is not None and g is not None}
    ct, found = graph.pull_back(before=before)
    reached, results = [], []
    for i, at in enumerate(places):
        g = ct.get(at) if at is not None else None
        if at is not None and g is not None and g is not before.get(at):
            (g,) = graph.finish([g])
            reached.append(i)
            results.append(g)
    e.extra = found._replace(reached=tuple(reached))
    return tuple(results)


def piece(run: Run, retain_graph: bool) -> tuple[list[Handle], Found]:
    """What reaches the leaves and the links of a run's one tape."""
    return run.apply(_PIECE, retain_graph=retain_graph)


def _build_gradients(
    t: Trace, e: Entry, fresh: Sequence[Handle], nodes: Sequence[Node], *fields: Any
) -> tuple[Node, ...]:
    layout = Layout(*fields)
    graph = _Graph(t, e, fresh, nodes, layout)
    ct, found = graph.pull_back(until=frozenset(graph.wanted) if len(graph.wanted) == 1 else frozenset())
    totals = [ct.get(n) for n in graph.wanted]
    e.extra = found._replace(reached=tuple(i for i, g in enumerate(totals) if g is not None))
    present = [g for g in totals if g is not None]
    if layout.dissolve:
        return tuple(graph.finish([*graph.roots, *present]))
    return (*graph.roots, *graph.finish(present))


def _build_jvp(t: Trace, e: Entry, fresh: Sequence[Handle], nodes: Sequence[Node], *fields: Any) -> tuple[Node, ...]:
    layout = Layout(*fields)
    graph = _Graph(t, e, fresh, nodes, layout)
    u = graph.unfolded
    at = {n: s for n, s in zip(graph.wanted, graph.seeds, strict=True) if s is not None}
    tangents = forward_mode.forward(at, u.order(graph.roots), u.value, u.links)
    results = [tangents.get(r) or b.like(r, 0.0) for r in graph.roots]
    e.extra = Found((), tuple(frozenset() for _ in graph.tapes))
    return tuple(graph.finish([*graph.roots, *results]))


def dissolve(outputs: list[Node], marks: set[Node]) -> list[Node]:
    """The outputs with these `variable` marks gone, so that what was tracked only through them is constant again."""
    new: dict[Node, Node] = {}
    for n in toposort(outputs):
        inputs = tuple(new[x] for x in n.inputs)
        if n in marks:
            new[n] = inputs[0]
        elif inputs == n.inputs:
            new[n] = n
        else:
            new[n] = make(n.primitive, *inputs, **n.attrs)
            new[n].site = n.site
    return [new[n] for n in outputs]


def _sizes(layout: Layout, free: Any, shapes: Any) -> Layout:
    """The sizes of tapes may differ."""
    return layout._replace(sizes=free(layout.sizes))


BACKWARD = Op("backward", _build_backward, contextual=True, sizes=_sizes)
_PIECE = Op("backward", _build_piece, contextual=True, sizes=_sizes)
_GRADIENTS = Op("gradients", _build_gradients, contextual=True, sizes=_sizes)
_JVP = Op("jvp", _build_jvp, contextual=True, sizes=_sizes)

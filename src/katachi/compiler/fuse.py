"""Groups of nodes that become one kernel each.

First it is decided which values must stand in memory (*roots*): results, what a matmul or a reference step reads or
makes, reductions, and dear values with several readers. Everything else is recomputed inside whoever reads it. Then the
roots, in order, join the latest group that has their loops and none of whose successors they need; otherwise they open
one. Only the pattern of axes decides, and which of them have size one: never an extent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from katachi.graph.attention import FIRST_MASK
from katachi.graph.costs import DEAR, DRAWN, SLOW, WINDOW, costing
from katachi.graph.node import Node
from katachi.graph.symint import always_equal
from katachi.kernels import attention, convolution, in_order, matmul, unpool
from katachi.kernels.lower import INDEX, Indices, ones_apart
from katachi.kernels.matmul import base
from katachi.kernels.nest import REDUCING, depths, reduced, without_ones

WINDOWED = costing(WINDOW)
_DEAR = costing(DEAR, DRAWN, WINDOW)
_SLOW = costing(SLOW, DEAR, DRAWN, WINDOW)  # not to be repeated for each element of an axis
_MANY = 12  # nodes: a longer cheap chain with several readers is stored
_MOST_NODES, _MOST_BUFFERS = 120, 24  # of a group, so that a kernel compiles quickly


@dataclass(frozen=True)
class Group:
    """Nodes that are computed together."""

    kind: str  # "loops", "in order", "matmul", "convolution", "attention", "sort" or "reference"
    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]  # values in memory that it reads
    outputs: tuple[Node, ...]  # values in memory that it writes
    away: frozenset[Node] = frozenset()  # inputs that it reads elsewhere than at the element it computes
    local: frozenset[Node] = frozenset()  # outputs that only a later stage of its own reads: a row a thread is enough


class _Open:
    """A group while it grows. A reduction's operand has shape `full`; `kept` are the axes that remain."""

    def __init__(self, kind: str, full: tuple[int, ...], gone: tuple[int, ...] = ()) -> None:
        self.kind, self.full, self.gone = kind, full, gone
        self.roots: list[Node] = []
        self.nodes: set[Node] = set()
        self.reads: set[Node] = set()
        self.away: set[Node] = set()

    @property
    def kept_shape(self) -> tuple[int, ...]:
        return tuple(n for i, n in enumerate(self.full) if i not in self.gone)


Labels = tuple[
    int | None, ...
]  # for each axis of a value the loop along it, -1 where it is changed, None if of size one


def _labels(node: Node, operand: int, at: Labels) -> Labels:
    """The labels at which `node`, itself at `at`, reads its operand."""
    x = node.inputs[operand]
    kind, unknown = node.primitive, tuple(None if n == 1 else -1 for n in x.shape)
    if kind in ("broadcast_in_dim", "transpose", "slice", "reverse", "reshape"):
        places: Indices = tuple((0, ()) if a is None else (0, ((i, 1),)) for i, a in enumerate(at))
        index = INDEX[kind](node, places)
        if index is None:
            return unknown
        return tuple(
            None if n == 1 else at[terms[0][0]] if start == 0 and len(terms) == 1 and terms[0][1] == 1 else -1
            for n, (start, terms) in zip(x.shape, index, strict=True)
        )
    if kind in ("pad", "concatenate", "gather", "scatter", "rng_bits", "dynamic_slice", *WINDOWED):
        return unknown
    return unknown if kind == "dynamic_update_slice" and operand > 0 else at


def _flat_reshape(node: Node) -> bool:
    """Whether a reshape mixes axes, so that its operand must lie in memory."""
    return node.primitive == "reshape" and ones_apart(node.inputs[0].shape, node.shape) is None


def _expands(node: Node) -> bool:
    """Whether a broadcast repeats a value that itself has several elements."""
    if node.primitive != "broadcast_in_dim":
        return False
    return bool(without_ones(node.inputs[0].shape)) and len(without_ones(node.shape)) > len(
        without_ones(node.inputs[0].shape)
    )


def fuse(nodes: list[Node], outputs: Sequence[Node], lowerable: Callable[[Node], bool]) -> list[Group]:
    """Groups in an executable order. `nodes` is topological and has no dead code; `lowerable` denies what runs on the
    reference device."""
    roots, single = _roots(nodes, outputs, lowerable)
    groups: list[_Open] = []
    group_of: dict[Node, int] = {}
    families: dict[object, int] = {}  # the group of each family of attention
    for node in nodes:
        if node not in roots:
            continue
        closure, reads = _closure(node, roots)
        after = max((group_of[r] for r, _ in reads if r in group_of), default=-1)
        spot = None if node in single else _join(groups, group_of, node, closure, reads, after)
        if single.get(node) == "attention":
            spot = families.get(attention.family(node))
            if spot is None or spot <= after or attention.result(node) in map(attention.result, groups[spot].roots):
                spot, families[attention.family(node)] = None, len(groups)
        if spot is None:
            kind = single.get(node, "loops")
            is_reduction = node.primitive in REDUCING and kind == "loops"
            groups.append(_Open(kind, node.inputs[0].shape, reduced(node)) if is_reduction else _Open(kind, node.shape))
            spot = len(groups) - 1
        group = groups[spot]
        group.roots.append(node)
        group.nodes |= closure
        here = () if node.primitive in REDUCING else tuple(range(len(without_ones(node.shape))))
        for r, at in reads:
            # in stages, a second reader may come after the first one's result is written
            same = always_equal(without_ones(r.shape), without_ones(node.shape))
            if at != here or not same or (r in group.reads and group.gone):
                group.away.add(r)
        group.reads.update(r for r, _ in reads)
        group_of[node] = spot
    return _close(nodes, outputs, groups, group_of)


def _seen_through(nodes: list[Node], outputs: Sequence[Node]) -> set[Node]:
    """What nobody reads but convolutions of the template, and what these see through: they divide up merged axes."""
    through: set[Node] = set()
    others = set(outputs)
    for node in reversed(nodes):
        template = node.primitive == "convolution" and convolution.suits(node)
        if template or (node in through and node not in others and node.primitive in INDEX):
            through.update(node.inputs)
        else:
            others.update(node.inputs)
    return through - others


def _roots(
    nodes: list[Node], outputs: Sequence[Node], lowerable: Callable[[Node], bool]
) -> tuple[set[Node], dict[Node, str]]:
    """The roots, and the kinds of those that are groups of their own."""
    readers: dict[Node, int] = {}
    single: dict[Node, str] = {}
    roots = {n for n in outputs if n.primitive != "input"}
    chosen: set[Node] = set()  # roots that could as well be computed again
    for node in nodes:
        for x in node.inputs:
            readers[x] = readers.get(x, 0) + 1
    through = _seen_through(nodes, outputs)
    width: dict[Node, int] = {}  # how many values in memory an expression reads, roughly

    def narrow(node: Node) -> None:
        """The widest operands of what would read too many values are values in memory themselves."""
        wide = sorted({x for x in node.inputs if x not in roots and x in width}, key=width.__getitem__)
        width[node] = sum([width.get(x, 1) for x in set(node.inputs)])
        while wide and width[node] > _MOST_BUFFERS and width[wide[-1]] > 1:
            x = wide.pop()
            roots.add(x)
            width[node] -= width[x] - 1
            width[x] = 1

    size: dict[Node, int] = {}  # of the expression that a reader would repeat
    dear: set[Node] = set()  # expressions that are slow to repeat; numbers are not: they are computed before all loops
    slow: set[Node] = set()
    for node in nodes:
        kind = node.primitive
        if kind == "input" or (kind == "constant" and lowerable(node)):
            size[node] = 0
            continue
        demanded: list[Node] = []
        if not lowerable(node):
            single[node] = "reference"
            demanded = list(node.inputs)
        elif kind == "dot_general":
            single[node] = "matmul"
            demanded = [base(x) for x in node.inputs]
        elif kind == "convolution" and convolution.suits(node):
            single[node] = "convolution"
            demanded = list(convolution.bases(node))
        elif kind in FIRST_MASK:
            single[node] = "attention"
            demanded = list(attention.bases(node))
        elif kind == "sort":
            single[node] = "sort"
            demanded = list(node.inputs)
        elif in_order.suits(node):
            single[node] = "in order"
        elif kind == "reduce_window_gradient" and unpool.suits(node):
            single[node] = "unpool"
            demanded = list(node.inputs)
        elif kind in WINDOWED:
            demanded = [x for x in map(base, node.inputs) if x.primitive != "constant"]
        elif (
            _flat_reshape(node) and node not in through and node.inputs[0].primitive not in ("input", "constant")
        ) or (_expands(node) and node.inputs[0] in slow):
            demanded = [node.inputs[0]]
        demanded = [x for x in demanded if x.primitive != "input"]
        roots.update(demanded)
        chosen.difference_update(demanded)
        if node not in single:
            narrow(node)
        # what has fewer axes is computed once for many elements
        size[node] = 1 + sum(size[x] for x in node.inputs if x not in roots and not _expands(node))
        if without_ones(node.shape) and (kind in _DEAR or any(x in dear and x not in roots for x in node.inputs)):
            dear.add(node)
        if without_ones(node.shape) and (kind in _SLOW or any(x in slow and x not in roots for x in node.inputs)):
            slow.add(node)
        if node in single or kind in REDUCING or size[node] > _MOST_NODES:
            roots.add(node)
        elif readers.get(node, 0) > 1 and (node in dear or size[node] > _MANY) and node not in roots:
            chosen.add(node)
            roots.add(node)
        if node in roots:
            size[node], width[node] = 0, 1
    return roots - _computed_again(nodes, roots, chosen), single


def _computed_again(nodes: list[Node], roots: set[Node], chosen: set[Node]) -> set[Node]:
    """Those of `chosen` that all who read them can compute from what they read anyway: that costs some arithmetic and
    saves writing the value, reading it, and its memory, which a backward pass would hold for long."""
    reads: dict[Node, set[Node]] = {}
    for n in nodes:
        reads[n] = set()
        for x in n.inputs:
            reads[n] |= {x} if x in roots or x.primitive == "input" else reads[x]
    reads = {r: reads[r] for r in roots}
    readers: dict[Node, list[Node]] = {}
    for r, xs in reads.items():
        for x in xs:
            readers.setdefault(x, []).append(r)
    again: set[Node] = set()
    size: dict[Node, int] = {}  # of what is computed for a node
    for x in nodes:
        size[x] = 1 + sum([size[y] for y in x.inputs if y not in roots or y in again])
        if (
            x in chosen
            and size[x] <= _MOST_NODES // 2  # a chain of such values would be computed from its start for each of them
            and all(reads[x] <= reads[r] for r in readers.get(x, ()))
        ):
            again.add(x)
            for r in readers.get(x, ()):
                reads[r].discard(x)
    return again


def _closure(root: Node, roots: set[Node]) -> tuple[set[Node], set[tuple[Node, Labels]]]:
    """The nodes computed for a root, and the values in memory that they read with the labels they read them at.

    Labels number the axes, those of size one left out, of the root, or of the operand of a reduction.
    """
    reads: set[tuple[Node, Labels]] = set()
    seen: set[tuple[Node, Labels]] = set()
    stack: list[tuple[Node, Labels]] = []

    def operands(node: Node, at: Labels) -> None:
        for i in range(len(node.inputs)):
            stack.append((node.inputs[i], _labels(node, i, at)))

    shape = root.inputs[0].shape if root.primitive in REDUCING else root.shape
    numbers = iter(range(len(shape)))
    start: Labels = tuple(None if n == 1 else next(numbers) for n in shape)
    if root.primitive in REDUCING:
        stack.append((root.inputs[0], start))
    elif root.primitive in ("dot_general", "convolution"):
        # a product reads what its operands are views of, even where such a view is in memory as well
        product = root.primitive == "dot_general"
        if not (matmul.suits(root) if product else convolution.suits(root)):
            operands_read: Iterable[Node] = root.inputs  # of a reference step, or of loops
        else:
            operands_read = map(base, root.inputs) if product else convolution.bases(root)
        stack.extend((x, tuple(-1 for _ in x.shape)) for x in operands_read)
    else:
        operands(root, start)
    nodes = {root}
    if root.primitive in FIRST_MASK:
        return nodes, {(x, (-1,) * len(without_ones(x.shape))) for x in attention.bases(root)}
    while stack:
        node, at = stack.pop()
        if (node, at) in seen:
            continue
        seen.add((node, at))
        if node in roots or node.primitive == "input":
            reads.add((node, tuple(a for a in at if a is not None)))
        else:
            nodes.add(node)
            operands(node, at)
    return nodes, reads


def _join(
    groups: list[_Open],
    group_of: dict[Node, int],
    node: Node,
    closure: set[Node],
    reads: set[tuple[Node, Labels]],
    after: int,
) -> int | None:
    """The latest group that can take a root: nothing it reads is computed later, and what the group computes it
    reads at the group's own loops."""
    wanted = {r for r, _ in reads}
    for i in range(len(groups) - 1, max(after, 0) - 1, -1):
        g = groups[i]
        if g.kind != "loops" or not (i == after or wanted & g.reads):
            continue
        if len(g.nodes | closure) > _MOST_NODES or len(g.reads | wanted | set(g.roots)) > _MOST_BUFFERS:
            continue
        inside = [(r, at) for r, at in reads if group_of.get(r) == i]
        if _fits(g, node, inside):
            return i
    return None


def _fits(g: _Open, node: Node, inside: list[tuple[Node, Labels]]) -> bool:
    full, kept = without_ones(g.full), without_ones(g.kept_shape)
    kept_labels = []
    place = 0
    for i, n in enumerate(g.full):
        if n != 1:
            if i not in g.gone:
                kept_labels.append(place)
            place += 1

    def at_home(in_full: bool) -> bool:
        """Whether everything from this group is read where the loops stand."""
        for r, at in inside:
            reduced_value = r.primitive in REDUCING or (
                g.gone and always_equal(without_ones(r.shape), kept) and not always_equal(kept, full)
            )
            mine = list(range(len(kept))) if not in_full else kept_labels
            if list(at) != (mine if reduced_value else list(range(len(full)))):
                return False
            if not reduced_value and g.gone and not in_full:
                return False
        return True

    if node.primitive in REDUCING:
        if not g.gone:  # a group of plain loops becomes the stage before a reduction of its shape
            return (
                always_equal(node.inputs[0].shape, g.full)
                and bool(without_ones(tuple(n for i, n in enumerate(g.full) if i not in reduced(node))))
                and any(r in g.roots for r, _ in inside)
                and at_home(True)
                and _turn(g, reduced(node))
            )
        return always_equal(node.inputs[0].shape, g.full) and reduced(node) == g.gone and at_home(True)
    shape = without_ones(node.shape)
    if not g.gone:
        return always_equal(shape, full) and at_home(True)
    if always_equal(shape, kept):
        return at_home(False)
    # the whole shape again, row by row, after its rows were reduced: only where there are rows to share out
    return always_equal(shape, full) and bool(kept) and bool(inside) and at_home(True)


def _turn(g: _Open, gone: tuple[int, ...]) -> bool:
    g.gone = gone
    return True


def _close(nodes: list[Node], outputs: Sequence[Node], groups: list[_Open], group_of: dict[Node, int]) -> list[Group]:
    """Groups with what they write: results, what other groups read, and what a later stage reads back."""
    order = {n: i for i, n in enumerate(nodes)}
    needed = set(outputs)
    again: set[Node] = set()
    for i, g in enumerate(groups):
        needed.update(r for r in g.reads if group_of.get(r) != i)
        if g.gone:
            again |= _read_back(g, sorted(g.nodes, key=order.__getitem__))
    closed = []
    for i, g in enumerate(groups):
        own = [r for r in g.roots if r in needed or r in again]
        if not own:  # a logsumexp that no gradient asks for
            continue
        inputs = tuple(sorted((r for r in g.reads if group_of.get(r) != i), key=order.__getitem__))
        if g.kind == "reference":
            inputs = tuple(dict.fromkeys(g.roots[0].inputs))
        members = tuple(sorted(g.nodes, key=order.__getitem__))
        members = members if g.kind != "reference" else (g.roots[0],)
        local = {r for r in own if r not in needed and _rows_last(g)}
        closed.append(Group(g.kind, members, inputs, tuple(own), frozenset(g.away), frozenset(local)))
    return closed


def _rows_last(g: _Open) -> bool:
    """Whether a group reduces its last axes, so that what it holds of an element of its loops is a row."""
    big = [i for i, n in enumerate(g.full) if n != 1]
    return big[-len([i for i in big if i in g.gone]) :] == [i for i in big if i in g.gone]


def _read_back(g: _Open, nodes: list[Node]) -> set[Node]:
    """What a later stage needs of an earlier one and no register holds: it goes through memory."""
    depth, full, found = depths(nodes), without_ones(g.full), set()
    stages: dict[Node, set[int]] = {root: {depth[root]} for root in g.roots}  # in which each node is evaluated
    for node in reversed(nodes):
        for x in node.inputs:
            if x not in depth:
                continue
            if x not in g.roots:
                stages.setdefault(x, set()).update(stages[node])
            elif (
                x.primitive not in REDUCING
                and always_equal(without_ones(x.shape), full)
                and max(stages[node]) > depth[x]
            ):
                found.add(x)
    return found

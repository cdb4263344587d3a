"""backward(): the gradients of a value, left in the `.grad` of leaves. All at once; or, where many tapes are on the
way, one after another, so that equal ones are runs of one program.

An episode's log-probabilities were computed one by one, as its actions were drawn, so each has left a tape:

    tapes    step 0, step 1, ..., step 285, the loss
    pieces   the loss gives each log-probability its cotangent; steps 285 to 0 add to the gradients, eight in a program

As one program that would be planned anew for every length of an episode, and take time with that length.
"""

from __future__ import annotations

from katachi.errors import GradientError
from katachi.graph import build as b
from katachi.graph.halves import HALVES
from katachi.graph.node import Node
from katachi.tensor.apply import apply
from katachi.tensor.deferred import forget_failed
from katachi.tensor.differentiate import BACKWARD, Found, Run, check_kind, piece
from katachi.tensor.entry import Op
from katachi.tensor.handle import Handle
from katachi.tensor.recording import Changes
from katachi.tensor.tape import Tape, tapes_of
from katachi.tensor.trace import SPAN, Trace, current, flush, taking

MANY = 8  # tapes: fewer are one program
AT_ONCE = 8  # equal tapes that are a program
SUM = Op("backward", b.add)
Waiting = dict[Node, tuple[Handle, Handle | None]]  # of a tape: values of its, each with its cotangent (None: ones)


def backward(root: Handle, seed: Handle | None, retain_graph: bool | None, create_graph: bool) -> None:
    """Add the gradients of `root` to `.grad` of every leaf it depends on, and of what `retain_grad()` asked for."""
    t = current()
    if t.examples:
        raise GradientError("backward: inside vmap each example has a gradient of its own; kt.grad gives them")
    if tracing := t.modes.tracing:
        raise GradientError(
            f"backward: inside a function that {tracing} traces once, there is nowhere to add a gradient to; kt.grad "
            "gives it as a value, to be returned from the function"
        )
    if root._value is None and root._origin is None and not 0 <= root._slot - t.base < SPAN:
        raise GradientError(
            f"backward: this {root._aval!r} is pending in another thread; call backward() there, or compute it there "
            "before, as kt.eval(loss) does"
        )
    taking(t, _backward, t, root, seed, create_graph if retain_graph is None else retain_graph, create_graph)


def _backward(t: Trace, root: Handle, seed: Handle | None, retain: bool, create_graph: bool) -> None:
    if t.failed_leaves:
        forget_failed(t)
    run = Run(t, [root], [seed], [], accumulate=True)
    if not create_graph and _by_tapes(t, run):
        flush(t)
        if isinstance(root._origin, Tape):
            _through_tapes(t, root, seed, retain)
            return
        run = Run(t, [root], [seed], [], accumulate=True)
    takers = run.takers
    before = [h._grad for h in takers]
    try:
        results, found = run.apply(BACKWARD, create_graph=create_graph, retain_graph=retain)
        if Changes.count:  # the entry may be one that was recorded when all was where it is now
            for g, i in zip(results, found.reached, strict=True):
                check_kind(takers[i], g._aval)
        t.graded += takers
        for g, i in zip(results, found.reached, strict=True):
            takers[i]._grad = g
        run.consume(found)
    except BaseException:
        for h, g in zip(takers, before, strict=True):
            h._grad = g
        raise


def _by_tapes(t: Trace, run: Run) -> bool:
    """Whether a backward pass goes tape by tape. Halves are added up in float32, so all at once."""
    return (
        len(run.tapes) > MANY
        and not (run.wanted or t.nesting or t.unfinished or t.examples or t.modes.tracing or t.nested)
        and t.recording is None
        and not any(leaf._aval.dtype in HALVES for leaf in run.leaves)
        and not any(link.target for tape in run.tapes for link in tape.template.links)
    )


def _through_tapes(t: Trace, root: Handle, seed: Handle | None, retain: bool) -> None:
    """With nothing pending, and the value that it starts from on a tape."""
    tapes = tapes_of(t, [root])
    assert isinstance(root._origin, Tape)
    sums: dict[Handle, Handle] = {}  # of each leaf so far
    waiting: dict[int, Waiting] = {id(root._origin): {root._node: (root, seed)}}  # by tape
    used: list[tuple[Tape, frozenset[Node]]] = []
    left = tapes[::-1]
    while left:
        alike = 1
        while alike < min(len(left), AT_ONCE) and left[alike].template is left[0].template:
            alike += 1
        some = AT_ONCE if alike == AT_ONCE else 1
        for tape in left[:some]:
            given = waiting.pop(id(tape), None)
            if given:
                used.append((tape, _through(t, tape, given, sums, waiting, retain).consumed[0]))
        del left[:some]
        flush(t)
    grads = [(leaf, g if leaf._grad is None else apply(SUM, (leaf._grad, g), trace=t)) for leaf, g in sums.items()]
    for leaf, g in grads:
        check_kind(leaf, g._aval)
    before = [leaf._grad for leaf in sums]
    try:
        for leaf, g in grads:
            leaf._grad = g
        t.graded += sums
        for tape, nodes in used:
            tape.consume(nodes)
    except BaseException:
        for leaf, g in zip(sums, before, strict=True):
            leaf._grad = g
        raise


def _through(
    t: Trace, tape: Tape, given: Waiting, sums: dict[Handle, Handle], waiting: dict[int, Waiting], retain: bool
) -> Found:
    """One tape: what flows to leaves is added to `sums`, what flows to older tapes to `waiting`."""
    leaves = list(dict.fromkeys([tape.leaves[i] for _, i in tape.template.leaves]))
    older: list[tuple[Waiting, Handle]] = []
    old = [sums.get(leaf) for leaf in leaves]
    taken: set[tuple[int, Node]] = set()  # places that a link has been given what is there
    for h in tape.links:
        place: Waiting = waiting.setdefault(id(h._origin), {}) if isinstance(h._origin, Tape) else {}
        at = (id(place), h._node)
        old.append(place[h._node][1] if isinstance(h._origin, Tape) and h._node in place and at not in taken else None)
        taken.add(at)
        older.append((place, h))
    results, found = piece(Run.of_tape(t, tape, list(given.values()), leaves, old), retain)
    for g, i in zip(results, found.reached, strict=True):
        if i < len(leaves):
            sums[leaves[i]] = g
            continue
        place, h = older[i - len(leaves)]
        before = place[h._node][1] if old[i] is None and h._node in place else None
        place[h._node] = (h, g if before is None else apply(SUM, (before, g), trace=t))  # of two links to one value
    return found

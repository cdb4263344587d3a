"""One recording of a compiled function as a program: what must hold for a call, where its inputs come from, and what
becomes of its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from katachi.errors import Error
from katachi.graph.concrete import concrete_aval
from katachi.graph.node import Aval
from katachi.tensor import events, trees
from katachi.tensor.guards import Read
from katachi.tensor.handle import Cell, Handle, handle
from katachi.tensor.recording import Changes
from katachi.tensor.running import Run, locked, runs
from katachi.tensor.tape import Finish, resized
from katachi.tensor.tensor import Tensor
from katachi.tensor.trace import SPAN, Trace, arrive, enter, held_elsewhere, settle


class Variant:
    """One recording as a program."""

    def __init__(
        self,
        t: Trace,
        result: Any,
        everything: list[Any],
        reads: list[Read],
        still: Callable[[], list[Any] | None],
        left: list[tuple[Read, Any]],
        refused: str = "",
    ) -> None:
        """`refused`: why its program may not be built. Raises Error then, if it was not there for other sizes."""
        rec = t.recording
        assert rec is not None
        self.why = ""  # it was traced
        self.changes, self.reads, self.still = Changes.count, reads, still
        self.avals: list[Aval] = [x._aval for x in everything]
        self.alias = _alias(everything)
        self.sources = [(place, source) for place, source, _ in rec.sources]
        self.scalars = list(t.scalars)
        self.numbers, self.conditions = rec.numbers, rec.conditions
        # where each import is found: an argument, a gradient, or always the same tensor or cell
        number = {id(x): i for i, x in reversed(list(enumerate(everything)))}
        grad_of = {id(g): h for h, g in rec.grads.items() if g is not None}
        self.from_arguments = [(k, number[id(h)]) for k, h in enumerate(t.handles) if id(h) in number]
        self.from_grads = [(k, grad_of[id(h)]) for k, h in enumerate(t.handles) if id(h) in grad_of]
        self.handles: list[Any] = [None if id(h) in number or id(h) in grad_of else h for h in t.handles]
        self.held = [h._aval for h in t.handles]
        self.grads = [(h, None if g is None else g._aval) for h, g in rec.grads.items()]
        # what comes of it: results, gradients and other tensors left, cells written
        returned: list[Any] = []
        self.structure = trees.flatten(result, returned)
        live: dict[int, int] = {}  # slot: which of the outputs
        self.returns = [self._destination(t, h, number, live) for h in returned]
        self.leaves_grads = [
            (h, None if h._grad is None else self._destination(t, h._grad, number, live))
            for h, before in rec.grads.items()
            if h._grad is not before
        ]
        self.left = [(r, self._destination(t, h, number, live)) for r, h in left]
        self.kept_grads = [  # of results that are to have them
            (at, self._destination(t, h._grad, number, live))
            for at, h in zip(self.returns, returned, strict=True)
            if at.__class__ is int and h._grad is not None
        ]
        self.cells: list[Cell] = list(t.written)
        written = tuple(s - t.base for s in t.written.values())
        found = resized(t.entry, (tuple(live), written))
        if found is None and refused:
            raise Error(refused)
        self.built = found is None
        key = (tuple(live), written)
        self.finish = found or resized(t.entry, key, build=True) or locked(Finish, t, *key)
        self.kinds = [concrete_aval(n.aval, self.finish.sizes) for n in self.finish.nodes]
        self.leaves = list(t.leaves)

    def _destination(self, t: Trace, h: Handle, number: dict[int, int], live: dict[int, int]) -> Any:
        """An output's number; or the argument, or the tensor, that is simply passed on."""
        if pending(t, h):
            return live.setdefault(h._slot - t.base, len(live))
        return ("argument", number[id(h)]) if id(h) in number else ("same", h)

    def fits(self, leaves: list[Any]) -> list[Any] | None:
        """The arguments and the tensors that names now stand for, if the recording is true for them."""
        for x, kind in zip(leaves, self.avals):  # noqa: B905 - what the names stand for comes after them
            if x._aval is not kind:
                return None
        operands = self.still()
        if operands is None:
            return None
        everything = [*leaves, *operands] if operands else leaves
        for x, kind in zip(everything, self.avals):  # noqa: B905 - a structure has one number of leaves
            if x.__class__ is not Tensor or x._aval is not kind or x._origin is not None:
                return None
            if x._value is None:
                settle(x)
        for h, kind in self.grads:
            g = h._grad
            if g is not kind and (g is None or kind is None or g._aval is not kind or g._origin is not None):
                return None
        if self.changes != Changes.count:
            if any(h is not None and h._aval is not kind for h, kind in zip(self.handles, self.held, strict=True)):
                return None  # it was moved to another device
            self.changes = Changes.count
        if self.alias != _alias(everything):
            return None
        for _, source in self.sources:
            if not source.fits():
                return None
        return everything

    def passed(self, given: Sequence[Any]) -> list[tuple[int, Any]] | None:
        """A call's numbers, and what is computed of them, with their places among the scalars; None if the recording is
        not true for them."""
        try:
            if any(c.compute(given) is not c.outcome for c in self.conditions):
                return None
            found = [(n.place, n.compute(given)) for n in self.numbers]
        except ArithmeticError:
            return None
        for (_, x), n in zip(found, self.numbers, strict=True):
            if type(x) is not n.kind or n.least > x or n.most < x:
                return None
        return found

    def run(
        self,
        t: Trace,
        everything: list[Any],
        first: Trace | None,
        why: str = "",
        passed: Sequence[tuple[int, Any]] = (),
    ) -> Any:
        """One call, which takes trace t. `first` is the trace that this was recorded on, which has taken its host
        numbers."""
        out = [handle(Tensor, kind) for kind in self.kinds]
        scalars = self.scalars.copy()
        sources = self.sources if first is None else ()
        begun: list[tuple[Any, Any]] = []
        ahead: dict[int, int] = {}

        def find(at: Any) -> Any:
            if at.__class__ is int:
                return out[at]
            kind, what = at
            return everything[what] if kind == "argument" else what

        def end() -> None:
            for h, at in self.leaves_grads:
                h._grad = None if at is None else find(at)
            for read, at in self.left:
                read.write(find(at))
            for _, source in sources:
                source.settle(ahead)
            t.committed = True

        taken = t.taken
        try:
            t.taken, t.committed = True, False
            for at, source in sources:
                begun.append((source, source.now()))
                numbers = source.take(ahead)
                scalars[at : at + len(numbers)] = numbers
            for at, x in passed:
                scalars[at] = x
            program = locked(self._compute, t, everything, out, scalars, first, end)
            t.taken = taken
        except BaseException:
            if not t.committed:
                for source, before in reversed(begun):
                    source.undo(before)
            t.taken = taken
            raise
        if events.observers:
            built = first is not None and self.built
            resized_now = first is not None and not self.built
            events.tell(events.Flush(program, built, len(self.finish.nodes), why, resized=resized_now))
        for at, g in self.kept_grads:
            out[at]._grad = find(g)
        if self.structure is trees.LEAF:
            return find(self.returns[0])
        return trees.rebuild(self.structure, map(find, self.returns))

    def _compute(
        self, t: Trace, everything: list[Any], out: list[Any], scalars: list[Any], first: Trace | None, end: Any
    ) -> Any:
        """Run the program, with the lock held, so that all state it reads is of one moment; returns the program."""
        handles = self.handles.copy()
        for k, i in self.from_arguments:
            handles[k] = everything[i]
        for k, h in self.from_grads:
            handles[k] = h._grad if first is None else first.handles[k]
        values = [h._value for h in handles]
        if None in values or runs:
            values = enter([arrive(h) for h in handles])
        finish = self.finish
        run = Run(finish.program, out, finish.nodes, self.cells, end)
        held = held_elsewhere(t) if self.cells else None
        made: Any = first or _Made(handles, values, scalars, self.leaves)
        run(values, scalars, held, (lambda results: finish.tape(made, results)) if finish.tracked else None)
        return run.program


class _Made(NamedTuple):
    """What a tape wants to know of the trace whose values it keeps."""

    handles: list[Any]
    values: list[Any]
    scalars: list[Any]
    leaves: list[Any]


def pending(t: Trace, h: Handle) -> bool:
    """Whether h was made in this trace, and has no value yet."""
    return h._value is None and t.base <= h._slot < t.base + SPAN


def _alias(everything: list[Any]) -> tuple[int, ...] | None:
    """Which tensors are one and the same; None if all differ."""
    if len(set(everything)) == len(everything):  # tensors are compared by identity here: their hashes are ids
        return None
    first: dict[int, int] = {}
    return tuple(first.setdefault(id(x), i) for i, x in enumerate(everything))

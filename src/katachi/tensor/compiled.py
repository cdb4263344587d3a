"""kt.compile: a function traced once for each kind of call, afterwards one launch.

The first call of a kind runs the function on a trace of its own. What it did besides computing is noted on a
`Recording`: which gradients it read and left, which optimisers stepped, which random numbers were drawn. From that
comes a `Variant`: the program, where its inputs are found at each call, which host numbers are to be had anew, and what
must still hold for the recording to be true (`tensor/guards.py`).
"""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

from katachi.errors import Error, GradientError
from katachi.graph.node import Aval
from katachi.tensor import events, trees
from katachi.tensor.guards import Guards, Read, is_value
from katachi.tensor.handle import Cell, Handle, handle
from katachi.tensor.recording import Changes, Recording
from katachi.tensor.running import Run, locked, runs
from katachi.tensor.tape import Finish
from katachi.tensor.tensor import Tensor
from katachi.tensor.trace import (
    SPAN,
    Trace,
    arrive,
    current,
    enter,
    flush,
    held_elsewhere,
    let_be_computed,
    local,
    settle,
    use_state,
)

P = ParamSpec("P")
R = TypeVar("R")
MOST_VARIANTS = 64  # kept of one function, the latest
MANY_VARIANTS = 16  # of one kind of call: worth a warning


def compile(f: Callable[P, R]) -> Callable[P, R]:
    """f as compiled programs: one a kind of call, with no tracing afterwards. All of f becomes one program, backward
    passes and optimiser steps included, and its results are computed when it returns.

    Traced anew: for other shapes, dtypes, devices or modes of its tensors, other values of its other arguments, and
    when anything that it reads elsewhere has changed: globals, closures and defaults, elements of containers and
    arrays, fields of objects, classes and modules, the functions that it calls. Tensors in such places are read at
    every call, as are learning rates, step counts and random draws; tensors that it assigns there are assigned at every
    call.

    Raises Error for looking at a value inside (`item`, `print`, `if x > 0`); for reading what may change unseen (an
    iterator, a random generator, an array of more than 64 KiB, containers of more than 10,000 elements); and when it
    changes anything but tensors that it may read, a counter for instance, in two calls one after the other. Other
    effects of Python code inside happen only when it is traced. Installed packages and the standard library are taken
    to stay as they are; clocks, files and the state of the modules `random` and `numpy.random` are read only then.

    >>> import katachi as kt
    >>> square = kt.compile(lambda x: x * x); square(kt.tensor(3.0)).item()
    9.0
    """
    return functools.update_wrapper(Compiled(f), f, updated=())  # type: ignore[return-value]


class Compiled:
    """A function with the variants it was traced to."""

    def __init__(self, f: Callable[..., Any]) -> None:
        if not callable(f):
            raise TypeError(f"compile: needs a function, got {type(f).__name__}")
        self.f = f
        self.name = getattr(f, "__qualname__", type(f).__name__)
        self.restless: set[Any] = set()  # kinds of calls whose last one changed what the function reads
        self.variants: dict[Any, list[Variant]] = {}

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        t = local.trace
        if t.taken:
            t = current()
        if t.recording is not None or t.nesting or t.examples or t.modes.eager or t.modes.tracing:
            return self.f(*args, **kwargs)  # part of what is being traced, differentiated or looked into
        flush(t)
        if not t.uses_state:
            locked(use_state, t)
        leaves: list[Any] = []
        key = (trees.flatten(args, leaves), trees.flatten(kwargs, leaves) if kwargs else None, t.modes)
        for variant in self.variants.get(key, ()):
            everything = variant.fits(leaves)
            if everything is not None:
                return variant.run(t, everything, None)
        return self._trace(t, key, leaves)

    def _trace(self, outer: Trace, key: Any, leaves: list[Any]) -> Any:
        from katachi.tensor.search import find  # only who compiles needs it

        why = self._why(key)
        guards = find([(self.name, self.f), *_arguments(self.f, key)])
        for i, x in enumerate(leaves):
            settle(x)
            if x._origin is not None:
                raise GradientError(
                    f"compile: argument {i}, {x._aval!r}, was computed from variables outside, and gradients do not "
                    "pass into a compiled function; compile the whole step, or freeze() the argument"
                )
        t = Trace()
        t.modes, t.committed = outer.modes, False
        t.recording = Recording([*leaves, *[r.value for r in guards.tensors]])
        try:
            variant, out = self._record(t, outer, key, leaves, guards, why)
        finally:
            local.trace = outer
        if key in self.restless:
            return out
        kept = self.variants.setdefault(key, [])
        kept.insert(0, variant)
        if len(kept) == MANY_VARIANTS:
            warnings.warn(
                f"compile: {self.name} was traced {len(kept)} times for one kind of call; last: {why}. What "
                "changes so often is better passed as a tensor",
                stacklevel=3,
            )
        del kept[MOST_VARIANTS:]
        while len(self.variants) > MOST_VARIANTS:
            del self.variants[next(iter(self.variants))]
        return out

    def _why(self, key: Any) -> str:
        """Why a call is traced."""
        changed = [r.name for variant in self.variants.get(key, ())[:1] for r in variant.reads if r.differs()]
        if changed:
            return f"traced again: {changed[0]} has changed"
        return "traced again: no earlier call was of this kind" if self.variants else "traced first"

    def _left(self, key: Any, guards: Guards, t: Trace, leaves: list[Any]) -> list[tuple[Read, Any]]:
        """The tensors that the function, just traced, has left in places that it may read. Any other change of these
        would not happen in later calls: once it may be the filling of a cache, and the trace is not kept; a second time
        it is refused with Error."""
        given = {*map(id, leaves), *[id(r.value) for r in guards.tensors]}
        left, others = [], []
        for read in guards.changed():
            x = read.now()
            ours = is_value(x) and (id(x) in given or _pending(t, x))
            (left if ours and read.writable() else others).append((read._replace(value=None), x))
        if not others:
            self.restless.discard(key)
        elif key in self.restless:
            raise Error(
                f"compile: {others[0][0].name}, which {self.name} may read, was changed while it was traced; Python "
                "code inside runs only then, so that later calls would not change it. Change it outside, or pass it as "
                "an argument and return it"
            )
        else:
            self.restless = {*self.restless, key} if len(self.restless) < MOST_VARIANTS else {key}
        return left

    def _record(
        self, t: Trace, outer: Trace, key: Any, leaves: list[Any], guards: Guards, why: str
    ) -> tuple[Variant, Any]:
        """The function run once on trace t, and what it returned, computed."""
        from katachi.tensor.search import find

        recording = t.recording
        assert recording is not None
        try:
            local.trace, Recording.active = t, Recording.active + 1
            own = iter(leaves)
            args, kwargs = trees.rebuild(key[0], own), trees.rebuild(key[1], own) if key[1] else {}
            result = self.f(*args, **kwargs)
            t.taken = True
            left = self._left(key, guards, t, leaves)
            unseen = [m for m in recording.modules.values() if id(m) not in guards.reached]
            if unseen:  # called, but found in no place
                guards = guards.and_of(find((f"a {type(m).__name__}", m) for m in unseen))
            operands, still = guards.used(_used(t, result, left))
            everything = [*leaves, *[r.value for r in operands]]
            variant = Variant(t, result, everything, guards.reads, still, left)
            return variant, variant.run(t, everything, t, why)
        except BaseException:
            if not t.committed:
                recording.undo()
            raise
        finally:
            local.trace, Recording.active = outer, Recording.active - 1
            t.recording = None
            let_be_computed(t)


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
    ) -> None:
        rec = t.recording
        assert rec is not None
        self.changes, self.reads, self.still = Changes.count, reads, still
        self.avals: list[Aval] = [x._aval for x in everything]
        self.alias = _alias(everything)
        self.sources = [(place, source) for place, source, _ in rec.sources]
        self.scalars = list(t.scalars)
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
        self.finish = locked(Finish, t, tuple(live), written)
        self.kinds = [n.aval for n in self.finish.nodes]
        self.leaves = list(t.leaves)

    def _destination(self, t: Trace, h: Handle, number: dict[int, int], live: dict[int, int]) -> Any:
        """An output's number; or the argument, or the tensor, that is simply passed on."""
        if _pending(t, h):
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

    def run(self, t: Trace, everything: list[Any], first: Trace | None, why: str = "") -> Any:
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
            program = locked(self._compute, t, everything, out, scalars, first, end)
            t.taken = taken
        except BaseException:
            if not t.committed:
                for source, before in reversed(begun):
                    source.undo(before)
            t.taken = taken
            raise
        if events.observers:
            events.tell(events.Flush(program, first is not None, len(self.finish.nodes), why))
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


def _pending(t: Trace, h: Handle) -> bool:
    """Whether h was made in this trace, and has no value yet."""
    return h._value is None and t.base <= h._slot < t.base + SPAN


def _used(t: Trace, result: Any, left: list[tuple[Read, Any]]) -> set[int]:
    """Of which tensors more than shape and dtype was used, by id."""
    assert t.recording is not None
    returned: list[Any] = []
    trees.flatten(result, returned)
    grads = [h._grad for h in t.recording.grads]
    return set(map(id, [*t.handles, *returned, *grads, *[x for _, x in left]]))


def _alias(everything: list[Any]) -> tuple[int, ...] | None:
    """Which tensors are one and the same; None if all differ."""
    if len(set(everything)) == len(everything):  # tensors are compared by identity here: their hashes are ids
        return None
    first: dict[int, int] = {}
    return tuple(first.setdefault(id(x), i) for i, x in enumerate(everything))


def _arguments(f: Any, key: Any) -> list[tuple[str, Any]]:
    """The objects among the arguments, with the parameters' names."""
    args, kwargs = key[0].parts, dict(zip(key[1].keys, key[1].parts, strict=True)) if key[1] else {}
    code = getattr(getattr(f, "__func__", f), "__code__", None)
    names = code.co_varnames[: code.co_argcount] if code is not None else ()
    names = names[1:] if hasattr(f, "__func__") else names
    named = [(names[i] if i < len(names) else f"argument {i}", x) for i, x in enumerate(args)]
    return [(name, x) for name, part in [*named, *kwargs.items()] for x in trees.objects(part)]

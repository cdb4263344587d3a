"""kt.compile: a function traced once for each kind of call, afterwards one launch.

The first call of a kind runs the function on a trace of its own. What it did besides computing is noted on a
`Recording`: which gradients it read and left, which optimisers stepped, which random numbers were drawn. From that
comes a `Variant`: the program, where its inputs are found at each call, which host numbers are to be had anew, and what
must still hold (guards) for the recording to be true.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

from katachi.errors import GradientError
from katachi.graph.node import Aval
from katachi.tensor import events, trees
from katachi.tensor.handle import Cell, Handle, handle
from katachi.tensor.tape import Finish
from katachi.tensor.tensor import Tensor
from katachi.tensor.trace import Changes, Recording, Trace, commit, flush, launching, let_be_computed, local, settle

P = ParamSpec("P")
R = TypeVar("R")
MOST_VARIANTS = 64  # kept of one function, the latest


class Binding(NamedTuple):
    """A name that the function's code reads: in a dict of globals, or a closure's cell."""

    place: Any
    name: str

    def read(self) -> Any:
        try:
            return self.place.get(self.name) if isinstance(self.place, dict) else self.place.cell_contents
        except ValueError:  # an empty closure cell
            return None


def compile(f: Callable[P, R]) -> Callable[P, R]:
    """f as compiled programs: one a kind of call, with no tracing afterwards. All of f becomes one program, backward
    passes and optimiser steps included, and its results are computed when it returns.

    Traced anew: for other shapes, dtypes, devices or modes of its tensors, other values of its other arguments, when
    a module it called or an optimiser it stepped was changed, and when a global or closure name that it reads is bound
    anew. Learning rates, step counts and random draws are read at every call. Looking at a value inside (`item`,
    `print`, `if x > 0`) raises Error; other effects of Python code inside happen only when it is traced.

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
        self.bindings, self.mentioned = _bindings(f)
        self.variants: dict[Any, list[Variant]] = {}

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        t = local.trace
        if t.recording is not None or t.nesting or t.examples or t.modes.eager or t.modes.tracing:
            return self.f(*args, **kwargs)  # part of what is being traced, differentiated or looked into
        flush(t)
        leaves: list[Any] = []
        key = (trees.flatten(args, leaves), trees.flatten(kwargs, leaves) if kwargs else None, t.modes)
        for variant in self.variants.get(key, ()):
            everything = variant.fits(leaves)
            if everything is not None:
                return variant.run(everything, None)
        return self._trace(t, key, leaves)

    def _trace(self, outer: Trace, key: Any, leaves: list[Any]) -> Any:
        why = "traced first" if not self.variants else "traced again: no earlier call was of this kind"
        objects = [b.read() for b in self.bindings] + trees.objects(key) + [getattr(self.f, "__self__", None)]
        bindings = self.bindings + [b for x in objects for b in _attributes(x, self.mentioned)]
        implicit = [b for b in bindings if _enters(b.read())]
        everything = [*leaves, *[b.read() for b in implicit]]
        for i, x in enumerate(leaves):
            settle(x)
            if x._origin is not None:
                raise GradientError(
                    f"compile: argument {i}, {x._aval!r}, was computed from variables outside, and gradients do not "
                    "pass into a compiled function; compile the whole step, or freeze() the argument"
                )
        t = local.trace = Trace()
        t.modes, t.recording = outer.modes, Recording(everything)
        Recording.active += 1
        variant: Variant | None = None
        try:
            own = iter(leaves)
            args, kwargs = trees.rebuild(key[0], own), trees.rebuild(key[1], own) if key[1] else {}
            result = self.f(*args, **kwargs)
            variant = Variant(t, result, everything, bindings, implicit)
            out = variant.run(everything, t, why)
        except BaseException:
            if variant is None or not variant.finish.program.committed():
                t.recording.undo()
            raise
        finally:
            Recording.active -= 1
            local.trace = outer
            t.recording = None
            let_be_computed(t)
        kept = self.variants.setdefault(key, [])
        kept.insert(0, variant)
        del kept[MOST_VARIANTS:]
        while len(self.variants) > MOST_VARIANTS:
            del self.variants[next(iter(self.variants))]
        return out


class Variant:
    """One recording as a program."""

    def __init__(
        self, t: Trace, result: Any, everything: list[Any], bindings: list[Binding], implicit: list[Binding]
    ) -> None:
        rec = t.recording
        assert rec is not None
        self.changes, self.modules = Changes.count, [(m, m._fingerprint()) for m in rec.modules.values()]
        self.implicit = [b.read for b in implicit]
        self.names = [(b, v) for b in bindings if not _enters(v := b.read()) and _matters(v)]
        self.avals: list[Aval] = [x._aval for x in everything]
        self.alias = _alias(everything)
        self.sources = rec.sources
        self.scalars = list(t.scalars)
        # where each import is found: an argument, a gradient, or always the same tensor or cell
        number = {id(x): i for i, x in reversed(list(enumerate(everything)))}
        grad_of = {id(g): h for h, g in rec.grads.items() if g is not None}
        self.from_arguments = [(k, number[id(h)]) for k, h in enumerate(t.handles) if id(h) in number]
        self.from_grads = [(k, grad_of[id(h)]) for k, h in enumerate(t.handles) if id(h) in grad_of]
        self.handles: list[Any] = [None if id(h) in number or id(h) in grad_of else h for h in t.handles]
        self.held = [h._aval for h in t.handles]
        self.grads = [(h, None if g is None else g._aval) for h, g in rec.grads.items()]
        # what comes of it: results, gradients left, cells written
        returned: list[Any] = []
        self.structure = trees.flatten(result, returned)
        live: dict[int, int] = {}  # slot: which of the outputs
        self.returns = [self._destination(t, h, number, live) for h in returned]
        self.leaves_grads = [
            (h, None if h._grad is None else self._destination(t, h._grad, number, live))
            for h, before in rec.grads.items()
            if h._grad is not before
        ]
        self.cells: list[Cell] = list(t.written)
        written = tuple(s - t.base for s in t.written.values())
        with launching:
            self.finish = Finish(t, tuple(live), written)
        self.kinds = [n.aval for n in self.finish.nodes]
        self.leaves = list(t.leaves)

    def _destination(self, t: Trace, h: Handle, number: dict[int, int], live: dict[int, int]) -> Any:
        """An output's number; or the argument, or the tensor, that is simply passed on."""
        if h._value is None and h._slot >= t.base:
            return live.setdefault(h._slot - t.base, len(live))
        return ("argument", number[id(h)]) if id(h) in number else ("same", h)

    def fits(self, leaves: list[Any]) -> list[Any] | None:
        """The arguments and the tensors that names now stand for, if the recording is true for them."""
        everything = [*leaves, *[read() for read in self.implicit]] if self.implicit else leaves
        for x, kind in zip(everything, self.avals):  # noqa: B905 - a structure has one number of leaves
            if x.__class__ is not Tensor or x._aval is not kind or x._origin is not None:
                return None
            if x._value is None:
                settle(x)
        for b, value in self.names:
            now = b.read()
            if now is not value and not (now.__class__ is value.__class__ in trees.PLAIN and now == value):
                return None
        for h, kind in self.grads:
            g = h._grad
            if g is not kind and (g is None or kind is None or g._aval is not kind or g._origin is not None):
                return None
        if self.changes != Changes.count:
            if any(m._fingerprint() != then for m, then in self.modules):
                return None
            if any(h is not None and h._aval is not kind for h, kind in zip(self.handles, self.held, strict=True)):
                return None  # it was moved to another device
            self.changes = Changes.count
        if self.alias != _alias(everything):
            return None
        for _, source in self.sources:
            if not source.fits():
                return None
        return everything

    def run(self, everything: list[Any], first: Trace | None, why: str = "") -> Any:
        """One call. `first` is the trace that this was recorded on, which has taken its host numbers."""
        handles, scalars = self.handles.copy(), self.scalars.copy()
        for k, i in self.from_arguments:
            handles[k] = everything[i]
        for k, h in self.from_grads:
            handles[k] = h._grad if first is None else first.handles[k]
        out = [handle(Tensor, kind) for kind in self.kinds]

        def find(at: Any) -> Any:
            if at.__class__ is int:
                return out[at]
            kind, what = at
            return everything[what] if kind == "argument" else what

        taken: list[Any] = []
        prepared, ahead = False, {}

        def end() -> None:
            for h, at in self.leaves_grads:
                h._grad = None if at is None else find(at)
            if first is None:
                for _, source in self.sources:
                    source.settle(ahead)

        program = self.finish.program
        try:
            if first is None:
                for at, source in self.sources:
                    taken.append(source)
                    numbers = source.take(ahead)
                    scalars[at : at + len(numbers)] = numbers
            values = [h._value for h in handles]
            if None in values:
                for h in handles:
                    settle(h)
                values = [h._value for h in handles]
            with launching:
                buffers = program.prepare(values, scalars, [cell.holders() for cell in self.cells])
                prepared = True
                made: Any = first or _Made(handles, values, scalars, self.leaves)
                commit(self.finish, out, buffers, self.cells, self.finish.tape(made, buffers), end)
        except BaseException:
            if not (prepared and program.committed()):
                for source in reversed(taken):
                    source.undo()
            raise
        if events.observers:
            events.tell(events.Flush(program, first is not None, len(self.finish.nodes), why))
        if self.structure is trees.LEAF:
            return find(self.returns[0])
        return trees.rebuild(self.structure, map(find, self.returns))


class _Made(NamedTuple):
    """What a tape wants to know of the trace whose values it keeps."""

    handles: list[Any]
    values: list[Any]
    scalars: list[Any]
    leaves: list[Any]


def _enters(x: Any) -> bool:
    """Whether a name's value is read anew at each call, like an argument."""
    return x.__class__ is Tensor and x._cell is None and x._origin is None


def _matters(x: Any) -> bool:
    """Whether the recording depends on which value a name has; functions, classes and rooms are taken to stay."""
    return not isinstance(x, (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type))


def _alias(everything: list[Any]) -> tuple[int, ...] | None:
    """Which tensors are one and the same; None if all differ."""
    if len(set(map(id, everything))) == len(everything):
        return None
    first: dict[int, int] = {}
    return tuple(first.setdefault(id(x), i) for i, x in enumerate(everything))


def _bindings(f: Any) -> tuple[list[Binding], set[str]]:
    """The global and closure names that f's code reads, and those of functions found by them; and all names in there,
    attributes' among them."""
    found: list[Binding] = []
    mentioned: set[str] = set()
    seen: set[Any] = set()
    stack = [f]
    while stack:
        g = stack.pop()
        g = getattr(g, "__func__", g)
        if not isinstance(g, types.FunctionType) or g in seen or _ours(g):
            continue
        seen.add(g)
        names = _names(g.__code__)
        mentioned |= names
        mine = [Binding(cell, name) for name, cell in zip(g.__code__.co_freevars, g.__closure__ or (), strict=True)]
        mine += [Binding(g.__globals__, name) for name in sorted(names) if name in g.__globals__]
        found += mine
        stack += [b.read() for b in mine]
    return found, mentioned


def _attributes(x: Any, mentioned: set[str]) -> list[Binding]:
    """The fields of a user's object that the code may read. Modules tell of their changes themselves."""
    fields = getattr(x, "__dict__", None)
    if not isinstance(fields, dict) or not _matters(x) or _ours(type(x)) or hasattr(x, "_fingerprint"):
        return []
    return [Binding(fields, name) for name in fields if name in mentioned]


def _ours(x: Any) -> bool:
    return (getattr(x, "__module__", None) or "").split(".")[0] == "katachi"


def _names(code: types.CodeType) -> set[str]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))

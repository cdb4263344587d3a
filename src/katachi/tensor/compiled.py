"""kt.compile: a function traced once for each kind of call, afterwards one launch.

The first call of a kind runs the function on a trace of its own. What it did besides computing is noted on a
`Recording`: which gradients it read and left, which optimisers stepped, which random numbers were drawn. From that
comes a `Variant`: the program, where its inputs are found at each call, which host numbers are to be had anew, and what
must still hold for the recording to be true (`tensor/guards.py`).
"""

from __future__ import annotations

import functools
import itertools
import operator
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from katachi.errors import Error, GradientError
from katachi.tensor import trees
from katachi.tensor.deferred import let_be_computed
from katachi.tensor.entry import Entry, Structure
from katachi.tensor.guards import Guards, Read, is_value
from katachi.tensor.numbers import Needed, StandIn
from katachi.tensor.recording import Recording
from katachi.tensor.running import locked
from katachi.tensor.trace import (
    Trace,
    current,
    flush,
    local,
    settle,
    use_state,
)
from katachi.tensor.variant import Variant, pending

P = ParamSpec("P")
R = TypeVar("R")
MOST_VARIANTS = 64  # kept of one function, the latest
MANY_VARIANTS = 16  # of one kind of call: worth a warning
AGAIN, CHANGED = "traced again: ", " has changed"


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
        self.structure, self.built = Structure(None, Entry(None)), 0  # of all traces, and how many had new programs
        # for calls that differ in numbers alone: those of the first, which have differed since, and which have to stay
        self.numbers: dict[Any, tuple[list[str], set[int], set[int]]] = {}

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
        numbers: list[Any] = []
        key = (
            trees.flatten(args, leaves, numbers),
            trees.flatten(kwargs, leaves, numbers) if kwargs else None,
            t.modes,
        )
        given: Sequence[Any] = ()
        if numbers and key not in self.variants:
            key, given = self._open(key, numbers)
        for variant in self.variants.get(key, ()):
            passed = variant.passed(given) if given else ()
            everything = None if passed is None else variant.fits(leaves)
            if everything is not None:
                return variant.run(t, everything, None, "", passed or ())
        if given:
            try:
                return self._trace(t, key, leaves, given)
            except (Exception, Needed):  # as constants they may do; if not, the error comes again
                _, varying, fixed = self.numbers[self._kind(key)]
                before = set(fixed)
                try:
                    fixed |= varying
                    return self(*args, **kwargs)
                except BaseException:
                    fixed.intersection_update(before)
                    raise
        return self._trace(t, key, leaves)

    def _kind(self, key: Any) -> Any:
        """What calls have in common that differ in numbers alone."""
        count = itertools.count()
        return trees.opened(key[0], None, count), trees.opened(key[1], None, count), key[2]

    def _open(self, key: Any, numbers: list[Any]) -> tuple[Any, list[Any]]:
        """The key of a call with those of its numbers left open that have differed from call to call, and these."""
        kind, shown = self._kind(key), [repr(x) for x in numbers]
        if kind not in self.numbers:
            if len(self.numbers) == MOST_VARIANTS:
                self.numbers.clear()
            self.numbers[kind] = (shown, set(), set())
        first, varying, fixed = self.numbers[kind]
        varying |= {i for i, (x, y) in enumerate(zip(shown, first, strict=True)) if x != y and i not in fixed}
        open_now = varying - fixed
        if not open_now:
            return key, []
        count = itertools.count()
        parts = (trees.opened(key[0], open_now, count), trees.opened(key[1], open_now, count))
        return (*parts, key[2]), [numbers[i] for i in sorted(open_now)]

    def _trace(self, outer: Trace, key: Any, leaves: list[Any], given: Sequence[Any] = ()) -> Any:
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
        t = Trace(self.structure)
        t.modes, t.committed = outer.modes, False
        t.recording = Recording([*leaves, *[r.value for r in guards.tensors]])
        try:
            variant, out = self._record(t, outer, key, leaves, guards, why, given)
        finally:
            local.trace = outer
        if key in self.restless:
            return out
        kept = self.variants.setdefault(key, [])
        kept.insert(0, variant)
        if variant.built:
            self.built += 1
            if self.built % MOST_VARIANTS == 0:  # what is known of all of them is forgotten
                self.structure = Structure(None, Entry(None))
        again = [v.built or v.why.endswith(CHANGED) for v in kept]  # not for new sizes alone
        if again[0] and sum(again) == MANY_VARIANTS:
            warnings.warn(
                f"compile: {self.name} was traced {sum(again)} times for one kind of call; last: {why}. What "
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
            return f"{AGAIN}{changed[0]}{CHANGED}"
        return f"{AGAIN}no earlier call was of this kind" if self.variants else "traced first"

    def _left(self, key: Any, guards: Guards, t: Trace, leaves: list[Any]) -> list[tuple[Read, Any]]:
        """The tensors that the function, just traced, has left in places that it may read. Any other change of these
        would not happen in later calls: once it may be the filling of a cache, and the trace is not kept; a second time
        it is refused with Error."""
        given = {*map(id, leaves), *[id(r.value) for r in guards.tensors]}
        left, others = [], []
        for read in guards.changed():
            x = read.now()
            ours = is_value(x) and (id(x) in given or pending(t, x))
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
        self,
        t: Trace,
        outer: Trace,
        key: Any,
        leaves: list[Any],
        guards: Guards,
        why: str,
        given: Sequence[Any],
    ) -> tuple[Variant, Any]:
        """The function run once on trace t, and what it returned, computed."""
        from katachi.tensor.search import find

        recording = t.recording
        assert recording is not None
        try:
            local.trace, Recording.active = t, Recording.active + 1
            own = iter(leaves)
            stand_ins = iter([StandIn(x, operator.itemgetter(i), recording.conditions) for i, x in enumerate(given)])
            args = trees.rebuild(key[0], own, stand_ins)
            kwargs = trees.rebuild(key[1], own, stand_ins) if key[1] else {}
            result = self.f(*args, **kwargs)
            t.taken = True
            left = self._left(key, guards, t, leaves)
            unseen = [m for m in recording.modules.values() if id(m) not in guards.reached]
            if unseen:  # called, but found in no place
                guards = guards.and_of(find((f"a {type(m).__name__}", m) for m in unseen))
            operands, still = guards.used(_used(t, result, left))
            everything = [*leaves, *[r.value for r in operands]]
            refused = f"strict: {self.name} would be {why}" if outer.builds.strict else ""
            variant = Variant(t, result, everything, guards.reads, still, left, refused)
            variant.why = why
            return variant, variant.run(t, everything, t, why)
        except BaseException:
            if not t.committed:
                recording.undo()
            raise
        finally:
            local.trace, Recording.active = outer, Recording.active - 1
            t.recording = None
            let_be_computed(t)


def _used(t: Trace, result: Any, left: list[tuple[Read, Any]]) -> set[int]:
    """Of which tensors more than shape and dtype was used, by id."""
    assert t.recording is not None
    returned: list[Any] = []
    trees.flatten(result, returned)
    grads = [h._grad for h in t.recording.grads]
    return set(map(id, [*t.handles, *returned, *grads, *[x for _, x in left]]))


def _arguments(f: Any, key: Any) -> list[tuple[str, Any]]:
    """The objects among the arguments, with the parameters' names."""
    args, kwargs = key[0].parts, dict(zip(key[1].keys, key[1].parts, strict=True)) if key[1] else {}
    code = getattr(getattr(f, "__func__", f), "__code__", None)
    names = code.co_varnames[: code.co_argcount] if code is not None else ()
    names = names[1:] if hasattr(f, "__func__") else names
    named = [(names[i] if i < len(names) else f"argument {i}", x) for i, x in enumerate(args)]
    return [(name, x) for name, part in [*named, *kwargs.items()] for x in trees.objects(part)]

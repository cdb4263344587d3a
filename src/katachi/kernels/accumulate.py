"""What a stage accumulates: sums, products, extremes, places of the largest."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from katachi.kernels.llvm_text import SCALARS, Builder, Value, Variable
from katachi.kernels.loops import Instr
from katachi.kernels.scalar_llvm import INFINITY, UNSIGNED, extreme

TERMS, PARTS = 32, 16  # of a sum that are added up one after another in its own precision; the second is a power of two

_FOLDS: dict[str, tuple[int, Callable[[Value, Value], Value]]] = {  # where it starts, one more
    "sum": (0, operator.add),
    "product": (1, operator.mul),
    "all_bits": (-1, operator.and_),
    "any_bit": (0, operator.or_),
}
_ACROSS = {"sum": "add", "product": "mul", "all_bits": "and", "any_bit": "or"}  # with an f in front for floats


class _Fold:
    """sum, product, max, min, and, or: over the lanes and iterations of a stage."""

    def __init__(self, b: Builder, instr: Instr) -> None:
        self.b, self.instr, self.scalar = b, instr, SCALARS[instr.dtype]
        floating, unsigned = self.scalar in ("float", "double"), instr.dtype in UNSIGNED
        sign = "f" if floating else "u" if unsigned else "s"
        lowest, highest = (0, -1) if unsigned and not floating else INFINITY[self.scalar]
        if instr.name in _FOLDS:
            self.first, self.across = _FOLDS[instr.name][0], ("f" if floating else "") + _ACROSS[instr.name]
        else:
            self.first = lowest if instr.name == "max" else highest
            self.across = ("fmaximum" if instr.name == "max" else "fminimum") if floating else sign + instr.name

    def start(self, lanes: int, mask: Value | None) -> Variable:
        return self.b.variable(self.b.const(self.scalar, self.first, lanes))

    def both(self, x: Value, y: Value) -> Value:
        if self.instr.name in _FOLDS:
            return _FOLDS[self.instr.name][1](x, y)
        return extreme(self.instr.name + "imum")(self.b, self.instr, x, y)

    def step(self, into: Variable, args: Sequence[Value], mask: Value | None) -> None:
        old = into.get()
        new = self.both(old, args[0])
        into.set(new if mask is None else self.b.select(mask, new, old))

    def read(self, slot: Variable) -> Value:
        return slot.get()

    def finish(self, slot: Variable) -> Value:
        return self.b.reduce(self.across, slot.get())

    def merge(self, parts: Sequence[Value]) -> Value:
        out = parts[0]
        for p in parts[1:]:
            out = self.both(out, p)
        return out


class _Argmax:
    """The first largest value and where it was; the first NaN beats everything."""

    def __init__(self, b: Builder, instr: Instr) -> None:
        self.b, self.instr = b, instr
        self.unsigned, self.scalar = instr.dtype in UNSIGNED, SCALARS[instr.dtype]

    def start(self, lanes: int, mask: Value | None) -> tuple[Variable, Variable]:
        b = self.b
        return b.variable(b.const(self.scalar, 0, lanes)), b.variable(b.const("i64", -1, lanes))

    def step(self, into: tuple[Variable, Variable], args: Sequence[Value], mask: Value | None) -> None:
        b = self.b
        value, place = args
        best, at = into[0].get(), into[1].get()
        better = (at < 0) | value.compare("ugt" if self.unsigned else "sgt", "ogt", best)
        if value.is_float:
            better = better | (value.isnan() & (best.isnan() ^ 1))
        if mask is not None:
            better = better & mask
        into[0].set(b.select(better, value, best))
        into[1].set(b.select(better, place, at))

    def read(self, slot: tuple[Variable, Variable]) -> tuple[Value, Value]:
        return slot[0].get(), slot[1].get()

    def finish(self, slot: tuple[Variable, Variable]) -> tuple[Value, Value]:
        b, (best, at) = self.b, self.read(slot)
        if best.lanes == 1:
            return best, at
        used = at >= 0
        lowest = 0 if self.unsigned else INFINITY[self.scalar][0]
        top = b.reduce(
            "fmaximum" if best.is_float else "umax" if self.unsigned else "smax", b.select(used, best, lowest)
        )
        same = best.eq(top)
        if best.is_float:
            same = same | best.isnan()  # if one is, the largest is
            same = same & (b.splat(top.isnan(), best.lanes) ^ best.isnan() ^ 1)
        return top, b.reduce("umin", b.select(same & used, at, -1))  # -1 is the largest unsigned

    def merge(self, parts: Sequence[tuple[Value, Value]]) -> Value:
        b = self.b
        best, at = parts[0]
        for value, place in parts[1:]:  # all its places come later
            better = (at < 0) | value.compare("ugt" if self.unsigned else "sgt", "ogt", best)
            if value.is_float:
                better = better | (value.isnan() & (best.isnan() ^ 1))
            better = better & (place >= 0)
            best, at = b.select(better, value, best), b.select(better, place, at)
        return at


def reduction(b: Builder, instr: Instr) -> Any:
    """How an accumulation starts, steps and ends."""
    return _Argmax(b, instr) if instr.name == "argmax" else _Fold(b, instr)


Places = tuple[Mapping[int, Any], Mapping[int, Any]]
"""Where a stage accumulates, by instruction: vectors whose lanes are parts of one result, and what is a result."""


def merged(b: Builder, instr: Instr, i: int, places: Places) -> Value:
    """What instruction i accumulated."""
    step, (lanes, others) = reduction(b, instr), places
    parts = [step.finish(lanes[i])] if i in lanes else []
    return step.merge([*parts, *([step.read(others[i])] if i in others else [])])


class Totals:
    """Sums of many terms.

    The error of a sum grows with the number of terms that are added to it one after another. So only TERMS are added up
    where a stage accumulates; then `settle` adds them to a second place, and as many as PARTS of these to a third, in
    float64.
    """

    def __init__(self, b: Builder, sums: Mapping[int, Instr], places: Places, lanes: int) -> None:
        """`lanes`: of a vector of the target's."""
        self.b, self.sums, self.places, self.lanes = b, sums, places, lanes
        first, rest = (
            {i: b.variable(b.const(into[i].scalar, 0.0, into[i].lanes)) for i in sums if i in into} for into in places
        )
        self.parts: Places = first, rest
        self.totals = [{i: self._empty(part.lanes) for i, part in parts.items()} for parts in self.parts]
        self.terms = b.variable(b.const("i64", 0))  # in the first place, roughly
        self.count = b.variable(b.const("i64", 0))  # of what came to the second

    def _empty(self, lanes: int) -> Variable:
        """A total. Where it is large, the first part is not added but stored."""
        b = self.b
        return b.slot("double", lanes) if lanes > self.lanes else b.variable(b.const("double", 0.0, lanes))

    def settle(self, last: Value) -> None:
        """What follows TERMS terms, and the last of them; after that `sums` are known."""
        b = self.b
        for into, parts in zip(self.places, self.parts, strict=True):
            for i, part in parts.items():
                part.set(part.get() + into[i].get())
                into[i].set(b.const(part.scalar, 0.0, part.lanes))
        self.count.set(self.count.get() + 1)
        enough = (self.count.get() & (PARTS - 1)).eq(0)
        with b.when(enough | ((self.count.get() > PARTS) & last)):
            self._total(last)

    def room(self, terms: int) -> None:
        """What comes before so many terms that may be fewer than TERMS."""
        with self.b.when(self.terms.get() >= terms):
            self.settle(self.b.const("i1", 0))
            self.terms.set(self.b.const("i64", 0))

    def added(self, terms: Value) -> None:
        """What follows them."""
        self.terms.set(self.terms.get() + terms)

    def results(self) -> dict[int, Value]:
        """The sums."""
        return {i: merged(self.b, instr, i, self.parts) for i, instr in self.sums.items()}

    def _total(self, last: Value) -> None:
        """Adds the second places to the third; at the last time the totals come to the second, before that zero."""
        b, nothing = self.b, self.b.const("double", 0.0)
        for parts, totals in zip(self.parts, self.totals, strict=True):
            for i, part in parts.items():
                total = totals[i]
                if part.lanes <= self.lanes:
                    new = total.get() + part.get().to("fpext", "double")
                    total.set(new)
                    part.set(b.select(last, new, nothing).to("fptrunc", part.scalar))
                    continue
                first = self.count.get().eq(PARTS)
                with b.loop(b.const("i64", 0), b.const("i64", part.lanes), self.lanes) as j:  # to be short, not fast
                    at, to = b.place(part.scalar, part.address, j), b.place("double", total.address, j)
                    before = b.select(first, nothing, b.load("double", to, self.lanes))
                    new = before + b.load(part.scalar, at, self.lanes).to("fpext", "double")
                    b.store(new, to)
                    b.store(b.select(last, new, nothing).to("fptrunc", part.scalar), at)

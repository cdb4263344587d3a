"""What is decided about sizes while a graph is made.

with ShapeEnv([64, 64]) as env:      s0 and s1, for the sizes at hand
    s0 == s1                         true, and a guard; from here on s1 is s0
    s0 < 16                          false, guard s0 - 16 >= 0
holds(env.guards, [37, 37])          true: what was made serves these sizes as well
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from katachi.graph.symint import SymInt, active, bounds, called, divided, evaluate, symbol, symbols


class Guard(NamedTuple):
    """`value relation 0`, as it must be for the sizes of a run: `s0 - 16 >= 0`."""

    value: SymInt
    relation: str

    def __str__(self) -> str:
        return f"{self.value} {self.relation} 0"


RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def holds(guards: Iterable[Guard], sizes: Sequence[int]) -> bool:
    """Whether all are true for these sizes."""
    try:
        return all(RELATIONS[relation](evaluate(value, sizes), 0) for value, relation in guards)
    except ZeroDivisionError:  # of sizes for which an earlier one fails
        return False


class ShapeEnv:
    """The sizes at hand while a graph is made, as a context of the thread, and the guards of what is decided."""

    def __init__(self, sizes: Sequence[int], equal: Mapping[int, Any] | None = None) -> None:
        """`sizes` by number; `equal` says of some what they are in terms of others."""
        self.sizes = sizes
        self.equal = dict(equal or {})
        self._guards: dict[Any, Guard] = {}

    def __enter__(self) -> ShapeEnv:
        self._outer, active.env = active.env, self
        return self

    def __exit__(self, *error: object) -> None:
        active.env = self._outer

    @property
    def guards(self) -> list[Guard]:
        """In the order in which they arose."""
        return list(self._guards.values())

    def add(self, guard: Guard) -> None:
        """One more, unless it is there."""
        self._guards[guard.value.terms, guard.relation] = guard  # SymInts as keys might be compared

    def pin(self, x: Any) -> int:
        """The value of x, which it must have from here on."""
        x = self.simplified(x)
        if x.__class__ is not SymInt:
            return x
        value = evaluate(x, self.sizes)
        self.decide(x - value, "==")
        return value

    def simplified(self, x: Any) -> Any:
        """x with what is known to be equal to a number or to other sizes."""
        while x.__class__ is SymInt and (found := [a for a in symbols(x) if a in self.equal]):
            x = _substituted(x, {a: self.equal[a] for a in found})
        return x

    def decide(self, d: Any, relation: str) -> bool:
        """Whether `d relation 0`, for the sizes at hand."""
        d = self.simplified(d)
        low, high = bounds(d)
        if relation == "==":
            if d.__class__ is not SymInt or (low is not None and low > 0) or (high is not None and high < 0):
                return d.__class__ is not SymInt and d == 0
        elif low is not None and (low > 0 or (low == 0 and relation == ">=")):
            return True
        elif high is not None and (high < 0 or (high == 0 and relation == ">")):
            return False
        d = _reduced(d)
        outcome = RELATIONS[relation](evaluate(d, self.sizes), 0)
        if relation == "==":
            self.add(Guard(d, "==" if outcome else "!="))
            if outcome:
                self.equate(d)
        elif outcome:
            self.add(Guard(d, relation))
        else:
            self.add(Guard(-d, ">" if relation == ">=" else ">="))
        return outcome

    def equate(self, d: SymInt) -> None:
        """d is 0, so one of its sizes follows from the others: the last that stands alone in a term of its own."""
        candidates = [
            (product[0], factor)
            for product, factor in d.terms
            if len(product) == 1
            and product[0].__class__ is int
            and all(other.__class__ is int and other % factor == 0 for _, other in d.terms)
        ]
        for number, factor in sorted(candidates, reverse=True):
            rest = divided(symbol(number) * factor - d, factor)
            if number not in symbols(rest):
                self.equal[number] = rest
                return


def current() -> ShapeEnv:
    """The sizes at hand in this thread."""
    env = active.env
    assert env is not None, "a size is compared where no sizes are at hand"
    return env


def assume_equal(a: Any, b: Any) -> None:
    """Take two sizes for equal without a guard: they are, whatever the sizes."""
    env = active.env
    d = env.simplified(a - b) if env is not None else 0
    if d.__class__ is SymInt:
        current().equate(_reduced(d))


def _substituted(x: Any, by: Mapping[int, Any]) -> Any:
    """x with others in place of some sizes."""
    if x.__class__ is not SymInt:
        return x
    total: Any = 0
    for product, factor in x.terms:
        for a in product:
            if a.__class__ is int:
                factor = factor * (by[a] if a in by else symbol(a))
            else:
                args = [_substituted(y, by) for y in a[1:]]
                factor = factor * (called(a[0], *args))
        total = total + factor
    return total


def _reduced(d: SymInt) -> SymInt:
    """d without the sizes that all its terms have as a factor; they are positive, so that signs stay."""
    first = [a for a in d.terms[0][0] if a.__class__ is int]
    for a in first:
        if all(a in product for product, _ in d.terms):
            d = divided(d, symbol(a))
            if d.__class__ is not SymInt:
                return SymInt((((), d),))
    return d

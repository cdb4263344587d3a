"""Numbers given to a compiled function that differ from call to call: operands of its program.

While such a function is traced, a stand-in takes the number's place. Arithmetic gives further stand-ins, which know how
they are computed; comparisons are noted, and must come out the same in later calls; a tensor's operation takes the
stand-in as an operand. Whatever needs the number itself raises `Needed`, and the number is a constant after all:

    f(x, k)      x * (1 - k)       one program, which gets 1 - k at each call
                 if k > 0.5: ...   another one on the other side
                 range(k)          one for each k
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

MOST = 64  # steps of arithmetic from a call's number on, and comparisons
Compute = Callable[[Sequence[Any]], Any]  # from a call's numbers


class Needed(BaseException):
    """A number's value decides more than operands can; no `except Exception` of the user's shall catch it."""


class Condition(NamedTuple):
    """A comparison that has to come out as it did when it was traced."""

    compute: Compute
    outcome: bool


class StandIn:
    """A number of a call that is traced: `value` now, `compute(numbers)` at later calls."""

    __slots__ = ("compute", "conditions", "depth", "value")

    def __init__(self, value: Any, compute: Compute, conditions: list[Condition], depth: int = 0) -> None:
        if depth > MOST or len(conditions) > MOST:  # a loop of Python's that counts with it
            raise Needed
        self.value, self.compute, self.conditions, self.depth = value, compute, conditions, depth

    @property
    def __class__(self) -> type:  # type: ignore[override]  # what isinstance asks
        return type(self.value)

    def __hash__(self) -> int:
        raise Needed

    def __bool__(self) -> bool:
        if len(self.conditions) > MOST:
            raise Needed
        self.conditions.append(Condition(lambda numbers: bool(self.compute(numbers)), bool(self.value)))
        return bool(self.value)


def _plain(x: Any) -> bool:
    return type(x) in (int, float, bool)


def _arithmetic(f: Callable[[Any, Any], Any], swapped: bool = False) -> Callable[[StandIn, Any], Any]:
    def method(self: StandIn, other: Any) -> Any:
        mine, conditions = self.compute, self.conditions
        depth = self.depth
        if type(other) is StandIn:
            value, theirs, depth = other.value, other.compute, max(depth, other.depth)
        elif _plain(other):
            value, theirs = other, lambda numbers: other
        else:
            return NotImplemented
        if swapped:
            result, compute = f(value, self.value), lambda numbers: f(theirs(numbers), mine(numbers))
        else:
            result, compute = f(self.value, value), lambda numbers: f(mine(numbers), theirs(numbers))
        if not _plain(result):  # complex
            raise Needed
        return StandIn(result, compute, conditions, depth + 1)

    return method


def _comparison(f: Callable[[Any, Any], bool]) -> Callable[[StandIn, Any], Any]:
    made = _arithmetic(f)

    def method(self: StandIn, other: Any) -> Any:
        result = made(self, other)
        return result if result is NotImplemented else bool(result)

    return method


def _unary(f: Callable[[Any], Any]) -> Callable[[StandIn], StandIn]:
    def method(self: StandIn) -> StandIn:
        return StandIn(f(self.value), lambda numbers: f(self.compute(numbers)), self.conditions, self.depth + 1)

    return method


def _needed(self: StandIn, *args: Any) -> Any:
    raise Needed


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(StandIn, f"__{_name}__", _arithmetic(getattr(operator, _name)))
    setattr(StandIn, f"__r{_name}__", _arithmetic(getattr(operator, _name), swapped=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(StandIn, f"__{_name}__", _comparison(getattr(operator, _name)))
for _name in ("neg", "pos", "abs"):
    setattr(StandIn, f"__{_name}__", _unary(getattr(operator, _name)))
for _name in ("float", "int", "index", "complex", "round", "trunc", "floor", "ceil", "str", "repr", "format", "divmod"):
    setattr(StandIn, f"__{_name}__", _needed)

"""Sizes as parameters of a graph: integers whose values differ from run to run.

A loop's batches have 64 rows, and the last one 37. Both are the same graph, with `s0` rows:

    x float32[s0, 784]    x @ w float32[s0, 10]    its kernel reads s0 * 784 elements

A `SymInt` is a polynomial in such sizes. Comparing two decides something about the graph, so the answer is the one for
the sizes at hand, and it becomes a *guard* (`shape_env.py`): the graph serves all sizes for which every guard holds.

    s0 == s1    for 64 and 64: true, and from here on s1 is s0
    s0 < 16     for 64: false, guard s0 >= 16
    s0 == 1     false without a guard: sizes of 0 and 1 are no parameters, but part of the graph
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

LEAST = 2  # that a parameter may be
Terms = tuple[tuple[tuple[Any, ...], Any], ...]  # (what is multiplied, by which number) each
Bounds = tuple[Any, Any]  # least and greatest value, None for unknown


def as_float(value: Any) -> Any:
    """A size as a float."""
    return call("float", value) if value.__class__ is SymInt else float(value)


def low_bits(dtype: str, value: Any) -> Any:
    """A number of a dtype as the integer whose low bits it is."""
    if value.__class__ is SymInt:
        return call("bits", dtype, value)
    return int.from_bytes(np.array(value).astype(dtype).tobytes().ljust(8, b"\0"), "little", signed=True)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "//": operator.floordiv, "%": operator.mod, "/": operator.truediv, "float": as_float, "bits": low_bits,
}  # fmt: skip


class _Active(threading.local):
    env: Any = None  # a ShapeEnv


active = _Active()  # the ShapeEnv that is entered in this thread, if any


class SymInt:
    """A polynomial in sizes: sums of products of symbols, which are numbered, and of calls `(function, *arguments)`.

    >>> from katachi.graph.shape_env import ShapeEnv
    >>> with ShapeEnv([64]): print(symbol(0) * 3 + 1, symbol(0) > 16)
    193 True
    """

    __slots__ = ("_hash", "_least", "terms")
    __array_ufunc__ = None  # NumPy leaves arithmetic to this class

    def __init__(self, terms: Terms) -> None:
        self.terms, self._least = terms, _UNKNOWN
        self._hash = hash(tuple([(product, 2 * factor + 1) for product, factor in terms]))  # hash(-1) == hash(-2)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        env = active.env
        return str(evaluate(self, env.sizes)) if env is not None else describe(self)

    def __add__(self, other: Any) -> Any:
        if other.__class__ is SymInt:
            more = other.terms
        elif (other := _number(other)) is not None:
            if not other:
                return self
            more = (((), other),)
        else:
            return NotImplemented
        total = dict(self.terms)
        for product, factor in more:
            total[product] = total.get(product, 0) + factor
        return _polynomial(total)

    __radd__ = __add__

    def __neg__(self) -> Any:
        return SymInt(tuple([(product, -factor) for product, factor in self.terms]))

    def __pos__(self) -> Any:
        return self

    def __sub__(self, other: Any) -> Any:
        return self + -_plain(other) if _known(other) else NotImplemented

    def __rsub__(self, other: Any) -> Any:
        return -self + other if _known(other) else NotImplemented

    def __mul__(self, other: Any) -> Any:
        if other.__class__ is not SymInt:
            other = _number(other)
            if other is None:
                return NotImplemented
            if not other:
                return 0
            return self if other == 1 else SymInt(tuple([(product, factor * other) for product, factor in self.terms]))
        total: dict[Any, Any] = {}
        for p, a in self.terms:
            for q, b in other.terms:
                product = tuple(sorted((*p, *q), key=hash)) if p and q else p or q
                total[product] = total.get(product, 0) + a * b
        return _polynomial(total)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return call("/", self, _plain(other)) if _known(other) else NotImplemented

    def __rtruediv__(self, other: Any) -> Any:
        return call("/", _plain(other), self) if _known(other) else NotImplemented

    def __pow__(self, exponent: int) -> Any:
        total: Any = 1
        for _ in range(exponent):
            total = total * self
        return total

    def __floordiv__(self, other: Any) -> Any:
        return quotient(self, _plain(other)) if _known(other) else NotImplemented

    def __rfloordiv__(self, other: Any) -> Any:
        return quotient(_plain(other), self) if _known(other) else NotImplemented

    def __mod__(self, other: Any) -> Any:
        return remainder(self, _plain(other)) if _known(other) else NotImplemented

    def __rmod__(self, other: Any) -> Any:
        return remainder(_plain(other), self) if _known(other) else NotImplemented

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __eq__(self, other: object) -> bool:
        if other.__class__ is SymInt:
            if self.terms == other.terms:  # type: ignore[attr-defined]
                return True
        elif (other := _number(other)) is None or self._exceeds(other):
            return False
        return _decide(self - other, "==")

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: Any) -> bool:
        return _decide(-self + other, ">")

    def __le__(self, other: Any) -> bool:
        return _decide(-self + other, ">=")

    def __gt__(self, other: Any) -> bool:
        return (other.__class__ is int and self._exceeds(other)) or _decide(self - other, ">")

    def __ge__(self, other: Any) -> bool:
        return (other.__class__ is int and self._exceeds(other)) or _decide(self - other, ">=")

    def __bool__(self) -> bool:
        return self._exceeds(0) or not _decide(self, "==")

    def _exceeds(self, number: Any) -> bool:
        """Whether it is larger than a number for all sizes: quickly, since most comparisons are with 0 and 1."""
        least = self._least
        if least is _UNKNOWN:
            least = self._least = bounds(self)[0]
        return least is not None and least > number

    def __abs__(self) -> Any:
        return self if self >= 0 else -self

    def __index__(self) -> int:
        """The value at hand, on which the graph depends from here on: no other size has it."""
        env = active.env
        assert env is not None, "a size is needed where no sizes are at hand"
        return env.pin(self)

    def __float__(self) -> float:
        return float(self.__index__())


_UNKNOWN: Any = object()
_NUMBERS = (int, float, bool)


def _number(x: Any) -> Any:
    """A number, NumPy's as well, as Python's; None for anything else."""
    if x.__class__ in _NUMBERS:
        return x
    return x.item() if isinstance(x, np.generic) and x.dtype.kind in "biuf" else None


def _known(x: Any) -> bool:
    return x.__class__ is SymInt or _number(x) is not None


def _plain(x: Any) -> Any:
    return x if x.__class__ is SymInt else _number(x)


def symbol(number: int) -> SymInt:
    """The size with this number.

    >>> describe(symbol(0) * 784)
    '784*s0'
    """
    return SymInt((((number,), 1),))


def call(function: str, *arguments: Any) -> SymInt:
    """What a function in FUNCTIONS makes of sizes."""
    return SymInt(((((function, *arguments),), 1),))


def called(function: str, *arguments: Any) -> Any:
    """The same in its simplest form: of numbers it is a number.

    >>> called("float", 3), describe(called("//", symbol(0) * 6, 3))
    (3.0, '2*s0')
    """
    if function == "//":
        return quotient(*arguments) if any(map(is_symbolic, arguments)) else arguments[0] // arguments[1]
    if function == "%":
        return remainder(*arguments) if any(map(is_symbolic, arguments)) else arguments[0] % arguments[1]
    if any(map(is_symbolic, arguments)):
        return call(function, *arguments)
    return FUNCTIONS[function](*arguments)


def describe(x: Any) -> str:
    """With names in place of values."""
    if x.__class__ is not SymInt:
        return str(x)
    parts = []
    for product, factor in x.terms:
        names = [f"s{a}" if a.__class__ is int else f"{a[0]}({', '.join(map(describe, a[1:]))})" for a in product]
        parts.append("*".join(([] if factor == 1 and names else [str(factor)]) + sorted(names)))
    return " + ".join(sorted(parts)).replace("+ -", "- ")


def _polynomial(total: dict[Any, Any]) -> Any:
    """The number or the SymInt with these terms."""
    terms = [term for term in total.items() if term[1]]
    if not terms:
        return 0
    if len(terms) > 1:
        terms.sort(key=lambda term: hash(term[0]))
    elif not terms[0][0]:
        return terms[0][1]
    return SymInt(tuple(terms))


def _parts(x: Any) -> Terms:
    return x.terms if x.__class__ is SymInt else (((), x),) if x else ()


def divided(x: Any, by: Any) -> Any:
    """x / by where that is a polynomial with whole factors, else None."""
    divisor = _parts(by)
    if len(divisor) != 1:
        return 1 if _parts(x) == divisor else None
    ((below, number),) = divisor
    total: dict[Any, Any] = {}
    for product, factor in _parts(x):
        left = list(product)
        for a in below:
            at = next((i for i, other in enumerate(left) if always_equal(a, other)), None)
            if at is None:
                return None
            del left[at]
        if number.__class__ is float or factor.__class__ is float or factor % number:
            return None
        total[tuple(left)] = factor // number
    return _polynomial(total)


def quotient(x: Any, by: Any) -> Any:
    exact = divided(x, by)
    if exact is not None:
        return exact
    if _below(x, by):
        return 0
    if by.__class__ is int and x.__class__ is SymInt:  # (4 s0 + 1) // 2 is 2 s0 + 1 // 2
        whole = {product: factor // by for product, factor in x.terms if factor.__class__ is int and not factor % by}
        rest = _polynomial({product: factor for product, factor in x.terms if product not in whole})
        if whole:
            return _polynomial(whole) + rest // by
    return call("//", x, by)


def _below(x: Any, by: Any) -> bool:
    """Whether 0 <= x < by for all sizes."""
    low, (_, above) = bounds(x)[0], bounds(x - by)
    return low is not None and low >= 0 and above is not None and above < 0


def remainder(x: Any, by: Any) -> Any:
    if divided(x, by) is not None:
        return 0
    if _below(x, by):
        return x
    if by.__class__ is int and by > 0 and x.__class__ is SymInt:  # multiples of `by` leave no remainder
        kept = {product: factor for product, factor in x.terms if factor.__class__ is not int or factor % by}
        x = _polynomial(kept)
        if x.__class__ is not SymInt:
            return x % by
    return call("%", x, by)


def bounds(x: Any) -> Bounds:
    """The least and greatest value for any sizes, None where there is none or it is not known.

    >>> bounds(symbol(0) * 3 - 1)
    (5, None)
    """
    low: Any = 0
    high: Any = 0
    for product, factor in _parts(x):
        least, most = 1, 1
        for a in product:
            down, up = (LEAST, None) if a.__class__ is int else _call_bounds(a)
            least, most = _product(least, most, down, up)
        if factor < 0:
            least, most = most, least
        low = None if low is None or least is None else low + least * factor
        high = None if high is None or most is None else high + most * factor
    return low, high


def _product(a: Any, b: Any, c: Any, d: Any) -> Bounds:
    """Bounds of x * y for a <= x <= b and c <= y <= d: of numbers that are not negative, or of one of them alone."""
    if (a, b) == (1, 1):
        return c, d
    if a is None or c is None or a < 0 or c < 0:
        return None, None
    return a * c, None if b is None or d is None else b * d


def _call_bounds(a: tuple[Any, ...]) -> Bounds:
    if a[0] not in ("//", "%"):
        return None, None
    low, high = bounds(a[1])
    least, most = bounds(a[2])
    if least is None or least < 1:
        return None, None
    if a[0] == "%":
        return 0, None if most is None else most - 1
    down = None if low is None else low // least if low < 0 else 0 if most is None else low // most
    up = None if high is None else high // least if high >= 0 else -1 if most is None else high // most
    return down, up


def evaluate(x: Any, sizes: Sequence[int]) -> Any:
    """The value for these sizes; x itself if it is none of theirs.

    >>> evaluate(symbol(0) * symbol(1) + 1, [3, 5])
    16
    """
    if x.__class__ is not SymInt:
        return x
    if len(x.terms) == 1:  # most are: quickly
        ((product, factor),) = x.terms
        if len(product) == 1 and product[0].__class__ is int:
            return factor * sizes[product[0]]
    total = 0
    for product, factor in x.terms:
        for a in product:
            if a.__class__ is int:
                factor = factor * sizes[a]
            else:
                factor = factor * FUNCTIONS[a[0]](*[evaluate(y, sizes) for y in a[1:]])
        total += factor
    return total


def evaluated(x: Any, sizes: Sequence[int]) -> Any:
    """The same for whatever is in tuples."""
    if isinstance(x, tuple):
        found = [evaluated(y, sizes) if isinstance(y, (tuple, SymInt)) else y for y in x]
        return tuple(found) if x.__class__ is tuple else x.__class__(*found)
    return evaluate(x, sizes)


def always_equal(a: Any, b: Any) -> bool:
    """Whether two sizes, or tuples of them, are equal for all sizes. Where nothing depends on the answer but speed, it
    is better than `==`, which may hold by chance and then is a guard.

    >>> always_equal((symbol(0), 8), (symbol(0), 8)), always_equal(symbol(0), 8)
    (True, False)
    """
    if a is b:
        return True
    if a.__class__ is tuple or b.__class__ is tuple:
        return a.__class__ is b.__class__ and len(a) == len(b) and all(map(always_equal, a, b))
    if a.__class__ is SymInt or b.__class__ is SymInt:
        return a.__class__ is b.__class__ and a.terms == b.terms
    return a == b


def plain(x: Any) -> Any:
    """What `marshal` and a digest know, the same in every process: a SymInt as a tuple that begins with "size".

    >>> plain((symbol(0) * 2 + 1, 7))
    (('size', (((), 1), ((0,), 2))), 7)
    """
    if x.__class__ is SymInt:
        terms = [(_in_order(list(map(plain, product))), factor) for product, factor in x.terms]
        return "size", _in_order(terms)
    return tuple(map(plain, x)) if isinstance(x, tuple) else x


def _in_order(xs: list[Any]) -> tuple[Any, ...]:
    if len(xs) > 1:
        xs.sort(key=repr)
    return tuple(xs)


def from_plain(x: Any) -> Any:
    """The way back. Tuples with names are plain ones now."""
    if x.__class__ is not tuple:
        return x
    if not x or x[0] != "size":
        return tuple(map(from_plain, x))
    total: Any = 0
    for product, factor in x[1]:
        for a in product:
            factor = factor * (symbol(a) if a.__class__ is int else call(*from_plain(a)))
        total = total + factor
    return total


def is_symbolic(x: Any) -> bool:
    """Whether it is a SymInt, or a tuple with one in it."""
    return x.__class__ is SymInt or (isinstance(x, tuple) and any(map(is_symbolic, x)))


def _decide(d: Any, relation: str) -> bool:
    """Whether `d relation 0`: "==", ">" or ">="."""
    if d.__class__ is not SymInt:
        return d == 0 if relation == "==" else d > 0 or (d == 0 and relation == ">=")
    env = active.env
    assert env is not None, "a size is compared where no sizes are at hand"
    return env.decide(d, relation)


def symbols(x: Any) -> set[int]:
    """The numbers of the sizes in it."""
    if x.__class__ is not SymInt:
        return set()
    found: set[int] = set()
    for product, _ in x.terms:
        for a in product:
            if a.__class__ is int:
                found.add(a)
            else:
                for y in a[1:]:
                    found |= symbols(y)
    return found

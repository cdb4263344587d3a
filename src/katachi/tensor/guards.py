"""What a compiled function reads beside its arguments, and whether that is still as it was.

Nothing is run to find it: `tensor/search.py` starts at the function, takes the names in its code (`tensor/names.py`)
and follows what they stand for: closure cells, globals, default arguments, functions, the user's modules, classes and
objects, and containers, element by element. Each place found is a `Read`. Constant tensors in such places are operands
of the program; of everything else the value is compared before each call, by one function written for that purpose.

What belongs to a library (katachi, the standard library, installed packages that do not use katachi) is taken to stay
as it is, but for what the code names of its objects.
"""

from __future__ import annotations

import keyword
import operator
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from katachi.tensor.handle import Handle
from katachi.tensor.tensor import Tensor
from katachi.tensor.trees import PLAIN

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "missing"})()


def contents(cell: Any) -> Any:
    """What a closure's cell holds."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def same(now: Any, then: Any) -> bool:
    """Whether two objects are one, or plain values that nothing tells apart."""
    if now is then:
        return True
    if now.__class__ is not then.__class__ or not (then.__class__ in PLAIN or isinstance(then, np.generic)):
        return False
    if isinstance(then, (float, complex, np.generic)):  # 0.0 == -0.0, and a NaN is unlike itself
        return repr(now) == repr(then)
    return now == then


def alike(now: tuple[Any, ...], then: tuple[Any, ...]) -> bool:
    """Whether two containers have the same elements."""
    return len(now) == len(then) and (all(map(operator.is_, now, then)) or all(map(same, now, then)))


def content(x: Any) -> Any:
    """The whole value of an array."""
    return (x.shape, x.dtype.str, x.tobytes()) if isinstance(x, np.ndarray) else bytes(x)


# How a place is read: the expression (h: holder, k: key) and how its value is compared: "is", "==" or "alike".
HOW = {
    "item": ("{h}[{k}]", "is"),
    "entry": ("{h}.get({k}, missing)", "is"),  # a name that may be missing
    "field": ("getattr({h}, {k}, missing)", "is"),
    "cell": ("contents({h})", "is"),
    "referent": ("{h}()", "is"),
    "context": ("{h}.get(missing)", "is"),
    "length": ("len({h})", "=="),
    "elements": ("(*{k}.__iter__({h}),)", "alike"),
    "names": ("[*{h}]", "=="),  # of a dict whose keys are strings
    "keys": ("(*{k}.keys({h}),)", "alike"),
    "values": ("(*{k}.values({h}),)", "alike"),
    "content": ("content({h})", "=="),
}
COMPARISONS = {"is": "{now} is {then}", "==": "{now} == {then}", "alike": "alike({now}, {then})"}
READERS = {
    how: eval(
        f"lambda h, k: {text.format(h='h', k='k')}", {"missing": MISSING, "contents": contents, "content": content}
    )
    for how, (text, _) in HOW.items()
}


class Read(NamedTuple):
    """A place that a compiled function may read, and what was there before it was traced."""

    how: str
    holder: Any
    key: Any
    value: Any
    name: str

    def at(self) -> tuple[str, int, Any]:
        """The place, hashable."""
        return self.how, id(self.holder), self.key if isinstance(self.key, (str, int)) else id(self.key)

    def now(self) -> Any:
        """What is there now."""
        try:
            return READERS[self.how](self.holder, self.key)
        except Exception:
            return MISSING

    def differs(self) -> bool:
        now, comparison = self.now(), HOW[self.how][1]
        if comparison == "is":
            return not same(now, self.value)
        return now is MISSING or not (now == self.value if comparison == "==" else alike(now, self.value))

    def write(self, value: Any) -> None:
        """Put a value there, as the function did when it was traced."""
        if self.how == "cell":
            self.holder.cell_contents = value
        elif self.how == "field":
            setattr(self.holder, self.key, value)
        else:
            self.holder[self.key] = value

    def writable(self) -> bool:
        return self.how in ("cell", "field") or (
            self.how in ("item", "entry") and isinstance(self.holder, (dict, list, deque))
        )


class Guards:
    """What a function reads. `tensors` are the places that hold tensors, but for state; `reads` all others."""

    def __init__(self, reads: Iterable[Read], reached: dict[int, Any]) -> None:
        reads = list(reads)
        self.reached = reached  # all objects found, by id
        self.tensors = [r for r in reads if HOW[r.how][1] == "is" and is_value(r.value)]
        found = {id(r) for r in self.tensors}
        self.reads = [r for r in reads if id(r) not in found]

    def and_of(self, other: Guards) -> Guards:
        """These, and those of the others whose places are not among them."""
        mine = {r.at() for r in (*self.reads, *self.tensors)}
        more = [r for r in (*other.reads, *other.tensors) if r.at() not in mine]
        return Guards([*self.reads, *self.tensors, *more], self.reached | other.reached)

    def changed(self) -> list[Read]:
        """The places that hold something else now."""
        return [r for r in (*self.reads, *self.tensors) if r.differs()]

    def used(self, tensors: set[int]) -> tuple[list[Read], Callable[[], list[Any] | None]]:
        """The places of constant tensors that are among the used ones, by id; and a function that gives what these hold
        now, or None if anything else is not as it was."""
        operands = [r for r in self.tensors if id(r.value) in tensors and enters(r.value)]
        fixed = [r for r in self.tensors if id(r.value) in tensors and not enters(r.value)]
        others = [r for r in self.tensors if id(r.value) not in tensors]  # only their shapes and dtypes can matter
        return operands, _checker([*self.reads, *fixed], others, operands)


def enters(x: Any) -> bool:
    """Whether a value found in a place is an operand, like an argument."""
    return x.__class__ is Tensor and x._cell is None and x._origin is None


def is_value(x: Any) -> bool:
    """Whether it is a tensor, and not state."""
    return isinstance(x, Handle) and x._cell is None


def _checker(reads: Sequence[Read], kinds: Sequence[Read], operands: Sequence[Read]) -> Callable[[], list[Any] | None]:
    """One function for all comparisons: straight-line code is several times as fast as a loop over rows."""
    space: dict[str, Any] = {
        "missing": MISSING, "contents": contents, "content": content, "alike": alike, "same": same
    }  # fmt: skip
    named: dict[int, str] = {}

    def name(x: Any) -> str:
        if x.__class__ is str or x.__class__ is int:
            return repr(x)
        if id(x) not in named:
            named[id(x)] = f"c{len(named)}"
            space[named[id(x)]] = x
        return named[id(x)]

    def expression(r: Read) -> str:
        if r.value is not MISSING:  # reading what is gone raises
            if r.how == "cell":
                return f"{name(r.holder)}.cell_contents"
            if r.how == "field" and r.key.isidentifier() and not keyword.iskeyword(r.key):
                return f"{name(r.holder)}.{r.key}"
        return HOW[r.how][0].format(h=name(r.holder), k=name(r.key))

    tests = []
    for r in reads:
        now, then = expression(r), "missing" if r.value is MISSING else name(r.value)
        comparison = HOW[r.how][1]
        if (
            comparison == "is"
            and (r.value.__class__ in PLAIN or isinstance(r.value, np.generic))
            and r.value is not None
        ):
            space[f"v{len(tests)}"] = r.value
            then = f"v{len(tests)}"
            tests.append(f"({now} is {then} or same({now}, {then}))")
        else:
            tests.append(COMPARISONS[comparison].format(now=now, then=then))
    tests += [f"getattr({expression(r)}, '_aval', None) is {name(r.value._aval)}" for r in kinds]
    text = (
        "def still():\n try:\n  if " + "\\\n  and ".join(tests or ["True"])
        + f":\n   return [{', '.join(map(expression, operands))}]\n except Exception:\n  pass\n return None\n"
    )  # fmt: skip
    exec(compile(text, "<guards>", "exec"), space)
    return space["still"]

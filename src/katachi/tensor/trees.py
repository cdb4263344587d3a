"""Tensors in nested tuples, lists and dicts: taken out, and put back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from katachi.tensor.creation import tensor
from katachi.tensor.handle import Handle


class Leaf(NamedTuple):
    """In a structure: the place of a tensor."""

    kind: str = "tensor"


class Static(NamedTuple):
    """In a structure: what is not a tensor. Equal are the same object, and equal plain values of one class."""

    kind: type
    value: Any


class Branch(NamedTuple):
    """In a structure: a tuple, list or dict (with its keys) of structures."""

    kind: type
    keys: tuple[Any, ...] | None
    parts: tuple[Any, ...]


LEAF = Leaf()
OPEN = type("Open", (), {"__repr__": lambda self: "any"})()  # the value of a number that is an operand
PLAIN = (bool, int, float, complex, str, bytes, type(None))


def flatten(x: Any, leaves: list[Any], numbers: list[Any] | None = None) -> Any:
    """The hashable structure of x; its tensors (and arrays, as tensors) are appended to `leaves`, its ints and floats
    to `numbers`. State, parameters for instance, counts as an object, not as a value."""
    if isinstance(x, Handle) and x._cell is None:
        leaves.append(x)
        return LEAF
    if isinstance(x, np.ndarray):
        leaves.append(tensor(x))
        return LEAF
    kind = x.__class__
    if kind is tuple or kind is list or (isinstance(x, tuple) and hasattr(x, "_fields")):
        return Branch(kind, None, tuple([flatten(v, leaves, numbers) for v in x]))
    if kind is dict:
        return Branch(kind, tuple(x), tuple([flatten(v, leaves, numbers) for v in x.values()]))
    if kind in PLAIN:
        if numbers is not None and (kind is float or kind is int):
            numbers.append(x)
        return Static(kind, repr(x) if kind is float else x)  # 0.0 == -0.0, and a NaN is equal to itself here
    return flatten(x.item(), leaves, numbers) if isinstance(x, np.generic) else Static(kind, Same(x))


def opened(structure: Any, which: Set[int] | None, count: Iterator[int]) -> Any:
    """The structure with these of its numbers, or all, left open; `count` counts them."""
    if isinstance(structure, Branch):
        return structure._replace(parts=tuple([opened(p, which, count) for p in structure.parts]))
    if isinstance(structure, Static) and structure.kind in (int, float):
        i = next(count)
        return structure if which is not None and i not in which else Static(structure.kind, OPEN)
    return structure


class Same:
    """Compares and hashes by identity, and keeps the object alive."""

    __slots__ = ("of",)

    def __init__(self, of: Any) -> None:
        self.of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.of is other.of

    def __hash__(self) -> int:
        return id(self.of)


def objects(structure: Any) -> list[Any]:
    """Everything in a structure that is neither tensor nor plain value, and the classes of its named tuples."""
    if isinstance(structure, Static):
        return [structure.value.of] if isinstance(structure.value, Same) else []
    if not isinstance(structure, Branch):
        return []
    return [
        *([structure.kind] if hasattr(structure.kind, "_fields") else []),
        *[x for p in structure.parts for x in objects(p)],
    ]


def rebuild(structure: Any, leaves: Iterator[Any], numbers: Iterator[Any] | None = None) -> Any:
    """What `flatten` took apart, with other leaves, and with `numbers` where they were left open."""
    if structure is LEAF:
        return next(leaves)
    if isinstance(structure, Static):
        value = structure.value
        if value is OPEN:
            assert numbers is not None
            return next(numbers)
        return value.of if isinstance(value, Same) else float(value) if structure.kind is float else value
    parts: Sequence[Any] = [rebuild(p, leaves, numbers) for p in structure.parts]
    if structure.keys is not None:
        return dict(zip(structure.keys, parts, strict=True))
    return structure.kind(*parts) if hasattr(structure.kind, "_fields") else structure.kind(parts)

"""float16 and bfloat16 are for storage: an operation of several roundings computes in float32 and rounds once.

Its derivatives do too: they are those of the float32 nodes, and the conversion back rounds each gradient once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from katachi.graph import build as b
from katachi.graph.dtypes import DType, bfloat16, float16, float32
from katachi.graph.node import Node

HALVES = (float16, bfloat16)


def upcast(x: Node) -> Node:
    """x as float32 if it is a half, else x."""
    return b.convert(x, float32) if x.dtype in HALVES else x


def round_to(half: DType, x: Node) -> Node:
    """A float32 result as the half it is rounded to; of another dtype as it is."""
    return b.convert(x, half) if x.dtype is float32 else x


def in_float32(formula: Callable[[Node], Node], x: Node) -> Node:
    """formula(x); of a half computed in float32 and rounded once."""
    return round_to(x.dtype, formula(upcast(x))) if x.dtype in HALVES else formula(x)


def half_of(operands: Iterable[Node]) -> DType | None:
    """The half that the operands promote to, or None: integers and bools give way to it, and two halves to float32."""
    floats = {x.dtype for x in operands if x.dtype.is_floating}
    return floats.pop() if len(floats) == 1 and not floats.isdisjoint(HALVES) else None

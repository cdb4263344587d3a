"""Which numbers among an operation's attributes are sizes that may differ from call to call (`Op.sizes`).

    kt.zeros((64, 32))            both may: zeros((s0, s1))
    x.reshape(64, -1, 28)         64 is x's size s0, 28 is none of x's that may differ: reshape(s0, -1, 28)
    X[i : i + 32]                 32 may: X[i : i + s2]

Each of these functions takes the attributes, a function that makes a size a parameter, and one that gives the shapes of
the operands, as they are and as the graph has them. It gives the attributes for the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from katachi.graph.symint import SymInt, is_symbolic

Attrs = tuple[Any, ...]
Free = Callable[[Any], Any]  # a size, or a tuple of them, as parameters; 0, 1 and negative numbers stay what they are
Shapes = Callable[[], Sequence[tuple[tuple[int, ...], tuple[Any, ...]]]]


def created(attrs: Attrs, free: Free, shapes: Shapes) -> Attrs:
    """Of what has no operands: the shape comes first."""
    return (free(attrs[0]), *attrs[1:])


def matched(attrs: Attrs, free: Free, shapes: Shapes) -> Attrs:
    """A shape, the first attribute, in terms of the operand's, whose neighbouring axes may have become one."""
    ((now, symbolic),) = shapes()
    known: dict[int, Any] = {}
    for i in range(len(now)):
        size, general = 1, 1
        for j in range(i, len(now)):
            size, general = size * now[j], symbolic[j] * general
            if general.__class__ is SymInt and (i == j or size not in known):
                known[size] = general
    shape = attrs[0] if attrs[0].__class__ is tuple else (attrs[0],)
    found = tuple([known.get(n, n) if n.__class__ is int else n for n in shape])
    return (found, *attrs[1:]) if is_symbolic(found) else attrs


def broadcast(attrs: Attrs, free: Free, shapes: Shapes) -> Attrs:
    """A shape, the first attribute: what the operand has not may be anything."""
    ((now, symbolic),) = shapes()
    shape, lead = attrs[0], len(attrs[0]) - len(now)
    found = [free(n) if i < lead or now[i - lead] == 1 else n for i, n in enumerate(shape)]
    for i, n in enumerate(now):
        if lead >= 0 and n != 1 and n == shape[lead + i]:
            found[lead + i] = symbolic[i]
    return (tuple(found), *attrs[1:])

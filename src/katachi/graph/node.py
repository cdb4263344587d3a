"""What the graph is made of: immutable nodes, compared by identity, each with an interned type."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from katachi.graph.dtypes import DType
from katachi.graph.site import Site, origin
from katachi.graph.sizes import Shape


class Aval:
    """What is known of a value before it is computed. Interned by `aval`, so equal means identical."""

    __slots__ = ("__weakref__", "device", "dtype", "shape", "tracked")

    shape: Shape
    dtype: DType
    device: str
    tracked: bool

    def __repr__(self) -> str:
        return f"{self.dtype.name}{list(self.shape)}"


_avals: weakref.WeakValueDictionary[tuple[Shape, DType, str, bool], Aval] = weakref.WeakValueDictionary()
_making = threading.RLock()  # a signal handler may need it as well


def aval(shape: Shape, dtype: DType, device: str, tracked: bool) -> Aval:
    """The one Aval with these properties."""
    key = (shape, dtype, device, tracked)
    found = _avals.get(key)
    if found is None:
        new = Aval()
        new.shape, new.dtype, new.device, new.tracked = key
        with _making:
            found = _avals.setdefault(key, new)
    return found


_serial = itertools.count()


def next_serial() -> int:
    """A serial number that no node has; the difference of two tells how many nodes were made between."""
    return next(_serial)


class Node:
    """One primitive applied to earlier nodes. `serial` grows with every node, so it orders any graph topologically."""

    __slots__ = ("__weakref__", "attrs", "aval", "group", "inputs", "primitive", "serial", "site")

    primitive: str
    inputs: tuple[Node, ...]
    attrs: Mapping[str, Any]
    aval: Aval
    site: Site | None  # the user's line
    group: object  # the same for all nodes of one operation
    serial: int

    def __init__(self, primitive: str, inputs: tuple[Node, ...], attrs: Mapping[str, Any], aval: Aval) -> None:
        self.primitive, self.inputs, self.attrs, self.aval = primitive, inputs, attrs, aval
        self.site, self.group, self.serial = origin.site, origin.group, next(_serial)

    @property
    def shape(self) -> Shape:
        return self.aval.shape

    @property
    def dtype(self) -> DType:
        return self.aval.dtype

    @property
    def device(self) -> str:
        return self.aval.device

    @property
    def tracked(self) -> bool:
        return self.aval.tracked

    def __repr__(self) -> str:
        return f"%{self.serial}:{self.primitive} {self.aval!r}"


def toposort(outputs: Sequence[Node], stop: Callable[[Node], bool] | None = None) -> list[Node]:
    """Every node that `outputs` need, inputs first, in the order in which they were made; not what only nodes for which
    `stop` holds need."""
    seen: set[Node] = set()
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            if stop is None or not stop(node):
                stack.extend(node.inputs)
    return sorted(seen, key=lambda n: n.serial)

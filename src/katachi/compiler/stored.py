"""Recipes on disk, by the graph they are of: a second process neither compiles kernels nor plans.

The name of a file is a digest of all that a recipe follows from: the graph, the machine, threads and katachi's own
code. A graph with a function of the user's in it, or with what only the reference computes, has no name.
"""

from __future__ import annotations

import hashlib
import itertools
import marshal
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from katachi.compiler.recipe import Recipe
from katachi.compiler.steps import Step
from katachi.devices.cpu import cache
from katachi.devices.cpu.engine import engine
from katachi.devices.cpu.launch import Kernels, Launch, Row, load
from katachi.devices.cpu.pool import pool
from katachi.graph.dtypes import DType
from katachi.graph.node import Node, toposort
from katachi.graph.site import of_update
from katachi.graph.symint import SymInt, plain

FIRST = 64  # programs of a process: the next one begins with them as well
LEAST = 24  # nodes: a smaller program, later on, is made as quickly as read
_FORMAT = 2  # of marshal: without references, so that equal graphs are equal bytes
_asked, _written = itertools.count(), itertools.count(1)
_TIDY = 256  # programs written, after which there may be too many


class _Unnamed(Exception):
    """A graph that no file can be of."""


def name_of(
    nodes: Sequence[Node], outputs: Sequence[Node], replaces: Mapping[int, int], kind: str = "program"
) -> str | None:
    """The name of the recipe of `outputs`, which need `nodes`."""
    number = {n: i for i, n in enumerate(nodes)}
    shapes: dict[Any, Any] = {}  # as marshal knows them
    operations: dict[object, int] = {}  # which nodes are one operation's of one line, for a failure names it
    try:
        graph = [
            (
                n.primitive,
                operations.setdefault(asked_for(n), len(operations)),
                tuple(number[x] for x in n.inputs),
                tuple([(k, _plain_attr(v, shapes)) for k, v in n.attrs.items()]),
                shapes[n.aval] if n.aval in shapes else shapes.setdefault(n.aval, _plain(n.shape)),
                n.dtype.name,
                n.device,
                of_update(n.group),
            )
            for n in nodes
        ]
    except _Unnamed:
        return None
    wanted = tuple(number[n] for n in outputs), tuple(replaces.items())
    made_by = repr((engine().made_by, engine().target, pool().threads))
    data = marshal.dumps((graph, wanted, made_by), _FORMAT)
    return f"{kind}_{hashlib.sha256(data).hexdigest()[:40]}"


def asked_for(n: Node) -> object:
    """The same for nodes of one operation at one line, in this process."""
    return n.site and (id(n.site[0]), n.site[1]), id(n.group)


def _plain_attr(x: Any, known: dict[Any, Any]) -> Any:
    """The same, of shapes with sizes once only."""
    if x.__class__ is not tuple or not any([y.__class__ is SymInt for y in x]):
        return _plain(x)
    if x not in known:
        known[x] = _plain(x)
    return known[x]


def _plain(x: Any) -> Any:
    """An attribute as marshal knows it."""
    if x is None or type(x) in (bool, int, float, str):
        return x
    if type(x) in (tuple, list):
        return tuple(_plain(y) for y in x)
    if isinstance(x, DType):
        return "dtype", x.name
    if x.__class__ is SymInt:
        return plain(x)
    if isinstance(x, np.generic):
        return x.dtype.str, x.tobytes()
    raise _Unnamed


def wanted_name(
    nodes: Sequence[Node], outputs: Sequence[Node], replaces: Mapping[int, int], kind: str = "program"
) -> str | None:
    """The name, if such a graph is kept on disk. `kind`: with what it begins."""
    wanted = len(nodes) >= LEAST or next(_asked) < FIRST
    return name_of(nodes, outputs, replaces, kind) if wanted else None


read = cache.read


def write(name: str, data: bytes) -> None:
    """Keep data on disk; from time to time, look whether there is too much."""
    cache.write(name, data)
    if not next(_written) % _TIDY:
        cache.tidy()


def found_or_made(outputs: Sequence[Node], replaces: Mapping[int, int]) -> tuple[Recipe, list[Launch | Step]]:
    """The recipe, from the disk if it is there, and what runs its parts."""
    nodes = toposort(outputs)
    name = wanted_name(nodes, outputs, replaces)
    if name:
        found = _read(name, nodes)
        if found:
            return found
    from katachi.compiler.making import make

    made = make(outputs, replaces)
    if name:
        _write(name, made, nodes)
    loaded = [part if isinstance(part, Step) else load(part) for part in made.parts]
    return made, [part for part in loaded if part is not None]  # all: kernels just made are known


def _read(name: str, nodes: Sequence[Node]) -> tuple[Recipe, list[Launch | Step]] | None:
    data = cache.read(name)
    if data is None:
        return None
    parts, rest = marshal.loads(data)
    kernels = [
        Kernels(
            tuple(Row(*row) for row in rows),
            {row: tuple((nodes[i], axis) for i, axis in checks) for row, checks in all_checks},
            scratch,
        )
        for rows, all_checks, scratch in parts
    ]
    loaded = [load(part) for part in kernels]
    launches: list[Launch | Step] = [launch for launch in loaded if launch is not None]
    if len(launches) < len(kernels):  # some are no longer on disk
        return None
    return Recipe(**rest, parts=tuple(kernels)), launches


def _write(name: str, made: Recipe, nodes: Sequence[Node]) -> None:
    """Keeps the recipe, unless it runs something on the reference device or speaks of what is not in the graph."""
    at = {asked_for(n): i for i, n in enumerate(nodes)}
    try:
        parts = [
            (
                tuple(map(tuple, part.rows)),
                tuple(
                    (row, tuple((at[asked_for(n)], axis) for n, axis in checks)) for row, checks in part.checks.items()
                ),
                part.scratch,
            )
            for part in made.parts
            if not isinstance(part, Step)
        ]
        rest = made._asdict()
        if len(parts) < len(rest.pop("parts")):
            return
        data = marshal.dumps((parts, _bare(rest)))
    except (KeyError, ValueError):
        return
    write(name, data)


def _bare(x: Any) -> Any:
    """Without the names of tuples' parts."""
    if isinstance(x, dict):
        return {key: _bare(value) for key, value in x.items()}
    return tuple(map(_bare, x)) if isinstance(x, tuple) else x

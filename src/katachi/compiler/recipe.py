"""What a program of the CPU device is: rows of a table of addresses, kernels, places in memory. Numbers and names, but
for the nodes that errors speak of."""

from __future__ import annotations

from typing import Any, NamedTuple

from katachi.compiler.steps import Step
from katachi.devices.cpu.launch import Kernels
from katachi.graph.sizes import Shape


class Value(NamedTuple):
    """Something with a row of the table."""

    row: int
    shape: Shape
    dtype: str


class Cell(NamedTuple):
    """A new value that may take the memory of the one it replaces, input `k`."""

    value: Value
    k: int


class Recipe(NamedTuple):
    """All that running a program needs."""

    rows: int  # of the table
    uses: tuple[tuple[int, int], ...]  # row and number of each input
    numbers: tuple[tuple[int, int, str], ...]  # row, number among host numbers, dtype
    fresh: tuple[Value, ...]  # results in new memory
    in_place: tuple[Cell, ...]
    plain: tuple[tuple[Value, Any], ...]  # a constant that is itself a result: it has no group, and copies what it is
    results: tuple[int, ...]
    parts: tuple[Kernels | Step, ...]
    touched: tuple[Value, ...]  # what reference steps read or write
    offsets: tuple[tuple[int, int], ...]  # of temporaries in the arena
    arena: int
    output: int  # bytes of results
    seconds: float
    kinds: tuple[str, ...]  # of the groups

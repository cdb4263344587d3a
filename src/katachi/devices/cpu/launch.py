"""Kernels as one native call."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from katachi.devices.cpu.engine import engine
from katachi.devices.cpu.pool import STOPPED, pool
from katachi.errors import IndexBoundsError

# A row's flags; `pool.FLUSHED` is one as well. The first row that writes to a cell is protected, those behind it are
# committed too.
CHECKED = 1  # the kernel may report a failure
PROTECTED = 2  # once it has begun, no task of it is left out
COMMITTED = 4  # it runs, whoever wants to stop: cells have been written to


class Row(NamedTuple):
    """One kernel: its name, what its code reads, how many tasks it makes of its work, and flags."""

    kernel: str
    parameters: tuple[int, ...]
    tasks: int
    flags: int


class Kernels(NamedTuple):
    """What runs one after another. `checks`: for rows that may fail, what each check is of and along which axis;
    `scratch`: bytes that kernels use beside the table's values."""

    rows: tuple[Row, ...]
    checks: Mapping[int, tuple[tuple[Any, int], ...]]
    scratch: int


class Launch:
    """A row of kernels as one native call. `whole()`: whether the last call ran to its end, whatever was raised."""

    __slots__ = ("checks", "count", "keep", "run", "scratch", "start", "status", "status_address")

    def __init__(self, kernels: Kernels, addresses: list[int]) -> None:
        flat = np.array([n for row in kernels.rows for n in row.parameters] or [0], np.int64)
        at, rows = _address(flat), []
        for row, kernel in zip(kernels.rows, addresses, strict=True):
            rows += [kernel, at, row.tasks, row.flags]
            at += 8 * len(row.parameters)
        table = np.array(rows or [0], np.int64)
        self.start, self.count, self.keep = _address(table), len(kernels.rows), (table, flat)
        self.checks, self.scratch = kernels.checks, kernels.scratch
        status = np.zeros(4, np.int64)  # the first failed check + 1, value and size of it; 1 when all has run
        self.status, self.status_address = status.data, _address(status)
        self.run = pool().run

    def __call__(self, pointers: int) -> None:
        self.status[3] = 0
        self.finish(self.run(self.start, self.count, pointers, self.status_address))

    def whole(self) -> bool:
        return self.status[3] == 1

    def finish(self, result: int) -> None:
        """Raises what the result of a call says."""
        if result >= 0:
            report, value, size = self.status[0], self.status[1], self.status[2]
            self.status[0] = 0
            _raise(*self.checks[result][report - 1], value, size)
        if result == STOPPED:
            raise KeyboardInterrupt

    def beside(self, pointers: int) -> None:
        """The same in another thread, so that the main thread can be interrupted: then what runs is stopped, unless it
        has begun to write to cells."""
        self.status[3] = 0
        result: list[int] = []
        over = threading.Event()  # an interrupted join() takes a running thread for a finished one

        def work() -> None:
            result.append(self.run(self.start, self.count, pointers, self.status_address))
            over.set()

        threading.Thread(target=work, name="katachi-run").start()
        try:
            over.wait()
        except BaseException:
            pool().cancel(1)
            while not over.is_set():
                with contextlib.suppress(KeyboardInterrupt):  # it is on its way out
                    over.wait()
            pool().cancel(0)
            raise
        self.finish(result[0])


def load(kernels: Kernels) -> Launch | None:
    """What runs the kernels, given the address of the table; None if one of them is neither known nor on disk."""
    addresses = engine().addresses([row.kernel for row in kernels.rows])
    return None if addresses is None else Launch(kernels, addresses)


def _address(array: np.ndarray[Any, Any]) -> int:
    return array.__array_interface__["data"][0]


def _raise(node: Any, axis: int, value: int, size: int) -> None:
    error = IndexBoundsError(f"index {value} is outside axis {axis} of size {size}")
    error.node = node  # type: ignore[attr-defined] # the program says whose line it was
    raise error

"""Kernels as one native call."""

from __future__ import annotations

import _thread
import contextlib
import threading
from collections.abc import Callable, Mapping
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


class Table:
    """Kernels as the pool reads them, one after another."""

    def __init__(self, scratch: int) -> None:
        self.scratch = scratch
        self.rows: list[int] = []
        self.checks: dict[int, tuple[tuple[Any, int], ...]] = {}
        self.kept: list[Any] = []

    def keep(self, parameters: np.ndarray[Any, Any]) -> int:
        """The address of parameters, which stay where they are."""
        self.kept.append(parameters)
        return _address(parameters)

    def add(self, kernel: int, parameters: int, tasks: int, flags: int, checks: Any = ()) -> None:
        """A kernel at an address, with its parameters at another."""
        if checks:
            self.checks[len(self.rows) // 4] = checks
        self.rows += (kernel, parameters, tasks, flags)


class Launch:
    """A row of kernels as one native call. `whole()`: whether the last call ran to its end, whatever was raised."""

    __slots__ = ("aside", "checks", "count", "keep", "run", "scratch", "start", "status", "status_address")

    def __init__(self, made: Table) -> None:
        table = np.array(made.rows or [0], np.int64)
        self.start, self.count, self.keep = _address(table), len(made.rows) // 4, (table, *made.kept)
        self.checks, self.scratch = made.checks, made.scratch
        status = np.zeros(4, np.int64)  # the first failed check + 1, value and size of it; 1 when all has run
        self.status, self.status_address = status.data, _address(status)
        self.run = pool().run
        self.aside: _Aside | None = None

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
        aside = _Aside(lambda: self.run(self.start, self.count, pointers, self.status_address))
        try:
            self.aside = aside
            _thread.start_new_thread(aside.work, ())
            aside.over.wait()
        except BaseException:
            if not aside.give_up():
                pool().cancel(1)
                while not aside.over.is_set():
                    with contextlib.suppress(BaseException):  # it is on its way out
                        aside.over.wait()
                pool().cancel(0)
            self.aside = None
            raise
        self.aside = None
        self.finish(aside.result)

    def wait(self) -> None:
        """Until what runs beside the main thread, if anything does, has ended."""
        aside = self.aside
        while aside is not None and not aside.given_up() and not aside.over.wait(0.01):
            pass


class _Aside:
    """A call that a thread of its own makes, unless the one who waits for it gives up before: who comes first."""

    def __init__(self, call: Callable[[], int]) -> None:
        self.call, self.result, self.over = call, 0, threading.Event()
        self.first: dict[str, bool] = {}  # setdefault decides, in one step

    def work(self) -> None:
        if self.first.setdefault("runs", True):
            try:
                self.result = self.call()
            finally:
                self.over.set()

    def give_up(self) -> bool:
        """Whether the call will never be made; otherwise it is made, or has been."""
        return not self.first.setdefault("runs", False)

    def given_up(self) -> bool:
        return self.first.get("runs") is False


def load(kernels: Kernels) -> Launch | None:
    """What runs the kernels, given the address of the table; None if one of them is neither known nor on disk."""
    addresses = engine().addresses([row.kernel for row in kernels.rows])
    if addresses is None:
        return None
    table = Table(kernels.scratch)
    at = table.keep(np.array([n for row in kernels.rows for n in row.parameters] or [0], np.int64))
    for i, (row, kernel) in enumerate(zip(kernels.rows, addresses, strict=True)):
        table.add(kernel, at, row.tasks, row.flags, kernels.checks.get(i, ()))
        at += 8 * len(row.parameters)
    return Launch(table)


def _address(array: np.ndarray[Any, Any]) -> int:
    return array.__array_interface__["data"][0]


def _raise(node: Any, axis: int, value: int, size: int) -> None:
    error = IndexBoundsError(f"index {value} is outside axis {axis} of size {size}")
    error.node = node  # type: ignore[attr-defined] # the program says whose line it was
    raise error

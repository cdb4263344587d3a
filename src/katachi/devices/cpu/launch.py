"""Groups as one native call: parameters, tasks and the table that the runner walks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from katachi.devices.cpu.engine import engine
from katachi.devices.cpu.pool import CHECKED, COMMITTED, PROTECTED, STOPPED, pool
from katachi.errors import IndexBoundsError
from katachi.graph.node import Node
from katachi.kernels.attention import lower_attention
from katachi.kernels.convolution import lower_convolution
from katachi.kernels.in_order import lower_in_order
from katachi.kernels.loops import Kernel, Steps
from katachi.kernels.matmul import lower_matmul
from katachi.kernels.nest import lower_loops
from katachi.kernels.sort import lower_sort
from katachi.kernels.unpool import lower_unpool

if TYPE_CHECKING:
    from katachi.compiler.fuse import Group

TEMPLATES: dict[str, Callable[..., Steps]] = {
    "matmul": lower_matmul,
    "convolution": lower_convolution,
    "attention": lower_attention,
    "sort": lower_sort,
    "unpool": lower_unpool,
}
EXPRESSIONS = ("loops", "in order")  # the kinds of groups that are written in the loop language
ALONE = 60_000  # instructions and elements: below, waking another thread costs more than it saves
_GRAIN = 64  # steps of a vector loop come in whole vectors of any target


class Launch:
    """A row of kernels as one native call. `whole()`: whether the last call ran to its end, whatever was raised."""

    __slots__ = ("checks", "count", "keep", "run", "scratch", "start", "status", "status_address")

    def __init__(
        self, rows: list[int], checks: dict[int, tuple[tuple[Node, int], ...]], scratch: int, keep: object
    ) -> None:
        table = np.array(rows or [0], np.int64)
        self.start, self.count, self.checks, self.keep = _address(table), len(rows) // 4, checks, (table, keep)
        self.scratch = scratch  # bytes that templates use beside the table's values
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


def load(groups: Sequence[Group], index: dict[Node, int], firm: int) -> Launch:
    """What runs the groups, given the address of the pointer table. From group `firm` on cells are written to.

    `index` is each value's row of that table. Kernels whose structure is new are compiled here, together.
    """
    parts: list[tuple[Any, list[int], int, int]] = []  # key, parameters, tasks, flags
    checks: dict[int, tuple[tuple[Node, int], ...]] = {}
    scratch = 0
    threads = pool().threads
    written = False  # whether cells have been, before this part
    for i, group in enumerate(groups):
        if group.kind not in EXPRESSIONS:
            node = group.outputs[-1]
            made = group.outputs if group.kind == "attention" else node  # of the others there is one result
            steps = TEMPLATES[group.kind](node, made, index, threads, engine().target)
            late = (PROTECTED | COMMITTED) if written else 0
            parts.extend((key, parameters, tasks, late) for key, parameters, tasks in steps.kernels)
            scratch = max(scratch, steps.scratch)
            continue
        these = group.nodes, group.inputs, group.outputs, index
        for kernel in lower_in_order(*these) if group.kind == "in order" else [lower_loops(*these, group.local)]:
            tasks = _split(kernel, threads)
            if tasks:
                flags = (PROTECTED if i >= firm else 0) | (COMMITTED if written else 0)
                written = written or i >= firm
                if kernel.checks:
                    checks[len(parts)] = kernel.checks
                    flags |= CHECKED
                parts.append((kernel.code, kernel.parameters, tasks, flags))

    addresses = engine().addresses(engine().names([p[0] for p in parts]))
    assert addresses is not None
    flat = np.array([n for _, parameters, _, _ in parts for n in parameters] or [0], np.int64)
    at, rows = _address(flat), []
    for (_, parameters, tasks, flags), kernel_address in zip(parts, addresses, strict=True):
        rows += [kernel_address, at, tasks, flags]
        at += 8 * len(parameters)
    return Launch(rows, checks, scratch, flat)


def _address(array: np.ndarray[Any, Any]) -> int:
    return array.__array_interface__["data"][0]


def _raise(node: Node, axis: int, value: int, size: int) -> None:
    error = IndexBoundsError(f"index {value} is outside axis {axis} of size {size}")
    error.node = node  # type: ignore[attr-defined] # the program says whose line it was
    raise error


def _split(kernel: Kernel, threads: int) -> int:
    """How many tasks; writes into the kernel's parameters which loop they share. Zero if there is nothing to do."""
    code, sizes = kernel.code, kernel.extents
    outer = sizes[: code.outer]
    slot = code.split_slot
    kernel.parameters[slot : slot + 2] = [-1, 0]
    if not all(outer):
        return 0
    pieces = min(4 * threads, kernel.work // ALONE)
    if threads == 1 or pieces < 2 or not outer:
        return 1
    loop = 0 if outer[0] >= pieces else max(range(code.outer), key=outer.__getitem__)
    grain = _GRAIN if loop == code.vector else 1
    steps = -(-outer[loop] // grain)
    chunk = -(-steps // min(pieces, steps)) * grain
    kernel.parameters[slot : slot + 2] = [loop, chunk]
    return -(-outer[loop] // chunk)

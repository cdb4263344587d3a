"""Groups as one native call: parameters, tasks and the table that the runner walks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from katachi.devices.cpu.engine import engine
from katachi.devices.cpu.pool import CHECKED, pool
from katachi.errors import IndexBoundsError
from katachi.graph.node import Node
from katachi.kernels.loops import Kernel
from katachi.kernels.matmul import lower_matmul
from katachi.kernels.nest import lower_loops

if TYPE_CHECKING:
    from katachi.compiler.fuse import Group

ALONE = 60_000  # instructions and elements: below, waking another thread costs more than it saves
_GRAIN = 64  # steps of a vector loop come in whole vectors of any target


def load(groups: Sequence[Group], index: dict[Node, int]) -> Callable[[int], None]:
    """A function that runs the groups, given the address of the pointer table.

    `index` is each value's row of that table. Kernels whose structure is new are compiled here, together.
    """
    parts: list[tuple[Any, list[int], int, int]] = []  # key, parameters, tasks, flags
    checks: dict[int, dict[int, Node]] = {}
    keep: list[Any] = []
    threads = pool().threads
    for group in groups:
        if group.kind == "matmul":
            (node,) = group.outputs
            steps, scratch = lower_matmul(node, node, index, threads, engine().target)
            parts.extend((key, parameters, tasks, 0) for key, parameters, tasks in steps)
            keep.append(scratch)
            continue
        kernel = lower_loops(group.nodes, group.inputs, group.outputs, index)
        tasks = _split(kernel, threads)
        if tasks:
            if kernel.checks:
                checks[len(parts)] = dict(kernel.checks)
            parts.append((kernel.code, kernel.parameters, tasks, CHECKED if kernel.checks else 0))

    addresses = engine().addresses([p[0] for p in parts])
    flat = np.array([n for _, parameters, _, _ in parts for n in parameters] or [0], np.int64)
    at, rows = _address(flat), []
    for (_, parameters, tasks, flags), kernel_address in zip(parts, addresses, strict=True):
        rows += [kernel_address, at, tasks, flags]
        at += 8 * len(parameters)
    table = np.array(rows or [0], np.int64)
    status = np.zeros(3, np.int64)
    run, start, count, where = pool().run, _address(table), len(parts), _address(status)

    def launch(pointers: int, keep: object = (flat, table, keep)) -> None:
        failed = run(start, count, pointers, where)
        if failed >= 0:
            report, value, size = status.tolist()
            status[0] = 0
            _raise(checks[failed][report - 1], value, size)

    return launch


def _address(array: np.ndarray[Any, Any]) -> int:
    return array.__array_interface__["data"][0]


def _raise(node: Node, value: int, size: int) -> None:
    error = IndexBoundsError(
        f"{node.primitive} of {node.inputs[0].aval!r} with indices {node.inputs[1].aval!r}: "
        f"index {value} is outside an axis of size {size}"
    )
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

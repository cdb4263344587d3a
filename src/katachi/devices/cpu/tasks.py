"""Groups as kernels: which code, with which parameters, in how many tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from katachi.devices.cpu.engine import engine
from katachi.devices.cpu.launch import CHECKED, COMMITTED, PROTECTED, Kernels, Row
from katachi.devices.cpu.pool import FLUSHED, pool
from katachi.graph.node import Node
from katachi.graph.primitives import MOVEMENT
from katachi.graph.site import of_update
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
# Kernels that take subnormal numbers for zero, since those slow down what is multiplied and added up again and again:
# the products, and an optimiser's update, with no more of the gradient's making in it than arithmetic.
PRODUCTS = ("matmul", "convolution", "attention")
ARITHMETIC = frozenset(("add", "subtract", "multiply", "divide", "sqrt", "maximum", "minimum", "negate", "convert"))
ALONE = 60_000  # instructions and elements: below, waking another thread costs more than it saves
_GRAIN = 64  # steps of a vector loop come in whole vectors of any target


def kernels_of(groups: Sequence[Group], index: dict[Node, int], firm: int) -> Kernels:
    """What runs the groups. From group `firm` on cells are written to. `index` is each value's row of the table of
    addresses. Kernels whose structure is new are compiled here, together."""
    parts: list[tuple[Any, list[int], int, int]] = []  # key, parameters, tasks, flags
    checks: dict[int, tuple[tuple[Node, int], ...]] = {}
    scratch = 0
    threads, target = pool().threads, engine().target
    written = False  # whether cells have been, before this part
    for i, group in enumerate(groups):
        if group.kind not in EXPRESSIONS:
            node = group.outputs[-1]
            made = group.outputs if group.kind == "attention" else node  # of the others there is one result
            steps = TEMPLATES[group.kind](node, made, index, threads, target)
            late = ((PROTECTED | COMMITTED) if written else 0) | (FLUSHED if group.kind in PRODUCTS else 0)
            parts.extend((key, parameters, tasks, late) for key, parameters, tasks in steps.kernels)
            scratch = max(scratch, steps.scratch)
            continue
        these = group.nodes, group.inputs, group.outputs, index
        kernels, needed = (
            lower_in_order(*these) if group.kind == "in order" else ([lower_loops(*these, group.local)], 0)
        )
        scratch = max(scratch, needed)
        for kernel in kernels:
            tasks = _split(kernel, threads)
            if tasks:
                flags = (PROTECTED if i >= firm else 0) | (COMMITTED if written else 0)
                flags |= FLUSHED if _updates(group) else 0
                written = written or i >= firm
                if kernel.checks:
                    checks[len(parts)] = kernel.checks
                    flags |= CHECKED
                parts.append((kernel.code, kernel.parameters, tasks, flags))
    names = engine().names([p[0] for p in parts])
    rows = [
        Row(name, tuple(numbers), tasks, flags) for name, (_, numbers, tasks, flags) in zip(names, parts, strict=True)
    ]
    return Kernels(tuple(rows), checks, scratch)


def _updates(group: Group) -> bool:
    """Whether a group is an optimiser's update."""
    others = (n for n in group.nodes if not of_update(n.group))
    return all(of_update(n.group) for n in group.outputs) and all(
        n.primitive in ARITHMETIC or n.primitive in MOVEMENT or n.primitive == "constant" for n in others
    )


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

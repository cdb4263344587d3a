"""Groups as kernels: which code, with which parameters, in how many tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from katachi.devices.cpu.engine import engine
from katachi.devices.cpu.launch import CHECKED, COMMITTED, PROTECTED, Kernels, Row
from katachi.devices.cpu.pool import FLUSHED
from katachi.devices.cpu.split import split
from katachi.devices.cpu.templates import problem_of, steps_of
from katachi.graph.node import Node
from katachi.graph.primitives import MOVEMENT
from katachi.graph.site import of_update
from katachi.kernels.in_order import lower_in_order
from katachi.kernels.loops import Kernel
from katachi.kernels.nest import lower_loops

if TYPE_CHECKING:
    from katachi.compiler.fuse import Group

EXPRESSIONS = ("loops", "in order")  # the kinds of groups that are written in the loop language
# Kernels that take subnormal numbers for zero, since those slow down what is multiplied and added up again and again:
# the products, and an optimiser's update, with no more of the gradient's making in it than arithmetic.
PRODUCTS = ("matmul", "convolution", "attention")
ARITHMETIC = frozenset(("add", "subtract", "multiply", "divide", "sqrt", "maximum", "minimum", "negate", "convert"))


class Loops(NamedTuple):
    """A kernel in the loop language, as a part of a program. Its numbers may be sizes of the program's."""

    kernel: Kernel
    flags: int


class Template(NamedTuple):
    """What a template computes, as a part of a program."""

    kind: str
    problem: tuple[Any, ...]  # in numbers
    flags: int


def parts_of(groups: Sequence[Group], index: Mapping[Node, int], firm: int) -> tuple[list[Loops | Template], list[Any]]:
    """What runs the groups, one after another, and bytes of scratch memory that some of it needs. From group `firm` on
    cells are written to. `index` is each value's row of the table of addresses."""
    parts: list[Loops | Template] = []
    scratch: list[Any] = []
    written = False  # whether cells have been, before this part
    for i, group in enumerate(groups):
        if group.kind not in EXPRESSIONS:
            problem = problem_of(group.kind, group.outputs, index)
            late = ((PROTECTED | COMMITTED) if written else 0) | (FLUSHED if group.kind in PRODUCTS else 0)
            parts.append(Template(group.kind, problem, late))
            continue
        these = group.nodes, group.inputs, group.outputs, index
        kernels, needed = (
            lower_in_order(*these) if group.kind == "in order" else ([lower_loops(*these, group.local)], 0)
        )
        scratch.append(needed)
        for kernel in kernels:
            if all(kernel.extents[: kernel.code.outer]):
                flags = (PROTECTED if i >= firm else 0) | (COMMITTED if written else 0)
                flags |= FLUSHED if _updates(group) else 0
                written = written or i >= firm
                parts.append(Loops(kernel, flags | (CHECKED if kernel.checks else 0)))
    return parts, scratch


def kernels_of(parts: Sequence[Loops | Template], scratch: Sequence[int]) -> Kernels:
    """What runs the parts, all of whose sizes are known. Kernels whose structure is new are compiled here, together."""
    keys: list[Any] = []
    rows: list[Row] = []
    checks: dict[int, tuple[tuple[Node, int], ...]] = {}
    most = max(scratch, default=0)
    for part in parts:
        if isinstance(part, Template):
            steps = steps_of(part.kind, part.problem)
            most = max(most, steps.scratch)
            for key, parameters, tasks in steps.kernels:
                keys.append(key)
                rows.append(Row("", tuple(parameters), tasks, part.flags))
            continue
        code, parameters, extents, work, wrong = part.kernel
        slot = code.split_slot
        tasks, parameters[slot], parameters[slot + 1] = split(code.vector, extents[: code.outer], work)
        if wrong:
            checks[len(rows)] = wrong
        keys.append(code)
        rows.append(Row("", tuple(parameters), tasks, part.flags))
    return Kernels(
        tuple([Row(name, *row[1:]) for row, name in zip(rows, engine().names(keys), strict=True)]), checks, most
    )


def _updates(group: Group) -> bool:
    """Whether a group is an optimiser's update."""
    others = (n for n in group.nodes if not of_update(n.group))
    return all(of_update(n.group) for n in group.outputs) and all(
        n.primitive in ARITHMETIC or n.primitive in MOVEMENT or n.primitive == "constant" for n in others
    )

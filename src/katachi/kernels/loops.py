"""The loop language: what a kernel is, before any target.

A kernel is a nest of *outer* loops around a row of *stages*. A stage is a nest of *inner* loops; it may accumulate
(reductions) and store. What a stage accumulated is a value for the stages behind it. The last stage has no inner loops.

    for o1: for o2:                     outer loops: independent of each other, so tasks share them out
        for i1: for i2: ...             stage 0
        for i1: ...                     stage 1, sees the sums of stage 0
        ...                             last stage

The vector loop is an outer one, or the last inner one of each stage. A WGSL writer makes threads of the outer loops.

`Code` is a kernel's structure and the key of its machine code: no extents, no strides, no addresses. These are `Kernel.
parameters`, int64 numbers that the code reads by their slot. So a kernel fits every size, and equal layers share it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from katachi.graph.node import Node

SCRATCH = 0  # the row of the table with the address of memory that a kernel may use while it runs
INNER = -1  # in place of a vector loop's number
THREAD = 1 << 30  # in place of a loop's number: which thread it is, for memory that each has for itself
UNIT = -1  # in an Affine: the coefficient along the vector loop is one, known when the code is written


class Affine(NamedTuple):
    """offset + sum of coefficient * variable: an integer, or the place of an element in a buffer."""

    offset: int  # slot of a number
    loops: tuple[tuple[int, int], ...]  # (loop or THREAD, slot of its coefficient or UNIT); without it, it is zero
    values: tuple[tuple[int, int], ...]  # (instruction that computes an int64, slot of its coefficient)


class Instr(NamedTuple):
    """One step. Its value is known by its position in `Code.body`.

    name          arguments                     extra
    constant                                    the value
    number                                      slot: an int64 number
    argument                                    slot: its low bits are a value of `dtype`
    index                                       Affine: an int64 number
    load          mask or nothing               (slot of the buffer's row, Affine)
    store         value, then mask or nothing   (slot of the buffer's row, Affine)
    check         index, then mask or nothing   (slot of the size, slot of the number that reports the failure)
    sum, max, min value                         stage   (an accumulation; product, all_bits and any_bit as well)
    argmax        value, index                  stage
    scatter       value, mask                   (slot of the buffer's row, Affine, "set" or a primitive, stage):
                                                into memory, one iteration of the stage after another
    running       value                         (name of an accumulation, stage): what there is of it so far, this
                                                iteration included
    philox        flat index, seed, call
    all others are primitives, or their parts, on values of one dtype
    """

    name: str
    dtype: str
    args: tuple[int, ...]
    extra: Any
    where: int  # how deep: 0 before all loops, n in n outer loops; `Code.starts` for the stages


class Steps(NamedTuple):
    """What a template makes of a group: the key, parameters and tasks of each kernel in order, and how many bytes of
    scratch memory they need."""

    kernels: list[tuple[Any, list[int], int]]
    scratch: int = 0


PLACED = ("load", "store", "scatter")  # instructions that go to a buffer, at the Affine in their `extra`
IN_ORDER = ("scatter", "running")  # the iterations of the stage that their `extra` ends with are not independent
ACCUMULATIONS = ("sum", "product", "max", "min", "all_bits", "any_bit", "argmax")


class Code(NamedTuple):
    """A kernel's structure. Loops are numbered: outer ones first, then each stage's; extents are slots 0, 1, ..."""

    outer: int
    stages: tuple[int, ...]  # how many inner loops each has
    vector: int  # the vector loop, an outer one; or INNER: the last inner loop of each stage
    body: tuple[Instr, ...]

    @property
    def vector_outer(self) -> bool:
        """Whether the vector loop is an outer one."""
        return self.vector != INNER

    @property
    def starts(self) -> tuple[int, ...]:
        """The depth of each stage before its inner loops; the first continues the outer loops."""
        starts, at = [], self.outer
        for inner in self.stages:
            starts.append(at)
            at += inner + 1
        return tuple(starts)

    @property
    def loops(self) -> int:
        return self.outer + sum(self.stages)

    @property
    def split_slot(self) -> int:
        """The slot of the outer loop that tasks share; the next slot holds how many steps of it a task takes."""
        return self.loops


class Kernel(NamedTuple):
    """A kernel's structure with the numbers of one use."""

    code: Code
    parameters: list[int]  # those with a row of the pointer table among them
    extents: list[int]
    work: int  # elements that all stages visit, weighed by what one costs
    checks: tuple[tuple[Node, int], ...]  # by the number reported: the node that checks, and its axis

"""Programs run one at a time, and what they computed becomes visible when it is complete.

A thread holds `lock` while its program runs; whoever looks at state, or at another thread's pending value, waits for
it.

What runs amid a program of the same thread (a signal handler, a finaliser, a user's function that the program calls)
has the lock already. `runs` tells it so: its own programs have an arena of their own, it gets copies of what the
suspended program is about to overwrite, and it cannot change state:

    runs == []          nothing runs
    runs == [step]      `step` runs, or is suspended while a signal handler looks at a weight
    runs == [step, y]   ... and the handler computes y

A run writes nothing that others see until its program has come to its end. From there on it can only go forward:
whoever notices first, the run itself, its exception handler or a signal handler, calls `commit`, which may be called
several times. So an exception leaves the state before the run or the state after it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from katachi.devices.memory import NO_PIECE, Buffer, allocate, arena
from katachi.errors import Error

if TYPE_CHECKING:
    from katachi.graph.node import Node
    from katachi.tensor.handle import Cell, Handle

AMID = (
    "state cannot be changed while a program runs: this {} is set from a signal handler, a finaliser or a function "
    "that the program calls; note that it is wanted, and do it after the step"
)

lock = threading.RLock()
runs: list[Run] = []  # of the thread that holds the lock, the outermost first

R = TypeVar("R")


# fmt: off
def locked(f: Callable[..., R], *args: Any) -> R:
    """f(*args) with the lock held."""
    with lock: return f(*args)  # noqa: E701 - one line: no line between f's end and the release, where Ctrl-C might come
# fmt: on


def _nothing() -> None:
    pass


class Run:
    """One run of a program, and who gets what it computes: `live` handles the first results, `cells` the next."""

    __slots__ = ("cells", "done", "end", "live", "nodes", "piece", "program", "results", "tape")

    def __init__(
        self,
        program: Any,
        live: Sequence[Handle] = (),
        nodes: Sequence[Node] = (),
        cells: Sequence[Cell] = (),
        end: Callable[[], None] = _nothing,
    ) -> None:
        while runs and any(run.program is program for run in runs):  # suspended, with its addresses filled in
            program = program.another()
        self.program, self.live, self.nodes, self.cells, self.end = program, live, nodes, cells, end
        self.results: list[Buffer] | None = None  # once the program is prepared
        self.tape: Callable[[Node], Any] | None = None
        self.done = False  # all of it is given out

    def __call__(
        self,
        values: Sequence[Buffer],
        scalars: Sequence[float],
        held: Container[int] | None = None,
        tape: Callable[[Sequence[Buffer]], Callable[[Node], Any]] | None = None,
    ) -> list[Buffer]:
        """The results, with the lock held. `held`: ids of buffers that may not be overwritten, None for all; `tape`
        gives what is to be the origin of tracked results."""
        nested, piece = bool(runs), arena.piece
        if nested and self.cells:
            (h, *_) = self.cells[0].live()
            raise Error(AMID.format(repr(h._aval)))
        try:
            runs.append(self)
            if nested:
                arena.piece = NO_PIECE
            results = self.program.prepare(values, scalars, held)
            self.piece = arena.piece  # stays, should a program amid this one come between
            if tape is not None:
                self.tape = tape(results)
            self.results = results
            self.program.launch()
            self.commit()
            if nested:
                arena.piece = piece
            runs.remove(self)
            return results
        except BaseException:
            self.commit()  # an exception that came too late
            if nested:
                arena.piece = piece
            if self in runs:
                runs.remove(self)
            raise

    def commit(self) -> None:
        """Give out the results, if the program has come to its end."""
        results = self.results
        if results is None or not self.program.committed():
            return
        if (tape := self.tape) is not None:
            for h, node in zip(self.live, self.nodes):  # noqa: B905 - nodes of cells and of the tape follow
                if h._aval.tracked and h._origin is None:
                    h._node = node
                    h._origin = tape(node)
        for h, buffer in zip(self.live, results):  # noqa: B905 - more results: cells' and the tape's
            h._value = buffer
        if self.cells:
            for cell, buffer in zip(self.cells, results[len(self.live) :]):  # noqa: B905 - the tape's follow
                for ref in cell.handles:
                    h = ref()
                    if h is not None:
                        h._value, h._slot = buffer, -1
        self.end()
        self.results, self.done = None, True


def catch_up() -> None:
    """With the lock held: amid a program that has ended without having given out its results, give them out. Waits for
    kernels that run beside the main thread."""
    for run in runs:
        run.program.wait()
        run.commit()


def readable(value: Buffer) -> Buffer:
    """With the lock held: a cell's value for somebody else, which no program overwrites as long as it is held."""
    if any(value is old for run in runs for old in run.program.overwritten):
        copy = allocate(value.array.shape, value.array.dtype)
        copy.array[...] = value.array
        return copy
    return value.alias()


def _before_fork() -> None:
    """A child's only thread is the one that forks: nobody else may be amid a program."""
    lock.acquire()
    catch_up()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=lock.release, after_in_child=lock.release)

"""Buffers: the memory of computed values, counted, aligned, and reused because fresh pages are slow."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from katachi.errors import Error, MemoryLimitError, OutOfMemoryError
from katachi.graph.site import describe, frames

Array = np.ndarray[Any, Any]

ALIGNMENT = 64
_UNIT = 6  # bits: blocks are multiples of so many bytes
_PAGES = 1 << 18  # bytes: larger blocks are pages of their own
_HUGE = 1 << 22  # and these are large ones
_PRIVATE: Any = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
_LARGE = 1 << 30  # so large that a system which promises more than it has must not be believed
_KEEP_BYTES = 1 << 28  # of freed blocks, so that a loop's buffers come back warm


class Usage:
    """Bytes held by live buffers now, the most that buffers and a running program's temporaries took together, and the
    most that the user lets them take."""

    live = 0
    peak = 0
    limit: int | None = None  # None costs a program one comparison

    @classmethod
    def running(cls, temporaries: int) -> None:
        """A program runs that takes this much beside the live buffers."""
        cls.peak = max(cls.peak, cls.live + temporaries)


_free: dict[int, list[Array]] = {}
_kept = 0


def admit(asked: int, what: Callable[[], str]) -> None:
    """Raises MemoryLimitError, with the user's line, if `asked` more bytes exceed the limit; `what` says for what."""
    limit = Usage.limit
    if limit is not None and Usage.live + asked > limit:
        line = describe(frames(sys._getframe(1))[-1])
        raise MemoryLimitError(
            f"{what()}, and {Usage.live:,} B are in use, which exceeds the limit of {limit:,} B (asked for at {line})"
        )


def kept() -> int:
    """Bytes of freed blocks, and of the arena, that wait to be used again."""
    return _kept + arena.block.nbytes + arena.apart


def release() -> None:
    """Give freed blocks back to the system."""
    global _kept
    _free.clear()
    _kept = 0  # counted anew: Ctrl-C may have come between a block and its count


def free() -> int:
    """Bytes that the machine has free, swap space included; 0 where it does not say."""
    with contextlib.suppress(OSError), open("/proc/meminfo") as file:
        sizes = dict(line.split(":") for line in file)
        return sum(int(sizes[name].split()[0]) for name in ("MemAvailable", "SwapFree")) << 10
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


def refused(what: str, error: BaseException | None = None) -> OutOfMemoryError:
    """The error for memory that cannot be had, with the user's line; `what` says for what, `error` is NumPy's."""
    detail = "" if error is None or isinstance(error, Error) else f": {error}"
    return OutOfMemoryError(
        f"{what}{detail}, and {free():,} B are free (asked for at {describe(frames(sys._getframe(1))[-1])})"
    )


class wanted:  # no generator: its frames would hide the user's
    """Within it memory that NumPy cannot have is an OutOfMemoryError; `what` names the operation."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, MemoryError) and not isinstance(error, Error):
            raise refused(self.what, error) from None


def _fresh(size: int) -> Array:
    """Memory from the system, which keeps the limit at the cost of what waits to be used again. Raises
    OutOfMemoryError."""
    limit = Usage.limit  # read once: another thread may lift it
    if limit is not None and Usage.live + kept() + size > limit:
        release()
    try:
        return _from_system(size)
    except (MemoryError, OSError, OverflowError, ValueError):
        release()
    try:
        return _from_system(size)
    except (MemoryError, OSError, OverflowError, ValueError):
        raise refused(f"{size:,} B are needed") from None


def _from_system(size: int) -> Array:
    if size >= _LARGE and 0 < free() < size:
        raise MemoryError
    if size < _PAGES:
        return np.empty(size, np.uint8)
    memory = mmap.mmap(-1, size, **_PRIVATE)  # the C library would not always give it back
    if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


class Buffer:
    """A C-contiguous array that holds one value.

    A cell's buffer is overwritten in place if the cell alone holds it. Whoever else wants to hold it takes an alias,
    and whoever hands the memory to NumPy pins it:

        x = allocate((2,), float32)    x.shared() is False: a new value may take its place
        y = x.alias()                  x.shared() is True, as long as y lives
        x.pin()                        x.shared() is True from now on
    """

    __slots__ = ("__weakref__", "_alias", "_block", "_counted", "address", "array", "origin", "pinned")

    array: Array
    pinned: bool  # nobody may write to it; true of every alias
    address: int
    origin: Buffer | None  # whose memory an alias is
    _alias: weakref.ref[Buffer] | None

    def __init__(self, array: Array, block: Array | None = None, address: int | None = None) -> None:
        self._counted, self.array, self._block, self.pinned = 0, array, block, False
        self.origin = self._alias = None
        self.address = array.__array_interface__["data"][0] if address is None else address
        nbytes = array.nbytes
        Usage.live += nbytes
        self._counted = nbytes
        if Usage.live > Usage.peak:
            Usage.peak = Usage.live

    def alias(self) -> Buffer:
        """The same memory as another Buffer. Called with the lock of `tensor/running.py` held."""
        origin = self.origin or self
        found = None if origin._alias is None else origin._alias()
        if found is None:
            found = object.__new__(Buffer)
            found._counted, found.array, found._block, found.pinned = 0, origin.array, None, True
            found.origin, found._alias, found.address = origin, None, origin.address
            origin._alias = weakref.ref(found)
        return found

    def pin(self) -> None:
        """Somebody outside sees the memory, so nobody writes to it again."""
        self.pinned = True
        if self.origin is not None:
            self.origin.pinned = True

    def shared(self) -> bool:
        """Whether somebody but a cell and the traces may hold this memory."""
        return self.pinned or (self._alias is not None and self._alias() is not None)

    def __del__(self) -> None:
        global _kept
        if not getattr(self, "_counted", 0):  # an alias, empty, or Ctrl-C came while it was being made
            return
        if Usage is None:  # the interpreter ends, and modules are empty already
            return
        Usage.live -= self._counted
        block = self._block
        if block is not None and not self.pinned:
            size = block.nbytes
            if _kept + size <= _KEEP_BYTES:
                _free.setdefault(size, []).append(block)
                _kept += size


def _spare(size: int) -> Array | None:
    """A freed block of that size, if there is one."""
    global _kept
    try:
        block = _free[size].pop()
    except (KeyError, IndexError):  # tried, not asked before: other threads take some too
        return None
    _kept -= size
    return block


def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
    """An aligned buffer with unspecified contents."""
    size = dtype.itemsize
    for n in shape:
        size *= n
    step = 1 << max(size.bit_length() - 4, _UNIT)  # an eighth more at the most, so that blocks of like sizes are alike
    size = (
        -(-size // step) * step + ALIGNMENT
    )  # to align within; and large blocks do not begin at like places of caches
    block = _spare(size)
    if block is None:
        block = _fresh(size)
    start = block.__array_interface__["data"][0]
    skip = -start % ALIGNMENT
    return Buffer(np.ndarray(shape, dtype, block, skip), block, start + skip)


def copy(array: Array) -> Buffer:
    """A buffer with the contents of any array. Raises MemoryLimitError, OutOfMemoryError."""
    if Usage.limit is not None:
        admit(array.nbytes, lambda: _takes(array))
    try:
        buffer = allocate(array.shape, array.dtype)
    except OutOfMemoryError as error:
        raise refused(_takes(array), error) from None
    buffer.array[...] = array
    return buffer


def _takes(array: Array) -> str:
    return f"a tensor {array.dtype.name}{list(array.shape)} takes {array.nbytes:,} B"


class Arena:
    """One piece of memory for the temporaries of all programs, which run one at a time."""

    def __init__(self) -> None:
        self.piece: Piece = NO_PIECE
        self.apart = 0  # bytes that suspended programs use, amid which others run

    @property
    def block(self) -> Array:
        return self.piece[0]

    def at_least(self, size: int) -> int:
        """The address of the arena, grown to `size` bytes if need be."""
        block, base = self.piece
        if size > block.nbytes - ALIGNMENT:
            before = block.nbytes
            del block
            self.piece = NO_PIECE  # given back first, so that there are never two
            more = before + before // 8  # what grows once will grow again: with every token, say
            if Usage.limit is None or Usage.live + more + ALIGNMENT <= Usage.limit:
                size = max(size, more)
            block = _fresh(size + ALIGNMENT)
            start = block.__array_interface__["data"][0]
            base = start + -start % ALIGNMENT
            self.piece = block, base
        return base

    def at_most(self, size: int) -> None:
        """Give the arena back if it is larger; only while no program is prepared or runs."""
        if self.block.nbytes > size + ALIGNMENT:
            self.piece = NO_PIECE

    def view(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """A value in the arena as an array."""
        block, base = self.piece
        return np.ndarray(shape, dtype, block, base - block.__array_interface__["data"][0] + offset)


Piece = tuple[Array, int]  # a block, and the first aligned address in it; one tuple, so that they change together
NO_PIECE: Piece = (np.empty(0, np.uint8), 0)
arena = Arena()

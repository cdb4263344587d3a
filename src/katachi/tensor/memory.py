"""kt.memory: how much memory values and programs may take, and how much they do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from katachi.devices import memory
from katachi.devices.memory import Usage
from katachi.tensor.trace import programs_kept

UNITS = {"B": 1, "KB": 10**3, "KIB": 1 << 10, "MB": 10**6, "MIB": 1 << 20, "GB": 10**9, "GIB": 1 << 30}


def size_of(size: Any) -> int:
    """Bytes, of an int or of text like "2 GiB". Raises TypeError, ValueError."""
    if isinstance(size, bool) or not isinstance(size, (int, str)):
        raise TypeError(f'a size is bytes as an int, or text like "2 GiB", got {size!r}')
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", size)
        if found is None or found[2].upper() not in UNITS:
            raise ValueError(f'a size is a number and one of B, KB, KiB, MB, MiB, GB and GiB, as "2 GiB", got {size!r}')
        return int(float(found[1]) * UNITS[found[2].upper()])
    if size < 0:
        raise ValueError(f"a size is at least 0, got {size}")
    return size


class Limited:
    """A limit that has been set; leaving it as a context sets the one before."""

    def __init__(self, before: int | None) -> None:
        self.before = before

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        Usage.limit = self.before


def limit(size: int | str | None) -> Limited:
    """From now on the values of all threads and what programs need to run take at most `size` together: bytes, or text
    in B, KB, KiB, MB, MiB, GB or GiB; None for as much as there is. As `with kt.memory.limit(...)` until its end.

    Whatever would take more raises MemoryLimitError before anything is allocated or written: cells and gradients are as
    before `step()`, and what was pending can be computed once there is room. Raises TypeError, ValueError for a size
    that is none.

    >>> import katachi as kt
    >>> with kt.memory.limit("2 GiB"): kt.memory.report().limit
    2147483648
    """
    bytes_ = None if size is None else size_of(size)
    before, Usage.limit = Usage.limit, bytes_
    if bytes_ is not None and Usage.live + memory.kept() > bytes_:
        memory.release()
    return Limited(before)


@dataclass(frozen=True)
class Report:
    """Bytes. `live`: of all computed values; `peak`: the most that they and a running program's temporaries took;
    `limit`: of both, None without one; `kept`: of memory that waits to be used again; `programs`: roughly, of what was
    built and is kept for later steps. `str()` is a table."""

    live: int
    peak: int
    limit: int | None
    kept: int
    programs: int

    def __str__(self) -> str:
        rows: tuple[tuple[str, int | None], ...] = (
            ("live", self.live), ("peak", self.peak), ("limit", self.limit), ("kept for reuse", self.kept),
            ("programs", self.programs),
        )  # fmt: skip
        texts = [(name, "none" if n is None else f"{n:,} B") for name, n in rows]
        width = max(len(text) for _, text in texts)
        return "\n".join(f"{name:<14}  {text:>{width}}" for name, text in texts)


def report() -> Report:
    """Memory as it is now. Pending values are not computed, and take none yet.

    >>> import katachi as kt
    >>> x = kt.zeros(1000); before = kt.memory.report().live; kt.eval(x); kt.memory.report().live - before
    4000
    """
    return Report(Usage.live, Usage.peak, Usage.limit, memory.kept(), programs_kept())


def reset_peak() -> None:
    """The peak is measured from what is live now.

    >>> import katachi as kt
    >>> kt.memory.reset_peak(); found = kt.memory.report(); found.peak == found.live
    True
    """
    Usage.peak = Usage.live

"""Loops that keep building programs: said once, or an error within `kt.strict()`."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from katachi.errors import Error
from katachi.graph.site import Site, describe, line
from katachi.tensor.entry import NEW, Entry, unlike

RECENT, MANY = 20, 10  # flushes that are looked at; of so many built at one line is told
SETTLED = 50  # flushes, before which much is seen for the first time

REMEDY = (
    "Sizes and numbers may differ from step to step; operations, their order and how many tensors they take are best "
    "the same (kt.where instead of a choice in Python, one tensor with an axis more instead of a list); "
    "kt.explain(step) shows what is built"
)


class Builds:
    """What one thread's latest flushes built: the number of the flush, and the line where the work ends."""

    def __init__(self) -> None:
        self.strict = False
        self.flushes = 0
        self.recent: deque[tuple[int, Site]] = deque()
        self.told: set[Site] = set()

    def note(self, e: Entry, key: Any) -> str:
        """A program is about to be built for the work that ends with entry e, with values alive as `key` says; gives
        the reason. Raises Error within `kt.strict()`, and warns once where a loop keeps building."""
        why, site = unlike(e, key), e.sites[-1]
        if self.strict:
            raise Error(
                f"strict: a program would be built for the work that ends with {e.op.name} at {describe(site)}, since: "
                f"{why}. {REMEDY}"
            )
        if why == NEW and (self.flushes < SETTLED or e.modes.eager):  # where each operation is a program
            return why
        self.recent.append((self.flushes, site))
        while self.recent[0][0] <= self.flushes - RECENT:
            self.recent.popleft()
        if site not in self.told and sum(1 for _, s in self.recent if s == site) >= MANY:
            self.told.add(site)
            often = f"{MANY} of the last {RECENT} programs that ran, all of them ending at this line, were built anew"
            warnings.warn_explicit(f"{often}, the latest since: {why}. {REMEDY}", UserWarning, *line(site))
        return why


@contextmanager
def strict() -> Iterator[None]:
    """Within it, building a program is an Error that says why it would be: for tests and benchmarks of loops that have
    run a few steps. Pending work goes on across its beginning and its end.

    >>> import katachi as kt
    >>> def step(): return (kt.ones(3) * 2).sum().item()
    >>> _ = step(), step()
    >>> with kt.strict(): step()
    6.0
    """
    from katachi.tensor.trace import current

    t = current()
    before = t.builds.strict
    t.builds.strict = True  # nothing is computed here or at the end: that would end a loop's work where it does not end
    try:
        yield
    finally:
        t.builds.strict = before

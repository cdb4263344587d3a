"""What happened, for whoever wants to know: `kt.explain` and the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Flush(NamedTuple):
    """A program ran."""

    program: Any
    built: bool  # made now, not found
    entries: int  # operations of the trace that it ends
    why: str = ""  # it was built


observers: list[Callable[[Any], None]] = []


def tell(event: Any) -> None:
    for observer in list(observers):
        observer(event)

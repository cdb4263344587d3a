"""What happened, for whoever wants to know: `kt.explain` and the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from katachi.graph.site import Site


class Flush(NamedTuple):
    """A program ran."""

    program: Any
    built: bool  # made now, not found
    entries: int  # operations of the trace that it ends
    why: str = ""  # it was built
    site: Site | None = None  # where the work ends, if it is a trace's
    seconds: float = 0.0  # that building took, or giving it new numbers
    resized: bool = False  # it was found for other sizes, and got the numbers of these


observers: list[Callable[[Any], None]] = []


def tell(event: Any) -> None:
    for observer in list(observers):
        observer(event)

"""Where in the user's code something was asked for: a code object and an instruction offset, resolved when asked."""

from __future__ import annotations

import itertools
import opcode
import os
import sys
import threading
from types import CodeType, FrameType

Site = tuple[CodeType, int]

_CACHE = 0  # the opcode of CACHE
_PRECALL, _CALL = (
    opcode.opmap.get("PRECALL", -1),
    opcode.opmap.get("CALL", -1),
)  # two instructions a call, in Python 3.11
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Group:
    """One operation that the user asked for: nodes of the same one share it."""

    __slots__ = ("name", "region", "update")

    def __init__(self, name: str, region: int = 0, update: bool = False) -> None:
        self.name, self.region = name, region  # the number of the checkpointed region it stands in, 0 for none
        self.update = update  # whether it is an optimiser's


def of_update(group: object) -> bool:
    """Whether a node of this operation belongs to an optimiser's update."""
    return isinstance(group, Group) and group.update


class Origin(threading.local):
    """What nodes made by this thread get: the user's line, and the operation they belong to."""

    site: Site | None = None
    group: object = Group("an operation")


origin = Origin()


def frames(frame: FrameType | None) -> tuple[Site, ...]:
    """The sites from `frame` outwards to the first one that is not katachi's own."""
    out: list[Site] = []
    while frame is not None:
        out.append((frame.f_code, frame.f_lasti))
        if not frame.f_code.co_filename.startswith(PACKAGE):
            break
        frame = frame.f_back
    return tuple(out)


def caller() -> tuple[Site, ...]:
    """The sites from the caller of katachi's function that asks, outwards."""
    return frames(sys._getframe(2))


def beginnings(sites: tuple[Site, ...]) -> tuple[Site, ...]:
    """Of the same instructions, wherever in one the interpreter stands: once it has specialised a call it stands behind
    the instruction's cache, not before it, and calls a builtin a whole instruction earlier."""
    out = []
    for code, offset in sites:
        offset = _beginning(code.co_code, offset)
        if code.co_code[offset] == _CALL and offset:
            before = _beginning(code.co_code, offset - 2)
            offset = before if code.co_code[before] == _PRECALL else offset
        out.append((code, offset))
    return tuple(out)


def _beginning(instructions: bytes, offset: int) -> int:
    while offset > 0 and instructions[offset] == _CACHE:
        offset -= 2
    return offset


def describe(site: object) -> str:
    """`file.py:12`, or nothing known."""
    if not isinstance(site, tuple):
        return "an unknown line"
    return "{}:{}".format(*line(site))


def line(site: Site) -> tuple[str, int]:
    """The file and the number of the line."""
    code, offset = site
    number = next(itertools.islice(code.co_positions(), offset // 2, None), (None,))[0]
    return code.co_filename, number or 0

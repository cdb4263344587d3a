"""How the work of a kernel is divided into tasks."""

from __future__ import annotations

from collections.abc import Sequence

from katachi.devices.cpu.pool import pool

ALONE = 60_000  # instructions and elements: below, waking another thread costs more than it saves
_GRAIN = 64  # steps of a vector loop come in whole vectors of any target


def split(vector: int, outer: Sequence[int], work: int) -> tuple[int, int, int]:
    """How many tasks a kernel is, which of its outer loops they share (or -1), and how many steps of it each takes.

    `vector`: the loop that is one of vectors; `work`: instructions times elements."""
    threads = pool().threads
    pieces = min(4 * threads, work // ALONE)
    if threads == 1 or pieces < 2 or not outer:
        return 1, -1, 0
    loop = 0 if outer[0] >= pieces else max(range(len(outer)), key=outer.__getitem__)
    grain = _GRAIN if loop == vector else 1
    steps = -(-outer[loop] // grain)
    chunk = -(-steps // min(pieces, steps)) * grain
    return -(-outer[loop] // chunk), loop, chunk

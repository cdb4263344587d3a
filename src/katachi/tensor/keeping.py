"""What a thread keeps of its programs, for later steps: the latest used, up to a number of bytes.

a loop over 10,000 batch sizes      keeps the programs of the last few hundred
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from katachi.tensor.entry import Entry

if TYPE_CHECKING:
    from katachi.tensor.tape import Finish

KEPT = 64 << 20  # bytes, roughly, of a thread's programs and of the tree that leads to them
NODE, PROGRAM = 500, 20_000  # bytes that a node, and a program without its nodes, take


class Kept:
    """A thread's programs, each with the entry and the key where the entry has it."""

    cleared = 0  # how often kt.clear_caches() was called

    def __init__(self) -> None:
        self.bytes, self.seen = 0, Kept.cleared
        self.programs: list[tuple[Entry, Any, Finish]] = []

    def add(self, e: Entry, key: Any, finish: Finish) -> int:
        """Keep one, and drop the half that has not been used for longest when there are too many. Gives how many
        entries of the tree went with them."""
        gone = 0
        self.programs.append((e, key, finish))
        self.bytes += size_of(e)
        if self.bytes > KEPT:
            self.programs.sort(key=lambda kept: kept[2].used)
            old, self.programs = self.programs[: len(self.programs) // 2], self.programs[len(self.programs) // 2 :]
            for entry, at, _ in old:
                entry.programs.pop(at, None)
                self.bytes -= size_of(entry)
                gone += prune(entry)
        return gone


def size_of(e: Entry) -> int:
    """Bytes, roughly, of a program that ends at an entry, and of the nodes that it is made from."""
    return PROGRAM + NODE * e.cost


def prune(entry: Entry) -> int:
    """Drop an entry that leads nowhere, and those that lead to it alone; gives how many."""
    gone = 0
    while entry.parent is not None and not entry.programs and not entry.children:
        parent = entry.parent
        if parent.hot is entry:
            parent.hot = None
        parent.children = {key: e for key, e in parent.children.items() if e is not entry}
        entry, gone = parent, gone + 1
    return gone

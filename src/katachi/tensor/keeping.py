"""What a thread keeps of its programs, for later steps: the latest used, up to a number of bytes.

a loop over 10,000 batch sizes      keeps its structure, and the numbers of the last few hundred sizes
a loop of 10,000 structures         keeps the last few hundred
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from katachi.tensor.entry import Entry, Structure

if TYPE_CHECKING:
    from katachi.tensor.tape import Finish

KEPT = 64 << 20  # bytes, roughly, of a thread's programs and of the tree that leads to them
SIZES = 24 << 20  # of these for single sizes of programs that serve any
NODE, PROGRAM = 500, 20_000  # bytes that a node takes, and a program without its nodes
NUMBERS = 100  # bytes, for each node, of what a program of any sizes has for given ones


class Item(NamedTuple):
    """A program, and where it is found. Of one that serves several sizes there is an item for each, and one more for
    what they have in common."""

    holder: Entry | Structure
    key: Any
    finish: Finish
    bytes: int
    sized: bool = False  # for single sizes


class Kept:
    """A thread's programs."""

    cleared = 0  # how often kt.clear_caches() was called

    def __init__(self) -> None:
        self.bytes, self.sized, self.seen = 0, 0, Kept.cleared
        self.items: list[Item] = []

    def add(self, e: Entry, key: Any, finish: Finish, built: bool) -> int:
        """Keep the program of an entry, and drop the half that has not been used for longest when there are too many.
        Gives how many entries of the tree went with them."""
        graph = NODE * e.cost
        if e.structure is None:
            self._keep(Item(e, key, finish, PROGRAM + graph))
        else:
            if built:
                self._keep(Item(e.structure, key, finish, graph))
            self._keep(Item(e, key, finish, PROGRAM + NUMBERS * e.cost, bool(e.sizes)))
        return self._drop(self.bytes > KEPT) if self.bytes > KEPT or self.sized > SIZES else 0

    def _keep(self, item: Item) -> None:
        self.items.append(item)
        self.bytes += item.bytes
        self.sized += item.bytes if item.sized else 0

    def _drop(self, all_kinds: bool) -> int:
        """The older half, of single sizes or of all."""
        chosen = sorted([i for i in self.items if all_kinds or i.sized], key=lambda item: item.finish.used)
        old = chosen[: len(chosen) // 2]
        gone, dropped = 0, set(map(id, old))
        self.items = [item for item in self.items if id(item) not in dropped]
        for item in old:
            self.bytes -= item.bytes
            self.sized -= item.bytes if item.sized else 0
            if isinstance(item.holder, Structure):
                item.holder.forget(item.key, item.finish)
            else:
                item.holder.programs.pop(item.key, None)
                gone += prune(item.holder)
        return gone


def prune(entry: Entry) -> int:
    """Drop an entry that leads nowhere, and those that lead to it alone; gives how many."""
    gone = 0
    while entry.parent is not None and not entry.programs and not entry.children:
        parent = entry.parent
        if parent.hot is entry:
            parent.hot = None
        if parent.children.get(entry.key) is entry:
            del parent.children[entry.key]
        entry, gone = parent, gone + 1
    return gone

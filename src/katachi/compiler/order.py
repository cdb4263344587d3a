"""Which results take the memory of the cell value they replace, and the order of groups that allows it.

A result may overwrite its cell if the group that makes it reads the old value element by element at most, if every
other reader of the old value runs before, and if nothing that can fail runs afterwards: whatever is raised, no cell has
changed. Among the orders that allow it, an update runs as early as it may, while the gradient it reads is in the
caches.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from katachi.compiler.fuse import Group
from katachi.compiler.steps import nbytes
from katachi.graph.node import Node

MAY_FAIL = frozenset(("gather", "scatter"))  # their indices are checked while the program runs


def overwriting(groups: Sequence[Group], replaced: Mapping[Node, Node | None]) -> tuple[list[Group], set[Node]]:
    """The groups in an order in which as many as possible of the results in `replaced` may take the memory of the old
    value (None where the program does not read it), and these results."""
    made = {v: i for i, g in enumerate(groups) for v in g.outputs}
    readers: dict[Node, set[int]] = {}
    for i, g in enumerate(groups):
        for x in g.inputs:
            readers.setdefault(x, set()).add(i)
    failing = {
        i for i, g in enumerate(groups) if g.kind == "reference" or any(n.primitive in MAY_FAIL for n in g.nodes)
    }
    writers: dict[int, list[Node]] = {}
    for new, old in replaced.items():
        i = made.get(new)
        if i is not None and groups[i].kind == "loops" and i not in failing and old not in groups[i].away:
            writers.setdefault(i, []).append(new)
    while True:
        before: list[set[int]] = [{made[x] for x in g.inputs if x in made} - {i} for i, g in enumerate(groups)]
        for i, news in writers.items():
            before[i] |= failing
            for new in news:
                old = replaced[new]
                before[i] |= readers.get(old, set()) - {i} if old is not None else set()
        order = _sorted(before, writers)
        if len(order) == len(groups):
            return [groups[i] for i in order], {n for news in writers.values() for n in news}
        # what is left waits for a circle: in it, the one that writes least gives up
        circle = _circle(before, set(range(len(groups))) - set(order))
        del writers[min(circle & set(writers), key=lambda i: (sum(map(nbytes, writers[i])), i))]


def _circle(before: Sequence[set[int]], stuck: set[int]) -> set[int]:
    """Those of `stuck` that others of them wait for, and that wait themselves."""
    while ends := stuck - {j for i in stuck for j in before[i]}:
        stuck = stuck - ends
    return stuck


def _sorted(before: Sequence[set[int]], soon: Mapping[int, object]) -> list[int]:
    """Topologically: those of `soon` as early as possible, the others as they came. Circles are left out."""
    after: list[list[int]] = [[] for _ in before]
    for i, needs in enumerate(before):
        for j in needs:
            after[j].append(i)
    missing = [len(needs) for needs in before]
    ready = [(i not in soon, i) for i, n in enumerate(missing) if not n]
    heapq.heapify(ready)
    order = []
    while ready:
        _, i = heapq.heappop(ready)
        order.append(i)
        for j in after[i]:
            missing[j] -= 1
            if not missing[j]:
                heapq.heappush(ready, (j not in soon, j))
    return order

"""The attention template: softmax(scale q k^T) v and its gradients, whose scores exist a block at a time.

For a block of queries the keys are visited block by block. Each row of scores is turned into exponentials less the
largest score seen so far, and what was added up before is scaled when a larger one comes (Milakov and Gimelshein, 2018;
Dao et al., 2022). On the way back the logsumexp gives the weights at once. All products are the matmul's register
tiles; keys (and values, on the way back) are packed transposed, each task for itself. What `causal` hides from a whole
block of queries is passed over.

A task is a head, or some queries of one. The gradients of keys and values add up over queries, those of queries over
keys: one task has them all where there are heads enough; otherwise tasks with some keys each make the former, and tasks
with some queries each the latter.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

from katachi.graph.attention import FIRST_MASK
from katachi.graph.dtypes import as_dtype
from katachi.graph.node import Node
from katachi.kernels.llvm_text import SCALARS
from katachi.kernels.loops import Steps
from katachi.kernels.lower import INDEX, ZERO, combine, strides
from katachi.kernels.matmul import ALONE, melt, tile
from katachi.kernels.target import Target

LEAD = 4  # loops around the matrices, where they do not melt into fewer
KEYS = 128  # in a block
QUERIES = {"forward": 32, "gradient": 64}
LEAST = 64  # queries or keys of a task
OPERANDS = ("q", "k", "v", "logsumexp", "out", "g", "mask")
RESULTS = ("logsumexp", "out", "dq", "dk", "dv")
PLACED = (*OPERANDS, *RESULTS[2:])
NAMES = [
    "queries", "keys", "width", "values", "scale", "causal", "units", "per_task", "some_queries", "some_keys",
    "each", "packed_k", "packed_v", "p", "back", "mean", "sums", "top", "total",
    *(f"size{i}" for i in range(LEAD)),
    *(f"{x}_{part}" for x in PLACED for part in ("row", "at", "step", "column", *(f"lead{i}" for i in range(LEAD)))),
]  # fmt: skip


class Attend(NamedTuple):
    """The key of a compiled template: nothing but the dtype and which of its kernels."""

    dtype: str
    part: str  # "forward" or "gradient"


class Operand(NamedTuple):
    """A view of a value in memory: where it begins, and the steps along its axes."""

    base: Node
    offset: int
    steps: tuple[int, ...]


def vectors(target: Target) -> int:
    """Of columns in the register tile."""
    return min(tile(target)[1], 2)


def suits(node: Node) -> bool:
    """Whether the template computes this node."""
    return node.inputs[0].dtype.name in ("float32", "float64") and node.inputs[0].device == "cpu"


def family(node: Node) -> tuple[object, ...]:
    """Nodes of one family are results of one kernel."""
    q, k, *rest = node.inputs
    how = (node.attrs["scale"], node.attrs["causal"])
    if node.primitive == "attention_gradient":
        return (*node.inputs, *how)
    return (q, k, *rest[FIRST_MASK[node.primitive] - 2 :], *how)


def result(node: Node) -> str:
    """Which of its family's results a node is."""
    if node.primitive == "attention_gradient":
        return ("dq", "dk", "dv")[node.attrs["of"]]
    return "out" if node.primitive == "attention" else "logsumexp"


def _view(node: Node) -> Operand:
    """An operand as it lies in memory."""
    rank = len(node.shape)
    at = tuple(ZERO if n == 1 else (0, ((i, 1),)) for i, n in enumerate(node.shape))
    x, shape = node, node.shape
    while x.primitive in INDEX:
        operand = INDEX[x.primitive](x, at)
        x = x.inputs[0]
        if operand is None:  # a reshape of what is in memory, where any shape is as good as another
            break
        at, shape = operand, x.shape
    offset, terms = combine(*zip(strides(shape), at, strict=True))
    return Operand(x, offset, tuple(dict(terms).get(i, 0) for i in range(rank)))


def _whole(node: Node) -> Operand:
    return Operand(node, 0, tuple(0 if n == 1 else s for n, s in zip(node.shape, strides(node.shape), strict=True)))


def _operands(node: Node) -> dict[str, Operand]:
    """By name. Only what has consecutive elements in its rows, and axes that melt, is read where it lies."""
    before = FIRST_MASK[node.primitive]
    named = dict(zip(OPERANDS, node.inputs[:before], strict=False))
    named.update(zip(OPERANDS[-1:], node.inputs[before:], strict=False))
    if node.primitive == "attention":
        del named["logsumexp"]  # it is made again, and on the way
    found = {}
    for name, x in named.items():
        view = _view(x)
        rows = name not in ("logsumexp", "mask")
        found[name] = _whole(x) if rows and x.shape[-1] != 1 and view.steps[-1] != 1 else view
    if len(_loops(node, list(found.values()))) > LEAD:
        found = {name: _whole(x) for name, x in named.items()}
    return found


def _loops(node: Node, operands: Sequence[Operand]) -> list[tuple[int, ...]]:
    """The axes before the matrices: size, steps of the operands, and which head it is."""
    lead = node.inputs[0].shape[:-2]
    return melt(
        [(n, *(x.steps[i] for x in operands), s) for i, (n, s) in enumerate(zip(lead, strides(lead), strict=True))]
    )


def bases(node: Node) -> list[Node]:
    """The values in memory that a node of the template reads."""
    return [x.base for x in _operands(node).values()]


class Problem(NamedTuple):
    """One family of nodes in numbers."""

    dtype: str
    part: str  # "forward" or "gradient"
    heads: int
    queries: int
    keys: int
    width: int
    values: int
    numbers: tuple[tuple[str, int], ...]  # others, by their names


def problem(node: Node, outputs: Sequence[Node], rows: Mapping[Node, int]) -> Problem:
    """One family of nodes in numbers, for `lower`; `node` is one of `outputs`."""
    operands = _operands(node)
    q, k = node.inputs[:2]
    heads, (t, e), s = prod(q.shape[:-2]), q.shape[-2:], k.shape[-2]
    f = node.inputs[2].shape[-1] if node.primitive != "attention_logsumexp" else 0
    scale = int.from_bytes(struct.pack("<d", node.attrs["scale"]), "little", signed=True)
    v = {"queries": t, "keys": s, "width": e, "values": f, "scale": scale, "causal": int(node.attrs["causal"])}
    v.update({f"{x}_row": -1 for x in PLACED})

    sizes = {"logsumexp": 1, "out": f, "dq": e, "dk": e, "dv": f}
    made = {}
    for x in outputs:
        name = result(x)
        made[name] = (x, (s if name in ("dk", "dv") else t) * sizes[name])
        v.update({f"{name}_row": rows[x], f"{name}_step": sizes[name]})
    for name, x in operands.items():
        step, *column = x.steps[len(q.shape) - 2 :]
        v.update({f"{name}_row": rows[x.base], f"{name}_at": x.offset, f"{name}_step": step})
        v.update({f"{name}_column": c for c in column})
    for i, (size, *steps) in enumerate(_loops(node, list(operands.values()))):
        v[f"size{i}"] = size
        v.update({f"{name}_lead{i}": step for name, step in zip(operands, steps, strict=False)})
        v.update({f"{name}_lead{i}": each * steps[-1] for name, (_, each) in made.items()})
    v.update({f"size{i}": 1 for i in range(LEAD) if f"size{i}" not in v})
    part = "gradient" if node.primitive == "attention_gradient" else "forward"
    return Problem(q.dtype.name, part, heads, t, s, e, f, tuple(v.items()))


def lower(p: Problem, threads: int, target: Target) -> Steps:
    """The steps of one family of nodes."""
    dtype, part, heads, t, s, e, f, named = p
    if not heads * (t * max(e, f, 1) + s * max(e, f)):
        return Steps([])
    v, block, itemsize = dict(named), QUERIES[part], as_dtype(dtype).itemsize
    v.update(_scratch(part, s, e, f, vectors(target) * target.lanes(SCALARS[dtype])))
    scratch = threads * v["each"] * itemsize
    small = threads == 1 or heads * t * s * (e + f) < ALONE

    def step(some_queries: int, some_keys: int, *without: str) -> tuple[Attend, list[int], int]:
        units = heads * -(-t // some_queries) * -(-s // some_keys)
        numbers = v | {"some_queries": some_queries, "some_keys": some_keys, "units": units}
        numbers |= {f"{name}_row": -1 for name in without}
        numbers["per_task"] = units if small else 1
        return Attend(dtype, part), [numbers.get(name, 0) for name in NAMES], 1 if small else units

    t, s = max(t, 1), max(s, 1)
    if part == "forward":
        parts = 1 if small else -(-4 * threads // heads)
        return Steps([step(max(-(-t // (parts * block)) * block, LEAST), s)], scratch)
    rounds = -(-heads // threads) * threads / heads  # the time of tasks that are heads, in that of an even division
    if small or rounds < 1.4:  # what it costs to make the scores twice
        return Steps([step(t, s)], scratch)
    parts = -(-4 * threads // heads)
    some_queries, some_keys = (max(-(-n // (parts * KEYS)) * KEYS, LEAST) for n in (t, s))
    return Steps([step(t, some_keys, "dq"), step(some_queries, s, "dk", "dv")], scratch)


def _scratch(part: str, s: int, e: int, f: int, width: int) -> dict[str, int]:
    """Where a thread's values lie, in elements, and at last what it needs."""
    block, panels = QUERIES[part], -(-s // width) * width
    sizes = {"packed_k": panels * e, "p": block * KEYS}
    if part == "forward":
        sizes |= {"sums": block * -(-f // width) * width, "top": block, "total": block}
    else:
        sizes |= {"packed_v": panels * f, "back": block * KEYS, "mean": block}
    places, end = {}, 0
    for name, size in sizes.items():
        places[name] = end
        end += -(-size // 64) * 64
    return {**places, "each": end}

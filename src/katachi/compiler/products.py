"""dot_general in other words, where the template of matrix products does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from katachi.graph import build as b
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.graph.sizes import Shape, count


def _sorted_axes(operands: Sequence[Node], attrs: Mapping[str, Any]) -> list[tuple[Node, list[Shape]]]:
    """Each operand with its axes in the order batch, free, contracted, and the sizes of these."""
    out = []
    for x, batch, contract in zip(operands, attrs["batch"], attrs["contract"], strict=True):
        free = tuple(i for i in range(len(x.shape)) if i not in batch and i not in contract)
        sizes = [tuple(x.shape[i] for i in axes) for axes in (batch, free, contract)]
        out.append((b.transpose(x, (*batch, *free, *contract)), sizes))
    return out


def of_a_vector(operands: Sequence[Node], attrs: Mapping[str, Any]) -> bool:
    """Whether an operand is read once only: nothing of it is worth packing, or a copy."""
    return any(all(n == 1 for n in free) for _, (_, free, _) in _sorted_axes(operands, attrs))


def as_sums(operands: Sequence[Node], attrs: Mapping[str, Any]) -> Node:
    """Multiplied and added up: fused with what the operands are computed from."""
    (left, (batch, m, k)), (right, (_, n, _)) = _sorted_axes(operands, attrs)
    shape = (*batch, *m, *n, *k)
    start, end = len(batch), len(shape) - len(k)
    rest = tuple(range(end, len(shape)))
    spread = []
    for x, free in ((left, range(start, start + len(m))), (right, range(start + len(m), end))):
        spread.append(make("broadcast_in_dim", x, shape=shape, dims=(*range(start), *free, *rest)))
    return b.reduce("reduce_sum", make("multiply", *spread), rest)


def as_matrices(operands: Sequence[Node], attrs: Mapping[str, Any], shape: Shape) -> Node:
    """A product over tangled axes as one of three-dimensional arrays, which are copied into order."""
    arrays = [b.reshape(x, tuple(map(count, sizes))) for x, sizes in _sorted_axes(operands, attrs)]
    return b.reshape(make("dot_general", *arrays, batch=((0,), (0,)), contract=((2,), (2,))), shape)

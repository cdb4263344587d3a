"""Reading rows of a table, as a function."""

from __future__ import annotations

from typing import Any

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op


def _embedding(index: Node, weight: Node, padding: int | None) -> Node:
    if not index.dtype.is_integer:
        raise DTypeError(f"needs integer indices, got {index.dtype.name}")
    if len(weight.shape) != 2:
        raise ShapeError(f"needs a weight (rows, width), got {weight.shape}")
    rows = make("gather", weight, b.reshape(index, (*index.shape, 1)), axes=(0,), batch=0)
    if padding is None:
        return rows
    if not -weight.shape[0] <= padding < weight.shape[0]:
        raise ShapeError(f"padding_idx {padding} is outside {weight.shape[0]} rows")
    here = b.compare(index, "EQ", b.like(index, padding % weight.shape[0]))
    here = make("broadcast_in_dim", here, shape=rows.shape, dims=tuple(range(len(index.shape))))
    return b.select(here, make("stop_gradient", rows), rows)


EMBEDDING = Op("embedding", _embedding)


def embedding(index: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """weight[index]: integers of any shape become rows (..., width). No gradient flows into row `padding_idx`.
    Raises DTypeError, ShapeError, and, when computed, IndexBoundsError for a row that does not exist.

    >>> import katachi as kt
    >>> kt.nn.functional.embedding(kt.tensor([2, 0]), kt.eye(3)).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    return apply(EMBEDDING, (index, weight), (padding_idx,))

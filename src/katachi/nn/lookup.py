"""Reading rows of a table, as a function."""

from __future__ import annotations

from typing import Any

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op


def _embedding(index: Node, weight: Node) -> Node:
    if not index.dtype.is_integer:
        raise DTypeError(f"needs integer indices, got {index.dtype.name}")
    if len(weight.shape) != 2:
        raise ShapeError(f"needs a weight (rows, width), got {weight.shape}")
    return make("gather", weight, b.reshape(index, (*index.shape, 1)), axes=(0,), batch=0)


EMBEDDING = Op("embedding", _embedding)


def embedding(index: Any, weight: Any) -> Any:
    """weight[index]: integers of any shape become rows (..., width). Raises DTypeError, ShapeError, and, when computed,
    IndexBoundsError for a row that does not exist.

    >>> import katachi as kt
    >>> kt.nn.functional.embedding(kt.tensor([2, 0]), kt.eye(3)).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    return apply(EMBEDDING, (index, weight))

"""Embedding: rows of a table, by number."""

from __future__ import annotations

from typing import Any

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.nn.init import normal
from katachi.nn.module import Module, check_positive
from katachi.tensor.trace import Op, apply


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


class Embedding(Module):
    """A learned row for each of `num_embeddings` numbers; starts normal, as PyTorch's.

    >>> import katachi as kt
    >>> kt.nn.Embedding(10, 4)(kt.tensor([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        check_positive("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = normal((num_embeddings, embedding_dim), 1.0)

    def forward(self, index: Any) -> Any:
        return embedding(index, self.weight)

    def describe(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"

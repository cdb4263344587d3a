"""Embedding: rows of a table, by number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from katachi.errors import ShapeError
from katachi.nn.init import normal
from katachi.nn.lookup import embedding
from katachi.nn.module import Module, check_positive
from katachi.tensor.types import Shaped, shape_vars

if TYPE_CHECKING:
    from katachi.nn.module import Parameter
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Elements, Fixed, Tracked


@shape_vars("V, D")
class Embedding(Module):
    """A learned row for each of `num_embeddings` numbers: integers of any shape give (..., embedding_dim). Starts
    normal, as PyTorch's; row `padding_idx` starts at zero and has no gradient. Raises ShapeError and, when computed,
    IndexBoundsError.

    >>> import katachi as kt
    >>> kt.nn.Embedding(10, 4)(kt.tensor([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    weight: Parameter[Shaped[tuple[int, int], "[V, D]"]]

    def __init__(
        self, num_embeddings: Shaped[int, "V"], embedding_dim: Shaped[int, "D"], padding_idx: int | None = None
    ) -> None:
        check_positive("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = normal((num_embeddings, embedding_dim), 1.0)
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ShapeError(f"Embedding: padding_idx {padding_idx} is outside {num_embeddings} rows")
            padding_idx %= num_embeddings
            start = self.weight.numpy().copy()
            start[padding_idx] = 0
            self.weight.set(start)
        self.padding_idx = padding_idx

    @shape_vars("*N")
    def forward(
        self, index: Tensor[Shaped[Any, "[*Elements[N]]"], Fixed]
    ) -> Tensor[Shaped[Any, "[*Elements[N], D]"], Tracked]:
        return embedding(index, self.weight, self.padding_idx)

    def describe(self) -> str:
        said = f"{self.num_embeddings}, {self.embedding_dim}"
        return said if self.padding_idx is None else f"{said}, padding_idx={self.padding_idx}"

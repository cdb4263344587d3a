"""The twin in PyTorch of examples/graph_attention.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

torch.set_num_threads(2)

FEATURES, WIDTH, HEADS = 4, 16, 2


def random_graph(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, the edges' sources and targets, and labels. Each node has an edge to itself."""
    nodes = rng.integers(10, 40)
    edges = rng.integers(2 * nodes, 4 * nodes)
    source, target = rng.integers(0, nodes, (2, edges))
    source, target = (np.concatenate([ends, np.arange(nodes)]) for ends in (source, target))
    x = rng.normal(size=(nodes, FEATURES)).astype(np.float32)
    total = np.zeros(nodes)
    np.add.at(total, target, x[source, 0])
    return x, source, target, (total > 0).astype(np.int64)


class GraphAttention(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(inputs, HEADS * width)
        self.of_source, self.of_target = nn.Linear(inputs, HEADS), nn.Linear(inputs, HEADS)

    def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        nodes = x.shape[0]
        scores = F.leaky_relu(self.of_source(x)[source] + self.of_target(x)[target], 0.2)
        largest = torch.full((nodes, HEADS), -1e9)
        largest = largest.scatter_reduce(0, target[:, None].expand(-1, HEADS), scores.detach(), "amax")
        weights = torch.exp(scores - largest[target])
        totals = torch.zeros(nodes, HEADS).index_add(0, target, weights)
        weights = weights / totals[target]
        values = self.value(x).reshape(nodes, HEADS, -1)[source]
        mixed = torch.zeros(nodes, HEADS, values.shape[2]).index_add(0, target, values * weights[:, :, None])
        return mixed.reshape(nodes, -1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = GraphAttention(FEATURES, WIDTH)
        self.second = GraphAttention(HEADS * WIDTH, WIDTH)
        self.head = nn.Linear(HEADS * WIDTH, 2)

    def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        x = F.relu(self.first(x, source, target))
        x = F.relu(self.second(x, source, target))
        return self.head(x)


def train() -> Iterator[float]:
    """The loss of each step, on one graph."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = Net()
    optimizer = optim.AdamW(model.parameters(), lr=5e-3)
    while True:
        x, source, target, labels = map(torch.from_numpy, random_graph(rng))
        loss = F.cross_entropy(model(x, source, target), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


if __name__ == "__main__":
    total = 0.0
    for step, loss in zip(range(300), train(), strict=False):
        total += loss
        if step % 50 == 49:
            print(f"step {step + 1}: loss {total / 50:.3f}")
            total = 0.0

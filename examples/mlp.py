"""Handwritten digits with a plain network. Every shape in here is known to the type checker:

pyrefly check examples/mlp.py     # change a size, and it names the line
python examples/mlp.py
"""

from __future__ import annotations

from typing import assert_type

import katachi as kt
from katachi import Shaped, Tensor, Variable, data, nn, optim, shape_vars


class Small(nn.Module):
    """Sizes written as numbers."""

    def __init__(self) -> None:
        self.hidden = nn.Linear(64, 32)
        self.out = nn.Linear(32, 10)

    @shape_vars("B")
    def forward(self, x: Shaped[Tensor, "[B, 64]"]) -> Shaped[Variable, "[B, 10]"]:
        return self.out(self.hidden(x).relu())


@shape_vars("I, H, O")
class MLP(nn.Module):
    """Sizes as arguments: right for all of them, or the checker says so."""

    def __init__(self, inputs: Shaped[int, "I"], hidden: Shaped[int, "H"], outputs: Shaped[int, "O"]) -> None:
        self.net = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

    @shape_vars("B")
    def forward(self, x: Shaped[Tensor, "[B, I]"]) -> Shaped[Variable, "[B, O]"]:
        return self.net(x)


@shape_vars("")
def shapes() -> None:
    """What the checker knows of a few values, and the run as well."""
    x = kt.zeros(3, 64)
    assert_type(x, Shaped[Tensor, "[3, 64]"])
    assert_type(Small()(x), Shaped[Variable, "[3, 10]"])
    assert_type(MLP(64, 20, 5)(x), Shaped[Variable, "[3, 5]"])
    assert_type(x.reshape((3, 8, -1)).sum(0, keepdims=True), Shaped[Tensor, "[1, 8, 8]"])


def train(epochs: int = 4) -> list[float]:
    """The mean loss of each epoch."""
    kt.manual_seed(0)
    model = MLP(64, 48, 10)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    loader = data.DataLoader(data.digits()[0], batch_size=64, shuffle=True, seed=0)
    means = []
    for epoch in range(epochs):
        losses = []
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images.flatten(1)), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
        print(f"epoch {epoch + 1}: loss {means[-1]:.3f}")
    return means


if __name__ == "__main__":
    shapes()
    train()

"""Handwritten digits with convolutions; the checker follows channels, strides, padding and pooling."""

from __future__ import annotations

from typing import assert_type

import katachi as kt
from katachi import Shaped, Tensor, Variable, data, nn, optim, shape_vars


class CNN(nn.Module):
    def __init__(self) -> None:
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16 * 2 * 2, 10)

    @shape_vars("B")
    def forward(self, x: Shaped[Tensor, "[B, 1, 8, 8]"]) -> Shaped[Variable, "[B, 10]"]:
        x1 = self.conv1(x).relu()  # [B, 8, 8, 8]
        x2 = self.conv2(x1).relu()  # [B, 16, 4, 4]
        x3 = nn.functional.max_pool2d(x2, 2)  # [B, 16, 2, 2]
        return self.fc(x3.flatten(1))


class Features(nn.Module):
    """The same as a chain. What it ends in is known once the size of the images is."""

    def __init__(self) -> None:
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.head = nn.Linear(8 * 3 * 3, 10)

    @shape_vars("B")
    def forward(self, x: Shaped[Tensor, "[B, 1, 8, 8]"]) -> Shaped[Variable, "[B, 10]"]:
        return self.head(self.features(x))


@shape_vars("")
def shapes() -> None:
    """What the checker knows of a few values, and the run as well."""
    x = kt.zeros(2, 1, 8, 8)
    assert_type(nn.Conv2d(1, 4, 3, stride=2)(x), Shaped[Variable, "[2, 4, 3, 3]"])
    assert_type(nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect")(x), Shaped[Variable, "[2, 4, 8, 8]"])
    assert_type(nn.AvgPool2d(3, 2, 1)(x), Shaped[Tensor, "[2, 1, 4, 4]"])
    assert_type(nn.MaxPool2d(3, 2, ceil_mode=True)(x), Shaped[Tensor, "[2, 1, int, int]"])
    assert_type(CNN()(x), Shaped[Variable, "[2, 10]"])
    assert_type(Features()(x), Shaped[Variable, "[2, 10]"])
    assert_type(x[:, 0], Shaped[Tensor, "[2, 8, 8]"])


def train(epochs: int = 2) -> list[float]:
    """The mean loss of each epoch."""
    kt.manual_seed(0)
    model = CNN()
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    loader = data.DataLoader(data.digits()[0], batch_size=64, shuffle=True, seed=0)
    means = []
    for epoch in range(epochs):
        losses = []
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
        print(f"epoch {epoch + 1}: loss {means[-1]:.3f}")
    return means


if __name__ == "__main__":
    shapes()
    train()

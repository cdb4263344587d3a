"""The twin in PyTorch of examples/resnet.py."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

torch.set_num_threads(2)

IMAGES, SIZE, CLASSES, BATCH = 512, 32, 6, 16


def make_images(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Noisy stripes: a class is a distance between stripes, and whether they stand or lie."""
    labels = rng.integers(0, CLASSES, IMAGES)
    period = (4.0 + 3.0 * (labels // 2))[:, None, None, None]
    y, x = np.mgrid[:SIZE, :SIZE]
    along = np.where((labels % 2 == 0)[:, None, None, None], x, y)
    colour, phase = rng.uniform(0.5, 1.0, (IMAGES, 3, 1, 1)), rng.uniform(0, 6, (IMAGES, 1, 1, 1))
    images = colour * np.sin(2 * np.pi * along / period + phase) + rng.normal(0, 0.5, (IMAGES, 3, SIZE, SIZE))
    return images.astype(np.float32), labels


def augment(images: Tensor) -> Tensor:
    """Half of the images mirrored; of each, padded by four, a part of the old size."""
    mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
    images = torch.where(mirrored, images.flip(3), images)
    padded = F.pad(images, (4, 4, 4, 4))
    crops = []
    for i in range(len(images)):
        top, left = random.randint(0, 8), random.randint(0, 8)
        crops.append(padded[i, :, top : top + SIZE, left : left + SIZE])
    return torch.stack(crops)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.stages = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2), Block(16, 32, 2))
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = self.stages(x)
        return self.head(x.mean((2, 3)))


def train() -> Iterator[float]:
    """The loss of each step."""
    torch.manual_seed(0)
    random.seed(0)
    rng = np.random.default_rng(0)
    images, labels = map(torch.from_numpy, make_images(rng))
    model = ResNet()
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    model.train()
    while True:
        chosen = torch.from_numpy(rng.integers(0, IMAGES, BATCH))
        x, y = augment(images[chosen]), labels[chosen]
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


if __name__ == "__main__":
    for step, loss in zip(range(200), train(), strict=False):
        if step % 40 == 39:
            print(f"step {step + 1}: loss {loss:.3f}")

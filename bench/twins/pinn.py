"""The twin in PyTorch of examples/pinn.py."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn, optim

torch.set_num_threads(2)

POINTS, WIDTH = 64, 32


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def train() -> Iterator[float]:
    """The loss of each step: how far the equation is from holding, and the ends from zero."""
    torch.manual_seed(0)
    u = Net()
    optimizer = optim.Adam(u.parameters(), lr=2e-3)
    ends = torch.tensor([[0.0], [1.0]])
    while True:
        x = torch.rand(POINTS, 1, requires_grad=True)
        (slope,) = torch.autograd.grad(u(x).sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        residual = curvature + math.pi**2 * torch.sin(math.pi * x)
        loss = (residual**2).mean() + 100 * (u(ends) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


if __name__ == "__main__":
    for step, loss in zip(range(1000), train(), strict=False):
        if step % 200 == 199:
            print(f"step {step + 1}: loss {loss:.4f}")

"""A physics-informed network: it learns the solution of u'' = -pi^2 sin(pi x) on [0, 1], zero at both ends, from the
equation alone. The solution is sin(pi x).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import katachi as kt
from katachi import Tensor, Variable, nn, optim

POINTS, WIDTH = 64, 32

Function = Callable[[Any], Any]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1)
        )

    def forward(self, x: Tensor) -> Variable:
        return self.net(x)


def derivative(u: Function) -> Function:
    """Of a function that treats each point alone."""
    return kt.grad(lambda x: u(x).sum())


def train() -> Iterator[float]:
    """The loss of each step: how far the equation is from holding, and the ends from zero."""
    kt.manual_seed(0)
    u = Net()
    optimizer = optim.Adam(u.parameters(), lr=2e-3)
    ends = kt.tensor([[0.0], [1.0]])
    while True:
        x = kt.rand(POINTS, 1)
        curvature = derivative(derivative(u))(x)
        residual = curvature + math.pi**2 * kt.sin(math.pi * x)
        loss = (residual**2).mean() + 100 * (u(ends) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


if __name__ == "__main__":
    for step, loss in zip(range(1000), train(), strict=False):
        if step % 200 == 199:
            print(f"step {step + 1}: loss {loss:.4f}")

"""Wrong on purpose: each line marked `planted` must be reported, and no other. Read by a checker, never run."""

from __future__ import annotations

import katachi as kt
from katachi import Shaped, Tensor, Variable, nn, shape_vars
from katachi.nn import functional as F


class Head(nn.Module):
    def __init__(self) -> None:
        self.fc1 = nn.Linear(784, 256)
        self.fc2 = nn.Linear(265, 10)

    @shape_vars("B")
    def forward(self, x: Shaped[Tensor, "[B, 784]"]) -> Shaped[Variable, "[B, 10]"]:
        return self.fc2(self.fc1(x).relu())  # planted: 256 into 265


@shape_vars("I, H, O")
class Generic(nn.Module):
    def __init__(self, i: Shaped[int, "I"], h: Shaped[int, "H"], o: Shaped[int, "O"]) -> None:
        self.net = nn.Sequential(nn.Linear(i, h), nn.ReLU(), nn.Linear(h, o))

    @shape_vars("B")
    def forward(self, x: Shaped[Tensor, "[B, I]"]) -> Shaped[Variable, "[B, O]"]:
        return self.net(x)


@shape_vars("I, H, O")
class Crossed(nn.Module):
    def __init__(self, i: Shaped[int, "I"], h: Shaped[int, "H"], o: Shaped[int, "O"]) -> None:
        self.net = nn.Sequential(nn.Linear(i, h), nn.ReLU(), nn.Linear(o, h))

    @shape_vars("B")
    def forward(self, x: Shaped[Tensor, "[B, I]"]) -> Shaped[Variable, "[B, O]"]:
        return self.net(x)  # planted: H into O


class Wide(nn.Module):
    def __init__(self) -> None:
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8 * 16 * 16, 10)

    @shape_vars("B")
    def forward(self, x: Shaped[Tensor, "[B, 3, 32, 32]"]) -> Shaped[Variable, "[B, 10]"]:
        return self.fc(self.conv(x).flatten(1))  # planted: 15 x 15 are left, not 16 x 16


def calls() -> None:
    model = Generic(784, 32, 10)
    x = kt.zeros(5, 784)
    labels = kt.randint(0, 10, (5,))
    F.cross_entropy(model(x), labels).backward()
    model(kt.zeros(5, 748))  # planted: 748 for 784
    model(x) + model(x.reshape((784, 5)).T) + kt.zeros(11)  # planted: 10 and 11
    F.cross_entropy(model(x), kt.randint(0, 10, (6,)))  # planted: six labels for five rows
    F.mse_loss(model(x), labels)  # planted: (5, 10) and (5,)
    F.linear(x, model(x))  # planted: a weight (5, 10) for 784 inputs


def images() -> None:
    x = kt.zeros(2, 3, 28, 28)
    nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(576, 10))(x)
    nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.MaxPool2d(2))(x)  # planted: three channels for one
    nn.Sequential(nn.Flatten(), nn.Linear(2352, 64), nn.ReLU(), nn.Linear(46, 10))(x)  # planted: 64 into 46
    F.conv2d(x, kt.zeros(8, 4, 3, 3))  # planted: three channels for four
    nn.Conv2d(3, 8, 7)(x[:, :, 0])  # planted: three axes


def frozen(x: Tensor) -> None:
    nn.ReLU()(x).sum().backward()  # planted: a layer without parameters keeps a constant constant

"""Layers, losses and optimisers compute what PyTorch's do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import katachi as kt
from katachi import nn, optim
from katachi.nn import functional as F

T = torch.nn.functional
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[np.ndarray]]] = {
    "relu": (F.relu, T.relu, [normal(5, 7)]),
    "relu at zero": (F.relu, T.relu, [np.zeros((3, 3), np.float32)]),
    "gelu": (F.gelu, T.gelu, [normal(5, 7)]),
    "gelu tanh": (lambda x: F.gelu(x, "tanh"), lambda x: T.gelu(x, approximate="tanh"), [normal(5, 7)]),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), lambda x: T.leaky_relu(x, 0.2), [normal(5, 7)]),
    "sigmoid": (F.sigmoid, torch.sigmoid, [normal(5, 7) * 20]),
    "tanh": (F.tanh, torch.tanh, [normal(5, 7)]),
    "softmax": (lambda x: F.softmax(x, dim=1), lambda x: T.softmax(x, 1), [normal(5, 7)]),
    "log_softmax": (lambda x: F.log_softmax(x, dim=0), lambda x: T.log_softmax(x, 0), [normal(5, 7)]),
    "linear": (F.linear, T.linear, [normal(3, 4, 5), normal(6, 5), normal(6)]),
    "matmul": (kt.matmul, torch.matmul, [normal(2, 1, 4, 5), normal(3, 5, 6)]),
    "conv2d": (
        lambda x, w, b: F.conv2d(x, w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        lambda x, w, b: T.conv2d(x, w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        [normal(2, 4, 9, 8), normal(6, 2, 3, 3), normal(6)],
    ),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), lambda x: T.max_pool2d(x, 3, 2, 1), [normal(2, 3, 8, 9)]),
    "max_pool2d ties": (
        lambda x: F.max_pool2d(x, 2),
        lambda x: T.max_pool2d(x, 2),
        [np.zeros((1, 2, 4, 4), np.float32)],
    ),
    "mse": (F.mse_loss, T.mse_loss, [normal(5, 7), normal(5, 7)]),
    "max": (lambda x: kt.max(x, 1), lambda x: torch.amax(x, 1), [np.round(normal(5, 7))]),
    "maximum": (kt.maximum, torch.maximum, [np.round(normal(5, 7)), np.round(normal(5, 7))]),
    "pow": (kt.pow, torch.pow, [np.abs(normal(5, 7)) + 0.1, normal(5, 7)]),
    "var": (lambda x: kt.var(x, 1, correction=1.0), lambda x: torch.var(x, 1), [normal(5, 7)]),
}


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_values_and_gradients(name: str, device: str) -> None:
    ours, theirs, arrays = FUNCTIONS[name]
    with kt.device(device):
        mine = [kt.variable(a) for a in arrays]
        out = ours(*mine)
        yours = [torch.tensor(a, requires_grad=True) for a in arrays]
        want = theirs(*yours)
        np.testing.assert_allclose(out.numpy(), want.detach().numpy(), rtol=2e-5, atol=2e-6)
        seed = normal(*want.shape)
        out.backward(kt.tensor(seed))
        want.backward(torch.tensor(seed))
        for a, b in zip(mine, yours, strict=True):
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_cross_entropy(device: str) -> None:
    with kt.device(device):
        for shape in [(6, 5), (2, 5, 3, 4)]:
            x = normal(*shape) * 3
            target = RNG.integers(0, 5, (shape[0], *shape[2:]))
            v, w = kt.variable(x), torch.tensor(x, requires_grad=True)
            for reduction in ("mean", "sum"):
                a = F.cross_entropy(v, kt.tensor(target), reduction=reduction)
                b = T.cross_entropy(w, torch.tensor(target), reduction=reduction)
                assert a.item() == pytest.approx(b.item(), rel=1e-5)
                v.grad, w.grad = None, None
                a.backward()
                b.backward()
                assert w.grad is not None
                np.testing.assert_allclose(v.grad.numpy(), w.grad.numpy(), rtol=1e-4, atol=1e-6)


OPTIMISERS = {
    "sgd": (lambda p: optim.SGD(p, 0.1, weight_decay=0.01), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01)),
    "momentum": (lambda p: optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "nesterov": (
        lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    ),
    "adamw": (lambda p: optim.AdamW(p, 0.01), lambda p: torch.optim.AdamW(p, 0.01)),
}


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_training_together(name: str, device: str) -> None:
    """Ten steps from PyTorch's own weights, loaded by their names, end at PyTorch's weights."""
    make, theirs = OPTIMISERS[name]
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.GELU(), torch.nn.Linear(16, 3))
    with kt.device(device):
        mine = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3))
        mine.load_state_dict({k: v.numpy() for k, v in model.state_dict().items()})
        opt, other = make(mine.parameters()), theirs(model.parameters())
        x, y = normal(8, 6), RNG.integers(0, 3, 8)
        for _ in range(10):
            F.cross_entropy(mine(kt.tensor(x)), kt.tensor(y)).backward()
            opt.step()
            other.zero_grad()
            T.cross_entropy(model(torch.tensor(x)), torch.tensor(y)).backward()
            other.step()
        for name, value in model.state_dict().items():
            np.testing.assert_allclose(mine.state_dict()[name].numpy(), value.numpy(), rtol=1e-3, atol=1e-5)

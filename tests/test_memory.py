"""What looking at a value costs in memory: next to nothing."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import nn, optim
from katachi.devices.memory import Usage

ROWS, WIDTH, LAYERS = 1 << 16, 16, 8


def held() -> int:
    """Bytes of values that other tests have left."""
    kt.eval()
    gc.collect()
    return Usage.live


def peak(device: str, look: bool, activation: type[nn.Module]) -> tuple[int, float]:
    """The third step's memory peak, model and data included, and its loss."""
    others = held()
    with kt.device(device):
        kt.manual_seed(0)
        layers: list[Any] = []
        for _ in range(LAYERS):
            layers += [nn.Linear(WIDTH, WIDTH), activation()]
        model = nn.Sequential(*layers)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        x = kt.tensor(np.random.default_rng(0).standard_normal((ROWS, WIDTH), np.float32))

        def step() -> float:
            loss = (model(x) ** 2).mean()
            if look:
                loss.item()
            loss.backward()
            optimizer.step()
            return loss.item()

        step()
        told = kt.explain(step)
        return told.peak_bytes - others, told.result


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh])
def test_the_printing_loop_takes_at_most_a_tenth_more(activation: type[nn.Module]) -> None:
    device = "cpu"  # the reference takes minutes for this size; its plan is the same planner's
    silent, a = peak(device, False, activation)
    printing, b = peak(device, True, activation)
    assert silent > 25e6
    assert a == pytest.approx(b, rel=1e-5)
    assert printing <= 1.1 * silent, (printing / silent, printing, silent)


def checkpointed(remember: bool, look: bool) -> tuple[int, list[Any]]:
    """The second step's memory peak, and what it trained."""
    others = held()
    with kt.device("cpu"):
        kt.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(0.1)) for _ in range(LAYERS)]
        parameters = [p for block in blocks for p in block.parameters()]
        optimizer = optim.SGD(parameters, lr=0.1)
        x = kt.tensor(np.random.default_rng(0).standard_normal((ROWS, WIDTH), np.float32))

        def step() -> None:
            h: Any = x
            for block in blocks:
                h = block(h) if remember else kt.checkpoint(block)(h)
            loss = (h**2).mean()
            if look:
                loss.item()
            loss.backward()
            optimizer.step()

        step()
        told = kt.explain(step)
        assert kt.explain(step).programs_built == 0
        return told.peak_bytes - others, [p.numpy() for p in parameters]


@pytest.mark.parametrize("look", [False, True])
def test_a_checkpointed_network_is_the_plain_one_in_less_memory(look: bool) -> None:
    plain, a = checkpointed(True, look)
    small, b = checkpointed(False, look)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    assert small < 0.75 * plain, (small, plain)


def test_a_checkpointed_network_is_bit_for_bit_the_plain_one_on_the_reference() -> None:
    def gradients(wrap: Any) -> Any:
        kt.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Dropout(0.2)) for _ in range(3)]
        h: Any = kt.ones((4, 5))
        for block in blocks:
            h = wrap(block)(h)
        (h * h).sum().backward()
        return [p.grad.numpy() for block in blocks for p in block.parameters()]

    for a, b in zip(gradients(lambda f: f), gradients(kt.checkpoint), strict=True):
        np.testing.assert_array_equal(a, b)
    x = kt.variable([0.3, 0.7])
    cube = kt.checkpoint(lambda v: (v.tanh() ** 3).sum())
    second = kt.grad(lambda v: kt.grad(cube)(v).sum())(x)
    want = kt.grad(lambda v: kt.grad(lambda u: (u.tanh() ** 3).sum())(v).sum())(x)
    np.testing.assert_allclose(second.numpy(), want.numpy(), rtol=1e-5)

"""What looking at a value costs in memory: next to nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import nn, optim

ROWS, WIDTH, LAYERS = 1 << 18, 16, 8


def peak(device: str, look: bool, activation: type[nn.Module]) -> tuple[int, float]:
    """The third step's memory peak over what the model and data take, and its loss."""
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
        return told.peak_bytes, told.result


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_the_printing_loop_takes_at_most_a_third_more(activation: type[nn.Module]) -> None:
    device = "cpu"  # the reference takes minutes for this size; its plan is the same planner's
    silent, a = peak(device, False, activation)
    printing, b = peak(device, True, activation)
    assert silent > 100e6
    assert a == pytest.approx(b, rel=1e-5)
    assert printing <= 1.3 * silent, (printing / silent, printing, silent)

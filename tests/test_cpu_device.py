"""The CPU device computes what the reference does, and lowers what it must by now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import katachi as kt
from katachi import nn, optim
from katachi.nn import functional as F
from tests import random_graphs

STEPS = {"xor": ((2, 16, 2), 4), "mlp-small": ((784, 128, 10), 32)}


def training_step(sizes: tuple[int, ...], batch: int, activation: type[nn.Module] = nn.ReLU) -> Callable[..., Any]:
    kt.manual_seed(0)
    model = nn.Sequential(nn.Linear(sizes[0], sizes[1]), activation(), nn.Linear(sizes[1], sizes[2]))
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)

    def step(batch: int = batch) -> Any:
        rng = np.random.default_rng(batch)
        x = kt.tensor(rng.standard_normal((batch, sizes[0]), np.float32))
        y = kt.tensor(rng.integers(0, sizes[-1], batch))
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


@pytest.mark.parametrize("name", list(STEPS))
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh])
def test_training_steps_contain_no_reference_step(name: str, activation: type[nn.Module]) -> None:
    with kt.device("cpu"):
        told = kt.explain(training_step(*STEPS[name], activation))
        assert told.reference_steps == []
        assert "kernel launches" in str(told)


def test_a_step_that_cannot_be_lowered_says_so() -> None:
    with kt.device("cpu"):
        told = kt.explain(lambda: kt.custom_call(np.hypot, (4,), kt.float32, kt.ones(4), kt.ones(4)).numpy())
    assert told.reference_steps == ["custom_call"]
    assert "on the reference device, for want of a lowering: custom_call" in str(told)


def test_a_convolutional_step_contains_no_reference_step() -> None:
    with kt.device("cpu"):
        kt.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip
        optimizer = optim.AdamW(model.parameters())

        def step(batch: int) -> None:
            F.cross_entropy(model(kt.ones((batch, 1, 12, 12))), kt.zeros(batch, dtype=kt.int64)).backward()
            optimizer.step()

        assert kt.explain(step, 7).reference_steps == []
        told = kt.explain(step, 20)
        assert told.kernels_compiled == 0


@pytest.mark.parametrize("name", list(STEPS))
def test_a_new_batch_size_builds_neither_program_nor_kernel(name: str) -> None:
    with kt.device("cpu"):
        step = training_step(*STEPS[name])
        step()
        step()
        for batch in (STEPS[name][1] + 3, 57, 19):
            told = kt.explain(step, batch)
            assert (told.programs_built, told.kernels_compiled) == (0, 0), batch
            assert kt.explain(step, batch).programs_built == 0


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid])
def test_training_equals_the_reference(activation: type[nn.Module]) -> None:
    losses = {}
    for device in ("reference", "cpu"):
        with kt.device(device):
            step = training_step((12, 16, 5), 9, activation)
            losses[device] = [step().item() for _ in range(20)]
    np.testing.assert_allclose(losses["cpu"], losses["reference"], rtol=2e-4)


def test_an_index_out_of_range_names_the_users_line_and_changes_nothing() -> None:
    with kt.device("cpu"):
        layer = nn.Linear(4, 3)
        optimizer = optim.AdamW(layer.parameters())
        before = layer.weight.numpy().copy()
        F.cross_entropy(layer(kt.ones((2, 4))), kt.tensor([0, 3])).backward()
        with pytest.raises(kt.IndexBoundsError, match=r"index 3 .* size 3.*test_cpu_device\.py:\d+"):
            optimizer.step()
        np.testing.assert_array_equal(layer.weight.numpy(), before)
        assert layer.weight.grad is not None


def test_random_bits_are_equal_on_every_device() -> None:
    draws = []
    for device in ("reference", "cpu"):
        with kt.device(device):
            kt.manual_seed(11)
            draws.append((kt.rand(33), kt.randint(-5, 1000, (4, 9)), kt.randn(101), F.dropout(kt.ones(50), 0.3)))
    for a, b in zip(*draws, strict=True):
        if a.shape == (101,):
            np.testing.assert_array_max_ulp(a.numpy(), b.numpy(), 4)
        else:
            np.testing.assert_array_equal(a.numpy(), b.numpy())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_random_graphs_equal_the_reference(seed: int) -> None:
    random_graphs.compare(seed)


def test_a_sum_that_is_gathered_where_there_is_one() -> None:
    with kt.device("cpu"):
        v: Any = kt.variable(np.arange(17.0).reshape(17, 1))
        y = (v.mean(0) * 0.25)[kt.tensor([0])].tanh()
        y.sum().backward()
        assert y.item() == pytest.approx(np.tanh(2.0)) and v.grad.shape == (17, 1)
        with pytest.raises(kt.IndexBoundsError, match="index 1 is outside axis 0 of size 1"):
            (v.mean(0) * 0.25)[kt.tensor([1])].tanh().numpy()


def test_a_graph_that_differs_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were floor wrong, what is left of a graph would be little more than it."""
    seed = next(s for s in range(100) if any("floor" in line for line in random_graphs.build(s, "reference")[1]))
    whole = random_graphs.build(seed, "reference")[1]

    def wrong(x: Any) -> Any:
        return kt.floor(x) + (1.0 if x.device == "cpu" else 0.0)

    wrong.__name__ = "floor"
    monkeypatch.setattr(random_graphs, "UNARY", [wrong if f is kt.floor else f for f in random_graphs.UNARY])
    with pytest.raises(AssertionError):
        random_graphs.compare(seed)
    left = random_graphs.shrunk(seed)
    assert any("floor" in line for line in left) and len(left) <= min(len(whole), 4)

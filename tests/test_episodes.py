"""Backward through many tapes, and loops whose number of turns varies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import nn, optim
from katachi.tensor import backward, loops

DEVICES = ["reference", "cpu"]


@pytest.fixture(autouse=True, params=DEVICES)
def on(request: pytest.FixtureRequest) -> Iterator[None]:
    with kt.device(request.param):
        kt.clear_caches()
        yield


def policy() -> nn.Sequential:
    kt.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def drawn(net: nn.Module, steps: int) -> list[Any]:
    """Log-probabilities of actions, each computed when it is drawn."""
    rng, found = np.random.default_rng(steps), []
    for _ in range(steps):
        p = net(kt.tensor(rng.standard_normal(4, np.float32))).softmax(-1)
        found.append(p.log()[int(rng.random() < p.numpy()[0])])
    return found


def total(logs: list[Any]) -> Any:
    loss: Any = 0.0
    for i, log in enumerate(logs):
        loss = loss - log * (0.9**i)
    return loss


def gradients(net: nn.Module) -> list[np.ndarray]:
    return [p.grad.numpy() for p in net.parameters()]


@pytest.mark.parametrize("steps", [9, 23])
def test_tape_by_tape_gives_the_same_bits_as_all_at_once(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = policy(), policy()
    for _ in range(2):  # and added to gradients that are there
        total(drawn(one, steps)).backward()
    monkeypatch.setattr(backward, "MANY", 10**9)
    for _ in range(2):
        total(drawn(other, steps)).backward()
    for a, b in zip(gradients(one), gradients(other), strict=True):
        np.testing.assert_array_equal(a, b)


def carried(net: nn.Module, steps: int) -> Any:
    """A state that each step computes from the one before, and shows."""
    h: Any = kt.zeros(4)
    for i in range(steps):
        h = (h + net(kt.full((4,), float(i))).sum()).tanh() * 1.1
        assert np.isfinite(h.numpy()).all()
    return (h * h).sum()


def test_a_chain_of_tapes(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = policy(), policy()
    carried(one, 30).backward()
    monkeypatch.setattr(backward, "MANY", 10**9)
    carried(other, 30).backward()
    for a, b in zip(gradients(one), gradients(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_value_used_in_many_tapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What flows back to one place from several tapes is added up in the order of one pass."""

    def run() -> np.ndarray:
        v = kt.variable([0.3, -1.7, 2.9])
        shared = (v * v).sin()
        assert shared.numpy().shape == (3,)
        parts = []
        for i in range(20):
            parts.append((shared * (1.1 + i)).tanh().sum())
            parts[-1].item()
        loss: Any = sum(parts)
        loss.backward()
        return v.grad.numpy()

    found = run()
    monkeypatch.setattr(backward, "MANY", 10**9)
    np.testing.assert_array_equal(found, run())


def test_a_second_pass_needs_leave() -> None:
    net = policy()
    loss = total(drawn(net, 20))
    loss.backward(retain_graph=True)
    once = gradients(net)
    loss.backward()
    for a, b in zip(once, gradients(net), strict=True):
        np.testing.assert_array_equal(2 * a, b)
    with pytest.raises(kt.GradientError, match="consumed by an earlier backward"):
        loss.backward()
    for a, b in zip(once, gradients(net), strict=True):  # which has changed nothing
        np.testing.assert_array_equal(2 * a, b)


def test_a_part_that_was_used_up_before_is_refused_and_nothing_changes() -> None:
    net = policy()
    logs = drawn(net, 20)
    logs[3].backward()
    before = gradients(net)
    with pytest.raises(kt.GradientError, match="consumed by an earlier backward"):
        total(logs).backward()
    for a, b in zip(before, gradients(net), strict=True):
        np.testing.assert_array_equal(a, b)


def test_retained_gradients_and_double_backward_through_many_tapes() -> None:
    v = kt.variable(0.7)
    parts = []
    for i in range(12):
        parts.append((v * float(i + 1)).sin())
        parts[-1].item()
    parts[4].retain_grad()
    loss: Any = sum(parts)
    g = kt.gradients(loss, [v], create_graph=True)[v]
    gg = kt.gradients(g, [v], retain_graph=True)[v]
    loss.backward()
    k = np.arange(1, 13)
    assert g.item() == pytest.approx(float((k * np.cos(0.7 * k)).sum()), rel=1e-5)
    assert gg.item() == pytest.approx(float((-k * k * np.sin(0.7 * k)).sum()), rel=1e-4)
    assert parts[4].grad.item() == 1.0 and v.grad.item() == pytest.approx(g.item(), rel=1e-5)


def test_after_some_lengths_of_an_episode_others_build_little() -> None:
    net = policy()
    opt = optim.Adam(net.parameters(), lr=1e-3)

    def update(steps: int) -> None:
        total(drawn(net, steps)).backward()
        opt.step()

    for steps in (24, 25, 30, 33):
        update(steps)
    for steps in range(34, 60):
        update(steps)
    told = kt.explain(update, 300)
    assert told.programs_built <= 2
    assert told.programs_built == 0 or kt.explain(update, 301).programs_built <= 2


def test_a_loop_of_one_length_stays_one_program() -> None:
    v: Any = kt.variable([0.5, 0.25])

    def step() -> None:
        h: Any = v * 1.0
        for _ in range(40):
            h = (h * v).tanh() + 0.1
        h.sum().backward()
        assert np.isfinite(v.grad.numpy()).all()
        v.grad = None

    for _ in range(3):
        step()
    with kt.explain() as told:
        step()
    assert len(told.flushes) <= 1 and not told.programs_built


def test_a_loop_of_varying_length_has_the_gradients_of_one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(v: Any, turns: int) -> np.ndarray:
        h: Any = v * 1.0
        for i in range(turns):
            h = (h * v).tanh() + 0.1 * i
        h.sum().backward()
        found, v.grad = v.grad.numpy(), None
        return found

    found = [run(kt.variable([0.5, 0.25]), n) for n in (20, 23, 31, 40, 41, 57, 64, 20)]
    monkeypatch.setattr(loops, "DIFFERENT", 10**9)
    kt.clear_caches()
    for a, n in zip(found, (20, 23, 31, 40, 41, 57, 64, 20), strict=True):
        np.testing.assert_allclose(a, run(kt.variable([0.5, 0.25]), n), rtol=2e-6)


def test_two_links_to_one_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that the next step uses in several ways, and that is used again much later."""

    def run() -> np.ndarray:
        v = kt.variable([0.3, -0.7])
        first = v.sin()
        first.numpy()
        h: Any = first
        for i in range(15):
            h = (h * first + h.tanh() * (0.5 + i)).sigmoid()
            h.numpy()
        (h * first + h).sum().backward()
        return v.grad.numpy()

    found = run()
    monkeypatch.setattr(backward, "MANY", 10**9)
    np.testing.assert_array_equal(found, run())

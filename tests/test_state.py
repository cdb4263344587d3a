"""Where state lives: every way of writing a training loop equals the same loop computed operation by operation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import nn, optim
from katachi.nn import functional as F

Loop = Callable[[], dict[str, Any]]


def data(batch: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return kt.tensor(rng.standard_normal((batch, 6), np.float32)), kt.tensor(rng.integers(0, 3, batch))


def model(*, dropout: float = 0.0) -> nn.Sequential:
    kt.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def weights(*modules: nn.Module) -> dict[str, np.ndarray]:
    return {f"{i}.{k}": v.numpy() for i, m in enumerate(modules) for k, v in m.state_dict().items()}


def plain() -> dict[str, Any]:
    net, (x, y) = model(dropout=0.25), data(8)
    opt = optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(5):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
    return {**weights(net), "loss": loss.numpy()}


def printing() -> dict[str, Any]:
    net, (x, y) = model(dropout=0.25), data(8)
    opt = optim.AdamW(net.parameters(), lr=0.01)
    seen = []
    for _ in range(5):
        loss = F.cross_entropy(net(x), y)
        seen.append(loss.item())
        loss.backward()
        opt.step()
    return {**weights(net), "seen": np.array(seen)}


def holding() -> dict[str, Any]:
    net, (x, y) = model(), data(8)
    opt = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses, predictions = [], []
    for _ in range(5):
        out = net(x)
        loss = F.cross_entropy(out, y)
        loss.backward()
        opt.step()
        losses.append(loss)
        predictions.append(out)
    return {
        **weights(net),
        "losses": np.array([v.item() for v in losses]),
        "predictions": np.stack([p.numpy() for p in predictions]),
    }


def gan() -> dict[str, Any]:
    kt.manual_seed(5)
    g = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    d = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    opt_g, opt_d = optim.AdamW(g.parameters(), lr=0.01), optim.AdamW(d.parameters(), lr=0.01)
    ones, zeros = kt.ones(4, dtype=kt.int64), kt.zeros(4, dtype=kt.int64)
    for i in range(4):
        real = kt.tensor(np.random.default_rng(i).standard_normal((4, 2), np.float32))
        fake = g(kt.randn(4, 2))
        opt_d.zero_grad()
        loss_d = F.cross_entropy(d(real), ones) + F.cross_entropy(d(fake.freeze()), zeros)
        loss_d.backward()
        opt_d.step()
        loss_g = F.cross_entropy(d(fake), ones)
        loss_g.backward()
        opt_g.step()
    return {**weights(g, d), "g": loss_g.numpy(), "d": loss_d.numpy()}


def accumulating() -> dict[str, Any]:
    net = model()
    opt = optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        for i in range(3):
            x, y = data(4, i)
            (F.cross_entropy(net(x), y) / 3).backward()
        opt.step()
    return weights(net)


def evaluating() -> dict[str, Any]:
    net, (x, y) = model(dropout=0.5), data(8)
    opt = optim.AdamW(net.parameters(), lr=0.01)
    seen = []
    for _ in range(4):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        net.eval()
        with kt.no_grad():
            out = net(x)
            assert not kt.is_variable(out)
            seen.append((out.argmax(1) == y).astype(kt.float32).mean().item())
        net.train()
    return {**weights(net), "seen": np.array(seen)}


def penalising() -> dict[str, Any]:
    """A gradient penalty: the gradient is part of the loss."""
    net, (x, y) = model(), data(8)
    opt = optim.SGD(net.parameters(), lr=0.1)
    ws = list(net.parameters())
    for i in range(4):
        loss = F.cross_entropy(net(x), y)
        if i == 2:
            loss.item()
        loss.backward(create_graph=True)
        penalty = sum([(w.grad * w.grad).sum() for w in ws], start=kt.zeros())
        opt.zero_grad()
        (loss + penalty * 0.1).backward()
        opt.step()
    return {**weights(net), "penalty": penalty.numpy()}


def changing() -> dict[str, Any]:
    net = model()
    opt = optim.AdamW(net.parameters(), lr=0.01)
    for i in range(8):
        opt.param_groups[0]["lr"] = 0.01 / (i + 1)
        x, y = data(5 if i % 3 == 2 else 8, i)
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
    return weights(net)


def storing() -> dict[str, Any]:
    net, (x, y) = model(), data(8)
    opt = optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):
        store = kt.gradients(F.cross_entropy(net(x), y), net.parameters())
        opt.step(store)
        assert store == {}
    return weights(net)


def setting() -> dict[str, Any]:
    """A moving average of the weights, kept with set()."""
    net, (x, y) = model(), data(8)
    opt = optim.SGD(net.parameters(), lr=0.1)
    slow = [nn.Buffer(p) for p in net.parameters()]
    for _ in range(4):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        for s, p in zip(slow, net.parameters(), strict=True):
            s.set(s * 0.9 + p * 0.1)
    return {**weights(net), **{f"slow{i}": s.numpy() for i, s in enumerate(slow)}}


LOOPS = [plain, printing, holding, gan, accumulating, evaluating, penalising, changing, storing, setting]


@pytest.mark.parametrize("loop", LOOPS, ids=lambda f: f.__name__)
def test_a_loop_equals_itself_computed_at_once(loop: Loop) -> None:
    deferred = loop()
    with kt.eager():
        eager = loop()
    assert deferred.keys() == eager.keys()
    for name in deferred:
        assert np.array_equal(deferred[name], eager[name]), name
    assert any(np.abs(v).max() > 0 for v in deferred.values())


def silent_step(net: nn.Module, opt: optim.Optimizer, x: Any, y: Any) -> Any:
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    opt.step()
    return loss


def printing_step(net: nn.Module, opt: optim.Optimizer, x: Any, y: Any) -> Any:
    loss = F.cross_entropy(net(x), y)
    loss.item()
    loss.backward()
    opt.step()
    return loss


@pytest.mark.parametrize("step", [silent_step, printing_step])
def test_from_the_third_iteration_nothing_is_built(step: Callable[..., Any]) -> None:
    net, (x, y) = model(dropout=0.1), data(8)
    opt = optim.AdamW(net.parameters(), lr=0.01)
    for i in range(6):
        told = kt.explain(step, net, opt, x, y)
        assert told.programs_built <= (len(told.flushes) if i < 2 else 0)
        opt.param_groups[0]["lr"] *= 0.9
    told = kt.explain(step, net, opt, *data(5))
    assert (told.programs_built, told.kernels_compiled) == (0, 0)


def test_nothing_grows_when_losses_are_added_up() -> None:
    net, (x, y) = model(), data(8)
    opt = optim.SGD(net.parameters(), lr=0.1)
    total: Any = kt.zeros()
    built = []
    for _ in range(8):
        loss = F.cross_entropy(net(x), y)
        total = total + loss
        loss.backward()
        built.append(kt.explain(opt.step).programs_built)
        assert len(total._origin.links) == 0
    assert sum(built[3:]) == 0
    with pytest.raises(kt.GradientError, match="consumed"):
        total.backward()


def test_backward_twice_needs_retain_graph() -> None:
    v = kt.variable([1.0, 2.0])
    for look in (False, True):
        y = (v * v).sum()
        if look:
            y.item()
        y.backward(retain_graph=True)
        if look:
            v.grad.numpy()
        y.backward()
        assert v.grad.tolist() == [4.0, 8.0]
        with pytest.raises(kt.GradientError, match="second time"):
            y.backward()
        v.grad = None


def test_two_losses_on_one_trunk() -> None:
    def run() -> list[float]:
        v = kt.variable([1.0, 2.0])
        h = (v * v).exp()
        h.sum().backward(retain_graph=True)
        (h * h).sum().backward()
        return v.grad.tolist()

    with kt.eager():
        at_once = run()
    assert run() == at_once


def test_a_value_looked_at_in_the_middle_keeps_its_graph() -> None:
    v = kt.variable([1.0, 2.0, 3.0])
    a = v * v
    a.numpy()
    b = a.exp()
    c = b.sum()
    c.item()
    d = c * 2.0 + a.sum()
    d.backward()
    x = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(v.grad.numpy(), 4 * x * np.exp(x * x) + 2 * x, rtol=1e-6)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_host_numbers_keep_their_dtype_on_a_tape(device: str) -> None:
    """A class number, and a seed beyond what float32 holds, that entered as Python ints."""
    with kt.device(device):
        v = kt.variable(np.eye(2, 3, dtype=np.float32))
        loss = F.cross_entropy(v, kt.full((2,), 2))
        loss.item()
        loss.backward()
        p = np.exp(np.eye(2, 3)) / np.exp(np.eye(2, 3)).sum(1, keepdims=True)
        np.testing.assert_allclose(v.grad.numpy(), (p - np.eye(3)[[2, 2]]) / 2, rtol=1e-5)

        def masked(look: bool) -> Any:
            x, generator = kt.variable(np.ones(64, np.float32)), kt.Generator((1 << 60) + 12345)
            y = kt.checkpoint(lambda t: F.dropout(t * t, 0.5, generator=generator).exp())(x).sum()
            if look:
                y.item()
            y.backward()
            return x.grad.numpy()

        np.testing.assert_array_equal(masked(False), masked(True))


def test_a_frozen_module_shares_state_and_is_constant() -> None:
    net, (x, y) = model(dropout=0.5), data(8)
    twin = net.freeze()
    assert not kt.is_variable(twin(x))
    assert [n for n, _ in twin.named_parameters()] == [n for n, _ in net.named_parameters()]
    assert not any(map(kt.is_variable, twin.parameters()))
    before = twin(x).numpy()
    opt = optim.SGD(net.parameters(), lr=0.5)
    silent_step(net, opt, x, y)
    assert not np.array_equal(before, twin(x).numpy())
    np.testing.assert_array_equal(net.eval()(x).numpy(), twin(x).numpy())


def test_pending_set_is_seen_by_every_handle_of_the_cell() -> None:
    layer = nn.Linear(2, 2)
    twin = layer.freeze()
    first = twin.weight + 0.0
    layer.weight.set(kt.ones((2, 2)))
    second, third = twin.weight + 0.0, layer.weight * 1.0
    assert not np.array_equal(first.numpy(), second.numpy())
    assert second.tolist() == third.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    third.sum().backward()
    assert layer.weight.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_state_set_without_gradients_stays_trainable() -> None:
    layer = nn.Linear(2, 1)
    with kt.no_grad():
        layer.weight.set(kt.ones((1, 2)))
    layer(kt.ones((1, 2))).sum().backward()
    assert layer.weight.grad.tolist() == [[1.0, 1.0]]


def test_a_failed_step_changes_nothing() -> None:
    net, (x, y) = model(), data(8)
    opt = optim.AdamW(net.parameters(), lr=0.01)
    silent_step(net, opt, x, y)
    before = weights(net)
    fine = x.sum()
    loss = F.cross_entropy(net(x), y + 7)
    loss.backward()
    with pytest.raises(kt.IndexBoundsError, match=r"index \d+ is outside axis 1 of size 3.*test_state.py:\d+"):
        opt.step()
    after = weights(net)
    assert all(np.array_equal(before[k], after[k]) for k in before)
    assert fine.item() == pytest.approx(float(x.numpy().sum()), rel=1e-5)
    with pytest.raises(kt.IndexBoundsError):
        loss.item()
    assert all(p.grad is not None for p in net.parameters())
    opt.zero_grad()
    silent_step(net, opt, x, y)
    assert not np.array_equal(before["0.0.weight"], net.state_dict()["0.weight"].numpy())


def test_grad_outlives_its_step_when_somebody_holds_it() -> None:
    v = kt.variable([2.0])
    opt = optim.SGD([v], lr=1.0)
    (v * v).sum().backward()
    g = v.grad
    opt.step()
    assert v.grad is None
    assert g.tolist() == [4.0]
    assert v.tolist() == [-2.0]


def test_reset_clears_the_whole_graph() -> None:
    a, b = kt.variable([1.0]), kt.variable([2.0])
    y = (a * b).sum()
    y.backward()
    y.reset()
    assert a.grad is None and b.grad is None
    y = (a * b).sum()
    y.backward()
    y.item()
    y.reset()
    assert a.grad is None and b.grad is None


def test_numbers_do_not_rebuild_and_slices_do() -> None:
    x = kt.arange(10, dtype=kt.float32)

    def scaled(k: float, i: int) -> float:
        return (x * k)[i].item()

    kt.explain(scaled, 2.0, 1)
    assert kt.explain(scaled, 3.5, 7).programs_built == 0
    assert scaled(3.5, 7) == 24.5 and scaled(-1.0, 9) == -9.0


def test_threads_have_their_own_traces_and_may_look_at_each_other() -> None:
    import threading

    mine = kt.ones(3) * 5.0
    seen: list[Any] = []

    def other() -> None:
        v = kt.variable([1.0])
        (v * 3.0).sum().backward()
        seen.append((mine.tolist(), v.grad.tolist()))

    thread = threading.Thread(target=other)
    more = mine + 1.0
    thread.start()
    thread.join()
    assert seen == [([5.0, 5.0, 5.0], [3.0])]
    assert more.tolist() == [6.0, 6.0, 6.0]


def test_what_an_ended_thread_left_pending_can_be_looked_at() -> None:
    import threading

    left: list[Any] = []
    state = nn.Buffer([1.0])

    def work() -> None:
        left.append(kt.ones(3) * 2.0)
        if left[1:]:
            state.set(state + 4.0)

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        left.append("next time write")
    assert left[0].tolist() == left[2].tolist() == [2.0, 2.0, 2.0]
    assert (left[0] + left[2]).tolist() == [4.0, 4.0, 4.0]
    assert state.tolist() == [5.0]


def test_eager_and_no_grad_nest_and_restore() -> None:
    v = kt.variable([1.0])
    with kt.no_grad(), contextlib.suppress(ZeroDivisionError):
        assert not kt.is_variable(v * 2)
        raise ZeroDivisionError
    assert kt.is_variable(v * 2)

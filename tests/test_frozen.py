"""Frozen modules have the names and the parameters of the original, as constants that share its cells."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import GradientError, nn, optim
from katachi.nn import functional as F


def network(seed: int = 0) -> Any:
    kt.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_names_parameters_and_state() -> None:
    net = network()
    frozen = net.freeze()
    for walk in ("named_parameters", "named_buffers", "named_state", "named_modules"):
        assert [n for n, _ in getattr(frozen, walk)()] == [n for n, _ in getattr(net, walk)()]
    assert all(isinstance(p, nn.Parameter) and not p.requires_grad for p in frozen.parameters())
    assert not any(map(kt.is_variable, frozen.parameters())) and all(map(kt.is_variable, net.parameters()))
    assert sum(p.size for p in frozen.parameters()) == sum(p.size for p in net.parameters()) == 34
    assert all(p.grad is None for p in frozen.parameters())
    frozen.zero_grad()
    twice = frozen.freeze()
    assert [p.tolist() for p in twice.parameters()] == [p.tolist() for p in net.parameters()]
    state = {name: np.full(value.shape, 2) for name, value in net.state_dict().items()}
    frozen.load_state_dict(state)
    assert all((value.numpy() == 2).all() for value in net.state_dict().values())
    assert all(map(kt.is_variable, net.parameters()))


def test_set_on_either_side_is_seen_on_the_other_and_the_original_stays_trainable() -> None:
    layer = nn.Linear(1, 1, bias=False)
    frozen = layer.freeze()
    frozen.weight.set([[2.0]])
    loss = (layer(kt.ones(1, 1)) * 3).sum()  # in the trace that sets it
    loss.backward()
    assert layer.weight.grad.tolist() == [[3.0]] and loss.item() == 6.0 and frozen.weight.item() == 2.0
    optim.SGD(layer.parameters(), lr=1.0).step()
    assert layer.weight.item() == frozen.weight.item() == -1.0
    layer.weight.set([[5.0]])
    assert frozen(kt.ones(1, 1)).item() == 5.0 and not kt.is_variable(frozen(kt.ones(1, 1)))


def test_copies_of_a_frozen_module_are_frozen_and_on_their_own() -> None:
    net = network()
    frozen = net.freeze()
    for other in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen)), copy.deepcopy(net).freeze()):
        assert not any(p.requires_grad for p in other.parameters()) and not other.train().training
        before = net[0].weight.tolist()
        other[0].weight.set(other[0].weight * 0 + 9)
        assert net[0].weight.tolist() == before == frozen[0].weight.tolist()


def test_optimisers_take_what_is_trainable_and_refuse_what_is_not() -> None:
    net = network()
    for make in (optim.SGD, optim.Adam, optim.AdamW):
        with pytest.raises(GradientError, match="all of the 6 parameters are frozen, so there is nothing to train"):
            make(net.freeze().parameters(), lr=0.1)
        with pytest.raises(GradientError, match="all of the 6 parameters are frozen"):
            make([{"params": [nn.Parameter([1.0])]}, {"params": net.freeze().parameters()}], lr=0.1)
    net[0] = net[0].freeze()
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True, True, True]
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in net.parameters() if p.requires_grad]
    before = net[0].weight.tolist()
    net(kt.randn(5, 3)).square().sum().backward()
    assert optim.clip_grad_norm_(net.parameters(), 1.0).item() > 0
    optimizer.step()
    assert net[0].weight.tolist() == before
    with pytest.raises(GradientError, match=r"needs variables.*p\.requires_grad"):
        kt.gradients(net(kt.randn(5, 3)).sum(), list(net.parameters()))
    with pytest.raises(AttributeError, match="requires_grad cannot be set"):
        net[0].weight.requires_grad = True


def follow(form: str, steps: int) -> list[list[float]]:
    """The weights of a target network that follows a trained one."""
    q, target = network(1), network(2).freeze()
    optimizer = optim.Adam(q.parameters(), lr=0.05)
    rng = np.random.default_rng(0)
    batches = [kt.tensor(rng.standard_normal((6, 3), np.float32)) for _ in range(steps)]

    def step(x: Any) -> Any:
        loss = F.mse_loss(q(x), target(x) + 1.0)
        loss.backward()
        optimizer.step()
        pairs = zip(q.parameters(), target.parameters(), strict=True)
        for p, tp in pairs:
            tp.set(tp * 0.9 + p.freeze() * 0.1)
        return loss

    run = kt.compile(step) if form == "compiled" else step
    for x in batches:
        if form == "eager":
            with kt.eager():
                run(x)
        else:
            run(x)
    assert not any(map(kt.is_variable, target.parameters()))
    return [p.numpy().ravel().tolist() for p in target.parameters()]


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_a_target_network_follows_in_every_form(device: str) -> None:
    with kt.device(device):
        start = follow("plain", 0)
        plain, eager, compiled = (follow(form, 4) for form in ("plain", "eager", "compiled"))
    assert all(a != b for a, b in zip(start, plain, strict=True))
    for other in (eager, compiled):
        for a, b in zip(plain, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_plain_soft_update_builds_nothing_from_the_third_time_on() -> None:
    q, target = network(1), network(2).freeze()

    def update() -> None:
        for p, tp in zip(q.parameters(), target.parameters(), strict=True):
            tp.set(tp * 0.99 + p.freeze() * 0.01)
        kt.eval()

    built = [kt.explain(update).programs_built for _ in range(5)]
    assert built[2:] == [0, 0, 0]


def test_a_frozen_layers_gradient_flows_to_its_input() -> None:
    layer, x = nn.Linear(2, 1), kt.variable([[1.0, 2.0]])
    layer.freeze()(x).sum().backward()
    assert x.grad.tolist() == layer.weight.tolist() and layer.weight.grad is None

"""Cells written in place on the CPU device: where nobody can tell, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import nn, optim


@pytest.fixture(autouse=True)
def cpu():
    with kt.device("cpu"):
        yield


def problem(optimizer=optim.AdamW) -> Any:
    kt.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    opt = optimizer(model.parameters(), lr=1e-2)
    x, y = kt.randn(8, 20), kt.randint(0, 5, (8,))

    def step():
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    return model, opt, step


def addresses(model):
    return [p._value.address for p in model.parameters() if p.ndim == 2]


def test_weights_and_their_moments_stay_where_they_are():
    model, opt, step = problem()
    step()
    before = addresses(model), [s["exp_avg"]._value.address for s in opt.state.values() if s["exp_avg"].ndim == 2]
    step()
    assert before == (
        addresses(model),
        [s["exp_avg"]._value.address for s in opt.state.values() if s["exp_avg"].ndim == 2],
    )


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.Adam, optim.AdamW])
def test_the_same_numbers_as_without(optimizer):
    runs = []
    for hold in (False, True):
        model, _, step = problem(optimizer)
        held = []
        for _ in range(4):
            step()
            if hold:
                held.append([p.freeze() for p in model.parameters()])
        runs.append([p.numpy().copy() for p in model.parameters()])
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


HOLDERS: dict[str, Any] = {
    "numpy": lambda model: model[0].weight.numpy(),
    "state_dict": lambda model: model.state_dict()["0.weight"],
    "freeze": lambda model: model[0].weight.freeze() + 0,
    "dlpack": lambda model: np.from_dlpack(model[0].weight.freeze()),
}


@pytest.mark.parametrize("how", HOLDERS)
def test_what_somebody_holds_does_not_change(how):
    model, _, step = problem()
    step()
    held = HOLDERS[how](model)
    before = np.array(held if isinstance(held, np.ndarray) else held.numpy())
    step()
    step()
    assert np.array_equal(before, held if isinstance(held, np.ndarray) else held.numpy())
    assert not np.array_equal(before, model[0].weight.numpy())


def test_a_tape_keeps_the_weights_it_was_made_with():
    """The second backward needs the weights of before the step."""
    grads = []
    for stepping in (False, True):
        model, _, step = problem()
        step()
        x = kt.variable(np.ones((3, 20), np.float32))
        y = model(x).sum()
        y.item()
        if stepping:
            step()
        y.backward()
        grads.append(x.grad.numpy())
    assert np.array_equal(grads[0], grads[1])


def test_a_failed_check_changes_no_cell():
    """The check fails in the loss's gradient or its value; updates of the same program come after all of them."""
    model, opt, step = problem()
    step()
    x, wrong = kt.randn(8, 20), kt.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    before = [p.numpy().copy() for p in model.parameters()]
    moments = [s["exp_avg"].numpy().copy() for s in opt.state.values()]
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(x), wrong)
        loss.backward()
        with pytest.raises(kt.IndexBoundsError, match="index 5 is outside axis 1 of size 5"):
            opt.step()
        opt.zero_grad()
        assert all(np.array_equal(a, p.numpy()) for a, p in zip(before, model.parameters(), strict=True))
        assert all(np.array_equal(a, s["exp_avg"].numpy()) for a, s in zip(moments, opt.state.values(), strict=True))
    step()
    assert not np.array_equal(before[0], model[0].weight.numpy())


def test_an_embedding_with_a_bad_index_changes_nothing():
    """Its gradient scatters, checked, while the program already could update the layers behind it."""
    kt.manual_seed(0)
    table, head = nn.Embedding(7, 4), nn.Linear(4, 3)
    params = [*table.parameters(), *head.parameters()]
    opt = optim.AdamW(params, lr=0.1)
    for bad in (False, True):
        before = [p.numpy().copy() for p in params]
        loss = nn.functional.cross_entropy(head(table(kt.tensor([1, 9 if bad else 2]))), kt.tensor([0, 1]))
        loss.backward()
        if bad:
            with pytest.raises(kt.IndexBoundsError, match="index 9"):
                opt.step()
            assert all(np.array_equal(a, p.numpy()) for a, p in zip(before, params, strict=True))
        else:
            opt.step()


def test_swapped_cells():
    a, b = kt.variable([1.0, 2.0]), kt.variable([3.0, 4.0])
    for _ in range(3):
        old = a * 1
        a.set(b * 1)
        b.set(old.freeze())
        kt.eval(a, b)
    assert a.tolist() == [3.0, 4.0] and b.tolist() == [1.0, 2.0]


def test_a_cell_set_to_its_own_reverse():
    a = kt.variable(np.arange(1000.0))
    for _ in range(2):
        a.set(kt.flip(a.freeze(), axis=0) + 1)
        kt.eval(a)
    assert np.array_equal(a.numpy(), np.arange(1000.0) + 2)


def test_running_mean():
    layer: Any = nn.BatchNorm2d(3)
    x = kt.randn(4, 3, 5, 5)
    mean = x.numpy().mean((0, 2, 3))
    for _ in range(2):
        kt.eval(layer(x))
    np.testing.assert_allclose(layer.running_mean.numpy(), mean * 0.19, rtol=1e-5)

"""Optimisers and schedules: what a step costs to build, groups, resuming, clipping, settings that make no sense."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import CheckpointError, GradientError, nn, optim
from katachi.nn import functional as F
from katachi.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR, LinearLR, SequentialLR, StepLR

RNG = np.random.default_rng(0)


class Images(nn.Module):
    """Running statistics, dropout, a transposed convolution: all that a step may write or draw."""

    def __init__(self) -> None:
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.AvgPool2d(2), nn.ConvTranspose2d(4, 3, 2, 2),
            nn.LeakyReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.1), nn.Linear(48, 5),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        return self.net(x)


class Words(nn.Module):
    def __init__(self) -> None:
        self.table = nn.Embedding(7, 8, padding_idx=0)
        self.block, self.norm, self.head = nn.TransformerBlock(8, 2, dropout=0.1), nn.RMSNorm(8), nn.Linear(8, 7)

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.block(self.table(x))))


def batch(kind: type[nn.Module]) -> tuple[Any, Any]:
    if kind is Images:
        return kt.tensor(RNG.standard_normal((6, 1, 10, 10)).astype(np.float32)), kt.tensor(RNG.integers(0, 5, 6))
    return kt.tensor(RNG.integers(0, 7, (3, 5))), kt.tensor(RNG.integers(0, 7, (3, 5)))


OPTIMISERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.1),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01),
}


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for matrices alone, and a rate of their own for vectors, as is usual."""
    params = list(model.parameters())
    return [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in params if p.ndim < 2], "lr": 0.02, "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("kind", [Images, Words])
@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_a_step_is_one_flush_and_is_built_twice_at_most(name: str, kind: type[nn.Module], device: str) -> None:
    """With two groups, a schedule and clipping inside the step."""
    with kt.device(device):
        kt.manual_seed(0)
        model = kind()
        optimizer = OPTIMISERS[name](groups(model))
        schedule = CosineAnnealingLR(optimizer, 20)
        criterion = nn.CrossEntropyLoss(axis=-1, ignore_index=1, label_smoothing=0.1)

        def step(x: Any, y: Any) -> None:
            criterion(model(x), y).backward()
            optim.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            schedule.step()

        for i in range(6):
            told = kt.explain(step, *batch(kind))
            assert len(told.flushes) == 1
            assert told.programs_built == 0 or i < 2
        assert all(np.isfinite(p.numpy()).all() for p in model.parameters())


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_resuming_continues_as_if_nothing_had_happened(name: str) -> None:
    def fresh() -> tuple[Any, Any, Any]:
        kt.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2))
        optimizer = OPTIMISERS[name](groups(model))
        return model, optimizer, StepLR(optimizer, 4, 0.5)

    x, y = RNG.standard_normal((12, 8, 4)).astype(np.float32), RNG.integers(0, 2, (12, 8))

    def go(what: tuple[Any, Any, Any], first: int, last: int) -> None:
        model, optimizer, schedule = what
        for i in range(first, last):
            F.cross_entropy(model(kt.tensor(x[i])), kt.tensor(y[i])).backward()
            optimizer.step()
            schedule.step()

    whole, half, rest = fresh(), fresh(), fresh()
    go(whole, 0, 12)
    go(half, 0, 5)
    for part, other in zip(rest, half, strict=True):
        part.load_state_dict(other.state_dict())
    assert rest[2].get_last_lr() == half[2].get_last_lr()
    go(rest, 5, 12)
    for one, two in zip(whole[0].parameters(), rest[0].parameters(), strict=True):
        assert np.array_equal(one.numpy(), two.numpy())
    assert whole[2].get_last_lr() == rest[2].get_last_lr()


def test_a_group_has_its_own_settings() -> None:
    a, b = kt.variable([1.0]), kt.variable([1.0])
    optimizer = optim.SGD([{"params": [a], "lr": 0.5}, {"params": [b]}], lr=0.1)
    ((a + b) * 1.0).sum().backward()
    optimizer.step()
    assert (a.item(), b.item()) == (pytest.approx(0.5), pytest.approx(0.9))
    optimizer.param_groups[1]["lr"] = 0.2
    ((a + b) * 1.0).sum().backward()
    optimizer.step()
    assert (a.item(), b.item()) == (pytest.approx(0.0), pytest.approx(0.7))


def test_parameters_without_a_gradient_are_left_alone() -> None:
    a, b = kt.variable([1.0]), kt.variable([1.0])
    optimizer = optim.AdamW([a, b], lr=0.1)
    for i in range(4):
        (a * 2 if i % 2 else a * b).sum().backward()
        optimizer.step()
    assert optimizer.state_dict()["state"][0]["step"] == 4 and optimizer.state_dict()["state"][1]["step"] == 2
    with pytest.raises(GradientError, match="no parameter has a gradient"):
        optim.clip_grad_norm_([a, b], 1.0)


@pytest.mark.parametrize("largest", [0.0, 0.5, 100.0])
def test_clipping_scales_all_gradients_together(largest: float) -> None:
    values = [RNG.standard_normal(s).astype(np.float32) for s in ((3, 2), (4,), ())]
    params = [nn.Parameter(np.ones_like(v)) for v in values]
    loss: Any = 0.0
    for p, v in zip(params, values, strict=True):
        loss = loss + (p * kt.tensor(v)).sum()
    loss.backward()
    norm = optim.clip_grad_norm_(iter(params), largest)
    want = math.sqrt(sum(float((v**2).sum()) for v in values))
    assert norm.item() == pytest.approx(want, rel=1e-5)
    for p, v in zip(params, values, strict=True):
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.numpy(), v * min(1.0, largest / want), rtol=1e-4, atol=1e-7)


def test_schedules() -> None:
    optimizer = optim.SGD([{"params": [kt.variable([1.0])]}, {"params": [kt.variable([1.0])], "lr": 0.5}], lr=1.0)
    schedule = CosineAnnealingLR(optimizer, 10, 0.1)
    for n in range(21):
        part = (1 + math.cos(math.pi * n / 10)) / 2
        assert schedule.get_last_lr() == pytest.approx([0.1 + 0.9 * part, 0.1 + 0.4 * part])
        schedule.step()


def test_one_schedule_at_a_time_sets_the_rates() -> None:
    optimizer = optim.SGD(one(), lr=1.0)
    first = StepLR(optimizer, 1, 0.5)
    second = ExponentialLR(optimizer, 0.9)
    second.step()
    with pytest.raises(ValueError, match=r"StepLR: the learning rates are \[0.9\], but .* had set \[1.0\]"):
        first.step()
    optimizer.param_groups[0]["lr"] = 0.3
    with pytest.raises(ValueError, match="ExponentialLR: the learning rates are"):
        second.step()
    optimizer.add_param_group({"params": one()})
    with pytest.raises(ValueError, match="made for 1 parameter groups, now there are 2"):
        second.load_state_dict(second.state_dict())


def test_a_schedule_resumes_without_its_state() -> None:
    """As PyTorch's, by the initial rate that the optimiser keeps."""
    optimizer = optim.SGD(one(), lr=1.0)
    schedule = StepLR(optimizer, 1, 0.5)
    schedule.step()
    other = optim.SGD(one(), lr=7.0)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == 0.5 and StepLR(other, 1, 0.5).base_lrs == [1.0]


def one() -> list[Any]:
    return [nn.Parameter([1.0])]


def stepped() -> dict[str, Any]:
    params = one()
    optimizer = optim.AdamW(params)
    (params[0] * 2).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


WRONG: list[tuple[str, Callable[[], Any], type[Exception], tuple[str, ...]]] = [
    ("eps", lambda: optim.Adam(one(), eps=-1.0), ValueError, ("Adam: eps must be at least 0.0", "got -1.0")),
    ("decay", lambda: optim.AdamW(one(), weight_decay=-1.0), ValueError, ("AdamW: weight_decay",)),
    ("three betas", lambda: optim.Adam(one(), betas=(0.1, 0.2, 0.3)), ValueError, ("Adam: betas are two",)),  # type: ignore[arg-type]
    ("a setting nobody knows", lambda: optim.Adam([{"params": one(), "momentum": 0.9}]), ValueError,
     ("no setting 'momentum'", "betas")),
    ("a group's lr", lambda: optim.SGD([{"params": one(), "lr": -1}]), ValueError, ("SGD: lr",)),
    ("a state that is none", lambda: optim.SGD(one()).load_state_dict({}), CheckpointError, ("state_dict gave",)),
    ("a state for too many", lambda: optim.SGD(one()).load_state_dict(
        {"state": {3: {"step": 1}}, "param_groups": [{"params": [0]}]}), CheckpointError, ("parameter 3", "has 1")),
    ("one tensor", lambda: optim.SGD(one()[0]), TypeError, ("SGD: needs parameters", "one tensor")),
    ("no rate", lambda: optim.SGD(one(), lr=None), ValueError, ("SGD: lr", "got None")),  # type: ignore[arg-type]
    ("clipping a model", lambda: optim.clip_grad_norm_(nn.Linear(1, 1), 1.0), TypeError, ("model.parameters()",)),
    ("no order", lambda: optim.clip_grad_norm_(one(), 1.0, 0), ValueError, ("norm_type must not be zero or",)),
    ("a negative value", lambda: optim.clip_grad_value_(one(), -1.0), ValueError, ("clip_grad_value_: clip_value",)),
    ("clipping to less than nothing", lambda: optim.clip_grad_norm_(one(), -1.0), ValueError, ("max_norm",)),
    ("a step of nothing", lambda: StepLR(optim.SGD(one()), 0), ValueError, ("step_size must be at least 1",)),
    ("a warmup from nothing", lambda: LinearLR(optim.SGD(one()), 0.0), ValueError, ("start_factor must be above 0",)),
    ("a warmup of nothing", lambda: LinearLR(optim.SGD(one()), total_iters=0), ValueError, ("total_iters",)),
    ("two formulas", lambda: LambdaLR(optim.SGD(one()), [float, float]), ValueError, ("2 functions for 1",)),
    ("milestones", lambda: SequentialLR(o := optim.SGD(one()), [StepLR(o, 1)] * 2, []), ValueError,
     ("2 schedules need 1 rising milestones",)),
    ("other optimisers", lambda: SequentialLR(optim.SGD(one()), [StepLR(optim.SGD(one()), 1)], []), ValueError,
     ("of the same optimiser",)),
    ("a schedule of parameters", lambda: StepLR(one(), 1), TypeError, ("StepLR: needs an optimiser, got list",)),  # type: ignore[arg-type]
    ("half a cosine of nothing", lambda: CosineAnnealingLR(optim.SGD(one()), 0), ValueError, ("T_max",)),
    ("other groups", lambda: optim.AdamW([*one(), *one()]).load_state_dict(stepped()), CheckpointError,
     ("groups of [1] parameters", "[2]")),
    ("another optimiser", lambda: optim.SGD(one(), momentum=0.9).load_state_dict(stepped()), CheckpointError,
     ("momentum_buffer", "exp_avg")),
    ("another shape", lambda: optim.AdamW([nn.Parameter([1.0, 2.0])]).load_state_dict(stepped()), CheckpointError,
     ("exp_avg of parameter 0 is (1,), not (2,)",)),
    ("a setting that is on", lambda: optim.AdamW(one()).load_state_dict(
        {"state": {}, "param_groups": [{"params": [0], "lr": 0.1, "amsgrad": True, "maximize": False}]}),
     CheckpointError, ("AdamW has no setting 'amsgrad', saved as True",)),
    ("a saved rate below zero", lambda: optim.AdamW(one()).load_state_dict(
        {"state": {}, "param_groups": [{"params": [0], "lr": -0.1}]}), ValueError, ("AdamW: lr",)),
]  # fmt: skip


@pytest.mark.parametrize(("act", "error", "words"), [c[1:] for c in WRONG], ids=[c[0] for c in WRONG])
def test_what_is_refused_and_how(act: Callable[[], Any], error: type[Exception], words: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        act()
    assert all(w in str(caught.value) for w in words), str(caught.value)


def test_a_refused_state_changes_nothing() -> None:
    params = one()
    optimizer = optim.AdamW(params, lr=0.3)
    (params[0] * 2).sum().backward()
    optimizer.step()
    before = optimizer.state_dict()
    saved = stepped()
    saved["param_groups"][0]["amsgrad"] = True
    with pytest.raises(CheckpointError):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["state"][0]["exp_avg"].tolist() == before["state"][0]["exp_avg"].tolist()


def test_a_step_that_is_refused_changes_nothing_and_pends_nothing() -> None:
    a, b = kt.variable([1.0]), kt.variable([2.0])
    optimizer = optim.Adam([{"params": [a]}, {"params": [b]}], lr=0.1)
    (a * b).sum().backward()
    optimizer.param_groups[1]["betas"] = (1.0, 0.999)
    with pytest.raises(ValueError, match=r"Adam: betas\[0\] must be at least 0.0 and below 1.0, got 1.0"):
        optimizer.step()
    assert a.grad.item() == 2 and b.grad.item() == 1 and a.item() == 1
    optimizer.param_groups[1]["betas"] = (0.9, 0.999)
    optimizer.step()
    assert a.item() == pytest.approx(0.9) and b.item() == pytest.approx(1.9)
    store = {a: kt.ones(1), b: kt.ones(2)}
    with pytest.raises(GradientError, match=r"Adam.step: got the gradient float32\[2\] for a parameter float32\[1\]"):
        optimizer.step(store)
    assert len(store) == 2 and a.item() == pytest.approx(0.9)
    with pytest.raises(TypeError, match=r"Adam.step: needs the dict that kt.gradients gave, .* got function"):
        optimizer.step(lambda: 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_copies_of_model_and_optimiser_together_train_on(name: str) -> None:
    model = nn.Linear(3, 2)
    optimizer = OPTIMISERS[name](model.parameters())

    def step(model: Any, optimizer: Any) -> None:
        (model(kt.ones((4, 3))) ** 2).sum().backward()
        optimizer.step()

    step(model, optimizer)
    step(model, optimizer)
    pairs = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    first = next(iter(optimizer.states))
    assert optimizer.state[model.weight][first].shape == (2, 3)
    step(model, optimizer)
    for other, its in pairs:
        assert its.state_dict()["state"][0]["step"] == 2 and its.param_groups[0]["params"][0] is other.weight
        step(other, its)
        assert other.weight.tolist() == model.weight.tolist()


def test_groups_join_later() -> None:
    a, b, c = kt.variable([1.0]), kt.variable([1.0]), kt.variable([1.0])
    optimizer = optim.SGD([a], lr=0.1)
    optimizer.add_param_group({"params": b, "lr": 0.5})
    (a + b + c).sum().backward()
    optimizer.step()
    assert [round(x.item(), 4) for x in (a, b, c)] == [0.9, 0.5, 1.0]
    for wrong in ({"params": [c, a]}, {"params": [c], "lr": -1.0}, {"params": [c], "speed": 1.0}):
        with pytest.raises(ValueError, match="SGD: "):
            optimizer.add_param_group(wrong)
    assert len(optimizer.param_groups) == 2
    assert repr(optimizer).splitlines()[1].startswith("SGD(1 parameters, lr=0.5, momentum=0.0")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_norm_of_large_half_floats(dtype: Any) -> None:
    p = nn.Parameter(np.array([300.0, 400.0], dtype))
    (p * kt.tensor(np.array([300.0, 400.0], dtype))).sum().backward()
    assert optim.clip_grad_norm_(p, 5.0).item() == pytest.approx(500)  # one tensor will do
    assert p.grad is not None and p.grad.dtype == p.dtype and p.grad.tolist() == pytest.approx([3, 4], rel=1e-2)

"""Layers, losses and optimisers compute what PyTorch's do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
    "silu": (F.silu, T.silu, [normal(5, 7)]),
    "rms_norm": (lambda x, w: F.rms_norm(x, 7, w), lambda x, w: T.rms_norm(x, (7,), w), [normal(5, 7), normal(7)]),
    "layer_norm": (
        lambda x, w, b: F.layer_norm(x, (6, 7), w, b),
        lambda x, w, b: T.layer_norm(x, (6, 7), w, b),
        [normal(5, 6, 7), normal(6, 7), normal(6, 7)],
    ),
    "layer_norm without a weight": (
        lambda x, b: F.layer_norm(x, 7, None, b),
        lambda x, b: T.layer_norm(x, (7,), None, b),
        [normal(5, 7), normal(7)],
    ),
    "conv_transpose2d": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, (3, 2), (1, 2), (2, 1), 2, (1, 2)),
        lambda x, w, b: T.conv_transpose2d(x, w, b, (3, 2), (1, 2), (2, 1), 2, (1, 2)),
        [normal(2, 4, 5, 6), normal(4, 3, 3, 3), normal(6)],
    ),
    "conv_transpose2d, padding beyond the window": (
        lambda x, w: F.conv_transpose2d(x, w, padding=2),
        lambda x, w: T.conv_transpose2d(x, w, padding=2),
        [normal(2, 3, 7, 6), normal(3, 2, 2, 2)],
    ),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), lambda x: T.avg_pool2d(x, 2), [normal(2, 3, 7, 8)]),
    "avg_pool2d overlapping": (
        lambda x: F.avg_pool2d(x, (3, 2), (2, 1), 1),
        lambda x: T.avg_pool2d(x, (3, 2), (2, 1), 1),
        [normal(2, 3, 7, 8)],
    ),
    "avg_pool2d without the padding": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        lambda x: T.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        [normal(2, 3, 7, 8)],
    ),
    "adaptive_avg_pool2d": (
        lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
        lambda x: T.adaptive_avg_pool2d(x, (3, 4)),
        [normal(2, 3, 7, 10)],
    ),
    "adaptive_avg_pool2d to more": (
        lambda x: F.adaptive_avg_pool2d(x, (5, None)),
        lambda x: T.adaptive_avg_pool2d(x, (5, None)),
        [normal(2, 3, 2, 4)],
    ),
    "adaptive_avg_pool2d that divides": (
        lambda x: F.adaptive_avg_pool2d(x, 2),
        lambda x: T.adaptive_avg_pool2d(x, 2),
        [normal(2, 3, 6, 4)],
    ),
    "attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda q, k, v: T.scaled_dot_product_attention(q, k, v, is_causal=True),
        [normal(2, 3, 5, 4), normal(2, 3, 5, 4), normal(2, 3, 5, 6)],
    ),
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


def same(mine: Any, theirs: Any, rtol: float = 2e-5, atol: float = 2e-6) -> None:
    np.testing.assert_allclose(mine.numpy(), theirs.detach().numpy(), rtol=rtol, atol=atol)


TARGETS = {"none ignored": -100, "some ignored": 2, "all ignored": None}


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("ignored", list(TARGETS))
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_and_nll(device: str, ignored: str, weighted: bool, smoothing: float) -> None:
    with kt.device(device):
        for shape in [(6, 5), (2, 5, 3, 4)]:
            x, factors = normal(*shape) * 3, np.abs(normal(5)) + 0.1
            ignore = TARGETS[ignored]
            target = RNG.integers(0, 5, (shape[0], *shape[2:]))
            if ignore is None:
                target, ignore = np.full_like(target, -7), -7
            for reduction in ("mean", "sum", "none"):
                for mine, yours in [(nn.CrossEntropyLoss, torch.nn.CrossEntropyLoss), (nn.NLLLoss, torch.nn.NLLLoss)]:
                    how: dict[str, Any] = {"ignore_index": ignore, "reduction": reduction}
                    if mine is nn.CrossEntropyLoss:
                        how["label_smoothing"] = smoothing
                    v, w = kt.variable(x), torch.tensor(x, requires_grad=True)
                    a = mine(factors if weighted else None, **how)(v, kt.tensor(target))
                    b = yours(torch.tensor(factors) if weighted else None, **how)(w, torch.tensor(target))
                    same(a, b, rtol=1e-4)
                    seed = normal(*b.shape)
                    a.backward(kt.tensor(seed))
                    b.backward(torch.tensor(seed))
                    same(v.grad, w.grad, rtol=1e-4)


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_probabilities(device: str, smoothing: float) -> None:
    with kt.device(device):
        x, factors = normal(4, 5, 3), np.abs(normal(5))
        p = np.abs(normal(4, 5, 3))
        for weight in (None, factors):
            v, w = kt.variable(x), torch.tensor(x, requires_grad=True)
            a = nn.CrossEntropyLoss(weight, label_smoothing=smoothing)(v, kt.tensor(p))
            weights = None if weight is None else torch.tensor(weight)
            b = torch.nn.CrossEntropyLoss(weights, label_smoothing=smoothing)(w, torch.tensor(p))
            same(a, b)
            a.backward()
            b.backward()
            same(v.grad, w.grad, rtol=1e-4)


PAIRED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "L1Loss": (nn.L1Loss, torch.nn.L1Loss),
    "MSELoss": (nn.MSELoss, torch.nn.MSELoss),
    "SmoothL1Loss": (nn.SmoothL1Loss, torch.nn.SmoothL1Loss),
    "SmoothL1Loss, beta": (partial(nn.SmoothL1Loss, beta=0.3), partial(torch.nn.SmoothL1Loss, beta=0.3)),
    "SmoothL1Loss, none": (partial(nn.SmoothL1Loss, beta=0.0), partial(torch.nn.SmoothL1Loss, beta=0.0)),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss, torch.nn.BCEWithLogitsLoss),
    "BCEWithLogitsLoss, weights": (
        lambda **k: nn.BCEWithLogitsLoss([[0.5], [2.0], [3.0]], pos_weight=[0.2, 1.0, 7.0, 0.0], **k),
        lambda **k: torch.nn.BCEWithLogitsLoss(
            torch.tensor([[0.5], [2.0], [3.0]]), pos_weight=torch.tensor([0.2, 1.0, 7.0, 0.0]), **k
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", list(PAIRED))
def test_losses_of_two_tensors(name: str, reduction: str, device: str) -> None:
    ours, yours = PAIRED[name]
    x, target = normal(3, 4) * np.float32([[1], [5], [60]]), np.clip(normal(3, 4) + 0.5, 0, 1)
    x[0, :2], target[0, 0] = 0, 0  # kinks
    with kt.device(device):
        v, w = kt.variable(x), torch.tensor(x, requires_grad=True)
        got, want = ours(reduction=reduction)(v, kt.tensor(target)), yours(reduction=reduction)(w, torch.tensor(target))
        same(got, want)
        got.backward(kt.ones(got.shape))
        want.backward(torch.ones(want.shape))
        same(v.grad, w.grad)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_cross_entropy_on_the_last_axis(device: str) -> None:
    with kt.device(device):
        x, target = normal(2, 3, 5), RNG.integers(0, 5, (2, 3))
        got = nn.CrossEntropyLoss(axis=-1)(kt.tensor(x), kt.tensor(target))
        same(got, T.cross_entropy(torch.tensor(x).transpose(1, 2), torch.tensor(target)))


def images(*shape: int) -> Callable[[], np.ndarray]:
    return lambda: normal(*shape)


def numbers(*shape: int) -> Callable[[], np.ndarray]:
    return lambda: RNG.integers(0, 9, shape)


MODULES: dict[str, tuple[Callable[[], Any], Callable[[], Any], Callable[[], np.ndarray]]] = {
    "Linear": (lambda: nn.Linear(5, 3), lambda: torch.nn.Linear(5, 3), images(2, 4, 5)),
    "Linear without bias": (
        lambda: nn.Linear(5, 3, bias=False), lambda: torch.nn.Linear(5, 3, bias=False), images(4, 5),
    ),
    "Conv2d": (
        lambda: nn.Conv2d(4, 6, 3, 2, 1, groups=2), lambda: torch.nn.Conv2d(4, 6, 3, 2, 1, groups=2),
        images(2, 4, 7, 8),
    ),
    "ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2), lambda: torch.nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2),
        images(2, 4, 5, 6),
    ),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), lambda: torch.nn.BatchNorm2d(3), images(4, 3, 5, 5)),
    "BatchNorm2d, momentum": (
        lambda: nn.BatchNorm2d(3, 1e-3, 0.3), lambda: torch.nn.BatchNorm2d(3, 1e-3, 0.3), images(4, 3, 5, 5),
    ),
    "BatchNorm2d, average": (
        lambda: nn.BatchNorm2d(3, momentum=None), lambda: torch.nn.BatchNorm2d(3, momentum=None), images(4, 3, 5, 5),
    ),
    "BatchNorm2d, plain": (
        lambda: nn.BatchNorm2d(3, affine=False), lambda: torch.nn.BatchNorm2d(3, affine=False), images(4, 3, 5, 5),
    ),
    "BatchNorm2d, untracked": (
        lambda: nn.BatchNorm2d(3, track_running_stats=False),
        lambda: torch.nn.BatchNorm2d(3, track_running_stats=False), images(4, 3, 5, 5),
    ),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), lambda: torch.nn.BatchNorm1d(3), images(4, 3)),
    "BatchNorm1d, momentum": (
        lambda: nn.BatchNorm1d(3, 1e-3, 0.3), lambda: torch.nn.BatchNorm1d(3, 1e-3, 0.3), images(4, 3, 5),
    ),
    "BatchNorm1d, two values": (lambda: nn.BatchNorm1d(3), lambda: torch.nn.BatchNorm1d(3), images(1, 3, 2)),
    "LayerNorm": (lambda: nn.LayerNorm((3, 5)), lambda: torch.nn.LayerNorm((3, 5)), images(4, 3, 5)),
    "LayerNorm without bias": (
        lambda: nn.LayerNorm(5, bias=False), lambda: torch.nn.LayerNorm(5, bias=False), images(4, 5),
    ),
    "LayerNorm, plain": (
        lambda: nn.LayerNorm(5, elementwise_affine=False), lambda: torch.nn.LayerNorm(5, elementwise_affine=False),
        images(4, 5),
    ),
    "RMSNorm": (lambda: nn.RMSNorm(5), lambda: torch.nn.RMSNorm(5), images(4, 3, 5)),
    "RMSNorm, eps": (lambda: nn.RMSNorm(5, 0.1), lambda: torch.nn.RMSNorm(5, 0.1), images(4, 3, 5)),
    "Embedding": (lambda: nn.Embedding(9, 4), lambda: torch.nn.Embedding(9, 4), numbers(3, 5)),
    "Embedding, padding": (
        lambda: nn.Embedding(9, 4, padding_idx=-2), lambda: torch.nn.Embedding(9, 4, padding_idx=-2), numbers(6, 5),
    ),
    "activations": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.LeakyReLU(0.2), nn.SiLU(), nn.Identity(), nn.Softmax(1), nn.Tanh()),
        lambda: torch.nn.Sequential(
            torch.nn.Linear(5, 6), torch.nn.LeakyReLU(0.2), torch.nn.SiLU(), torch.nn.Identity(),
            torch.nn.Softmax(1), torch.nn.Tanh(),
        ),
        images(4, 5),
    ),
    "images": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2),
            nn.ConvTranspose2d(4, 3, 2, 2), nn.GELU("tanh"), nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten(), nn.Linear(18, 5),
            nn.LogSoftmax(-1),
        ),
        lambda: torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3, bias=False), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.AvgPool2d(2),
            torch.nn.ConvTranspose2d(4, 3, 2, 2), torch.nn.GELU("tanh"), torch.nn.MaxPool2d(2),
            torch.nn.AdaptiveAvgPool2d((3, 2)), torch.nn.Flatten(), torch.nn.Linear(18, 5), torch.nn.LogSoftmax(-1),
        ),
        images(4, 1, 12, 12),
    ),
}  # fmt: skip


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("name", list(MODULES))
def test_modules(name: str, device: str) -> None:
    """PyTorch's weights load by their names and ours load there; outputs, gradients and running statistics agree, in
    training and in evaluation, and a frozen module gives what evaluation does."""
    make, theirs, draw = MODULES[name]
    with kt.device(device):
        mine, other = make(), theirs()
        assert list(mine.state_dict()) == list(other.state_dict())
        assert [n for n, _ in mine.named_parameters()] == [n for n, _ in other.named_parameters()]
        for p in other.parameters():  # nothing is left at ones and zeros
            torch.nn.init.normal_(p)
        mine.load_state_dict({k: v.numpy() for k, v in other.state_dict().items()})
        fresh = make()
        other.load_state_dict({k: torch.tensor(v.numpy()) for k, v in fresh.state_dict().items()})
        back = theirs()
        back.load_state_dict({k: torch.tensor(v.numpy()) for k, v in mine.state_dict().items()})
        for _ in range(3):
            x = draw()
            v = kt.variable(x) if x.dtype == np.float32 else kt.tensor(x)
            w = torch.tensor(x, requires_grad=x.dtype == np.float32)
            out, want = mine(v), back(w)
            same(out, want, rtol=1e-4, atol=1e-5)
            seed = normal(*want.shape)
            out.backward(kt.tensor(seed))
            want.backward(torch.tensor(seed))
        if x.dtype == np.float32:
            same(v.grad, w.grad, rtol=1e-3, atol=1e-4)
        for (n, p), (_, q) in zip(mine.named_parameters(), back.named_parameters(), strict=True):
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-3, atol=2e-4, err_msg=n)
        for key, value in back.state_dict().items():
            same(mine.state_dict()[key], value, rtol=1e-5)
        x = draw()
        want = back.eval()(torch.tensor(x))
        same(mine.eval()(kt.tensor(x)), want, rtol=1e-4, atol=1e-5)
        out = mine.freeze()(kt.tensor(x))
        same(out, want, rtol=1e-4, atol=1e-5)
        assert not kt.is_variable(out)


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_multihead_attention(device: str, causal: bool, bias: bool) -> None:
    other = torch.nn.MultiheadAttention(8, 2, bias=bias, batch_first=True)
    for p in other.parameters():
        torch.nn.init.normal_(p, std=0.5)
    with kt.device(device):
        mine = nn.MultiheadAttention(8, 2, bias)
        assert sorted(mine.state_dict()) == sorted(other.state_dict())
        mine.load_state_dict({k: v.numpy() for k, v in other.state_dict().items()})
        x = normal(3, 5, 8)
        v, w = kt.variable(x), torch.tensor(x, requires_grad=True)
        mask = torch.nn.Transformer.generate_square_subsequent_mask(5) if causal else None
        out, want = mine(v, causal=causal), other(w, w, w, attn_mask=mask, need_weights=False)[0]
        same(out, want, rtol=1e-4, atol=1e-5)
        seed = normal(*want.shape)
        out.backward(kt.tensor(seed))
        want.backward(torch.tensor(seed))
        same(v.grad, w.grad, rtol=1e-3, atol=1e-4)
        for n, p in mine.named_parameters():
            np.testing.assert_allclose(
                p.grad.numpy(), other.get_parameter(n).grad.numpy(), rtol=1e-3, atol=2e-4, err_msg=n
            )


MASKS: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    "none": dict,
    "padding": lambda: {"key_padding_mask": np.arange(7) >= np.array([[7], [4], [1]])},
    "bool": lambda: {"attn_mask": RNG.random((5, 7)) < 0.4},
    "float": lambda: {"attn_mask": normal(5, 7)},
    "bool and padding": lambda: {
        "attn_mask": np.arange(7) < np.array([[0], [1], [2], [3], [3]]),
        "key_padding_mask": np.arange(7) >= np.array([[7], [4], [5]]),
    },
}  # fmt: skip


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("masks", list(MASKS))
@pytest.mark.parametrize("kinds", ["query, key, value", "query, key, key", "key, key, key"])
def test_attention_to_others_and_masks(device: str, masks: str, kinds: str) -> None:
    other = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    for p in other.parameters():
        torch.nn.init.normal_(p, std=0.5)
    arrays = {"query": normal(3, 5, 8), "key": normal(3, 7, 8), "value": normal(3, 7, 8)}
    names = kinds.split(", ")
    given = MASKS[masks]()
    if names[0] == "key" and "attn_mask" in given:
        given["attn_mask"] = np.concatenate([given["attn_mask"]] * 2)[:7]
    with kt.device(device):
        mine = nn.MultiheadAttention(8, 2)
        mine.load_state_dict(other.state_dict())
        ours = {n: kt.variable(arrays[n]) for n in names}
        yours = {n: torch.tensor(arrays[n], requires_grad=True) for n in names}
        out = mine(*[ours[n] for n in names], **{k: kt.tensor(v) for k, v in given.items()})
        tensors = {k: torch.tensor(v) for k, v in given.items()}
        if len(tensors) == 2:  # torch wants one dtype, or says that it is deprecated
            tensors = {k: torch.zeros(v.shape).masked_fill(v, -torch.inf) for k, v in tensors.items()}
        want = other(*[yours[n] for n in names], need_weights=False, **tensors)[0]
        same(out, want, rtol=1e-4, atol=1e-5)
        seed = normal(*want.shape)
        out.backward(kt.tensor(seed))
        want.backward(torch.tensor(seed))
        for n in ours:
            same(ours[n].grad, yours[n].grad, rtol=1e-3, atol=1e-4)
        for n, p in mine.named_parameters():
            np.testing.assert_allclose(
                p.grad.numpy(), other.get_parameter(n).grad.numpy(), rtol=1e-3, atol=2e-4, err_msg=n
            )


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("floating", [False, True])
def test_a_query_that_may_look_at_nothing(device: str, floating: bool) -> None:
    arrays = [normal(2, 3, 4, 5), normal(2, 3, 6, 5), normal(2, 3, 6, 2)]
    mask = RNG.random((4, 6)) < 0.5
    mask[1], mask[2] = False, True
    mask = np.where(mask, normal(4, 6), np.float32(-np.inf)) if floating else mask
    with kt.device(device):
        mine, theirs = [kt.variable(a) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]
        out = F.scaled_dot_product_attention(*mine, kt.tensor(mask), scale=0.3)
        want = T.scaled_dot_product_attention(*theirs, torch.tensor(mask), scale=0.3)
        assert (out.numpy()[:, :, 1] == 0).all()
        same(out, want, rtol=1e-4, atol=1e-5)
        out.backward(kt.ones(out.shape))
        want.backward(torch.ones(want.shape))
        for a, b in zip(mine, theirs, strict=True):
            same(a.grad, b.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("causal", [False, True])
def test_transformer_block(device: str, causal: bool) -> None:
    """Against torch's encoder layer with the norm first, whose weights have other names."""
    names = {
        "norm1": "norm1", "norm2": "norm2", "attention": "self_attn", "up": "linear1", "down": "linear2",
    }  # fmt: skip
    other = torch.nn.TransformerEncoderLayer(
        8, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    for p in other.parameters():
        torch.nn.init.normal_(p, std=0.5)
    theirs = dict(other.named_parameters())

    def renamed(name: str) -> str:
        head, _, rest = name.partition(".")
        return f"{names[head]}.{rest}"

    with kt.device(device):
        mine = nn.TransformerBlock(8, 2, causal)
        mine.load_state_dict({n: theirs[renamed(n)].detach().numpy() for n, _ in mine.named_parameters()})
        x = normal(3, 5, 8)
        v, w = kt.variable(x), torch.tensor(x, requires_grad=True)
        mask = torch.nn.Transformer.generate_square_subsequent_mask(5) if causal else None
        out, want = mine(v), other(w, src_mask=mask, is_causal=causal)
        same(out, want, rtol=1e-3, atol=1e-4)
        seed = normal(*want.shape)
        out.backward(kt.tensor(seed))
        want.backward(torch.tensor(seed))
        same(v.grad, w.grad, rtol=2e-3, atol=1e-3)
        for n, p in mine.named_parameters():
            want = theirs[renamed(n)].grad
            assert want is not None
            np.testing.assert_allclose(p.grad.numpy(), want.numpy(), rtol=2e-3, atol=2e-3, err_msg=n)


OPTIMISERS = {
    "sgd": (lambda p: optim.SGD(p, 0.1, weight_decay=0.01), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01)),
    "momentum": (lambda p: optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "nesterov": (
        lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    ),
    "adamw": (lambda p: optim.AdamW(p, 0.01), lambda p: torch.optim.AdamW(p, 0.01)),
    "adam": (lambda p: optim.Adam(p, 0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adam with decay": (
        lambda p: optim.Adam(p, 0.01, (0.8, 0.95), 1e-6, 0.1),
        lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.95), 1e-6, 0.1),
    ),
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


def models() -> tuple[Any, Any]:
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.GELU(), torch.nn.Linear(16, 3))
    mine = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3))
    mine.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return mine, theirs


SCHEDULES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "StepLR": (
        lambda o: optim.lr_scheduler.StepLR(o, 3, 0.5), lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5),
    ),
    "CosineAnnealingLR": (
        lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 12, 1e-4),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12, 1e-4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_groups_schedules_and_clipping_together(schedule: str, device: str) -> None:
    """Twenty steps with two groups, a schedule and clipping, resumed from state_dicts in the middle; the schedule goes
    past its end."""
    ours, yours = SCHEDULES[schedule]
    with kt.device(device):
        mine, theirs = models()

        def groups(model: Any) -> list[dict[str, Any]]:
            first, last = model[0], model[2]
            return [
                {"params": list(first.parameters()), "lr": 0.02, "weight_decay": 0.1},
                {"params": list(last.parameters()), "betas": (0.8, 0.9)},
            ]

        opt, other = optim.AdamW(groups(mine), lr=0.01), torch.optim.AdamW(groups(theirs), lr=0.01)
        plan, script = ours(opt), yours(other)
        for i in range(20):
            if i == 9:
                saved = [mine.state_dict(), opt.state_dict(), plan.state_dict()]
                mine, _ = models()
                opt = optim.AdamW(groups(mine), lr=0.01)
                plan = ours(opt)
                for what, state in zip((mine, opt, plan), saved, strict=True):
                    what.load_state_dict(state)
            x, y = normal(8, 6), RNG.integers(0, 3, 8)
            F.cross_entropy(mine(kt.tensor(x)), kt.tensor(y)).backward()
            norm = optim.clip_grad_norm_(mine.parameters(), 0.3)
            opt.step()
            other.zero_grad()
            T.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y)).backward()
            want = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.3)
            other.step()
            assert norm.item() == pytest.approx(want.item(), rel=1e-3)
            plan.step()
            script.step()
            assert plan.get_last_lr() == pytest.approx(script.get_last_lr())
        for name, value in theirs.state_dict().items():
            same(mine.state_dict()[name], value, rtol=2e-3, atol=2e-5)


FORMULAS: dict[str, Callable[[Any, Any], Any]] = {
    "StepLR": lambda m, o: m.StepLR(o, 3, 0.7),
    "MultiStepLR": lambda m, o: m.MultiStepLR(o, [2, 2, 9, 30], 0.5),
    "ExponentialLR": lambda m, o: m.ExponentialLR(o, 0.93),
    "LinearLR": lambda m, o: m.LinearLR(o),
    "LinearLR down": lambda m, o: m.LinearLR(o, 1.0, 0.1, 20),
    "LambdaLR": lambda m, o: m.LambdaLR(o, lambda n: 1 / (1 + n)),
    "LambdaLR each": lambda m, o: m.LambdaLR(o, [lambda n: 1 / (1 + n), lambda n: 0.9**n]),
    "CosineAnnealingLR": lambda m, o: m.CosineAnnealingLR(o, 50),
    "CosineAnnealingLR beyond": lambda m, o: m.CosineAnnealingLR(o, 12, 1e-3),
    "warmup": lambda m, o: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, total_iters=5), m.CosineAnnealingLR(o, 30, 1e-4)], [5]
    ),
    "three in turn": lambda m, o: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, total_iters=5), m.ExponentialLR(o, 0.9), m.StepLR(o, 4, 0.5)], [7, 20]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FORMULAS))
@pytest.mark.filterwarnings("ignore:.*scheduler")
def test_schedules_give_torchs_rates(name: str) -> None:
    """Over fifty steps and two groups; ours resumes in the middle, in an optimiser that began with other rates."""

    def ours(first: float) -> tuple[Any, Any]:
        o = optim.SGD([{"params": [kt.variable([1.0])]}, {"params": [kt.variable([1.0])], "lr": 3 * first}], lr=first)
        return o, FORMULAS[name](optim.lr_scheduler, o)

    a, b = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    other = torch.optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.3}], lr=0.1)
    (optimizer, schedule), script = ours(0.1), FORMULAS[name](torch.optim.lr_scheduler, other)
    for n in range(51):
        if n == 23:
            saved = schedule.state_dict()
            optimizer, schedule = ours(0.7)
            schedule.load_state_dict(saved)
        assert schedule.get_last_lr() == pytest.approx([g["lr"] for g in other.param_groups], rel=1e-9, abs=1e-12), n
        optimizer.step()
        other.step()
        schedule.step()
        script.step()


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0, float("inf")])
def test_clipping(order: float) -> None:
    values = [normal(3, 2), normal(4)]
    mine, theirs = [nn.Parameter(v) for v in values], [torch.nn.Parameter(torch.tensor(v)) for v in values]
    for most in (0.5, 1e3):
        for p, q in zip(mine, theirs, strict=True):
            p.grad, q.grad = kt.tensor(normal(*p.shape)), None
            q.grad = torch.tensor(p.grad.numpy().copy())
        norm = optim.clip_grad_norm_(mine, most, norm_type=order)
        same(norm, torch.nn.utils.clip_grad_norm_(theirs, most, norm_type=order), rtol=1e-5)
        for p, q in zip(mine, theirs, strict=True):
            same(p.grad, q.grad)
        optim.clip_grad_value_(mine, 0.3)
        torch.nn.utils.clip_grad_value_(theirs, 0.3)
        for p, q in zip(mine, theirs, strict=True):
            same(p.grad, q.grad)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "momentum", "nesterov"])
def test_the_state_of_torchs_optimiser_loads(name: str) -> None:
    make, other = OPTIMISERS[name]
    mine, theirs = models()
    opt, peer = make(mine.parameters()), other(theirs.parameters())
    x, y = normal(8, 6), RNG.integers(0, 3, 8)
    for i in range(6):
        peer.zero_grad()
        T.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y)).backward()
        peer.step()
        if i == 2:
            mine.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
            opt.load_state_dict(peer.state_dict())
        if i > 2:
            F.cross_entropy(mine(kt.tensor(x)), kt.tensor(y)).backward()
            opt.step()
    for key, value in theirs.state_dict().items():
        same(mine.state_dict()[key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_"])
@pytest.mark.parametrize("shape", [(40, 50), (30, 20, 3, 3)])
def test_initial_values_have_torchs_spread(name: str, shape: tuple[int, ...]) -> None:
    kt.manual_seed(0)
    ways: list[dict[str, Any]] = [{}]
    if name.startswith("kaiming"):
        ways += [{"nonlinearity": "relu", "mode": "fan_out"}, {"a": 0.5}, {"nonlinearity": "tanh"}]
    else:
        ways += [{"gain": 3.0}]
    for how in ways:
        p, q = nn.Parameter(np.zeros(shape, np.float32)), torch.zeros(shape)
        getattr(nn.init, name)(p, **how)
        getattr(torch.nn.init, name)(q, **how)
        assert p.numpy().std() == pytest.approx(q.std().item(), rel=0.08)
        assert p.numpy().mean() == pytest.approx(0.0, abs=0.1 * q.std().item())
        if "uniform" in name:
            assert np.abs(p.numpy()).max() == pytest.approx(q.abs().max().item(), rel=0.02)


LAYERS: list[tuple[Callable[[], Any], Callable[[], Any]]] = [
    (lambda: nn.Linear(30, 50), lambda: torch.nn.Linear(30, 50)),
    (lambda: nn.Conv2d(8, 16, 3), lambda: torch.nn.Conv2d(8, 16, 3)),
    (lambda: nn.ConvTranspose2d(8, 16, 3), lambda: torch.nn.ConvTranspose2d(8, 16, 3)),
    (lambda: nn.Embedding(40, 30), lambda: torch.nn.Embedding(40, 30)),
    (lambda: nn.MultiheadAttention(40, 2), lambda: torch.nn.MultiheadAttention(40, 2)),
    (lambda: nn.BatchNorm2d(4), lambda: torch.nn.BatchNorm2d(4)),
]


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_layers_start_as_torchs(number: int) -> None:
    kt.manual_seed(0)
    mine, theirs = (make() for make in LAYERS[number])
    for name, value in theirs.state_dict().items():
        got, want = mine.state_dict()[name].numpy().astype(np.float32), value.numpy().astype(np.float32)
        assert got.shape == want.shape
        assert abs(got.mean() - want.mean()) <= 5 * want.std() / np.sqrt(got.size)
        assert abs(got.std() - want.std()) <= 3 * want.std() / np.sqrt(got.size)

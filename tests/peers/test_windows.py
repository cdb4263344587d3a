"""Pooling, padding and convolution compute what PyTorch's do, at the edges as well."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import katachi as kt
from katachi import nn
from katachi.nn import functional as F

T = torch.nn.functional
RNG = np.random.default_rng(1)
DEVICES = ["reference", "cpu"]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def alike(ours: Callable[..., Any], theirs: Callable[..., Any], *arrays: np.ndarray) -> None:
    """Values and gradients; or that both refuse."""
    yours = [torch.tensor(a, requires_grad=True) for a in arrays]
    try:
        want = theirs(*yours)
    except (RuntimeError, ValueError):
        with pytest.raises((kt.ShapeError, ValueError)):
            ours(*[kt.tensor(a) for a in arrays])
        return
    mine = [kt.variable(a) for a in arrays]
    out = ours(*mine)
    np.testing.assert_allclose(out.numpy(), want.detach().numpy(), rtol=2e-5, atol=3e-6)
    seed = normal(*want.shape)
    out.backward(kt.tensor(seed))
    want.backward(torch.tensor(seed))
    for a, b in zip(mine, yours, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=2e-4, atol=2e-5)


WINDOWS = [
    (size, window, stride, padding)
    for size, window, stride in itertools.product((3, 7), (1, 3, 4), (None, 1, 2, 5))
    for padding in range(window // 2 + 1)
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pooling_of_signals(device: str, ceil_mode: bool) -> None:
    """Every window: those that do not fit, and those of ceil_mode that begin on the padding, among them."""
    with kt.device(device):
        for size, window, stride, padding in WINDOWS:
            x, how = normal(2, size), (window, stride, padding)
            alike(
                lambda a, how=how: F.max_pool1d(a, *how, ceil_mode=ceil_mode),
                lambda a, how=how: T.max_pool1d(a, *how, ceil_mode=ceil_mode),
                x,
            )
            for with_pad in (False, True):
                alike(
                    lambda a, how=how, p=with_pad: F.avg_pool1d(a, *how, ceil_mode, p),
                    lambda a, how=how, p=with_pad: T.avg_pool1d(a, *how, ceil_mode, p),
                    x,
                )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("shape", "window", "stride", "padding"),
    [((2, 3, 8, 9), (3, 2), (2, 3), (1, 0)), ((3, 7, 5), 3, 2, 1), ((1, 2, 6, 6), 2, None, 0),
     ((1, 1, 4, 5), 2, None, 1), ((1, 2, 3, 3), (4, 2), 2, 0)],
)  # fmt: skip
def test_pooling_of_images(device: str, ceil_mode: bool, shape: Any, window: Any, stride: Any, padding: Any) -> None:
    with kt.device(device):
        x = normal(*shape)
        ours: Any = nn.MaxPool2d(window, stride, padding, ceil_mode=ceil_mode)
        alike(ours, torch.nn.MaxPool2d(window, stride, padding, ceil_mode=ceil_mode), x)
        for with_pad, divisor in itertools.product((False, True), (None, 3, -2)):
            how = (window, stride, padding, ceil_mode, with_pad, divisor)
            ours = nn.AvgPool2d(*how)
            alike(ours, torch.nn.AvgPool2d(*how), x)


@pytest.mark.parametrize("device", DEVICES)
def test_pooling_layers_of_signals(device: str) -> None:
    with kt.device(device):
        x = normal(2, 3, 9)
        alike(nn.MaxPool1d(3, 2, 1), torch.nn.MaxPool1d(3, 2, 1), x)
        alike(nn.AvgPool1d(3, 2, 1, True, False), torch.nn.AvgPool1d(3, 2, 1, True, False), x)


PADS = [
    ((2, 3, 4), (1, 2)), ((2, 3, 4), (3, 0)), ((2, 3, 4), (0, 0)), ((2, 3, 4, 5), (1, 0, 2, 3)),
    ((2, 3, 4, 5), (4, 4, 3, 3)), ((2, 3, 4, 5), (5, 1, 0, 4)), ((2, 3, 4), (4, 1)),
    ((1, 2, 3, 4, 5), (1, 2, 0, 1, 2, 2)), ((2, 1, 1), (3, 2)),
]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_from_the_image(device: str, mode: str) -> None:
    with kt.device(device):
        for shape, around in PADS:
            alike(lambda a, p=around: F.pad(a, p, mode), lambda a, p=around: T.pad(a, p, mode), normal(*shape))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "around",
    [
        (),
        (1, 2),
        (-1, 2),
        (2, -3),
        (-2, -2),
        (-3, -2),
        (0, 0, 1, -1),
        (1, 1, 2, 2, 3, 3),
        (1, 1, 1, 1, 1, 1, 1, 1),
        (-9, 2),
    ],
)
def test_padding_with_a_value(device: str, around: tuple[int, ...]) -> None:
    with kt.device(device):
        x = normal(2, 3, 4)
        alike(lambda a: F.pad(a, around), lambda a: T.pad(a, around), x)
        alike(lambda a: F.pad(a, around, "constant", -1.5), lambda a: T.pad(a, around, "constant", -1.5), x)


def layers(ours: Any, theirs: Any) -> tuple[Any, Any]:
    """The two with the same weights, which its state_dict carries."""
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return ours, theirs


CONVOLUTIONS: list[dict[str, Any]] = [
    {}, {"padding": "valid", "stride": 2}, {"padding": "same"}, {"padding": "same", "dilation": 2},
    {"padding": 2, "stride": 2}, {"padding": 1, "groups": 2, "bias": False},
    *[{"padding": p, "padding_mode": m, "dilation": d} for p, d in ((1, 1), ("same", 2), (0, 1))
      for m in ("zeros", "reflect", "replicate", "circular")],
    {"padding": 2, "padding_mode": "circular", "stride": 3},
]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("axes", [1, 2])
def test_convolution(device: str, how: dict[str, Any], axes: int) -> None:
    with kt.device(device):
        for window in (3, 4) if axes == 1 else ((3, 2), (4, 3)):
            made = {1: (nn.Conv1d, torch.nn.Conv1d), 2: (nn.Conv2d, torch.nn.Conv2d)}[axes]
            ours, theirs = layers(*[cls(4, 6, window, **how) for cls in made])
            x = normal(2, 4, *(9, 8)[:axes])
            alike(ours, theirs, x)
            ours.zero_grad()
            theirs.zero_grad()
            (ours(kt.tensor(x)) ** 2).sum().backward()
            (theirs(torch.tensor(x)) ** 2).sum().backward()
            for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
                np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_padding_by_words_in_the_functions(device: str) -> None:
    with kt.device(device):
        x, w, b = normal(2, 4, 9), normal(6, 2, 4), normal(6)
        for padding in ("same", "valid", 2):
            alike(
                lambda *a, p=padding: F.conv1d(*a, padding=p, dilation=2, groups=2),
                lambda *a, p=padding: T.conv1d(*a, padding=p, dilation=2, groups=2), x, w, b,
            )  # fmt: skip
            alike(
                lambda *a, p=padding: F.conv2d(*a, padding=p, dilation=(1, 2)),
                lambda *a, p=padding: T.conv2d(*a, padding=p, dilation=(1, 2)), normal(1, 2, 6, 7), normal(3, 2, 2, 4),
            )  # fmt: skip


def test_flatten_of_some_axes() -> None:
    x = normal(2, 3, 4, 5)
    for start, end in itertools.product(range(-4, 4), range(-4, 4)):
        try:
            want = torch.nn.Flatten(start, end)(torch.tensor(x)).numpy()
        except RuntimeError:
            with pytest.raises(kt.ShapeError):
                nn.Flatten(start, end)(kt.tensor(x))
            continue
        np.testing.assert_array_equal(nn.Flatten(start, end)(kt.tensor(x)).numpy(), want)

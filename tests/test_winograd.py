"""Winograd's convolution where values differ much in size, are infinite or NaN: every output is as exact as a sum of
the products of its own window, and knows nothing of what lies outside of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import katachi as kt
from katachi.devices.cpu.engine import engine
from katachi.graph.dtypes import float32
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.kernels import convolution as convolutions
from katachi.kernels import winograd
from katachi.nn import functional as F
from katachi.transforms.view import View
from katachi.transforms.vjp import VJP

from .test_cpu_kernels import Feeds, compiled  # pyrefly: ignore[missing-import]

Array = np.ndarray[Any, Any]
Padding = tuple[tuple[int, int], tuple[int, int]]
PLAIN = {"strides": (1, 1), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1}
SAME: Padding = ((1, 1), (1, 1))


def padded(x: Array, padding: Padding) -> Array:
    """With zeros around, or less of it where the padding is negative."""
    x = np.pad(x, ((0, 0), (0, 0), *((max(low, 0), max(high, 0)) for low, high in padding)))
    (top, bottom), (left, right) = [(max(-low, 0), max(-high, 0)) for low, high in padding]
    return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


def forward(x: Array, w: Array, padding: Padding) -> Array:
    x = padded(x, padding)
    high, wide = x.shape[2] - 2, x.shape[3] - 2
    taps = [(i, j) for i in range(3) for j in range(3)]
    pieces = [np.einsum("nchw,oc->nohw", x[:, :, i : i + high, j : j + wide], w[:, :, i, j]) for i, j in taps]
    return np.asarray(sum(pieces))


def to_input(g: Array, w: Array, padding: Padding) -> Array:
    (top, bottom), (left, right) = padding
    turned = w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    return forward(g, turned, ((2 - top, 2 - bottom), (2 - left, 2 - right)))


def to_kernel(x: Array, g: Array, padding: Padding) -> Array:
    x, (high, wide) = padded(x, padding), g.shape[2:]
    rows = [[np.einsum("nchw,nohw->oc", x[:, :, i : i + high, j : j + wide], g) for j in range(3)] for i in range(3)]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def over(axis: int, x: Array) -> Array:
    """The mean of a channel axis, of what is finite, for every channel."""
    return np.broadcast_to(np.where(np.isfinite(x), x, 0).mean(axis, keepdims=True), x.shape)


def compute(x: Array, w: Array, g: Array, padding: Padding) -> list[Array]:
    """The convolution and both gradients by generated code, which Winograd's way computes."""
    feeds = Feeds()
    nodes: list[Node] = [feeds(a, float32) for a in (x, w, g)]
    out = make("convolution", *nodes[:2], padding=padding, **PLAIN)
    assert out.shape == g.shape and winograd.suits(convolutions.analyse(out)[0])
    view = View(out, lambda n: n)
    gradients = [rule(nodes[2], view) for rule in VJP["convolution"] if rule is not None]
    return compiled([out, *gradients], feeds)


def assert_sound(x: Array, w: Array, g: Array, padding: Padding = SAME, which: tuple[int, ...] = (0, 1, 2)) -> None:
    """Each value is within 1e-5 of its own magnitude: the sum of the magnitudes of its own products, or of the means
    over the channels of these. What reaches it and is not finite makes it so, and nothing else does."""
    x, w, g = (a.astype("f").astype("d") for a in (x, w, g))
    a, b, c = (np.abs(v) for v in (x, w, g))
    with np.errstate(all="ignore"):
        exact = [forward(x, w, padding), to_input(g, w, padding), to_kernel(x, g, padding)]
        own = [forward(a, b, padding), to_input(c, b, padding), to_kernel(a, c, padding)]
        alike = [
            forward(over(1, a), over(1, b), padding), to_input(over(1, c), over(0, b), padding),
            to_kernel(over(1, a), over(1, c), padding),
        ]  # fmt: skip
        got = compute(x, w, g, padding)
        for i in which:
            magnitude = np.fmax(own[i], alike[i])
            fits = np.isfinite(exact[i]) & (own[i] < 1e37)  # a sum of magnitudes beyond float32 may overflow
            np.testing.assert_array_equal(np.isfinite(got[i][fits]), True, "what is out of reach shows")
            assert not np.isfinite(got[i][~np.isfinite(exact[i])]).any(), "NaN or infinity is lost"
            # what vanishes beside the smallest float32 is not asked for
            excess = np.abs(got[i] - exact[i])[fits] - np.maximum(1e-5 * magnitude[fits], 1e-30)
            assert excess.size == 0 or excess.max() <= 0, (("output", "input", "kernel")[i], excess.max())


@st.composite
def numbers(draw: st.DrawFn, shape: tuple[int, ...], scaled: bool = True) -> Array:
    """Random data: plain, sparse, nothing, two regions, or channels of different scales; with some outliers."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    x = rng.standard_normal(shape)
    kind = draw(st.sampled_from(["plain", "plain", "sparse", "nothing", "regions", *["scales"] * scaled]))
    if kind == "sparse":
        x = np.maximum(x, 0)
    elif kind == "nothing":
        x[:] = 0
    elif kind == "regions":
        x[..., rng.integers(0, shape[-2] + 1) :, :] *= draw(st.sampled_from([0, 1e-12, 1e-6, 1e-3, 30, 1e4]))
    elif kind == "scales":
        x *= 10 ** rng.uniform(-0.5, 0.5, (1, shape[1], 1, 1))
    for _ in range(draw(st.integers(0, 4))):
        exponent = draw(st.one_of(st.floats(0, 4), st.floats(4, 30)))
        value = draw(st.sampled_from([10.0**exponent] * 6 + [np.nan, np.inf]))
        x[tuple(rng.integers(0, n) for n in shape)] = value * rng.choice([-1, 1])
    return x


@given(st.data())
def test_outliers_stay_in_reach(data: st.DataObject) -> None:
    paddings: list[Padding] = [SAME, SAME, ((0, 0), (0, 0)), ((2, 2), (2, 2)), ((3, 0), (-1, 4))]
    padding = data.draw(st.sampled_from(paddings))
    n, high, wide = data.draw(st.sampled_from([(1, 6, 5), (2, 9, 14), (1, 17, 8), (2, 14, 14)]))
    c, o = data.draw(st.sampled_from([(32, 32), (33, 48), (64, 32)]))
    shape = (n, o, high + sum(padding[0]) - 2, wide + sum(padding[1]) - 2)
    x, w, g = data.draw(numbers((n, c, high, wide))), data.draw(numbers((o, c, 3, 3))), data.draw(numbers(shape))
    assert_sound(x, w, g, padding, (0, 1))
    x, g = data.draw(numbers((n, c, high, wide), scaled=False)), data.draw(numbers(shape, scaled=False))
    assert_sound(x, w, g, padding, (2,))


@pytest.mark.parametrize("value", [10.0, 60.0, 1e3, 1e6, 1e12, 1e18, 1e30, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (13, 13), (0, 7), (6, 6)])
def test_one_outlier_at_each_operand(value: float, place: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    operands = [rng.standard_normal(s) for s in ((2, 32, 14, 14), (32, 32, 3, 3), (2, 32, 14, 14))]
    for i, operand in enumerate(operands):
        spoilt = list(operands)
        spoilt[i] = operand.copy()
        spoilt[i][(1, 3, *(p % operand.shape[2] for p in place))] = value
        x, w, g = spoilt
        assert_sound(x, w, g)


@pytest.mark.parametrize("bits", [128, 256])
def test_narrow_targets_without_masks(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine(), "target", engine().target._replace(bits=bits, masks=False))
    rng = np.random.default_rng(0)
    x, w, g = (rng.standard_normal(s) for s in ((2, 33, 14, 9), (40, 33, 3, 3), (2, 40, 14, 9)))
    x[0, 0, 13, 8], w[39, 5, 1, 1], g[1, 7, 0, 4] = 1e6, np.nan, 1e30
    assert_sound(x, w, g)


def test_one_value_alone() -> None:
    """The response to an impulse is the kernel, and nothing beside it."""
    rng = np.random.default_rng(0)
    x, w = np.zeros((1, 32, 12, 12)), rng.standard_normal((32, 32, 3, 3)).astype("f")
    x[0, 5, 6, 6] = 1e6
    y = compute(x, w, np.zeros((1, 32, 12, 12)), SAME)[0]
    np.testing.assert_allclose(y[0, :, 5:8, 5:8], 1e6 * w[:, 5, ::-1, ::-1], rtol=1e-5)
    y[0, :, 5:8, 5:8] = 0
    assert not y.any()


def test_the_identity_is_exact() -> None:
    """A kernel of one tap a channel sums nothing up, so nothing is rounded."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 64, 14, 14)) * 10 ** rng.uniform(-6, 6, (2, 64, 14, 14))
    w = np.zeros((64, 64, 3, 3))
    w[np.arange(64), np.arange(64), 1, 1] = 1
    np.testing.assert_array_equal(compute(x, w, np.zeros_like(x), SAME)[0], x.astype("f"))


def test_taps_of_different_sizes() -> None:
    """Rows of the image that do not see the kernel's large row are not off by its roundings."""
    rng = np.random.default_rng(0)
    x, w, g = (rng.standard_normal(s) for s in ((2, 32, 14, 14), (32, 32, 3, 3), (2, 32, 14, 14)))
    w[:, :, 0] *= 1e6
    assert_sound(x, w, g)
    x[0, :, 5:7, 5:9] = 0
    assert_sound(x, w, g)


@pytest.mark.parametrize("value", [1e6, np.nan])
def test_every_form_agrees(value: float) -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 32, 12, 12)).astype("f")
    image[0, 0, 5, 6] = value
    x, w = kt.tensor(image), kt.tensor(rng.standard_normal((32, 32, 3, 3)).astype("f"))

    def layer(x: Any, w: Any) -> Any:
        return F.conv2d(x, w, padding=1)

    plain = layer(x, w).numpy()
    with kt.eager():
        eager = layer(x, w).numpy()
    np.testing.assert_array_equal(plain, eager)
    np.testing.assert_array_equal(plain, kt.compile(layer)(x, w).numpy())
    reached = np.zeros_like(plain, bool)
    reached[0, :, 4:7, 5:8] = True
    want = layer(x.to("reference"), w.to("reference")).numpy()
    np.testing.assert_allclose(plain[~reached], want[~reached], rtol=0, atol=1e-5 * np.abs(want[~reached]).max())
    assert np.isfinite(plain[~reached]).all() and (np.isnan(plain[reached]) == np.isnan(want[reached])).all()

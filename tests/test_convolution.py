"""Convolution and pooling by generated code against the reference device: all attributes, all layouts, both
gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import katachi as kt
from katachi.devices.cpu.engine import engine
from katachi.graph.dtypes import float32, float64, int32
from katachi.graph.node import Node
from katachi.graph.primitives import constant, make
from katachi.graph.sizes import window_count
from katachi.kernels import convolution as convolutions
from katachi.kernels import winograd
from katachi.transforms.view import View
from katachi.transforms.vjp import VJP

from .test_cpu_kernels import FLOATS, Feeds, check, compiled, expected, groups_of  # pyrefly: ignore[missing-import]

PLAIN = {"strides": (1, 1), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1}
SPECIAL = [0.0, -0.0, 1.0, 1.0, -1.0, 2.0, np.inf, -np.inf, np.nan]


@given(st.data())
def test_pooling_with_ties_and_nans(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))

    def axes(values: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(data.draw(values) for _ in range(rank))

    window, strides = axes(st.integers(1, 3)), axes(st.integers(1, 4))
    padding = axes(st.tuples(st.integers(-1, 2), st.integers(-1, 2)))
    spatial = axes(st.integers(1, 20 if rank < 3 else 6))
    counts = [window_count(n, k, s, *p) for n, k, s, p in zip(spatial, window, strides, padding, strict=True)]
    assume(all(c >= 1 for c in counts))
    lead = data.draw(st.sampled_from([(), (3,), (2, 3), (0, 2)]))
    dtype = data.draw(st.sampled_from([float32, float64, int32]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    feeds = Feeds()
    shape = (*lead, *spatial)
    numbers = rng.integers(-2, 3, shape) if data.draw(st.booleans()) or dtype is int32 else rng.choice(SPECIAL, shape)
    x = feeds(numbers, dtype)
    g = feeds(rng.integers(-9, 9, (*lead, *counts)), dtype)
    attrs = {"window": window, "strides": strides, "padding": padding}
    out, back = make("reduce_window", x, **attrs), make("reduce_window_gradient", x, g, **attrs)
    assert {group.kind for group in groups_of([out, back])} == {"loops"}
    check([out, back], feeds)


def convolution(data: st.DataObject, rank: int) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Shapes of input and weight, and attributes."""

    def axes(values: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(data.draw(values) for _ in range(rank))

    n, groups = data.draw(st.sampled_from([0, 1, 2, 5])), data.draw(st.sampled_from([1, 1, 1, 2, 3]))
    per_in, per_out = data.draw(st.sampled_from([1, 2, 3, 17])), data.draw(st.sampled_from([0, 1, 2, 5, 16, 35, 64]))
    spatial, window = axes(st.integers(0, 9 if rank < 3 else 5)), axes(st.sampled_from([1, 2, 3, 3, 4, 7]))
    strides, low = axes(st.integers(1, 3)), axes(st.integers(-2, 4))
    high, lhs, rhs = axes(st.integers(-2, 4)), axes(st.integers(1, 3)), axes(st.integers(1, 3))
    padding = tuple(zip(low, high, strict=True))
    for size, w, s, (lo, hi), ld, rd in zip(spatial, window, strides, padding, lhs, rhs, strict=True):
        assume(window_count((size - 1) * ld + 1 if size else 0, w, s, lo, hi, rd) >= 1)
    attrs = {"strides": strides, "padding": padding, "lhs_dilation": lhs, "rhs_dilation": rhs, "groups": groups}
    return (n, groups * per_in, *spatial), (groups * per_out, per_in, *window), attrs


def rounding(x: Node, w: Node) -> float:
    """How many roundings of the largest product a sum may be off."""
    return 8.0 * (16 + int(np.prod(w.shape[1:])) ** 0.5)


@given(st.data())
def test_convolution(data: st.DataObject) -> None:
    rank = data.draw(st.sampled_from([1, 2, 2, 3]))
    x_shape, w_shape, attrs = convolution(data, rank)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    dtype = data.draw(st.sampled_from(FLOATS))
    feeds = Feeds()
    x, w = feeds(rng.standard_normal(x_shape), dtype), feeds(rng.standard_normal(w_shape), dtype)
    check(make("convolution", x, w, **attrs), feeds, 4, rounding(x, w))


def with_gradients(x: Node, w: Node, g: Node | None, attrs: dict[str, Any]) -> list[Node]:
    """The gradients of a convolution with respect to input and weight, given the result's."""
    out = make("convolution", x, w, **attrs)
    view = View(out, lambda n: n)
    assert g is not None and g.shape == out.shape
    return [rule(g, view) for rule in VJP["convolution"] if rule is not None]


@given(st.data())
def test_both_gradients(data: st.DataObject) -> None:
    x_shape, w_shape, attrs = convolution(data, data.draw(st.sampled_from([1, 2, 2, 3])))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    dtype = data.draw(st.sampled_from(FLOATS))
    feeds = Feeds()
    x, w = feeds(rng.standard_normal(x_shape), dtype), feeds(rng.standard_normal(w_shape), dtype)
    out = make("convolution", x, w, **attrs)
    g = feeds(rng.standard_normal(out.shape), dtype)
    gradients = with_gradients(x, w, g, attrs)
    kinds = [group.kind for group in groups_of(gradients)]
    assert "reference" not in kinds
    check(
        gradients, feeds, 4, rounding(x, w) + rounding(x, make("transpose", g, permutation=tuple(range(len(g.shape)))))
    )


@given(st.data())
def test_operands_that_are_views(data: st.DataObject) -> None:
    """Transposed, reversed, broadcast and sliced operands are read where they lie."""
    x_shape, w_shape, attrs = convolution(data, 2)
    assume(w_shape[1] > 1 and 0 not in (*x_shape, *w_shape))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    feeds = Feeds()

    def view(shape: tuple[int, ...]) -> Node:
        kind = data.draw(st.sampled_from(["plain", "transpose", "reverse", "broadcast", "slice", "merged"]))
        order = tuple(data.draw(st.permutations(range(4))))
        if kind == "transpose":
            stored = feeds(rng.standard_normal([shape[i] for i in order]), float32)
            return make("transpose", stored, permutation=tuple(order.index(i) for i in range(4)))
        if kind == "broadcast":
            dims = tuple(sorted(order[:2]))
            return make(
                "broadcast_in_dim",
                feeds(rng.standard_normal([shape[d] for d in dims]), float32),
                shape=shape,
                dims=dims,
            )
        if kind == "slice":
            stored = feeds(rng.standard_normal([2 * n + 1 for n in shape]), float32)
            limit = tuple(2 * n for n in shape)
            return make("slice", stored, start=(1,) * 4, limit=limit, stride=(2,) * 4)
        if kind == "merged":  # two axes that lie apart
            n, c, *spatial = shape
            stored = feeds(rng.standard_normal((n, spatial[0], c, spatial[1])), float32)
            return make("transpose", stored, permutation=(0, 2, 1, 3))
        stored = feeds(rng.standard_normal(shape), float32)
        return stored if kind == "plain" else make("reverse", stored, dimensions=order[:2])

    x, w = view(x_shape), view(w_shape)
    out = make("convolution", x, w, **attrs)
    assert [group.kind for group in groups_of([out])] == ["convolution"]
    check(out, feeds, 4, 2 * rounding(x, w))


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_read_their_operands_where_they_lie(groups: int) -> None:
    rng = np.random.default_rng(0)
    attrs = {
        "strides": (1, 1),
        "padding": ((1, 1),) * 2,
        "lhs_dilation": (1, 1),
        "rhs_dilation": (1, 1),
        "groups": groups,
    }
    feeds = Feeds()
    x, w = (
        feeds(rng.standard_normal((3, 8, 9, 9)), float32),
        feeds(rng.standard_normal((6, 8 // groups, 3, 3)), float32),
    )
    g = feeds(rng.standard_normal((3, 6, 9, 9)), float32)
    to_x, to_w = with_gradients(x, w, g, attrs)
    assert [group.kind for group in groups_of([to_x])] == ["convolution"]
    assert [group.kind for group in groups_of([to_w])] == ["convolution", "loops"]  # which turns the result
    check([to_x, to_w], feeds, 4, 2000)


def test_a_view_that_is_a_result_as_well() -> None:
    """The convolution reads behind it, and what it reads must live that long."""
    rng = np.random.default_rng(0)
    feeds = Feeds()
    x, w = feeds(rng.standard_normal((2, 9, 3, 9)), float32), feeds(rng.standard_normal((4, 3, 3, 3)), float32)
    made = make("negate", x)
    turned = make("transpose", made, permutation=(0, 2, 1, 3))
    out = make("convolution", turned, w, padding=((1, 1),) * 2, **PLAIN)
    (group,) = [group for group in groups_of([turned, out]) if group.kind == "convolution"]
    assert made in group.inputs
    near([turned, out], feeds)


def test_constant_operands() -> None:
    feeds = Feeds()
    x = feeds(np.random.default_rng(0).standard_normal((2, 3, 9, 9)), float32)
    ones = make("broadcast_in_dim", constant(1.0, float32, "cpu"), shape=(4, 3, 3, 3), dims=())
    near([make("convolution", x, ones, padding=((1, 1),) * 2, **PLAIN)], feeds)


def near(outputs: list[Node], feeds: Feeds) -> None:
    """Whatever the sizes, errors are a few millionths of the largest result."""
    for got, want in zip(compiled(outputs, feeds), expected(outputs, feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(np.abs(want).max()))


def sizes_of_a_layer(n: int, channels: int, size: int) -> tuple[list[Node], Feeds]:
    rng = np.random.default_rng(0)
    feeds = Feeds()
    x = feeds(rng.standard_normal((n, channels, size, size)), float32)
    w = feeds(rng.standard_normal((40, channels, 3, 3)), float32)
    attrs = {"strides": (1, 1), "padding": ((1, 1),) * 2, "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1}
    out = make("convolution", x, w, **attrs)
    g = feeds(rng.standard_normal(out.shape), float32)
    pool = {"window": (2, 2), "strides": (2, 2), "padding": ((0, 0),) * 2}
    small = make("reduce_window", x, **pool)
    back = make("reduce_window_gradient", x, make("multiply", small, small), **pool)
    return [out, small, back, *with_gradients(x, w, g, attrs)], feeds


def test_other_sizes_compile_nothing() -> None:
    outputs, feeds = sizes_of_a_layer(5, 35, 20)
    compiled(outputs, feeds)
    before = engine().compiled
    for n, channels, size in ((7, 35, 20), (64, 35, 20), (3, 64, 18), (2, 40, 130)):
        outputs, feeds = sizes_of_a_layer(n, channels, size)
        near(outputs, feeds)
    assert engine().compiled == before


@pytest.mark.parametrize("size", [(1, 4, 5), (2, 7, 7), (3, 14, 9), (2, 17, 33)])
@pytest.mark.parametrize("channels", [(32, 32), (50, 70)])
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 0), (2, 1)), ((3, 0), (-1, 4))])
def test_winograd(size: tuple[int, ...], channels: tuple[int, int], padding: tuple[tuple[int, int], ...]) -> None:
    rng = np.random.default_rng(0)
    (n, high, wide), (c, o) = size, channels
    feeds = Feeds()
    x, w = feeds(rng.standard_normal((n, c, high, wide)), float32), feeds(rng.standard_normal((o, c, 3, 3)), float32)
    out = make("convolution", x, w, padding=padding, **PLAIN)
    g = feeds(rng.standard_normal(out.shape), float32)
    outputs = [out, *with_gradients(x, w, g, {"padding": padding, **PLAIN})]
    if min(out.shape[2:]) >= 3:
        assert winograd.suits(convolutions.analyse(out)[0])
    near(outputs, feeds)


def test_the_second_derivative() -> None:
    rng = np.random.default_rng(0)
    results = []
    x, w = rng.standard_normal((2, 3, 8, 8)).astype("f"), rng.standard_normal((4, 3, 3, 3)).astype("f")
    for device in ("reference", "cpu"):
        with kt.device(device):

            def penalty(x: Any, w: Any) -> Any:
                slope = kt.grad(lambda x: (kt.nn.functional.conv2d(x, w, stride=2, padding=1) ** 3).sum())(x)
                return (slope * slope).sum()

            results.append([g.numpy() for g in kt.grad(penalty, argnums=(0, 1))(kt.variable(x), kt.variable(w))])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-5 * float(np.abs(a).max()))


def test_the_same_bits_every_time() -> None:
    outputs, feeds = sizes_of_a_layer(9, 33, 30)
    first = compiled(outputs, feeds)
    for _ in range(5):
        for a, b in zip(compiled(outputs, feeds), first, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("channels", [1, 5, 40])
def test_nan_and_infinity_are_not_lost(channels: int) -> None:
    rng = np.random.default_rng(0)
    attrs = {"strides": (1, 1), "padding": ((1, 1),) * 2, "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1}
    for special in (np.nan, np.inf, -np.inf):
        feeds = Feeds()
        image = rng.standard_normal((2, channels, 11, 11))
        image[1, 0, 5, 6] = special
        x, w = feeds(image, float32), feeds(rng.standard_normal((40, channels, 3, 3)), float32)
        out = make("convolution", x, w, **attrs)
        (got,), (want,) = compiled([out], feeds), expected([out], feeds)
        assert not np.isfinite(got[~np.isfinite(want)]).any()
        assert np.isfinite(got[0]).all()


@pytest.mark.parametrize("bits", [128, 256])
def test_narrow_targets_without_masks(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code that machines without masked vectors get, run on this one."""
    monkeypatch.setattr(engine(), "target", engine().target._replace(bits=bits, masks=False))
    for size in ((3, 5, 9), (2, 33, 14)):
        outputs, feeds = sizes_of_a_layer(*size)
        near(outputs, feeds)

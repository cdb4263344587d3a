"""Attention: the template against the definition, its derivatives, and that it makes no scores and compiles once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import katachi as kt
from katachi.compiler.passes import optimise, verify
from katachi.devices.cpu.engine import engine
from katachi.graph.attention import FIRST_MASK, attention, composed
from katachi.graph.dtypes import DType, float16, float32, float64
from katachi.graph.node import Node, aval, toposort
from katachi.graph.primitives import input_node, make
from katachi.kernels import attention as template
from katachi.nn import functional as F

from .test_cpu_kernels import Feeds, check, compiled, expected, groups_of  # pyrefly: ignore[missing-import]

SIZES = st.sampled_from([0, 1, 2, 3, 7, 16, 31, 33, 64, 65, 130, 200])
WIDTHS = st.sampled_from([0, 1, 3, 8, 16, 17, 32, 33, 48, 64])
Array = np.ndarray[Any, Any]


def family(*xs: Node, mask: Sequence[Node] = (), scale: float = 0.3, causal: bool = False) -> list[Node]:
    """Result, logsumexp and the three gradients."""
    (q, k, v, g), how = xs, {"scale": scale, "causal": causal}
    out = attention(q, k, v, mask, scale, causal)
    logsumexp = out.inputs[3]
    grads = [make("attention_gradient", q, k, v, logsumexp, out, g, *mask, **how, of=of) for of in range(3)]
    return [out, logsumexp, *grads]


def operands(
    feeds: Feeds, rng: np.random.Generator, lead: tuple[int, ...], t: int, s: int, e: int, f: int, dtype: DType
) -> list[Node]:
    return [feeds(rng.standard_normal((*lead, *x)), dtype) for x in ((t, e), (s, e), (s, f), (t, f))]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
@pytest.mark.parametrize("alone", [True, False])
def test_template(alone: bool, data: st.DataObject) -> None:
    """With `alone` one task does small sizes; otherwise they are divided up as large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        if not alone:
            patch.setattr(template, "ALONE", 0)
            patch.setattr(template, "LEAST", 16)
        t, s, e, f = (data.draw(x) for x in (SIZES, SIZES, WIDTHS, WIDTHS))
        lead = data.draw(st.sampled_from([(), (1,), (2,), (2, 3), (0,), (1, 5)]))
        dtype, causal = data.draw(st.sampled_from([float32, float64])), data.draw(st.booleans())
        rng, feeds = np.random.default_rng(data.draw(st.integers(0, 99))), Feeds()
        q, k, v, g = operands(feeds, rng, lead, t, s, e, f, dtype)
        mask = []
        shape = data.draw(st.sampled_from([None, (t, s), (1, s), (t, 1), (*lead, t, s), (s, t)]))
        if shape is not None:
            m = feeds(rng.random(shape) < 0.7)
            m = make("transpose", m, permutation=(1, 0)) if shape == (s, t) else m
            start = len(lead) + 2 - len(m.shape)
            mask = [make("broadcast_in_dim", m, shape=(*lead, t, s), dims=tuple(range(start, len(lead) + 2)))]
        check(family(q, k, v, g, mask=mask, causal=causal), feeds, 16, 400)


LAYOUTS: dict[str, Callable[[Node], Node]] = {
    "plain": lambda x: x,
    "heads inside": lambda x: make("transpose", x, permutation=(0, 2, 1, 3)),
    "columns apart": lambda x: make("transpose", x, permutation=(0, 1, 3, 2)),
    "reversed": lambda x: make("reverse", x, dimensions=(1, 2)),
    "computed": lambda x: make("tanh", x),
    "repeated": lambda x: make(
        "broadcast_in_dim", make("slice", x, start=(0,) * 4, limit=(x.shape[0], 1, *x.shape[2:]), stride=(1,) * 4),
        shape=x.shape, dims=(0, 1, 2, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [float32, float64], ids=lambda d: d.name)
def test_views(layout: str, dtype: DType) -> None:
    rng, feeds = np.random.default_rng(0), Feeds()
    xs = [feeds(rng.standard_normal((2, 40, 40, 40)), dtype) for _ in range(4)]
    check(family(*map(LAYOUTS[layout], xs), scale=0.2, causal=True), feeds, 16, 400)


def split(packed: Node, i: int) -> Node:
    n, t, _, heads, e = packed.shape
    parts = make("transpose", packed, permutation=(2, 0, 3, 1, 4))
    one = make("slice", parts, start=(i, 0, 0, 0, 0), limit=(i + 1, *parts.shape[1:]), stride=(1,) * 5)
    return make("reshape", one, shape=(n, heads, t, e))


def test_packed_heads_are_read_where_they_lie() -> None:
    rng, feeds = np.random.default_rng(0), Feeds()
    packed = make("reshape", feeds(rng.standard_normal((3, 70, 3 * 4 * 20)), float32), shape=(3, 70, 3, 4, 20))
    g = make("transpose", feeds(rng.standard_normal((3, 70, 4, 20)), float32), permutation=(0, 2, 1, 3))
    results = family(*(split(packed, i) for i in range(3)), g, scale=0.2, causal=True)
    groups = groups_of(results)
    assert [group.kind for group in groups] == ["attention", "attention"]
    assert [len(group.outputs) for group in groups] == [2, 3]
    check(results, feeds, 16, 400)


def test_more_axes_than_the_template_has_loops() -> None:
    rng, feeds = np.random.default_rng(0), Feeds()
    shape = (2, 1, 2, 3, 2, 2, 5, 4)
    xs = [
        make("transpose", feeds(rng.standard_normal(shape), float32), permutation=(5, 3, 1, 4, 0, 2, 6, 7))
        for _ in "1234"
    ]
    mask = make(
        "broadcast_in_dim", feeds(rng.random((3, 2, 5, 5)) < 0.7), shape=(2, 3, 1, 2, 2, 2, 5, 5), dims=(1, 5, 6, 7)
    )
    check(family(*xs, mask=[mask], scale=0.5), feeds, 16, 200)


@pytest.mark.parametrize("bits", [128, 256])
def test_narrow_targets_without_masks(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine(), "target", engine().target._replace(bits=bits, masks=False))
    for t, s, e, f, dtype in ((70, 70, 20, 33, float32), (33, 140, 16, 8, float64)):
        rng, feeds = np.random.default_rng(0), Feeds()
        q, k, v, g = operands(feeds, rng, (2,), t, s, e, f, dtype)
        check(family(q, k, v, g, causal=True), feeds, 16, 400)
        check(family(q, k, v, g, mask=[feeds(rng.random((2, t, s)) < 0.7)]), feeds, 16, 400)


def test_results_that_nobody_asks_for_are_not_made() -> None:
    rng, feeds = np.random.default_rng(0), Feeds()
    q, k, v, g = operands(feeds, rng, (4,), 50, 60, 16, 24, float32)
    results = family(q, k, v, g)
    for wanted in ([0], [1], [3], [2, 4], [0, 4]):
        check([results[i] for i in wanted], feeds, 16, 400)
    assert len(groups_of(results[:1])[0].outputs) == 1


def test_two_values_for_one_logsumexp() -> None:
    rng, feeds = np.random.default_rng(0), Feeds()
    q, k, v, w = operands(feeds, rng, (2,), 20, 20, 8, 8, float32)
    first = attention(q, k, v, [], 0.3, True)
    second = make("attention", q, k, w, first.inputs[3], **first.attrs)
    behind = make("attention", q, k, first, first.inputs[3], **first.attrs)  # its value comes from the same family
    check([first, second, behind, first.inputs[3]], feeds, 16, 200)


def test_nothing_to_look_at() -> None:
    """Zeros, -inf as the logsumexp, and nothing flows back."""
    rng, feeds = np.random.default_rng(0), Feeds()
    q, k, v, g = operands(feeds, rng, (3,), 40, 40, 16, 16, float32)
    seen = rng.random((3, 40, 40)) < 0.8
    seen[:, 5] = False
    out, logsumexp, dq, *_ = compiled(family(q, k, v, g, mask=[feeds(seen)], causal=True), feeds)
    assert (out[:, 5] == 0).all() and (logsumexp[:, 5] == -np.inf).all() and (dq[:, 5] == 0).all()
    check(family(q, k, v, g, mask=[feeds(seen)], causal=True), feeds, 16, 200)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_propagate(odd: float) -> None:
    for operand in range(3):
        rng, feeds = np.random.default_rng(0), Feeds()
        q, k, v, g = operands(feeds, rng, (2,), 40, 40, 16, 16, float32)
        feeds[(q, k, v)[operand]][0, 3, 2] = odd
        results = family(q, k, v, g)
        with np.errstate(all="ignore"):
            for got, want in zip(compiled(results[:2], feeds), expected(results[:2], feeds), strict=True):
                np.testing.assert_allclose(got, want, 1e-5, 1e-5)


def test_far_apart_scores_do_not_overflow() -> None:
    rng, feeds = np.random.default_rng(0), Feeds()
    q, k, v = (feeds(rng.standard_normal((2, 300, 16)) * size, float32) for size in (100, 100, 1))
    check(attention(q, k, v, [], 1.0, True), feeds, 16, 4000)


@pytest.mark.parametrize("causal", [True, False])
def test_the_composed_form_agrees(causal: bool) -> None:
    rng, feeds = np.random.default_rng(0), Feeds()
    q, k, v, g = operands(feeds, rng, (2, 3), 70, 90, 24, 40, float32)
    results = family(q, k, v, g, mask=[feeds(rng.random((2, 3, 70, 90)) < 0.8)], causal=causal)
    apart = optimise([composed(n.primitive, n.inputs, n.attrs) for n in results])
    assert not {n.primitive for n in toposort(apart)} & FIRST_MASK.keys()
    for got, want in zip(compiled(results, feeds), compiled(apart, feeds), strict=True):
        np.testing.assert_allclose(got, want, 1e-4, 1e-5)


def test_what_has_no_kernel_is_composed() -> None:
    xs = [input_node(aval((2, 5, 4), float16, "elsewhere", False), i) for i in range(4)]
    results = optimise(family(*xs, causal=True), check=True)
    assert not {n.primitive for n in toposort(results)} & FIRST_MASK.keys()
    verify([make("tanh", results[0])])
    halves = optimise(family(*[input_node(aval((2, 5, 4), float16, "cpu", False), i) for i in range(4)]), check=True)
    assert {n.inputs[0].dtype for n in toposort(halves) if n.primitive in FIRST_MASK} == {float32}
    kept = optimise(family(*[input_node(aval((2, 5, 4), float32, "cpu", False), i) for i in range(4)], causal=True))
    assert {n.primitive for n in toposort(kept)} == {*FIRST_MASK, "input"}


def test_other_sizes_compile_nothing_and_make_no_scores() -> None:
    def run(lead: tuple[int, ...], t: int, s: int, e: int) -> None:
        rng, feeds = np.random.default_rng(0), Feeds()
        results = family(*operands(feeds, rng, lead, t, s, e, e, float32), causal=True)
        check(results, feeds, 16, 400)
        assert all(np.prod(n.shape) <= max(t, s) * e * np.prod(lead) for g in groups_of(results) for n in g.outputs)

    run((2, 3), 20, 20, 16)
    before = engine().compiled + engine().loaded
    for lead, t, s, e in (((5,), 20, 20, 16), ((2, 3), 150, 150, 16), ((2, 3), 20, 700, 16), ((1,), 600, 33, 64)):
        run(lead, t, s, e)
    assert engine().compiled + engine().loaded == before


def test_many_tasks_give_the_same_bits() -> None:
    for heads in (1, 3, 16):
        rng, feeds = np.random.default_rng(0), Feeds()
        results = family(*operands(feeds, rng, (heads,), 400, 400, 32, 32, float32), causal=True)
        first = compiled(results, feeds)
        for _ in range(4):
            for a, b in zip(compiled(results, feeds), first, strict=True):
                np.testing.assert_array_equal(a, b)


# ---- as users meet it -----------------------------------------------------------------------------------------------

DEVICES = pytest.mark.parametrize("device", ["reference", "cpu"])


def arrays(*shapes: tuple[int, ...], dtype: Any = np.float64) -> list[Array]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


QKV = ((2, 2, 5, 4), (2, 2, 6, 4), (2, 2, 6, 3))


def loss(q: Any, k: Any, v: Any, mask: Any = None, causal: bool = False) -> Any:
    out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    return (out * out).sum()


@DEVICES
@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_difference_quotients(device: str, causal: bool) -> None:
    with kt.device(device):
        xs, directions = arrays(*QKV), arrays(*reversed(QKV))[::-1]
        mask = kt.tensor(np.random.default_rng(0).random((5, 6)) < 0.7)
        grads = kt.grad(lambda *a: loss(*a, mask=mask, causal=causal), argnums=(0, 1, 2))(*map(kt.variable, xs))
        for i, (g, d) in enumerate(zip(grads, directions, strict=True)):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [x + step * d if j == i else x for j, x in enumerate(xs)]
                ends.append(loss(*map(kt.tensor, moved), mask=mask, causal=causal).item())
            assert float((g.numpy() * d).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-8)


def hessian_times_a_direction(device: str) -> list[Array]:
    """By forward over reverse and by reverse over reverse."""
    with kt.device(device):
        q, k, v, d = map(kt.tensor, arrays(*QKV, QKV[0]))
        gradient = kt.grad(lambda x: loss(x, k, v, causal=True))
        forward = kt.jvp(gradient, (q,), (d,))[1]
        return [forward.numpy(), kt.grad(lambda x: (gradient(x) * d).sum())(kt.variable(q.numpy())).numpy()]


def test_second_derivatives() -> None:
    first, *others = [*hessian_times_a_direction("reference"), *hessian_times_a_direction("cpu")]
    for other in others:
        np.testing.assert_allclose(first, other, 1e-9, 1e-9)


@DEVICES
def test_a_value_looked_at_before_backward(device: str) -> None:
    with kt.device(device):
        got = []
        for look in (False, True):
            xs = [kt.variable(x) for x in arrays(*QKV)]
            value = loss(*xs, causal=True)
            if look:
                value.item()
            value.backward()
            got.append([x.grad.numpy() for x in xs])
        for a, b in zip(*got, strict=True):
            np.testing.assert_allclose(a, b, 1e-12)


@DEVICES
def test_checkpoint(device: str) -> None:
    with kt.device(device):
        got = []
        for wrap in (lambda f: f, kt.checkpoint):
            xs = [kt.variable(x) for x in arrays(*QKV)]
            (wrap(lambda *a: loss(*a, causal=True))(*xs) * 2).backward()
            got.append([x.grad.numpy() for x in xs])
        for a, b in zip(*got, strict=True):
            np.testing.assert_allclose(a, b, 1e-12)


@DEVICES
def test_vmap(device: str) -> None:
    with kt.device(device):
        q, k, v = map(kt.tensor, arrays(*QKV))
        one = lambda q, v: F.scaled_dot_product_attention(q, k[0], v, is_causal=True)  # noqa: E731
        want = F.scaled_dot_product_attention(q, kt.stack([k[0], k[0]]), v, is_causal=True)
        np.testing.assert_allclose(kt.vmap(one)(q, v).numpy(), want.numpy(), 1e-12)
        grads = kt.vmap(kt.grad(lambda q, v: (one(q, v) * one(q, v)).sum()))(q, v)
        for i in range(2):
            alone = kt.grad(lambda x, i=i: (one(x, v[i]) * one(x, v[i])).sum())(kt.variable(q[i].numpy()))
            np.testing.assert_allclose(grads[i].numpy(), alone.numpy(), 1e-12)


@DEVICES
def test_a_floating_mask_is_added_and_has_a_gradient(device: str) -> None:
    with kt.device(device):
        q, k, v = map(kt.tensor, arrays(*QKV))
        (bias,) = arrays((5, 6))
        hidden = np.where(bias > 0.5, -np.inf, 0.0)
        by_bool = F.scaled_dot_product_attention(q, k, v, kt.tensor(bias <= 0.5))
        by_float = F.scaled_dot_product_attention(q, k, v, kt.tensor(hidden))
        np.testing.assert_allclose(by_bool.numpy(), by_float.numpy(), 1e-10, 1e-10)
        b = kt.variable(bias)
        loss(q, k, v, b).backward()
        np.testing.assert_allclose(b.grad.numpy().sum(-1), 0, atol=1e-9)  # a row's shift changes nothing


@DEVICES
@pytest.mark.parametrize("dtype", [kt.float16, kt.float32])
def test_dtypes(device: str, dtype: Any) -> None:
    with kt.device(device):
        wide = [kt.tensor(x) for x in arrays(*QKV)]
        narrow = [x.astype(dtype) for x in wide]
        out = F.scaled_dot_product_attention(*narrow)
        assert out.dtype == dtype
        np.testing.assert_allclose(
            out.astype(kt.float64).numpy(), F.scaled_dot_product_attention(*wide).numpy(), atol=5e-3
        )


def test_constants_as_operands() -> None:
    found = []
    for device in ("reference", "cpu"):
        with kt.device(device):
            q, ones = kt.tensor(arrays((2, 5, 4))[0]), kt.ones((2, 6, 4), dtype=kt.float64)
            may_look = kt.ones((5, 6), dtype=kt.bool_)
            found.append(F.scaled_dot_product_attention(q, ones, ones, may_look).numpy())
            found.append(F.scaled_dot_product_attention(ones, ones, ones, is_causal=True).numpy()[:, 1:])
    for x in found:
        np.testing.assert_allclose(x, 1, 1e-12)


def test_misfits_are_told() -> None:
    q, k, v = map(kt.tensor, arrays(*QKV))
    with pytest.raises(kt.ShapeError, match=r"query \(\.\.\., T, E\)"):
        F.scaled_dot_product_attention(q, v, v)
    with pytest.raises(kt.ShapeError, match="broadcast"):
        F.scaled_dot_product_attention(q, k, v, kt.tensor(np.ones((4, 6), bool)))

"""Kernels of what moves or orders values by index: scatter, padding between elements, blocks at computed places, sums
on the way."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import katachi as kt
from katachi import nn, optim
from katachi.devices.cpu.engine import engine
from katachi.errors import IndexBoundsError
from katachi.graph.dtypes import DType, bfloat16, bool_, float16, float32, float64, int8, int32, int64, uint8, uint16
from katachi.graph.primitives import COMBINES, make
from katachi.kernels.polynomials import ULPS
from katachi.nn import functional as F

from .samples import SAMPLES, Sample  # pyrefly: ignore[missing-import]
from .test_cpu_kernels import (  # pyrefly: ignore[missing-import]
    BINARY,
    FLOATS,
    INTEGERS,
    SHAPES,
    SPECIAL,
    UNARY,
    Feeds,
    check,
    compiled,
    rng,
    values,
)

HALVES = (float16, bfloat16)
LOWERED = ("scatter", "pad", "dynamic_slice", "dynamic_update_slice", "cumulative_sum", "cumulative_prod",
           "cumulative_max", "sort", "cumulative_min")  # fmt: skip


@pytest.mark.parametrize("name", LOWERED)
def test_samples_equal_the_reference(name: str) -> None:
    @settings(max_examples=int(os.environ.get("KATACHI_EXAMPLES", "20")), deadline=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(SAMPLES[name])
    def run(sample: Sample) -> None:
        feeds = Feeds()
        node = make(name, *[feeds(np.asarray(a)) for a in sample.inputs], **sample.attrs)
        check([node, make("negate", node)], feeds, 4, 64)

    run()


@pytest.mark.parametrize(
    ("shape", "count"), [((1, 2, 0), 0), ((1, 16, 0), 0), ((2, 3, 0), 0), ((1, 2, 3), 0), ((2, 0, 3), 4)]
)
def test_a_scatter_of_nothing(shape: tuple[int, ...], count: int) -> None:
    for dtype, combine in ((np.float64, "set"), (np.float32, "add")):
        feeds = Feeds()
        arrays = (
            np.ones(shape, dtype),
            np.zeros((shape[0], count, 1), np.int64),
            np.ones((shape[0], count, shape[1]), dtype),
        )
        node = make("scatter", *map(feeds, arrays), axes=(2,), batch=1, combine=combine)
        check([node, make("negate", node)], feeds)


COMBINATIONS = [(d, c) for d in (uint8, int32, int64, float32, float64) for c in ("set", *COMBINES)]


@pytest.mark.parametrize(("dtype", "combine"), [(bool_, "set"), *COMBINATIONS], ids=str)
def test_scatter_goes_through_its_positions_in_order(dtype: DType, combine: str) -> None:
    for shape, axes, batch, positions in [
        ((11, 40), (0,), 0, (4, 25)),  # rows, most of them several times
        ((11, 40), (1,), 0, (7,)),
        ((6, 19), (1,), 1, (30,)),  # nothing but batch rows beside the indices
        ((6,), (0,), 0, (100,)),  # nothing at all
        ((5, 6, 7), (2, 0), 0, (90,)),
        ((3, 6, 5, 20), (1,), 1, (2, 4)),
        ((1, 8), (0,), 0, (3,)),
        ((4, 1), (0,), 0, (5,)),
        ((7, 300), (0,), 0, (1,)),
        ((7, 3), (0,), 0, (0,)),
    ]:
        feeds = Feeds()
        lead = (*shape[:batch], *positions)
        index = np.stack([rng.integers(0, shape[a], lead) for a in axes], -1)
        rest = tuple(n for i, n in enumerate(shape) if i >= batch and i not in axes)
        update, chosen = feeds(values((*lead, *rest), dtype)), feeds(index)
        tame = dtype.is_floating and combine in ("add", "multiply")
        feeds[update] = np.asarray(rng.standard_normal((*lead, *rest)), dtype.numpy) if tame else feeds[update]
        x = feeds(rng.standard_normal(shape) if tame else values(shape, dtype), dtype)
        check(make("scatter", x, chosen, update, axes=axes, batch=batch, combine=combine), feeds, 4, 64)


def test_scatter_of_what_is_computed_and_of_repeated_places() -> None:
    feeds = Feeds()
    x, u = feeds(rng.standard_normal((9, 33)), float32), feeds(rng.standard_normal(33), float32)
    update = make("tanh", make("broadcast_in_dim", u, shape=(5, 33), dims=(1,)))
    place = make("broadcast_in_dim", feeds(np.array([3]), int32), shape=(5, 1), dims=(1,))
    for combine in ("add", "set"):  # all five go to one row
        check(make("scatter", make("exponential", x), place, update, axes=(0,), batch=0, combine=combine), feeds, 16, 8)


@pytest.mark.parametrize("wrong", [11, -1, 2**40])
def test_scatter_checks_its_places(wrong: int) -> None:
    bad = np.zeros((3, 17, 1), np.int64)
    bad[1, 13] = wrong
    feeds = Feeds()
    x, update = feeds(np.zeros((11, 40)), float32), feeds(np.ones((3, 17, 40)), float32)
    node = make("scatter", x, feeds(bad), update, axes=(0,), batch=0, combine="add")
    with pytest.raises(IndexBoundsError, match=rf"index {wrong} is outside axis 0 of size 11") as caught:
        compiled([node], feeds)
    assert caught.value.node is node  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", (int8, int64, float32, float64), ids=lambda d: d.name)
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min"])
def test_accumulations_on_the_way(name: str, dtype: DType) -> None:
    for shape, axis in [((5,), 0), ((100,), 0), ((3, 50), 1), ((50, 3), 0), ((2, 5, 40), 1), ((7, 1), 1), ((0, 3), 0)]:
        feeds = Feeds()
        x = feeds(rng.uniform(-1.3, 1.3, shape) if dtype.is_floating else rng.integers(-9, 9, shape), dtype)
        check(make(f"cumulative_{name}", make("add", x, x), axis=axis), feeds, 1 if dtype is float32 else 400, 64)


def test_accumulations_keep_nan_and_infinity() -> None:
    feeds = Feeds()
    data = rng.standard_normal((4, 60))
    data[0, 20], data[1, 30], data[2, 5], data[2, 40] = np.nan, np.inf, -np.inf, np.inf
    x = feeds(data, float32)
    for name in ("sum", "prod", "max", "min"):
        check([make(f"cumulative_{name}", x, axis=axis) for axis in (0, 1)], feeds, 1)


def test_many_terms_are_added_as_exactly_as_few() -> None:
    feeds = Feeds()
    check(make("cumulative_sum", feeds(np.full(100_000, 0.1), float32), axis=0), feeds, 1)


@pytest.mark.parametrize("start", [-(2**40), -1, 0, 3, 2**40])
def test_blocks_beyond_the_edge_are_moved_inside(start: int) -> None:
    feeds = Feeds()
    data = rng.standard_normal((10, 20)).astype("f")
    x, zero, at = feeds(data), feeds(0, int64), feeds(start, int64)
    inside = min(max(start, 0), 6)
    (got,) = compiled([make("dynamic_slice", x, at, zero, sizes=(4, 20))], feeds)
    np.testing.assert_array_equal(got, data[inside : inside + 4])
    (got,) = compiled([make("dynamic_update_slice", x, feeds(np.ones((4, 20), "f")), at, zero)], feeds)
    data[inside : inside + 4] = 1
    np.testing.assert_array_equal(got, data)


HALF_CASES = [name for name, dtypes in (UNARY | BINARY).items() if float32 in dtypes]


@pytest.mark.parametrize("dtype", HALVES, ids=lambda d: d.name)
@pytest.mark.parametrize("primitive", HALF_CASES)
def test_halves_are_rounded_at_each_primitive(primitive: str, dtype: DType) -> None:
    """To the reference's bits, but for functions: they are a few ulps of float32 off before they are rounded."""
    for shape in SHAPES:
        feeds = Feeds()
        xs = [feeds(values(shape, dtype)) for _ in range(1 if primitive in UNARY else 2)]
        check(make(primitive, *xs), feeds, primitive in ULPS)


@pytest.mark.parametrize("dtype", HALVES, ids=lambda d: d.name)
def test_halves_are_converted_exactly(dtype: DType) -> None:
    feeds = Feeds()
    every = np.arange(2**16).astype(np.uint16)
    x, bits = feeds(every.view(dtype.numpy)), feeds(every)
    for target in (*HALVES, *FLOATS):
        check(make("convert", x, dtype=target), feeds)
    for node in (make("bitcast_convert", x, dtype=uint16), make("bitcast_convert", bits, dtype=dtype)):
        with np.errstate(invalid="ignore"):
            quiet = np.where(np.isnan(every.view(dtype.numpy)), 2 ** (9 if dtype is float16 else 6), 0)
        np.testing.assert_array_equal(compiled([node], feeds)[0].view(np.uint16) | quiet, every | quiet)
    near = [
        65504,
        65519.99,
        65519.999999999,
        65520,
        2**-25,
        2**-25 * 1.0000000001,
        2**-24 * 1.5,
        2**-14 * 0.99999,
        1e300,
    ]
    wide = rng.standard_normal(20_000) * 10.0 ** rng.uniform(-10, 6, 20_000)
    for source in (*FLOATS, *INTEGERS):
        numbers = np.concatenate([wide, SPECIAL, near]) if source.is_floating else values((500,), source)
        with np.errstate(over="ignore"):
            feeds = Feeds()
            check(make("convert", feeds(numbers, source), dtype=dtype), feeds)
    for target in (bool_, int8, uint8, int32, int64):
        feeds = Feeds()
        check(make("convert", feeds(rng.integers(0, 100, 50), dtype), dtype=target), feeds)


@pytest.mark.parametrize("dtype", HALVES, ids=lambda d: d.name)
def test_halves_are_added_up_in_float32(dtype: DType) -> None:
    for shape, axes in [((400,), (0,)), ((40, 70), (1,)), ((40, 70), (0,)), ((3, 5, 90), (0, 2))]:
        feeds = Feeds()
        x = feeds(rng.standard_normal(shape), dtype)
        check([make(name, x, axes=axes) for name in ("reduce_sum", "reduce_max", "reduce_min")], feeds, 1, 0.01)
        check(make("argmax", x, axis=axes[-1]), feeds)
        check(make("cumulative_sum", x, axis=axes[0]), feeds)
        y = feeds(rng.uniform(0.99, 1.01, shape), dtype)
        check([make(f"cumulative_{name}", y, axis=axes[0]) for name in ("prod", "max")], feeds)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_programs_of_halves_stay_in_native_code(dtype: str) -> None:
    """Products, convolutions, attention and scattered sums are rounded once."""

    def step(n: int) -> list[Any]:
        r = np.random.default_rng(n)
        leaves = [kt.variable(r.standard_normal(s).astype(np.float32)) for s in ((n, 2, 9, 9), (4, 2, 3, 3), (6, 16))]
        x, w, table = (leaf.astype(dtype) for leaf in leaves)
        y = F.conv2d(x, w).reshape((n, 4, 49))
        q = F.scaled_dot_product_attention(y, y * 0.5, y)
        z = table[kt.tensor(np.arange(40) % 6)] @ table.T
        loss = (z * z).sum() + F.max_pool2d(x, 2).sum() + (q * 0.1).sum()
        return [y, q, z, *kt.gradients(loss, leaves).values()]

    with kt.device("reference"):
        want = [a.astype(kt.float32).numpy() for a in step(3)]
    with kt.device("cpu"):

        def computed(n: int) -> list[Any]:
            return [a.astype(kt.float32).numpy() for a in step(n)]

        computed(2)
        told = kt.explain(computed, 5)
        assert (told.reference_steps, told.kernels_compiled) == ([], 0)
        for a, b in zip(computed(3), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-2 if dtype == "bfloat16" else 2e-3, atol=0.02)


@pytest.mark.parametrize("dtype", (bool_, *INTEGERS, *HALVES, *FLOATS), ids=lambda d: d.name)
@pytest.mark.parametrize("descending", [False, True])
def test_sorts_are_stable_and_put_nan_last(dtype: DType, descending: bool) -> None:
    """Special values repeat: -0 equals 0, all NaN are equal, and equal keys keep their order."""
    for shape, axis in [
        ((5,), 0),
        ((1,), 0),
        ((64,), 0),
        ((65,), 0),
        ((3000,), 0),
        ((3, 50), 1),
        ((50, 3), 0),
        ((2, 100, 3), 1),
        ((300, 7), 1),
        ((0, 3), 0),
        ((3, 0), 1),
    ]:
        feeds = Feeds()
        key, how = feeds(values(shape, dtype)), {"axis": axis, "descending": descending}
        place = make("iota", shape=shape, dtype=int64, dimension=axis, device="cpu")
        order = make("sort", make("negate", key) if dtype is float64 else key, place, **how)
        payloads = [key, make("not", feeds(values(shape, bool_)))]
        check([order, *[make("sort", key, p, **how) for p in payloads]], feeds)


def test_a_program_that_sorts_stays_in_native_code() -> None:
    def step(n: int) -> Any:
        x = kt.variable(np.random.default_rng(n).standard_normal((n, 70)).astype(np.float32))
        best, where = kt.topk(x, 5, axis=1)
        weighted = kt.sort(x, axis=1) * kt.arange(70, dtype=kt.float32)
        return best, where, kt.argsort(x, axis=0), kt.gradients(weighted.sum() + best.sum(), [x])[x]

    def computed(n: int) -> list[Any]:
        return [x.numpy() for x in step(n)]

    with kt.device("reference"):
        want = computed(4)
    with kt.device("cpu"):
        computed(3)
        told = kt.explain(computed, 90)
        assert (told.reference_steps, told.kernels_compiled) == ([], 0)
        for a, b in zip(computed(4), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_matrix_products_of_integers() -> None:
    for dtype in INTEGERS:
        for m, n, k in ((5, 7, 3), (33, 10, 128), (1, 300, 5), (130, 97, 600), (4, 5, 0)):
            feeds = Feeds()
            a, b = feeds(rng.integers(0, 100, (m, k)), dtype), feeds(values((n, k), dtype))
            check(make("dot_general", a, b, batch=((), ()), contract=((1,), (1,))), feeds)
            check(make("dot_general", a, a, batch=((0,), (0,)), contract=((1,), (1,))), feeds)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
@pytest.mark.parametrize(
    ("formula", "shapes"),
    [
        ("abc,cbd->ad", ((3, 4, 5), (5, 4, 6))),  # two contracted axes that do not melt into one
        ("abcdef,fhbdi->aichdbe", ((2, 3, 2, 2, 3, 5), (5, 2, 3, 2, 3))),
        ("ab,b->a", ((7, 9), (9,))),
        ("cab,cb->ca", ((2, 7, 9), (2, 9))),
        ("ab,cb->ac", ((1, 9), (300, 9))),
        ("b,b->", ((40,), (40,))),
    ],
)
def test_products_of_any_axes_stay_in_native_code(formula: str, shapes: tuple[Any, Any], dtype: str) -> None:
    def run() -> Any:
        r = np.random.default_rng(0)
        a, b = (kt.tensor(r.integers(-4, 5, s)).astype(dtype) for s in shapes)
        return kt.einsum(formula, a, b).astype(kt.float32).numpy()

    with kt.device("reference"):
        want = run()
    with kt.device("cpu"):
        assert kt.explain(run).reference_steps == []
        np.testing.assert_allclose(run(), want, rtol=1e-6)


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.name)
def test_powers_of_integers(dtype: DType) -> None:
    for shape in SHAPES:
        feeds = Feeds()
        x, y = feeds(values(shape, dtype)), feeds(rng.integers(0, 12, shape), dtype)
        check(make("power", x, y), feeds)
        check(make("power", x, feeds(values(shape, dtype))), feeds)


def test_narrow_targets_without_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine(), "target", engine().target._replace(bits=128, masks=False, halves=False))
    test_scatter_goes_through_its_positions_in_order(float32, "add")
    test_accumulations_on_the_way("sum", float32)
    test_accumulations_on_the_way("max", int8)
    test_halves_are_converted_exactly(float16)
    test_halves_are_rounded_at_each_primitive("divide", bfloat16)
    test_halves_are_added_up_in_float32(float16)
    test_powers_of_integers(int32)
    test_sorts_are_stable_and_put_nan_last(float32, True)
    test_matrix_products_of_integers()


def test_a_program_that_indexes_stays_in_native_code() -> None:
    def step(n: int) -> Any:
        x = kt.variable(np.linspace(-1.0, 1.0, n * 12, dtype=np.float32).reshape(n, 12))
        at = kt.tensor(np.arange(2 * n) % n)
        y = x[at].cumsum(1)[:, ::3] + x[:, 1::-1].sum() + x[2] * 0.5 @ kt.ones((12, 1))
        (y * y).sum().backward()
        return x.grad.numpy() if x.grad is not None else None

    with kt.device("reference"):
        want = step(9)
    with kt.device("cpu"):
        assert kt.explain(step, 7).reference_steps == []
        step(8)
        told = kt.explain(step, 9)
        assert (told.reference_steps, told.kernels_compiled) == ([], 0)
        np.testing.assert_allclose(step(9), want, rtol=1e-5, atol=1e-4)


def test_a_step_with_an_embedding_stays_in_native_code() -> None:
    def run(device: str) -> list[float]:
        with kt.device(device):
            kt.manual_seed(0)
            table, head = nn.Embedding(30, 24), nn.Linear(24, 30)
            optimizer = optim.AdamW([*table.parameters(), *head.parameters()], lr=1e-2)

            def step(batch: int) -> float:
                codes = kt.tensor(np.random.default_rng(batch).integers(0, 30, (batch, 16)))
                loss = F.cross_entropy(head(table(codes)).reshape((batch * 16, 30)), codes.reshape((batch * 16,)))
                loss.backward()
                optimizer.step()
                return loss.item()

            losses = [step(b) for b in (4, 4, 9)]
            if device == "cpu":
                told = kt.explain(step, 11)
                assert (told.reference_steps, told.kernels_compiled) == ([], 0)
            return losses

    np.testing.assert_allclose(run("cpu"), run("reference"), rtol=2e-4)


def test_a_wrong_index_of_an_embedding_changes_nothing() -> None:
    with kt.device("cpu"):
        table = nn.Embedding(5, 8)
        optimizer = optim.AdamW(table.parameters())
        before = table.weight.numpy().copy()
        table(kt.tensor([[1, 5], [0, 2]])).sum().backward()
        with pytest.raises(kt.IndexBoundsError, match=r"index 5 .*size 5.*test_lowering\.py:\d+"):
            optimizer.step()
        np.testing.assert_array_equal(table.weight.numpy(), before)

"""Numbers below the least normal one are numbers: what is computed element by element keeps them, on every device."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import katachi as kt
from katachi import nn, optim
from katachi.devices.cpu.engine import engine
from katachi.devices.cpu.pool import pool
from katachi.graph.dtypes import DType, as_dtype, bfloat16, bool_, float16, float32, float64
from katachi.graph.primitives import ARITHMETIC, COMBINES, CUMULATIVE, DIRECTIONS, FLOAT_UNARY, make
from katachi.kernels.polynomials import ULPS

from .test_cpu_kernels import Feeds, compiled, expected  # pyrefly: ignore[missing-import]

FLOATS = (float32, float64, float16, bfloat16)
Array = np.ndarray[Any, Any]


def numbers(dtype: DType, n: int = 300) -> Array:
    """Subnormal ones of both signs, the edges, zeros, and some normal ones."""
    info, r = ml_dtypes.finfo(dtype.numpy), np.random.default_rng(0)
    least, tiny = float(info.smallest_subnormal), float(info.tiny)
    some = np.concatenate([tiny * r.uniform(0, 1, n), tiny * np.exp2(-r.uniform(0, info.nmant, n))])
    edges = [least, 2 * least, tiny - least, tiny, tiny + least, 1.5 * tiny, 4 * tiny, 0.0, 1.0, 0.3]
    x = np.concatenate([some, edges])
    return np.concatenate([x, -x]).astype(dtype.numpy)


def check(outputs: Any, feeds: Feeds, ulps: float = 0) -> None:
    """The CPU's values are the reference's to so many steps between neighbours, subnormal ones included; zeros have
    the same sign, and nothing else is zero."""
    outputs = outputs if isinstance(outputs, list) else [outputs]
    for got, want in zip(compiled(outputs, feeds), expected(outputs, feeds), strict=True):
        assert got.dtype == want.dtype
        if not as_dtype(got.dtype).is_floating:
            np.testing.assert_array_equal(got, want)
            continue
        info = ml_dtypes.finfo(got.dtype)
        with np.errstate(invalid="ignore"):
            got, want = got.astype(np.float64), want.astype(np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        step = np.maximum(np.ldexp(float(info.eps), np.frexp(want)[1] - 1), float(info.smallest_subnormal))
        with np.errstate(invalid="ignore"):
            near = (got == want) | (np.abs(got - want) <= ulps * step) | np.isnan(want)
        assert near.all(), [(g, w) for g, w in zip(got[~near], want[~near], strict=True)][:5]
        if ulps < 1:
            np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


def tolerance(primitive: str, dtype: DType) -> int:
    return ULPS.get(primitive, 0) if dtype in (float32, float64) else int(primitive in ULPS)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
@pytest.mark.parametrize("primitive", [*FLOAT_UNARY, "abs", "negate", "sign", "is_finite"])
def test_functions_of_one(primitive: str, dtype: DType) -> None:
    feeds = Feeds()
    check(make(primitive, feeds(numbers(dtype))), feeds, tolerance(primitive, dtype))


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
@pytest.mark.parametrize("primitive", [*ARITHMETIC, "atan2"])
def test_functions_of_two(primitive: str, dtype: DType) -> None:
    x, r = numbers(dtype), np.random.default_rng(1)
    for y in (r.permutation(x), np.exp2(r.integers(-9, 9, x.size)).astype(dtype.numpy)):
        feeds = Feeds()
        check(make(primitive, feeds(x), feeds(y)), feeds, tolerance(primitive, dtype))
        feeds = Feeds()
        check(make(primitive, feeds(y), feeds(x)), feeds, tolerance(primitive, dtype))


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
def test_comparisons_selections_and_conversions(dtype: DType) -> None:
    feeds = Feeds()
    data = numbers(dtype)
    x, y = feeds(data), feeds(np.random.default_rng(1).permutation(data))
    zero = make("constant", value=0.0, dtype=dtype, device="cpu")
    zeros = make("broadcast_in_dim", zero, shape=x.shape, dims=())
    nodes = [make("compare", x, other, direction=d) for d in DIRECTIONS for other in (y, zeros)]
    nodes.append(make("select", make("compare", x, zeros, direction="NE"), y, x))
    nodes += [make("convert", x, dtype=target) for target in (*FLOATS, bool_) if target is not dtype]
    check(nodes, feeds)


@pytest.mark.parametrize("dtype", (float32, float64), ids=lambda d: d.name)
@pytest.mark.parametrize("name", ["exponential", "logistic", "power", "exponential_minus_one", "sinh"])
def test_results_that_are_subnormal(name: str, dtype: DType) -> None:
    """To a few steps of the result, however few digits that has."""
    low, high = (-104, -86) if dtype is float32 else (-746, -707)
    x = np.linspace(low, high, 4000)
    feeds = Feeds()
    if name == "power":
        check(make(name, feeds(np.full(4000, 2.0), dtype), feeds(x / np.log(2), dtype)), feeds, ULPS[name])
        return
    if name in ("sinh", "exponential_minus_one"):
        x = numbers(dtype).astype(np.float64)
    check(make(name, feeds(x, dtype)), feeds, ULPS[name])


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
def test_reductions_sorting_and_movement(dtype: DType) -> None:
    r, data = np.random.default_rng(2), numbers(dtype)
    data = data[np.abs(data.astype(np.float64)) < float(ml_dtypes.finfo(dtype.numpy).tiny)]
    data = data[data != 0][: 30 * 17].reshape(30, 17)
    for axis in (0, 1):
        feeds = Feeds()
        x, place = feeds(data), feeds(r.integers(0, 30, (50, 1)))
        update = feeds(data[r.integers(0, 30, 50)])
        scattered = {c: make("scatter", x, place, update, axes=(0,), batch=0, combine=c) for c in ("set", *COMBINES)}
        sums = [make(name, x, axes=(axis,)) for name in ("reduce_sum", "reduce_prod")]
        sums += [make("cumulative_sum", x, axis=axis), scattered.pop("add")]
        check(sums, feeds, 4)  # in another order
        nodes = [make(name, x, axes=(axis,)) for name in ("reduce_max", "reduce_min")]
        nodes += [make(name, x, axis=axis) for name in (*CUMULATIVE[1:], "argmax")]
        nodes.append(make("sort", x, x, axis=axis, descending=bool(axis)))
        nodes.append(make("gather", x, place, axes=(0,), batch=0))
        check([*nodes, *scattered.values()], feeds)


def test_what_a_user_sees() -> None:
    """The same in the three forms, on both devices, and on every thread of the pool."""

    def say(x: Any) -> list[Any]:
        return [x != 0, x == 0, kt.sign(x), kt.log(x), x * 1e30, kt.where(x > 0, 1.0, -1.0), kt.exp(kt.log(x))]

    n = 300_000 * pool().threads  # so many that all threads have some
    data = np.full(n, 1e-40, np.float32)
    for device in ("reference", "cpu"):
        with kt.device(device):
            x = kt.tensor(data)
            plain, compiled_ = [y.numpy() for y in say(x)], [y.numpy() for y in kt.compile(say)(x)]
            with kt.eager():
                eager = [y.numpy() for y in say(x)]
        for different, same, sign, log, large, which, back in (plain, compiled_, eager):
            assert different.all() and not same.any() and (sign == 1).all() and (which == 1).all()
            np.testing.assert_allclose(log, np.log(np.float64(data[0])), rtol=1e-6)
            np.testing.assert_allclose(large, np.float64(data[0]) * 1e30, rtol=1e-6)
            np.testing.assert_allclose(back, data, rtol=1e-4)


def test_kernels_that_flush_leave_the_others_and_numpy_as_they_are() -> None:
    """A product, an optimiser's update and element-wise code in one program."""
    p = nn.Parameter(kt.tensor(np.full((64, 64), 1e-40, np.float32), device="cpu"))
    opt = optim.SGD([p], lr=0.0)
    seen = kt.tensor(np.full((64, 64), 1e-40, np.float32), device="cpu")
    ((p @ seen).sum() + (p * 1e30).sum()).backward()
    different = seen != 0
    opt.step()
    assert different.numpy().all() and (kt.sign(seen).numpy() == 1).all()
    assert np.float32(1e-40) * np.float32(1.0) != 0  # the caller's thread is left as it was


@pytest.mark.skipif(engine().target.arch != "x86_64", reason="elsewhere nothing is flushed")
@pytest.mark.parametrize("clip", [False, True])
def test_moments_do_not_linger_below_the_least_normal_number(clip: bool) -> None:
    """An update may take subnormal numbers for zero, and on x86 it does: they slow down every later step."""
    p = nn.Parameter(kt.tensor(np.ones(5000, np.float32), device="cpu"))
    opt = optim.AdamW([p], lr=1e-3)
    for scale in (1e-37, *[0.0] * 30):
        (p * scale).sum().backward()
        if clip:
            optim.clip_grad_norm_([p], 1.0)
        opt.step()
    for name in ("exp_avg", "exp_avg_sq"):
        moment = np.abs(opt.state[p][name].numpy())
        assert ((moment == 0) | (moment >= np.finfo(np.float32).tiny)).all()

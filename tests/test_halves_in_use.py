"""Halves in layers, optimisers and transforms; numbers on the way, and counts, that are too large for a half."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import nn, optim
from katachi.graph.dtypes import DType
from katachi.nn import functional as F
from tests.half_rows import Array, half
from tests.test_halves import DEVICES, check, each_half, unit


def floats(x: Any) -> Array:
    array: Array = x.astype(kt.float64).numpy()
    return array


def network(x: Any, w: Any, scale: Any) -> Any:
    h = F.gelu(F.layer_norm(F.linear(x, w), 16, scale))
    h = F.softmax(h) * kt.tanh(h) + F.silu(h) / 3.0
    return F.mse_loss(h, x) + h.var() + F.cross_entropy(h, kt.tensor(np.arange(8)))


@each_half
@pytest.mark.parametrize("device", DEVICES)
def test_plain_eager_compiled(device: str, dtype: DType) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s) for s in ((8, 16), (16, 16), (16,))]
    with kt.device(device):
        leaves = [kt.variable(a, dtype=dtype) for a in arrays]

        def step() -> list[Any]:
            loss = network(*leaves)
            return [loss.freeze(), *kt.gradients(loss, leaves).values()]

        plain = [floats(x) for x in step()]
        with kt.eager():
            eager = [floats(x) for x in step()]
        compiled = kt.compile(step)
        again = [[floats(x) for x in compiled()] for _ in range(2)]
        wide = [kt.variable(floats(a), dtype=kt.float64) for a in leaves]
        loss = network(*wide)
        exact = [x.numpy() for x in (loss, *kt.gradients(loss, wide).values())]
    for a, x in zip(plain, exact, strict=True):
        scale = float(unit(np.abs(x).max(), dtype))
        np.testing.assert_allclose(a, x, rtol=0, atol=6 * scale)  # as many roundings as there are layers
    for form in (eager, *again):
        for a, b, x in zip(plain, form, exact, strict=True):
            scale = float(unit(np.abs(x).max(), dtype))
            np.testing.assert_allclose(a, b, rtol=0, atol=2 * scale)  # of what is near a tie, one side or the other


@each_half
def test_vmap_and_jvp(dtype: DType) -> None:
    x = kt.tensor(np.linspace(-300, 300, 24).reshape(4, 6), dtype=dtype)

    def f(row: Any) -> Any:
        return F.rms_norm(row, 6) + F.gelu(row, "tanh") + row.std()

    together = kt.vmap(f)(x)
    assert together.dtype is dtype and together.tolist() == kt.stack([f(row) for row in x]).tolist()
    y, tangent = kt.jvp(f, (x[0],), (kt.ones_like(x[0]),))
    assert y.dtype is dtype and tangent.dtype is dtype and kt.isfinite(tangent).all().item()


def test_results_have_the_dtype_that_promotion_gives() -> None:
    h, b, f, i = (kt.ones((3, 4), dtype=d) for d in (kt.float16, kt.bfloat16, kt.float32, kt.int64))
    cases: list[tuple[Any, Any, Any]] = [
        (h, h, h), (h, b, f), (h, f, f), (i, b, b), (h, i, h), (h, 0.1, h), (0.1, b, b), (h, 2, h),
    ]  # fmt: skip
    for x, y, want in cases:
        for operation in (kt.logaddexp, kt.divide, kt.multiply, kt.hypot, kt.pow):
            assert operation(x, y).dtype is want.dtype
    row = kt.ones(4)
    assert F.layer_norm(h, 4, row, row).dtype is kt.float16 and F.layer_norm(f, 4, h[0], h[0]).dtype is kt.float32
    assert F.cross_entropy(h, kt.tensor([0, 1, 2]), weight=row).dtype is kt.float16
    assert F.mse_loss(h, f).dtype is kt.float32 and F.l1_loss(h, b).dtype is kt.float32
    assert h.prod(dtype=kt.float32).dtype is kt.float32 and h.sum(dtype=kt.float64).dtype is kt.float64


@pytest.mark.parametrize("device", DEVICES)
@each_half
def test_batch_norm_in_training_and_evaluation(dtype: DType, device: str) -> None:
    """Running statistics of float32 get the batch's unrounded."""
    x = half(300 + 2 * np.random.default_rng(0).standard_normal((64, 3)), dtype)
    with kt.device(device):
        norm = nn.BatchNorm1d(3, momentum=0.5)
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None and var is not None
        got = norm(kt.tensor(x, dtype=dtype))
        check(got.freeze(), (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), dtype, along=(0,))
        np.testing.assert_allclose(mean.numpy(), 0.5 * x.mean(0), rtol=1e-6)
        np.testing.assert_allclose(var.numpy(), 0.5 + 0.5 * x.var(0, ddof=1), rtol=1e-5)
        norm.eval()
        m, v = mean.numpy().astype(float), var.numpy().astype(float)
        check(norm(kt.tensor(x, dtype=dtype)).freeze(), (x - m) / np.sqrt(v + 1e-5), dtype, along=(0,))


@pytest.mark.parametrize("device", DEVICES)
@each_half
def test_gradients_of_many_uses_add_up_in_float32(dtype: DType, device: str) -> None:
    """1000 ones, each added to the others, are 256 in bfloat16."""
    with kt.device(device):
        w = kt.variable(1.0, dtype=dtype)
        total, _ = kt.scan(lambda c, x: (c + w * x, c), kt.tensor(0.0, dtype=dtype), kt.ones(1000, dtype=dtype))
        assert kt.gradients(total, [w])[w].item() == 1000
        uses = [w * 1.0 for _ in range(1000)]
        assert kt.gradients(kt.stack(uses).sum(), [w])[w].item() == 1000


OPTIMISERS: dict[str, tuple[Any, dict[str, float]]] = {
    "SGD": (optim.SGD, {}),
    "SGD with momentum": (optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "Adam": (optim.Adam, {"weight_decay": 0.1}),
    "AdamW": (optim.AdamW, {}),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPTIMISERS)
@each_half
def test_a_step_is_rounded_once(name: str, dtype: DType, device: str) -> None:
    """The parameter is the nearest half to what float64 makes of the same halves; its states are float32."""
    kind, settings = OPTIMISERS[name]
    rng = np.random.default_rng(0)
    start, gradients = half(rng.standard_normal(200), dtype), half(rng.standard_normal((3, 200)) * 0.3, dtype)
    gradients[:, :9] = 0.0
    with kt.device(device):
        p = kt.variable(start, dtype=dtype)
        opt = kind([p], lr=0.1, **settings)
        for g in gradients:
            q = kt.variable(floats(p), dtype=kt.float64)
            twin = kind([q], lr=0.1, **settings)
            twin.load_state_dict(opt.state_dict())
            for v, o in ((p, opt), (q, twin)):
                (v * kt.tensor(g, dtype=v.dtype)).sum().backward()
                o.step()
            check(p.freeze(), q.numpy(), dtype, cancels=2)  # in p - lr * step
            for state in opt.states:
                assert opt.state[p][state].dtype is kt.float32
                np.testing.assert_allclose(
                    opt.state[p][state].numpy(), twin.state[q][state].numpy(), rtol=1e-5, atol=1e-7
                )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [1e-6, 1e-4, 1.0, 9000.0, 60000.0])
def test_adam_of_gradients_over_the_whole_range(size: float, device: str) -> None:
    """A step of Adam has the size lr, whatever the gradient's."""
    with kt.device(device):
        p = kt.variable(np.zeros(2), dtype=kt.float16)
        opt = optim.Adam([p], lr=1e-2)
        for _ in range(10):
            (p * kt.full((2,), size, dtype=kt.float16)).sum().backward()
            opt.step()
        assert p.tolist() == pytest.approx([-0.1, -0.1], rel=0.02)


@pytest.mark.parametrize("device", DEVICES)
def test_averages_that_move_slowly(device: str) -> None:
    """In a half 0.999 v would be v again, and one large gradient never be forgotten; a sum of velocities overflow."""
    with kt.device(device):
        p = kt.variable([0.0], dtype=kt.bfloat16)
        opt = optim.Adam([p], lr=0.0)
        for g in [100.0] + [1.0] * 300:
            (p * g).sum().backward()
            opt.step()
        assert opt.state[p]["exp_avg_sq"].item() == pytest.approx(10 * 0.999**300 + (1 - 0.999**300), rel=1e-3)
        q = kt.variable([1.0], dtype=kt.float16)
        slow = optim.SGD([q], lr=1e-7, momentum=0.9)
        for _ in range(3):
            (q * 60000.0).sum().backward()
            slow.step()
        assert q.item() == pytest.approx(1 - 6e-3 * (1 + 1.9 + 2.71), rel=2e-3)


@pytest.mark.parametrize("device", DEVICES)
@each_half
@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW])
def test_adam_of_a_zero_gradient(kind: Any, dtype: DType, device: str) -> None:
    with kt.device(device):
        p = kt.variable([1.0, -2.0], dtype=dtype)
        opt = kind([p], weight_decay=0.0)
        for _ in range(3):
            (p * 0.0).sum().backward()
            opt.step()
        assert p.tolist() == [1.0, -2.0] and opt.state[p]["exp_avg"].dtype is kt.float32


@pytest.mark.parametrize("device", DEVICES)
@each_half
def test_clipping_scales_small_norms_exactly(dtype: DType, device: str) -> None:
    """A scale of 1e-5 has few digits as a float16."""
    with kt.device(device):
        p = kt.variable(np.ones(4000), dtype=dtype)
        g = half(np.random.default_rng(0).uniform(200, 400, 4000), dtype)
        (p * kt.tensor(g, dtype=dtype)).sum().backward()
        norm = optim.clip_grad_norm_([p], 0.5)
        exact = np.sqrt((g * g).sum())
        assert norm.dtype is kt.float32 and norm.item() == pytest.approx(exact, rel=1e-6)
        check(p.grad, g * 0.5 / (exact + 1e-6), dtype)


LARGE: dict[str, tuple[Any, float]] = {
    "mean of ones": (lambda d: kt.ones(100_000, dtype=d).mean(), 1.0),
    "mse_loss of 100s": (
        lambda d: F.mse_loss(kt.full((3000,), 100.0, dtype=d), kt.full((3000,), -100.0, dtype=d)), 40_000.0
    ),
    "l1_loss of many": (lambda d: F.l1_loss(kt.full((70_000,), 3.0, dtype=d), kt.zeros((70_000,), dtype=d)), 3.0),
    "cross_entropy of many classes": (
        lambda d: F.cross_entropy(kt.zeros((1, 70_000), dtype=d), kt.tensor([3])), np.log(7e4)
    ),
    "softmax of many classes": (lambda d: kt.zeros(70_000, dtype=d).softmax()[0], 1 / 7e4),
    "logsumexp of many": (lambda d: kt.logsumexp(kt.zeros(70_000, dtype=d)), np.log(7e4)),
    "gelu at -4": (lambda d: kt.gelu(kt.tensor(-4.0, dtype=d)), -1.2668497e-4),
    "gelu at -3": (lambda d: kt.gelu(kt.tensor(-3.0, dtype=d)), -4.0496940e-3),
    "gelu's slope at 300": (lambda d: kt.grad(lambda x: kt.gelu(x, "tanh"))(kt.tensor(300.0, dtype=d)), 1.0),
    "rms_norm of 300s": (lambda d: F.rms_norm(kt.full((8,), 300.0, dtype=d), 8)[0], 1.0),
    "avg_pool2d": (lambda d: F.avg_pool2d(kt.full((1, 8, 8), 30_000.0, dtype=d), 8).sum(), 30_000.0),
    "ties of a maximum": (lambda d: kt.grad(lambda x: x.max() * 32_768.0)(kt.ones(100_000, dtype=d))[0], 0.32768),
}  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", LARGE)
@each_half
def test_large_numbers_and_many(name: str, dtype: DType, device: str) -> None:
    f, want = LARGE[name]
    with kt.device(device):
        check(f(dtype), np.asarray(want), dtype)

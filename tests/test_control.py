"""cond, while_loop and scan: values, both derivatives, captured variables, replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import katachi as kt

W = np.random.default_rng(0).standard_normal((3, 3)) * 0.5
X = np.random.default_rng(1).standard_normal((5, 3))
DEVICES = ["reference", "cpu"]


def network(w: Any, h: Any, xs: Any, unrolled: bool, reverse: bool = False) -> Any:
    """A recurrent network with its states' sum, by scan or by Python's for."""

    def cell(state: Any, x: Any) -> tuple[Any, Any]:
        new = (state @ w + x).tanh()
        return new, new * x

    if not unrolled:
        last, ys = kt.scan(cell, h, xs, reverse=reverse)
        return (last * last).sum() + ys.sum() * 0.5
    total = kt.zeros((), dtype=kt.float64)
    for t in range(xs.shape[0])[:: -1 if reverse else 1]:
        h, y = cell(h, xs[t])
        total = total + y.sum() * 0.5
    return (h * h).sum() + total


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_a_scan_is_its_unrolled_loop(device: str, look: bool, reverse: bool) -> None:
    with kt.device(device):
        found = []
        for unrolled in (True, False, False, False):
            w, h, xs = kt.variable(W), kt.variable(X[0]), kt.variable(X)
            loss = network(w, h, xs, unrolled, reverse)
            if look:
                loss.item()
            loss.backward()
            found.append([loss.numpy(), w.grad.numpy(), h.grad.numpy(), xs.grad.numpy()])
        for other in found[1:]:
            for a, b in zip(found[0], other, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_a_scan_replays_and_runs_eagerly() -> None:
    w, h, xs = kt.variable(W), kt.tensor(X[0]), kt.tensor(X)

    def step() -> Any:
        loss = network(w, h, xs, False)
        loss.backward()
        g, w.grad = w.grad, None
        return g.numpy()

    step()
    assert kt.explain(step).programs_built <= 1
    assert kt.explain(step).programs_built == 0
    with kt.eager():
        np.testing.assert_array_equal(step(), kt.explain(step).result)


def test_second_order_and_forward_mode_through_a_scan() -> None:
    def f(v: Any) -> Any:
        return network(v.reshape((3, 3)), kt.tensor(X[0]), kt.tensor(X), False)

    def g(v: Any) -> Any:
        return network(v.reshape((3, 3)), kt.tensor(X[0]), kt.tensor(X), True)

    v, t = kt.tensor(W.reshape(-1)), kt.tensor(np.linspace(-1.0, 1.0, 9))
    for function in (f, g):
        assert kt.is_variable(function(v.unfreeze()))
    np.testing.assert_allclose(kt.jvp(f, (v,), (t,))[1].item(), (kt.grad(g)(v) * t).sum().item(), rtol=1e-9)
    second = [kt.grad(lambda u, h=h: (kt.grad(h)(u) * t).sum())(v).numpy() for h in (f, g)]
    np.testing.assert_allclose(*second, rtol=1e-8)


@pytest.mark.parametrize("device", DEVICES)
def test_cond_computes_one_side_and_its_gradient(device: str) -> None:
    with kt.device(device):
        for x, want, slope_a, slope_b in ((2.0, 12.0, 2.0, 0.0), (-2.0, 5.0, 0.0, -2.0)):
            v, a, b = kt.variable(x), kt.variable(6.0), kt.variable(-2.5)
            y = kt.cond(v > 0.0, lambda t, a=a: t * a, lambda t, b=b: t * b, v)
            assert y.item() == pytest.approx(want)
            y.backward()
            assert v.grad.item() == (6.0 if x > 0 else -2.5)
            assert (a.grad.item(), b.grad.item()) == (slope_a, slope_b)
    _, tangent = kt.jvp(lambda t: kt.cond(t > 0.0, lambda u: u * u, lambda u: u, t), (kt.tensor(3.0),), (kt.ones(()),))
    assert tangent.item() == 6.0


@pytest.mark.parametrize("device", DEVICES)
def test_while_loops(device: str) -> None:
    with kt.device(device):
        scale = kt.tensor(1.5)
        x, n = kt.while_loop(lambda c: c[0] < 50.0, lambda c: (c[0] * scale, c[1] + 1), (kt.tensor(2.0), kt.tensor(0)))
        assert (x.item(), n.item()) == (pytest.approx(2 * 1.5**8), 8)
        power, t = kt.jvp(
            lambda s: kt.while_loop(lambda c: c < 50.0, lambda c: c * s, kt.tensor(2.0)), (scale,), (kt.ones(()),)
        )
        assert t.item() == pytest.approx(2 * 8 * 1.5**7, rel=1e-5) and power.item() == x.item()
        v = kt.variable(2.0)
        with pytest.raises(kt.GradientError, match="use scan"):
            kt.while_loop(lambda c: c < 50.0, lambda c: c * 2.0, v).backward()


def test_scans_nest_and_take_tuples() -> None:
    def outer(c: Any, row: Any) -> tuple[Any, Any]:
        inner, _ = kt.scan(lambda s, x: (s + x * c, None), kt.zeros((), dtype=kt.float64), row)
        return c + inner * 0.1, (inner, c)

    v = kt.variable(np.array(0.5))
    last, (inner, before) = kt.scan(outer, v, kt.tensor(X))
    c, inners, befores = 0.5, [], []
    for row in X:
        befores.append(c)
        inners.append(sum(x * c for x in row))
        c += inners[-1] * 0.1
    np.testing.assert_allclose(last.item(), c)
    np.testing.assert_allclose(inner.numpy(), inners)
    np.testing.assert_allclose(before.numpy(), befores)
    last.backward()
    np.testing.assert_allclose(v.grad.item(), np.prod([1 + 0.1 * row.sum() for row in X]))
    count, none = kt.scan(lambda c, _: (c + 1, None), kt.tensor(0), length=7)
    assert (count.item(), none) == (7, None)


def test_a_rule_made_of_captured_values_survives_a_look() -> None:
    """What a derivative computes from a captured exponent alone is computed from its value, in whichever trace."""
    found = []
    for look in (False, True):
        v, other = kt.variable(np.array(1.5)), kt.variable(np.ones(7))
        power = v * 2.0
        y, _ = kt.scan(lambda c, x, p=power: (c + x.abs() ** (p * 1.0), None), kt.tensor(X.sum()), kt.tensor(X[0]))
        if look:
            y.item()
        ((other * 3.0).sum() + y).backward()
        found.append(v.grad.item())
    assert found[0] == found[1] == pytest.approx(2 * (np.abs(X[0]) ** 3 * np.log(np.abs(X[0]))).sum())


def test_misuse() -> None:
    x = kt.ones(3)
    with pytest.raises(kt.ShapeError, match=r"scan.*the carry must stay"):
        kt.scan(lambda c, t: (x, None), kt.zeros(()), x)
    with pytest.raises(kt.ShapeError, match="needs one length"):
        kt.scan(lambda c, t: (c, None), kt.zeros(()))
    with pytest.raises(kt.DTypeError, match="must return"):
        kt.scan(lambda c, t: c, kt.zeros(()), x)
    with pytest.raises(kt.ShapeError, match="bool scalar"):
        kt.cond(x, lambda: x, lambda: x)
    with pytest.raises(kt.ShapeError, match=r"cond.*must stay"):
        kt.cond(True, lambda: x, lambda: x.sum())
    with pytest.raises(kt.Error, match="while_loop: a value is looked at inside"):
        kt.while_loop(lambda c: c.item() < 3, lambda c: c, kt.zeros(()))
    with kt.no_grad():
        v = kt.variable(1.0)
        assert not kt.is_variable(kt.scan(lambda c, t: (c * v, None), kt.zeros(()), x)[0])
    assert (x + 1).tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("device", DEVICES)
def test_custom_calls_and_their_gradients(device: str) -> None:
    def roots(x: Any) -> Any:
        y = kt.custom_call(np.cbrt, x.shape, x.dtype, x)
        return y, lambda g: g / (y * y * 3.0)

    with kt.device(device):
        v = kt.variable([8.0, 27.0])
        out = kt.custom_gradient(roots)(v * 1.0) + 1.0
        out.sum().backward()
        np.testing.assert_allclose(out.numpy(), [3.0, 4.0], rtol=1e-6)
        np.testing.assert_allclose(v.grad.numpy(), [1 / 12, 1 / 27], rtol=1e-6)
        with pytest.raises(kt.GradientError, match="custom_gradient around it"):
            kt.custom_call(np.cbrt, (2,), kt.float32, v).sum().backward()
        with pytest.raises(kt.ShapeError, match=r"promised float32\[3\] and gave float32\[2\].*test_control.py:\d+"):
            kt.custom_call(np.cbrt, (3,), kt.float32, v.freeze()).numpy()
        with pytest.raises(ValueError, match="read-only"):
            kt.custom_call(lambda a: np.multiply(a, 2.0, out=a), (2,), kt.float32, kt.ones(2)).numpy()


def lstm(device: str) -> tuple[Any, list[Any], int]:
    """Loss, gradients and the live bytes after two steps of training through a scan."""
    rng = np.random.default_rng(2)
    with kt.device(device):
        w, u = (kt.variable(rng.standard_normal((8, 32)).astype(np.float32) * 0.3) for _ in range(2))
        xs, start = kt.tensor(rng.standard_normal((20, 4, 8)).astype(np.float32)), kt.zeros((4, 8))

        def cell(state: Any, x: Any) -> Any:
            h, c = state
            z = x @ w + h @ u
            c = z[:, :8].sigmoid() * c + z[:, 8:16].sigmoid() * z[:, 16:24].tanh()
            h = z[:, 24:].sigmoid() * c.tanh()
            return (h, c), h

        for _ in range(2):
            w.grad = u.grad = None
            _, hs = kt.scan(cell, (start, start), xs)
            loss = (hs * hs).mean()
            loss.backward()
        return loss.item(), [v.grad.numpy() for v in (w, u)], kt.memory.report().live


def test_bodies_are_programs() -> None:
    """On the CPU device no primitive of a body runs in NumPy, and nothing of a run is held afterwards."""
    (a, da, _), (b, db, live), (_, _, again) = lstm("reference"), lstm("cpu"), lstm("cpu")
    np.testing.assert_allclose(b, a, rtol=1e-5)
    for x, y in zip(da, db, strict=True):
        np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-7)
    assert again <= live + 1000
    with kt.device("cpu"):
        told = kt.explain(lambda: kt.scan(lambda c, x: (c + x, kt.exp(c)), kt.tensor(0.0), kt.ones(4))[1].tolist())
        assert told.reference_steps == [] and "1 bodies of control flow" in str(told)
        assert "control" in told.kernels


def test_an_index_outside_within_a_body_names_its_line() -> None:
    table: Any = kt.arange(5.0, device="cpu")

    def look(c: Any, i: Any) -> Any:
        return c, table[i]  # here

    with pytest.raises(kt.IndexBoundsError, match="index 7 is outside axis 0 of size 5") as caught:
        kt.scan(look, kt.tensor(0.0, device="cpu"), kt.tensor([1, 2, 7], device="cpu"))[1].tolist()
    line = look.__code__.co_firstlineno + 1
    assert f"test_control.py:{line})" in str(caught.value) and str(caught.value).count("asked for") == 1


def test_bodies_have_memory_of_their_own() -> None:
    """What the program around a body holds in the arena outlives the body, under a limit as well."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((64, 64)).astype(np.float32)

    def run() -> Any:
        a = kt.tensor(x)
        before = a @ a.T  # stands in the arena while the body runs
        _, ys = kt.scan(lambda c, r: (c @ c.softmax(-1), (c @ c).sum() + r.sum()), a, a)
        return ((before @ before) * ys.sum()).numpy()

    with kt.device("reference"):
        want = run()
    with kt.device("cpu"):
        np.testing.assert_allclose(run(), want, rtol=2e-4, atol=1e-2 * np.abs(want).max())
        with kt.memory.limit(kt.memory.report().live + (1 << 22)):
            np.testing.assert_allclose(run(), want, rtol=2e-4, atol=1e-2 * np.abs(want).max())


def test_a_random_draw_and_a_branch_within_a_scan() -> None:
    def run() -> Any:
        kt.manual_seed(5)

        def body(c: Any, x: Any) -> Any:
            y = kt.cond(x.sum() > 0.0, lambda v: v * 2.0, lambda v: kt.exp(v), x)
            return c * 0.9 + y + kt.scan(lambda s, e: (s + e, s), kt.zeros(()), x)[0], c

        return [v.numpy() for v in kt.scan(body, kt.zeros(6), kt.tensor(X.repeat(2, 1)).astype(kt.float32))]

    found = []
    for device in DEVICES:
        with kt.device(device):
            found.append(run())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("depth", range(1, 7))
def test_a_carry_that_is_handed_along(depth: int) -> None:
    """Parts of the carry that a body passes on as they are stay what they were, however long."""
    found = []
    for device in DEVICES:
        with kt.device(device):
            start = tuple(kt.tensor(np.full(4, k, np.float32)) for k in range(depth))
            last, _ = kt.scan(lambda s, _: ((*s[1:], kt.cumsum(s[0] + 1.0)), None), start, length=3 * depth + 2)
            looped = kt.while_loop(lambda s: s[-1].sum() < 1e4, lambda s: (*s[1:], kt.cumsum(s[0] + 1.0)), start)
            found.append([v.numpy() for v in (*last, *looped)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(b, a)


@pytest.mark.parametrize("size", [8, 64, 512])
@pytest.mark.parametrize("within", [False, True])
def test_a_custom_call_may_use_katachi(size: int, within: bool) -> None:
    """Its programs run amid another one, whose temporaries and scratch memory stay as they are."""
    a = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)

    def own(x: Any) -> Any:
        t = kt.ones((size, size))
        kt.sum(kt.sort(kt.cumsum(t, axis=0)) @ t.T).item()
        return x * 2

    def call(q: Any) -> Any:
        return kt.custom_call(own, q.shape, q.dtype, q)

    def run() -> Any:
        q = kt.cumsum(kt.cumsum(kt.tensor(a), axis=0), axis=1)
        r = kt.scan(lambda c, x: (call(c) * 0.1 + x @ c, None), q, kt.stack([q, q]))[0] if within else call(q)
        total = kt.sum(kt.cumsum(kt.cumsum(r, axis=0) @ q, axis=0))
        del q, r  # temporaries from here on
        return total.item()

    with kt.device("reference"):
        want = run()
    with kt.device("cpu"):
        for _ in range(4):
            assert run() == pytest.approx(want, rel=1e-4)

"""Functions of functions beyond grad: custom gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import katachi as kt


@kt.custom_gradient
def smooth(x: Any, w: Any) -> Any:
    """x times w, whose gradient is made up: recognisably another than the product's."""
    y = (x * w).tanh()
    return y, lambda g: (g * y * 3.0, (g * x).sum(0))


def run(look: bool) -> tuple[Any, ...]:
    x, w = kt.variable([[0.5, 1.0], [2.0, -1.0]]), kt.variable([1.0, 3.0])
    out = smooth(x.exp(), w)
    if look:
        out.numpy()
    (out * 2.0).sum().backward()
    return out.numpy(), x.grad.numpy(), w.grad.numpy()


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("look", [False, True])
def test_the_formula_is_used(device: str, look: bool) -> None:
    with kt.device(device):
        for _ in range(3):
            out, gx, gw = run(look)
    e = np.exp(np.array([[0.5, 1.0], [2.0, -1.0]]))
    y = np.tanh(e * np.array([1.0, 3.0]))
    np.testing.assert_allclose(out, y, rtol=1e-5)
    np.testing.assert_allclose(gx, 2 * y * 3 * e, rtol=1e-5)
    np.testing.assert_allclose(gw, (2 * e).sum(0), rtol=1e-5)


def test_eager_is_the_same() -> None:
    deferred = run(False)
    with kt.eager():
        at_once = run(False)
    for a, b in zip(deferred, at_once, strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_can_be_differentiated_again() -> None:
    cube = kt.custom_gradient(lambda x: (x * x * x, lambda g: g * 3.0 * x * x))
    assert kt.grad(cube)(kt.tensor(2.0)).item() == 12.0
    passing = kt.custom_gradient(lambda x: (x.sign(), lambda g: g))  # the straight-through estimator
    assert kt.grad(lambda x: passing(x * x))(kt.tensor(3.0)).item() == 6.0
    assert kt.grad(kt.grad(lambda x: passing(x * x)))(kt.tensor(3.0)).item() == 2.0


@pytest.mark.parametrize("look", [False, True])
def test_orders_nest_whatever_is_looked_at(look: bool) -> None:
    def f(x: Any) -> Any:
        h = x * x
        if look and h.item() < 0:
            return h
        y = h * h.exp()
        if look:
            y.item()
        return y

    def derivative(order: int, at: Any) -> Any:
        g = f
        for _ in range(order):
            g = kt.grad(g)
        return g(at)

    x = 0.7
    e = np.exp(x * x)
    want = [x * x * e, (2 * x**3 + 2 * x) * e, (4 * x**4 + 10 * x**2 + 2) * e, (8 * x**5 + 36 * x**3 + 24 * x) * e]
    for order in range(1, 4):
        constant = derivative(order, kt.tensor(x, dtype=kt.float64))
        assert constant.item() == pytest.approx(want[order], rel=1e-12)
        assert not kt.is_variable(constant)
        v = kt.variable(np.array(x))
        out = derivative(order - 1, v) if order > 1 else f(v)
        assert kt.is_variable(out)
        out.backward()
        assert v.grad.item() == pytest.approx(want[order], rel=1e-12)
    _, tangent = kt.jvp(kt.grad(f), (kt.tensor(x, dtype=kt.float64),), (kt.ones((), dtype=kt.float64),))
    assert tangent.item() == pytest.approx(want[2], rel=1e-12)
    y, pull = kt.vjp(kt.grad(f), kt.tensor(x, dtype=kt.float64))
    assert pull(kt.ones((), dtype=kt.float64)).item() == pytest.approx(want[2], rel=1e-12)
    assert y.item() == pytest.approx(want[1], rel=1e-12)


def test_misuse() -> None:
    v = kt.variable([1.0])
    with pytest.raises(kt.GradientError, match="gradient of argument 0 must be float32"):
        kt.custom_gradient(lambda x: (x * 2.0, lambda g: g.sum()))(v)
    with pytest.raises(kt.GradientError, match="1 arguments need as many gradients, got 2"):
        kt.custom_gradient(lambda x: (x * 2.0, lambda g: (g, g)))(v)
    with pytest.raises(kt.GradientError, match="looked at a value"):
        kt.custom_gradient(lambda x: (x * 2.0, lambda g: g * g.sum().item()))(v)
    with pytest.raises(kt.GradientError, match="no forward derivative"):
        kt.jvp(kt.custom_gradient(lambda x: (x * 2.0, lambda g: g)), (kt.ones(1),), (kt.ones(1),))
    assert (v * 2.0).tolist() == [2.0]

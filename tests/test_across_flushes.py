"""Values, graphs and variables that were computed by one program and are used by another: as computed at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import optim
from katachi.tensor import events

DEVICES = kt.devices()


@pytest.fixture(autouse=True, params=DEVICES)
def device(request: pytest.FixtureRequest) -> Any:
    with kt.device(request.param):
        yield request.param


def flushes(f: Callable[[], Any]) -> list[Any]:
    found: list[Any] = []
    kt.eval()
    events.observers.append(found.append)
    try:
        f()
    finally:
        events.observers.remove(found.append)
    return found


def values(*xs: Any) -> list[Any]:
    return [x.tolist() for x in xs]


def test_a_value_set_by_the_program_that_computes_a_loss() -> None:
    """The backward pass still needs the value before."""
    a, c = kt.variable([3.0, 5.0]), kt.variable([1.0, 2.0])
    loss = (a * c).sum()
    c.set(c * 0.5)
    kt.eval(loss)
    loss.backward()
    assert values(a.grad, c.grad, c) == [[1, 2], [3, 5], [0.5, 1.0]]
    a, c = kt.variable([3.0, 5.0]), kt.variable([1.0, 2.0])
    total = a + c
    loss = (total * total).sum()
    a.set(a * 0.0)
    optim.SGD([c], lr=1.0).step()
    loss.backward()
    assert values(a.grad, c.grad, a) == [[8, 14], [8, 14], [0, 0]]


def test_the_seed_is_of_one_program_and_then_of_another() -> None:
    rng = np.random.default_rng(0)
    v1, w1, v2, w2 = (kt.variable(rng.uniform(0.3, 1, 3), dtype=kt.float64) for _ in range(4))

    def made(v: Any, w: Any) -> Any:
        x = (v * w).sin()
        kt.eval(x)
        return x

    def run(which: int) -> list[Any]:
        a, b = made(v1, w1), made(v2, w2)
        root = a * b
        kt.eval(root)
        for p in (v1, w1, v2, w2):
            p.grad = None
        root.backward((a, b)[which], create_graph=True)
        g, h = v1.grad, v2.grad
        d = kt.gradients((g * g + h * h * h).sum(), [v1, w1, v2, w2])
        return [d[p].numpy() for p in (v1, w1, v2, w2)]

    for which in (0, 1, 0, 1):
        got = run(which)
        with kt.eager():
            want = run(which)
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_variables_as_seeds_tangents_and_cotangents() -> None:
    a, b = kt.variable([1.0, 2.0]), kt.variable([3.0, 4.0])
    (a * 2).backward(b)
    assert values(a.grad) == [[6, 8]]
    x = kt.tensor([1.0, 2.0])
    assert values(*kt.jvp(lambda x: x * x, (x,), (b,))) == [[1, 4], [6, 16]]
    assert values(*kt.vjp(lambda x: x * x, x)[1](b)) == [6, 16] or values(kt.vjp(lambda x: x * x, x)[1](b)) == [[6, 16]]
    computed = b * 2
    kt.eval(computed)
    a.grad = None
    (a * 2).backward(computed)
    assert values(a.grad) == [[12, 16]]
    assert values(*kt.jvp(lambda x: x * x, (a,), (computed,))) == [[1, 4], [12, 32]]


def test_gradients_that_are_variables_add_up() -> None:
    a = kt.variable([1.0, 2.0])
    (a**3).sum().backward(create_graph=True)
    kt.eval(a.grad)
    (a**4).sum().backward(create_graph=True)
    assert values(a.grad) == [[7, 44]]


@pytest.mark.parametrize("look", [False, True])
def test_a_gradient_that_is_a_variable_itself(look: bool) -> None:
    v, w = kt.variable([1.0, 2.0]), kt.variable([0.5, 1.0])
    k = w * 0.5
    g: Any = kt.vjp(lambda x: x + k, v)[1](w)
    g = g[0] if isinstance(g, tuple) else g
    if look:
        kt.eval(g)
    assert kt.gradients((g * g).sum(), [w])[w].tolist() == [1, 2]


def test_loops_inside_functions_that_are_traced_do_not_end_the_trace() -> None:
    @kt.custom_gradient
    def f(x: Any) -> Any:
        def pull(g: Any) -> Any:
            z = g
            for _ in range(600):
                z = 0.5 * z + g
            return z

        return x * 1.0, pull

    v = kt.variable([1.0, 2.0])
    f(v).sum().backward()
    assert values(v.grad) == [[2, 2]]
    kept, x, total = [], kt.ones((3, 2)), kt.zeros((3,))

    def of_one(a: Any) -> Any:
        y = a * 2.0
        kept.append(y)
        return y.sum()

    for _ in range(400):
        total = kt.vmap(of_one)(x) + total
    assert total.tolist() == [1600.0] * 3


def test_an_exponent_that_varies_at_one_line_stays_a_constant_at_another() -> None:
    x = kt.tensor(np.random.default_rng(0).normal(size=1000).astype(np.float32))

    def cube(x: Any) -> Any:
        return x**3

    def power(x: Any, n: int) -> Any:
        return x**n

    before = cube(x).numpy()
    for n in (4, 5, 6):
        power(x, n).numpy()
    np.testing.assert_array_equal(cube(x).numpy(), before)
    minus = kt.tensor([-1.0])
    assert [power(minus, n).item() for n in (2**24 + 1, 2, 2**24 + 1)] == [-1, 1, -1]
    assert [power(kt.tensor([0.5]), n).item() for n in (10**400, 2, 10**400)] == [0.0, 0.25, 0.0]
    slopes = [
        kt.grad(lambda z: kt.grad(lambda y: power(y, n).sum())(z).sum())(kt.tensor([2.0])).tolist()  # noqa: B023
        for n in (3, 5, 2, 4, 3)
    ]
    assert slopes == [[12.0], [160.0], [2.0], [48.0], [12.0]]


def test_a_loop_that_has_ended_is_forgotten() -> None:
    def run(short: int) -> float:
        x: Any = kt.ones(4)
        for _ in range(short):
            x = x * 1.5
        for _ in range(3000):
            x = x * 0.5
            x = x + 1.0
        return x.sum().item()

    for short in (0, 3):
        assert run(short) == pytest.approx(8.0)
        assert len(flushes(lambda n=short: run(n))) > 5  # type: ignore[misc]


@pytest.mark.parametrize(("steps", "look"), [(600, -1), (600, 599), (450, 300)])
def test_long_chains_of_products(steps: int, look: int) -> None:
    w = kt.variable([1.0001, 0.9999], dtype=kt.float64)
    x: Any = kt.ones(2, dtype=kt.float64)
    for i in range(steps):
        x = x * w
        if i == look:
            kt.eval(x)
    x.sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), steps * np.array([1.0001, 0.9999]) ** (steps - 1), rtol=1e-10)

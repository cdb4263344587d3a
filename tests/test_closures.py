"""Functions of cond, scan and while_loop that close over values: what is not chosen is not computed, in any form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import katachi as kt
from katachi import nn, optim
from tests.random_control import BUILT, PYTHON, Flow, Program

DEVICES = ["reference", "cpu"]
TABLE = np.array([1.0, 3.0, 5.0])


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with kt.device(request.param):
        yield request.param


class Calls:
    """A function of arrays as an operation that counts how often it runs; it has a gradient that does not run it."""

    def __init__(self) -> None:
        self.count = 0

    def _run(self, a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.count += 1
        return a * 2.0

    def __call__(self, x: Any) -> Any:
        double = kt.custom_gradient(lambda v: (kt.custom_call(self._run, v.shape, v.dtype, v), lambda g: g * 2.0))
        return double(x)


def roots(flow: Flow, x: Any, w: Any) -> Any:
    return flow.cond(x > 0, lambda: x.sqrt() * w, lambda: x * w)


def logarithms(flow: Flow, x: Any, w: Any) -> Any:
    """One that takes operands and closes over others."""
    return flow.cond(x > 0, lambda u: u.log() + (w * x) ** 0.5, lambda u: u * w, x)


def nested(flow: Flow, x: Any, w: Any) -> Any:
    return flow.cond(
        x > 0,
        lambda: flow.cond(x > 4, lambda: (x - 4).sqrt() * w, lambda: (4 - x).sqrt() / w),
        lambda: flow.cond(x < -1, lambda: (-x - 1).log() * w, lambda: kt.asin(x) * w),
    )


def within_a_scan(flow: Flow, x: Any, w: Any) -> Any:
    def step(c: Any, t: Any) -> Any:
        c = flow.cond(x + t > 0, lambda: (x + t).sqrt() * w + c, lambda: c * w)
        return c, flow.cond(c > 1, lambda: c.log(), lambda: w * t)

    last, ys = flow.scan(step, w * 0.5, kt.tensor([-2.0, 0.5, 3.0]))
    return last + ys.sum()


def around_a_scan(flow: Flow, x: Any, w: Any) -> Any:
    xs = kt.tensor([0.5, 2.0])
    return flow.cond(
        x > 0,
        lambda: flow.scan(lambda c, t: (c * w + x.sqrt() * t, None), x.log(), xs)[0],
        lambda: flow.scan(lambda c, t: (c + w * t, None), x, xs)[0],
    )


def indices(flow: Flow, x: Any, w: Any) -> Any:
    table, place = kt.tensor(TABLE, dtype=kt.float32), x.astype(kt.int64)
    return flow.cond((x >= 0) & (x < 3), lambda: table[place] * w * x, lambda: w + x)


def gradients_inside(flow: Flow, x: Any, w: Any) -> Any:
    return flow.cond(x > 0, lambda: kt.grad(lambda v: v.sqrt() * w)(x) + x, lambda: x * w)


def shared(flow: Flow, x: Any, w: Any) -> Any:
    """What is computed before, both sides use."""
    y = (x * w).tanh()
    return flow.cond(x > 0, lambda: y / x, lambda: y + x)


def own_formula(flow: Flow, x: Any, w: Any) -> Any:
    root = kt.custom_gradient(lambda v: (v.sqrt(), lambda g: g / v.sqrt()))
    return flow.cond(x > 0, lambda: root(x) * w, lambda: w * x)


FUNCTIONS = [
    roots, logarithms, nested, within_a_scan, around_a_scan, indices, gradients_inside, shared, own_formula,
]  # fmt: skip
POINTS = [-3.0, -0.5, 0.0, 2.0, 7.0]


def finite_or_as_python(found: list[Any], want: list[Any]) -> None:
    assert np.isfinite(want).all()
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=1e-6)


def by_python(f: Callable[..., Any], x: float, w: float = 1.5) -> list[float]:
    """Value and gradients with Python's own control flow."""
    y, pull = kt.vjp(lambda a, b: f(PYTHON, a, b), kt.tensor(x), kt.tensor(w))
    return [y.item(), *[g.item() for g in pull(kt.tensor(1.0))]]


@pytest.mark.parametrize("f", FUNCTIONS)
def test_values_and_gradients_are_those_of_pythons_own(f: Callable[..., Any], device: str) -> None:
    for x in POINTS:
        want = by_python(f, x)
        for prepare in (lambda v: v, lambda v: v * 1.0, lambda v: (v * 1.0, (v * 1.0).item())[0]):
            a, b = kt.variable(x), kt.variable(1.5)
            y = f(BUILT, prepare(a), prepare(b))
            y.backward()
            finite_or_as_python([y.item(), a.grad.item(), b.grad.item()], want)  # type: ignore[union-attr]
        a, b = kt.variable(x), kt.variable(1.5)
        y = f(BUILT, a, b)
        y.item()  # before the gradient
        y.backward()
        finite_or_as_python([y.item(), a.grad.item(), b.grad.item()], want)  # type: ignore[union-attr]
        if f is not own_formula:  # it goes backward only
            t = kt.tensor(0.3)
            y, tangent = kt.jvp(lambda u, v: f(BUILT, u, v), (kt.tensor(x), kt.tensor(1.5)), (t, t))
            finite_or_as_python([y.item(), tangent.item()], [want[0], 0.3 * (want[1] + want[2])])


@pytest.mark.parametrize("f", FUNCTIONS)
def test_every_form_agrees(f: Callable[..., Any], device: str) -> None:
    both = kt.value_and_grad(lambda a, b: f(BUILT, a, b), argnums=(0, 1))
    compiled = kt.compile(both)
    recomputed = kt.value_and_grad(kt.checkpoint(lambda a, b: f(BUILT, a, b)), argnums=(0, 1))
    w = kt.tensor(1.5)
    for x in POINTS:
        want = by_python(f, x)
        for form in (both, compiled, recomputed):
            value, grads = form(kt.tensor(x), w)
            finite_or_as_python([value.item(), *[g.item() for g in grads]], want)
        with kt.eager():
            value, grads = both(kt.tensor(x), w)
            finite_or_as_python([value.item(), *[g.item() for g in grads]], want)


@pytest.mark.parametrize("f", FUNCTIONS)
def test_examples_that_go_different_ways(f: Callable[..., Any], device: str) -> None:
    """Under vmap, and gradients under and around it: each example has what it has alone."""
    xs, w = kt.tensor(POINTS), kt.tensor(1.5)
    want = np.array([by_python(f, x) for x in POINTS])
    both = kt.value_and_grad(lambda a, b: f(BUILT, a, b), argnums=(0, 1))
    value, grads = kt.vmap(both, in_axes=(0, None))(xs, w)
    finite_or_as_python(np.stack([v.numpy() for v in (value, *grads)], 1), want)  # type: ignore[arg-type]

    def total(a: Any, b: Any) -> Any:
        return kt.vmap(lambda u: f(BUILT, u, b))(a).sum()

    value, (of_x, of_w) = kt.value_and_grad(total, argnums=(0, 1))(xs, w)
    finite_or_as_python(of_x.numpy(), want[:, 1])  # type: ignore[arg-type]
    finite_or_as_python([value.item(), of_w.item()], [want[:, 0].sum(), want[:, 2].sum()])


def test_second_derivatives(device: str) -> None:
    for x, w in ((2.0, 1.5), (-2.0, 1.5)):
        for flow in (PYTHON, BUILT):
            second = kt.grad(lambda a, b, flow=flow: kt.grad(lambda c: roots(flow, c, b) + c * c)(a))
            want = 2.0 - (0.25 * w * x**-1.5 if x > 0 else 0.0)
            assert second(kt.tensor(x), kt.tensor(w)).item() == pytest.approx(want, rel=1e-5)


def test_only_what_is_chosen_runs(device: str) -> None:
    yes, no, before, y = Calls(), Calls(), Calls(), kt.variable(3.0)

    def f(x: Any) -> Any:
        z = before(y)
        return kt.cond(x > 0, lambda: yes(y) + z, lambda: no(y) * z)

    compiled = kt.compile(f)
    recomputed = kt.checkpoint(f)
    for call in (f, recomputed, compiled):
        for x in (1.0, -1.0, 2.0):
            yes.count = no.count = before.count = 0
            y.grad = None
            out = call(kt.tensor(x))
            if call is not compiled:
                out.backward()
                assert y.grad.item() == (4.0 if x > 0 else 24.0)  # type: ignore[union-attr]
            assert out.item() == (12.0 if x > 0 else 36.0)
            chosen, other = (yes, no) if x > 0 else (no, yes)
            assert other.count == 0 and 1 <= chosen.count <= 2  # the way back may compute a branch again
            assert before.count == (2 if call is recomputed else 1)


def test_the_cost_of_what_is_not_chosen_is_not_paid(device: str) -> None:
    """No example goes one way: nothing of it runs. Nor does a branch in a branch, a scan or a loop."""
    calls = Calls()
    y = kt.tensor(1.0)
    kt.vmap(lambda x: kt.cond(x > 0, lambda: x * 1.0, lambda: calls(y) * x))(kt.tensor([1.0, 2.0])).numpy()
    kt.cond(y > 0, lambda: y, lambda: kt.cond(y > 2, lambda: y, lambda: calls(y))).numpy()
    kt.scan(lambda c, x: (kt.cond(x > 0, lambda: c, lambda: calls(y)), None), y, kt.ones(3))[0].numpy()
    kt.while_loop(lambda c: c < 3, lambda c: kt.cond(c > 0, lambda: c + 1, lambda: calls(y)), y).numpy()
    kt.cond(y > 0, lambda: y, lambda: kt.scan(lambda c, x: (c + x, calls(y)), y, kt.ones(3))[1].sum()).numpy()
    kt.cond(y > 0, lambda: y, lambda: kt.while_loop(lambda c: c < 3, lambda c: c + calls(y), y)).numpy()
    kt.grad(lambda x: kt.cond(x > 0, lambda: x * x, lambda: calls(x) * y))(y).numpy()
    kt.jvp(lambda x: kt.cond(x > 0, lambda: x * x, lambda: y * calls(y)), (y,), (y,))[1].numpy()
    assert calls.count == 0


def test_eager_mode_computes_at_once(device: str) -> None:
    yes, no, y = Calls(), Calls(), kt.tensor(2.0)
    with kt.eager():
        out = kt.cond(y > 0, lambda: yes(y), lambda: no(y))
        assert (yes.count, no.count) == (1, 0)
        kt.scan(lambda c, x: (c + x, yes(c)), y, kt.ones(3))
        kt.while_loop(lambda c: c < 5, lambda c: yes(c), y)
        assert (yes.count, no.count) == (6, 0)
    assert out.item() == 4.0


def test_what_was_computed_before_is_computed_once(device: str) -> None:
    calls = Calls()
    y = calls(kt.tensor(2.0))
    assert kt.cond(kt.tensor(True), lambda: y + 1, lambda: y * y).item() == 5.0
    assert calls.count == 1
    each = Calls()
    last, _ = kt.scan(lambda c, x: (c + each(y) * x, None), kt.tensor(0.0), kt.ones(5))
    assert last.item() == 40.0 and each.count == 1  # the same in every step


def test_bodies_that_never_run(device: str) -> None:
    """Nothing of them is computed that could fail, and no gradient comes from them."""
    table, bad, calls = kt.tensor(TABLE), kt.tensor(7), Calls()
    y = kt.tensor(2.0, dtype=kt.float64)
    out = kt.while_loop(lambda c: c < 0, lambda c: c + table[bad] * calls(y), y)
    last, ys = kt.scan(lambda c, _: (c + table[bad], calls(y) + c), y, length=0)
    assert (out.item(), last.item(), ys.shape, calls.count) == (2.0, 2.0, (0,), 0)
    out, tangent = kt.jvp(lambda x: kt.while_loop(lambda c: c < 0, lambda c: c + table[bad] * x, x), (y,), (y,))
    assert (out.item(), tangent.item()) == (2.0, 2.0)
    _, pull = kt.vjp(lambda x: kt.scan(lambda c, _: (c + (x - 2.0).sqrt() * table[bad], None), x, length=0)[0], y)
    assert pull(y).item() == 2.0  # no NaN from the slope of a root at zero
    with pytest.raises(kt.IndexBoundsError, match="index 7"):
        kt.while_loop(lambda c: c < 3, lambda c: c + table[bad], y).item()
    found = kt.vmap(lambda i, c: kt.while_loop(lambda c: c < 3, lambda c: c + table[i], c))(
        kt.tensor([0, 9, 2]), kt.tensor([0.0, 5.0, 1.0], dtype=kt.float64)
    )
    assert found.tolist() == [3.0, 5.0, 6.0]


def test_indices_outside_where_nobody_goes(device: str) -> None:
    table = kt.variable(TABLE)
    for place, want, slope in ((1, 3.0, [0.0, 1.0, 0.0]), (5, -1.0, [0.0, 0.0, 0.0])):
        i = kt.tensor(place)
        y = kt.cond(i < 3, lambda i=i: table[i], lambda: kt.tensor(-1.0, dtype=kt.float64))
        y.backward()
        assert y.item() == want and table.grad.tolist() == slope  # type: ignore[union-attr]
        table.grad = None
    out = kt.vmap(lambda i: kt.cond(i < 3, lambda: table.at[i].set(0.0).sum(), lambda: table.sum()))(kt.tensor([1, 9]))
    assert out.tolist() == [6.0, 9.0]
    with pytest.raises(kt.IndexBoundsError, match="index 9 is outside"):
        kt.cond(kt.tensor(9) > 3, lambda: table[kt.tensor(9)], lambda: table[0]).item()


def train(flow: Flow, opt: Any, left: Any, right: Any, x: Any) -> None:
    loss = (flow.cond(x.sum() > 0, lambda: left(x), lambda: right(x).tanh()) ** 2).sum()
    loss.backward()
    opt.step()


def test_parameters_and_modules(device: str) -> None:
    """Branches of layers, trained: only the chosen one has a gradient that is not zero, as with Python's `if`."""
    found = []
    for flow in (PYTHON, BUILT):
        kt.manual_seed(0)
        left, right = nn.Linear(3, 2), nn.Linear(3, 2)
        opt = optim.SGD([*left.parameters(), *right.parameters()], lr=0.1)
        for k in range(4):
            train(flow, opt, left, right, kt.ones((2, 3)) * (k - 1.5))
        found.append([p.numpy() for p in (*left.parameters(), *right.parameters())])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-7)


def test_a_plain_loop_builds_nothing_from_its_third_turn_on(device: str) -> None:
    v, w = kt.variable(1.0), kt.variable(2.0)

    def step(x: float) -> tuple[float, float]:
        a = kt.tensor(x)
        y = kt.cond(a > 0, lambda: (v * a).sqrt(), lambda: kt.cond(a < -1, lambda: v * 3.0, lambda: w + a))
        y = y + kt.scan(lambda c, t: (kt.cond(t > a, lambda: c * w, lambda: c), None), y, kt.tensor([-1.0, 1.0]))[0]
        y.backward()
        g, v.grad, w.grad = v.grad, None, None
        return y.item(), g.item()  # type: ignore[union-attr]

    for x in (1.0, -0.5):
        step(x)
    assert [kt.explain(lambda x=x: step(x)).programs_built for x in (2.0, -3.0, -0.5, 1.0)] == [0, 0, 0, 0]


def test_draws(device: str) -> None:
    """A draw takes its number when the function is traced, whichever side is chosen; under vmap it needs leave."""

    def run(p: Any) -> tuple[Any, Any]:
        y = kt.cond(p > 0, lambda: kt.rand(2), lambda: kt.randn(2))
        return y, kt.rand(2)

    kt.manual_seed(3)
    a, b, c = kt.rand(2).tolist(), kt.randn(2).tolist(), kt.rand(2).tolist()
    for form in (run, kt.compile(run)):
        for p, want in ((1.0, a), (-1.0, b), (1.0, a)):
            kt.manual_seed(3)
            y, after = form(kt.tensor(p))
            np.testing.assert_allclose(y.tolist(), want, rtol=1e-6)
            assert after.tolist() == c

    def draw(x: Any) -> Any:
        return kt.cond(x > 0, lambda: kt.rand(3) * x, lambda: kt.zeros(3))

    xs = kt.tensor([1.0, 1.0, -1.0])
    with pytest.raises(kt.Error, match="random numbers are drawn inside"):
        kt.vmap(draw)(xs)
    one, two, none = kt.vmap(draw, randomness="different")(xs).tolist()
    assert one != two and none == [0.0, 0.0, 0.0]
    one, two, _ = kt.vmap(draw, randomness="same")(xs).tolist()
    assert one == two
    # the condition is the same for all, and the draws are not
    one, two, _ = kt.vmap(lambda x: kt.cond(kt.tensor(True), lambda: kt.rand(3), lambda: kt.zeros(3)) + x * 0.0,
                          randomness="different")(xs).tolist()  # fmt: skip
    assert one != two


def test_state_cannot_be_set_in_a_branch(device: str) -> None:
    p, norm = nn.Parameter(kt.tensor(1.0)), nn.BatchNorm1d(2)
    opt = optim.SGD([p], lr=0.1)

    def setting() -> Any:
        p.set(5.0)
        return p * 1.0

    def stepping() -> Any:
        opt.step({p: kt.tensor(1.0)})
        return p * 1.0

    for act in (setting, stepping):
        for call in (act, lambda act=act: kt.scan(lambda c, x: (act(), x), p * 1.0, kt.ones(2))[0]):
            with pytest.raises(kt.Error, match=r"state is set inside a function that (cond|scan) traces once"):
                kt.cond(p < 0, call, lambda: p * 1.0)
            assert p.item() == 1.0
    with pytest.raises(kt.Error, match="state is set inside"):
        kt.scan(lambda c, x: (c, norm(x)), p, kt.ones((3, 4, 2)))
    with pytest.raises(kt.GradientError, match=r"backward: inside a function that cond traces once.*kt.grad"):
        kt.cond(p > 0, lambda: ((p * p).backward(), p)[1], lambda: p)
    assert p.grad is None
    p.set(kt.cond(p < 0, lambda: p * 5.0, lambda: p + 1.0))  # the remedy
    assert p.item() == 2.0
    opt.step({p: kt.tensor(1.0)})
    assert p.item() == pytest.approx(1.9)


def test_what_leaves_a_branch_in_another_way_has_no_value(device: str) -> None:
    kept: list[Any] = []
    x, y = kt.tensor(2.0), kt.variable(3.0)

    def keep(u: Any) -> Any:
        kept.append(u)
        return u

    uses: list[Callable[[], Any]] = [
        lambda: kt.cond(x > 0, lambda: keep(y * 2.0), lambda: y),
        lambda: kt.cond(x > 0, lambda u: keep(u) + y, lambda u: u, x),
        lambda: kt.scan(lambda c, t: (c + keep(t * y), None), x, kt.ones(2))[0],
        lambda: kt.while_loop(lambda c: keep(c) < 0, lambda c: c, x),
    ]
    for use in uses:
        kept.clear()
        result = use()
        name = r"(cond|scan|while_loop): this float32\[\] was made inside a function that is traced once"
        with pytest.raises(kt.Error, match=name):
            kept[0].item()
        with pytest.raises(kt.Error, match=name):
            kept[0] * 2.0
        assert np.isfinite(result.item())  # goes on as if nothing had been
    with kt.eager(), pytest.raises(kt.Error, match="was made inside"):
        kt.cond(x > 0, lambda: keep(y * 2.0), lambda: y)
        kept[-1].item()
    # from one branch to the other: it is computed there as well
    for sign in (1.0, -1.0):
        kept.clear()
        out = kt.cond(x * sign > 0, lambda: keep(y * 2.0) + 1.0, lambda: kept[0] + 2.0)
        assert out.item() == (7.0 if sign > 0 else 8.0)


def test_looking_within(device: str) -> None:
    x = kt.tensor(2.0)
    pending = x * 3.0
    for look in (lambda: pending.item(), lambda: (x * 2.0).item(), lambda: float(pending), lambda: bool(pending > 0)):
        with pytest.raises(kt.Error, match=r"cond: a value is looked at inside .*test_closures.py:\d+"):
            kt.cond(x > 0, lambda look=look: (look(), x)[1], lambda: x)
    assert kt.cond(x > 0, lambda: x * x.item(), lambda: x).item() == 4.0  # this is known
    assert pending.item() == 6.0


def test_after_a_function_that_raises(device: str) -> None:
    kept: list[Any] = []

    def bad(u: Any) -> Any:
        kept.append(u * 2.0)
        raise ValueError("no")

    y = kt.tensor(1.0) + 1.0
    for call in (lambda: kt.cond(y > 0, bad, lambda u: u, y), lambda: kt.scan(lambda c, x: bad(c), y, kt.ones(2))):
        with pytest.raises(ValueError, match="no"):
            call()
        assert (y * 2.0).item() == 4.0
        with pytest.raises(kt.Error, match="was made inside"):
            kept.pop().item()


def test_compiled_functions_and_modes_inside(device: str) -> None:
    double = kt.compile(lambda x: x * 2.0)
    v = kt.variable(3.0)

    def constant() -> Any:
        with kt.no_grad():
            return v * v

    y = kt.cond(v > 0, lambda: double(v), lambda: v)
    z = kt.cond(v > 0, constant, lambda: v)
    (y + z).backward()
    assert (y.item(), z.item(), v.grad.item()) == (6.0, 9.0, 2.0)  # type: ignore[union-attr]
    with kt.no_grad():
        y = kt.cond(v > 0, lambda: v.sqrt(), lambda: v)
    assert not kt.is_variable(y) and y.item() == pytest.approx(3**0.5)


def test_custom_gradients_within_loops(device: str) -> None:
    third = kt.custom_gradient(lambda x: (x * x, lambda g: g * 3.0))
    v = kt.variable(2.0)
    y, _ = kt.scan(lambda c, _: (third(c) + third(v), None), v, length=2)
    y.backward()
    assert (y.item(), v.grad.item()) == (68.0, 21.0)  # type: ignore[union-attr]
    looped = kt.while_loop(lambda c: c < 100, lambda c: third(c) + third(v.freeze()), kt.tensor(2.0))
    assert looped.item() == 4628.0


def test_loops_without_a_carry(device: str) -> None:
    y = kt.tensor(2.0)
    carry, ys = kt.scan(lambda c, _: ((), y * 3.0), (), length=3)
    assert carry == () and ys.tolist() == [6.0, 6.0, 6.0]
    assert kt.while_loop(lambda c: y < 0, lambda c: (), ()) == ()


SEEDS = st.integers(0, 10**6)
ONE = np.array(1.0)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=6)
@given(SEEDS)
def test_random_programs(device: str, seed: int) -> None:
    """Nested control flow that closes over values, against Python's own: values, gradients and their gradients."""
    rng = np.random.default_rng(seed)
    program, found = Program(seed, False), []
    with kt.device(device):
        table, (a, b) = kt.tensor(rng.standard_normal(4)), map(kt.tensor, rng.standard_normal(2).round(1))
        for flow in (PYTHON, BUILT):

            def of_a(t: Any, c: Any, d: Any, flow: Flow = flow) -> Any:
                return kt.grad(lambda u: program(flow, t, u, d) + u * d + t[0])(c)

            y, pull = kt.vjp(lambda *xs, flow=flow: program(flow, *xs), table, a, b)
            _, pull_again = kt.vjp(of_a, table, a, b)
            found.append([v.numpy() for v in (y, *pull(kt.tensor(ONE)), *pull_again(kt.tensor(ONE)))])
    for want, got in zip(*found, strict=True):
        assert np.isfinite(want).all()
        np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=4)
@given(SEEDS)
def test_random_programs_for_many_examples(device: str, seed: int) -> None:
    """Under vmap, with gradients under and around it."""
    rng = np.random.default_rng(seed)
    program, xs = Program(seed, False), rng.standard_normal((3, 2)).round(1)

    def f(flow: Flow, t: Any, a: Any, b: Any) -> Any:
        return program(flow, t, a, b) + t.sum() * b

    with kt.device(device):
        table, examples = kt.tensor(rng.standard_normal(4)), [kt.tensor(v) for v in xs.T.copy()]
        grads = {flow: kt.grad(lambda *args, flow=flow: f(flow, *args), argnums=(0, 1, 2)) for flow in (PYTHON, BUILT)}
        each = [[g.numpy() for g in grads[PYTHON](table, *map(kt.tensor, x))] for x in xs]
        want = [np.stack(g) for g in zip(*each, strict=True)]
        within = kt.vmap(grads[BUILT], in_axes=(None, 0, 0))(table, *examples)
        around = kt.grad(lambda t, a, b: kt.vmap(lambda c, d: f(BUILT, t, c, d))(a, b).sum(), argnums=(0, 1, 2))
        total = around(table, *examples)
        for w, g in zip([*want, want[0].sum(0), *want[1:]], [*within, *total], strict=True):  # type: ignore[misc]
            assert np.isfinite(w).all()
            np.testing.assert_allclose(g.numpy(), w, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=4)
@given(SEEDS)
def test_random_programs_forward(device: str, seed: int) -> None:
    """Forward mode, with loops that run as often as they like: plain, compiled and for many examples."""
    rng = np.random.default_rng(seed)
    program, xs = Program(seed, True), rng.standard_normal((3, 2)).round(1)
    with kt.device(device):
        table, t = kt.tensor(rng.standard_normal(4)), kt.tensor(ONE * 0.7)

        def pushed(flow: Flow) -> Callable[..., Any]:
            return lambda a, b: kt.jvp(lambda c, d: program(flow, table, c, d), (a, b), (t, t))

        want = [[v.numpy() for v in pushed(PYTHON)(*map(kt.tensor, x))] for x in xs]
        assert np.isfinite(want).all()
        for form in (pushed(BUILT), kt.compile(pushed(BUILT))):
            found = [[v.numpy() for v in form(*map(kt.tensor, x))] for x in xs]
            np.testing.assert_allclose(found, want, rtol=1e-8, atol=1e-10)
        many = kt.vmap(pushed(BUILT))(*map(kt.tensor, xs.T.copy()))
        np.testing.assert_allclose(np.transpose([v.numpy() for v in many]), want, rtol=1e-8, atol=1e-10)

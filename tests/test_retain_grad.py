"""Gradients of intermediate values, and what is said where there is none."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import katachi as kt
from katachi import GradientError, nn, optim
from katachi.nn import functional as F

FORMS = ["plain", "eager", "compiled"]


def in_form(form: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if form == "compiled":
        return kt.compile(function)

    def run(*args: Any) -> Any:
        if form == "eager":
            with kt.eager():
                return function(*args)
        return function(*args)

    return run


def network() -> Any:
    kt.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def hidden_gradient(net: Any, x: Any) -> Any:
    """By hand: of mean((tanh(h) w + b)^2) with respect to h."""
    w, b = net[2].weight.numpy().astype(np.float64), net[2].bias.numpy().astype(np.float64)
    h = np.tanh(x.numpy() @ net[0].weight.numpy().T + net[0].bias.numpy())
    out = h @ w.T + b
    return (2 * out / out.size @ w) * (1 - h * h)


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("look", [False, True])
def test_a_hidden_layers_gradient(form: str, device: str, look: bool) -> None:
    with kt.device(device):
        net = network()
        optimizer = optim.SGD(net.parameters(), lr=0.1)

        def step(x: Any) -> Any:
            h = net[0](x)
            h.retain_grad()
            loss = net[2](net[1](h)).square().mean()
            if look and form != "compiled":
                loss.item()
            loss.backward()
            g = h.grad
            optimizer.step()
            return g, h

        run = in_form(form, step)
        for i in range(4):
            x = kt.tensor(np.random.default_rng(i).standard_normal((5, 3), np.float32))
            want = hidden_gradient(net, x)
            g, h = run(x)
            np.testing.assert_allclose(g.numpy(), want, rtol=1e-4, atol=1e-6)
            assert h.grad.tolist() == g.tolist()


def test_replay_builds_nothing() -> None:
    net = network()
    optimizer, x = optim.Adam(net.parameters(), lr=0.1), kt.randn(5, 3)
    norms: list[Any] = []

    def step() -> None:
        h = net[0](x)
        h.retain_grad()
        net[2](net[1](h)).square().mean().backward()
        optimizer.step()
        assert h.grad is not None
        norms.append(h.grad.square().sum().item())

    built = [kt.explain(step).programs_built for _ in range(6)]
    assert built[2:] == [0] * 4 and len(set(norms)) == 6


def test_a_compiled_function_is_traced_once() -> None:
    net = network()
    optimizer, x = optim.Adam(net.parameters(), lr=0.1), kt.randn(5, 3)

    @kt.compile
    def step(x: Any) -> Any:
        h = net[0](x)
        h.retain_grad()
        net[2](net[1](h)).square().mean().backward()
        norm = h.grad.square().sum()
        optimizer.step()
        return h, norm

    for _ in range(4):
        want = float(np.square(hidden_gradient(net, x)).sum())
        h, norm = step(x)
        assert norm.item() == pytest.approx(want, rel=1e-4)
        assert h.grad.square().sum().item() == pytest.approx(want, rel=1e-4)
    assert kt.explain(step, x).programs_built == 0


OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, y: x + y,
    "scale": lambda x, y: x * 0.5,
    "tanh": lambda x, y: x.tanh(),
    "multiply": lambda x, y: x * y,
    "reshape": lambda x, y: x.reshape((3,)),
}
PLACES = st.integers(0, 7)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), PLACES, PLACES), min_size=1, max_size=8),
       st.sets(PLACES, max_size=3), st.booleans())  # fmt: skip
def test_it_is_what_kt_gradients_gives(program: list[tuple[str, int, int]], looked: set[int], eager: bool) -> None:
    """Of random graphs, some of whose values are looked at on the way."""

    def values() -> list[Any]:
        found: list[Any] = [kt.variable([0.5, -1.0, 2.0])]
        for i, (op, a, b) in enumerate(program):
            x, y = found[a % len(found)], found[b % len(found)]
            new = OPERATIONS[op](x, y)
            if i in looked:
                new.numpy()
            found.append(new)
        return found

    with kt.eager() if eager else contextlib.nullcontext():
        first, again = values(), values()
        for h in first:
            h.retain_grad()
        loss = (first[-1] * first[-1]).sum() + first[0].sum()
        loss.backward()
        other = (again[-1] * again[-1]).sum() + again[0].sum()
        for h, g in zip(first, again, strict=True):
            try:
                want = kt.gradients(other, [g], retain_graph=True)[g].tolist()
            except GradientError as error:
                assert "does not depend" in str(error)
                want = None
            assert (None if h.grad is None else h.grad.tolist()) == want


def test_values_that_are_kept_from_step_to_step_build_nothing_either() -> None:
    net, held = network(), []
    optimizer, x = optim.SGD(net.parameters(), lr=0.1), kt.randn(5, 3)

    def step() -> None:
        h = net[0](x)
        h.retain_grad()
        net[2](net[1](h)).square().mean().backward()
        optimizer.step()
        held.append(h)

    built = [kt.explain(step).programs_built for _ in range(6)]
    assert built[3:] == [0] * 3
    assert len({tuple(h.grad.flatten().tolist()) for h in held}) == 6


@pytest.mark.parametrize("form", FORMS)
def test_gradients_add_up_over_passes(form: str) -> None:
    def f(x: Any) -> Any:
        v = x.unfreeze() if form != "compiled" else w * x
        h = v * 2.0
        h.retain_grad()
        loss = (h * h).sum()
        loss.backward(retain_graph=True)
        first = h.grad
        loss.backward()
        return first, h.grad

    w = kt.variable([1.0, 1.0])
    first, both = in_form(form, f)(kt.tensor([1.0, 3.0]))
    assert first.tolist() == [4.0, 12.0] and both.tolist() == [8.0, 24.0]


@pytest.mark.parametrize("form", FORMS)
def test_several_values_and_those_that_nothing_reaches(form: str) -> None:
    v = kt.variable([1.0, 2.0])

    def f(x: Any) -> Any:
        a = v * x
        b = a.exp()
        c = a * 100.0
        for t in (a, b, c):
            t.retain_grad()
        loss = (b * a).sum()
        loss.retain_grad()
        loss.backward()
        assert c.grad is None
        return a.grad, b.grad, loss.grad

    a, b, loss = in_form(form, f)(kt.tensor([1.0, 0.5]))
    assert loss.item() == 1.0 and b.tolist() == [1.0, 1.0]
    np.testing.assert_allclose(a.numpy(), 2 * np.exp([1.0, 1.0]), rtol=1e-6)


def test_what_is_equal_to_its_operand_has_a_gradient_of_its_own() -> None:
    """An operation that changes nothing is an operation: what flows through it is not all that flows to its operand."""
    same: dict[str, Callable[[Any], Any]] = {
        "reshape": lambda x: x.reshape(x.shape),
        "to": lambda x: x.to(kt.float32),
        "dropout": lambda x: F.dropout(x, 0.5, training=False),
        "broadcast": lambda x: x.broadcast_to(x.shape),
        "permute": lambda x: x.permute((0,)),
        "index": lambda x: x[:],
        "positive": lambda x: +x,
        "squeeze": lambda x: x.squeeze(()),
    }
    for name, f in same.items():
        v = kt.variable([1.0, 2.0])
        x = v * 1.0
        y = f(x)
        if y is x:
            continue
        x.retain_grad()
        y.retain_grad()
        (y * 3.0 + x * 4.0).sum().backward()
        assert (x.grad.tolist(), y.grad.tolist()) == ([7.0, 7.0], [3.0, 3.0]), name


def test_two_losses_on_one_value_and_a_flush_between() -> None:
    v = kt.variable([1.0, 2.0])
    h = v * v
    h.retain_grad()
    h.numpy()
    a = (h * 3.0).sum()
    a.item()
    a.backward(retain_graph=True)
    assert h.grad.tolist() == [3.0, 3.0]
    (h * h).sum().backward()
    assert h.grad.tolist() == [5.0, 11.0] and v.grad.tolist() == [10.0, 44.0]


def test_a_graph_that_keeps_nothing_is_not_used_up_by_another_one() -> None:
    """What is computed together has one tape; a sum asks it for no values, and what another graph asked for is gone."""
    v, w = kt.variable([0.5]), kt.variable([3.0])
    square = (v * v).sum()
    double = (w + w).sum()
    kt.eval(square, double)
    square.backward()
    double.backward()
    assert v.grad.tolist() == [1.0] and w.grad.tolist() == [2.0]


def test_create_graph_gives_gradients_that_are_variables() -> None:
    v = kt.variable([2.0])
    h = v * 3.0
    h.retain_grad()
    (h * h * h).sum().backward(create_graph=True)
    assert kt.is_variable(h.grad) and h.grad.tolist() == [108.0]
    v.grad = None
    h.grad.sum().backward()
    assert v.grad.tolist() == [6 * 6.0 * 3.0]


def test_leaves_and_constants() -> None:
    v, p = kt.variable([1.0]), nn.Parameter([1.0])
    v.retain_grad()
    p.retain_grad()  # they have one anyway
    (v * p).sum().backward()
    assert v.grad.tolist() == p.grad.tolist() == [1.0]
    constants: list[Any] = [kt.ones(2), v.freeze(), nn.Buffer([1.0]), nn.Linear(1, 1).freeze().weight]
    for constant in constants:  # checkers refuse it as well
        with pytest.raises(GradientError, match=r"retain_grad: this float32\[.* is a constant"):
            constant.retain_grad()


def heard(f: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        try:
            f()
        except AttributeError as error:
            assert "NoneType" in str(error)
    for w in found:
        assert w.category is UserWarning and w.filename == __file__
    return [str(w.message) for w in found]


def test_an_intermediate_without_a_gradient_says_so_once_a_line() -> None:
    def loop() -> None:
        for _ in range(3):
            v = kt.variable([1.0])
            h = v * 2.0
            h.sum().backward()
            assert h.grad is None
            assert v.grad is not None

    (told,) = heard(loop)
    assert "retain_grad()" in told and "kt.gradients" in told

    def retained() -> None:
        h = kt.variable([1.0]) * 2.0
        h.retain_grad()
        assert h.grad is None  # not yet
        h.sum().backward()
        assert h.grad is not None

    assert heard(retained) == []


def test_a_gradient_that_the_step_took() -> None:
    net = network()
    optimizer = optim.SGD(net.parameters(), lr=0.1)

    def step() -> None:
        net(kt.ones(2, 3)).square().sum().backward()
        optimizer.step()

    def norm() -> None:
        for p in net.parameters():
            p.grad.square()

    step()
    (told,) = heard(norm)
    assert "between backward() and step()" in told and "clip_grad_norm_" in told

    def fine() -> None:
        net(kt.ones(2, 3)).square().sum().backward()
        optim.clip_grad_norm_(net.parameters(), 1.0)
        for p in net.parameters():
            p.grad.square()
        optimizer.step()
        for p in net.parameters():
            if p.grad is not None:
                raise AssertionError
            g = p.grad
            assert g is None and p.grad is None and [p.grad] == [None] and not p.grad
        optimizer.zero_grad()
        net.zero_grad()
        with pytest.raises(GradientError, match="no parameter has a gradient"):
            optim.clip_grad_norm_(net.parameters(), 1.0)

    assert heard(fine) == []
    with pytest.raises(kt.DTypeError, match=r"sum: operands are .*got NoneType.*opt\.step\(\)"):
        kt.sum(net[0].weight.grad)
    (told,) = heard(lambda: net.freeze()[0].weight.grad.square())
    assert "frozen" in told


def test_the_norm_of_gradients_can_be_logged_in_every_form() -> None:
    for form in FORMS:
        net = network()
        optimizer = optim.SGD(net.parameters(), lr=0.1)

        def step(x: Any, net: Any = net, optimizer: Any = optimizer) -> Any:
            net(x).square().mean().backward()
            each = [p.grad.square().sum().sqrt() for p in net.parameters()]
            norm = optim.clip_grad_norm_(net.parameters(), 1e9)
            optimizer.step()
            return norm, each

        run = in_form(form, step)
        for _ in range(3):
            norm, each = run(kt.ones(2, 3))
            assert norm.item() == pytest.approx(float(np.sqrt(sum(e.item() ** 2 for e in each))), rel=1e-5)

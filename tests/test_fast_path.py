"""Everyday loops build their programs in the first steps, and none afterwards."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import katachi as kt
from bench.everyday import LOOPS, RNG, XB, YB, Training, X, Y
from katachi import nn, optim
from katachi.tensor import events, keeping
from katachi.tensor.trace import current


@pytest.mark.parametrize("name", LOOPS)
def test_nothing_is_built_after_the_first_steps(name: str) -> None:
    step = LOOPS[name]()
    result: Any = None
    for i in range(5):
        result = step(i)
    entries = current().entries
    with kt.strict():
        for i in range(5, 17):
            result = step(i)
    del result
    assert current().entries == entries


def test_a_loop_that_keeps_building_is_told_of_once() -> None:
    def step(n: int) -> float:
        return (kt.repeat(kt.ones(2), n) * 2.0).sum().item() / 2

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for n in range(3, 40):
            assert step(n) == 2 * n
    (warning,) = told
    assert warning.filename == __file__ and "repeat" in str(warning.message) and "(12," in str(warning.message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(30):
            step(7)


def test_eager_code_seen_for_the_first_time_is_no_loop_that_keeps_building() -> None:
    for _ in range(60):
        kt.ones(3).sum().item()
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    opt = optim.AdamW(net.parameters())
    with warnings.catch_warnings(), kt.eager():
        warnings.simplefilter("error")
        for _ in range(3):
            (net(kt.ones(6, 3)) ** 2).mean().backward()
            optim.clip_grad_norm_(net.parameters(), 1.0)
            opt.step()


def test_strict_refuses_to_build_and_leaves_all_as_it_was() -> None:
    training, x, y = Training(), XB, YB.astype(kt.int32)
    for _ in range(3):
        training.step()
    before = [p.numpy() for p in training.model.parameters()]
    with pytest.raises(kt.Error, match=r"strict: .*everyday\.py:\d+, since: .*int32\[32\]"), kt.strict():
        training.step()
        before = [p.numpy() for p in training.model.parameters()]
        training.step(x, y)
    for a, p in zip(before, training.model.parameters(), strict=True):
        np.testing.assert_array_equal(a, p.numpy())
    square = kt.compile(lambda x: x * x)
    x = kt.tensor([1.0, 1.0])
    with pytest.raises(kt.Error, match=r"strict: .*<lambda> would be traced first"), kt.strict():
        square(x)
    square(x)
    with kt.strict():
        square(x)


def test_an_evaluation_never_looked_at_is_computed_as_it_goes() -> None:
    model, correct, flushes = Training().model, kt.tensor(0), []
    events.observers.append(flushes.append)
    try:
        with kt.no_grad():
            for i in range(900):
                j = i * 32 % 992
                correct = correct + (model(X[j : j + 32]).argmax(1) == Y[j : j + 32]).sum()
        total = correct.item()
    finally:
        events.observers.remove(flushes.append)
    want = sum(
        int((np.asarray(model(kt.tensor(X.numpy()[j : j + 32])).argmax(1).numpy()) == Y.numpy()[j : j + 32]).sum())
        for j in [i * 32 % 992 for i in range(900)]
    )
    assert total == want
    assert len(flushes) > 5 and sum(f.built for f in flushes) <= 4


def test_functional_updates_never_looked_at_take_constant_time() -> None:
    x, flushes = kt.tensor(RNG.normal(size=(32, 8)).astype(np.float32)), []
    w, expected = kt.ones((8,)), np.ones(8, np.float32)
    events.observers.append(flushes.append)
    try:
        for _ in range(400):
            w = w - 0.0001 * kt.grad(lambda v: ((x @ v) ** 2).sum())(w)
    finally:
        events.observers.remove(flushes.append)
    for _ in range(400):
        expected = expected - np.float32(0.0002) * (x.numpy().T @ (x.numpy() @ expected))
    np.testing.assert_allclose(w.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert len(flushes) > 4 and sum(f.built for f in flushes) <= 2


def test_a_loop_within_a_forward_pass_stays_one_program() -> None:
    """A hundred products, none of which is looked at: no more work than one program is worth."""
    w, x = kt.ones((16, 16)) * 0.01, kt.ones((16, 16))
    kt.eval(w, x)
    flushes: list[Any] = []
    events.observers.append(flushes.append)
    try:
        for _ in range(100):
            x = x @ w
        x.numpy()
    finally:
        events.observers.remove(flushes.append)
    assert len(flushes) == 1


# ---- slices whose start varies --------------------------------------------------------------------------------------

SHAPE = (7, 5, 4)


@st.composite
def indices(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Several indices of one kind: the same sizes and steps, other starts."""
    kinds = draw(st.lists(st.sampled_from(["int", "slice", "step", "all", "back", "none"]), max_size=4))
    sizes = [draw(st.integers(1, 3)) for _ in kinds]
    out = []
    for _ in range(4):
        index: list[Any] = []
        axis = 0
        for kind, size in zip(kinds, sizes, strict=True):
            if kind == "none":
                index.append(None)
                continue
            if axis == len(SHAPE):
                break
            n, axis = SHAPE[axis], axis + 1
            if kind == "int":
                index.append(draw(st.integers(-n, n - 1)))
            elif kind == "all":
                index.append(slice(None))
            else:
                span = size if kind == "slice" else 2 * size - 1 if kind == "step" else size
                span = min(span, n)
                start = draw(st.integers(0, n - span))
                if kind == "back":
                    index.append(slice(start + span - 1, start - 1 if start else None, -1))
                else:
                    index.append(slice(start, start + span, 2 if kind == "step" else 1))
        out.append(tuple(index))
    return out


@pytest.mark.parametrize("device", kt.devices())
@given(indices(), st.integers(0, 1000))
def test_starts_that_vary(device: str, all_indices: list[tuple[Any, ...]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=SHAPE)
    with kt.device(device):
        x = kt.variable(a, dtype=kt.float64)
        for index in all_indices:
            part = x[index]
            value = rng.normal(size=part.shape)
            (part * kt.tensor(value)).sum().backward()
            put, added = x.freeze().at[index].set(kt.tensor(value)), x.freeze().at[index].add(1.0)
            scaled = x.freeze().at[index].multiply(3.0)
            np.testing.assert_array_equal(part.numpy(), a[index])
            slope, there = np.zeros(SHAPE), a.copy()
            slope[index] = value
            there[index] = value
            np.testing.assert_array_equal(x.grad.numpy(), slope)
            x.grad = None
            np.testing.assert_array_equal(put.numpy(), there)
            there = a.copy()
            there[index] += 1
            np.testing.assert_array_equal(added.numpy(), there)
            there = a.copy()
            there[index] *= 3
            np.testing.assert_array_equal(scaled.numpy(), there)


@pytest.mark.parametrize("device", kt.devices())
def test_shifts_and_exponents_that_vary(device: str) -> None:
    a = np.arange(12.0).reshape(3, 4) + 1
    with kt.device(device):
        x = kt.variable(a, dtype=kt.float64)
        for shift in (0, 1, -1, 5, 12, -30):
            for axis in (None, 0, 1, -1):
                np.testing.assert_array_equal(kt.roll(x, shift, axis).numpy(), np.roll(a, shift, axis))
        for exponent in (2, 3, -1, 0, 5, 1):
            (x**exponent).sum().backward()
            np.testing.assert_allclose((x**exponent).numpy(), a**exponent, rtol=1e-14)
            np.testing.assert_allclose(x.grad.numpy(), exponent * a ** (exponent - 1.0), rtol=1e-13)
            x.grad = None
        n = kt.tensor([1, -2, 3])
        assert [(n**e).tolist() for e in (2, 3, 1, 0)] == [[1, 4, 9], [1, -8, 27], [1, -2, 3], [1, 1, 1]]
        with pytest.raises(kt.DTypeError):
            kt.eval(n**-1)


@pytest.mark.parametrize("device", kt.devices())
def test_bounds_are_checked_where_starts_vary(device: str) -> None:
    with kt.device(device):
        x = kt.arange(10)
        found = [x[i : i + 4].tolist() for i in (0, 3, 6, 8, 12, -2)]
        assert found == [np.arange(10)[i : i + 4].tolist() for i in (0, 3, 6, 8, 12, -2)]
        with pytest.raises(kt.IndexBoundsError):
            for i in (2, 9, 10):
                x[i].item()


# ---- depth and width ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "compiled"), [((), True), ((1,), False), ((3,), False)])
def test_thousands_of_dependent_operations(shape: tuple[int, ...], compiled: bool) -> None:
    w, h0 = kt.variable(np.full(shape, 0.999)), kt.ones(shape, dtype=kt.float64)

    def step() -> Any:
        h: Any = h0
        for _ in range(200):
            h = ((h * w + 0.001) * 0.5 + h * 0.5).sin()
        loss = h.sum()
        loss.backward()
        return loss

    loss = (kt.compile(step) if compiled else step)().item()
    h = slope = np.float64(1.0)
    slope = np.float64(0.0)
    for _ in range(200):
        inner = (h * 0.999 + 0.001) * 0.5 + h * 0.5
        slope = np.cos(inner) * (0.5 * (h + 0.999 * slope) + 0.5 * slope)
        h = np.sin(inner)
    n = int(np.prod(shape, dtype=int))
    assert loss == pytest.approx(h * n)
    np.testing.assert_allclose(w.grad.numpy(), np.full(shape, slope), rtol=1e-6)


@pytest.mark.parametrize("device", kt.devices())
def test_joining_and_adding_a_thousand_tensors(device: str) -> None:
    with kt.device(device):
        arrays = [np.full(3, float(i)) for i in range(1000)]
        xs = [kt.variable(a) for a in arrays]
        y = kt.stack(xs)
        (y * y).sum().backward()
        np.testing.assert_array_equal(y.numpy(), np.stack(arrays))
        np.testing.assert_array_equal(xs[777].grad.numpy(), 2 * arrays[777])
        np.testing.assert_array_equal(kt.concat(xs, 0).numpy(), np.concatenate(arrays))
        total: Any = sum(x.freeze() for x in xs)
        np.testing.assert_array_equal(total.numpy(), sum(arrays))


# ---- what is kept ---------------------------------------------------------------------------------------------------


def test_programs_are_kept_up_to_a_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SIZES", 1_000_000)
    kt.clear_caches()
    training = Training()
    data = {n: (kt.tensor(X.numpy()[:n]), kt.tensor(Y.numpy()[:n])) for n in range(20, 100)}
    most, losses = 0, {}
    for n, (x, y) in data.items():
        losses[n] = training.step(x, y)[1].item()
        most = max(most, kt.memory.report().programs)
    assert 700_000 < most <= 1_400_000
    assert len(current().kept.items) < 40 and current().entries < 400
    with kt.explain() as told:
        for n in (99, 98, 97):
            training.step(*data[n])
    assert not any(f.built or f.resized for f in told.flushes)
    told = kt.explain(training.step, *data[30])  # was forgotten, and gets its numbers again
    assert any(f.resized for f in told.flushes) and not told.programs_built
    assert all(np.isfinite(x) for x in losses.values())


def test_clearing_forgets_programs_and_nothing_else() -> None:
    training, kept = Training(), []
    for _ in range(3):
        kept.append(training.step()[1])
    pending, total = kept[0] * 2.0, kept[0].item()
    kt.clear_caches()
    assert kt.memory.report().programs == 0 and "programs" in str(kt.memory.report())
    assert pending.item() == 2 * total
    with pytest.raises(kt.Error, match="strict"), kt.strict():
        training.step()
    training.step()
    training.step()
    with kt.strict():
        training.step()

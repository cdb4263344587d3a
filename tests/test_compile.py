"""kt.compile: equal to the plain loop bit for bit, traced again when and only when it must be."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import nn, optim


@pytest.fixture(autouse=True, params=["reference", "cpu"])
def device(request):
    with kt.device(request.param):
        yield


def identity(f):
    return f


def both(make, calls=5):
    """What `make(wrap)` returns: a step function and what to compare after each call."""
    rows = []
    for wrap in (identity, kt.compile):
        kt.manual_seed(3)
        step, state = make(wrap)
        seen = []
        for i in range(calls):
            out = step(i)
            seen.append([np.array(x) for x in (out, *state())])
        rows.append(seen)
    for plain, compiled in zip(*rows, strict=True):
        for a, b in zip(plain, compiled, strict=True):
            np.testing.assert_array_equal(a, b)


def training(model, opt):
    """A step of it."""

    def step(x, y):
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    return step


def classifier():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def batch(i, n=5):
    rng = np.random.default_rng(i)
    return kt.tensor(rng.standard_normal((n, 6), np.float32)), kt.tensor(rng.integers(0, 3, n))


def values(model, *optimizers):
    return lambda: [
        *[x.numpy() for x in model.state_dict().values()],
        *[v.numpy() for o in optimizers for s in o.state.values() for k, v in sorted(s.items()) if k != "step"],
        *[s["step"] for o in optimizers for s in o.state.values()],
    ]


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.Adam, optim.AdamW])
def test_a_training_step(optimizer):
    def make(wrap):
        model = classifier()
        opt = optimizer(model.parameters(), lr=1e-2)

        step = wrap(training(model, opt))

        return lambda i: step(*batch(i)), values(model, opt)

    both(make)


def test_schedules_and_clipping():
    def make(wrap):
        model = classifier()
        opt = optim.AdamW(model.parameters(), lr=1e-2)
        schedule = optim.lr_scheduler.CosineAnnealingLR(opt, 10)

        @wrap
        def step(x, y):
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            norm = optim.clip_grad_norm_(model.parameters(), 0.5)
            opt.step()
            return {"loss": loss, "norm": [norm]}

        def run(i):
            out = step(*batch(i))
            schedule.step()
            return out["loss"] + out["norm"][0]

        return run, values(model, opt)

    both(make)


def test_running_statistics():
    def make(wrap):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
        opt = optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)

        step = wrap(training(model, opt))

        def run(i):
            return step(kt.tensor(np.random.default_rng(i).standard_normal((4, 1, 6, 6), np.float32)), kt.arange(4) % 3)

        return run, values(model, opt)

    both(make)


def test_two_optimisers_in_one_function():
    def make(wrap):
        g, d = nn.Linear(2, 6), nn.Linear(6, 1)
        og, od = optim.Adam(g.parameters(), lr=1e-2), optim.Adam(d.parameters(), lr=1e-2)

        @wrap
        def step(real):
            fake = g(kt.randn(5, 2))
            ld = (d(fake.freeze()) - d(real)).mean()
            ld.backward()
            od.step()
            lg = -d(fake).mean()
            lg.backward()
            og.step()
            d.zero_grad()
            return ld + lg

        return lambda i: step(batch(i)[0]), lambda: values(g, og)() + values(d, od)()

    both(make)


def test_gradients_left_for_others():
    """Backward inside, accumulating, and the step outside; then the step alone inside."""

    def make(wrap):
        model = classifier().eval()
        opt = optim.SGD(model.parameters(), lr=1e-2)

        @wrap
        def add(x, y):
            nn.functional.cross_entropy(model(x), y).backward()

        @wrap
        def update():
            opt.step()

        def run(i):
            add(*batch(i))
            add(*batch(i + 100))
            total = sum(float((p.grad * p.grad).sum().item()) for p in model.parameters())
            opt.step() if i % 2 else update()
            assert all(p.grad is None for p in model.parameters())
            return total

        return run, values(model)

    both(make)


def test_a_result_can_be_differentiated():
    def make(wrap):
        model = classifier().eval()
        forward = wrap(lambda x: model(x))
        opt = optim.SGD(model.parameters(), lr=0.1)

        def run(i):
            x, y = batch(i)
            loss = nn.functional.cross_entropy(forward(x), y)
            loss.backward()
            opt.step()
            return loss

        return run, values(model)

    both(make)


def count(f, *args):
    told = kt.explain(f, *args)
    return told.programs_built, told.kernels_compiled


def test_what_is_traced_again_and_what_is_not():
    @kt.compile
    def f(x, scale=1.0, *, flag=True):
        return x * scale if flag else x + scale

    def times(*args, **kwargs):
        told = kt.explain(f, *args, **kwargs)
        return told.flushes[-1].why != "", told.result.tolist()

    x = kt.tensor([1.0, 2.0])
    assert times(x) == (True, [1.0, 2.0])
    assert times(x + 1) == (False, [2.0, 3.0])
    assert times(x, 2.0) == (True, [2.0, 4.0])
    assert times(x, 2) == (True, [2.0, 4.0])
    assert times(x, flag=False) == (True, [2.0, 3.0])
    assert times(x, 2.0) == (False, [2.0, 4.0])
    assert times(x.astype(kt.float64)) == (True, [1.0, 2.0])
    assert times(kt.tensor([1.0])) == (True, [1.0])
    assert times(np.array([5.0, 6.0], np.float32)) == (False, [5.0, 6.0])
    with kt.no_grad():
        assert times(x) == (True, [1.0, 2.0])
    assert times(x) == (False, [1.0, 2.0])


def test_arguments_that_are_one_tensor():
    f = kt.compile(lambda a, b: a * 10 + b)
    one, two = kt.tensor(1.0), kt.tensor(2.0)
    assert [f(one, one).item(), f(one, two).item(), f(two, one).item(), f(two, two).item()] == [11.0, 12.0, 21.0, 22.0]


def test_names_bound_anew():
    scale, bias = 2.0, kt.tensor(1.0)

    @kt.compile
    def f(x):
        return x * scale + bias

    x = kt.tensor(3.0)
    assert f(x).item() == 7.0
    bias = kt.tensor(5.0)
    assert f(x).item() == 11.0
    scale = 10.0
    assert f(x).item() == 35.0


def helper(x):
    return x * FACTOR


FACTOR = 2.0


def test_globals_of_functions_it_calls(monkeypatch):
    f = kt.compile(lambda x: helper(x))
    assert f(kt.tensor(3.0)).item() == 6.0
    monkeypatch.setitem(globals(), "FACTOR", 5.0)
    assert f(kt.tensor(3.0)).item() == 15.0


def test_modules_that_change():
    model: Any = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    f = kt.compile(lambda x: model(x))
    x = kt.ones((4, 2))
    assert len({repr(f(x).tolist()) for _ in range(6)}) > 1
    model.eval()
    assert f(x).tolist() == f(x).tolist() == model(x).tolist()
    vars(model)  # looking changes nothing
    model[0].weight.set(np.zeros((2, 2), np.float32))
    assert f(x).tolist() == model(x).tolist()
    model[0].weight = nn.Parameter(np.ones((2, 2), np.float32))
    assert f(x).tolist() == model(x).tolist()
    model.train()
    assert len({repr(f(x).tolist()) for _ in range(6)}) > 1


def test_a_module_that_moves():
    model = nn.Linear(2, 1)
    f = kt.compile(lambda x: model(x))
    for name in ("reference", "cpu", "reference"):
        model.to(name)
        assert f(kt.ones((1, 2)).to(name)).device == name


def test_an_optimiser_that_changes():
    def make(wrap):
        model = classifier().eval()
        opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.5)

        step = wrap(training(model, opt))

        def run(i):
            if i == 2:
                opt.load_state_dict(opt.state_dict())
            if i == 3:
                opt.param_groups[0]["nesterov"] = True
            if i == 4:
                opt.param_groups[0]["lr"] = 0.01
            return step(*batch(i))

        return run, values(model, opt)

    both(make, 6)


def test_random_state_is_read_at_each_call():
    f = kt.compile(lambda: (kt.rand(3), kt.randint(-5, 5, (2,))))
    kt.manual_seed(1)
    first = [x.tolist() for _ in range(3) for x in f()]
    kt.manual_seed(1)
    assert [x.tolist() for _ in range(3) for x in f()] == first
    kt.manual_seed(1)
    assert [x.tolist() for _ in range(3) for x in (kt.rand(3), kt.randint(-5, 5, (2,)))] == first
    assert len({repr(x) for x in first}) == 6


LOOKS = {
    "item": lambda x: x.sum().item(),
    "argument's item": lambda x: x.tolist(),
    "bool": lambda x: 1 if x.sum() > 0 else 2,
    "print": lambda x: print(x * 2),
    "numpy": lambda x: np.asarray(x + 1),
    "eval": lambda x: kt.eval(x + 1),
    "parameter": lambda x, p=kt.variable([1.0]): p.item(),  # noqa: B008
}


@pytest.mark.parametrize("how", LOOKS)
def test_looking_inside_is_an_error(how):
    f = kt.compile(lambda x: LOOKS[how](x))
    with pytest.raises(kt.Error, match="looked at inside a compiled function"):
        f(kt.ones(3))
    assert (kt.ones(3) + 1).tolist() == [2.0] * 3  # the thread's own trace is as it was


def test_a_failure_leaves_everything_as_it_was():
    model = classifier()
    opt = optim.AdamW(model.parameters())

    step = kt.compile(training(model, opt))

    x, _ = batch(0)
    for good in (False, True, False):
        kt.manual_seed(7)
        state = [np.array(v) for v in values(model, opt)()]
        if good:
            step(x, kt.arange(5) % 3)
            continue
        with pytest.raises(kt.IndexBoundsError, match=r"index [34] is outside .* of size 3"):
            step(x, kt.arange(5))
        after_failing = kt.rand(1).tolist()
        kt.manual_seed(7)
        assert kt.rand(1).tolist() == after_failing
        assert all(p.grad is None for p in model.parameters())
        after = [np.array(v) for v in values(model, opt)()]
        for a, b in zip(state, after[: len(state)], strict=True):
            np.testing.assert_array_equal(a, b)
        assert all(s["step"] == int(bool(len(state) > 4)) for s in opt.state.values())


def test_an_exception_inside():
    calls = []

    @kt.compile
    def f(x):
        calls.append(1)
        if len(calls) == 1:
            raise KeyError("mine")
        return x + 1

    with pytest.raises(KeyError, match="mine"):
        f(kt.tensor(1.0))
    assert f(kt.tensor(1.0)).item() == 2.0


def test_what_is_passed_through():
    p, c = kt.variable([1.0]), kt.tensor([9.0])

    @kt.compile
    def f(x, name):
        return x, p, c, name, (x + 1, [x, None]), 3

    x = kt.tensor([2.0])
    for _ in range(2):
        a, b, d, name, (e, (g, none)), three = f(x, "hello")
        assert a is x and b is p and d is c and g is x and none is None and (name, three) == ("hello", 3)
        assert e.tolist() == [3.0]
        x = kt.tensor([2.0])


def test_methods():
    class Trainer:
        def __init__(self):
            self.scale, self.offset = 2.0, kt.tensor(1.0)

        @kt.compile
        def run(self, x):
            return x * self.scale + self.offset

    one, two = Trainer(), Trainer()
    two.scale = 3.0
    x = kt.tensor(2.0)
    assert (one.run(x).item(), two.run(x).item()) == (5.0, 7.0)
    one.scale = 10.0
    two.offset = kt.tensor(0.0)
    assert (one.run(x).item(), two.run(x).item()) == (21.0, 6.0)
    assert kt.compile(one.run)(x).item() == 21.0


def test_within_other_functions():
    square = kt.compile(lambda x: x * x)
    assert kt.grad(square)(kt.tensor(3.0)).item() == 6.0
    assert kt.compile(lambda x: square(x) + 1)(kt.tensor(3.0)).item() == 10.0
    with kt.eager():
        assert square(kt.tensor(3.0)).item() == 9.0
    v = kt.variable(2.0)
    with pytest.raises(kt.GradientError, match="compile the whole step"):
        square(v * 2)
    kt.compile(lambda: square(v * 2).backward())()
    assert v.grad.item() == 16.0


def test_nothing_is_built_from_the_second_call_on():
    model = classifier()
    opt = optim.AdamW(model.parameters())

    step = kt.compile(training(model, opt))

    step(*batch(0))
    assert count(step, *batch(1)) == (0, 0)
    built, kernels = count(step, *batch(2, n=9))
    assert (built, kernels) == (int(kt.zeros().device == "reference"), 0)
    assert count(step, *batch(3)) == (0, 0)


def test_two_threads():
    f = kt.compile(lambda x: (x * 2).sum())
    wrong = []

    def work(k):
        for i in range(200):
            if f(kt.full((3,), float(k * 1000 + i))).item() != 6 * (k * 1000 + i):
                wrong.append((k, i))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_tensor_kept_by_a_side_effect_is_right_or_refused():
    kept = []

    @kt.compile
    def f(x):
        y = x + 1
        kept.append(y)
        return y * 2

    assert f(kt.tensor(1.0)).item() == 4.0
    with pytest.raises(kt.Error, match=r"kept, which .* was changed while it was traced"):
        f(kt.tensor(5.0))  # a program would append nothing
    assert kept[0].item() == 2.0


def test_misuse():
    with pytest.raises(TypeError, match="compile: needs a function, got int"):
        kt.compile(3)  # type: ignore[arg-type]

"""A step that fails is as if it had not been: the next good one works, in every form."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import nn, optim

DEVICES = kt.devices()
FORMS = ("plain", "eager", "compiled")


def training(form: str) -> tuple[Any, Any, Any]:
    kt.manual_seed(0)
    table, head = nn.Embedding(7, 4), nn.Linear(4, 3)
    model = nn.Sequential(table, head)
    opt = optim.AdamW(model.parameters(), lr=0.1)

    def step(words: Any, labels: Any) -> Any:
        loss = nn.functional.cross_entropy(model(words), labels)
        loss.backward()
        opt.step()
        return loss

    def eager(words: Any, labels: Any) -> Any:
        with kt.eager():
            return step(words, labels)

    return model, opt, {"plain": step, "eager": eager, "compiled": kt.compile(step)}[form]


def batch(i: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(i)
    return kt.tensor(rng.integers(0, 7, 5)), kt.tensor(rng.integers(0, 3, 5))


def weights(model: Any) -> list[bytes]:
    return [p.numpy().tobytes() for p in model.parameters()]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
def test_bad_batches_are_skipped(device: str, form: str) -> None:
    with kt.device(device):
        ends = []
        for bad in (False, True):
            model, opt, step = training(form)
            for i in range(6):
                words, labels = batch(i)
                if bad and i % 2:
                    try:
                        step(words + 7 if i == 1 else words, labels + (3 if i > 1 else 0))
                        raise AssertionError("an index outside was taken")
                    except IndexError:
                        pass
                step(words, labels)
            assert {s["step"] for s in opt.state.values()} == {6}
            ends.append(weights(model))
        assert ends[0] == ends[1]


@pytest.mark.parametrize("device", DEVICES)
def test_a_loss_looked_at_before_backward_fails_alone(device: str) -> None:
    with kt.device(device):
        ends = []
        for bad in (False, True):
            model, opt, _ = training("plain")
            for i in range(4):
                words, labels = batch(i)
                for words_, labels_ in [(words, labels + 3), (words, labels)] if bad else [(words, labels)]:
                    try:
                        loss = nn.functional.cross_entropy(model(words_), labels_)
                        loss.backward()
                        if not np.isfinite(loss.item()):
                            continue
                        opt.step()
                    except kt.IndexBoundsError:
                        continue
            ends.append(weights(model))
        for a, b in zip(*ends, strict=True):
            np.testing.assert_allclose(np.frombuffer(a, np.float32), np.frombuffer(b, np.float32), rtol=1e-5)


def test_gradients_that_do_not_depend_on_the_failure_stay() -> None:
    """A metric that fails between backward() and step() costs the metric, not the step."""
    ends = []
    for bad in (False, True):
        model, opt, _ = training("plain")
        for i in range(3):
            words, labels = batch(i)
            nn.functional.cross_entropy(model(words), labels).backward()
            if bad:
                with pytest.raises(kt.IndexBoundsError):
                    kt.ones(3)[kt.tensor([5])].item()
            nn.functional.cross_entropy(model(words), labels).backward()  # adds to what is there
            opt.step()
        ends.append(weights(model))
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(np.frombuffer(a, np.float32), np.frombuffer(b, np.float32), rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_a_function_of_the_users_that_fails(form: str) -> None:
    w, fails = nn.Parameter(np.ones(3, np.float32)), [False]
    opt = optim.SGD([w], lr=1.0)

    def function(x: np.ndarray) -> np.ndarray:
        if fails[0]:
            raise ZeroDivisionError("as asked")
        return x

    def step() -> None:
        with kt.eager() if form == "eager" else nullcontext():
            y = kt.custom_call(function, (3,), kt.float32, w.freeze())
            (w * y.freeze()).sum().backward()
            opt.step()

    run = kt.compile(step) if form == "compiled" else step
    want = 1.0
    for i in range(6):
        fails[0] = i % 2 == 1
        if fails[0]:
            with pytest.raises(ZeroDivisionError, match="as asked"):
                run()
        else:
            run()
            want -= want
        assert w.tolist() == [want] * 3


def test_a_failed_step_can_be_skipped_under_a_memory_limit() -> None:
    """A batch that is too large is refused; the next one that fits is taken, and the large one adds nothing to it."""
    layer = nn.Linear(64, 64, bias=False)
    opt = optim.SGD(layer.parameters(), lr=0.5)
    start = layer.weight.numpy().copy()
    small, large = kt.ones((1, 64)), kt.ones((4000, 64))
    kt.eval(small, large)

    def step(x: Any) -> None:
        layer(x).tanh().exp().sum().backward()
        opt.step()

    with kt.memory.limit(kt.memory.report().live + 400_000):
        with pytest.raises(kt.MemoryLimitError):
            step(large)
        step(small)
    layer2 = nn.Linear(64, 64, bias=False)
    layer2.weight.set(start)
    opt = optim.SGD(layer2.parameters(), lr=0.5)
    layer2(small).tanh().exp().sum().backward()
    opt.step()
    np.testing.assert_allclose(layer.weight.numpy(), layer2.weight.numpy(), rtol=1e-6)


def test_a_failed_function_or_memory_leaves_no_gradient_to_add_to() -> None:
    w, fails = nn.Parameter(np.ones(1000, np.float32)), [False]
    opt = optim.SGD([w], lr=0.1)

    def function(x: np.ndarray) -> np.ndarray:
        if fails[0]:
            raise ValueError("as asked")
        return x

    def step() -> None:
        (w * kt.custom_call(function, (1000,), kt.float32, kt.ones(1000))).sum().backward()
        opt.step()

    step()
    fails[0] = True
    with pytest.raises(ValueError, match="as asked"):
        step()
    fails[0] = False
    step()
    assert w.numpy()[0] == pytest.approx(0.8)
    with kt.memory.limit("1 KiB"), pytest.raises(kt.MemoryLimitError):
        step()
    step()
    assert w.numpy()[0] == pytest.approx(0.7)

"""What runs amid a step (signal handlers, finalisers, weakref callbacks, tracing, functions that a program calls)
computes on a trace of its own, sees whole values, cannot change state, and leaves no trace in the step."""

from __future__ import annotations

import gc
import random
import signal
import sys
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import nn, optim

DEVICES = kt.devices()
FORMS = ("plain", "eager", "compiled")


class Training:
    """A small model that is trained; `run` gives all of its state in bits."""

    def __init__(self, form: str) -> None:
        kt.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))
        self.opt = optim.AdamW(self.model.parameters(), lr=1e-2)
        rng = np.random.default_rng(0)
        self.batches = [
            (kt.tensor(rng.standard_normal((4, 6), np.float32)), kt.tensor(rng.integers(0, 3, 4))) for _ in range(5)
        ]
        self.step: Callable[[Any, Any], Any] = kt.compile(self._step) if form == "compiled" else self._step
        self.eager = form == "eager"

    def _step(self, x: Any, y: Any) -> Any:
        loss = nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.opt.step()
        return loss

    def run(self, steps: int) -> None:
        for i in range(steps):
            if self.eager:
                with kt.eager():
                    self.step(*self.batches[i % 5])
            else:
                self.step(*self.batches[i % 5])

    def state(self) -> list[bytes]:
        moments = [v for s in self.opt.state.values() for v in s.values() if isinstance(v, kt.Tensor)]
        return [t.numpy().tobytes() for t in (*self.model.parameters(), *moments)]


def undisturbed(form: str, steps: int) -> list[bytes]:
    training = Training(form)
    training.run(steps)
    return training.state()


def whole(training: Training) -> None:
    """Use the model as a handler would: its state is of one moment, and computing with it is right."""
    state = {k: v.numpy() for k, v in training.model.state_dict().items()}
    last: Any = training.model[3]
    bias = last.bias
    with kt.no_grad():
        assert (bias * 2.0).tolist() == (bias.numpy() * np.float32(2)).tolist()
        training.model(training.batches[0][0]).numpy()
    kept = {k: v.copy() for k, v in state.items()}
    kt.eval(kt.ones(50) @ kt.ones(50))
    assert all(np.array_equal(kept[k], state[k]) for k in state)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
def test_a_function_called_at_every_line_of_a_step(device: str, form: str) -> None:
    """As a tracer or a signal handler: at one line after another, each time in another step. Where steps have thousands
    of lines, most of them of the same loop for one node after another, not at every one.
    """
    with kt.device(device):
        training, at, steps = Training(form), 0, 0
        training.run(3)
        busy = False
        count = 0
        here = kt.__file__.rsplit("/", 1)[0]
        stride = 1 if (form, device) == ("compiled", "cpu") else 13 if device == "cpu" else 41

        def local(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal count, busy
            if event == "line" and not busy:
                count += 1
                if count == at:
                    sys.settrace(None)  # there is nothing more to see in this step
                    busy = True
                    whole(training)
            return local

        def enter(frame: FrameType, event: str, arg: Any) -> Any:
            ours = frame.f_code.co_filename.startswith(here) and frame.f_code.co_name != "__del__"
            return local if ours and not busy else None

        while count >= at:
            at, count, busy = at + stride, 0, False
            x, y = training.batches[(3 + steps) % 5]
            steps += 1
            before = sys.gettrace()
            sys.settrace(enter)
            try:
                if form == "eager":
                    with kt.eager():
                        training.step(x, y)
                else:
                    training.step(x, y)
            finally:
                sys.settrace(before)
        assert steps > 20 and at > 500
        # in the midst of a plain step what is looked at ends a program: rounding may differ
        close = [np.frombuffer(b, np.float32) for b in training.state()]
        want = [np.frombuffer(b, np.float32) for b in undisturbed(form, 3 + steps)]
        for a, b in zip(close, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        if form == "compiled":
            assert training.state() == undisturbed(form, 3 + steps)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
@pytest.mark.parametrize("form", ["plain", "compiled"])
def test_a_signal_handler_that_computes(form: str) -> None:
    rng = random.Random(3)
    training, calls, steps = Training(form), 0, 0
    training.run(3)
    saved: list[dict[str, Any]] = []

    def ring(*_: object) -> None:
        nonlocal calls
        calls += 1
        saved[:] = [training.model.state_dict()]
        if form == "compiled":
            whole(training)
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 3e-3))

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-3)
        end = time.monotonic() + 3
        while calls < 200 and time.monotonic() < end:
            training.step(*training.batches[(3 + steps) % 5])
            steps += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert calls > 20
    assert training.state() == undisturbed(form, 3 + steps)


def test_finalisers_and_weakref_callbacks_that_compute() -> None:
    training, made = Training("plain"), []

    class Finaliser:
        def __del__(self) -> None:
            whole(training)
            made.append(1)

    class Thing:
        pass

    training.run(3)
    for i in range(30):
        thing: Any = Thing()
        thing.circle, thing.finaliser = thing, Finaliser()
        ref = weakref.ref(thing, lambda _: whole(training))
        gc.set_threshold(1 + i % 7)  # soon, somewhere within the step
        del thing
        training.step(*training.batches[(3 + i) % 5])
        assert ref is not None
    gc.set_threshold(700, 10, 10)
    gc.collect()
    assert len(made) == 30
    for a, b in zip(training.state(), undisturbed("plain", 33), strict=True):
        np.testing.assert_allclose(np.frombuffer(a, np.float32), np.frombuffer(b, np.float32), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_function_that_a_program_calls_may_compute_and_keep_what_it_gets(device: str, compiled: bool) -> None:
    with kt.device(device):
        w = nn.Parameter(np.full((40, 40), 0.5, np.float32))
        opt = optim.SGD([w], lr=1.0)
        kept: list[tuple[np.ndarray, np.ndarray]] = []
        seen: list[float] = []

        def function(x: np.ndarray) -> np.ndarray:
            kept.append((x, x.copy()))
            seen.append((w @ w).sum().item())  # the old value, as this step has not come to its end
            held = w.numpy()
            seen.append(float(held[0, 0]))
            kept.append((held, held.copy()))
            return x * 2

        def step() -> Any:
            y = kt.custom_call(function, (40, 40), kt.float32, w.freeze() + 1.0)
            ((w * y).sum() * 1e-3).backward()
            opt.step()
            return y

        run = kt.compile(step) if compiled else step
        value = 0.5
        for _ in range(5):
            seen.clear()
            y = run()
            assert np.allclose(y.numpy(), 2 * (value + 1))
            assert seen[0] == pytest.approx(40**3 * value * value, rel=1e-4) and seen[1] == pytest.approx(value)
            value -= 2 * (value + 1) * 1e-3
            assert np.allclose(w.numpy(), value)
        assert all(np.array_equal(a, b) for a, b in kept)


@pytest.mark.parametrize("device", DEVICES)
def test_state_cannot_be_changed_by_what_a_program_calls(device: str) -> None:
    with kt.device(device):
        w = kt.variable([1.0, 2.0])
        errors: list[str] = []

        def function(x: np.ndarray) -> np.ndarray:
            try:
                w.set([9.0, 9.0])
            except kt.Error as error:
                errors.append(str(error))
            return x

        y = kt.custom_call(function, (2,), kt.float32, w.freeze() * 2.0)
        assert y.tolist() == [2.0, 4.0] and w.tolist() == [1.0, 2.0]
        assert len(errors) == 1 and "while a program runs" in errors[0]


def test_the_same_program_amid_itself() -> None:
    deep = [0]

    def function(x: np.ndarray) -> np.ndarray:
        if deep[0] < 3:
            deep[0] += 1
            inner = f(kt.tensor(x + 1)).numpy()
            deep[0] -= 1
            return inner
        return x

    f = kt.compile(lambda x: kt.custom_call(function, (100,), kt.float32, x * 2.0) + x)
    want = np.full(100, 1.0, np.float32)

    def by_hand(x: np.ndarray, level: int) -> np.ndarray:
        return (by_hand(x * 2 + 1, level + 1) if level < 3 else x * 2) + x

    for _ in range(3):
        assert np.array_equal(f(kt.tensor(want)).numpy(), by_hand(want, 0))


LONG = """
import signal, sys, time
import numpy as np
import katachi as kt
x = kt.tensor(np.ones((700, 700), np.float32) / 700)
w = kt.variable(np.full((700, 700), 2.0, np.float32))
y = x
for _ in range(100):
    y = y @ x
w.set(y * 0.0 + 2.0)
kt.eval(w), (x @ x).sum().item()  # compiled by now
found = []
def ring(*_):
    found.append((float(w.numpy()[0, 0]), round((x @ x).sum().item())))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.05)
for i in range(3):
    y = w.freeze()
    for _ in range(100):
        y = y @ x
    w.set(y + 1.0)
    kt.eval(w)
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(found), sorted(set(round(a, 2) for a, _ in found)), set(b for _, b in found), round(w.numpy()[0, 0], 2))
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_a_handler_amid_a_long_program_waits_for_it() -> None:
    import subprocess

    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    count, rest = done.stdout.split(" ", 1)
    assert int(count) > 2
    values = rest[rest.index("[") + 1 : rest.index("]")].split(", ")
    assert set(values) <= {"2.0", "3.0", "4.0", "5.0"} and rest.endswith("{700} 5.0\n")

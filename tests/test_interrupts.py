"""Ctrl-C: heard within a second, and never half of a step."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import nn, optim

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")


class Interrupted(KeyboardInterrupt):
    pass


def training(compiled: bool) -> Any:
    kt.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 5))
    opt = optim.AdamW(model.parameters(), lr=1e-2)
    x, y = kt.randn(100, 32, 30), kt.randint(0, 5, (100, 32))
    batches = [(kt.tensor(a), kt.tensor(b)) for a, b in zip(x.numpy(), y.numpy(), strict=True)]

    def step(x: Any, y: Any) -> None:
        nn.functional.cross_entropy(model(x), y).backward()
        opt.step()

    return model, opt, kt.compile(step) if compiled else step, batches


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one that hits a __del__ is lost
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_interrupts_at_any_moment(device: str, compiled: bool) -> None:
    """An interrupted step has either been done or left no trace; done again, all ends as if there had been none."""
    rng = random.Random(7)
    ends = []
    for interrupted in (False, True):
        with kt.device(device):
            model, opt, step, batches = training(compiled)
            count = 0
            start, usual = time.perf_counter(), 0.0
            for batch in batches[:6]:  # the first two compile
                step(*batch)
                start, usual = time.perf_counter(), time.perf_counter() - start

            def ring(*_: object) -> None:
                raise Interrupted

            before = signal.signal(signal.SIGALRM, ring)
            try:
                for i in range(300 if device == "cpu" else 60):
                    while True:
                        done = [s["step"] for s in opt.state.values()]
                        try:
                            if interrupted:
                                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.02, 1.3) * usual)
                            step(*batches[i % 100])
                            signal.setitimer(signal.ITIMER_REAL, 0)
                            break
                        except Interrupted:
                            signal.setitimer(signal.ITIMER_REAL, 0)
                            count += 1
                            steps = {s["step"] for s in opt.state.values()}
                            assert len(steps) <= 1
                            if steps and (not done or steps != set(done)) and steps != {0}:
                                break
                            opt.zero_grad()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
            ends.append([p.numpy().copy() for p in model.parameters()])
            assert (count > 5) == interrupted
    for a, b in zip(*ends, strict=True):
        np.testing.assert_array_equal(a, b)


LONG = """
import sys, time
import numpy as np
import katachi as kt
kt.use_device("cpu")
x = kt.tensor(np.ones((1500, 1500), np.float32) / 1500)
cell = kt.variable(np.zeros((1500, 1500), np.float32))
def work():
    y = x
    for _ in range(400):
        y = y @ x
    cell.set(y)
    kt.eval(cell)
work = kt.compile(lambda: [cell.set(run(x)), None][1]) if len(sys.argv) > 1 else work
def run(y):
    for _ in range(400):
        y = y @ x
    return y
print("ready", flush=True)
try:
    work()
    print("finished", flush=True)
except KeyboardInterrupt:
    print("stopped", flush=True)
assert cell.sum().item() == 0.0
assert abs((x @ x).sum().item() - 1500) < 1
print("well", flush=True)
"""


@pytest.mark.parametrize("arguments", [[], ["compiled"]])
def test_a_long_program_stops_within_a_second(arguments: list[str]) -> None:
    process = subprocess.Popen([sys.executable, "-c", LONG, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(1.0)  # it is computing by now, for many seconds
    process.send_signal(signal.SIGINT)
    start = time.perf_counter()
    assert process.stdout.readline() == "stopped\n"
    took = time.perf_counter() - start
    assert process.stdout.readline() == "well\n"
    assert process.wait(60) == 0
    assert took < 1.0


def test_other_threads_are_not_stopped() -> None:
    """Cancelling is for the program that runs, and is over when it has stopped."""
    with kt.device("cpu"):
        x = kt.ones((300, 300))
        kt.eval(x @ x)
    from katachi.devices.cpu.pool import pool

    pool().cancel(1)
    with kt.device("cpu"), pytest.raises(KeyboardInterrupt):
        kt.eval(x @ x + 1)
    pool().cancel(0)
    found = []

    def work() -> None:
        with kt.device("cpu"):
            found.append((x @ x + 1).sum().item())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [300.0 * 300 * 301]

"""Ctrl-C: heard within a second, and never half of a step."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

import katachi as kt
from tools.interrupt_sweep import sweep

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")


@pytest.mark.parametrize(("device", "form", "stride"), [
    ("cpu", "plain", 3), ("cpu", "looked at", 7), ("cpu", "two passes", 7), ("cpu", "eager", 19),
    ("cpu", "compiled", 3), ("cpu", "recorded", 1201),
    ("reference", "plain", 41), ("reference", "eager", 97), ("reference", "compiled", 29),
])  # fmt: skip
def test_interrupts_at_every_line(device: str, form: str, stride: int) -> None:
    """An interrupted step has either been done or left no trace; done again, all ends as if there had been none.
    `python tools/interrupt_sweep.py` leaves no line out."""
    with kt.device(device):
        assert sweep(form, stride=stride) > 300 / stride


@pytest.mark.parametrize("form", ["plain", "compiled"])
def test_interrupts_at_some_bytecodes(form: str) -> None:
    assert sweep(form, bytecodes=True, stride=11) > 20


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


@pytest.mark.alone
@pytest.mark.parametrize("arguments", [[], ["compiled"]])
def test_a_long_program_stops_within_a_second(arguments: list[str]) -> None:
    def stopped() -> float:
        """The seconds that it took."""
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
        return took

    assert any(stopped() < 1.0 for _ in range(3))  # other programs can only add to it


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

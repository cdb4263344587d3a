"""Trains, evaluates, saves, forks and interrupts at random for a long time: no wrong number, no growing memory.

    python tools/soak.py --minutes 30
    python tools/soak.py --threads 60      four threads on one model for 60 s, and how many values were read
    python tools/soak.py --signals 200     processes with a handler that computes, at random moments of their training
    python tools/soak.py --forks 100       children forked while two threads compute

Each round is one of `ROUNDS`, drawn with `--seed`. A round fails by an exception; the command ends with 1 and says
which.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import katachi as kt
from katachi import io, nn, optim


class Interrupted(KeyboardInterrupt):
    """What the alarm raises."""


class Counts:
    """Values read by all threads."""

    read = 0


@contextlib.contextmanager
def beside(*jobs: Callable[[], None]) -> Iterator[threading.Event]:
    """Within it the jobs run again and again, each in a thread of its own; raises what they raise."""
    over, failed = threading.Event(), []

    def work(job: Callable[[], None]) -> None:
        try:
            while not over.is_set():
                job()
        except BaseException as error:
            failed.append(error)
            over.set()

    threads = [threading.Thread(target=work, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield over
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a thread hangs"
    if failed:
        raise failed[0]


def one_value(array: np.ndarray) -> float:
    """The value that all elements have. Raises AssertionError where they differ."""
    first = array.flat[0]
    assert (array == first).all(), f"torn: {first} and {array[array != first][0]}"
    Counts.read += 1
    return float(first)


def even_model(n: int) -> tuple[Any, Any]:
    """After each step all elements of all its parameters are minus the number of steps."""
    model: Any = nn.Module()
    model.a, model.b = nn.Parameter(np.zeros((n, 5), np.float32)), nn.Parameter(np.zeros(n, np.float32))
    return model, optim.SGD(model.parameters(), lr=1.0)


def four_threads(rng: random.Random, seconds: float = 3.0) -> None:
    """One trains; others evaluate, write checkpoints and follow the average."""
    model, opt = even_model(rng.choice((3, 40, 2000)))
    average = kt.variable(np.zeros(model.a.shape, np.float32))

    def step() -> None:
        (model.a.sum() + model.b.sum()).backward()
        opt.step()

    take = kt.compile(step) if rng.random() < 0.5 else step
    total = kt.compile(lambda: (model.a + 0.0, model.b + 0.0))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.safetensors"

        def evaluate() -> None:
            with kt.no_grad():
                one_value((model.a * 2.0).numpy())
                one_value(model.b.numpy())
            a, b = total()
            assert one_value(a.numpy()) == one_value(b.numpy()), "values of two steps"

        def write() -> None:
            io.save_checkpoint(path, model=model, optimizer=opt)
            read = io.load_safetensors(path)
            assert one_value(read["model.a"].numpy()) == one_value(read["model.b"].numpy()), "a file of two steps"

        def follow() -> None:
            average.set(average * 0.9 + model.a.freeze() * 0.1)
            one_value(average.numpy())

        steps, end = 0, time.monotonic() + seconds
        with beside(evaluate, write, follow) as over:
            while time.monotonic() < end and not over.is_set():
                take()
                steps += 1
    assert one_value(model.a.numpy()) == one_value(model.b.numpy()) == -steps


def small_model(seed: int) -> tuple[Any, Any]:
    kt.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 4))
    return model, optim.AdamW(model.parameters(), lr=1e-2)


def step_of(model: Any, opt: Any, compiled: bool) -> Callable[[Any, Any], Any]:
    def step(x: Any, y: Any) -> Any:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    return kt.compile(step) if compiled else step


def state(model: Any, opt: Any) -> list[bytes]:
    moments = [v for s in opt.state.values() for v in s.values() if isinstance(v, kt.Tensor)]
    return [(t.freeze() + 0.0).numpy().tobytes() for t in (*model.parameters(), *moments)]


def batch(rng: random.Random, size: int) -> tuple[Any, Any]:
    numbers = np.random.default_rng(rng.randrange(1 << 30))
    return kt.tensor(numbers.standard_normal((size, 6), np.float32)), kt.tensor(numbers.integers(0, 4, size))


def changing_sizes(rng: random.Random) -> None:
    """The plain and the compiled form end alike, whatever the batch size, a checkpoint between."""
    compiled = rng.random() < 0.5
    seed = rng.randrange(100)
    (a, a_opt), (b, b_opt) = small_model(seed), small_model(seed)
    a_step, b_step = step_of(a, a_opt, False), step_of(b, b_opt, compiled)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(60):
            x, y = batch(rng, rng.choice((1, 2, 7, 8, 16, rng.randrange(1, 400))))
            a_step(x, y), b_step(x, y)
            if i == 30:
                io.save_checkpoint(f"{folder}/c", model=b, optimizer=b_opt)
                for p in b.parameters():
                    p.set(p * 0.0)
                io.load_checkpoint(f"{folder}/c", model=b, optimizer=b_opt)
    assert state(a, a_opt) == state(b, b_opt), "the two forms differ"


def taken(opt: Any) -> int:
    """How many steps an optimiser has taken."""
    counts = {s["step"] for s in opt.state.values()} or {0}
    assert len(counts) == 1, f"half a step: {counts}"
    return counts.pop()


def interrupts(rng: random.Random) -> None:
    """Ctrl-C at random moments: each step is taken or not, and the end is that of an undisturbed run."""
    compiled, seed = rng.random() < 0.5, rng.randrange(100)
    (a, a_opt), (b, b_opt) = small_model(seed), small_model(seed)
    a_step, b_step = step_of(a, a_opt, compiled), step_of(b, b_opt, compiled)
    armed = False

    def ring(*_: object) -> None:
        if armed:
            raise Interrupted

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(100):
            x, y = batch(rng, 8)
            a_step(x, y)
            old = taken(b_opt)
            for attempt in range(4):  # the last undisturbed
                try:
                    armed = attempt < 3
                    if armed:
                        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 5e-4))
                    b_step(x, y)
                    armed = False
                    break
                except Interrupted:
                    armed = False
                    if taken(b_opt) != old:
                        break
                    b_opt.zero_grad()
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    b_opt.zero_grad()
    assert state(a, a_opt) == state(b, b_opt), "an interrupted run differs"


def failures(rng: random.Random) -> None:
    """Bad batches are refused, and the next good one is as if there had been none."""
    compiled, seed = rng.random() < 0.5, rng.randrange(100)
    (a, a_opt), (b, b_opt) = small_model(seed), small_model(seed)
    a_step, b_step = step_of(a, a_opt, compiled), step_of(b, b_opt, compiled)
    for _ in range(40):
        x, y = batch(rng, 8)
        a_step(x, y)
        if rng.random() < 0.5:
            try:
                b_step(x, y + 4)
                raise AssertionError("a class beyond the last was accepted")
            except kt.IndexBoundsError:
                pass
        b_step(x, y)
    assert state(a, a_opt) == state(b, b_opt), "a bad batch left something behind"


def numbers(rng: random.Random) -> None:
    """Expressions of many shapes, each a program that is kept, against NumPy's in float64."""
    for _ in range(20):
        n, k, m = (rng.choice((1, 2, 7, 33, 70, rng.randrange(1, 200))) for _ in range(3))
        g = np.random.default_rng(rng.randrange(1 << 30))
        a, b, c = g.standard_normal((n, k)), g.standard_normal((k, m)), g.standard_normal(m)
        x, y, z = (kt.tensor(v) for v in (a, b, c))
        got = ((x @ y + z).tanh() * 2.0).sum(axis=rng.choice((0, 1))).numpy()
        want = np.tanh(a @ b + c) * 2.0
        assert any(got.shape == w.shape and np.allclose(got, w, rtol=1e-9) for w in (want.sum(0), want.sum(1)))


def episodes(rng: random.Random) -> None:
    """Values that are looked at one by one, and a backward pass through as many of them as there happen to be."""
    for _ in range(6):
        v, steps = kt.variable(np.array(rng.uniform(-1, 1))), rng.randrange(1, 80)
        parts = []
        for i in range(steps):
            parts.append((v * float(i)).sin())
            parts[-1].item()
        total: Any = kt.stack(parts).sum() if rng.random() < 0.5 else sum(parts)
        total.backward()
        k = np.arange(steps)
        assert np.allclose(v.grad.numpy(), (k * np.cos(k * v.numpy())).sum(), rtol=1e-9, atol=1e-9)


def child(seconds: float = 60.0) -> int:
    """The exit status of a forked child that computes; -1 if it hangs."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            w = kt.variable(np.ones((64, 64), np.float32))
            (w @ w).sum().backward()
            code = 0 if w.grad.sum().item() == 2 * 64**3 else 2
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1


def forks(rng: random.Random, many: int = 3) -> None:
    """Children of a process in which two threads compute, compute."""
    x = kt.ones((200, 200))
    with beside(lambda: (x @ x).sum().item(), lambda: kt.rand(50).sum().item()):
        found = [child() for _ in range(many)]
    assert found == [0] * many, f"children ended with {found}"


ROUNDS: tuple[Callable[[random.Random], None], ...] = (
    four_threads, changing_sizes, interrupts, failures, numbers, episodes, forks,
)  # fmt: skip

SIGNALLED = """
import random, signal, sys
import numpy as np
import katachi as kt
sys.path.insert(0, {folder!r})
from soak import batch, small_model, state, step_of
seed, handler = int(sys.argv[1]), sys.argv[2] == "handler"
rng = random.Random(seed)
model, opt = small_model(seed)
step = step_of(model, opt, seed % 2 == 0)
calls = 0
def ring(*_):
    global calls
    calls += 1
    kept = model.state_dict()
    assert all(np.isfinite(v.numpy()).all() for v in kept.values())
    assert kt.eval((kt.ones(30) * 2.0)) is None
    signal.setitimer(signal.ITIMER_REAL, 0.004)
if handler:
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.001 * (1 + seed % 50))
try:
    for i in range(150):
        step(*batch(rng, 8))
except kt.Error as error:
    print("error", error)
    sys.exit(3)
signal.setitimer(signal.ITIMER_REAL, 0)
import hashlib
print(hashlib.sha256(b"".join(state(model, opt))).hexdigest(), calls)
"""


def signals(many: int) -> None:
    """Processes whose handler computes at random moments end with the weights of those without one."""
    code = SIGNALLED.format(folder=os.path.dirname(os.path.abspath(__file__)))

    def run(seed: int, how: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-c", code, str(seed), how], capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout.strip() or done.stderr.strip()[-600:]

    same = refused = calls = 0
    for seed in range(many):
        code_, text = run(seed, "handler")
        if code_ == 3:
            refused += 1
            print(f"process {seed}: {text}", flush=True)
            continue
        assert code_ == 0, f"process {seed} ended with {code_}: {text}"
        want = run(seed, "none")[1].split()[0]
        digest, n = text.split()
        assert digest == want, f"process {seed}: other weights than without a handler"
        same, calls = same + 1, calls + int(n)
    print(f"{many} processes: {same} with the same weights, {refused} with a kt.Error; {calls} calls of handlers")


def resident() -> int:
    """MB of memory that this process has; 0 where the system does not say."""
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    return 0


def soak(minutes: float, seed: int) -> None:
    rng, end = random.Random(seed), time.monotonic() + 60 * minutes
    begun, count, warm = time.monotonic(), 0, 0
    while time.monotonic() < end:
        job, mine = rng.choice(ROUNDS), random.Random(rng.randrange(1 << 30))
        device = "reference" if rng.random() < 0.2 else "cpu"
        kt.use_device(device)
        try:
            job(mine)
        except BaseException:
            print(f"round {count}, {job.__name__} on {device}", flush=True)
            raise
        count += 1
        gc.collect()
        if not warm and time.monotonic() - begun > 20 * minutes:  # a third of the time
            warm = resident()
        if count % 20 == 0:
            print(f"{count} rounds, {Counts.read:,} values read, {resident()} MB", flush=True)
    print(f"{count} rounds in {minutes:g} minutes, {Counts.read:,} values read")
    print(f"{warm} MB after a third of the time, {resident()} MB now")
    assert resident() <= 1.1 * warm + 20, "memory grows"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--threads", type=float, default=0, help="seconds")
    parser.add_argument("--signals", type=int, default=0)
    parser.add_argument("--forks", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        begun = time.monotonic()
        rng = random.Random(options.seed)
        while time.monotonic() - begun < options.threads:
            four_threads(rng, min(10.0, options.threads))
        print(f"{Counts.read:,} values read by four threads in {time.monotonic() - begun:.0f} s, none of them torn")
    if options.signals:
        signals(options.signals)
    if options.forks:
        forks(random.Random(options.seed), options.forks)
        print(f"{options.forks} children, all of them computed")
    if options.minutes:
        soak(options.minutes, options.seed)


if __name__ == "__main__":
    main()

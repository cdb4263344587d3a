"""Threads on the same tensors: every value that one of them reads is whole, and what it was handed never changes."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import io, nn
from tools.soak import beside, child, even_model, one_value

DEVICES = kt.devices()


@pytest.mark.parametrize("device", DEVICES)
def test_a_tensor_read_while_it_is_computed_is_whole(device: str) -> None:
    with kt.device(device):
        x = kt.tensor(np.eye(700, dtype=np.float32) * 2)
        for _ in range(5):
            y = x @ x @ x
            found = []
            reader = threading.Thread(target=lambda y=y, found=found: found.append(y.numpy()))
            computing = threading.Thread(target=lambda y=y: kt.eval(y))
            computing.start()
            reader.start()
            z = y.numpy()
            reader.join(), computing.join()
            assert np.array_equal(np.diag(z), np.full(700, 8.0)) and np.array_equal(found[0], z)


def test_small_tensors_read_by_three_threads() -> None:
    shared: list[Any] = [kt.ones(3) * 0.0]

    def read() -> None:
        x, n = shared[0], len(shared)
        values = x.numpy()
        assert values[0] == values[1] == values[2] and n == 1

    with beside(read, read, read) as over:
        for i in range(1500):
            shared[0] = kt.full((3,), float(i)) + 1.0
            if i % 2:
                kt.eval(shared[0])
            if over.is_set():
                break


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_is_read_while_it_is_trained(device: str, compiled: bool, tmp_path: Any) -> None:
    """Evaluated, written to disk, averaged and looked at, each in a thread of its own."""
    kt.use_device(device)
    try:
        model, opt = even_model(3000)
        average = kt.variable(np.zeros(model.a.shape, np.float32))
        handed: list[tuple[np.ndarray, float]] = []

        def step() -> None:
            (model.a.sum() + model.b.sum()).backward()
            opt.step()

        def look() -> None:
            array = model.a.numpy()
            handed.append((array, one_value(array)))
            one_value((model.b * 2.0).numpy())

        def evaluate() -> None:
            with kt.no_grad():
                one_value((model.a + 1.0).numpy())
                one_value(model.a.freeze().reshape((-1,)).numpy())

        def write() -> None:
            state = {k: one_value(v.numpy()) for k, v in model.state_dict().items()}
            assert len(set(state.values())) == 1  # all of one step
            io.save_checkpoint(tmp_path / "c.safetensors", model=model, optimizer=opt)
            read = io.load_safetensors(tmp_path / "c.safetensors")
            assert one_value(read["model.a"].numpy()) == one_value(read["model.b"].numpy())

        def follow() -> None:
            average.set(average * 0.5 + model.a.freeze() * 0.5)
            one_value(average.numpy())

        taking = kt.compile(step) if compiled else step
        taking()
        with beside(look, evaluate, write, follow) as over:
            end = time.monotonic() + 1.5
            steps = 1
            while time.monotonic() < end and not over.is_set():
                taking()
                steps += 1
        assert one_value(model.a.numpy()) == one_value(model.b.numpy()) == -steps
        assert len(handed) > 3
        for array, value in handed:
            assert one_value(array) == value
    finally:
        kt.use_device("cpu")


@pytest.mark.parametrize("device", DEVICES)
def test_another_threads_pending_tensor_is_looked_at_and_stays_pending(device: str) -> None:
    with kt.device(device):
        v = kt.variable([2.0, 3.0])
        v.set(v * 1.0 + 1.0)  # pending too
        loss = (v * v).sum()
        found = []

        def other() -> None:
            found.extend([loss.item(), (loss * 2.0).item(), (v * 1.0).tolist()])

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert found[:2] == [25.0, 50.0] and found[2] in ([2.0, 3.0], [3.0, 4.0])
        assert loss._value is None  # nobody has ended this thread's trace
        loss.backward()
        assert v.grad.tolist() == [6.0, 8.0] and v.tolist() == [3.0, 4.0] and loss.item() == 25.0


def test_state_set_here_is_read_here_whatever_others_read() -> None:
    v = kt.variable([1.0])
    v.set(v * 0.0 + 5.0)
    thread = threading.Thread(target=lambda: (v + 1.0).tolist())
    thread.start()
    thread.join()
    assert (v * 2.0).tolist() == [10.0]


def test_weights_that_were_loaded_are_there_for_every_thread() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.load_state_dict({"weight": np.array([[3.0, 4.0]], np.float32)})
    found = []
    thread = threading.Thread(target=lambda: found.append(layer(kt.ones((1, 2))).item()))
    thread.start()
    thread.join()
    assert found == [7.0]


def test_a_tensor_of_a_thread_that_has_ended() -> None:
    made: list[Any] = []
    for _ in range(20):
        thread = threading.Thread(target=lambda: made.append(kt.ones(3) * 2.0))
        thread.start()
        thread.join()
    assert [x.tolist() for x in made] == [[2.0] * 3] * 20


def test_compiled_functions_called_by_several_threads() -> None:
    f = kt.compile(lambda x: (x @ x).sum() + x.sum())
    x = kt.ones((40, 40))
    want = f(x).item()

    def call() -> None:
        assert f(x).item() == want

    with beside(call, call):
        for _ in range(300):
            call()


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


@needs_fork
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_other_threads_compute_computes() -> None:
    x, draw = kt.ones((300, 300)), kt.Generator(3)

    def compute() -> None:
        (x @ x @ x).sum().item()

    def drawing() -> None:
        kt.rand(100, generator=draw).sum().item()

    assert child() == 0
    with beside(compute, drawing):
        assert [child() for _ in range(12)] == [0] * 12


@pytest.mark.parametrize("computing", [False, True])
def test_no_update_is_lost_under_a_lock(computing: bool) -> None:
    """Read, add, set: by several threads, each within the user's lock."""
    total, mine = kt.variable([0.0]), threading.Lock()
    start = threading.Barrier(4)
    failed = []

    def add() -> None:
        try:
            start.wait()
            for _ in range(50):
                with mine:
                    total.set(total * 1.0 + 1.0)
                    if computing:
                        kt.eval(kt.ones(2) + 1.0)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and total.tolist() == [200.0]


def test_what_was_set_before_a_thread_starts_is_what_it_reads() -> None:
    source = kt.tensor([7.0])
    for read in (lambda p: p.numpy(), lambda p: (p + 0.0).numpy(), kt.compile(lambda p: p + 0.0)):
        p = kt.variable([1.0])
        p.set(source)
        q = p * 2.0
        found: list[Any] = []

        def use(read: Any = read, p: Any = p, found: list[Any] = found) -> None:
            with kt.no_grad():
                found.append(float(read(p)[0]))
                p.set(p + 1.0)

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert found == [7.0] and q.tolist() == [14.0] and p.tolist() == [8.0] and source.tolist() == [7.0]
        q.sum().backward()
        assert p.grad.tolist() == [2.0]


def test_updates_of_threads_that_alternate() -> None:
    """Every value is handed on to the next thread, which knows it only by the parameter."""
    p, turn = kt.variable([1.0]), [threading.Semaphore(0) for _ in range(3)]
    failed = []

    def go(me: int) -> None:
        try:
            for _ in range(20):
                assert turn[me].acquire(timeout=20)
                if p.item() < 1e6:
                    p.set(p * 2.0 + float(me))
                turn[(me + 1) % 3].release()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=go, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    turn[0].release()
    for thread in threads:
        thread.join()
    want, me = 1.0, 0
    for k in range(60):
        want, me = (want * 2.0 + me if want < 1e6 else want), (k + 1) % 3
    assert not failed and p.item() == want


def test_what_cannot_be_computed_stays_with_the_thread_that_set_it() -> None:
    p = kt.variable([1.0])
    p.set(p + kt.custom_call(_refuse, (1,), kt.float32, p.freeze()))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(p.tolist()))
    thread.start()
    thread.join()
    assert found == [[1.0]]
    with pytest.raises(ValueError, match="refused"):
        p.tolist()
    assert p.tolist() == [1.0]


def _refuse(*arrays: Any) -> Any:
    raise ValueError("refused")

"""Memory that the machine does not have is one kind of error, and everything is as before afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import data, nn, optim
from katachi.devices import memory
from katachi.devices.reference import REFERENCE

HUGE = 10**7
CASES = {
    "zeros": lambda: kt.zeros((HUGE, HUGE)).numpy(),
    "full": lambda: kt.full((10**14,), 0.5).numpy(),
    "eye": lambda: kt.eye(HUGE).numpy(),
    "rand": lambda: kt.rand(HUGE, HUGE).numpy(),
    "matmul": lambda: (kt.ones((HUGE, 1)) @ kt.ones((1, HUGE))).numpy(),
    "sort": lambda: kt.sort(kt.zeros(10**14)).numpy(),
    "conv2d": lambda: nn.functional.conv2d(kt.zeros((10**4, 10**3, 999, 999)), kt.ones((8, 10**3, 3, 3))).numpy(),
    "at": lambda: kt.zeros(10**14).at[0].set(1.0).numpy(),
    "arange": lambda: kt.arange(10**14),
    "arange of floats": lambda: kt.arange(0.0, 1e14),
    "linspace": lambda: kt.linspace(0, 1, 10**14),
    "tensor": lambda: kt.tensor(np.broadcast_to(np.float32(1), (HUGE, HUGE))),
    "tensor of a dtype": lambda: kt.tensor(np.broadcast_to(np.float32(1), (HUGE, HUGE)), dtype=kt.float64),
    "repeat": lambda: kt.repeat(kt.ones(2), [10**14, 1]),
    "Linear": lambda: nn.Linear(10**6, 10**6),
    "Parameter": lambda: nn.Parameter(kt.zeros(10**14)),
    "compiled": lambda: kt.compile(lambda: kt.zeros(10**14) + 1)(),
    "eager": lambda: _eagerly(lambda: kt.zeros(10**14)),
    "more than can be addressed": lambda: kt.zeros((10**10, 10**10)),
    "more than an int64": lambda: kt.ones(10**25),
    "an outer sum beyond addresses": lambda: kt.ones((10**10, 1)) + kt.ones((1, 10**10)),
}


def _refusal(f: Any) -> BaseException | None:
    try:
        f()
    except kt.OutOfMemoryError as error:
        return error.with_traceback(None)  # its frames hold what is pending
    return None


def _eagerly(f: Any) -> Any:
    with kt.eager():
        return f()


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_too_large_says_so_and_leaves_no_trace(name: str, device: str) -> None:
    with kt.device(device):
        before = kt.tensor([1.0, 2.0]) * 3
        live = memory.Usage.live
        error = _refusal(CASES[name])
        text = str(error)
        assert isinstance(error, kt.Error) and isinstance(error, MemoryError)
        assert re.search(r"\d B are free|no machine can address", text)
        assert os.path.basename(__file__) in text or "machine can address" in text
        assert re.search(r"[\d,.]{3,} (B|TiB|elements)", text)
        assert before.tolist() == [3.0, 6.0]
        assert (kt.ones((300, 300)) @ kt.ones((300, 300))).sum().item() == 300**3
        del before, error
        assert memory.Usage.live <= live


def test_the_message_names_operation_size_and_what_is_free() -> None:
    with pytest.raises(
        kt.OutOfMemoryError,
        match=r"400,000,000,000,000 B of results; the largest value is "
        r"float32\[10000000, 10000000\] of zeros at .*test_out_of_memory.py:\d+\), and [\d,]+ B are free",
    ):
        kt.zeros((HUGE, HUGE)).numpy()  # fmt: skip
    with pytest.raises(
        kt.OutOfMemoryError, match=r"^a tensor float32\[10000000, 10000000\] takes 400,000,000,000,000 B"
    ):
        CASES["tensor"]()
    with pytest.raises(kt.OutOfMemoryError, match=r"^linspace: Unable to allocate .*B are free"):
        CASES["linspace"]()


class Out:
    """The machine has no memory at the k-th time that it is asked; nothing is kept, so it is asked every time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.fails_at = 0, -1
        give = memory._from_system
        monkeypatch.setattr(memory, "_KEEP_BYTES", 0)

        def asked(size: int) -> Any:
            self.count += 1
            if self.fails_at in (self.count, self.count - 1):  # it is asked again after what was kept is given back
                raise MemoryError
            return give(size)

        monkeypatch.setattr(memory, "_from_system", asked)
        memory.release()

    def at(self, k: int) -> None:
        self.count, self.fails_at = 0, k
        memory.release()
        memory.arena.at_most(-memory.ALIGNMENT - 1)


def _state(model: nn.Module, opt: optim.Optimizer) -> list[Any]:
    moments = [v.tolist() for values in opt.state_dict()["state"].values() for v in values.values() if kt_tensor(v)]
    return [*(v.tolist() for v in model.state_dict().values()), *moments]


def kt_tensor(v: Any) -> bool:
    return isinstance(v, kt.Tensor)


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_without_memory_changes_nothing(device: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every single allocation of a step; the step after is that of a run in which none ever failed."""

    def run(out: Out | None) -> list[list[Any]]:
        kt.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
        opt = optim.AdamW(model.parameters(), lr=0.1)
        x, y = kt.randn(6, 3), kt.tensor([0, 1, 1, 0, 1, 0])

        def step(x: Any, y: Any) -> Any:
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            return loss

        step = kt.compile(step) if compiled else step
        losses = [step(x, y).item() for _ in range(3)]
        states = [[losses, _state(model, opt)]]
        for k in range(1, 40):
            generator = kt.manual_seed(k)
            before = _state(model, opt)
            if out is not None:
                out.at(k)
                try:
                    done = step(x, y).item() * 0 == 0
                except kt.OutOfMemoryError:
                    done = False
                failed, out.fails_at = out.count >= k, -1
                assert done is not failed
                if failed:
                    assert _state(model, opt) == before
                    opt.zero_grad()
                    for name, buffer in model.named_buffers():
                        assert buffer.tolist() is not None, name
                    generator.manual_seed(k)
                    step(x, y)
                    sweep.append(k)
            else:
                step(x, y)
            states.append([_state(model, opt)])
        return states

    sweep: list[int] = []
    with kt.device(device):
        right = run(None)
        assert run(Out(monkeypatch)) == right
    assert len(sweep) >= 3


def test_a_gradient_that_a_failed_step_took_is_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Out(monkeypatch)
    v = kt.variable([1.0, 2.0])
    opt = optim.SGD([v], lr=0.5)
    (v * v).sum().backward()
    out.at(1)
    with pytest.raises(kt.OutOfMemoryError):
        opt.step()
    out.fails_at = -1
    assert (v.tolist(), v.grad.tolist()) == ([1.0, 2.0], [2.0, 4.0])
    opt.step()
    assert v.tolist() == [0.0, 0.0]


def test_what_numpy_cannot_have_on_reference_names_the_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(x: Any) -> Any:
        return np.empty(1 << 62, np.uint8)

    x = kt.tensor([1.0] * 3, device="reference")
    monkeypatch.setitem(REFERENCE, "exponential", no_memory)
    y, z = x.exp(), x + 1
    with pytest.raises(kt.OutOfMemoryError, match=r"^exp: Unable to allocate .* B are free \(asked for at .*py:\d+\)"):
        y.numpy()
    assert z.tolist() == [2.0, 2.0, 2.0]
    monkeypatch.undo()
    assert y.tolist() == [float(np.float32(np.e))] * 3


LIMITED = """
import resource
import katachi as kt
from katachi import nn, optim
device = {device!r}
with kt.device(device):
    model, x = nn.Linear(1000, 1000), kt.randn(10, 1000)
    opt = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        (model(x) ** 2).mean().backward()
        opt.step()
    (kt.ones(100_000) * 2).numpy()
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + (100 << 20),) * 2)
    before = model.weight.numpy().copy()
    failures = 0
    for n in (10**9, 4 * 10**7, 10**5, 10**8, 10**5):
        try:
            assert (kt.ones(n) * 2).numpy()[-1] == 2
        except kt.OutOfMemoryError as error:
            failures += 1
            assert "B are free" in str(error), error
        else:
            assert n == 10**5
    assert failures == 3
    assert (model.weight.numpy() == before).all()
    (model(x) ** 2).mean().backward()
    opt.step()
    assert not (model.weight.numpy() == before).all()
print("well")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="limits and sizes of a process are asked of Linux")
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_within_a_process_that_may_have_little(device: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.format(device=device)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "well\n", done.stderr[-2000:]


def test_a_batch_that_finds_no_memory_is_this_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Out(monkeypatch)
    loader = data.DataLoader(data.TensorDataset(np.ones((4, 2), np.float32)), 2)
    out.at(1)
    with pytest.raises(kt.OutOfMemoryError, match="a tensor float32"):
        next(iter(loader))
    out.fails_at = -1
    assert len(list(loader)) == 2

"""kt.memory: a limit is kept before anything is allocated or written, and what is reported is so."""

from __future__ import annotations

import gc
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import nn, optim
from katachi.devices.memory import Usage, arena, kept, release

DEVICES = kt.devices()
ROWS, WIDTH = 256, 32


@pytest.fixture(autouse=True, scope="module")
def nothing_pending() -> None:
    """What earlier tests left does not count here."""
    kt.eval()


@pytest.fixture(autouse=True)
def unlimited() -> Iterator[None]:
    gc.collect()  # what earlier tests' tracebacks hold would go in the middle of this one
    yield
    kt.memory.limit(None)


def line() -> int:
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


@pytest.mark.parametrize(
    ("size", "bytes_"),
    [(0, 0), (123, 123), ("7 B", 7), ("2 KB", 2000), ("2KiB", 2048), ("1.5 MB", 1_500_000), ("3 mib", 3 << 20),
     (" 2 GB ", 2 * 10**9), ("0.5 GiB", 1 << 29), (None, None)],
)  # fmt: skip
def test_a_size_is_bytes_or_text(size: Any, bytes_: int | None) -> None:
    kt.memory.limit(size)
    assert kt.memory.report().limit == bytes_


@pytest.mark.parametrize(
    ("size", "error", "words"),
    [("2", ValueError, "KiB"), ("two GB", ValueError, "two GB"), ("-1 GB", ValueError, "-1 GB"),
     ("1 TB", ValueError, "TB"), (-1, ValueError, "-1"), (1.5, TypeError, "1.5"),
     (True, TypeError, "True"), ("", ValueError, "''")],
)  # fmt: skip
def test_a_size_that_is_none_is_refused_and_changes_nothing(size: Any, error: type[Exception], words: str) -> None:
    kt.memory.limit("1 GiB")
    with pytest.raises(error, match=re.escape(words)):
        kt.memory.limit(size)
    assert kt.memory.report().limit == 1 << 30


def test_as_a_context_the_limit_before_comes_back_whatever_happens() -> None:
    kt.memory.limit("3 GiB")
    with pytest.raises(ZeroDivisionError), kt.memory.limit("2 GiB"):
        with kt.memory.limit(None):
            assert kt.memory.report().limit is None
        assert kt.memory.report().limit == 2 << 30
        raise ZeroDivisionError
    assert kt.memory.report().limit == 3 << 30


def test_what_is_reported_is_what_values_take() -> None:
    before = kt.memory.report()
    x = kt.tensor(np.ones(1000, np.float32))
    assert kt.memory.report().live == before.live + 4000
    kt.memory.reset_peak()
    assert kt.memory.report().peak == before.live + 4000
    del x
    after = kt.memory.report()
    assert after.live == before.live and after.peak == before.live + 4000 and after.kept >= 4000
    text = str(after)
    assert f"{after.live:,} B" in text and f"{after.peak:,} B" in text and "none" in text
    assert len({len(row) for row in text.splitlines()}) == 1 and len(text.splitlines()) == 5


@pytest.mark.parametrize("device", DEVICES)
def test_a_tensor_beyond_the_limit_names_sizes_and_line(device: str) -> None:
    values = np.zeros((100, 10), np.float32)
    with kt.device(device), kt.memory.limit(Usage.live + 3999):
        live = Usage.live
        with pytest.raises(kt.MemoryLimitError) as caught:
            at = line() + 1
            kt.tensor(values)
        for words in (
            "float32[100, 10]",
            "4,000 B",
            f"{live:,} B are in use",
            f"{live + 3999:,} B",
            f"{__file__}:{at}",
        ):
            assert words in str(caught.value)
        assert Usage.live == live and isinstance(caught.value, MemoryError)
        kt.tensor(values[:99])  # which fits


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("eager", [False, True])
def test_a_program_beyond_the_limit_is_refused_until_there_is_room(device: str, eager: bool) -> None:
    """Also the third time, when its trace is replayed; and what is pending can be computed afterwards."""
    with kt.device(device):
        x = kt.ones((100, 100))
        kt.eval(x)
        for _ in range(3):
            gc.collect()
            kt.memory.limit(Usage.live + 79_999)
            live, block = Usage.live, arena.block.nbytes
            with kt.eager() if eager else nullcontext(), pytest.raises(kt.MemoryLimitError) as caught:
                at = line() + 1
                y = kt.concat([x, x @ x])
                kt.eval(y)
            text = str(caught.value)
            assert f"{live:,} B are in use" in text or eager
            assert f"the limit of {live + 79_999:,} B" in text and f"{__file__}:{at}" in text
            assert "float32[200, 100] of concat" in text
            if not eager:
                assert Usage.live == live and arena.block.nbytes == block
                with pytest.raises(kt.MemoryLimitError, match="concat"):
                    y.tolist()
                kt.memory.limit(None)
                assert y.sum().item() == 100 * 100 + 100 * 100 * 100
                del y
            del caught  # its traceback holds values
            kt.memory.limit(None)


@pytest.mark.parametrize("device", DEVICES)
def test_zeros_count_when_they_are_computed(device: str) -> None:
    with kt.device(device), kt.memory.limit(Usage.live + 3999):
        z = kt.zeros(1000)
        with pytest.raises(kt.MemoryLimitError, match="4,000 B of results"):
            z.numpy()
        assert kt.zeros(900).numpy().shape == (900,)


def training(device: str, compiled: bool, make: Any) -> tuple[Callable[[], Any], Callable[[], Any], Any]:
    """A step, what it must leave unchanged when it fails, and its optimiser."""
    kt.manual_seed(0)
    layers: list[Any] = [layer for _ in range(3) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    model = nn.Sequential(*layers)
    optimizer = make(model.parameters())
    x = kt.tensor(np.random.default_rng(0).standard_normal((ROWS, WIDTH), np.float32))

    def step() -> Any:
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    def state() -> Any:
        moments = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, kt.Tensor)]
        # the sum, as looking at a cell itself pins its memory
        return [(t.freeze() + 0.0).tolist() for t in (*model.parameters(), *moments)]

    return kt.compile(step) if compiled else step, state, optimizer


OPTIMIZERS = [lambda p: optim.SGD(p, lr=0.1, momentum=0.9), lambda p: optim.AdamW(p, lr=0.01)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("make", OPTIMIZERS, ids=["SGD", "AdamW"])
def test_a_step_runs_at_its_peak_and_one_byte_below_changes_nothing(device: str, compiled: bool, make: Any) -> None:
    with kt.device(device):
        step, state, optimizer = training(device, compiled, make)
        twin, twins, _ = training(device, compiled, make)
        for _ in range(3):
            kt.eval(step())
        gc.collect()
        kt.memory.reset_peak()
        kt.eval(step())
        peak = kt.memory.report().peak
        assert peak > kt.memory.report().live + ROWS * WIDTH * 4
        before, steps = state(), [s.get("step") for s in optimizer.state.values()]
        kt.memory.limit(peak - 1)
        kt.memory.reset_peak()
        with pytest.raises(kt.MemoryLimitError, match=re.escape(__file__)):
            kt.eval(step())
        assert kt.memory.report().peak < peak
        assert state() == before and [s.get("step") for s in optimizer.state.values()] == steps
        optimizer.zero_grad()
        gc.collect()  # the traceback
        kt.memory.limit(peak)
        kt.eval(step())
        assert kt.memory.report().peak == peak
        kt.memory.limit(None)
        for _ in range(5):
            kt.eval(twin())
        assert state() == twins()  # the step that failed left no trace


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_given_back_and_the_same_step_can_be_taken_with_more_room(device: str) -> None:
    with kt.device(device):
        ends = []
        for limited in (True, False):
            kt.manual_seed(0)
            layer = nn.Linear(64, 64)
            optimizer = optim.SGD(layer.parameters(), lr=0.1)
            x = kt.ones((8, 64))
            kt.eval(x)
            layer(x).sum().backward()
            if limited:
                kt.memory.limit(Usage.live + 100)
                with pytest.raises(kt.MemoryLimitError):
                    optimizer.step()
                assert all(p.grad is not None for p in layer.parameters())
                kt.memory.limit(None)
            optimizer.step()
            assert all(p.grad is None for p in layer.parameters())
            ends.append([p.tolist() for p in layer.parameters()])
        assert ends[0] == ends[1]


def test_under_a_limit_memory_kept_for_reuse_gives_way() -> None:
    """What the system has handed out stays within the limit too: freed blocks, and the arena of a larger program."""
    gc.collect()  # what other tests left in circles would come free at any moment, and wait to be used again
    release()
    with kt.device("cpu"):
        big = kt.ones((512, 512))
        kt.eval(big)
        with kt.memory.limit(None):
            ((big @ big) @ big).sum().item()
        assert arena.block.nbytes >= 1 << 20
        del big
        assert kept() >= 2 << 20
        gc.collect()
        room = Usage.live + (1 << 20)
        kt.memory.limit(room)
        assert Usage.live + kept() - arena.block.nbytes <= room
        x = kt.ones((100, 100))
        assert (x @ x).sum().item() == 1e6
        assert Usage.live + kept() <= room


def test_a_limit_counts_a_value_that_cannot_be_overwritten() -> None:
    """A cell's new value takes the memory of the old one, unless somebody holds that."""
    with kt.device("cpu"):
        p = nn.Parameter(np.zeros(1000, np.float32))
        optimizer = optim.SGD([p], lr=1.0)

        def step() -> None:
            (p * 2).sum().backward()
            optimizer.step()

        for _ in range(3):
            step()
        kt.memory.limit(Usage.live + 3000)
        step()
        seen = p.numpy()
        with pytest.raises(kt.MemoryLimitError, match=r"4,0\d\d B of results"):
            step()
        p.grad = None
        kt.memory.limit(None)
        step()
        assert seen.tolist() == [-8.0] * 1000 and p.numpy().tolist() == [-10.0] * 1000

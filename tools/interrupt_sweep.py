"""Interrupts a training step at every line that it executes, one after another, and compares the bits.

    python tools/interrupt_sweep.py                      every line
    python tools/interrupt_sweep.py --bytecodes          at every bytecode where CPython looks for signals

A step that is interrupted has been taken or has left no trace: weights, the optimiser's state and counts equal those of
a twin that nobody interrupts, before the step or after it; and the step, taken again, ends where the twin's does.
"""

from __future__ import annotations

import argparse
import dis
import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

import numpy as np

import katachi as kt
from katachi import nn, optim
from katachi.tensor import running
from katachi.tensor.entry import Entry
from katachi.tensor.trace import current, look

HERE = os.path.dirname(os.path.abspath(kt.__file__)) + os.sep
FORMS = ("plain", "looked at", "two passes", "eager", "compiled", "recorded")
CHECKED = ("CALL", "RESUME", "JUMP_BACKWARD")  # after these CPython looks for signals


class Interrupted(KeyboardInterrupt):
    """Raised where a signal might arrive."""


class Subject(NamedTuple):
    """Something to train: a step, and its state in bits."""

    step: Callable[[Any, Any], Any]
    state: Callable[[], list[bytes]]
    forget: Callable[[], None]  # what an interrupted step left in .grad


def subject(form: str) -> Subject:
    """One of `FORMS`, on the default device; all subjects of a form start with equal weights."""
    kt.manual_seed(0)
    # running statistics are a forward pass's own, and so no part of a plain step
    norm = nn.BatchNorm1d(8) if form == "compiled" else nn.LayerNorm(8)
    model = nn.Sequential(nn.Linear(5, 8), norm, nn.Tanh(), nn.Linear(8, 3))
    opt = optim.AdamW(model.parameters(), lr=1e-2)

    def step(x: Any, y: Any) -> Any:
        loss = nn.functional.cross_entropy(model(x), y)
        if form == "looked at":
            loss.item()
        loss.backward()
        if form == "two passes":
            nn.functional.cross_entropy(model(x * 2), y).backward()
        opt.step()
        return loss

    def eager(x: Any, y: Any) -> Any:
        with kt.eager():
            return step(x, y)

    def recorded(x: Any, y: Any) -> Any:  # nothing of it is known
        t = current()
        t.root = Entry(None)
        t.reset()
        return step(x, y)

    def state() -> list[bytes]:
        tensors = [v for _, v in model.named_state()]
        tensors += [v for s in opt.state.values() for v in s.values() if isinstance(v, kt.Tensor)]
        counts = [s["step"] for s in opt.state.values()]
        return [look(t).array.tobytes() for t in tensors] + [repr(counts).encode()]

    runs = {"eager": eager, "recorded": recorded}
    return Subject(kt.compile(step) if form == "compiled" else runs.get(form, step), state, opt.zero_grad)


def batches() -> Iterator[tuple[Any, Any]]:
    rng = np.random.default_rng(0)
    pairs = [(kt.tensor(rng.standard_normal((4, 5), np.float32)), kt.tensor(rng.integers(0, 3, 4))) for _ in range(7)]
    while True:
        yield from pairs


def interrupted(f: Callable[[], Any], at: int, bytecodes: bool) -> tuple[int, str]:
    """Run f and raise at the at-th event in katachi's code, if there are so many: how many there were, and the line."""
    count, where = 0, ""
    before = sys.gettrace()

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count, where
        if (
            event == "line" and not _in_comprehension(frame.f_code, frame.f_lasti)
            if not bytecodes
            else event == "opcode" and _signals_arrive(frame.f_code, frame.f_lasti)
        ):
            count += 1
            if count == at:
                where = f"{frame.f_code.co_filename.removeprefix(HERE)}:{frame.f_lineno} ({frame.f_lasti})"
                raise Interrupted
        return local

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(HERE) or frame.f_code.co_name == "__del__":  # lost in any case
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = bytecodes, not bytecodes
        return local

    sys.settrace(enter)
    try:
        f()
    except Interrupted:
        pass
    finally:
        sys.settrace(before)
    return count, where


@functools.cache
def _comprehensions(code: CodeType) -> list[range]:
    """Where comprehensions are part of the code around them, as from Python 3.12 on."""
    ops = list(dis.get_instructions(code))
    begins = [op.offset for op in ops if op.opname == "LOAD_FAST_AND_CLEAR"]
    ends = [op.offset for op in ops if op.opname == "END_FOR"]
    return [range(a + 1, min((b for b in ends if b > a), default=a) + 1) for a in begins]


def _in_comprehension(code: CodeType, offset: int) -> bool:
    """There CPython 3.12 and 3.13 do not let `try` catch what a tracer raises when the loop jumps back; what a signal
    handler raises is caught."""
    return any(offset in inside for inside in _comprehensions(code))


_places: dict[CodeType, set[int]] = {}


def _signals_arrive(code: CodeType, offset: int) -> bool:
    """Whether CPython looks for signals just before this bytecode, and within the same `try` or `with`: after a call
    it is still amid the call."""
    found = _places.get(code)
    if found is None:
        ops = list(dis.get_instructions(code))
        spans = [(e.start, e.end, e.target) for e in dis.Bytecode(code).exception_entries]  # type: ignore[attr-defined]

        def handlers(place: int) -> list[int]:
            return [target for start, end, target in spans if start <= place < end]

        found = {
            b.offset
            for a, b in itertools.pairwise(ops)
            if a.opname.startswith(CHECKED) and handlers(a.offset) == handlers(b.offset)
        }
        _places[code] = found
    return offset in found


def sweep(form: str, bytecodes: bool = False, stride: int = 1, start: int = 1) -> int:
    """Interrupt a warm step everywhere, on the default device; the number of places. Raises AssertionError."""
    stream = batches()
    mine, twin = subject(form), subject(form)
    for _ in range(4):
        x, y = next(stream)
        mine.step(x, y), twin.step(x, y)
    places, at = 0, start
    while True:
        x, y = next(stream)
        before = twin.state()
        if bytecodes:  # in code that has just run without it, CPython 3.12 and 3.13 do not trace all of them
            interrupted(lambda x=x, y=y: twin.step(x, y), 0, bytecodes)
        else:
            twin.step(x, y)
        after = twin.state()
        count, where = interrupted(lambda x=x, y=y: mine.step(x, y), at, bytecodes)
        place = f"{form}, place {at} of {count}, {where}"
        found = mine.state()
        assert not running.lock._is_owned() and not running.runs, f"{place}: it still runs"
        assert not current().nested, f"{place}: its trace is still taken"
        assert found in (before, after), f"{place}: {_difference(found, before, after)}"
        if found == before:
            mine.forget()
            mine.step(x, y)
            assert mine.state() == after, f"{place}: the step taken again differs"
        if not where:
            return places
        mine.forget()
        places, at = places + 1, at + stride


def _difference(found: list[bytes], before: list[bytes], after: list[bytes]) -> str:
    old, new = (sum(a == b for a, b in zip(found, other, strict=True)) for other in (before, after))
    return f"of {len(found)} parts of the state {old} are as before the step and {new} as after it"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytecodes", action="store_true")
    parser.add_argument("--stride", type=int, default=1)
    options = parser.parse_args()
    for device in kt.devices():
        for form in FORMS:
            begun = time.perf_counter()
            with kt.device(device):
                places = sweep(form, options.bytecodes, options.stride)
            print(f"{device}, {form}: {places} places, {time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()

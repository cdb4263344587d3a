"""What differs between versions of the interpreter makes no difference."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

import pytest

import katachi as kt
from katachi.graph.site import beginnings


def test_a_call_that_the_interpreter_specialises_stays_the_same_call() -> None:
    """`x[i]`, `+`, a method, a call: after some runs the interpreter takes another way, and stands elsewhere in it."""

    class Halves:
        def __getitem__(self, i: int) -> Any:
            return x[i] * 0.5

        def __iter__(self) -> Iterator[Any]:
            yield x * 0.25

    x, halves = kt.arange(10, dtype=kt.float32), Halves()
    kt.eval(x)

    def computed(k: float, i: int) -> float:
        for quarters in halves:
            return ((x * k)[i] + halves[i] + quarters[i].abs()).item()
        raise AssertionError

    assert kt.explain(computed, 2.0, 1).programs_built == 1
    for i in range(40):
        told = kt.explain(computed, 0.25 * i, i % 10)
        assert (told.programs_built, told.result) == (0, (0.25 * i + 0.75) * (i % 10)), i


def test_specialised_calls_are_followed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found on the slow way once, such a call is on the fast one the next time."""
    from katachi.tensor import apply

    x, found = kt.arange(10, dtype=kt.float32), []
    find = apply._find

    def counting(*args: Any) -> Any:
        found.append(args[1].name)
        return find(*args)

    def computed() -> float:
        return (x * 2.0)[3].item()

    for _ in range(30):
        computed()
    monkeypatch.setattr(apply, "_find", counting)
    for _ in range(30):
        computed()
    assert found == []


def test_an_instruction_begins_where_it_does() -> None:
    import dis

    def function(x: Any) -> Any:
        for y in x[0]:
            x.append(y + 1, *x, key=y.attribute)
        return [z(x) for z in x if x < z] + x

    codes = [function.__code__, *[c for c in function.__code__.co_consts if isinstance(c, CodeType)]]
    for code in codes:
        instructions = list(dis.get_instructions(code))  # without caches
        names = [i.opname for i in instructions]
        for offset in range(0, len(code.co_code), 2):
            k = max(k for k, i in enumerate(instructions) if i.offset <= offset)
            k -= names[k] == "CALL" and names[k - 1] == "PRECALL"  # one call is two instructions, in Python 3.11
            assert beginnings(((code, offset),)) == ((code, instructions[k].offset),), sys.version

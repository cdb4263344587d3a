"""The lowering column says "yes" where, and only where, a kernel is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from katachi.cli.tables import ELSEWHERE, TEMPLATES, cells
from katachi.compiler import program as compiler
from katachi.graph.dtypes import as_dtype
from katachi.graph.node import aval
from katachi.graph.primitives import REDUCTIONS, RULES, input_node, make
from katachi.kernels import scalar_llvm, write_llvm

from .samples import SAMPLES, Sample  # pyrefly: ignore[missing-import]

SUITED = {*TEMPLATES, "convolution", "reduce_window", "reduce_window_gradient"}  # for most operands, not for all

FOLDED = ("constant", "iota")  # alone they are made once, when the program is


def test_the_writer_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cells()["tan"]["lowering"] == cells()["reduce_max"]["lowering"] == "yes"
    monkeypatch.setattr(write_llvm, "WRITTEN", scalar_llvm.WRITTEN - {"tan"})
    monkeypatch.setattr(write_llvm, "ACCUMULATIONS", ("sum",))
    table = cells()
    assert [n for n, row in table.items() if row["lowering"] == "later"] == [
        n for n in RULES if n in ("tan", "argmax") or (n in REDUCTIONS and n != "reduce_sum")
    ]


@pytest.mark.parametrize("name", sorted(set(SAMPLES) - {*ELSEWHERE, *FOLDED}))
def test_what_says_yes_becomes_a_kernel(name: str) -> None:
    steps: list[list[str]] = []

    @settings(max_examples=3, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(SAMPLES[name])
    def run(sample: Sample) -> None:
        inputs: list[Any] = []
        for i, x in enumerate(sample.inputs):
            array = np.asarray(x)
            inputs.append(input_node(aval(array.shape, as_dtype(array.dtype), "cpu", False), i))
        program = compiler.build([make(name, *inputs, **sample.attrs)])
        steps.append(program.reference_steps)

    run()
    told = cells()[name]["lowering"]
    if name in SUITED:
        assert told == "yes" and [] in steps
    else:
        assert told == ("later" if any(steps) else "yes"), steps

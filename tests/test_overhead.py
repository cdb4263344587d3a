"""What Python costs: importing, replaying an operation, a whole step with its computing stubbed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone

IMPORT = """
import time, numpy
start = time.process_time()
import katachi, sys
seconds = time.process_time() - start
heavy = [m for m in ("katachi.nn", "typer", "rich", "matplotlib", "llvmlite", "shape_extensions") if m in sys.modules]
print(seconds, *heavy)
"""

SPEC = importlib.util.spec_from_file_location("overhead", Path(__file__).parents[1] / "bench" / "overhead.py")
assert SPEC and SPEC.loader
overhead = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(overhead)


def least(measure: Callable[[], float], bar: float, tries: int = 20) -> float:
    """The least of several measurements: other programs can only add to it. Stops at the first below the bar."""
    best = measure()
    for _ in range(tries - 1):
        if best < bar:
            break
        best = min(best, measure())
    return best


def test_importing_is_quick_and_loads_no_room_that_is_not_named(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}

    def measure() -> float:
        command = [sys.executable, "-c", IMPORT]
        out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
        assert out[1:] == []
        return float(out[0])

    measure()  # compiles the byte code
    assert least(measure, 0.15) < 0.15


def test_a_stubbed_xor_step_costs_less_than_150_us_of_python() -> None:
    assert least(overhead.stubbed_step, 150e-6) < 150e-6


def test_a_replayed_operation_costs_less_than_1_5_us() -> None:
    def measure() -> float:
        operation, call = overhead.replayed_operation()
        return operation - call

    assert least(measure, 1.5e-6) < 1.5e-6

"""What Python costs: importing, replaying an operation, a whole step with its computing stubbed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

IMPORT = """
import time, numpy
start = time.perf_counter()
import katachi, sys
seconds = time.perf_counter() - start
heavy = [m for m in ("katachi.nn", "typer", "rich", "matplotlib", "llvmlite", "shape_extensions") if m in sys.modules]
print(seconds, *heavy)
"""

SPEC = importlib.util.spec_from_file_location("overhead", Path(__file__).parents[1] / "bench" / "overhead.py")
assert SPEC and SPEC.loader
overhead = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(overhead)


def least(measure: Callable[[], float], bar: float, tries: int = 5) -> float:
    """The least of several measurements: other programs can only add to it. Stops at the first below the bar."""
    best = measure()
    for _ in range(tries - 1):
        if best < bar:
            break
        best = min(best, measure())
    return best


def test_importing_is_quick_and_loads_no_room_that_is_not_named() -> None:
    def measure() -> float:
        out = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout.split()
        assert out[1:] == []
        return float(out[0])

    measure()  # compiles the byte code where that is still to be done
    assert least(measure, 0.15) < 0.15


def test_a_stubbed_xor_step_costs_less_than_150_us_of_python() -> None:
    assert least(overhead.stubbed_step, 150e-6) < 150e-6


def test_a_replayed_operation_costs_less_than_1_5_us() -> None:
    def measure() -> float:
        operation, call = overhead.replayed_operation()
        return operation - call

    assert least(measure, 1.5e-6) < 1.5e-6

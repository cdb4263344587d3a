"""The long hunt: random graphs on the CPU device against the reference, and random control flow against eager mode.

    python tools/hunt.py 2000

Prints the seed of the first mismatch, which `compare_random_graph(seed)` in tests/test_cpu_device.py repeats.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "tests" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(seeds: int) -> int:
    device, start = load("test_cpu_device"), time.perf_counter()
    for seed in range(seeds):
        try:
            device.compare_random_graph(seed)
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}")
            return 1
    print(f"{seeds} random graphs equal the reference, {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))

"""The long hunt: random graphs with gradients on the CPU device against the reference.

    python tools/hunt.py 10000

Prints what is left of the first graph on which they differ when all that need not be there is gone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.random_graphs import compare, shrunk


def main(seeds: int, first: int) -> int:
    start = time.perf_counter()
    for seed in range(first, first + seeds):
        try:
            compare(seed)
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}", *shrunk(seed), sep="\n  ")
            return 1
    print(f"{seeds} random graphs equal the reference, {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, int(sys.argv[2]) if len(sys.argv) > 2 else 0))

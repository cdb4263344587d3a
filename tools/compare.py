"""Two checkouts of katachi beside one another: the bench's rows, in bursts that alternate within one run.

    python tools/compare.py ../before                      every row, this checkout against that one
    python tools/compare.py ../before xor gpt --rounds 30

A process each, for the plain and the compiled form, as in `bench`. A burst's figure is the median of its calls; the
ratio is the median of those of neighbouring bursts, beside the smallest time of each side. Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
sys.path.insert(0, str(HERE))

from bench.rows import ROWS  # noqa: E402

COLUMNS = ("katachi", "katachi compiled")


class Side:
    """A worker of one checkout."""

    def __init__(self, root: Path, column: str, row: str, cache: str) -> None:
        path = os.pathsep.join([str(root), str(root / "src")])
        environment = {**os.environ, "PYTHONPATH": path, "KATACHI_CACHE": cache}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", column, row],
            cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip

    def ask(self, command: str, *arguments: Any) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        print(json.dumps([command, *arguments]), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"a worker ended at {command!r}")
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def compare(other: Path, column: str, row: str, rounds: int, seconds: float) -> tuple[float, float, float]:
    """The median ratio of this checkout's times to the other's, and the smallest of each, in ms."""
    with tempfile.TemporaryDirectory() as cache:
        sides = [Side(root, column, row, f"{cache}/{i}") for i, root in enumerate((other, HERE))]
        try:
            for side in sides:
                side.ask("first")
                side.ask("settle")
            times: list[list[float]] = [[], []]
            for i in range(rounds):
                for k in (0, 1) if i % 2 else (1, 0):
                    time.sleep(0.05)  # the other's threads fall asleep
                    times[k].append(sides[k].ask("burst", seconds)["seconds"])
        finally:
            for side in sides:
                side.close()
    ratios = [new / old for old, new in zip(*times, strict=True)]
    return statistics.median(ratios), 1e3 * min(times[0]), 1e3 * min(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("rows", nargs="*", default=[name for name, row in ROWS.items() if "katachi" in row.columns])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a burst")
    options = parser.parse_args()
    for row in options.rows:
        for column in (c for c in COLUMNS if c in ROWS[row].columns):
            ratio, old, new = compare(options.other.resolve(), column, row, options.rounds, options.seconds)
            print(f"{row:12} {column:17} {ratio:6.3f}   smallest {old:8.3f} ms, {new:8.3f} ms", flush=True)


if __name__ == "__main__":
    main()

"""The programs of examples/ beside their twins in PyTorch: what they build after their first steps, memory, and time.

    python bench/programs.py [names] [--steps 5000] [--torch PYTHON]

A process runs a program under `kt.strict()`, another one counts what is built and how its memory grows, and then takes
turns with the twin. PYTHON is an interpreter that has torch; without it there are no twins.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from bench import memory  # noqa: E402
from bench.process import Failed, Process  # noqa: E402

NAMES = (
    "resnet", "vae", "lstm", "lstm_scan", "gpt", "dcgan", "pinn", "graph_attention", "dqn", "reinforce",
)  # fmt: skip
WARM = 2  # steps that may build
# Later steps that may build as well, counted from one: the first of another kind.
OTHER_KINDS = {
    "vae": {3: "takes in the average of two steps", 100: "prints the average for the first time"},
    "graph_attention": {16: "a graph has as many nodes as a layer is wide"},
    "dqn": {11: "the network chooses an action for the first time", 50: "the first refresh of the target network"},
}
BY_VALUE = ("reinforce",)  # a step is an episode, whose value is its length: the time is for a step of the episode
SETTLED = 100  # steps after which memory should not grow
ROUNDS, BURST = 15, 10  # turns, and steps in each


class Program:
    """A program's `train()` from inside; the methods are what it may be asked."""

    def __init__(self, path: str) -> None:
        spec = importlib.util.spec_from_file_location("program", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["program"] = module
        spec.loader.exec_module(module)
        self.name, self.steps = Path(path).stem, module.train()

    def strict(self, count: int) -> dict[str, Any]:
        """Run so many steps, and raise where one builds that should not."""
        import katachi as kt

        for step in range(1, count + 1):
            may_build = step <= WARM or step in OTHER_KINDS.get(self.name, {})
            with contextlib.nullcontext() if may_build else kt.strict():
                try:
                    next(self.steps)
                except kt.Error as error:
                    return {"broken": f"step {step}: {error}"}
        return {"broken": None}

    def count(self, count: int) -> dict[str, Any]:
        """What so many steps build that should not, and how memory grows."""
        from katachi.tensor import events

        step, built, settled = 0, 0, None

        def see(event: Any) -> None:
            nonlocal built
            if isinstance(event, events.Flush) and event.built:
                built += not (step <= WARM or step in OTHER_KINDS.get(self.name, {}))

        events.observers.append(see)
        for step in range(1, count + 1):
            next(self.steps)
            if step == SETTLED:
                settled = self.resident()
        events.observers.remove(see)
        now = self.resident()
        return {"built": built, "growth": None if settled is None or now is None else now - settled}

    def resident(self) -> int | None:
        gc.collect()
        memory.trim()
        return memory.read("VmRSS")

    def burst(self, count: int) -> dict[str, Any]:
        """The median time of a step, in seconds."""
        times = []
        for _ in range(count):
            start = time.perf_counter()
            value = next(self.steps)
            times.append((time.perf_counter() - start) / (value if self.name in BY_VALUE else 1))
        return {"seconds": statistics.median(times)}


def serve(path: str) -> None:
    """Commands on standard input, answers on standard output, as JSON; what the program prints goes elsewhere."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    program = Program(path)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(program, name)(*arguments)), file=answers, flush=True)


def measured(name: str, steps: int, torch: str | None) -> tuple[list[str], str | None]:
    """The program's row, and what it builds that it should not."""
    with contextlib.ExitStack() as stack:
        caches = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))

        def start(python: str, folder: str) -> Process:
            command = [python, __file__, "--serve", str(ROOT / folder / f"{name}.py")]
            return stack.enter_context(Process(folder, name, caches, 3600, command))

        strict = start(sys.executable, "examples")
        broken = strict.ask("strict", min(steps, 300))["broken"]
        strict.close()
        ours = start(sys.executable, "examples")
        found = ours.ask("count", steps)
        sides = [ours] + ([start(torch, "bench/twins")] if torch else [])
        for side in sides:
            side.ask("burst", 2 * BURST)
        times: list[list[float]] = [[] for _ in sides]
        for _ in range(ROUNDS):
            for side, bursts in zip(sides, times, strict=True):
                time.sleep(0.05)  # until the other's threads sleep
                bursts.append(side.ask("burst", BURST)["seconds"])
    medians = [statistics.median(bursts) for bursts in times]
    growth = "-" if found["growth"] is None else f"{found['growth'] / 1e6:.1f}"
    theirs = [f"{medians[1] * 1e3:.3f}", f"{medians[0] / medians[1]:.2f}"] if torch else ["-", "-"]
    return [name, f"{medians[0] * 1e3:.3f}", *theirs, growth, str(found["built"])], broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; otherwise all")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--torch", metavar="PYTHON")
    parser.add_argument("--serve", metavar="FILE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.serve)
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"no program {sorted(unknown)[0]!r}; there are {', '.join(NAMES)}")
    line = "{:<16}{:>12}{:>12}{:>8}{:>12}{:>8}".format
    print(line("program", "katachi ms", "torch ms", "ratio", "growth MB", "built"))
    complaints = []
    for name in given.names or NAMES:
        try:
            row, broken = measured(name, given.steps, given.torch)
        except Failed as error:
            row, broken = [name, *"-----"], str(error)
        print(line(*row), flush=True)
        complaints += [f"{name}: {broken}"] if broken else []
    print(*complaints, sep="\n")


if __name__ == "__main__":
    main()

"""What a person sees of a run: a bar on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from katachi.train.metrics import Running
from katachi.train.trainer import Row

LOOKS = 4  # a second: looking at the means waits for the device


class Progress:
    """A context manager whose `step` and `epoch` go to `Trainer.fit` as `on_step` and `on_epoch`."""

    def __init__(
        self, epochs: int, batches: int, console: Console | None = None, steps: int = 0, examples: int = 0
    ) -> None:
        """`steps` is what an earlier process has done, `examples` what it has seen of the epoch it was in."""
        self.epochs, self.batches = epochs, batches
        self.console = console or Console()
        self._done, self._next, self._started, self._examples = steps, 0.0, time.perf_counter(), -examples
        self._bar = Bar(
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(bar_width=8),  # so that the line fits 80 columns
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self.console,
            auto_refresh=False,  # no thread beside the training: a step refreshes
            transient=True,
            disable=not self.console.is_terminal,
        )
        first = steps // batches + 1
        self._task = self._bar.add_task("", total=epochs * batches, completed=steps, epoch=first, text="")

    def __enter__(self) -> Progress:
        self._bar.start()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def step(self, seen: Running) -> None:
        """A step is done; at most a few times a second the bar moves."""
        self._done += 1
        now = time.perf_counter()
        if self._bar.disable or now < self._next:
            return
        self._next = now + 1 / LOOKS
        speed = (self._examples + seen.examples) / (now - self._started)
        epoch = (self._done - 1) // self.batches + 1
        text = f"{_words(seen.means(), ' ')} {speed:,.0f} examples/s"
        self._bar.update(self._task, completed=self._done, epoch=epoch, text=text, refresh=True)

    def epoch(self, row: Row) -> None:
        """An epoch is done: without a bar, say so in a line."""
        self._examples += round(row["examples_per_second"] * row["seconds"])
        if self._bar.disable:
            others = ("epoch", "seconds", "examples_per_second")
            shown = {k.replace("_", " "): v for k, v in row.items() if k not in others}
            line = f"epoch {row['epoch']}/{self.epochs}  {_words(shown)}  {row['examples_per_second']:,.0f} examples/s"
            self.console.print(line, soft_wrap=True, highlight=False)


def _words(means: dict[str, Any], gap: str = "  ") -> str:
    return gap.join(f"{k} {v:.2%}" if k.endswith("accuracy") else f"{k} {v:.4f}" for k, v in means.items())

"""A run: built from its config, trained with checkpoints, taken up again, reported."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from katachi import data, io, optim, train
from katachi.cli.config import Config, Failed, check, read
from katachi.cli.language import write
from katachi.cli.tasks import TASKS, Split
from katachi.errors import CheckpointError
from katachi.optim.lr_scheduler import CosineAnnealingLR
from katachi.tensor.modes import device
from katachi.tensor.random import Generator, manual_seed

WRITTEN = 400  # characters at the end of a language model's run
LOOKED_AT = 60_000  # of the training set at the end


class Run:
    """Everything that a config stands for: data, model, optimiser, trainer, in the state a run begins with."""

    def __init__(self, config: Config) -> None:
        self.config, self.task = config, TASKS[config.task]
        recipe = self.task.models[config.model]
        manual_seed(config.seed)
        self.model = recipe.build()
        self.optimizer = optim.AdamW(self.model.parameters(), lr=config.lr)
        self.trainer = train.Trainer(self.model, self.optimizer, self.task.loss, self.task.metrics)
        if recipe.cosine:
            steps = config.epochs * len(self.loader)
            self.trainer.scheduler = CosineAnnealingLR(self.optimizer, steps)

    @cached_property
    def split(self) -> Split:
        try:
            return self.task.data(self.config.folder)
        except (OSError, ValueError) as error:
            hint = "--folder" if self.task.has_folder else self.config.task
            text = str(error).replace("name it: fashion_mnist(folder), or", "name it with --folder, or with")
            raise typer.BadParameter(text, param_hint=hint) from None

    @cached_property
    def loader(self) -> data.DataLoader:
        return data.DataLoader(self.split.training, self.config.batch_size, shuffle=True, seed=self.config.seed)

    @cached_property
    def held_out(self) -> data.DataLoader:
        return data.DataLoader(self.split.test, batch_size=min(len(self.split.test), 500))

    def save(self, path: Path) -> None:
        """A checkpoint; to be called between steps."""
        done = len(self.trainer.history) * len(self.loader) + self.loader.batch
        extra = {"trainer": self.trainer.state_dict(), "examples": len(self.split.training)}
        io.save_checkpoint(path, **self._parts, step=done, extra=extra)

    def load(self, path: Path) -> int:
        """Go to where a checkpoint was saved; returns the steps taken. Raises CheckpointError, OSError."""
        found = io.load_checkpoint(path, **self._parts)
        try:
            if found["extra"]["examples"] != len(self.split.training):
                raise CheckpointError(
                    f"{path} was trained on {found['extra']['examples']:,} {self.task.items}, now there are "
                    f"{len(self.split.training):,}: it cannot go on with other data"
                )
            self.trainer.load_state_dict(found["extra"]["trainer"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is not of such a run: {error!r}") from None
        return found["step"]

    def load_weights(self, path: Path) -> None:
        """The model of a checkpoint alone."""
        io.load_checkpoint(path, model=self.model, generator=Generator())

    @property
    def _parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.trainer.scheduler,
            "loader": self.loader,
        }

    def write(self, prompt: str, length: int, temperature: float, seed: int) -> Iterator[str]:
        """What a language model writes, character by character."""
        text = data.Text("", "", self.task.alphabet or "")
        for code in write(self.model, text.encode(prompt or "\n"), length, temperature, seed):
            yield text.decode(np.array([code]))


def begin(config: Config, out: Path | None) -> int:
    """`katachi train`: a new folder and a run in it; returns the exit code."""
    with device(check(config).device):
        run = Run(config)
        _ = run.split  # a folder is made only if there is something to train on
        try:
            folder = train.RunFolder.numbered(config.task) if out is None else train.RunFolder(out)
            folder.save_config(config._asdict())
        except OSError as error:
            raise typer.BadParameter(f"no folder for the run: {_reason(error)}", param_hint="--out") from None
        return _train(run, folder, 0)


def resume(path: Path) -> int:
    """`katachi resume`: on from the last checkpoint, or from the beginning if there is none yet."""
    console, (folder, config) = Console(), _existing(path)
    with device(config.device):
        run, steps = Run(config), 0
        try:
            folder.sweep()
            if folder.checkpoint.exists():
                steps = run.load(folder.checkpoint)
            folder.set_rows(run.trainer.history)
        except (OSError, CheckpointError) as error:
            raise typer.BadParameter(_reason(error), param_hint="RUN") from None
        where = f"after step {steps:,} of {config.epochs * len(run.loader):,}" if steps else "from the beginning"
        console.print(f"{folder.path} goes on {where}", markup=False, highlight=False, soft_wrap=True)
        return _train(run, folder, steps)


def evaluate(path: Path, where: str | None) -> int:
    """`katachi evaluate`: the table of a run's last checkpoint."""
    run = _loaded(path, where)
    with device(run.config.device):
        report(run, Console())
    return 0


def sample(path: Path, prompt: str, length: int, temperature: float, seed: int, where: str | None) -> int:
    """`katachi sample`: what a language model's last checkpoint writes."""
    _, config = _existing(path)
    if TASKS[config.task].alphabet is None:
        raise typer.BadParameter(f"{path} learned {config.task}, which writes no text", param_hint="RUN")
    run = _loaded(path, where)
    with device(run.config.device):
        print(prompt, end="", flush=True)
        for character in run.write(prompt, length, temperature, seed):
            print(character, end="", flush=True)
        print()
    return 0


def report(run: Run, console: Console) -> None:
    """The table at the end: how good the model is on what it was trained on, and on what it has never seen."""
    training = run.split.training
    if len(training) > LOOKED_AT or (len(training) > 4 * len(run.split.test) and run.task.alphabet):
        training = data.Subset(training, range(min(LOOKED_AT, len(run.split.test))))
    on_training = run.trainer.evaluate(data.DataLoader(training, batch_size=min(len(training), 500)))
    on_test = run.trainer.evaluate(run.held_out)
    table = Table(title=f"{run.config.task}: {run.config.model} on {run.config.device}", show_header=True)
    for column in ("", "training", "test"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row(run.task.items, f"{len(training):,}", f"{len(run.split.test):,}")
    for name, value in on_test.items():
        form = ".2%" if name == "accuracy" else ".4f" if name == "loss" else ".3f"
        table.add_row(name.replace("_", " "), f"{on_training[name]:{form}}", f"{value:{form}}")
    console.print(table)


def _existing(path: Path) -> tuple[train.RunFolder, Config]:
    try:
        folder = train.RunFolder.existing(path)
        return folder, read(folder)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(_reason(error), param_hint="RUN") from None


def _loaded(path: Path, where: str | None) -> Run:
    folder, config = _existing(path)
    if where is not None:
        config = check(config._replace(device=where))
    with device(config.device):
        run = Run(config)
        try:
            run.load_weights(folder.checkpoint)
        except FileNotFoundError:
            raise typer.BadParameter(
                f"{path} has no checkpoint yet; katachi resume {path} begins it", param_hint="RUN"
            ) from None
        except (OSError, CheckpointError) as error:
            raise typer.BadParameter(_reason(error), param_hint="RUN") from None
    return run


def _train(run: Run, folder: train.RunFolder, steps: int) -> int:
    """Train what is left, save and report; returns the exit code."""
    config, trainer, console = run.config, run.trainer, Console()
    progress = train.Progress(config.epochs, len(run.loader), console, steps, trainer.counted)
    asked: list[int] = []
    try:
        with _asked_to_stop(asked), progress:
            due = time.monotonic() + config.checkpoint_every

            def saved() -> None:
                nonlocal due
                run.save(folder.checkpoint)
                due = time.monotonic() + config.checkpoint_every
                if asked:
                    raise KeyboardInterrupt

            def stepped(means: train.Running) -> None:
                progress.step(means)
                if asked or time.monotonic() >= due:
                    saved()

            def finished(row: train.Row) -> None:
                try:
                    saved()  # first: rows that the checkpoint does not know are dropped when the run goes on
                finally:
                    folder.add_row(row)
                    progress.epoch(row)

            left = config.epochs - len(trainer.history)
            trainer.fit(run.loader, left, validate=run.held_out, on_step=stepped, on_epoch=finished)
    except KeyboardInterrupt:
        return _interrupted(run, folder, console, asked)
    except (OSError, CheckpointError) as error:
        raise _no_room(folder, error) from None
    return _finish(run, folder, console)


def _finish(run: Run, folder: train.RunFolder, console: Console) -> int:
    history = run.trainer.history
    try:
        folder.save_weights(run.model.state_dict())
        try:
            folder.save_curves(history)
        except train.MissingExtra as missing:
            console.print(f"no curves.png: {missing}", markup=False, soft_wrap=True)
    except (OSError, CheckpointError) as error:
        raise _no_room(folder, error) from None
    report(run, console)
    if run.task.alphabet is not None:
        text = "".join(run.write("def ", WRITTEN, 0.8, run.config.seed))
        console.print("it writes:\n\ndef " + text + "\n", markup=False, highlight=False, soft_wrap=True)
    parameters = sum(p.size for p in run.model.parameters())
    seconds = sum(row["seconds"] for row in history)
    speed = sum(row["examples_per_second"] * row["seconds"] for row in history) / seconds
    epochs = f"{len(history)} epoch{'s' if len(history) != 1 else ''}"
    console.print(
        f"{parameters:,} parameters, {epochs} in {seconds:.1f} s, {speed:,.0f} examples/s\n"
        f"the run is in {folder.path}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 0


def _interrupted(run: Run, folder: train.RunFolder, console: Console, asked: list[int]) -> int:
    """What Ctrl-C leaves: the checkpoint of the last step, unless a second Ctrl-C did not wait for it."""
    kept = "everything so far is saved" if len(asked) == 1 else "the last checkpoint is kept"
    console.print(
        f"interrupted: {len(run.trainer.history)} of {run.config.epochs} epochs are finished, {kept}\n"
        f"katachi resume {folder.path} goes on; katachi evaluate {folder.path} tells how good it is",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 128 + (asked[0] if asked else signal.SIGINT)


@contextmanager
def _asked_to_stop(asked: list[int]) -> Iterator[None]:
    """Ctrl-C (or SIGTERM) is noted in a list: whoever looks at it between two steps finds the run in a state that can
    be saved. A second one stops at once."""

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    before: dict[int, Callable[..., Any] | int | None] = {
        number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _no_room(folder: train.RunFolder, error: Exception) -> Failed:
    kept = f"; katachi resume {folder.path} goes on from the last checkpoint" if folder.checkpoint.exists() else ""
    return Failed(f"the run stopped, it could not be saved: {_reason(error)}{kept}")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)

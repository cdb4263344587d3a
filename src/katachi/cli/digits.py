"""`katachi train digits`: two models, a run, a table."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from katachi import data, nn, optim, train
from katachi.errors import DeviceError
from katachi.tensor.modes import check_device, device
from katachi.tensor.random import manual_seed


class Settings(NamedTuple):
    """What was asked on the command line; None where the model decides."""

    model: str
    epochs: int | None
    batch_size: int
    lr: float
    seed: int
    device: str
    out: Path | None


# Enough for 97% of the test images with every seed tried, with room to spare: docs/status.md has the runs.
EPOCHS = {"mlp": 20, "cnn": 10}


def build(name: str) -> nn.Module:
    """A model for images of shape (N, 1, 8, 8). Dropout is what keeps so few images from being learned by heart."""
    if name == "mlp":
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(256, 10),
        )  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.25),
        nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Dropout(0.25),
        nn.Linear(64, 10),
    )  # fmt: skip


def run(settings: Settings) -> int:
    """Train, save and report; returns the exit code. Raises typer.BadParameter for what cannot be done."""
    if not (0 < settings.lr < math.inf):
        raise typer.BadParameter(
            f"{settings.lr} is no learning rate; it must be positive and finite", param_hint="--lr"
        )
    try:
        check_device(settings.device)
    except DeviceError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from None
    epochs = settings.epochs or EPOCHS[settings.model]
    try:
        folder = train.RunFolder.numbered("digits") if settings.out is None else train.RunFolder(settings.out)
        config = {**settings._asdict(), "epochs": epochs, "out": str(folder.path)}
        folder.save_config(config)
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.strerror else str(error)
        raise typer.BadParameter(f"no folder for the run: {reason}", param_hint="--out") from None
    with device(settings.device):
        return _run(settings, epochs, folder)


def _run(settings: Settings, epochs: int, folder: train.RunFolder) -> int:
    console = Console()
    manual_seed(settings.seed)
    training, test = data.digits()
    loader = data.DataLoader(training, settings.batch_size, shuffle=True, seed=settings.seed)
    held_out = data.DataLoader(test, batch_size=len(test))
    model = build(settings.model)
    optimizer = optim.AdamW(model.parameters(), lr=settings.lr)
    trainer = train.Trainer(model, optimizer, nn.functional.cross_entropy, {"accuracy": train.accuracy})

    started, interrupted = time.perf_counter(), False
    try:
        with train.Progress(epochs, len(loader), console) as progress:

            def finished(row: train.Row) -> None:
                folder.add_row(row)
                progress.epoch(row)

            trainer.fit(loader, epochs, validate=held_out, on_step=progress.step, on_epoch=finished)
    except KeyboardInterrupt:
        interrupted = True
    seconds = time.perf_counter() - started
    if interrupted:
        console.print(f"interrupted: {len(trainer.history)} of {epochs} epochs are finished")

    folder.save_weights(model.state_dict())
    try:
        folder.save_curves(trainer.history)
    except train.MissingExtra as missing:
        console.print(f"no curves.png: {missing}", markup=False, soft_wrap=True)
    table = Table(title=f"digits: {settings.model} on {settings.device}", show_header=True)
    for column in ("", "training", "test"):
        table.add_column(column, justify="right" if column else "left")
    on_training = trainer.evaluate(data.DataLoader(training, batch_size=len(training)))
    on_test = trainer.evaluate(held_out)
    table.add_row("images", f"{len(training):,}", f"{len(test):,}")
    table.add_row("loss", f"{on_training['loss']:.4f}", f"{on_test['loss']:.4f}")
    table.add_row("accuracy", f"{on_training['accuracy']:.2%}", f"{on_test['accuracy']:.2%}")
    console.print(table)
    parameters = sum(p.size for p in model.parameters())
    speed = sum(r["examples_per_second"] * r["seconds"] for r in trainer.history) / seconds
    console.print(
        f"{parameters:,} parameters, {len(trainer.history)} epochs in {seconds:.1f} s, {speed:,.0f} examples/s\n"
        f"the run is in {folder.path}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 130 if interrupted else 0

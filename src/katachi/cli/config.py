"""What a run was asked to do: from the command line, into config.json and back."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import typer

from katachi.cli.tasks import TASKS
from katachi.errors import DeviceError
from katachi.tensor.modes import check_device
from katachi.train import RunFolder


class Config(NamedTuple):
    """Everything a run depends on, so that config.json can start it again."""

    task: str
    model: str
    epochs: int
    batch_size: int
    lr: float
    seed: int
    device: str
    checkpoint_every: float
    folder: str | None


class Failed(Exception):
    """What went wrong that no argument can mend, a full disk for example: one line and exit code 1."""

    exit_code = 1

    def format_message(self) -> str:
        return str(self)


def check(config: Config) -> Config:
    """The same config. Raises typer.BadParameter that names the option for a value that makes no sense."""
    models = TASKS[config.task].models
    if config.model not in models:
        raise typer.BadParameter(f"{config.model!r} is not one of {', '.join(map(repr, models))}", param_hint="--model")
    if not (0 < config.lr < math.inf):
        raise typer.BadParameter(f"{config.lr} is no learning rate; it must be positive and finite", param_hint="--lr")
    if not config.checkpoint_every >= 0:
        raise typer.BadParameter("needs a number of seconds, 0 or more", param_hint="--checkpoint-every")
    for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
        if getattr(config, name) < least:
            raise typer.BadParameter(f"needs at least {least}", param_hint=f"--{name.replace('_', '-')}")
    if config.folder is not None and not TASKS[config.task].has_folder:
        raise typer.BadParameter(f"{config.task} needs no files", param_hint="--folder")
    try:
        check_device(config.device)
    except DeviceError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from None
    return config


_KINDS: dict[str, tuple[type, ...]] = {
    "task": (str,), "model": (str,), "epochs": (int,), "batch_size": (int,), "lr": (int, float), "seed": (int,),
    "device": (str,), "checkpoint_every": (int, float), "folder": (str, type(None)),
}  # fmt: skip


def read(folder: RunFolder) -> Config:
    """The config of an earlier run. Raises ValueError for a damaged config.json, OSError for one that cannot be
    read."""
    found: dict[str, Any] = folder.load_config()
    for name, kinds in _KINDS.items():
        if name not in found:
            raise ValueError(f"{folder.config} is damaged: it has no {name!r}")
        if not isinstance(found[name], kinds) or isinstance(found[name], bool):
            raise ValueError(f"{folder.config} is damaged: {name!r} is {found[name]!r}")
    if found["task"] not in TASKS:
        raise ValueError(f"{folder.config} is damaged: there is no task {found['task']!r}")
    try:
        return check(Config(**{name: found[name] for name in _KINDS}))
    except typer.BadParameter as error:
        raise ValueError(f"{folder.config} is damaged: {error.message}") from None

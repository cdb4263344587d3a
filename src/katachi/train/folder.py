"""A run's folder: its settings, a line an epoch, the weights and the curves."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from katachi.io import save_safetensors
from katachi.io.replacing import replacing
from katachi.train.curves import save_curves
from katachi.train.trainer import Row


class RunFolder:
    """A new folder for one run: `path`, or `runs/<name>-<n>` with the first n that is free. Nothing is overwritten.

    Raises FileExistsError for a folder that has something in it, OSError where none can be made.

    >>> import tempfile
    >>> top = Path(tempfile.mkdtemp())
    >>> [RunFolder.numbered("digits", top).path.name for _ in range(2)]
    ['digits-1', 'digits-2']
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        if any(self.path.iterdir()):
            raise FileExistsError(f"{self.path} is not empty; a run needs a folder of its own")
        self.metrics.touch()  # the folder can be written to, and is no longer empty

    @classmethod
    def numbered(cls, name: str, under: str | os.PathLike[str] = "runs") -> RunFolder:
        """The next folder of that name."""
        n = 1
        while True:
            path = Path(under, f"{name}-{n}")
            try:
                path.mkdir(parents=True)  # whoever makes it has it: two runs never share one
            except FileExistsError:
                n += 1
                continue
            return cls(path)

    @classmethod
    def existing(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The folder of a run that began earlier. Raises FileNotFoundError for one that is none."""
        folder = cls.__new__(cls)
        folder.path = Path(path)
        if not folder.path.is_dir():
            raise FileNotFoundError(f"there is no folder {folder.path}")
        if not folder.config.is_file():
            raise FileNotFoundError(f"{folder.path} is no run: it has no config.json")
        return folder

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    def save_config(self, config: Mapping[str, Any]) -> None:
        """What the run was asked to do, as config.json."""
        with replacing(self.config) as new:
            new.write_text(json.dumps(config, indent=2) + "\n", "utf-8")

    def load_config(self) -> dict[str, Any]:
        """What `save_config` wrote. Raises ValueError for a file that is damaged."""
        try:
            config = json.loads(self.config.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.config} is damaged: {error}") from None
        if not isinstance(config, dict):
            raise ValueError(f"{self.config} is damaged: it holds no settings")
        return config

    def add_row(self, row: Row) -> None:
        """One line of metrics.jsonl, on the disk when this returns."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())

    def set_rows(self, rows: Sequence[Row]) -> None:
        """metrics.jsonl with these rows alone: whatever a process wrote after its last checkpoint goes."""
        with replacing(self.metrics) as new:
            new.write_text("".join(map(_line, rows)), "utf-8")

    def sweep(self) -> None:
        """Remove the temporary files that killed processes left behind."""
        for path in self.path.iterdir():
            if _LEFT_BEHIND.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def save_weights(self, state: Mapping[str, Any]) -> None:
        """The model's state as model.safetensors."""
        save_safetensors(self.weights, state)

    def save_curves(self, history: Sequence[Row]) -> None:
        """curves.png. Raises MissingExtra without matplotlib."""
        save_curves(self.curves, history)


_LEFT_BEHIND = re.compile(r"\..*\.[0-9a-f]{8}\.tmp|\.tmp\w{6}")  # replacing's, and the safetensors library's


def _line(row: Row) -> str:
    return json.dumps({k: _number(v) for k, v in row.items()}) + "\n"


def _number(value: Any) -> Any:
    """JSON has no NaN and no infinity: null, so that every reader can read the line."""
    return None if isinstance(value, float) and not math.isfinite(value) else value

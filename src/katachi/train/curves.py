"""A run's curves as a picture, with matplotlib if it is there."""

from __future__ import annotations

import os
from collections.abc import Sequence

from katachi.io.replacing import replacing
from katachi.train.trainer import Row


class MissingExtra(ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def save_curves(path: str | os.PathLike[str], history: Sequence[Row]) -> None:
    """Draw each quantity over the epochs, training and validation together, into a PNG file.

    Raises MissingExtra without matplotlib.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: no window system, no global state
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise MissingExtra("curves need matplotlib: pip install 'katachi[curves]'") from None

    names = [n for n in history[0] if f"validation_{n}" in history[0] or n in ("loss", "accuracy")] if history else []
    figure = Figure(figsize=(4.5 * max(len(names), 1), 3.5), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, name in zip(figure.subplots(1, max(len(names), 1), squeeze=False)[0], names, strict=False):
        for key, label in ((name, "training"), (f"validation_{name}", "validation")):
            if key in history[0]:
                axes.plot(epochs, [row[key] for row in history], label=label, marker="." if len(epochs) < 40 else None)
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    with replacing(path) as new:
        figure.savefig(new, format="png", dpi=150)

"""The table of what can be trained: a row a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from katachi import data, nn, train
from katachi.cli.language import LanguageModel
from katachi.nn.functional import cross_entropy

CONTEXT = 64  # characters that the language model sees at once


class Split(NamedTuple):
    training: Any
    test: Any


class Recipe(NamedTuple):
    """A model and how it is trained if nobody says otherwise."""

    build: Callable[[], nn.Module]
    says: str  # in the help
    epochs: int
    lr: float = 3e-3
    cosine: bool = False  # the learning rate follows half a cosine down to 0; otherwise it stays


class Task(NamedTuple):
    says: str  # what the help begins with
    items: str
    data: Callable[[str | None], Split]  # raises FileNotFoundError that says how to get the files
    models: Mapping[str, Recipe]  # the first one is the default
    loss: Callable[[Any, Any], Any]
    metrics: Mapping[str, Callable[[Any, Any], Any]]
    batch_size: int
    has_folder: bool = False
    alphabet: str | None = None  # of a language model, which can write


def _dense(inputs: int, width: int, hidden: int, dropout: float) -> nn.Module:
    """Dropout is what keeps so few images from being learned by heart."""
    layers: list[nn.Module] = [nn.Flatten()]
    for n in [inputs, *[width] * (hidden - 1)]:
        layers += [nn.Linear(n, width), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def _digits_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.25),
        nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Dropout(0.25),
        nn.Linear(64, 10),
    )  # fmt: skip


def _fashion_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.25),
        nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.25),
        nn.Linear(128, 10),
    )  # fmt: skip


def _text(folder: str | None) -> Split:
    text = data.python_source()
    return Split(data.Windows(text.train, CONTEXT, CONTEXT), data.Windows(text.test, CONTEXT, CONTEXT))


def _next_character(output: Any, target: Any) -> Any:
    return cross_entropy(output, target, axis=-1)


def bits_per_character(output: Any, target: Any) -> Any:
    return _next_character(output, target) * (1 / math.log(2))


_ACCURACY = {"accuracy": train.accuracy}
_CHARACTERS = len(data.ALPHABET)

# How the defaults do: docs/status.md has the runs.
TASKS: Mapping[str, Task] = {
    "digits": Task(
        "Learn to read 8 x 8 images of handwritten digits: 1,437 to train on, 360 to test on, which are never trained "
        "on. They come with katachi.",
        "images",
        lambda folder: Split(*data.digits()),
        {
            "mlp": Recipe(lambda: _dense(64, 256, 2, 0.3), "three dense layers, seconds", 20),
            "cnn": Recipe(_digits_cnn, "two convolutions, then two dense layers", 10),
        },
        cross_entropy,
        _ACCURACY,
        64,
    ),
    "fashion-mnist": Task(
        "Learn to tell ten kinds of clothing apart (Fashion-MNIST, Xiao et al., 2017): 28 x 28 images, 60,000 to train "
        "on, 10,000 to test on, which are never trained on. The files come with Debian's package "
        "dataset-fashion-mnist, or from a folder.",
        "images",
        lambda folder: Split(*data.fashion_mnist(folder)),
        {
            "mlp": Recipe(lambda: _dense(784, 256, 2, 0.2), "three dense layers, under a minute", 15, 1e-3, True),
            "cnn": Recipe(_fashion_cnn, "two convolutions, then two dense layers, minutes", 10, 2e-3, True),
        },
        cross_entropy,
        _ACCURACY,
        64,
        has_folder=True,
    ),
    "python-source": Task(
        "Learn to write Python, character by character, from the source of the standard library: ten million "
        "characters, and whole files held out for testing. A causal transformer predicts each character from up to "
        f"{CONTEXT} before it; it is measured in bits per character, and writes a few lines at the end.",
        "windows",
        _text,
        {
            "small": Recipe(
                lambda: LanguageModel(_CHARACTERS, 128, CONTEXT, 2, 4), "two blocks of width 128", 1, 2e-3, True
            ),
            "tiny": Recipe(
                lambda: LanguageModel(_CHARACTERS, 64, CONTEXT, 2, 4), "two blocks of width 64", 1, 3e-3, True
            ),
        },
        _next_character,
        {"bits_per_character": bits_per_character},
        32,
        alphabet=data.ALPHABET,
    ),
}

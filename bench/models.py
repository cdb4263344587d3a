"""The five models without any framework: their sizes, their first weights and their data, the same for everybody."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.random  # the data's, so it is not to count as a framework's memory

Array = np.ndarray

BATCHES = {"xor": 4, "mlp-small": 32, "mlp-big": 256, "cnn": 64, "gpt": 16}
SIZES = {"xor": (2, 16, 2), "mlp-small": (784, 128, 10), "mlp-big": (784, 1024, 1024, 10)}
VOCABULARY, WIDTH, HEADS, LAYERS, LENGTH = 65, 192, 6, 4, 128
RATE, BETAS, EPSILON, DECAY = 1e-3, (0.9, 0.999), 1e-8, 1e-2  # AdamW's: the default of every framework here


def data(name: str) -> tuple[Array, Array]:
    """A batch and its labels."""
    rng, batch = np.random.default_rng(0), BATCHES[name]
    if name == "gpt":
        codes = rng.integers(0, VOCABULARY, (batch, LENGTH + 1))
        return codes[:, :-1].copy(), codes[:, 1:].copy()
    shape = (batch, 1, 28, 28) if name == "cnn" else (batch, SIZES[name][0])
    return rng.standard_normal(shape, np.float32), rng.integers(0, 2 if name == "xor" else 10, batch)


def sequential(lib: Any, name: str) -> Any:
    """The same layers from katachi.nn or torch.nn: that the names are the same is the point."""
    if name == "cnn":
        return lib.Sequential(
            lib.Conv2d(1, 32, 3, padding=1), lib.ReLU(), lib.MaxPool2d(2),
            lib.Conv2d(32, 64, 3, padding=1), lib.ReLU(), lib.MaxPool2d(2),
            lib.Flatten(), lib.Linear(3136, 128), lib.ReLU(), lib.Linear(128, 10),
        )  # fmt: skip
    layers: list[Any] = []
    for n, o in itertools.pairwise(SIZES[name]):
        layers += [lib.Linear(n, o), lib.ReLU()]
    return lib.Sequential(*layers[:-1])


def weights(name: str) -> dict[str, Array]:
    """By name, which is the same in katachi and torch: uniform as torch's layers begin, norms at 1."""
    rng = np.random.default_rng(1)

    def first(key: str, shape: tuple[int, ...]) -> Array:
        if "norm" in key:
            return np.full(shape, float(key.endswith("weight")), np.float32)
        bound = 1 / math.sqrt(math.prod(shape[1:]) or 1)
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    return {key: first(key, shape) for key, shape in _shapes(name).items()}


def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    layers: list[tuple[str, tuple[int, ...]]]
    if name == "gpt":
        layers = [("head", (VOCABULARY, WIDTH)), ("norm", (WIDTH,))]
        for i in range(LAYERS):
            of = f"blocks.{i}"
            layers += [(f"{of}.norm1", (WIDTH,)), (f"{of}.norm2", (WIDTH,))]
            layers += [(f"{of}.attention.in_proj", (3 * WIDTH, WIDTH)), (f"{of}.attention.out_proj", (WIDTH, WIDTH))]
            layers += [(f"{of}.up", (4 * WIDTH, WIDTH)), (f"{of}.down", (WIDTH, 4 * WIDTH))]
        tables = {"token.weight": (VOCABULARY, WIDTH), "position.weight": (LENGTH, WIDTH)}
        return {**tables, **_with_biases(layers)}
    if name == "cnn":
        layers = [("0", (32, 1, 3, 3)), ("3", (64, 32, 3, 3)), ("7", (128, 3136)), ("9", (10, 128))]
    else:
        layers = [(str(2 * i), (o, n)) for i, (n, o) in enumerate(itertools.pairwise(SIZES[name]))]
    return _with_biases(layers)


def _with_biases(layers: list[tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for key, shape in layers:
        dot = "_" if key.endswith("in_proj") else "."  # PyTorch's name for the three projections in one
        shapes[f"{key}{dot}weight"], shapes[f"{key}{dot}bias"] = shape, shape[:1]
    return shapes

"""The programs of examples/: they run, and from the third step on the loops build nothing."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import katachi as kt

EXAMPLES = Path(__file__).parents[1] / "examples"
# Smaller than in the files, where that saves time.
SETTINGS: dict[str, dict[str, Any]] = {
    "resnet": {"IMAGES": 32, "BATCH": 4},
    "vae": {"HIDDEN": 16},
    "lstm": {"CHUNK": 5, "WIDTH": 8},
    "lstm_scan": {"CHUNK": 5, "WIDTH": 8},
    "gpt": {"BLOCK": 8, "WIDTH": 16, "LAYERS": 1, "WRITTEN": 6, "EVERY": 2},
    "dcgan": {"WIDTH": 4, "BATCH": 4},
    "pinn": {"WIDTH": 8},
    "graph_attention": {"WIDTH": 8},
    "dqn": {"REFRESH": 2},
    "reinforce": {"LONGEST": 20},
}
BUILDS_NOTHING = ("gpt", "dcgan", "pinn")  # from the third step on


@pytest.fixture
def example(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The program as a module of its own, with the test's settings."""
    name = request.param
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    for setting, value in SETTINGS[name].items():
        assert hasattr(module, setting)
        setattr(module, setting, value)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("example", SETTINGS, indirect=True)
def test_it_runs(example: ModuleType) -> None:
    losses = list(islice(example.train(), 4))
    assert len(losses) == 4 and all(map(math.isfinite, losses))


@pytest.mark.parametrize("example", BUILDS_NOTHING, indirect=True)
def test_nothing_is_built_from_the_third_step_on(example: ModuleType) -> None:
    steps = example.train()
    for step in range(8):
        with nullcontext() if step < 2 else kt.strict():
            next(steps)


@pytest.mark.parametrize("example", ["gpt"], indirect=True)
def test_both_caches_write_the_same(example: ModuleType) -> None:
    model = example.GPT(9)
    assert model.write(3, grow=True) == model.write(3, grow=False)

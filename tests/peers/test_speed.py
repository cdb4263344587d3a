"""The plain steps on the CPU device take at most twice torch eager's time, interleaved in one process."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("peers", Path(__file__).parents[2] / "bench" / "peers.py")
assert SPEC and SPEC.loader
peers = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(peers)


@pytest.mark.parametrize("name", ["xor", "mlp-small"])
def test_a_plain_step_beside_torch_eager(name: str) -> None:
    over, ours, theirs = peers.ratio(name)
    print(f"{name}: katachi {ours * 1e3:.3f} ms, torch {theirs * 1e3:.3f} ms, ratio {over:.2f}")
    assert over <= 2.0

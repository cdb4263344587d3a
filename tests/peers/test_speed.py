"""The plain steps on the CPU device take at most twice torch eager's time, a process each, in bursts that alternate."""

from __future__ import annotations

import pytest

from bench.peers import ratio


@pytest.mark.parametrize("name", ["xor", "mlp-small"])
def test_a_plain_step_beside_torch_eager(name: str) -> None:
    over, ours, theirs = ratio(name)
    print(f"{name}: katachi {ours * 1e3:.3f} ms, torch {theirs * 1e3:.3f} ms, ratio {over:.2f}")
    assert over <= 2.0

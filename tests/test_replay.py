"""Replay: whatever a loop's control flow does, its numbers are those of the loop computed at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import katachi as kt
from katachi import nn, optim

ACTIONS = [
    "layer",
    "add",
    "number",
    "look",
    "swap",
    "nograd",
    "slice",
    "random",
    "freeze",
    "same",
    "set",
    "checkpoint",
    "penalty",
    "grad",
]


def walk(plan: list[tuple[list[str], float]]) -> list[np.ndarray]:
    """A training loop whose iterations do what `plan` says."""
    kt.manual_seed(1)
    layer, other = nn.Linear(4, 4), nn.Linear(4, 4)
    scale = kt.variable(kt.ones(4))
    opt = optim.AdamW([*layer.parameters(), *other.parameters(), scale], lr=0.01)
    start = kt.tensor(np.random.default_rng(0).standard_normal((5, 4), np.float32))
    seen: list[np.ndarray] = []
    kept: list[Any] = []
    for actions, number in plan:
        x = start
        for action in actions:
            x = act(action, x, layer, other, scale, number, seen, kept)
        loss = ((x * scale) ** 2).mean()
        if "look" in actions:
            seen.append(loss.numpy())
        if "penalty" in actions:
            loss.backward(create_graph=True)
            loss = loss + (scale.grad * scale.grad).sum() * number
            opt.zero_grad()
        loss.backward()
        opt.step()
    seen += [p.numpy() for p in (*layer.parameters(), *other.parameters(), scale)]
    return seen + [k.numpy() for k in kept]


def act(
    action: str, x: Any, layer: nn.Linear, other: nn.Linear, scale: Any, number: float, seen: list[Any], kept: list[Any]
) -> Any:
    if action == "layer":
        return layer(x).tanh()
    if action == "swap":
        return other(x)
    if action == "add":
        return x + x
    if action == "number":
        return x * number
    if action == "look":
        seen.append(x.sum().numpy())
        return x
    if action == "nograd":
        with kt.no_grad():
            return x + layer(x)
    if action == "slice":
        return x[1:] if x.shape[0] > 1 else x
    if action == "random":
        return x + kt.rand(4)
    if action == "freeze":
        return x + x.freeze() * number
    if action == "set":
        scale.set(scale * 0.5 + 0.5)
        return x
    if action == "checkpoint":
        return kt.checkpoint(lambda v: layer(v).tanh() * v)(x)
    if action == "grad":
        return x + kt.grad(lambda v: (v * v.tanh()).sum())(x)
    if action == "same":
        kept.append(x)
    return x


@pytest.mark.parametrize("device", ["reference", "cpu"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(ACTIONS), max_size=5), st.sampled_from([0.5, -1.25, 2.0])),
        min_size=2,
        max_size=6,
    ),
    st.lists(st.integers(0, 5), min_size=2, max_size=12),
)
def test_random_control_flow(device: str, kinds: list[tuple[list[str], float]], order: list[int]) -> None:
    plan = [kinds[i % len(kinds)] for i in order]
    with kt.device(device):
        deferred = walk(plan)
        again = walk(plan)
        with kt.eager():
            at_once = walk(plan)
    assert len(deferred) == len(at_once)
    for a, b, c in zip(deferred, again, at_once, strict=True):
        np.testing.assert_array_equal(a, b)
        if device == "cpu" or any({"checkpoint", "penalty"} <= set(actions) for actions, _ in plan):
            # What is fused keeps more digits. And second derivatives go through what was computed again, whose
            # contributions add up in another order.
            np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(a, c)

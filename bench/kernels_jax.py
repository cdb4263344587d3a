"""The kernel rows in JAX, jitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bench import operands
from bench.steps_jax import adamw, layer_norm


def chain(x: Any) -> Any:
    return jnp.exp(jnp.tanh(1.5 * x + 0.5) * jax.nn.sigmoid(x))


def repeated(x: Any, w: Any) -> Any:
    for _ in range(operands.REPEATS):
        x = x @ w
    return x


def with_gradients(f: Callable[..., Any]) -> Callable[..., Any]:
    """f's value, and its gradients when g comes back."""

    def run(g: Any, *args: Any) -> list[Any]:
        y, pull = jax.vjp(f, *args)
        return [y, *pull(g)]

    return run


def build(row: str, compiled: bool) -> Callable[[], object]:
    """What computes the row once, anew at each call."""
    name = row.split("-")[0]
    if name == "adamw":
        return _adamw()
    f: Callable[..., Any]
    arrays: tuple[Any, ...]
    if name == "chain":
        f, arrays = chain, (operands.vector(),)
    elif name == "matmuls":
        f, arrays = repeated, operands.matrices(row)
    else:
        x, g, w, b = operands.normalised()
        kinds: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
            "softmax": (jax.nn.softmax, (g, x)),
            "gelu": (lambda x: jax.nn.gelu(x, approximate=False), (g, x)),
            "layer_norm": (layer_norm, (g, x, w, b)),
        }
        f, arrays = kinds[name]
        f = with_gradients(f)
    run, values = jax.jit(f), [jnp.asarray(a) for a in arrays]
    return lambda: jax.block_until_ready(run(*values))


def _adamw() -> Callable[[], object]:
    p, g = map(jnp.asarray, operands.parameters())
    run = jax.jit(adamw, donate_argnums=(0, 2, 3))
    state, count = (p, jnp.zeros_like(p), jnp.zeros_like(p)), 0

    def call() -> object:
        nonlocal state, count
        count += 1
        p, m, v = state
        state = jax.block_until_ready(run(p, g, m, v, jnp.float32(count)))
        return state[0]

    return call

"""Random graphs with their gradients, the CPU device against the reference; and what is left of one that differs when
all that need not be there is gone. `python tools/hunt.py` goes through many."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

import katachi as kt

UNARY = [kt.exp, kt.tanh, kt.sigmoid, kt.erf, kt.sin, kt.cos, kt.abs, kt.negative, kt.relu, kt.gelu, kt.sign, kt.floor]
BINARY = [kt.add, kt.subtract, kt.multiply, kt.maximum, kt.minimum]
REDUCING = [kt.sum, kt.mean, kt.max]
MOST = 13  # operations of one graph
Draw = Callable[[int], int]


def operation(draw: Draw, kind: int, x: Any, y: Any) -> tuple[Any, str]:
    """One operation on x, and perhaps y, and how it is written."""
    if kind < 3:
        n = draw(len(UNARY))
        return UNARY[n](x), f"kt.{UNARY[n].__name__}({{x}})"
    if kind < 5:
        n, other = draw(len(BINARY)), (y, "{y}") if y.shape == x.shape else (y.sum(), "{y}.sum()")
        return BINARY[n](x, other[0]), f"kt.{BINARY[n].__name__}({{x}}, {other[1]})"
    if kind == 5 and x.ndim and x.size:
        f, axis, keep = REDUCING[draw(3)], draw(x.ndim), bool(draw(2))
        return f(x, axis, keepdims=keep), f"kt.{f.__name__}({{x}}, {axis}, keepdims={keep})"
    if kind == 6 and x.ndim:
        axis = draw(x.ndim)
        turned = tuple(int(a) for a in np.roll(range(x.ndim), axis))
        return (
            (x.permute(turned), f"{{x}}.permute({turned})") if draw(2) else (x.softmax(axis), f"{{x}}.softmax({axis})")
        )
    if kind == 7 and x.ndim and x.shape[0] > 1:
        first, step, axis = draw(x.shape[0] - 1), 1 + draw(2), draw(x.ndim)
        if draw(2):
            return x[first::step], f"{{x}}[{first}::{step}]"
        return kt.concat([x, x * 0.5], axis), f"kt.concat([{{x}}, {{x}} * 0.5], {axis})"
    if kind == 8 and x.ndim == 2:
        return (x @ x.T, "({x} @ {x}.T)") if draw(2) else (x.T @ x, "({x}.T @ {x})")
    if kind == 9:
        return (x.astype(kt.float64) * 1.5).astype(kt.float32), "({x}.astype(kt.float64) * 1.5).astype(kt.float32)"
    if kind == 10 and x.ndim:
        axis = draw(x.ndim)
        return kt.cumulative_sum(x, axis=axis), f"kt.cumulative_sum({{x}}, axis={axis})"
    if kind == 11 and x.ndim and x.shape[0]:
        places = [draw(x.shape[0]) for _ in range(1 + draw(4))]
        index = kt.tensor(places, device=x.device)
        return (x[index], f"{{x}}[{places}]") if draw(2) else (x.at[index].add(0.5), f"{{x}}.at[{places}].add(0.5)")
    if kind == 12 and x.ndim:
        return kt.pad(x, [(1, 2)] * x.ndim), f"kt.pad({{x}}, [(1, 2)] * {x.ndim})"
    return kt.where(x > 0.1, x, -0.5), "kt.where({x} > 0.1, {x}, -0.5)"


def shape_of(seed: int) -> tuple[int, ...]:
    """Every fourth graph may have empty axes."""
    rng = np.random.default_rng(seed)
    sizes = [0, 1, 2, 3, 5, 17, 33, 40] if seed % 4 == 0 else [1, 2, 3, 5, 17, 33, 40]
    return tuple(int(n) for n in rng.choice(sizes, rng.integers(1, 4)))


def build(seed: int, device: str, without: Collection[int] = ()) -> tuple[list[Any], list[str]]:
    """The sum of all values and of their magnitudes, the last value, the gradients of two variables; and the lines of
    the graph. What an operation in `without` would give is its operand."""
    rng = np.random.default_rng(seed)
    shape = shape_of(seed)

    def draw(n: int) -> int:
        return int(rng.integers(n))

    with kt.device(device):
        leaves: list[Any] = [kt.variable(rng.standard_normal(shape).astype(np.float32)) for _ in range(2)]
        pool, lines = list(leaves), [f"v0, v1: variables of shape {shape}"]
        for number in range(4 + draw(MOST - 4)):
            i, j = draw(len(pool)), draw(len(pool))
            out, text = operation(draw, draw(13), pool[i], pool[j])
            small = draw(2)
            if number in without or out.size > 200_000:
                pool.append(pool[i])
                continue
            lines.append(f"v{len(pool)} = {text.format(x=f'v{i}', y=f'v{j}')}" + (".tanh()" if small else " * 0.25"))
            pool.append(out.tanh() if small else out * 0.25)
        total: Any = sum((p.sum() for p in pool[2:]), start=kt.zeros(()))
        total.backward()
        size: Any = sum((kt.abs(p).sum() for p in pool[2:]), start=kt.zeros(()))
        return [total, size, pool[-1], *[v.grad for v in leaves if v.grad is not None]], lines


def compare(seed: int, without: Collection[int] = ()) -> None:
    """Raises AssertionError where the devices differ."""
    results = [[v.numpy() for v in build(seed, device, without)[0]] for device in ("reference", "cpu")]
    assert len(results[0]) == len(results[1])
    (total, size), (ours, _) = results[0][:2], results[1][:2]
    # what cancels in a sum leaves the rounding of what was added up
    np.testing.assert_allclose(ours, total, rtol=2e-4, atol=2e-6 * max(float(size), 1.0), err_msg=f"seed {seed}")
    for a, b in zip(results[0][1:], results[1][1:], strict=True):
        scale = float(np.abs(a[np.isfinite(a)]).max(initial=1.0)) if a.size else 1.0
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-5 * scale, err_msg=f"seed {seed}")


def shrunk(seed: int) -> list[str]:
    """The lines of a graph on which the devices differ, with all left out that need not be there."""
    without: set[int] = set()
    for number in reversed(range(MOST)):
        try:
            compare(seed, without | {number})
        except Exception:
            without.add(number)
    return build(seed, "reference", without)[1]

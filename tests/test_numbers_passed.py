"""Python numbers given to compiled functions: operands of one program where that will do, constants where not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import nn, optim
from katachi.tensor import events

DEVICES = kt.devices()
X = np.array([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]])


def built(f: Callable[[], Any]) -> tuple[Any, int]:
    """The result, and how many programs it took to build."""
    found: list[Any] = []
    kt.eval()  # what is pending from before
    events.observers.append(found.append)
    try:
        return f(), sum(e.built for e in found)
    finally:
        events.observers.remove(found.append)


OPERANDS: dict[str, Callable[[Any, Any], Any]] = {
    "a factor": lambda x, k: x * k,
    "computed of it": lambda x, k: x * (1 - k) + (k * 2 + 1) ** 2 / (k + 3) - (-k) % 5 + abs(k - 4) // 2,
    "in two places": lambda x, k: x * k + k,
    "a bound": lambda x, k: kt.clip(x, -k, k),
    "chosen": lambda x, k: kt.where(x > k, x, k),
    "a power": lambda x, k: (x * x + 1.0) ** k,
    "compared": lambda x, k: x * k if k > -100 else x,
    "in a container": lambda x, k: {"y": [x * {"k": k}["k"]]}["y"][0],
    "an item": lambda x, k: x[:, k] if isinstance(k, int) else x * k,
    "a part of gradients": lambda x, k: kt.grad(lambda v: (v * v * k).sum())(x),
    "in a loop": lambda x, k: kt.scan(lambda c, _: (c * 0.5 + k, None), x, length=3)[0],
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERANDS)
def test_one_program_for_all(name: str, device: str) -> None:
    f = OPERANDS[name]
    with kt.device(device):
        g = kt.compile(lambda x, k: f(x, k))
        x = kt.tensor(X)
        for values in ([0.3, 0.2, 1.75, 7.0, -0.0, 2.5], [0, 1, 2, 1, 0]):
            for i, k in enumerate(values):
                y, n = built(lambda k=k: g(x, k).numpy())  # type: ignore[misc]
                np.testing.assert_allclose(y, f(x, k).numpy(), rtol=1e-6, err_msg=str(k))
                assert n <= (i < 2), (k, i)


def countdown(x: Any, k: Any) -> Any:
    while k > 0:
        k = k - 1
        x = x if k > 2 else x + 1.0
    return x


CONSTANTS: dict[str, Callable[[Any, Any], Any]] = {
    "a count": lambda x, k: sum([x * i for i in range(int(k))], x),
    "a mathematical function": lambda x, k: x * math.sqrt(k),
    "a key": lambda x, k: x * {1: 2.0, 2: 5.0, 3: 7.0}[k],
    "text": lambda x, k: x * float(f"{k}"),
    "rounded": lambda x, k: x * round(k),
    "a shape": lambda x, k: kt.zeros((int(k), 3)).sum() + x,
    "a tensor": lambda x, k: x + kt.tensor(k) + kt.full((3,), k),
    "returned": lambda x, k: (x, k)[0] * 1.0,
    "counting down": lambda x, k: countdown(x, k * 100),
    "counting up": lambda x, k: x * sum([0.001 * k for _ in range(500)], start=k),
    "an axis": lambda x, k: x.reshape((1, 2, 1, 3)).sum(int(k) % 4),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_where_the_number_is_needed(name: str) -> None:
    f = CONSTANTS[name]
    g, x = kt.compile(lambda x, k: f(x, k)), kt.tensor(X)
    for k in (1, 2, 3, 2, 1):
        np.testing.assert_allclose(g(x, k).numpy(), f(x, k).numpy(), rtol=1e-6)


def test_results_are_numbers() -> None:
    g = kt.compile(lambda x, k: (x * k, k, k + 1))
    for k in (1.5, 2.5, 3.5):
        y, a, b = g(kt.ones(1), k)
        assert (y.item(), a, b) == (k, k, k + 1) and type(a) is type(b) is float
        json.dumps([a, b])


def test_sides_of_a_comparison() -> None:
    def f(x: Any, k: float) -> Any:
        if k > 0.5:
            return x * k
        return x - k if k else x * 100.0

    g, x = kt.compile(f), kt.ones(2)
    for i, k in enumerate((0.9, 0.8, 0.7, 0.1, 0.2, 0.95, 0.3, 0.0, 0.6, -1.0, 0.0)):
        y, n = built(lambda k=k: g(x, k).tolist())  # type: ignore[misc]
        assert y == pytest.approx(f(x, k).tolist())
        assert not n or i in (0, 1, 3, 7)
    assert math.isnan(g(x, math.nan).tolist()[0])


def test_the_kind_of_number_counts() -> None:
    g = kt.compile(lambda x, k: x * k)
    n: Any = kt.tensor([1, 2])
    for k in (2, 3, 4, 2.5, 3.5, True, False, np.float32(0.5), np.int64(7), -(2**40)):
        y = g(n, k)
        want = n * k
        assert y.dtype is want.dtype and y.tolist() == want.tolist()
    small = kt.tensor([1], dtype=kt.int8)
    for k in (1, 2, 3):
        assert g(small, k).tolist() == [k]
    with pytest.raises(OverflowError):
        g(small, 1000)
    assert g(small, 5).tolist() == [5]


def test_an_error_in_the_function_is_the_users() -> None:
    def f(x: Any, k: float) -> Any:
        if k > 3:
            raise ValueError(f"too large: {k}")
        return x * k

    g, x = kt.compile(f), kt.tensor([1.0])
    for k in (1.0, 2.0, 3.0):
        assert g(x, k).item() == k
    with pytest.raises(ValueError, match=r"too large: 4\.0"):
        g(x, 4.0)
    assert built(lambda: g(x, 2.5).item()) == (2.5, 0)


def test_an_item_outside() -> None:
    g, x = kt.compile(lambda x, i: x[i]), kt.arange(5)
    assert [g(x, i).item() for i in (0, 1, 2, 4, -1, -5)] == [0, 1, 2, 4, 4, 0]
    with pytest.raises(kt.IndexBoundsError):
        g(x, 5)
    assert built(lambda: g(x, 3).item()) == (3, 0)


def test_a_training_step_with_a_number() -> None:
    kt.manual_seed(0)
    model = nn.Linear(3, 2)
    opt = optim.SGD(model.parameters(), lr=0.1)
    twin = nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    other = optim.SGD(twin.parameters(), lr=0.1)

    def step(model: Any, opt: Any, x: Any, weight: float) -> Any:
        loss = (model(x) ** 2).mean() * weight
        loss.backward()
        opt.step()
        return loss

    compiled = kt.compile(lambda x, weight: step(model, opt, x, weight))
    x = kt.tensor(X, dtype=kt.float32)
    for i in range(8):
        a, n = built(lambda i=i: compiled(x, 0.9**i).item())  # type: ignore[misc]
        assert a == pytest.approx(step(twin, other, x, 0.9**i).item(), rel=1e-5)
        assert n == 0 or i < 2
    np.testing.assert_allclose(model.weight.numpy(), twin.weight.numpy(), rtol=1e-5)

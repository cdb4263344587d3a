"""The kernel rows in katachi: each is one program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import katachi as kt
from bench import models, operands
from katachi import nn, optim

F = nn.functional


def chain(x: Any) -> Any:
    return kt.exp(kt.tanh(1.5 * x + 0.5) * kt.sigmoid(x))


def repeated(x: Any, w: Any) -> Any:
    for _ in range(operands.REPEATS):
        x = x @ w
    return x


def with_gradients(f: Callable[..., Any]) -> Callable[..., Any]:
    """f's value, and its gradients when g comes back."""

    def run(g: Any, *args: Any) -> list[Any]:
        y, pull = kt.vjp(f, *args)
        back = pull(g)
        return [y, *(back if isinstance(back, tuple) else (back,))]

    return run


def build(row: str, compiled: bool) -> Callable[[], object]:
    """What computes the row once, anew at each call."""
    kt.use_device("cpu")
    name = row.split("-")[0]
    if name == "triad":
        return _triad()
    if name == "adamw":
        return _adamw(compiled)
    f: Any
    arrays: tuple[Any, ...]
    if name in ("matmul", "matmuls"):
        f, arrays = (kt.matmul if name == "matmul" else repeated), operands.matrices(row)
    elif name == "chain":
        f, arrays = chain, (operands.vector(),)
    else:
        x, g, w, b = operands.normalised()
        kinds: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
            "softmax": (lambda x: F.softmax(x, dim=1), (g, x)),
            "gelu": (F.gelu, (g, x)),
            "layer_norm": (lambda x, w, b: F.layer_norm(x, operands.COLUMNS, w, b), (g, x, w, b)),
        }
        f, arrays = kinds[name]
        f = with_gradients(f)
    tensors = [kt.tensor(a) for a in arrays]
    if compiled:
        run = kt.compile(f)
        return lambda: run(*tensors)

    def plain() -> object:
        out = f(*tensors)
        kt.eval(*(out if isinstance(out, list) else [out]))
        return out

    return plain


def _triad() -> Callable[[], object]:
    values, others = operands.parameters()
    a, c = kt.variable(values), kt.tensor(others)

    def call() -> object:
        with kt.no_grad():
            a.set(a + 3.0 * c)
        kt.eval()
        return a

    return call


def _adamw(compiled: bool) -> Callable[[], object]:
    values, gradients = operands.parameters()
    p, g = kt.variable(values), kt.tensor(gradients)
    optimizer = optim.AdamW([p], lr=models.RATE, betas=models.BETAS)

    def update(g: Any) -> None:
        optimizer.step({p: g})

    if compiled:
        update = kt.compile(update)

    def call() -> object:
        update(g)
        return p

    return call

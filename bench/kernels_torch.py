"""The kernel rows in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench import models, operands
from bench.machine import cores

torch.set_num_threads(cores())
F = torch.nn.functional


def chain(x: Any) -> Any:
    return torch.exp(torch.tanh(1.5 * x + 0.5) * torch.sigmoid(x))


def repeated(x: Any, w: Any) -> Any:
    for _ in range(operands.REPEATS):
        x = x @ w
    return x


def build(row: str, compiled: bool) -> Callable[[], object]:
    """What computes the row once, anew at each call."""
    name = row.split("-")[0]
    if name == "adamw":
        return _adamw()
    if name == "triad":
        a, c = map(torch.from_numpy, operands.parameters())
        return lambda: a.add_(c, alpha=3.0)
    if name in ("softmax", "gelu", "layer_norm"):
        return _with_gradients(name, compiled)
    f: Callable[..., Any]
    arrays: tuple[Any, ...]
    if name == "chain":
        f, arrays = chain, (operands.vector(),)
    else:
        f, arrays = (torch.matmul if name == "matmul" else repeated), operands.matrices(row)
    run = torch.compile(f, dynamic=False) if compiled else f
    tensors = [torch.from_numpy(a) for a in arrays]
    return lambda: run(*tensors)


def _with_gradients(name: str, compiled: bool) -> Callable[[], object]:
    """Two calls: the value, and its gradients when g comes back."""
    x, g, w, b = map(torch.from_numpy, operands.normalised())
    x, w, b = (t.requires_grad_() for t in (x, w, b))
    kinds: dict[str, tuple[Callable[..., Any], list[Any]]] = {
        "softmax": (lambda x: F.softmax(x, 1), [x]),
        "gelu": (F.gelu, [x]),
        "layer_norm": (lambda x, w, b: F.layer_norm(x, (operands.COLUMNS,), w, b), [x, w, b]),
    }
    f, variables = kinds[name]
    run = torch.compile(f, dynamic=False) if compiled else f

    def call() -> object:
        y = run(*variables)
        return [y, *torch.autograd.grad(y, variables, g)]

    return call


def _adamw() -> Callable[[], object]:
    values, gradients = map(torch.from_numpy, operands.parameters())
    p = torch.nn.Parameter(values)
    p.grad = gradients
    optimizer = torch.optim.AdamW([p], lr=models.RATE, betas=models.BETAS, fused=True)

    def call() -> object:
        optimizer.step()
        return p

    return call

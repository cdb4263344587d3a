"""AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from katachi.graph import build as b
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.optim.build import update_op
from katachi.optim.optimizer import Optimizer, check_range


def moments(
    g: Node, m: Node, v: Node, decayed: Node, b1: Node, r1: Node, b2: Node, r2: Node, size: Node, root: Node, eps: Node
) -> tuple[Node, ...]:
    """`decayed` less a step along the gradient's running mean over the root of its running square, and the two."""
    m = b.add(b.multiply(m, b1), b.multiply(g, r1))
    v = b.add(b.multiply(v, b2), b.multiply(b.multiply(g, g), r2))
    scaled = b.add(b.multiply(make("sqrt", v), root), eps)
    return b.subtract(decayed, b.multiply(size, b.divide(m, scaled))), m, v


def _update(p: Node, g: Node, m: Node, v: Node, *numbers: Node) -> tuple[Node, ...]:
    *rest, keep = numbers
    return moments(g, m, v, b.multiply(p, keep), *rest)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), PyTorch's defaults. Half types are computed in
    float32 and rounded once, and the moments of half parameters are float32 (PyTorch's are halves, in which an average
    that moves by a thousandth does not move).

    >>> import katachi as kt
    >>> v = kt.variable([1.0]); opt = kt.optim.AdamW([v], lr=0.1, weight_decay=0.0)
    >>> (v * v).sum().backward(); opt.step(); round(v.item(), 4)
    0.9
    """

    states = ("exp_avg", "exp_avg_sq")
    update = update_op("AdamW.step", _update)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay)

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        name = type(self).__name__
        check_range(name, "eps", group["eps"], 0.0)
        if len(group["betas"]) != 2:
            raise ValueError(f"{name}: betas are two numbers, got {group['betas']!r}")
        for i, beta in enumerate(group["betas"]):
            check_range(name, f"betas[{i}]", beta, 0.0, 1.0)

    def numbers(self, group: Mapping[str, Any], step: int) -> tuple[float, ...]:
        (b1, b2), lr = group["betas"], float(group["lr"])
        size, root = lr / (1 - b1**step), 1 / math.sqrt(1 - b2**step)
        decay = 1 - lr * group["weight_decay"]
        return (b1, 1 - b1, b2, 1 - b2, size, root, float(group["eps"]), decay)

"""Adam."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from katachi.graph import build as b
from katachi.graph.node import Node
from katachi.optim.adamw import AdamW, moments
from katachi.optim.build import update_op


def _update(p: Node, g: Node, m: Node, v: Node, *numbers: Node) -> tuple[Node, ...]:
    *rest, decay = numbers
    return moments(b.add(g, b.multiply(p, decay)), m, v, p, *rest)


class Adam(AdamW):
    """Adam (Kingma and Ba, 2015), PyTorch's defaults; weight decay, if any, goes into the gradient. Half types as in
    AdamW: computed in float32 and rounded once, the moments
    float32.

    >>> import katachi as kt
    >>> v = kt.variable([1.0]); opt = kt.optim.Adam([v], lr=0.1)
    >>> (v * v).sum().backward(); opt.step(); round(v.item(), 4)
    0.9
    """

    update = update_op("Adam.step", _update)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    def numbers(self, group: Mapping[str, Any], step: int) -> tuple[float, ...]:
        (b1, b2), lr = group["betas"], float(group["lr"])
        size, root = lr / (1 - b1**step), 1 / math.sqrt(1 - b2**step)
        return (b1, 1 - b1, b2, 1 - b2, size, root, float(group["eps"]), float(group["weight_decay"]))

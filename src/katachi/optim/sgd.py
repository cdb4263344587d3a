"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from katachi.graph import build as b
from katachi.graph.node import Node
from katachi.optim.build import update_op
from katachi.optim.optimizer import Optimizer, check_range
from katachi.tensor.entry import Op


def _plain(p: Node, g: Node, lr: Node, decay: Node) -> tuple[Node, ...]:
    g = b.add(g, b.multiply(p, decay))
    return (b.subtract(p, b.multiply(lr, g)),)


def _momentum(
    p: Node, g: Node, velocity: Node, lr: Node, decay: Node, momentum: Node, nesterov: bool
) -> tuple[Node, ...]:
    g = b.add(g, b.multiply(p, decay))
    velocity = b.add(b.multiply(velocity, momentum), g)
    along = b.add(g, b.multiply(velocity, momentum)) if nesterov else velocity
    return b.subtract(p, b.multiply(lr, along)), velocity


class SGD(Optimizer):
    """p -= lr * (gradient + weight_decay * p), with momentum: v = momentum * v + gradient, p -= lr * v, as PyTorch
    has it. Half types are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> v = kt.variable([1.0]); opt = kt.optim.SGD([v], lr=0.5); (v * v).sum().backward(); opt.step(); v.tolist()
    [0.0]
    """

    counts = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self.states = ("momentum_buffer",) if momentum else ()
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)

    @property
    def update(self) -> Op:  # type: ignore[override] # not a field: it is no part of what is copied or pickled
        return _MOMENTUM if self.states else _PLAIN

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        check_range("SGD", "momentum", group["momentum"], 0.0)
        if group["nesterov"] and not group["momentum"]:
            raise ValueError("SGD: nesterov needs a momentum")
        if group["momentum"] and not self.states:
            raise ValueError("SGD: a momentum in one group needs one in the optimiser's own settings too")

    def flags(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        return (bool(group["nesterov"]),) if self.states else ()

    def numbers(self, group: Mapping[str, Any], step: int) -> tuple[float, ...]:
        base = (float(group["lr"]), float(group["weight_decay"]))
        return (*base, float(group["momentum"])) if self.states else base


_PLAIN, _MOMENTUM = update_op("SGD.step", _plain), update_op("SGD.step", _momentum)

"""Schedules of the learning rate: call `step()` once an epoch (or as often as the schedule counts)."""

from __future__ import annotations

import math
from typing import Any

from katachi.optim.optimizer import Optimizer


class Schedule:
    """Base of the schedules: `factor(n)` is what the initial learning rates are multiplied by after n steps."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.last_epoch = optimizer, 0
        self.base_lrs = [float(g["lr"]) for g in optimizer.param_groups]
        self._write()

    def rate(self, base: float, n: int) -> float:
        raise TypeError(f"{type(self).__name__} does not say how the rate changes")

    def step(self) -> None:
        """One step further."""
        self.last_epoch += 1
        self._write()

    def get_last_lr(self) -> list[float]:
        """The present rate of every parameter group."""
        return [g["lr"] for g in self.optimizer.param_groups]

    def _write(self) -> None:
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.rate(base, self.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last_epoch, self.base_lrs = int(state["last_epoch"]), list(state["base_lrs"])
        self._write()


class StepLR(Schedule):
    """The rate times `gamma` every `step_size` steps.

    >>> import katachi as kt
    >>> opt = kt.optim.SGD([kt.variable([1.0])], lr=1.0); s = kt.optim.lr_scheduler.StepLR(opt, 2, 0.5)
    >>> [(s.step(), opt.param_groups[0]["lr"])[1] for _ in range(4)]
    [1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        if step_size < 1:
            raise ValueError(f"StepLR: step_size must be at least 1, got {step_size}")
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def rate(self, base: float, n: int) -> float:
        return base * self.gamma ** (n // self.step_size)


class CosineAnnealingLR(Schedule):
    """Half a cosine from the initial rate down to `eta_min` in `T_max` steps (Loshchilov and Hutter, 2017).

    >>> import katachi as kt
    >>> opt = kt.optim.SGD([kt.variable([1.0])], lr=1.0); s = kt.optim.lr_scheduler.CosineAnnealingLR(opt, 4)
    >>> [(s.step(), round(opt.param_groups[0]["lr"], 3))[1] for _ in range(4)]
    [0.854, 0.5, 0.146, 0.0]
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        if T_max < 1:
            raise ValueError(f"CosineAnnealingLR: T_max must be at least 1, got {T_max}")
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def rate(self, base: float, n: int) -> float:
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * n / self.T_max)) / 2

"""Schedules of the learning rate: call `step()` once an epoch (or as often as the schedule counts).

A schedule is a formula: the rate after n steps follows from the initial one and n alone, so a resumed run has the very
rates of one that went on. One schedule at a time sets an optimiser's rates; `SequentialLR` puts several in a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from katachi.optim.optimizer import Optimizer
from katachi.tensor.trace import only_outside


class Schedule:
    """Base of the schedules: `rate(base, n)` is the learning rate after n steps where the initial one was `base`."""

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: needs an optimiser, got {type(optimizer).__name__}")
        self.optimizer, self.last_epoch = optimizer, 0
        # a second schedule, as of SequentialLR, begins where the first one began
        self.base_lrs = [float(g.setdefault("initial_lr", g["lr"])) for g in optimizer.param_groups]
        self._write()

    def rate(self, base: float, n: int) -> float:
        raise TypeError(f"{type(self).__name__} does not say how the rate changes: it defines no rate(self, base, n)")

    def rates(self, bases: Sequence[float], n: int) -> list[float]:
        """The rates of all groups after n steps."""
        return [self.rate(base, n) for base in bases]

    def step(self) -> None:
        """One step further. Raises ValueError if anything else has set the rate since the last one, Error inside a
        compiled function."""
        only_outside(f"{type(self).__name__}.step is called")
        now = self.get_last_lr()
        if now != self._written:
            raise ValueError(
                f"{type(self).__name__}: the learning rates are {now}, but this schedule had set {self._written}: "
                "two of them, or a schedule and an assignment, do not add up. SequentialLR puts schedules one after "
                "another; LambdaLR takes any formula"
            )
        self.last_epoch += 1
        self._write()

    def get_last_lr(self) -> list[float]:
        """The present rate of every parameter group."""
        return [g["lr"] for g in self.optimizer.param_groups]

    def _write(self) -> None:
        if len(self.base_lrs) != len(self.optimizer.param_groups):
            raise ValueError(
                f"{type(self).__name__}: it was made for {len(self.base_lrs)} parameter groups, now there are "
                f"{len(self.optimizer.param_groups)}; make it after add_param_group"
            )
        for group, lr in zip(self.optimizer.param_groups, self.rates(self.base_lrs, self.last_epoch), strict=True):
            group["lr"] = lr
        self._written = self.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """How far it is, and from where it began."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, and set the rates."""
        self.last_epoch, self.base_lrs = int(state["last_epoch"]), list(state["base_lrs"])
        self._write()


class LambdaLR(Schedule):
    """The rate times `lr_lambda(n)`, one function or one for each parameter group.

    >>> import katachi as kt
    >>> opt = kt.optim.SGD([kt.variable([1.0])], lr=1.0); s = kt.optim.lr_scheduler.LambdaLR(opt, lambda n: 0.5**n)
    >>> [(s.step(), opt.param_groups[0]["lr"])[1] for _ in range(3)]
    [0.5, 0.25, 0.125]
    """

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]]
    ) -> None:
        groups = len(optimizer.param_groups)
        self.lr_lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != groups:
            raise ValueError(f"LambdaLR: got {len(self.lr_lambdas)} functions for {groups} parameter groups")
        super().__init__(optimizer)

    def rates(self, bases: Sequence[float], n: int) -> list[float]:
        return [base * factor(n) for base, factor in zip(bases, self.lr_lambdas, strict=True)]


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


class MultiStepLR(Schedule):
    """The rate times `gamma` at each of the steps `milestones`.

    >>> import katachi as kt
    >>> opt = kt.optim.SGD([kt.variable([1.0])], lr=1.0); s = kt.optim.lr_scheduler.MultiStepLR(opt, [1, 3], 0.5)
    >>> [(s.step(), opt.param_groups[0]["lr"])[1] for _ in range(4)]
    [0.5, 0.5, 0.25, 0.25]
    """

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def rate(self, base: float, n: int) -> float:
        return base * self.gamma ** sum(m <= n for m in self.milestones)


class ExponentialLR(Schedule):
    """The rate times `gamma` at each step.

    >>> import katachi as kt
    >>> opt = kt.optim.SGD([kt.variable([1.0])], lr=1.0); s = kt.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    >>> [(s.step(), opt.param_groups[0]["lr"])[1] for _ in range(3)]
    [0.5, 0.25, 0.125]
    """

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = gamma
        super().__init__(optimizer)

    def rate(self, base: float, n: int) -> float:
        return base * self.gamma**n


class LinearLR(Schedule):
    """From `start_factor` times the rate evenly to `end_factor` times it in `total_iters` steps: a warmup.

    >>> import katachi as kt
    >>> opt = kt.optim.SGD([kt.variable([1.0])], lr=1.0); s = kt.optim.lr_scheduler.LinearLR(opt, 0.5, total_iters=2)
    >>> [(s.step(), opt.param_groups[0]["lr"])[1] for _ in range(3)]
    [0.75, 1.0, 1.0]
    """

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
    ) -> None:
        if not 0 < start_factor <= 1 or not 0 <= end_factor <= 1:
            raise ValueError(
                f"LinearLR: start_factor must be above 0, both factors at most 1, got {start_factor} and {end_factor}"
            )
        if total_iters < 1:
            raise ValueError(f"LinearLR: total_iters must be at least 1, got {total_iters}")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def rate(self, base: float, n: int) -> float:
        way = min(n / self.total_iters, 1.0)
        return base * (self.start_factor + (self.end_factor - self.start_factor) * way)


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


class SequentialLR(Schedule):
    """Each of some schedules of one optimiser until its milestone, where the next one begins at its own step 0.

    >>> import katachi as kt
    >>> from katachi.optim.lr_scheduler import CosineAnnealingLR, LinearLR
    >>> opt = kt.optim.SGD([kt.variable([1.0])], lr=1.0)
    >>> s = SequentialLR(opt, [LinearLR(opt, 0.5, total_iters=2), CosineAnnealingLR(opt, 2)], milestones=[2])
    >>> [(s.step(), round(opt.param_groups[0]["lr"], 3))[1] for _ in range(4)]
    [0.75, 1.0, 0.5, 0.0]
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[Schedule], milestones: Sequence[int]) -> None:
        if len(milestones) != len(schedulers) - 1 or list(milestones) != sorted(set(milestones)):
            raise ValueError(
                f"SequentialLR: {len(schedulers)} schedules need {len(schedulers) - 1} rising milestones, got "
                f"{list(milestones)}"
            )
        if any(s.optimizer is not optimizer for s in schedulers):
            raise ValueError("SequentialLR: all schedules must be of the same optimiser")
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        super().__init__(optimizer)

    def rates(self, bases: Sequence[float], n: int) -> list[float]:
        at = sum(m <= n for m in self.milestones)
        return self.schedulers[at].rates(bases, n - (self.milestones[at - 1] if at else 0))

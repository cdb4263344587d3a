"""What optimisers share: parameter groups, taking gradients out, one update for all parameters of a group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from katachi.errors import CheckpointError, GradientError
from katachi.tensor.apply import apply
from katachi.tensor.creation import leaf
from katachi.tensor.entry import Op, Write
from katachi.tensor.handle import handle
from katachi.tensor.tensor import Tensor
from katachi.tensor.trace import current, flush, note_grad

ALWAYS = ("initial_lr", "decoupled_weight_decay", "foreach", "fused")  # PyTorch's, that change no number here


class Optimizer:
    """Base of the optimisers. `param_groups` is a list of dicts with "params" and the settings, which may be changed
    between steps: numbers are read at every step and never recompile anything.

    A subclass gives `update`, an Op on (parameters, gradients, states..., numbers...), `states`, the names of its
    state, and `numbers(group, step)`, the host numbers of a step.
    """

    update: Op
    states: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        if not isinstance(params, Iterable):
            raise TypeError(
                f"{type(self).__name__}: needs parameters, such as model.parameters(), got {type(params).__name__}"
            )
        items = list(params)
        if not items:
            raise ValueError(f"{type(self).__name__}: there are no parameters to optimise")
        groups = items if isinstance(items[0], dict) else [{"params": items}]
        for g in groups:
            if not isinstance(g, Mapping) or "params" not in g:
                what = f"the keys {', '.join(map(repr, g))}" if isinstance(g, Mapping) else type(g).__name__
                raise ValueError(f'{type(self).__name__}: a group is a dict with "params", got {what}')
            if unknown := sorted(set(g) - {*defaults, "params"}):
                raise ValueError(
                    f"{type(self).__name__}: a group has no setting {unknown[0]!r}; there are {', '.join(defaults)}"
                )
        self.param_groups: list[dict[str, Any]] = [{**defaults, **g, "params": list(g["params"])} for g in groups]
        for group in self.param_groups:
            self.check(group)
        self.state: dict[int, dict[str, Any]] = {}
        seen: set[int] = set()
        for p in (p for g in self.param_groups for p in g["params"]):
            if not isinstance(p, Tensor) or p._cell is None or not p._aval.tracked:
                what = p._aval if isinstance(p, Tensor) else type(p).__name__
                raise GradientError(
                    f"{type(self).__name__}: parameters and leaf variables can be optimised, not {what}"
                )
            if id(p) in seen:
                raise ValueError(f"{type(self).__name__}: a parameter occurs twice")
            seen.add(id(p))

    def check(self, group: Mapping[str, Any]) -> None:
        """Raises ValueError for settings that make no sense."""
        check_range(type(self).__name__, "lr", group["lr"], 0.0)
        check_range(type(self).__name__, "weight_decay", group["weight_decay"], 0.0)

    def flags(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        """Settings that are part of the program: its shape depends on them."""
        return ()

    def numbers(self, group: Mapping[str, Any], step: int) -> tuple[float, ...]:
        raise TypeError(f"{type(self).__name__} does not say what a step's numbers are")

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for group in self.param_groups:
            for p in group["params"]:
                note_grad(p)
                p._grad = None

    def step(self, grads: dict[Any, Any] | None = None) -> None:
        """Update every parameter that has a gradient, and compute: all that is pending runs as one program.

        Gradients come from `.grad`, None afterwards, or from the store `grads` that kt.gradients gave, empty
        afterwards. If computing fails, nothing has changed.
        """
        taken = []
        recording = current().recording
        if recording is not None and grads is None:
            for p in (p for group in self.param_groups for p in group["params"]):
                note_grad(p)
        for group in self.param_groups:
            by_step: dict[int, list[Any]] = {}
            for p in group["params"]:
                g = p._grad if grads is None else grads.get(p)
                if g is not None:
                    by_step.setdefault(self._state_of(p)["step"], []).append(p)
            for step, params in by_step.items():
                taken += self._pend(group, step + 1, params, grads)
        try:
            flush()
        except BaseException:
            self._give_back(taken, grads)
            raise
        if recording is None:  # else it was noted where the step's numbers come from
            for p, *_ in taken:
                self.state[id(p)]["step"] += 1

    def state_dict(self) -> dict[str, Any]:
        """Settings and state by position of the parameters, as PyTorch lays them out, with constant snapshots."""
        number: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            places = [number.setdefault(id(p), len(number)) for p in group["params"]]
            groups.append({**{k: v for k, v in group.items() if k != "params"}, "params": places})
        flush()
        state = {
            place: {name: _snapshot(value) for name, value in self.state[key].items()}
            for key, place in number.items()
            if key in self.state
        }
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave. All or nothing: raises CheckpointError for other groups, names or shapes."""
        groups = state["param_groups"]
        sizes = [len(g["params"]) for g in groups]
        if sizes != [len(g["params"]) for g in self.param_groups]:
            raise CheckpointError(
                f"load_state_dict: the state is of groups of {sizes} parameters, this optimiser has "
                f"{[len(g['params']) for g in self.param_groups]}"
            )
        params = [p for g in self.param_groups for p in g["params"]]
        new: dict[int, dict[str, Any]] = {}
        for place, values in state["state"].items():
            p = params[int(place)]
            if set(values) != {*self.states, "step"}:
                raise CheckpointError(
                    f"load_state_dict: parameter {place} needs {sorted({*self.states, 'step'})}, got {sorted(values)}"
                )
            for name in self.states:
                if tuple(values[name].shape) != p.shape:
                    raise CheckpointError(
                        f"load_state_dict: {name} of parameter {place} is {values[name].shape}, not {p.shape}"
                    )
            new[id(p)] = {n: leaf(Tensor, values[n], p.dtype, p.device, tracked=False) for n in self.states}
            new[id(p)]["step"] = int(values["step"])
        settings = [self._settings(group, saved) for group, saved in zip(self.param_groups, groups, strict=True)]
        self.state = new
        for group, mine in zip(self.param_groups, settings, strict=True):
            group.update(mine)

    def _settings(self, group: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
        """What a saved group sets. PyTorch saves settings that are not known here; those that are off say nothing."""
        mine = {k: v for k, v in saved.items() if k in group and k != "params"}
        for k, v in saved.items():
            if k not in group and k not in ALWAYS and v not in (None, False):
                raise CheckpointError(f"load_state_dict: {type(self).__name__} has no setting {k!r}, saved as {v!r}")
        self.check({**group, **mine})
        return mine

    def _state_of(self, p: Any) -> dict[str, Any]:
        state = self.state.get(id(p))
        if state is None:
            zeros = np.zeros(p.shape, p.dtype.numpy) if self.states else None
            state = {name: leaf(Tensor, zeros, device=p.device, tracked=False) for name in self.states}
            state["step"] = 0
            self.state[id(p)] = state
        return state

    def _pend(self, group: Mapping[str, Any], step: int, params: list[Any], grads: dict[Any, Any] | None) -> list[Any]:
        """One entry that updates these parameters; returns what it takes to put their gradients back."""
        n = len(params)
        cells = [*params, *[self.state[id(p)][name] for name in self.states for p in params]]
        recording = current().recording
        if recording is not None:
            states = [self.state[id(p)] for p in params]
            recording.sources.append((len(current().scalars), _Step(self, group, self.flags(group), states)))
            for state in states:
                state["step"] = step
        found = [p._grad for p in params] if grads is None else [grads[p] for p in params]
        operands = [*cells, *found, *self.numbers(group, step)]
        writes = _writes(len(cells))
        apply(self.update, operands, (n, len(self.states), *self.flags(group)), writes)
        taken = []
        for p, g in zip(params, found, strict=True):
            # the handle itself must go: were it alive at the flush, the gradient would be computed for somebody to see
            taken.append((p, g if g._value is not None else None, g._slot, g._aval))
            if grads is None:
                p._grad = None
            else:
                del grads[p]
        return taken

    def _give_back(self, taken: list[Any], grads: dict[Any, Any] | None) -> None:
        for p, g, slot, kind in taken:
            if g is None:
                g = handle(Tensor, kind, None, slot)
                g._origin = current().failed
            if grads is None:
                p._grad = g
            else:
                grads[p] = g


class _Step(NamedTuple):
    """Where a compiled function finds the numbers of an update at each call."""

    optimizer: Optimizer
    group: Mapping[str, Any]
    flags: tuple[Any, ...]
    states: list[dict[str, Any]]

    def fits(self) -> bool:
        """Whether the group is as it was, but for its numbers, and its parameters have stepped equally often."""
        opt, group = self.optimizer, self.group
        if not any(g is group for g in opt.param_groups) or opt.flags(group) != self.flags:
            return False
        step = self.states[0]["step"]
        if any([s["step"] != step for s in self.states]):
            return False
        return opt.state.get(id(group["params"][0])) is self.states[0]

    def take(self) -> tuple[float, ...]:
        step = self.states[0]["step"] + 1
        for s in self.states:
            s["step"] = step
        return self.optimizer.numbers(self.group, step)

    def undo(self) -> None:
        for s in self.states:
            s["step"] -= 1


def _snapshot(value: Any) -> Any:
    return value.freeze() if isinstance(value, Tensor) else value


_WRITES: dict[int, tuple[Write, ...]] = {}


def _writes(n: int) -> tuple[Write, ...]:
    """Operand i takes results 2 i (and 2 i + 1, tracked)."""
    if n not in _WRITES:
        _WRITES[n] = tuple(Write(i, 2 * i) for i in range(n))
    return _WRITES[n]


def check_range(name: str, setting: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises ValueError unless low <= value < high."""
    if isinstance(value, str) or not low <= value < high:
        raise ValueError(f"{name}: {setting} must be at least {low}" + f" and below {high}, got {value!r}")

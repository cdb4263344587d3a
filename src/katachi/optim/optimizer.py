"""What optimisers share: parameter groups, taking gradients out, one update for all parameters of a group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from katachi.errors import CheckpointError, GradientError
from katachi.graph.dtypes import DType, float32
from katachi.graph.halves import HALVES
from katachi.tensor.apply import apply
from katachi.tensor.creation import leaf
from katachi.tensor.deferred import failed_with, let_be_computed
from katachi.tensor.entry import Op, Write
from katachi.tensor.handle import handle
from katachi.tensor.modes import modes
from katachi.tensor.running import locked
from katachi.tensor.state import move, snapshot
from katachi.tensor.tensor import Tensor
from katachi.tensor.trace import Trace, current, flush, note_grad

ALWAYS = ("initial_lr", "decoupled_weight_decay", "foreach", "fused")  # PyTorch's, that change no number here


class Optimizer:
    """Base of the optimisers. `param_groups` is a list of dicts with "params" and the settings, which may be changed
    between steps: numbers are read at every step and never recompile anything. On x86 CPUs an update takes subnormal
    numbers (in float32 those below 1.2e-38) for zero, so that moments of gradients that stay away end at zero.

    A subclass gives `update`, an Op on (parameters, gradients, states..., numbers...), `states`, the names of its
    state, and `numbers(group, step)`, the host numbers of a step.
    """

    update: Op
    states: tuple[str, ...] = ()
    counts = True  # whether the numbers depend on how many steps there were

    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        name = type(self).__name__
        if isinstance(params, Tensor) or not isinstance(params, Iterable):
            what = "one tensor: put it into a list" if isinstance(params, Tensor) else type(params).__name__
            raise TypeError(f"{name}: needs parameters, such as model.parameters(), got {what}")
        items = list(params)
        if not items:
            raise ValueError(f"{name}: there are no parameters to optimise")
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Any, dict[str, Any]] = {}  # by parameter
        for group in items if isinstance(items[0], dict) else [{"params": items}]:
            self.add_param_group(group)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """One group more: "params" and settings of its own, which fall back to the optimiser's. Frozen parameters among
        others are left out.

        Raises ValueError for settings that make no sense and for a parameter that is there already, GradientError for
        what has no gradients, and if all parameters are frozen.
        """
        name = type(self).__name__
        if not isinstance(group, Mapping) or "params" not in group:
            what = f"the keys {', '.join(map(repr, group))}" if isinstance(group, Mapping) else type(group).__name__
            raise ValueError(f'{name}: a group is a dict with "params", got {what}')
        if unknown := sorted(set(group) - {*self.defaults, "params", "initial_lr"}):
            raise ValueError(f"{name}: a group has no setting {unknown[0]!r}; there are {', '.join(self.defaults)}")
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        trained = [p for p in params if getattr(p, "requires_grad", True)]
        if params and not trained:
            raise GradientError(
                f"{name}: all of the {len(params)} parameters are frozen, so there is nothing to train; it needs those "
                "of the module that freeze() was called on"
            )
        params = trained
        new = {**self.defaults, **group, "params": params}
        self.check(new)
        seen = {id(p) for g in self.param_groups for p in g["params"]}
        for p in params:
            if not isinstance(p, Tensor) or p._cell is None or not p._aval.tracked:
                what = p._aval if isinstance(p, Tensor) else type(p).__name__
                raise GradientError(f"{name}: parameters and leaf variables can be optimised, not {what}")
            if id(p) in seen:
                raise ValueError(f"{name}: a parameter occurs twice")
            seen.add(id(p))
        self.param_groups.append(new)

    def __repr__(self) -> str:
        shown = [{k: v for k, v in g.items() if k != "params"} for g in self.param_groups]
        groups = [", ".join(f"{k}={v!r}" for k, v in g.items()) for g in shown]
        return "\n".join(
            f"{type(self).__name__}({len(g['params'])} parameters, {text})"
            for g, text in zip(self.param_groups, groups, strict=True)
        )

    def _read_fields(self, named: set[str]) -> set[str]:
        """The fields that a compiled function may read itself; `step` has guards of its own."""
        return {"param_groups"} & named

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
        afterwards. If anything fails, nothing has changed. Raises GradientError for a gradient in the store that does
        not fit.
        """
        if grads is not None and not isinstance(grads, dict):
            raise TypeError(
                f"{type(self).__name__}.step: needs the dict that kt.gradients gave, or nothing after backward(), "
                f"got {type(grads).__name__}"
            )
        t, recording = current(), current().recording
        if recording is not None and grads is None:
            for p in (p for group in self.param_groups for p in group["params"]):
                note_grad(p)
        updates = []  # all of them, before the first is pending: what can be refused is refused with nothing done
        for group in self.param_groups:
            by_step: dict[int, list[Any]] = {}
            for p in group["params"]:
                g = p._grad if grads is None else grads.get(p)
                if g is not None:
                    if grads is not None and g.shape != p.shape:
                        what = f"{g._aval} for a parameter {p._aval}"
                        raise GradientError(f"{type(self).__name__}.step: got the gradient {what}")
                    by_step.setdefault(self._state_of(p)["step"], []).append(p)
            for step, params in by_step.items():
                try:
                    updates.append((group, step + 1, params, self.numbers(group, step + 1)))
                except (ArithmeticError, TypeError, ValueError):
                    self.check(group)  # raises the error that names the setting
                    raise
        g = None  # a handle that is alive at the flush would be computed for somebody to see
        taken: list[Any] = []
        before = t.modes
        try:
            t.taken, t.committed = True, False
            t.modes = modes(
                before.grad, False, before.device, before.region, before.tracing
            )  # all groups at once, eager or not
            for update in updates:
                self._pend(t, *update, grads, taken)
                if t.committed:  # so much was pending that it had to be computed
                    t.committed, taken = False, []
            flush(t)
            t.modes, t.taken = before, False
        except BaseException as error:
            if recording is None and not t.committed:
                self._give_back(t, taken, grads, error)
            t.modes, t.taken = before, False
            raise

    def state_dict(self) -> dict[str, Any]:
        """Settings and state by position of the parameters, as PyTorch lays them out, with constant snapshots."""
        number: dict[Any, int] = {}
        groups = []
        for group in self.param_groups:
            places = [number.setdefault(p, len(number)) for p in group["params"]]
            groups.append({**{k: v for k, v in group.items() if k != "params"}, "params": places})
        state = locked(  # of one moment, whatever other threads do
            lambda: {
                place: {name: _snapshot(value) for name, value in self.state[p].items()}
                for p, place in number.items()
                if p in self.state
            }
        )
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave. All or nothing: raises CheckpointError for other groups, names or shapes."""
        if not isinstance(state, Mapping) or not {"state", "param_groups"} <= state.keys():
            raise CheckpointError(
                'load_state_dict: needs what an optimiser\'s state_dict gave: "state", "param_groups"'
            )
        groups = state["param_groups"]
        sizes = [len(g["params"]) for g in groups]
        if sizes != [len(g["params"]) for g in self.param_groups]:
            raise CheckpointError(
                f"load_state_dict: the state is of groups of {sizes} parameters, this optimiser has "
                f"{[len(g['params']) for g in self.param_groups]}"
            )
        params = [p for g in self.param_groups for p in g["params"]]
        new: dict[Any, dict[str, Any]] = {}
        for place, values in state["state"].items():
            if not 0 <= int(place) < len(params):
                raise CheckpointError(
                    f"load_state_dict: there is a parameter {place}, this optimiser has {len(params)}"
                )
            p, values = params[int(place)], {n: v for n, v in values.items() if v is not None}
            if not self.counts:
                values.setdefault("step", 0)  # PyTorch does not save what it does not need
            if set(values) != {*self.states, "step"}:
                raise CheckpointError(
                    f"load_state_dict: parameter {place} needs {sorted({*self.states, 'step'})}, got {sorted(values)}"
                )
            for name in self.states:
                if tuple(values[name].shape) != p.shape:
                    raise CheckpointError(
                        f"load_state_dict: {name} of parameter {place} is {values[name].shape}, not {p.shape}"
                    )
            new[p] = {n: leaf(Tensor, values[n], _state_dtype(p), p.device, tracked=False) for n in self.states}
            new[p]["step"] = int(values["step"])
        settings = [self._settings(group, saved) for group, saved in zip(self.param_groups, groups, strict=True)]
        self.state = new
        for group, mine in zip(self.param_groups, settings, strict=True):
            group.update(mine)

    def _settings(self, group: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
        """What a saved group sets. PyTorch saves settings that are not known here; those that are off say nothing."""
        mine = {k: v for k, v in saved.items() if (k in group or k == "initial_lr") and k != "params"}
        for k, v in saved.items():
            if k not in group and k not in ALWAYS and v not in (None, False):
                raise CheckpointError(f"load_state_dict: {type(self).__name__} has no setting {k!r}, saved as {v!r}")
        self.check({**group, **mine})
        return mine

    def _state_of(self, p: Any) -> dict[str, Any]:
        state = self.state.get(p)
        if state is None:
            zeros = np.broadcast_to(np.zeros((), _state_dtype(p).numpy), p.shape) if self.states else None
            state = {name: leaf(Tensor, zeros, device=p.device, tracked=False) for name in self.states}
            state["step"] = 0
            self.state[p] = state
        elif self.states:
            now, kind = state[self.states[0]]._aval, _state_dtype(p)
            if now.dtype is not kind or now.device != p.device:
                move([state[name] for name in self.states], p.device, kind)  # as the module was
        return state

    def _pend(
        self,
        t: Trace,
        group: dict[str, Any],
        step: int,
        params: list[Any],
        numbers: tuple[float, ...],
        grads: dict[Any, Any] | None,
        taken: list[Any],
    ) -> None:
        """One entry that updates these parameters; `taken` gets what it takes to put their gradients back."""
        cells = [*params, *[self.state[p][name] for name in self.states for p in params]]
        states = [self.state[p] for p in params]
        recording = t.recording
        if recording is not None:
            groups = [(g, len(g["params"])) for g in self.param_groups]
            source = _Step(self, group, groups, self.flags(group), states)
            recording.sources.append((len(t.scalars), source, None))
            recording.steps += [(state, state["step"]) for state in states]
        found = [p._grad for p in params] if grads is None else [grads[p] for p in params]
        if any([g is None for g in found]):
            raise GradientError(f"{type(self).__name__}.step: another step has taken a gradient of these meanwhile")
        operands = [*cells, *found, *numbers]
        t.then.append(partial(_count, states, step))
        # the handles themselves must go: were one alive at the flush, it would be computed for somebody to see
        taken += [(p, g._value, g._slot, g._aval) for p, g in zip(params, found, strict=True)]
        apply(self.update, operands, (len(params), len(self.states), *self.flags(group)), _writes(len(cells)), trace=t)
        for p in params:
            if grads is None:
                p._grad = None
            else:
                del grads[p]
        if recording is not None:
            _count(states, step)

    def _give_back(self, t: Trace, taken: list[Any], grads: dict[Any, Any] | None, error: BaseException) -> None:
        """The step has not been taken: its gradients are where they were."""
        if t.entry is not t.root:  # interrupted before the flush
            t.failed = let_be_computed(t)
        rest = t.failed
        for p, value, slot, kind in taken:
            store: Any = {p: p._grad} if grads is None else grads
            if store.get(p) is None:
                g = handle(Tensor, kind, value, slot)
                g._origin = rest if value is None else None
                store[p] = g
            if grads is None:
                p._grad = store[p]
        if rest is not None and grads is None:
            t.failed_leaves += failed_with(error, rest, [(p, slot) for p, value, slot, _ in taken if value is None])
        t.then, t.failed = [], None  # it holds values


def _count(states: list[dict[str, Any]], step: int) -> None:
    for state in states:
        state["step"] = step


class _Step(NamedTuple):
    """Where a compiled function finds the numbers of an update at each call."""

    optimizer: Optimizer
    group: Mapping[str, Any]
    groups: list[tuple[Any, int]]  # all of them, each with the number of its parameters
    flags: tuple[Any, ...]
    states: list[dict[str, Any]]

    def fits(self) -> bool:
        """Whether the groups are as they were, but for their numbers, and the parameters of this one have stepped
        equally often."""
        opt, group, first = self.optimizer, self.group, self.states[0]
        now = [(g, len(g["params"])) for g in opt.param_groups]
        if len(now) != len(self.groups):
            return False
        for (g, n), (was, m) in zip(now, self.groups):  # noqa: B905 - their number was compared
            if g is not was or n != m:
                return False
        step = first["step"]
        for s in self.states:
            if s["step"] != step:
                return False
        return opt.state.get(group["params"][0]) is first and opt.flags(group) == self.flags

    def take(self, ahead: dict[int, int]) -> tuple[float, ...]:
        """The numbers of one step more; `ahead` counts steps that have not come true yet."""
        first = self.states[0]
        step = ahead[id(first)] = ahead.get(id(first), first["step"]) + 1
        return self.optimizer.numbers(self.group, step)

    def settle(self, ahead: dict[int, int]) -> None:
        """They have come true."""
        step = ahead[id(self.states[0])]
        for s in self.states:
            s["step"] = step

    def now(self) -> None:
        """`take` changes nothing."""

    def undo(self, before: None) -> None:
        """What `take` did need not be undone; tracing notes the counts of before itself."""


def _state_dtype(p: Any) -> DType:
    """Of what an optimiser keeps of a parameter: a half has too few digits for averages that move slowly."""
    return float32 if p.dtype in HALVES else p.dtype


def _snapshot(value: Any) -> Any:
    return snapshot(value) if isinstance(value, Tensor) else value


_WRITES: dict[int, tuple[Write, ...]] = {}


def _writes(n: int) -> tuple[Write, ...]:
    """Operand i takes results 2 i (and 2 i + 1, tracked)."""
    if n not in _WRITES:
        _WRITES[n] = tuple(Write(i, 2 * i) for i in range(n))
    return _WRITES[n]


def check_range(name: str, setting: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises ValueError unless low <= value < high."""
    try:
        fits = not isinstance(value, str) and low <= float(value) < high
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"{name}: {setting} must be at least {low} and below {high}, got {value!r}")

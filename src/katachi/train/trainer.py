"""Trainer: the plain loop, with counting, validation and a history."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from katachi.nn.module import Module
from katachi.tensor.modes import no_grad
from katachi.train.metrics import Running

Row: TypeAlias = dict[str, Any]  # an epoch: its number, means, seconds and examples a second


@dataclass
class Trainer:
    """Trains `model`: `loss(model(inputs), targets)` over batches of (inputs, targets), updated by `optimizer`.

    `metrics` are further functions of (output, target) that give a batch's mean, such as `train.accuracy`. `history`
    has a row for every finished epoch, and stays readable after Ctrl-C. A `scheduler` of the learning rate is stepped
    after every step of the optimiser.

    >>> import katachi as kt
    >>> from katachi import data, nn, optim, train
    >>> _ = kt.manual_seed(0)
    >>> model = nn.Linear(1, 1)
    >>> points = data.TensorDataset([[0.0], [1.0], [2.0]], [[1.0], [3.0], [5.0]])
    >>> trainer = train.Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.functional.mse_loss)
    >>> rows = trainer.fit(data.DataLoader(points, batch_size=3), epochs=200)
    >>> rows[-1]["epoch"], rows[-1]["loss"] < 0.01, round(model.weight.item()), round(model.bias.item())
    (200, True, 2, 1)
    """

    model: Module
    optimizer: Any
    loss: Callable[[Any, Any], Any]
    metrics: Mapping[str, Callable[[Any, Any], Any]] = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)
    scheduler: Any = None
    _under_way: Running | None = field(default=None, init=False, repr=False)
    _spent: float = field(default=0.0, init=False, repr=False)  # seconds of the epoch under way before this process
    _started: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        if "loss" in self.metrics:
            raise ValueError('Trainer: a metric cannot be called "loss", which is what the loss is reported as')

    def fit(
        self,
        loader: Iterable[tuple[Any, Any]],
        epochs: int,
        *,
        validate: Iterable[tuple[Any, Any]] | None = None,
        on_step: Callable[[Running], object] | None = None,
        on_epoch: Callable[[Row], object] | None = None,
    ) -> list[Row]:
        """Train for a number of epochs; returns the history, earlier calls' rows included.

        With `validate` each row also has that loader's means, as `validation_loss` and so on. `on_step` is called after
        every step with the means so far (to look at them waits for the device: not at every step), `on_epoch` with
        every finished row; within both a checkpoint may be saved. After `load_state_dict` the first epoch is the rest
        of the one that was under way. Raises ValueError for a loader without batches.
        """
        try:
            for _ in range(epochs):
                self._epoch(loader, validate, on_step, on_epoch)
        finally:
            self._under_way, self._spent = None, 0.0
        return self.history

    def _epoch(
        self,
        loader: Iterable[tuple[Any, Any]],
        validate: Iterable[tuple[Any, Any]] | None,
        on_step: Callable[[Running], object] | None,
        on_epoch: Callable[[Row], object] | None,
    ) -> None:
        self._started = time.perf_counter() - self._spent
        seen = self._under_way = self._under_way or Running()
        with _training(self.model, True):
            for inputs, targets in loader:
                output = self.model(inputs)
                loss = self.loss(output, targets)
                loss.backward()
                self._count(seen, loss, output, targets)
                self.optimizer.step()  # forward, backward, counting and update run here, as one program
                if self.scheduler is not None:
                    self.scheduler.step()
                if on_step is not None:
                    on_step(seen)
        row: Row = {"epoch": len(self.history) + 1, **_of_any(seen)}
        row["seconds"] = time.perf_counter() - self._started
        row["examples_per_second"] = seen.examples / row["seconds"]
        if validate is not None:
            row |= {f"validation_{name}": value for name, value in self.evaluate(validate).items()}
        self.history.append(row)
        self._under_way, self._spent = None, 0.0
        if on_epoch is not None:
            on_epoch(row)

    @property
    def counted(self) -> int:
        """Examples seen of the epoch under way."""
        return self._under_way.examples if self._under_way is not None else 0

    def state_dict(self) -> dict[str, Any]:
        """The history and, within an epoch, what it has counted; model and optimiser have states of their own."""
        state: dict[str, Any] = {"history": [dict(row) for row in self.history]}
        if self._under_way is not None:
            state["under_way"] = self._under_way.state_dict()
            state["spent"] = time.perf_counter() - self._started
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.history = [dict(row) for row in state["history"]]
        self._under_way, self._spent = None, float(state.get("spent", 0.0))
        if "under_way" in state:
            self._under_way = Running()
            self._under_way.load_state_dict(state["under_way"])

    def evaluate(self, loader: Iterable[tuple[Any, Any]]) -> dict[str, float]:
        """The means of loss and metrics over a loader, in inference mode and without gradients."""
        seen = Running()
        with _training(self.model, False), no_grad():
            for inputs, targets in loader:
                output = self.model(inputs)
                self._count(seen, self.loss(output, targets), output, targets)
        return _of_any(seen)

    def _count(self, seen: Running, loss: Any, output: Any, targets: Any) -> None:
        output = output.freeze()
        seen.add(len(targets), loss=loss, **{name: metric(output, targets) for name, metric in self.metrics.items()})


def _of_any(seen: Running) -> dict[str, float]:
    if not seen.examples:
        raise ValueError("Trainer: the loader gave no batches")
    return seen.means()


@contextmanager
def _training(model: Module, mode: bool) -> Iterator[None]:
    """Within it the model is in one mode; afterwards every part is in the mode it was in."""
    before = [(part, part.training) for _, part in model.named_modules()]
    model.train(mode)
    try:
        yield
    finally:
        for part, was in before:
            part.training = was

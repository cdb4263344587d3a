"""Means over the examples seen, added up on the device and looked at rarely."""

from __future__ import annotations

from typing import Any

from katachi.errors import ShapeError
from katachi.graph.dtypes import float32
from katachi.tensor import elementwise, reduce, tensor
from katachi.tensor.trace import only_outside

FOLD = 64  # batches that are added up in float32 before the sum moves to a Python float


def accuracy(output: Any, target: Any, axis: int = 1) -> Any:
    """The share of predictions that are right: the largest output along the classes' axis stands at the target. Raises
    ShapeError unless the target has the output's shape without that axis.

    >>> import katachi as kt
    >>> accuracy(kt.tensor([[0.1, 0.9], [0.8, 0.2]]), kt.tensor([1, 1])).item()
    0.5
    """
    found = reduce.argmax(output, axis)
    if found.shape != target.shape:
        raise ShapeError(
            f"accuracy: needs a target of shape {found.shape} for an output {output.shape}, got {target.shape}"
        )
    right = elementwise.equal(found, target)
    return reduce.mean(elementwise.astype(right, float32))


class Running:
    """Means of batch means, each batch weighted by its examples.

    `add` only adds to pending work, so it joins the step's program; `means` looks. Sums move to Python floats after a
    fixed number of batches, never by the clock: what is reported does not depend on timing.

    >>> import katachi as kt
    >>> seen = Running()
    >>> seen.add(3, loss=kt.tensor(1.0)); seen.add(1, loss=kt.tensor(5.0)); seen.means()
    {'loss': 2.0}
    """

    def __init__(self) -> None:
        self.examples = 0
        self._batches = 0
        self._pending: dict[str, Any] = {}  # sums on the device
        self._folded: dict[str, float] = {}
        self._begun: dict[str, float] = {}  # what pending sums begin with, after load_state_dict

    def add(self, examples: int, **means: Any) -> None:
        """Count a batch: its number of examples and its mean of each quantity, scalar tensors. Raises Error inside a
        compiled function."""
        only_outside("Running.add is called")
        if self._batches == FOLD:
            self._fold()
        for name, mean in means.items():
            mean = mean.freeze()
            if name not in self._pending:
                self._pending[name] = tensor(self._begun.get(name, 0.0), dtype=mean.dtype, device=mean.device)
            self._pending[name] = self._pending[name] + mean * float(examples)
        self.examples += examples
        self._batches += 1

    def means(self) -> dict[str, float]:
        """The means so far; empty if nothing was seen."""
        return {
            name: (self._folded.get(name, 0.0) + total) / max(self.examples, 1) for name, total in self._sums().items()
        }

    def state_dict(self) -> dict[str, Any]:
        """What has been counted, in numbers that JSON can hold without loss."""
        return {
            "examples": self.examples,
            "batches": self._batches,
            "folded": dict(self._folded),
            "pending": self._sums(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Count on from where `state_dict` was taken, with the same roundings."""
        self.examples, self._batches = int(state["examples"]), int(state["batches"])
        self._folded, self._begun, self._pending = dict(state["folded"]), dict(state["pending"]), {}

    def _sums(self) -> dict[str, float]:
        return {**self._begun, **{name: total.item() for name, total in self._pending.items()}}

    def _fold(self) -> None:
        for name, total in self._sums().items():
            self._folded[name] = self._folded.get(name, 0.0) + total
        self._begun = {}
        for name, total in self._pending.items():
            # a computed zero where a computed sum stood: the next step replays as the others do
            self._pending[name] = tensor(0.0, dtype=total.dtype, device=total.device)
        self._batches = 0

"""kt.explain: what a function makes katachi build and run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from katachi.devices.memory import Usage
from katachi.tensor import events
from katachi.tensor.trace import current, flush


@dataclass
class Explanation:
    """Flushes that happened, what they built and what they cost in memory; `str()` is a table."""

    flushes: list[events.Flush] = field(default_factory=list)
    result: Any = None
    peak_bytes: int = 0  # the most that live values and a running program's temporaries took together

    @property
    def programs_built(self) -> int:
        return sum(f.built for f in self.flushes)

    @property
    def kernels_compiled(self) -> int:
        return sum(f.program.kernels_compiled for f in self.flushes if f.built)

    @property
    def reference_steps(self) -> list[str]:
        """Primitives that ran one by one on the reference device."""
        return [p for f in self.flushes for p in f.program.reference_steps]

    @property
    def plan_bytes(self) -> int:
        """The largest plan."""
        return max((f.program.plan.bytes for f in self.flushes), default=0)

    def __str__(self) -> str:
        lines = [
            f"{len(self.flushes)} flushes, {self.programs_built} programs built, memory peak {self.peak_bytes:,} B"
        ]
        for i, f in enumerate(self.flushes):
            p = f.program
            lines.append(
                f"  {i}: {f.entries} operations, {'built' if f.built else 'found'}; "
                f"plan {p.plan.arena:,} B of temporaries + {p.plan.output:,} B of results; {p.summary()}"
            )
        return "\n".join(lines)


def explain(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Run `step(*args, **kwargs)` with all pending work done before and after, and tell what ran.

    >>> import katachi as kt
    >>> kt.explain(lambda: (kt.ones(3) + 1).sum().item()).result
    6.0
    """
    flush()
    told = Explanation()
    Usage.peak = Usage.live
    events.observers.append(told.flushes.append)
    try:
        told.result = step(*args, **kwargs)
        flush(current())
    finally:
        events.observers.remove(told.flushes.append)
        told.peak_bytes = Usage.peak
    return told

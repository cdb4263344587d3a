"""kt.explain: what a function makes katachi build and run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from katachi.compiler.steps import Launched, nbytes, operation
from katachi.devices.memory import Usage
from katachi.graph.node import Node, toposort
from katachi.graph.site import describe
from katachi.tensor import events
from katachi.tensor.trace import flush


@dataclass
class Explanation:
    """Flushes that happened, what they built and what they cost in memory; `str()` is a table. `print(told.kernels)`
    shows what was launched, `print(told.graph)` what of the user's operations the passes left."""

    flushes: list[events.Flush] = field(default_factory=list)
    result: Any = None
    peak_bytes: int = 0  # the most that live values and a running program's temporaries took together

    def __enter__(self) -> Explanation:
        flush()
        self._before, Usage.peak = Usage.peak, Usage.live
        events.observers.append(self._see)
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                flush()
        finally:
            events.observers.remove(self._see)
            self.peak_bytes, Usage.peak = Usage.peak, max(self._before, Usage.peak)

    def _see(self, ran: events.Flush) -> None:
        self.flushes.append(ran)

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

    @property
    def kernels(self) -> str:
        """A line a launch: its kind, the user's operations in it, what it makes for others, the bytes of memory that it
        reads and writes, and the user's line."""
        return self._text(_kernel_lines)

    @property
    def graph(self) -> str:
        """A line a node after the passes: number, type, primitive, operands, attributes, operation, the user's line."""
        return self._text(_graph_lines)

    @property
    def lines(self) -> str:
        """A row for each line of code where programs ended: how often one ran; how many were there for other sizes and
        got numbers for new ones, and how many were built; what that took, and the latest reason for building."""
        rows: dict[str, list[events.Flush]] = {}
        for f in self.flushes:
            rows.setdefault(describe(f.site) if f.site else "a compiled function", []).append(f)
        out: list[tuple[str, ...]] = []
        for where, found in rows.items():
            built = [f for f in found if f.built]
            cost = f", {sum(f.seconds for f in built) * 1e3:.1f} ms: {built[-1].why}" if built else ""
            resized = [f.seconds for f in found if f.resized]
            sizes = f"{len(resized):,} of new sizes" + (f", {sum(resized) * 1e3:.1f} ms" if resized else "")
            out.append((where, f"{len(found):,} ran", sizes, f"{len(built):,} built{cost}"))
        return "\n".join(_table(out))

    def _text(self, lines: Callable[[list[Launched]], list[str]]) -> str:
        out = []
        for i, f in enumerate(self.flushes):
            out += [f"program {i}{': ' + f.why if f.why else ''}", *["  " + x for x in lines(f.program.launches())]]
        return "\n".join(out)

    def __str__(self) -> str:
        lines = [
            f"{len(self.flushes)} flushes, {self.programs_built} programs built, memory peak {self.peak_bytes:,} B"
        ]
        for i, f in enumerate(self.flushes):
            p = f.program
            lines.append(
                f"  {i}: {f.entries} operations, {'built' + (f' ({f.why})' if f.why else '') if f.built else 'found'}; "
                f"plan {p.plan.arena:,} B of temporaries + {p.plan.output:,} B of results; {p.summary()}"
            )
        return "\n".join(lines)


def _kernel_lines(launches: list[Launched]) -> list[str]:
    rows: list[tuple[str, ...]] = []
    for launch in launches:
        names = ", ".join(dict.fromkeys(operation(n) for n in launch.nodes))
        made = ", ".join(repr(n.aval) for n in launch.outputs)
        read, written = (sum(map(nbytes, dict.fromkeys(ns))) for ns in (launch.inputs, launch.outputs))
        rows.append((launch.kind, names, made, f"reads {read:,} B, writes {written:,} B", _line(launch.outputs[-1])))
    return _table(rows)


def _graph_lines(launches: list[Launched]) -> list[str]:
    """Nodes in the order in which they were made; one that several launches compute stands once."""
    order = toposort([n for launch in launches for n in launch.outputs])
    number = {n: f"%{i}" for i, n in enumerate(order)}
    rows: list[tuple[str, ...]] = []
    for n in order:
        operands = ", ".join(number[x] for x in n.inputs)
        attrs = ", ".join(f"{k}={_short(v)}" for k, v in n.attrs.items())
        made_of = f"{n.primitive}({operands}){' ' + attrs if attrs else ''}"
        rows.append(
            (f"{number[n]}: {n.aval!r}", made_of, *(() if n.primitive == "input" else (operation(n), _line(n))))
        )
    return _table(rows)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns under one another, the last of a row as long as it is."""
    widths = [max(len(r[i]) for r in rows if len(r) > i + 1) for i in range(max(map(len, rows), default=1) - 1)]
    return ["  ".join([*(t.ljust(w) for t, w in zip(r[:-1], widths, strict=False)), r[-1]]) for r in rows]


def _line(node: Node) -> str:
    return describe(node.site)


def _short(x: Any) -> str:
    text = str(x)
    return text if len(text) <= 60 else text[:57] + "..."


def explain(step: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Explanation:
    """Run `step(*args, **kwargs)` with all pending work done before and after, and tell what ran. Without a step it is
    a context that tells of what runs within: `print(told.lines)` shows it by lines of code.

    >>> import katachi as kt
    >>> kt.explain(lambda: (kt.ones(3) + 1).sum().item()).result
    6.0
    >>> with kt.explain() as told:
    ...     for n in (2, 3, 4): _ = (kt.ones(n) + 1).sum().item()
    >>> len(told.flushes), told.programs_built
    (3, 1)
    """
    told = Explanation()
    if step is None:
        return told
    with told:
        told.result = step(*args, **kwargs)
    return told

"""The results as tables: what stands in each cell."""

from __future__ import annotations

from typing import Any, NamedTuple

from bench import operands
from bench.rounds import peers_of, ratio
from bench.rows import COLUMNS

TORCH = [c.name for c in COLUMNS.values() if c.framework == "torch" and not c.yardstick]
YARDSTICKS = [c.name for c in COLUMNS.values() if c.yardstick]
TRIAD, ADAMW = 3, 7  # arrays read and written: a, c, a back; parameter, gradient, two moments, three of them back
NONE = "–"  # nothing was to be measured here


class Table(NamedTuple):
    title: str
    note: str
    header: list[str]
    lines: list[list[str]]


def tables(results: dict[str, Any]) -> list[Table]:
    """All that have something to tell."""
    steps = {name: row for name, row in results["rows"].items() if row["kind"] == "steps"}
    kernels = {name: row for name, row in results["rows"].items() if row["kind"] == "kernels"}
    found = [
        _times("Training steps, ms a step", "Forward, cross-entropy, backward, AdamW.", steps),
        _firsts(steps),
        _starts(steps),
        _memory(steps),
        _times("Kernels, ms", "One program each, its results built anew each time.", kernels),
        _bandwidth(kernels),
    ]
    return [table for table in found if table.lines]


def line(name: str, row: dict[str, Any]) -> str:
    """A row's times in a line."""
    cells = [f"{column} {_cell(row, column, 'seconds', 1e3)}" for column in row["columns"]]
    return f"{name}, ms: " + ", ".join(cells)


def failures(results: dict[str, Any]) -> list[str]:
    """Why there are gaps, a line each."""
    return [
        f"{name}, {column}: {figures['error']}"
        for name, row in results["rows"].items()
        for column, figures in row["columns"].items()
        if "error" in figures
    ]


def number(x: float) -> str:
    """Three digits that count."""
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}" if x >= 1 else f"{x:.3f}"


def _present(rows: dict[str, Any]) -> list[str]:
    """The columns that any of the rows has, yardsticks left out."""
    return [c for c in COLUMNS if c not in YARDSTICKS and any(c in row["columns"] for row in rows.values())]


def _cell(row: dict[str, Any], column: str, key: str, factor: float = 1.0) -> str:
    figures = row["columns"].get(column)
    if figures is None:
        return NONE
    if "error" in figures:
        return figures["error"] if len(figures["error"]) <= 24 else "failed, see below"
    return number(figures[key] * factor) if figures.get(key) is not None else "not measured"


def _share(row: dict[str, Any], ours: list[str], peers: list[str]) -> str:
    found = ratio(row, ours, peers)
    return NONE if found is None else f"{found:.2f}"


def _times(title: str, note: str, rows: dict[str, Any]) -> Table:
    columns = _present(rows)
    lines = [
        [
            name,
            *[_cell(row, column, "seconds", 1e3) for column in columns],
            _share(row, ["katachi"], TORCH),
            _share(row, ["katachi compiled"], peers_of(row)),
        ]
        for name, row in rows.items()
    ]
    return Table(title, note, ["", *columns, "plain / best torch", "compiled / best peer"], lines)


def _firsts(rows: dict[str, Any]) -> Table:
    columns = _present(rows)
    lines = [[name, *[_cell(row, column, "first", 1) for column in columns]] for name, row in rows.items()]
    return Table(
        "The first call, s", "Nothing cached; imports and the model's making not counted.", ["", *columns], lines
    )


def _starts(rows: dict[str, Any]) -> Table:
    def cell(row: dict[str, Any], column: str) -> str:
        first, again = (_cell(row, column, key) for key in ("start", "start again"))
        return f"{first}, {again}" if column in row["columns"] and "error" not in row["columns"][column] else first

    columns = _present(rows)
    note = "Imports included: with nothing cached, then a second process with what the first one left in its cache."
    lines = [[name, *[cell(row, column) for column in columns]] for name, row in rows.items()]
    return Table("From the start of the process to the end of its first step, s", note, ["", *columns], lines)


def _memory(rows: dict[str, Any]) -> Table:
    def cell(row: dict[str, Any], column: str) -> str:
        text = _cell(row, column, "peak", 1e-6)
        plan = row["columns"].get(column, {}).get("forecast")
        return text if plan is None else f"{text} (forecast {number(plan / 1e6)})"

    columns = _present(rows)
    note = (
        "The process's high-water mark after the third step, model and data included, over the idle process after its "
        "imports. So what is loaded at the first call (LLVM, XLA, inductor) counts, and is nearly all that xor takes. "
        "For katachi also what it foretells of its values: those that live, and the plan."
    )
    lines = [[name, *[cell(row, column) for column in columns]] for name, row in rows.items()]
    return Table("Peak memory, MB", note, ["", *columns], lines)


def _bandwidth(rows: dict[str, Any]) -> Table:
    """GB/s of what goes over all memory once, and AdamW's share of the best triad."""

    def rate(column: str, arrays: int) -> float:
        seconds = columns[column].get("seconds")
        return arrays * 4 * operands.PARAMETERS / seconds / 1e9 if seconds else 0.0

    columns = rows["adamw"]["columns"] if "adamw" in rows else {}
    rates = {column: rate(column, TRIAD if column in YARDSTICKS else ADAMW) for column in columns}
    best = max((rates[column] for column in YARDSTICKS if column in rates), default=0.0)
    lines = [
        [
            column if column in YARDSTICKS else f"{column} AdamW",
            number(r) if r else _cell(rows["adamw"], column, "seconds"),
            f"{r / best:.0%}" if r and best else NONE,
        ]
        for column, r in rates.items()
    ]
    note = "All work in place, and read and write each array once."
    return Table("AdamW beside the memory's bandwidth", note, ["", "GB/s", "of the best triad"], lines)

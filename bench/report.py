"""The results for people: on the terminal, and as RESULTS.md."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from bench.tables import Table, failures, tables

HEAD = """# Measured: training on a CPU

Written by `make bench` (`python -m bench`); `README.md` says how it measures. Medians of alternating bursts, a process
for each column, all cores for everybody. Times are better when small; a ratio below 1 means that katachi is faster.
"""


def show(results: dict[str, Any], console: Console) -> None:
    for table in tables(results):
        drawn = RichTable(title=table.title, caption=table.note, title_justify="left", caption_justify="left")
        for i, name in enumerate(table.header):
            drawn.add_column(name, justify="right" if i else "left", no_wrap=not i, overflow="fold")
        for line in table.lines:
            drawn.add_row(*line)
        console.print(drawn)
    for line in failures(results):
        console.print(line, style="yellow", markup=False)


def markdown(results: dict[str, Any], picture: str | None) -> str:
    parts = [HEAD, *([f"![ratios]({picture})\n"] if picture else [])]
    for table in tables(results):
        parts.append(f"## {table.title}\n\n{table.note}\n\n{_lines(table)}\n")
    if broken := failures(results):
        parts.append("## What is missing\n\n" + "\n".join(f"- {line}" for line in broken) + "\n")
    facts = [[key, value] for key, value in results["machine"].items()]
    parts.append("## The machine\n\n" + _lines(Table("", "", ["", ""], [*facts, *_versions(results)])) + "\n")
    header = ["row", "what", "measured on", "rounds"]
    rows = [[name, row["what"], row["date"], str(row["rounds"])] for name, row in results["rows"].items()]
    parts.append("## The rows\n\n" + _lines(Table("", "", header, rows)) + "\n")
    return "\n".join(parts)


def _lines(table: Table) -> str:
    rows = [table.header, ["---"] * len(table.header), *table.lines]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    )


def _versions(results: dict[str, Any]) -> list[list[str]]:
    """Each package with its version; with several, if rows were measured at different times."""
    found: dict[str, dict[str, None]] = {}
    for row in results["rows"].values():
        for figures in row["columns"].values():
            for package, version in figures.get("versions", {}).items():
                found.setdefault(package, {})[version] = None
    return [[package, ", ".join(versions)] for package, versions in found.items()]

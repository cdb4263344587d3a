"""What was measured, as data: rows that were run again replace their older selves, the others stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.rows import ROWS

NAME = "results.json"


class OtherMachine(Exception):
    """The results in the folder were measured on another machine, and times of two machines make no table."""


def load(folder: Path, machine: dict[str, str]) -> dict[str, Any]:
    """What is there, or a beginning. Raises OtherMachine."""
    path = folder / NAME
    if not path.exists():
        return {"machine": machine, "rows": {}}
    results = json.loads(path.read_text())
    if results["machine"] != machine:
        raise OtherMachine(f"{path} is of another machine ({', '.join(results['machine'].values())})")
    return results


def merged(results: dict[str, Any], name: str, row: dict[str, Any]) -> dict[str, Any]:
    """The results with this row, in the order of the rows; rows that there are no longer go."""
    rows = {**results["rows"], name: row}
    return {**results, "rows": {known: rows[known] for known in ROWS if known in rows}}


def save(folder: Path, results: dict[str, Any]) -> None:
    """Whole or not at all: an interrupted run keeps what it had."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    new = path.with_suffix(".new")
    new.write_text(json.dumps(results, indent=1) + "\n")
    new.replace(path)

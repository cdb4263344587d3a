"""The command: `python -m bench`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench import chart, machine, report, results, rounds, rows, tables

console = Console(width=None if sys.stdout.isatty() else 120)
BUSY = 0.7  # load average of a machine that is not left alone
HERE = Path(__file__).parent


def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ROW]...", help="Rows to measure, all unless named: see below.", show_default=False),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Five rounds: a look, not a measurement.")] = False,
    number: Annotated[int, typer.Option("--rounds", min=1, help="Bursts of each column.")] = rounds.Settings().rounds,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for one answer.")] = rounds.Settings().timeout,
    out: Annotated[Path, typer.Option(help="Where results.json, RESULTS.md and ratios.png go.")] = HERE,
) -> None:
    """Measure katachi beside torch, torch.compile, JAX and NumPy on this machine's CPU.

    Each row is added to the results as soon as it is done, so rows can be measured one by one, and Ctrl-C loses one
    row. Nothing else should run meanwhile.

    Rows: xor, mlp-small, mlp-big, cnn, gpt (or all five: steps); matmul, matmuls, chain, softmax, layer_norm, gelu,
    adamw (or all of them: kernels); also single sizes, such as matmul-512 or matmuls-16. bench/rows.py says what
    they are.
    """
    try:
        chosen = rows.chosen(names or [])
        found = results.load(out, machine.describe())
    except (ValueError, results.OtherMachine) as error:
        raise typer.BadParameter(str(error)) from None
    settings = rounds.Settings(rounds=5 if quick else number, timeout=timeout)
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > BUSY:
        console.print(f"The load average is {load:.1f}: something else is running, and the figures will show it.")
    for row in chosen:
        with console.status(row.name) as status:
            entry = rounds.race(row, settings, lambda text, status=status: status.update(text))
        found = results.merged(found, row.name, entry)
        results.save(out, found)
        console.print(tables.line(row.name, entry), markup=False, highlight=False)
    report.show({**found, "rows": {row.name: found["rows"][row.name] for row in chosen}}, console)
    picture = out / "ratios.png"
    drawn = chart.draw(found, picture)
    (out / "RESULTS.md").write_text(report.markdown(found, picture.name if drawn else None))
    console.print(f"{out / 'RESULTS.md'} has all {len(found['rows'])} rows")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no worker stays behind
    try:
        typer.run(main)
    except KeyboardInterrupt:
        raise SystemExit(130) from None

"""bench/ratios.png: katachi's time over the best peer's, a row a pair of bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.rounds import peers_of, ratio

PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # the line would cross the numbers
BARS = {"katachi": ("the plain loop", "#9db8d9"), "katachi compiled": ("@kt.compile", "#1f4e8c")}


def draw(results: dict[str, Any], path: Path) -> bool:
    """Write the picture; False if there is nothing to show yet."""
    ratios: dict[str, dict[str, float]] = {}
    for name, row in results["rows"].items():
        found = {column: ratio(row, [column], peers_of(row)) for column in BARS}
        if bars := {column: x for column, x in found.items() if x is not None}:
            ratios[name] = bars
    if not ratios:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.42 * len(ratios)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (column, (label, colour)) in enumerate(BARS.items()):
        at = [k + (i - 0.5) * 0.4 for k, bars in enumerate(ratios.values()) if column in bars]
        widths = [bars[column] for bars in ratios.values() if column in bars]
        bars = axes.barh(at, widths, 0.38, label=label, color=colour)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8, bbox=PLAIN)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * max(1.2, *(x for bars in ratios.values() for x in bars.values())))
    axes.set_xlabel("katachi's time over the best peer's: left of the line katachi is faster")
    axes.legend(loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    return True

"""What there is: devices, and the table of primitives joined from every room's column."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from katachi.devices.reference import REFERENCE
from katachi.graph.attention import FIRST_MASK
from katachi.graph.control import BUNDLES
from katachi.graph.primitives import MARKS, RULES
from katachi.kernels.lower import LOWERING, instruction
from katachi.kernels.nest import ACCUMULATE
from katachi.kernels.write_llvm import writes
from katachi.tensor.modes import devices
from katachi.transforms.batching import ALIKE, BATCHING
from katachi.transforms.batching_control import BUNDLE_BATCHING
from katachi.transforms.control import BUNDLE_JVP, BUNDLE_VJP
from katachi.transforms.derivatives import FLAT
from katachi.transforms.jvp import JVP
from katachi.transforms.vjp import VJP

DESCRIPTION = {
    "reference": "NumPy, one primitive at a time: the measure of all others",
    "cpu": "fused loops and matrix products, compiled to machine code by LLVM",
}
CAPTION = (
    "flat: nothing flows through. alike: the same for all examples. erased: a compiler pass removes it. "
    "bodies: Python decides which body runs when, each of them a program. python: a function of the user's."
)
COLUMNS = ("vjp", "jvp", "batching", "reference", "lowering")
TEMPLATES = frozenset(["dot_general", *FIRST_MASK])  # kernels that are not loops around one element's formula
ELSEWHERE = {
    **dict.fromkeys([*MARKS, "optimization_barrier", "custom_gradient"], "erased"),
    **dict.fromkeys([*BUNDLES, "element"], "bodies"),
    "custom_call": "python",
}
# Their rules depend on the number of operands, or take a bundle of values apart: no rows of the table of rules.
SPECIAL_VJP = frozenset(["concatenate", "custom_call", "custom_gradient", "element", *BUNDLE_VJP])
SPECIAL_JVP = frozenset(["element", *BUNDLE_JVP])
SPECIAL_BATCHING = frozenset(["element", *BUNDLE_BATCHING])


def cells() -> dict[str, dict[str, str]]:
    """For each primitive what stands in each column: yes, later, or why nothing need stand there.

    >>> cells()["add"]["vjp"], cells()["compare"]["vjp"], cells()["stop_gradient"]["lowering"]
    ('yes', 'flat', 'erased')
    """
    table = {}
    for name in RULES:
        flat = name in FLAT
        derived = {
            "vjp": "flat" if flat else _filled(name in VJP or name in SPECIAL_VJP),
            "jvp": "flat" if flat else _filled(name in JVP or name in SPECIAL_JVP),
            "batching": "alike" if name in ALIKE else _filled(name in BATCHING or name in SPECIAL_BATCHING),
        }
        lowered = ELSEWHERE.get(name) or _filled(_lowered(name))
        table[name] = {**derived, "reference": _filled(name in REFERENCE), "lowering": lowered}
    return table


def _lowered(name: str) -> bool:
    """Whether there is a rule, and the writer knows the instruction that it emits."""
    written = ACCUMULATE.get(name) or instruction(name)
    return name in TEMPLATES or (name in LOWERING and (written is None or writes(written)))


def _filled(there: bool) -> str:
    return "yes" if there else "later"


def print_primitives() -> None:
    table = Table(title="primitives", caption=CAPTION)
    table.add_column("primitive", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column)
    found = cells()
    for name, row in sorted(found.items()):
        table.add_row(name, *[f"[yellow]{row[c]}[/]" if row[c] == "later" else row[c] for c in COLUMNS])
    later = [sum(row[c] == "later" for row in found.values()) for c in COLUMNS]
    table.add_section()
    table.add_row(f"{len(found)} primitives", *[f"{n} later" if n else "all" for n in later])
    Console().print(table)


def print_devices() -> None:
    table = Table("device", "what it is")
    for name in devices():
        table.add_row(name, DESCRIPTION.get(name, ""))
    Console().print(table)

"""Checks that imports point one way, down the list of rooms. Run it alone, or as tests/test_import_directions.py.

A room may import from rooms below its own level, and from errors.py. Imports inside functions count; those under
`if TYPE_CHECKING:` do not. The package's `__init__.py` stands above all, but must not load `nn` by being imported.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "katachi"
LEVELS = [
    {"__init__", "__main__"},
    {"cli"},
    {"train"},
    {"data", "io"},
    {"optim", "nn"},
    {"check"},
    {"functional"},
    {"tensor"},
    {"transforms"},
    {"compiler"},
    {"devices"},
    {"kernels"},
    {"graph"},
    {"errors"},
]
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def imports(tree: ast.AST, package: list[str], eager: bool = True) -> Iterator[tuple[int, list[str], bool]]:
    """(line, dotted name, happens when the module is loaded) of every import that happens at run time."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split("."), eager
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            for alias in node.names:
                yield node.lineno, [*base, alias.name], eager
        elif isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
            for other in node.orelse:
                yield from imports(ast.Module([other], []), package, eager)
        else:
            inside_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(node, package, eager and not inside_function)


def violations(root: Path) -> list[str]:
    """One line for each import that points the wrong way in the package whose folder is `root`."""
    found: list[str] = []
    loads: dict[str, set[str]] = {}  # room: the rooms that it imports on being imported itself
    rooms = {path.stem if path.suffix else path.name for path in root.iterdir()}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        room = parts[0]
        if room not in LEVEL_OF:
            found.append(f"{path}: {room} has no level in {Path(__file__).name}")
            continue
        for line, name, eager in imports(ast.parse(path.read_text("utf-8")), [PACKAGE, *parts[:-1]]):
            if name[0] != PACKAGE:
                continue
            # `from katachi import x` is the room x, or a name that only __init__.py makes.
            target = name[1] if len(name) > 1 and name[1] in rooms else "__init__"
            if eager:
                loads.setdefault(room, set()).add(target)
            if target != room and LEVEL_OF.get(target, 0) <= LEVEL_OF[room]:
                found.append(f"{path}:{line}: {room} may not import {target}, which is not below it")

    reached, waiting = set[str](), ["__init__"]
    while waiting:
        room = waiting.pop()
        if room not in reached:
            reached.add(room)
            waiting.extend(loads.get(room, ()))
    if "nn" in reached:
        through = sorted(room for room in reached if "nn" in loads.get(room, ()))
        found.append(f"{root / '__init__.py'}: importing {PACKAGE} loads nn, through {', '.join(through)}")
    return found


if __name__ == "__main__":
    lines = violations(Path(__file__).parents[1] / "src" / PACKAGE)
    print("\n".join(lines) or "imports point one way")
    sys.exit(bool(lines))

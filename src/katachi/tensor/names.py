"""The names that a function's code reads, and whose code it is."""

from __future__ import annotations

import dis
import functools
import os
import sys
import types
from collections.abc import Sequence
from typing import NamedTuple

# Functions and attributes that read an object's fields without naming them in the code.
BY_NAME = frozenset(("getattr", "hasattr", "setattr", "delattr"))
ALL_FIELDS = frozenset(("__dict__", "__getattribute__", "asdict", "astuple", "attrgetter", "deepcopy", "getmembers"))
ALL_FIELDS_GLOBAL = ALL_FIELDS | {"AttributeError", "copy", "dataclasses", "dir", "locals", "replace", "vars"}
# Methods that operators and conversions call, by the opcode and by the name.
OPERATORS = {
    "CONTAINS_OP": ("__eq__", "__hash__"),
    "FORMAT_VALUE": ("__format__", "__str__", "__repr__"),
    "FORMAT_SIMPLE": ("__format__", "__str__", "__repr__"),
    "FORMAT_WITH_SPEC": ("__format__", "__str__", "__repr__"),
    "COMPARE_OP": ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
}
CONVERSIONS = {
    "format": OPERATORS["FORMAT_VALUE"],
    "str": OPERATORS["FORMAT_VALUE"],
    "repr": OPERATORS["FORMAT_VALUE"],
    "print": OPERATORS["FORMAT_VALUE"],
    "hash": ("__hash__",),
    "sorted": ("__lt__",),
    "sort": ("__lt__",),
    "max": ("__lt__", "__gt__"),
    "min": ("__lt__", "__gt__"),
    "index": ("__eq__",),
    "count": ("__eq__",),
}


class Names(NamedTuple):
    """What a function's code names, inner functions included."""

    globals: frozenset[str]
    attributes: frozenset[str]
    sought: frozenset[str]  # attributes that may be missing: they are set, or asked for by getattr or hasattr
    modules: frozenset[tuple[int, str]]  # imported in there: the level of a relative import, the name
    all_fields: bool  # whether it reads fields that it does not name
    asked: frozenset[str]  # globals that getattr and its kin ask for fields that are not named


@functools.lru_cache(4096)
def names_in(code: types.CodeType) -> Names:
    """The names in a function's code.

    >>> names = names_in((lambda x: x.shape + SIZES).__code__)
    >>> sorted(names.globals), sorted(names.attributes)
    (['SIZES'], ['shape'])
    """
    asked = set[str]()
    found, attributes, sought, modules, all_fields = set[str](), set[str](), set[str](), set[tuple[int, str]](), False
    instructions = list(dis.get_instructions(code))
    for i, ins in enumerate(instructions):
        attributes.update(OPERATORS.get(ins.opname, ()))
        if ins.opname == "IMPORT_NAME":
            level = next((x.argval for x in instructions[max(i - 2, 0) : i] if isinstance(x.argval, int)), 0)
            modules.add((level, ins.argval))
        elif ins.opname in ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME"):
            found.add(ins.argval)
            attributes.update(CONVERSIONS.get(ins.argval, ()))
            if ins.argval in BY_NAME:
                name = _second_argument(instructions[i + 1 :])
                if name is not None:
                    sought.add(name)
                elif instructions[i + 1].opname == "LOAD_GLOBAL":
                    asked.add(instructions[i + 1].argval)
                else:
                    all_fields = True
            elif ins.argval == "globals":
                found.update(c for c in code.co_consts if isinstance(c, str))
            all_fields |= ins.argval in ALL_FIELDS_GLOBAL
        elif ins.opcode in dis.hasname:
            (sought if ins.opname == "STORE_ATTR" else attributes).add(ins.argval)
            attributes.update(CONVERSIONS.get(ins.argval, ()))
            all_fields |= ins.argval in ALL_FIELDS
        all_fields |= ins.opname == "MATCH_CLASS"
    for inner in (names_in(c) for c in code.co_consts if isinstance(c, types.CodeType)):
        found |= inner.globals
        attributes |= inner.attributes
        sought |= inner.sought
        modules |= inner.modules
        all_fields |= inner.all_fields
        asked |= inner.asked
    return Names(
        frozenset(found),
        frozenset(attributes | sought),
        frozenset(sought),
        frozenset(modules),
        all_fields,
        frozenset(asked),
    )


def _second_argument(instructions: Sequence[dis.Instruction]) -> str | None:
    """The second argument of a call whose function has just been loaded, if it is a string in the code."""
    depth, name = 0, None
    for ins in instructions:
        if ins.opname.startswith(("CALL", "PRECALL")) and depth <= 3:
            if ins.opname == "CALL":
                return name if ins.arg == depth else None
            continue
        before, depth = depth, depth + dis.stack_effect(ins.opcode, ins.arg, jump=False)
        if before == 1 and depth == 2:
            constant = ins.opname == "LOAD_CONST" and isinstance(ins.argval, str)
            name = ins.argval if constant else None
        elif depth < 2 or (depth == 2 and before != 2):
            name = None  # it was part of a longer expression
        if ins.opname.startswith(("RETURN", "POP_JUMP")) or depth < 0:
            return None
    return None


# the standard library's folder, and katachi's
FOLDERS = tuple(os.path.join(os.path.dirname(f), "") for f in (os.__file__, os.path.dirname(os.path.abspath(__file__))))


def library_code(f: types.FunctionType) -> bool:
    """Whether a function is a library's: katachi's, the standard library's, or an installed package's that does not
    use katachi.

    >>> library_code(dis.dis), library_code(lambda: None)
    (True, False)
    """
    file = f.__code__.co_filename
    return file.startswith(("<frozen", *FOLDERS)) or (
        _installed(file) and library_module(f.__globals__.get("__name__", ""))
    )


def library_module(name: str) -> bool:
    """Whether the module of that name is a library's."""
    top = name.partition(".")[0]
    if top == "katachi" or (top in sys.stdlib_module_names and top != "__main__"):
        return True
    return _installed(getattr(sys.modules.get(name), "__file__", None) or "") and not _uses_katachi(
        top, len(sys.modules)
    )


def _installed(file: str) -> bool:
    return f"{os.sep}site-packages{os.sep}" in file or f"{os.sep}dist-packages{os.sep}" in file


@functools.lru_cache(4096)
def _uses_katachi(top: str, loaded: int) -> bool:
    """Whether a package holds anything of katachi's: then it is a program for katachi that has been installed."""
    for name, module in list(sys.modules.items()):
        if name == top or name.startswith(f"{top}."):
            for x in list(getattr(module, "__dict__", {}).values()):
                of = getattr(x, "__name__" if isinstance(x, types.ModuleType) else "__module__", None)
                if isinstance(of, str) and of.partition(".")[0] == "katachi":
                    return True
    return False

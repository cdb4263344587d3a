"""Machine code that needs no linker any more: of an object of LLVM's, its sections side by side, with the distances
between them filled in. Loading is copying.

This is for ELF on x86-64 (System V ABI, AMD64 supplement, 4.4): position-independent code of the small model refers to
itself by distances of 32 bits. What it does not define, functions of the C library, it reaches by a jump behind it.
An object with anything else in it stays as it is, for LLVM to link.
"""

from __future__ import annotations

import contextlib
import ctypes
import marshal
import mmap
import os
import struct
import sys
from collections.abc import Sequence
from typing import NamedTuple

PAGE = mmap.PAGESIZE
_LINE = 64  # bytes: nothing that LLVM aligns wants more
_JUMP = b"\xff\x25\x02\x00\x00\x00\x90\x90"  # jmp [rip + 2], and two nops; the address lies behind it
_WRITE, _ALLOCATED, _NO_BITS = 1, 2, 8
_PROGRAM, _SYMBOLS, _RELOCATIONS, _RELOCATIONS_WITHOUT_ADDENDS = 1, 2, 4, 9
_DISTANCE, _CALL = 2, 4  # R_X86_64_PC32, R_X86_64_PLT32
_PLAIN = range(4)  # types of symbols: none, data, functions and sections; not of threads, not chosen at run time


class Image(NamedTuple):
    """`code` is read and run, and `data` bytes of zeros behind its last page are written to. `entries` are functions
    by name, `outside` the places of addresses that code takes from the C library. If it is not `linked`, `code` is an
    object, and of `entries` only the names count."""

    code: bytes
    data: int
    entries: dict[str, int]
    outside: dict[str, int]
    linked: bool = True

    def pack(self) -> bytes:
        """As bytes, for `unpack`."""
        return marshal.dumps(tuple(self))


def unpack(data: bytes) -> Image:
    """What `pack` packed."""
    return Image(*marshal.loads(data))


def unlinked(elf: bytes, functions: Sequence[str]) -> Image:
    """An object that LLVM links."""
    return Image(elf, 0, dict.fromkeys(functions, 0), {}, linked=False)


def made_of(elf: bytes, functions: Sequence[str]) -> Image:
    """The image of an object with these functions; the object itself where it cannot be one."""
    with contextlib.suppress(ValueError, LookupError, struct.error):  # the latter: it is not as it says, or too large
        flat = flatten(elf)
        if set(functions) <= set(flat.entries):
            return flat
    return unlinked(elf, functions)


def possible() -> bool:
    """Whether this process can run images."""
    return sys.platform.startswith("linux") and os.uname().machine == "x86_64" and sys.maxsize > 2**32


class _Section(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


def flatten(elf: bytes) -> Image:
    """The image of an object. Raises ValueError where the object has what this file knows nothing of."""
    if elf[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", elf, 18) != (62,):
        raise ValueError("not an ELF object of x86-64")
    (table,) = struct.unpack_from("<Q", elf, 40)
    count = struct.unpack_from("<H", elf, 60)[0]
    sections = [_Section(*struct.unpack_from("<IIQQQQIIQQ", elf, table + 64 * i)) for i in range(count)]

    code, data, at = bytearray(), 0, {}
    for i, s in enumerate(sections):
        if s.flags & _ALLOCATED and s.alignment > _LINE:
            raise ValueError(f"a section that begins at multiples of {s.alignment}")
        if s.type == _RELOCATIONS_WITHOUT_ADDENDS:
            raise ValueError("relocations without addends")
        if s.flags & _ALLOCATED and not s.flags & _WRITE and s.type == _PROGRAM:
            code += bytes(-len(code) % max(s.alignment, 1))
            at[i] = len(code)
            code += elf[s.offset : s.offset + s.size]

    symbols, names = [], b""
    for s in sections:
        if s.type == _SYMBOLS:
            names = elf[sections[s.link].offset :]
            symbols = list(struct.iter_unpack("<IBBHQQ", elf[s.offset : s.offset + s.size]))

    def name(symbol: int) -> str:
        start = symbols[symbol][0]
        return names[start : names.index(0, start)].decode()

    relocations = [
        (at[s.info], *entry)
        for s in sections
        if s.type == _RELOCATIONS and s.info in at
        for entry in struct.iter_unpack("<QQq", elf[s.offset : s.offset + s.size])
    ]
    outside: dict[str, int] = {}
    for _, _, info, _ in relocations:
        if symbols[info >> 32][3] == 0 and name(info >> 32) not in outside:
            code += bytes(-len(code) % 8) + _JUMP
            outside[name(info >> 32)] = len(code)
            code += bytes(8)
    for i, s in enumerate(sections):  # zeros that are written to; their pages follow the code's
        if s.flags & _ALLOCATED and s.flags & _WRITE and s.size:
            if s.type != _NO_BITS:
                raise ValueError("data that is not zero")
            data += -data % max(s.alignment, 1)
            at[i] = _up(len(code), PAGE) + data
            data += s.size
    for base, place, info, addend in relocations:
        _, kind, _, section, value, _ = symbols[info >> 32]
        how = info & 0xFFFFFFFF
        known = section in at and how in (_DISTANCE, _CALL) if section else how == _CALL
        if not known or kind & 15 not in _PLAIN:
            raise ValueError(f"relocation {how}")
        target = at[section] + value if section else outside[name(info >> 32)] - len(_JUMP)
        struct.pack_into("<i", code, base + place, target + addend - base - place)
    entries = {
        name(i): at[section] + value
        for i, (_, kind, _, section, value, _) in enumerate(symbols)
        if kind == 18 and section in at  # a global function
    }
    return Image(bytes(code), data, entries, outside)


_kept: list[mmap.mmap] = []  # what is loaded stays until the process ends


def load(images: Sequence[Image]) -> dict[str, int]:
    """The addresses of all their functions. Raises OSError if the system does not let memory become code."""
    starts, end = [], 0
    for image in images:
        end = _up(end, PAGE if image.data else _LINE)
        starts.append(end)
        end += len(image.code)
        if image.data:
            end = _up(_up(end, PAGE) + image.data, PAGE)
    if not end:
        return {}
    memory = mmap.mmap(-1, end, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE)
    _kept.append(memory)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    library, addresses = ctypes.CDLL(None, use_errno=True), {}
    written = [0]  # where pages begin and end that are written to, in turn
    for image, start in zip(images, starts, strict=True):
        memory[start : start + len(image.code)] = image.code
        for name, place in image.outside.items():
            function = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
            struct.pack_into("<Q", memory, start + place, function)
        addresses.update({name: base + start + place for name, place in image.entries.items()})
        if image.data:
            first = _up(start + len(image.code), PAGE)
            written += [first, _up(first + image.data, PAGE)]
    for first, last in zip(written[::2], [*written[1::2], end], strict=True):  # all else is run, and nothing is both
        run = ctypes.c_void_p(base + first), ctypes.c_size_t(last - first), mmap.PROT_READ | mmap.PROT_EXEC
        if last > first and library.mprotect(*run):
            raise OSError(ctypes.get_errno(), "the system does not let memory become code (mprotect)")
    return addresses


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit

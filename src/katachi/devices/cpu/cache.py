"""Machine code and plans on disk: files named by what they were made from, in the user's cache folder.

Several processes may share it: a file appears whole or not at all. One that is damaged counts as missing. A folder that
cannot be written to costs only time. `KATACHI_CACHE` names another folder; set to "off" there is none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading

MOST_BYTES, MOST_FILES = 1 << 28, 1 << 13  # beyond these, what was written longest ago goes
_DIGEST = 32


def folder() -> str | None:
    """Where machine code is kept, or None."""
    chosen = os.environ.get("KATACHI_CACHE")
    if chosen is not None:
        return None if chosen in ("", "off", "0") else chosen
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    elif sys.platform == "darwin":
        base = os.path.join(home, "Library", "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    return os.path.join(base, "katachi")


def read(name: str) -> bytes | None:
    """What was written under this name, if it is there and whole."""
    place = folder()
    if place is None:
        return None
    try:
        with open(os.path.join(place, name), "rb") as f:
            data = f.read()
    except OSError:
        return None
    if len(data) <= _DIGEST or hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        return None
    return data[_DIGEST:]


def write(name: str, data: bytes) -> None:
    """Keep data under this name, if that is possible."""
    place = folder()
    if place is None:
        return
    with contextlib.suppress(OSError):
        os.makedirs(place, exist_ok=True, mode=0o700)
        # of this process and thread alone; what a process left that was killed here is written over
        path = os.path.join(place, f".new-{os.getpid()}-{threading.get_ident()}")
        try:
            with open(path, "wb", opener=_private) as f:
                f.write(hashlib.sha256(data).digest() + data)
            os.replace(path, os.path.join(place, name))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def tidy() -> None:
    """Remove what was written longest ago when there is too much."""
    place = folder()
    if place is None:
        return
    with contextlib.suppress(OSError):
        files = [(entry.stat(), entry.path) for entry in os.scandir(place) if entry.is_file()]
        total, many = sum(stat.st_size for stat, _ in files), len(files)
        for stat, path in sorted(files, key=lambda f: f[0].st_mtime):
            if total <= MOST_BYTES and many <= MOST_FILES:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                total, many = total - stat.st_size, many - 1


def source_digest() -> str:
    """Of the code that makes programs and kernels: what other code wrote is not what this code would write."""
    here = os.path.dirname(os.path.abspath(__file__))
    katachi = os.path.dirname(os.path.dirname(here))
    digest = hashlib.sha256(str(sys.implementation.cache_tag).encode())
    for room in (here, *(os.path.join(katachi, name) for name in ("graph", "kernels", "compiler"))):
        for name in sorted(os.listdir(room)):
            if name.endswith(".py"):
                with open(os.path.join(room, name), "rb") as f:
                    digest.update(name.encode() + f.read())
    return digest.hexdigest()

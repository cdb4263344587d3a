"""Machine code and plans on disk: files named by what they were made from, in the user's cache folder.

Several processes may share it: a file appears whole or not at all. One that is damaged counts as missing. A folder that
cannot be written to costs only time. `KATACHI_CACHE` names another folder; set to "off" there is none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from pathlib import Path

MOST_BYTES, MOST_FILES = 1 << 28, 1 << 13  # beyond these, what was written longest ago goes
_DIGEST = 32


def folder() -> Path | None:
    """Where machine code is kept, or None."""
    chosen = os.environ.get("KATACHI_CACHE")
    if chosen is not None:
        return None if chosen in ("", "off", "0") else Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "katachi"


def read(name: str) -> bytes | None:
    """What was written under this name, if it is there and whole."""
    place = folder()
    if place is None:
        return None
    try:
        data = (place / name).read_bytes()
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
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, path = tempfile.mkstemp(dir=place, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as f:
                f.write(hashlib.sha256(data).digest() + data)
            os.replace(path, place / name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise


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
    katachi = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256(sys.implementation.cache_tag.encode())
    for room in ("graph", "kernels", "compiler", "devices/cpu"):
        for path in sorted((katachi / room).glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()

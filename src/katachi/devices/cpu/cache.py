"""Machine code and plans on disk: files named by what they were made from, in the user's cache folder.

Several processes may share it: a file appears whole or not at all. One that is damaged counts as missing. A folder that
cannot be written to costs only time. `KATACHI_CACHE` names another folder; set to "off" there is none.

What is in it is run, so on POSIX systems a folder is used only if it belongs to the user and nobody else may write to
it, and a file in it likewise. Both are asked of what has been opened, so that it cannot be exchanged in between.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import ml_dtypes
import numpy as np

MOST_BYTES, MOST_FILES = 1 << 28, 1 << 14  # beyond these, what was written longest ago goes
_DIGEST = 32
_OURS = re.compile(r"(kernel|module|program|sized|machine)_[0-9a-f]+|\.new-[0-9-]+")  # files; no other is ever removed
_MAKING = ("graph", "kernels", "compiler", "devices/reference")  # rooms whose code decides what is in a file
_POSIX = os.name == "posix"
_OPEN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_warned: set[str] = set()  # of these folders


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


class _Folder(NamedTuple):
    """An open folder: files in it are named by `path` and `fd` together."""

    path: str
    fd: int | None

    def open(self, name: str, flags: int) -> int:
        """A file of this user's own, never by a link. Raises OSError."""
        fd = os.open(self.path + name, flags | _OPEN, 0o600, dir_fd=self.fd)
        if _POSIX and _others(os.fstat(fd)):
            os.close(fd)
            raise PermissionError(name)
        return fd


@contextlib.contextmanager
def _opened(make: bool = False) -> Iterator[_Folder]:
    """The folder. Raises OSError where there is none to use; warns once of one that others can change."""
    place = folder()
    if place is None:
        raise FileNotFoundError
    if make:
        os.makedirs(place, exist_ok=True, mode=0o700)
    if not _POSIX:
        yield _Folder(os.path.join(place, ""), None)
        return
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        link = os.lstat(place)
        why = _others(os.fstat(fd)) or (stat.S_ISLNK(link.st_mode) and _others(link))
        if why:
            _warn(place, why)
            raise PermissionError(place)
        yield _Folder("", fd)
    finally:
        os.close(fd)


def _others(found: os.stat_result) -> str:
    """What lets other users change this file, folder or link; empty if nothing does."""
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid} (this process runs as {os.geteuid()})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not stat.S_ISLNK(found.st_mode):
        return "others may write to (`chmod go-w` takes that from them)"
    return ""


def _warn(place: str, why: str) -> None:
    if place in _warned:
        return
    _warned.add(place)
    warnings.warn(
        f"katachi does not use the cache folder {place}, which {why}: what is in it would be run as machine code. So"
        " this process compiles anew and keeps nothing. Remedy: let KATACHI_CACHE name a folder that belongs to this"
        " user and that nobody else may write to, or 'off'",
        RuntimeWarning,
        stacklevel=2,
    )


def read(name: str) -> bytes | None:
    """What was written under this name, if it is there and whole."""
    try:
        with _opened() as at, open(at.open(name, os.O_RDONLY), "rb") as f:
            data = f.read()
    except OSError:
        return None
    if len(data) <= _DIGEST or hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        return None
    return data[_DIGEST:]


def write(name: str, data: bytes) -> None:
    """Keep data under this name, if that is possible."""
    with contextlib.suppress(OSError), _opened(make=True) as at:
        # of this process and thread alone; what a process left that was killed here is written over
        new = f".new-{os.getpid()}-{threading.get_ident()}"
        try:
            with open(at.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as f:
                f.write(hashlib.sha256(data).digest() + data)
            os.replace(at.path + new, at.path + name, src_dir_fd=at.fd, dst_dir_fd=at.fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(at.path + new, dir_fd=at.fd)
            raise


def tidy() -> None:
    """Remove what was written longest ago when there is too much."""
    with contextlib.suppress(OSError), _opened() as at:
        with os.scandir(at.path if at.fd is None else at.fd) as found:
            files = [(f.stat(follow_symlinks=False), f.name) for f in found if _OURS.fullmatch(f.name)]
        total, many = sum(known.st_size for known, _ in files), len(files)
        for known, name in sorted(files, key=lambda f: f[0].st_mtime):
            if total <= MOST_BYTES and many <= MOST_FILES:
                break
            with contextlib.suppress(OSError):
                os.unlink(at.path + name, dir_fd=at.fd)
                total, many = total - known.st_size, many - 1


def source_digest() -> str:
    """Of the code that makes programs and kernels, and of what folds their constants (NumPy, by the definitions of the
    reference device): what other code wrote is not what this code would write."""
    here = os.path.dirname(os.path.abspath(__file__))
    katachi = os.path.dirname(os.path.dirname(here))
    versions = sys.implementation.cache_tag, np.__version__, ml_dtypes.__version__
    digest = hashlib.sha256(repr(versions).encode())
    for room in (here, *(os.path.join(katachi, *name.split("/")) for name in _MAKING)):
        for name in sorted(os.listdir(room)):
            if name.endswith(".py"):
                with open(os.path.join(room, name), "rb") as f:
                    digest.update(name.encode() + f.read())
    return digest.hexdigest()

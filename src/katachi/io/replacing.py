"""Replacing a file as a whole: whoever opens it finds the old contents or the new, whatever happens in between."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path` to write to. At the end its file takes the place of `path`; after an error it is gone.

    The contents reach the disk before the name does, and the name before this returns, so a power cut leaves one of the
    two files whole as well. A killed process may leave the temporary file behind: `.name.<random>.tmp`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "note")
    >>> with replacing(path) as new: _ = new.write_text("whole")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('whole', 1)
    """
    target = Path(path)
    if not target.parent.is_dir():  # else the message would name a file that nobody asked for
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(target.parent))
    new = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield new
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(new, target)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # there folders cannot be opened; the rename is on its own
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""What the operating system says this process takes. Linux tells the high-water mark and lets it be reset; elsewhere
the answer is None, "not measured"."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def read(field: str) -> int | None:
    """Bytes of VmRSS (now) or VmHWM (the most since the start or the last reset)."""
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def reset() -> bool:
    """Lower the high-water mark to what is taken now; whether that was possible."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def trim() -> None:
    """Give back what the C library keeps of freed memory: the weights' making leaves some behind in every column."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

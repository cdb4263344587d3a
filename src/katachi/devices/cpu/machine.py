"""What the operating system says of this machine."""

from __future__ import annotations

import os

_SAYS = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> tuple[str, ...]:
    """What decides which instructions there are; empty where the system does not say. Linux on x86-64 does."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            text = f.read(16384)  # all cores are alike, and there may be hundreds
    except OSError:
        return ()
    first = text.split("\n\n")[0].splitlines()
    said = tuple(line for line in first if line.split("\t")[0].split(":")[0].strip() in _SAYS)
    return said if any(line.startswith("flags") for line in said) else ()

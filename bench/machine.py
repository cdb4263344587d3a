"""The machine and the versions, in words."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = {
    "katachi": ("katachi", "llvmlite", "numpy"),
    "torch": ("torch",),
    "jax": ("jax", "jaxlib"),
    "numpy": ("numpy",),
}
WIDTHS = {
    "avx512f": "512 bits (AVX-512)",
    "avx2": "256 bits (AVX2)",
    "asimd": "128 bits (NEON)",
    "sse2": "128 bits (SSE2)",
}


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, str]:
    """Processor, cores, vectors, memory, system; what cannot be found out is left out."""
    told: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            told[key.strip()] = value.strip()
    flags = (told.get("flags") or told.get("Features") or "").split()
    found = {
        "processor": told.get("model name") or platform.processor() or platform.machine(),
        "cores": str(cores()),
        "vectors": next((width for flag, width in WIDTHS.items() if flag in flags), ""),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    return {key: value for key, value in found.items() if value}


def _memory() -> str:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    return ""


def versions(framework: str) -> dict[str, str]:
    """Of a framework and what it computes with; of katachi the commit as well, where git tells."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES[framework]:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    if framework == "katachi":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["git", "describe", "--always", "--dirty"]
            root = Path(__file__).parent
            text = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=10).stdout
            found["katachi"] = f"{found.get('katachi', '')} ({text.strip()})".strip()
    return found

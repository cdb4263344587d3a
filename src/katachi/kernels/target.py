"""What kernels are written for."""

from __future__ import annotations

from typing import NamedTuple


class Target(NamedTuple):
    """What the writers want to know of a machine."""

    bits: int  # of a vector register
    masks: bool  # whether masked loads and stores are as fast as plain ones
    arch: str  # LLVM's name: x86_64, aarch64, ...
    halves: bool = False  # whether an instruction converts float16

    def lanes(self, scalar: str) -> int:
        return self.bits // {"double": 64, "i64": 64}.get(scalar, 32)

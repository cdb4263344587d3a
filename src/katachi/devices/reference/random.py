"""Counter-based random bits: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MASK = (1 << 64) - 1


def philox(counter: tuple[Array, Array, Array, Array], key: tuple[int, int]) -> tuple[Array, ...]:
    """Ten rounds on four 32-bit counter words (held in uint64 arrays) with a key of two words."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = (np.uint64(k) for k in key)
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return tuple(c.astype(np.uint32) for c in (c0, c1, c2, c3))


def _rng_bits(seed: Array, call: Array, *, shape: tuple[int, ...]) -> Array:
    n, key, draw = int(np.prod(shape)), int(seed) & _MASK, int(call) & _MASK  # signed or not, 64 bits are 64 bits
    block = np.arange((n + 3) // 4, dtype=np.uint64)
    call_words = [np.full_like(block, w) for w in (draw & 0xFFFFFFFF, draw >> 32)]
    words = philox((block & _LOW, block >> _HALF, *call_words), (key & 0xFFFFFFFF, key >> 32))  # type: ignore[arg-type]
    return np.stack(words, -1).reshape(-1)[:n].reshape(shape)


RANDOM: dict[str, Callable[..., Array]] = {"rng_bits": _rng_bits}

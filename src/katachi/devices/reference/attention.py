"""Definitions of attention, scores and all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def _scores(q: Array, k: Array, mask: tuple[Array, ...], scale: float, causal: bool) -> Array:
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) * scale
    for may_look in (*mask, *([np.tri(*scores.shape[-2:], dtype=bool)] if causal else [])):
        scores = np.where(may_look, scores, -np.inf)
    return scores


def _exponentials(scores: Array) -> tuple[Array, Array, Array]:
    """exp(scores - top), the sums of its rows, and top, the largest of each row: 0 where that is -inf."""
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    top = np.where(top == -np.inf, 0.0, top)
    e = np.exp(scores - top)
    return e, e.sum(-1, keepdims=True), top


def _weights(scores: Array) -> Array:
    e, total, _ = _exponentials(scores)
    return e / np.where(total == 0, 1.0, total)


def _attention_logsumexp(q: Array, k: Array, *mask: Array, scale: float, causal: bool) -> Array:
    _, total, top = _exponentials(_scores(q, k, mask, scale, causal))
    with np.errstate(divide="ignore"):
        return (np.log(total) + top)[..., 0].astype(q.dtype if q.dtype.itemsize >= 4 else np.float32)


def _attention(q: Array, k: Array, v: Array, logsumexp: Array, *mask: Array, scale: float, causal: bool) -> Array:
    return (_weights(_scores(q, k, mask, scale, causal)) @ v.astype(np.float64)).astype(q.dtype)


def _attention_gradient(
    q: Array, k: Array, v: Array, logsumexp: Array, out: Array, g: Array, *mask: Array,
    scale: float, causal: bool, of: int,
) -> Array:  # fmt: skip
    w, wide = _weights(_scores(q, k, mask, scale, causal)), g.astype(np.float64)
    if of == 2:
        return (w.swapaxes(-1, -2) @ wide).astype(v.dtype)
    of_weights = wide @ v.astype(np.float64).swapaxes(-1, -2)
    of_scores = w * (of_weights - (w * of_weights).sum(-1, keepdims=True)) * scale
    return (of_scores @ k.astype(np.float64) if of == 0 else of_scores.swapaxes(-1, -2) @ q.astype(np.float64)).astype(
        q.dtype
    )


ATTENTION: dict[str, Callable[..., Array]] = {
    "attention_logsumexp": _attention_logsumexp,
    "attention": _attention,
    "attention_gradient": _attention_gradient,
}

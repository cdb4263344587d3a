"""Definitions of control flow: bodies are run node by node, or as programs where a device has made some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from katachi.errors import ShapeError
from katachi.graph.control import Body

Array = np.ndarray[Any, Any]


def _call(body: Any, params: Sequence[Array], captured: Sequence[Array]) -> list[Array]:
    if not isinstance(body, Body):
        return body(params, captured)
    from katachi.devices.reference import REFERENCE

    env: dict[Any, Any] = dict(zip(body.params, params, strict=True))
    env.update(zip(body.captured, captured, strict=True))
    for n, inputs in body.steps:
        out = REFERENCE[n.primitive](*[env[x] for x in inputs], **n.attrs)
        env[n] = out if isinstance(out, tuple) else np.ascontiguousarray(out).reshape(n.shape)
    return [env[n] for n in body.outputs]


def _own(results: Sequence[Array], operands: Sequence[Array]) -> tuple[Array, ...]:
    """Results in memory of their own: that of operands, and of bodies, may be overwritten before a bundle is taken
    apart."""
    shared = [r.base is not None or any(np.may_share_memory(r, x) for x in operands) for r in results]
    return tuple(r.copy() if s else r for r, s in zip(results, shared, strict=True))


def _scan(*arrays: Array, body: Any, carry: int, length: int, reverse: bool) -> tuple[Array, ...]:
    """carry values, then stacks that are read along their first axis, then what the body captures."""
    sequences = len(body.params) - carry
    state, stacks = list(arrays[:carry]), arrays[carry : carry + sequences]
    captured = arrays[carry + sequences :]
    ys = [np.empty((length, *n.shape), n.dtype.numpy) for n in body.outputs[carry:]]
    for t in range(length)[:: -1 if reverse else 1]:
        out = _call(body, [*state, *(s[t] for s in stacks)], captured)
        state = out[:carry]
        for y, value in zip(ys, out[carry:], strict=True):
            y[t] = value
    return _own((*state, *ys), arrays)


def _while(*arrays: Array, condition: Any, body: Any, carry: int) -> tuple[Array, ...]:
    state = list(arrays[:carry])
    mine, other = np.split(np.arange(carry, len(arrays)), [len(condition.captured)])
    while bool(_call(condition, state, [arrays[i] for i in mine])[0]):
        state = _call(body, state, [arrays[i] for i in other])
    return _own(state, arrays)


def _cond(which: Array, *arrays: Array, yes: Any, no: Any) -> tuple[Array, ...]:
    n, k = len(yes.params), len(yes.captured)
    if bool(which):
        return _own(_call(yes, arrays[:n], arrays[n : n + k]), arrays)
    return _own(_call(no, arrays[:n], arrays[n + k :]), arrays)


def _element(bundle: tuple[Array, ...], *, index: int, shape: Any, dtype: Any) -> Array:
    return bundle[index]


def _custom_call(*arrays: Array, function: Callable[..., Any], shape: Any, dtype: Any) -> Array:
    copies = [np.array(a) for a in arrays]  # which the function may keep
    for c in copies:
        c.flags.writeable = False  # values never change, whatever the function tries
    out = np.asarray(function(*copies))
    if out.shape != shape or out.dtype != dtype.numpy:
        raise ShapeError(f"the function promised {dtype.name}{list(shape)} and gave {out.dtype}{list(out.shape)}")
    return out


CONTROL: dict[str, Callable[..., Any]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "element": _element,
    "custom_call": _custom_call,
}

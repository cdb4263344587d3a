"""Exact algebra: what a node is equal to, bit for bit, with less work. NaN, infinities and signs of zero included.

`RULES` says by primitive what a node may be replaced by; `fold` computes what is computed of constants alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from katachi.devices.reference import REFERENCE
from katachi.graph.node import Node, aval
from katachi.graph.primitives import ELEMENTWISE
from katachi.graph.sizes import Shape
from katachi.graph.symint import SymInt, always_equal

NUMBERS = ("constant", "broadcast_in_dim", "reshape", "transpose", "slice", "reverse")  # keep one number one number


def in_place_of(node: Node, primitive: str, inputs: tuple[Node, ...], attrs: dict[str, Any]) -> Node:
    """A new node with the type, the user's line and the place in the order of an old one."""
    new = Node(primitive, inputs, attrs, node.aval)
    new.site, new.group, new.serial = node.site, node.group, node.serial
    return new


def number(node: Node) -> Any:
    """The one number that all elements of a node are known to be, or None."""
    while node.primitive in NUMBERS:
        if node.primitive == "constant":
            value = node.attrs["value"]
            return None if value.__class__ is SymInt else value
        node = node.inputs[0]
    return None


def spread(node: Node, value: Any, root: Node) -> Node:
    """A constant in place of a node; `root` is a constant node that comes before it."""
    kind = aval((), node.dtype, node.device, False)
    constant = Node("constant", (), {**root.attrs, "value": value, "dtype": node.dtype}, kind)
    constant.site, constant.group, constant.serial = node.site, node.group, root.serial
    if not node.shape:
        constant.serial = node.serial
        return constant
    return in_place_of(node, "broadcast_in_dim", (constant,), {"shape": node.shape, "dims": ()})


def fold(node: Node) -> Node | None:
    """An element-wise node whose operands are all known numbers."""
    if node.primitive not in ELEMENTWISE:
        return None
    values = [number(x) for x in node.inputs]
    if any(v is None for v in values):
        return None
    arrays = [np.asarray(v).astype(x.dtype.numpy) for v, x in zip(values, node.inputs, strict=True)]
    with np.errstate(all="ignore"):
        result = np.asarray(REFERENCE[node.primitive](*arrays, **node.attrs))
    value = result.astype(np.float64).item() if node.dtype.is_floating else result.item()
    return spread(node, value, _root(node.inputs[0]))


def _root(node: Node) -> Node:
    while node.inputs:
        node = node.inputs[0]
    return node


def _is(node: Node, value: float) -> bool:
    """Whether a node is this number, the sign of zero included."""
    found = number(node)
    return found is not None and found == value and str(float(found)) == str(float(value))


def _multiply(node: Node) -> Node | None:
    a, b = node.inputs
    return a if _is(b, 1.0) else b if _is(a, 1.0) else None


def _divide(node: Node) -> Node | None:
    return node.inputs[0] if _is(node.inputs[1], 1.0) else None


def _add(node: Node) -> Node | None:
    """x + 0 is x for integers; for floats only x + -0 is, because -0 + 0 is 0."""
    a, b = node.inputs
    zero = -0.0 if node.dtype.is_floating else 0.0
    return a if _is(b, zero) or _none(b, node) else b if _is(a, zero) or _none(a, node) else None


def _none(x: Node, node: Node) -> bool:
    return not node.dtype.is_floating and number(x) == 0


def _subtract(node: Node) -> Node | None:
    return node.inputs[0] if _is(node.inputs[1], 0.0) else None


def _twice(node: Node) -> Node | None:
    (x,) = node.inputs
    return x.inputs[0] if x.primitive == node.primitive else None


def _select(node: Node) -> Node | None:
    which, yes, no = node.inputs
    known = number(which)
    return yes if yes is no else None if known is None else yes if known else no


def _convert(node: Node) -> Node | None:
    """There and back through a dtype that holds every value."""
    (x,) = node.inputs
    if x.dtype is node.dtype:
        return x
    if x.primitive == "convert" and x.inputs[0].dtype is node.dtype and _holds(x.dtype.name, node.dtype.name):
        return x.inputs[0]
    return None


def _holds(wide: str, narrow: str) -> bool:
    return np.can_cast(narrow, wide, "safe") if "bfloat16" not in (wide, narrow) else wide in ("float32", "float64")


def _transpose(node: Node) -> Node | None:
    (x,), order = node.inputs, node.attrs["permutation"]
    if x.primitive == "transpose":
        inner = x.attrs["permutation"]
        order, x = tuple(inner[i] for i in order), x.inputs[0]
        if order != tuple(range(len(order))):
            return in_place_of(node, "transpose", (x,), {"permutation": order})
    return x if order == tuple(range(len(order))) else None


def _reshape(node: Node) -> Node | None:
    (x,) = node.inputs
    while x.primitive == "reshape" and not always_equal(x.shape, node.shape):
        x = x.inputs[0]
    if always_equal(x.shape, node.shape):
        return x
    return None if x is node.inputs[0] else in_place_of(node, "reshape", (x,), {"shape": node.shape})


def _broadcast(node: Node) -> Node | None:
    (x,), dims = node.inputs, node.attrs["dims"]
    if always_equal(x.shape, node.shape):
        return x
    if x.primitive == "broadcast_in_dim":
        inner = tuple(dims[d] for d in x.attrs["dims"])
        return in_place_of(node, "broadcast_in_dim", x.inputs, {"shape": node.shape, "dims": inner})
    return None


def _nothing_moves(node: Node) -> Node | None:
    x = node.inputs[0]
    return x if always_equal(x.shape, node.shape) else None


def _pad(node: Node) -> Node | None:
    a: Any = node.attrs
    return node.inputs[0] if not any((*a["low"], *a["high"], *a["interior"])) else None


def _one_part(node: Node) -> Node | None:
    parts = [x for x in node.inputs if x.shape[node.attrs["dimension"]]]
    return parts[0] if len(parts) == 1 else None


def _no_axes(node: Node) -> Node | None:
    axes: Shape = tuple(i for i in node.attrs["axes"] if node.inputs[0].shape[i] != 1)
    return in_place_of(node, "reshape", node.inputs, {"shape": node.shape}) if not axes else None


RULES: dict[str, Callable[[Node], Node | None]] = {
    "multiply": _multiply,
    "divide": _divide,
    "add": _add,
    "subtract": _subtract,
    "negate": _twice,
    "not": _twice,
    "select": _select,
    "convert": _convert,
    "transpose": _transpose,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "slice": _nothing_moves,
    "pad": _pad,
    "concatenate": _one_part,
    "reduce_max": _no_axes,
    "reduce_min": _no_axes,
    "reduce_and": _no_axes,
    "reduce_or": _no_axes,
}


def simpler(node: Node) -> Node:
    """What may stand for the node."""
    found = fold(node)
    if found is None and node.primitive in RULES:
        found = RULES[node.primitive](node)
    return node if found is None else found

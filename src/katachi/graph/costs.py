"""What the primitives cost: one row each. Whoever decides what is computed twice and what is kept reads it here."""

from __future__ import annotations

from katachi.graph.attention import FIRST_MASK
from katachi.graph.node import Node
from katachi.graph.sizes import count

Cost = str
CHEAP = "cheap"  # an element is a few instructions, or none
MOVED = "moved"  # no arithmetic either, but elements come from places that are computed or tested one by one
ERASED = "erased"  # an identity: a pass removes it
SLOW = "slow"  # several times as long: divisions and roots
DEAR = "dear"  # as long as a polynomial or more
DRAWN = "drawn"  # random bits: dear, and made of nothing but a seed and a count
WINDOW = "window"  # an element reads its operand many times
WHOLE = "whole"  # a kernel or a loop of its own, or a program: computed once

COSTS: dict[str, Cost] = {
    "constant": CHEAP, "iota": CHEAP, "convert": CHEAP, "bitcast_convert": CHEAP,
    "broadcast_in_dim": CHEAP, "reshape": CHEAP, "transpose": CHEAP, "slice": CHEAP, "reverse": CHEAP,
    "abs": CHEAP, "negate": CHEAP, "sign": CHEAP, "floor": CHEAP, "ceil": CHEAP, "round_nearest_even": CHEAP,
    "is_finite": CHEAP, "compare": CHEAP, "select": CHEAP, "maximum": CHEAP, "minimum": CHEAP,
    "add": CHEAP, "subtract": CHEAP, "multiply": CHEAP,
    "not": CHEAP, "and": CHEAP, "or": CHEAP, "xor": CHEAP,
    "shift_left": CHEAP, "shift_right_logical": CHEAP, "shift_right_arithmetic": CHEAP,
    "pad": MOVED, "concatenate": MOVED, "gather": MOVED, "dynamic_slice": MOVED, "dynamic_update_slice": MOVED,
    "stop_gradient": ERASED, "variable": ERASED, "optimization_barrier": ERASED, "custom_gradient": ERASED,
    "to_device": ERASED,
    "divide": SLOW, "remainder": SLOW, "sqrt": SLOW,
    "exponential": DEAR, "exponential_minus_one": DEAR, "log": DEAR, "log_plus_one": DEAR, "power": DEAR,
    "erf": DEAR, "logistic": DEAR, "sine": DEAR, "cosine": DEAR, "tan": DEAR, "asin": DEAR, "acos": DEAR,
    "atan2": DEAR, "sinh": DEAR, "cosh": DEAR, "tanh": DEAR, "asinh": DEAR, "acosh": DEAR, "atanh": DEAR,
    "rng_bits": DRAWN,
    "convolution": WINDOW, "reduce_window": WINDOW, "reduce_window_gradient": WINDOW,
    "reduce_sum": WHOLE, "reduce_prod": WHOLE, "reduce_max": WHOLE, "reduce_min": WHOLE, "reduce_and": WHOLE,
    "reduce_or": WHOLE, "argmax": WHOLE, "cumulative_sum": WHOLE, "cumulative_prod": WHOLE, "cumulative_max": WHOLE,
    "cumulative_min": WHOLE, "sort": WHOLE, "scatter": WHOLE, "dot_general": WHOLE, "attention": WHOLE,
    "attention_logsumexp": WHOLE, "attention_gradient": WHOLE, "scan": WHOLE, "while": WHOLE, "cond": WHOLE,
    "element": WHOLE, "custom_call": WHOLE,
}  # fmt: skip


def costing(*costs: Cost) -> frozenset[str]:
    """The primitives of some costs.

    >>> sorted(costing(SLOW))
    ['divide', 'remainder', 'sqrt']
    """
    return frozenset(name for name, cost in COSTS.items() if cost in costs)


def operations(node: Node) -> float:
    """Roughly, of a kernel of its own: a matrix product, a convolution or attention; or as many as take the time of a
    sort."""
    if node.primitive == "sort":
        return 2500.0 * count(node.shape)
    if node.primitive in FIRST_MASK:
        return 4.0 * count(node.inputs[0].shape) * node.inputs[1].shape[-2]
    if node.primitive == "dot_general":
        axes, _ = node.attrs["contract"]
        return 2.0 * count(node.shape) * count(tuple(node.inputs[0].shape[i] for i in axes))
    return 2.0 * count(node.shape) * count(node.inputs[1].shape[1:]) if len(node.inputs) > 1 else 0.0

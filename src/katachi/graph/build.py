"""Short names for making nodes, for the rooms that write formulas: derivatives, composed operations, optimisers."""

from __future__ import annotations

from katachi.graph.dtypes import DType, bool_
from katachi.graph.node import Node
from katachi.graph.primitives import constant, make
from katachi.graph.sizes import Shape, alike, broadcast, is_one


def full(value: float, shape: Shape, dtype: DType, device: str) -> Node:
    """A constant of any shape."""
    return spread(constant(value, dtype, device), shape)


def like(x: Node, value: float) -> Node:
    """A constant shaped as x."""
    return full(value, x.shape, x.dtype, x.device)


def spread(x: Node, shape: Shape) -> Node:
    """x broadcast to `shape` by NumPy's rule."""
    if alike(x.shape, shape):
        return x
    lead = len(shape) - len(x.shape)
    return make("broadcast_in_dim", x, shape=shape, dims=tuple(range(lead, len(shape))))


def level(*xs: Node) -> tuple[Node, ...]:
    """The operands broadcast to one shape, which must exist."""
    shape: Shape = ()
    for x in xs:
        common = broadcast(shape, x.shape)
        assert common is not None
        shape = common
    return tuple(spread(x, shape) for x in xs)


def add(a: Node, b: Node) -> Node:
    return make("add", *level(a, b))


def subtract(a: Node, b: Node) -> Node:
    return make("subtract", *level(a, b))


def multiply(a: Node, b: Node) -> Node:
    return make("multiply", *level(a, b))


def divide(a: Node, b: Node) -> Node:
    return make("divide", *level(a, b))


def scale(x: Node, factor: float) -> Node:
    return make("multiply", x, like(x, factor))


def shift(x: Node, by: float) -> Node:
    return make("add", x, like(x, by))


def compare(a: Node, direction: str, b: Node) -> Node:
    return make("compare", *level(a, b), direction=direction)


def select(which: Node, yes: Node, no: Node) -> Node:
    return make("select", *level(which, yes, no))


def convert(x: Node, dtype: DType) -> Node:
    return x if x.dtype is dtype else make("convert", x, dtype=dtype)


def to_device(x: Node, device: str) -> Node:
    return x if x.device == device else make("to_device", x, target=device)


def reshape(x: Node, shape: Shape) -> Node:
    return x if alike(x.shape, shape) else make("reshape", x, shape=shape)


def transpose(x: Node, permutation: tuple[int, ...]) -> Node:
    return x if permutation == tuple(range(len(x.shape))) else make("transpose", x, permutation=permutation)


def reduce(primitive: str, x: Node, axes: tuple[int, ...], keepdims: bool = False) -> Node:
    """A reduction; no axes, no node."""
    out = make(primitive, x, axes=axes) if axes else x
    if keepdims and axes:
        out = reshape(out, tuple(1 if i in axes else n for i, n in enumerate(x.shape)))
    return out


def root_of_powers(x: Node, order: float = 2.0) -> Node:
    """The root of a sum of squares, or of other powers: a norm. Its gradient at 0 is 0, as that of abs."""
    nothing = compare(x, "EQ", like(x, 0.0))
    safe = select(nothing, like(x, 1.0), x)
    root = make("sqrt", safe) if order == 2.0 else make("power", safe, like(x, 1.0 / order))
    return select(nothing, like(x, 0.0), root)


def flat(value: Node, *xs: Node) -> Node:
    """A value whose gradient is 0 for every one of `xs`, and which yet is as variable as they are."""
    value, always = make("stop_gradient", value), full(True, value.shape, bool_, value.device)
    for x in xs:
        value = select(always, value, x) if x.tracked else value
    return value


def unspread(x: Node, shape: Shape) -> Node:
    """x summed back to the shape that `spread` broadcast it from."""
    lead = len(x.shape) - len(shape)
    ones = tuple(i + lead for i, n in enumerate(shape) if is_one(n) and not is_one(x.shape[i + lead]))
    return reshape(reduce("reduce_sum", x, (*range(lead), *ones)), shape)

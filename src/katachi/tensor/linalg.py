"""Products of matrices."""

from __future__ import annotations

from typing import Any

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import bool_, promote
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.signatures import product
from katachi.tensor.types import like


def _matmul(x: Node, y: Node) -> Node:
    if not x.shape or not y.shape:
        raise ShapeError(f"needs operands with at least one axis, got {x.shape} and {y.shape}; for numbers there is *")
    dtype = promote(x.dtype, y.dtype)
    if dtype is bool_:
        raise DTypeError("needs numeric dtypes, got bool")
    x, y = b.convert(x, dtype), b.convert(y, dtype)
    row, column = len(x.shape) == 1, len(y.shape) == 1
    x = b.reshape(x, (1, *x.shape)) if row else x
    y = b.reshape(y, (*y.shape, 1)) if column else y
    if x.shape[-1] != y.shape[-2]:
        raise ShapeError(f"inner sizes differ: {x.shape[-1]} and {y.shape[-2]}")
    if len(y.shape) == 2:  # one matrix for all of x: no batch, one product
        out = make("dot_general", x, y, batch=((), ()), contract=((len(x.shape) - 1,), (0,)))
    else:
        lead = b.broadcast(x.shape[:-2], y.shape[:-2])
        if lead is None:
            raise ShapeError(f"batch axes {x.shape[:-2]} and {y.shape[:-2]} do not broadcast")
        x, y = b.spread(x, lead + x.shape[-2:]), b.spread(y, lead + y.shape[-2:])
        batch, n = tuple(range(len(lead))), len(lead)
        out = make("dot_general", x, y, batch=(batch, batch), contract=((n + 1,), (n,)))
    shape = out.shape
    if column:
        shape = shape[:-1]
    if row:
        shape = (*shape[:-2], shape[-1]) if not column else shape[:-1]
    return b.reshape(out, shape)


MATMUL = Op("matmul", _matmul, upcast=2)


@like(product)
def matmul(x1: Any, x2: Any, /) -> Any:
    """The matrix product over the last two axes; leading axes broadcast, and a vector is a row left, a column right.
    Half types are computed in float32 and rounded once.

    Raises ShapeError when the inner sizes differ or an operand is a scalar. On x86 CPUs subnormal elements and sums (in
    float32 those below 1.2e-38) count as zero, as in convolutions and attention; products with a vector keep them.

    >>> import katachi as kt
    >>> (kt.ones((2, 3)) @ kt.ones((3, 4))).shape
    (2, 4)
    """
    return apply(MATMUL, (x1, x2))

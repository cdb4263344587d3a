"""Finding: where a value belongs in an order, what is not zero, what differs. Shapes that depend on values are read off
the values, which computes them, as masks do."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from katachi.errors import ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import bool_, int64, promote
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.tensor import movement
from katachi.tensor.advanced import take, take_axis
from katachi.tensor.apply import apply
from katachi.tensor.creation import tensor
from katachi.tensor.cumulative import sorting_order
from katachi.tensor.entry import Op
from katachi.tensor.signatures import searching
from katachi.tensor.types import like

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Fixed


def _before(a: Node, value: Node, side: str) -> Node:
    """Whether a stands before the value; NaN counts as larger than all."""
    missing = b.compare(value, "NE", value)
    if side == "right":
        return make("or", b.compare(a, "LE", value), missing)
    return make("or", b.compare(a, "LT", value), make("and", missing, b.compare(a, "EQ", a)))


def _searchsorted(line: Node, values: Node, *rest: Any) -> Node:
    """Halving, for all values at once: `at` elements are known to stand before each."""
    *sorter, side = rest
    if len(line.shape) != 1:
        raise ShapeError(f"needs a sorted vector, got {line.shape}")
    n = line.shape[0]
    if sorter and sorter[0].shape != (n,):
        raise ShapeError(f"needs a sorter of shape ({n},), got {sorter[0].shape}")
    dtype = promote(line.dtype, values.dtype)
    line, values = b.convert(take_axis(line, sorter[0], 0) if sorter else line, dtype), b.convert(values, dtype)
    at = b.full(0, values.shape, int64, values.device)
    for step in (1 << k for k in reversed(range(operator.index(n).bit_length()))):
        further = b.shift(at, step)
        place = b.shift(make("minimum", further, b.like(at, n)), -1)
        a = make("gather", line, b.reshape(place, (*place.shape, 1)), axes=(0,), batch=0)
        goes = make("and", b.compare(further, "LE", b.like(at, n)), _before(a, values, side))
        at = b.select(goes, further, at)
    return at


SEARCHSORTED = Op("searchsorted", _searchsorted)


@like(searching)
def searchsorted(x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Any:
    """For each element of x2 (of any shape, or a number) how many elements of the ascending vector x1 stand before it:
    int64. Of equal ones none, or all with `side="right"`. NaN counts as larger than all.

    `sorter`: indices that sort x1, which need not be sorted then. Raises ShapeError, DTypeError, ValueError for another
    side; IndexBoundsError when computed for a sorter that points outside.

    >>> import katachi as kt
    >>> x = kt.tensor([1, 3, 3, 7]); v = kt.tensor([3, 8])
    >>> kt.searchsorted(x, v).tolist(), kt.searchsorted(x, v, side="right").tolist()
    ([1, 4], [3, 4])
    """
    if side not in ("left", "right"):
        raise ValueError(f'searchsorted: side is "left" or "right", got {side!r}')
    return apply(SEARCHSORTED, (x1, x2) if sorter is None else (x1, x2, sorter), (side,))


def nonzero(x: Tensor, /) -> tuple[Tensor[tuple[int], Fixed], ...]:
    """Where x is not zero, in row-major order: for each axis an int64 vector. Computes x.

    Raises ShapeError for a scalar.

    >>> import katachi as kt
    >>> [i.tolist() for i in kt.nonzero(kt.tensor([[0, 5], [7, 0]]))]
    [[0, 1], [1, 0]]
    """
    if not x.ndim:
        raise ShapeError("nonzero: a scalar has no places; reshape it to (1,)")
    return tuple(tensor(i.astype(np.int64), device=x.device) for i in np.nonzero(x.numpy()))


class UniqueAll(NamedTuple):
    """The different values, ascending; where each first occurs; for each element the place of its value; how often
    each value occurs."""

    values: Any
    indices: Any
    inverse_indices: Any
    counts: Any


class UniqueCounts(NamedTuple):
    values: Any
    counts: Any


class UniqueInverse(NamedTuple):
    values: Any
    inverse_indices: Any


def _runs(x: Node) -> tuple[Node, ...]:
    """A vector in order, the order, which elements differ from the one before, and for each the place of its value."""
    order = sorting_order(x, 0)
    line = make("sort", x, x, axis=0, descending=False)
    n, first = x.shape[0], min(x.shape[0], 1)
    rest, before = (make("slice", line, start=(i,), limit=(n - first + i,), stride=(1,)) for i in (first, 0))
    begins = b.full(True, (first,), bool_, x.device)
    new = make("concatenate", begins, b.compare(rest, "NE", before), dimension=0)
    group = b.shift(make("cumulative_sum", b.convert(new, int64), axis=0), -1)
    return line, order, new, make("sort", order, group, axis=0, descending=False)


RUNS = Op("unique", _runs)


def unique_all(x: Tensor[Any, Any], /) -> UniqueAll:
    """The different values of x, ascending, with where each first occurs in row-major order, for each element of x the
    place of its value, and how often each occurs: int64, but for the values. Every NaN is a value of its own, at the
    end. Computes x. The values' gradient goes where each first occurs.

    >>> import katachi as kt
    >>> found = kt.unique_all(kt.tensor([3, 1, 3])); [part.tolist() for part in found]
    [[1, 3], [1, 0], [1, 0, 1], [1, 2]]
    """
    line, order, new, inverse = apply(RUNS, (movement.flatten(x),), many=True)
    starts = np.flatnonzero(new.numpy())
    counts = tensor(np.diff(np.append(starts, x.size)), device=x.device)
    return UniqueAll(take(line, starts), take(order, starts), movement.reshape(inverse, x.shape), counts)


def unique_counts(x: Tensor[Any, Any], /) -> UniqueCounts:
    """The different values of x, ascending, and how often each occurs, as `unique_all`.

    >>> import katachi as kt
    >>> values, counts = kt.unique_counts(kt.tensor([3, 1, 3])); values.tolist(), counts.tolist()
    ([1, 3], [1, 2])
    """
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Tensor[Any, Any], /) -> UniqueInverse:
    """The different values of x, ascending, and for each element of x the place of its value, as `unique_all`.

    >>> import katachi as kt
    >>> values, inverse = kt.unique_inverse(kt.tensor([3, 1, 3])); values[inverse].tolist()
    [3, 1, 3]
    """
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Tensor[Any, Any], /) -> Any:
    """The different values of x, ascending, as `unique_all`.

    >>> import katachi as kt
    >>> kt.unique_values(kt.tensor([3, 1, 3])).tolist()
    [1, 3]
    """
    return unique_all(x).values

"""Products over named axes: einsum, and the special cases that have names of their own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from katachi.errors import DTypeError, ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import promote
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.tensor.apply import apply
from katachi.tensor.arrange import diagonal_of
from katachi.tensor.entry import Op
from katachi.tensor.operand import as_axis, hashable, unify

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor

Label: TypeAlias = str | int  # a letter, or how far from its end an axis of ... stands


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[list[Label]], list[Label]]:
    """The labels of every operand's axes and of the result's."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ShapeError(f"{equation!r} names {len(terms)} operands, got {len(ranks)}")
    labels: list[list[Label]] = []
    widest = 0
    for term, rank in zip(terms, ranks, strict=True):
        before, dots, after = term.partition("...")
        named = len(before) + len(after)
        if not (before + after).isalpha() and named:
            raise ShapeError(f"{term!r} in {equation!r}: axes are named by letters, and ... may stand once")
        if named > rank or (named < rank and not dots):
            raise ShapeError(f"{term!r} in {equation!r} names {named} axes, its operand has {rank}")
        spread = rank - named
        widest = max(widest, spread)
        labels.append([*before, *range(spread - 1, -1, -1), *after])
    if not arrow:
        every = [label for term in labels for label in term if isinstance(label, str)]
        once: list[Label] = sorted(label for label in set(every) if every.count(label) == 1)
        return labels, [*range(widest - 1, -1, -1), *once]
    before, dots, after = right.partition("...")
    out: list[Label] = [*before, *(range(widest - 1, -1, -1) if dots else ()), *after]
    known = {label for term in labels for label in term}
    for label in out:
        if label not in known or out.count(label) > 1:
            raise ShapeError(f"{right!r} in {equation!r}: {label!r} must name an axis of an operand, once")
    if widest and not dots:
        raise ShapeError(f"{equation!r}: the operands' ... must stand in the result as well")
    return labels, out


def _einsum(xs: Sequence[Node], equation: str) -> Node:
    dtype = xs[0].dtype
    for x in xs[1:]:
        dtype = promote(dtype, x.dtype)
    labels, out = _parse(equation, [len(x.shape) for x in xs])
    terms = [_without_repeats(b.convert(x, dtype), term) for x, term in zip(xs, labels, strict=True)]
    sizes: dict[Label, int] = {}
    for x, term in terms:
        for n, label in zip(x.shape, term, strict=True):
            known = sizes.setdefault(label, n)
            if known != n and (isinstance(label, str) or 1 not in (known, n)):
                what = f"{label!r}" if isinstance(label, str) else "an axis of ..."
                raise ShapeError(f"{what} in {equation!r} has sizes {known} and {n}")
            sizes[label] = n if known == 1 else known
    # what is broadcast is an axis the operand need not have
    terms = [_only(x, term, [sizes[label] == n for n, label in zip(x.shape, term, strict=True)]) for x, term in terms]
    x, have = terms[0]
    for i, (y, other) in enumerate(terms[1:], 2):
        needed = {*out, *(label for _, term in terms[i:] for label in term)}
        x, have = _pair(x, have, y, other, needed)
    x, have = _summed(x, have, set(out))
    return b.transpose(x, tuple(have.index(label) for label in out))


def _without_repeats(x: Node, term: list[Label]) -> tuple[Node, list[Label]]:
    for label in dict.fromkeys(term):
        while term.count(label) > 1:
            i = term.index(label)
            j = term.index(label, i + 1)
            if x.shape[i] != x.shape[j]:
                raise ShapeError(f"{label!r} has sizes {x.shape[i]} and {x.shape[j]} in one operand of shape {x.shape}")
            x = diagonal_of(x, 0, i, j)
            term = [*(t for k, t in enumerate(term) if k not in (i, j)), label]
    return x, term


def _only(x: Node, term: list[Label], keep: list[bool]) -> tuple[Node, list[Label]]:
    shape = tuple(n for n, k in zip(x.shape, keep, strict=True) if k)
    return b.reshape(x, shape), [label for label, k in zip(term, keep, strict=True) if k]


def _summed(x: Node, term: list[Label], needed: set[Label]) -> tuple[Node, list[Label]]:
    axes = tuple(i for i, label in enumerate(term) if label not in needed)
    return b.reduce("reduce_sum", x, axes), [label for label in term if label in needed]


def _pair(x: Node, left: list[Label], y: Node, right: list[Label], needed: set[Label]) -> tuple[Node, list[Label]]:
    """The product of two operands, summed over what nobody needs any more."""
    x, left = _summed(x, left, {*needed, *right})
    y, right = _summed(y, right, {*needed, *left})
    shared = [label for label in left if label in right]
    batch, contract = [k for k in shared if k in needed], [k for k in shared if k not in needed]
    if not contract:
        names = [*left, *(label for label in right if label not in left)]
        return b.multiply(_aligned(x, left, names), _aligned(y, right, names)), names
    pairs = [(tuple(map(left.index, some)), tuple(map(right.index, some))) for some in (batch, contract)]
    out = make("dot_general", x, y, batch=pairs[0], contract=pairs[1])
    return out, [*batch, *(k for k in left if k not in shared), *(k for k in right if k not in shared)]


def _aligned(x: Node, term: list[Label], names: list[Label]) -> Node:
    x = b.transpose(x, tuple(term.index(k) for k in names if k in term))
    sizes = iter(x.shape)
    return b.reshape(x, tuple(next(sizes) if k in term else 1 for k in names))


EINSUM = Op("einsum", _einsum, variadic=True, upcast=sys.maxsize)


def einsum(equation: str, /, *xs: Any) -> Tensor[Any, Any]:
    """Sums of products over named axes, as NumPy has it: operands are multiplied from left to right, axes that the
    result does not name are summed over, a letter twice in one operand takes its diagonal, and ... broadcasts. Half
    types are computed in float32 and rounded once.

    Raises ShapeError for an equation that does not fit the operands, DTypeError for bools.

    >>> import katachi as kt
    >>> kt.einsum("ij,kj->ik", kt.ones((2, 3)), kt.ones((4, 3))).shape
    (2, 4)
    """
    if not isinstance(equation, str):
        raise DTypeError(f"einsum: begins with an equation, got {type(equation).__name__}")
    return apply(EINSUM, xs, (equation,))


def _tensordot(x: Node, y: Node, axes: Any) -> Node:
    if isinstance(axes, int):
        if not 0 <= axes <= min(len(x.shape), len(y.shape)):
            raise ShapeError(f"cannot contract {axes} axes of {x.shape} and {y.shape}")
        pair = tuple(range(len(x.shape) - axes, len(x.shape))), tuple(range(axes))
    else:
        try:
            left, right = ((a,) if isinstance(a, int) else tuple(a) for a in axes)
        except (TypeError, ValueError):
            raise DTypeError(f"axes is an int or two lists of ints, got {axes!r}") from None
        pair = tuple(as_axis(a, len(x.shape)) for a in left), tuple(as_axis(a, len(y.shape)) for a in right)
        if len(pair[0]) != len(pair[1]) or any(len(set(p)) != len(p) for p in pair):
            raise ShapeError(f"axes {axes} do not pair each axis with one other")
    dtype = promote(x.dtype, y.dtype)
    return make("dot_general", b.convert(x, dtype), b.convert(y, dtype), batch=((), ()), contract=pair)


def _vecdot(x: Node, y: Node, axis: Any) -> Node:
    if not x.shape or not y.shape:
        raise ShapeError(f"needs operands with at least one axis, got {x.shape} and {y.shape}")
    i, j = as_axis(axis, len(x.shape)) - len(x.shape), as_axis(axis, len(y.shape)) - len(y.shape)
    if i != j or x.shape[i] != y.shape[j]:
        raise ShapeError(f"sizes of axis {axis} differ: {x.shape} and {y.shape}")
    x, y = unify(x, y)
    return b.reduce("reduce_sum", b.multiply(x, y), (len(x.shape) + i,))


def _outer(x: Node, y: Node) -> Node:
    if len(x.shape) != 1 or len(y.shape) != 1:
        raise ShapeError(f"needs two vectors, got {x.shape} and {y.shape}")
    return b.multiply(*unify(b.reshape(x, (*x.shape, 1)), b.reshape(y, (1, *y.shape))))


TENSORDOT, VECDOT = Op("tensordot", _tensordot, upcast=2), Op("vecdot", _vecdot, upcast=2)
OUTER = Op("outer", _outer, upcast=2)


def tensordot(x1: Any, x2: Any, /, axes: Any = 2) -> Tensor[Any, Any]:
    """The sum of products over the last `axes` axes of x1 and the first of x2, or over two lists of axes. Half types
    are computed in float32 and rounded once.

    >>> import katachi as kt
    >>> kt.tensordot(kt.ones((2, 3)), kt.ones((4, 3)), axes=([1], [1])).tolist()[0]
    [3.0, 3.0, 3.0, 3.0]
    """
    axes = tuple(hashable(a) for a in axes) if isinstance(axes, (list, tuple)) else hashable(axes)
    return apply(TENSORDOT, (x1, x2), (axes,))


def vecdot(x1: Any, x2: Any, /, axis: int = -1) -> Tensor[Any, Any]:
    """The sum of products along one axis, the others broadcast. Raises ShapeError when its sizes differ. Half types are
    computed in float32 and rounded once."""
    return apply(VECDOT, (x1, x2), (hashable(axis),))


def outer(x1: Any, x2: Any, /) -> Tensor[Any, Any]:
    """The products of every element of one vector with every one of another. Raises ShapeError for no vectors. Half
    types are computed in float32 and rounded once."""
    return apply(OUTER, (x1, x2))

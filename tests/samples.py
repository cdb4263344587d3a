"""The table's column of examples: for every primitive a strategy of inputs (float64 where it computes) and attributes.

Values keep away from points without a derivative: `spaced` ones differ by far more than a difference quotient's step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from katachi.devices.reference.attention import ATTENTION
from katachi.graph.dtypes import bool_, float64, int64
from katachi.graph.primitives import BITWISE, COMBINES, DIRECTIONS, MARKS
from katachi.graph.sizes import count, window_count

Array: TypeAlias = np.ndarray[Any, Any]
Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]
Ints: TypeAlias = tuple[int, ...]
Values: TypeAlias = Callable[[np.random.Generator, Ints], Array]


class Sample(NamedTuple):
    inputs: list[Array]
    attrs: Mapping[str, Any]


SAMPLES: dict[str, st.SearchStrategy[Sample]] = {}

SIZES = st.sampled_from([0, 1, 2, 3])


def shapes(least: int = 0, most: int = 4, sizes: st.SearchStrategy[int] = SIZES) -> st.SearchStrategy[Ints]:
    return st.lists(sizes, min_size=least, max_size=most).map(tuple)


def tuples(element: st.SearchStrategy[Any], count: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(element, min_size=count, max_size=count).map(tuple)


def subsets(n: int) -> st.SearchStrategy[Ints]:
    return tuples(st.booleans(), n).map(lambda flags: tuple(i for i, f in enumerate(flags) if f))


RNG = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def normal(rng: np.random.Generator, shape: Ints) -> Array:
    return np.asarray(rng.standard_normal(shape))


def positive(rng: np.random.Generator, shape: Ints) -> Array:
    return rng.uniform(0.3, 3.0, shape)


def off_zero(rng: np.random.Generator, shape: Ints) -> Array:
    return positive(rng, shape) * rng.choice([-1.0, 1.0], shape)


def spaced(rng: np.random.Generator, shape: Ints) -> Array:
    """No two alike, none an integer."""
    n = int(np.prod(shape))
    return ((rng.permutation(n) - n // 2) * 0.37 + 0.113).reshape(shape)


def strategy(*names: str) -> Callable[[Callable[..., Sample]], Callable[..., Sample]]:
    """The decorated function makes samples of primitives from draw, a random generator and the primitive's name."""

    def put(make: Callable[..., Sample]) -> Callable[..., Sample]:
        for name in names:
            SAMPLES[name] = st.composite(lambda draw, name=name: make(draw, draw(RNG), name))()
        return make

    return put


UNARY_VALUES: dict[str, Values] = {
    "log": positive, "sqrt": positive, "floor": spaced, "sign": off_zero, "abs": off_zero, **dict.fromkeys(
        ["exponential", "tanh", "logistic", "erf", "sine", "cosine", "negate", *MARKS, "optimization_barrier"], normal
    ),
}  # fmt: skip


def inside(rng: np.random.Generator, shape: Ints) -> Array:
    """Between -1 and 1, and not near them."""
    return rng.uniform(-0.9, 0.9, shape)


def above_one(rng: np.random.Generator, shape: Ints) -> Array:
    return positive(rng, shape) + 1.0


UNARY_VALUES |= {
    **dict.fromkeys(("ceil", "round_nearest_even"), spaced), **dict.fromkeys(("tan", "asin", "acos", "atanh"), inside),
    **dict.fromkeys(("sinh", "cosh", "asinh", "exponential_minus_one", "is_finite"), normal), "acosh": above_one,
    "log_plus_one": positive,
}  # fmt: skip
BINARY_VALUES: dict[str, tuple[Values, Values]] = {
    "divide": (normal, off_zero), "power": (positive, normal), "atan2": (off_zero, off_zero),
    **dict.fromkeys(("add", "subtract", "multiply"), (normal, normal)),
}  # fmt: skip


@strategy(*UNARY_VALUES)
def _unary(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    attrs = {"target": "reference"} if name == "to_device" else {}
    return Sample([UNARY_VALUES[name](rng, draw(shapes()))], attrs)


@strategy(*BINARY_VALUES)
def _binary(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes())
    return Sample([f(rng, shape) for f in BINARY_VALUES[name]], {})


def apart(rng: np.random.Generator, shape: Ints) -> list[Array]:
    """Two arrays that differ everywhere."""
    return list(spaced(rng, (2, *shape)))


@strategy("maximum", "minimum")
def _extreme(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    return Sample(apart(rng, draw(shapes())), {})


@strategy("compare")
def _compare(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    return Sample(apart(rng, draw(shapes())), {"direction": draw(st.sampled_from(DIRECTIONS))})


@strategy("remainder")
def _remainder(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    """Quotients that keep away from whole numbers."""
    shape = draw(shapes())
    divisor = off_zero(rng, shape)
    return Sample([divisor * (rng.integers(-4, 4, shape) + rng.uniform(0.1, 0.9, shape)), divisor], {})


@strategy("bitcast_convert")
def _bitcast_convert(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    return Sample([normal(rng, draw(shapes()))], {"dtype": int64})


def integers(rng: np.random.Generator, shape: Ints) -> Array:
    return rng.integers(-100, 100, shape)


@strategy(*BITWISE, "not")
def _bitwise(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes())
    return Sample([integers(rng, shape) for _ in range(1 if name == "not" else 2)], {})


@strategy("select")
def _select(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes())
    return Sample([rng.random(shape) < 0.5, normal(rng, shape), normal(rng, shape)], {})


@strategy("convert")
def _convert(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    return Sample([spaced(rng, draw(shapes()))], {"dtype": draw(st.sampled_from([float64, int64, bool_]))})


@strategy("constant")
def _constant(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    return Sample([], {"value": draw(st.floats(-9, 9)), "dtype": float64})


@strategy("iota")
def _iota(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes(1))
    dimension = draw(st.integers(0, len(shape) - 1))
    return Sample([], {"shape": shape, "dtype": draw(st.sampled_from([int64, float64])), "dimension": dimension})


@strategy("rng_bits")
def _rng_bits(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    words = [np.asarray(rng.integers(0, 2**64, dtype=np.uint64)) for _ in range(2)]
    return Sample(words, {"shape": draw(shapes())})


@strategy("broadcast_in_dim")
def _broadcast_in_dim(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes())
    dims = draw(subsets(len(shape)))
    sizes = tuple(1 if one else shape[d] for d, one in zip(dims, draw(tuples(st.booleans(), len(dims))), strict=True))
    return Sample([normal(rng, sizes)], {"shape": shape, "dims": dims})


@strategy("reshape")
def _reshape(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes())
    n = int(np.prod(shape))
    ways = [(n,), (1, n, 1), shape[::-1], (*shape[:1], int(np.prod(shape[1:]))), *([(0, 3, 2)] if n == 0 else [])]
    return Sample([normal(rng, shape)], {"shape": draw(st.sampled_from(ways))})


@strategy("transpose")
def _transpose(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes())
    return Sample([normal(rng, shape)], {"permutation": tuple(draw(st.permutations(range(len(shape)))))})


@strategy("reverse")
def _reverse(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes())
    return Sample([normal(rng, shape)], {"dimensions": draw(subsets(len(shape)))})


@strategy("slice")
def _slice(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes(sizes=st.integers(0, 6)))
    start = tuple(draw(st.integers(0, n)) for n in shape)
    limit = tuple(draw(st.integers(a, n)) for a, n in zip(start, shape, strict=True))
    return Sample(
        [normal(rng, shape)], {"start": start, "limit": limit, "stride": draw(tuples(st.integers(1, 3), len(shape)))}
    )


def block(draw: Draw, shape: Ints) -> tuple[Ints, list[Array]]:
    """The sizes of a block within a shape, and where it begins."""
    sizes = tuple(draw(st.integers(0, n)) for n in shape)
    return sizes, [np.asarray(draw(st.integers(0, n - m))) for n, m in zip(shape, sizes, strict=True)]


@strategy("dynamic_slice")
def _dynamic_slice(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes())
    sizes, starts = block(draw, shape)
    return Sample([normal(rng, shape), *starts], {"sizes": sizes})


@strategy("dynamic_update_slice")
def _dynamic_update_slice(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes())
    sizes, starts = block(draw, shape)
    return Sample([normal(rng, shape), normal(rng, sizes), *starts], {})


@strategy("pad")
def _pad(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes(most=3))
    widths = {k: draw(tuples(st.integers(0, 2), len(shape))) for k in ("low", "high", "interior")}
    return Sample([normal(rng, shape), normal(rng, ())], widths)


@strategy("concatenate")
def _concatenate(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes(1))
    axis = draw(st.integers(0, len(shape) - 1))
    sizes = draw(st.lists(SIZES, min_size=1, max_size=3))
    return Sample([normal(rng, (*shape[:axis], n, *shape[axis + 1 :])) for n in sizes], {"dimension": axis})


@strategy("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or")
def _reduce(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes())
    axes = draw(subsets(len(shape)))
    assume(name not in ("reduce_max", "reduce_min") or all(shape[a] for a in axes))
    if name == "reduce_prod":
        return Sample([with_zeros(rng, shape)], {"axes": axes})
    return Sample([(integers if name in ("reduce_and", "reduce_or") else spaced)(rng, shape)], {"axes": axes})


def with_zeros(rng: np.random.Generator, shape: Ints) -> Array:
    """Products of these have derivatives through zero as well."""
    return np.where(rng.random(shape) < 0.1, 0.0, off_zero(rng, shape))


@strategy("cumulative_sum", "cumulative_prod", "cumulative_max", "cumulative_min")
def _cumulative(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes(1, sizes=st.sampled_from([0, 1, 2, 3, 5])))
    values = with_zeros if name == "cumulative_prod" else spaced
    return Sample([values(rng, shape)], {"axis": draw(st.integers(0, len(shape) - 1))})


@strategy("sort")
def _sort(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes(1))
    axis = draw(st.integers(0, len(shape) - 1))
    key = spaced(rng, shape) if draw(st.booleans()) else rng.integers(0, 3, shape)  # of which some are equal
    return Sample([key, normal(rng, shape)], {"axis": axis, "descending": draw(st.booleans())})


@strategy("argmax")
def _argmax(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes(1))
    axis = draw(st.integers(0, len(shape) - 1))
    assume(shape[axis])
    return Sample([spaced(rng, shape)], {"axis": axis})


@strategy("dot_general")
def _dot_general(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    kinds = {k: draw(shapes(most=most)) for k, most in (("batch", 2), ("contract", 2), ("left", 1), ("right", 1))}
    operands, batch, contract = [], [], []
    for own in ("left", "right"):
        labels = [(k, i) for k in ("batch", "contract", own) for i in range(len(kinds[k]))]
        order = draw(st.permutations(labels))
        operands.append(normal(rng, tuple(kinds[k][i] for k, i in order)))
        batch.append(tuple(order.index(("batch", i)) for i in range(len(kinds["batch"]))))
        contract.append(tuple(order.index(("contract", i)) for i in range(len(kinds["contract"]))))
    return Sample(operands, {"batch": tuple(batch), "contract": tuple(contract)})


@strategy("convolution")
def _convolution(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    k = draw(st.integers(1, 2))
    n, groups, per_in, per_out = draw(st.tuples(st.integers(0, 2), st.integers(1, 3), SIZES, st.integers(0, 2)))
    spatial, window = draw(tuples(st.integers(0, 5), k)), draw(tuples(st.integers(1, 3), k))
    strides = draw(tuples(st.integers(1, 3), k))
    padding = draw(tuples(st.tuples(st.integers(-2, 3), st.integers(-2, 3)), k))
    lhs, rhs = draw(tuples(st.integers(1, 2), k)), draw(tuples(st.integers(1, 2), k))
    for size, w, s, (low, high), ld, rd in zip(spatial, window, strides, padding, lhs, rhs, strict=True):
        assume(window_count((size - 1) * ld + 1 if size else 0, w, s, low, high, rd) >= 1)
    x, w = normal(rng, (n, groups * per_in, *spatial)), normal(rng, (groups * per_out, per_in, *window))
    attrs = {"strides": strides, "padding": padding, "lhs_dilation": lhs, "rhs_dilation": rhs, "groups": groups}
    return Sample([x, w], attrs)


def pooling(draw: Draw) -> tuple[Ints, Ints, dict[str, Any]]:
    """Shapes of an input and of what reduce_window makes of it, and the attributes."""
    k = draw(st.integers(1, 2))
    lead, spatial = draw(shapes(most=2)), draw(tuples(st.integers(1, 5), k))
    window = tuple(draw(st.integers(1, 3)) for _ in range(k))
    strides = draw(tuples(st.integers(1, 3), k))
    padding = tuple((draw(st.integers(0, w - 1)), draw(st.integers(0, w - 1))) for w in window)
    counts = tuple(
        window_count(n, w, s, lo, hi) for n, w, s, (lo, hi) in zip(spatial, window, strides, padding, strict=True)
    )
    assume(all(c >= 1 for c in counts))
    return (*lead, *spatial), (*lead, *counts), {"window": window, "strides": strides, "padding": padding}


@strategy("reduce_window", "reduce_window_gradient")
def _reduce_window(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape, out, attrs = pooling(draw)
    return Sample([spaced(rng, shape), *([normal(rng, out)] if name.endswith("gradient") else [])], attrs)


@strategy("gather", "scatter")
def _gather(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    shape = draw(shapes(1))
    batch = draw(st.integers(0, len(shape) - 1))
    axes = tuple(draw(st.permutations(range(batch, len(shape)))))[: draw(st.integers(1, len(shape) - batch))]
    empty = any(shape[a] == 0 for a in axes)
    positions = draw(shapes(most=2, sizes=st.just(0) if empty else SIZES))
    assume(not empty or 0 in shape[:batch] + positions)
    parts = [rng.integers(0, max(shape[a], 1), shape[:batch] + positions) for a in axes]
    index = np.stack(parts, -1).astype(draw(st.sampled_from(["int64", "int32", "uint8"])))
    attrs = {"axes": axes, "batch": batch}
    if name == "gather":
        return Sample([normal(rng, shape), index], attrs)
    rest = tuple(n for i, n in enumerate(shape) if i >= batch and i not in axes)
    combine = draw(st.sampled_from(["set", *COMBINES]))
    sizes = shape, (*shape[:batch], *positions, *rest)
    if combine == "multiply":  # zeros are no trouble
        x, update = (with_zeros(rng, s) for s in sizes)
    else:  # no extreme is near another
        line = spaced(rng, (count(sizes[0]) + count(sizes[1]),))
        x, update = line[: count(shape)].reshape(shape), line[count(shape) :].reshape(sizes[1])
    return Sample([x, index, update], attrs | {"combine": combine})


@strategy("attention", "attention_logsumexp", "attention_gradient")
def _attention(draw: Draw, rng: np.random.Generator, name: str) -> Sample:
    lead, (t, s, e, f) = draw(shapes(most=2)), draw(st.tuples(SIZES, SIZES, SIZES, SIZES))
    q, k, v = normal(rng, (*lead, t, e)), normal(rng, (*lead, s, e)), normal(rng, (*lead, s, f))
    mask = [rng.random((*lead, t, s)) < 0.7] if draw(st.booleans()) else []
    how = {"scale": draw(st.sampled_from([1.0, 0.3])), "causal": draw(st.booleans())}
    if name == "attention_logsumexp":
        for may_look in mask:
            may_look[..., :1] = True  # nothing to look at: -inf, which has no difference quotient
        assume(s or 0 in (*lead, t))
        return Sample([q, k, *mask], how)
    logsumexp = ATTENTION["attention_logsumexp"](q, k, *mask, **how)
    if name == "attention":
        return Sample([q, k, v, logsumexp, *mask], how)
    out = ATTENTION["attention"](q, k, v, logsumexp, *mask, **how)
    g = normal(rng, (*lead, t, f))
    return Sample([q, k, v, logsumexp, out, g, *mask], how | {"of": draw(st.integers(0, 2))})

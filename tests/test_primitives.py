"""Every primitive: its derivatives against difference quotients, its definition against plain loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from katachi.devices.reference import REFERENCE
from katachi.devices.reference.random import philox
from katachi.errors import Error, IndexBoundsError
from katachi.graph.dtypes import (
    DTYPES,
    DType,
    as_dtype,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int64,
    uint32,
)  # fmt: skip
from katachi.graph.node import Node, aval, toposort
from katachi.graph.primitives import DIRECTIONS, constant, input_node, make
from katachi.transforms.derivatives import FLAT
from katachi.transforms.jvp import forward
from katachi.transforms.vjp import backward, rule

from .samples import RNG, SAMPLES, Array, Sample, normal, pooling  # pyrefly: ignore[missing-import]

DEVICE = "reference"
INTEGERS = [d for d in DTYPES if d.is_integer]
FLOATS = [d for d in DTYPES if d.is_floating]
STEP = 1e-6
NAMES = sorted(SAMPLES)
# their derivatives are flat or constant, or have nothing to flow through
STEPS = {"sign", "floor", "ceil", "round_nearest_even"}
ROUGH = FLAT | STEPS | {"maximum", "minimum", "select", "abs", "negate", "convert", "variable"}
SMOOTH = sorted(set(NAMES) - ROUGH)
EXAMPLES = settings().max_examples


def inputs_for(arrays: Sequence[Array], tracked: bool = True) -> list[Node]:
    kinds = [(a.shape, as_dtype(a.dtype)) for a in arrays]
    return [input_node(aval(s, d, DEVICE, tracked and d.is_floating), i) for i, (s, d) in enumerate(kinds)]


def evaluate(outputs: Sequence[Node], inputs: Sequence[Node], arrays: Sequence[Array]) -> list[Array]:
    """What the definitions make of the inputs; every value must have the shape and dtype that its rule foretold."""
    values = dict(zip(inputs, arrays, strict=True))
    with np.errstate(all="ignore"):
        for node in toposort(list(outputs)):
            if node not in values:
                out = REFERENCE[node.primitive](*[values[x] for x in node.inputs], **node.attrs)
                assert out.shape == node.shape and out.dtype == node.dtype.numpy, (node, out.shape, out.dtype)
                values[node] = out
    return [values[n] for n in outputs]


def define(name: str, *arrays: Any, **attrs: Any) -> Array:
    """A primitive's value, by way of a checked node."""
    nodes = inputs_for([np.asarray(a) for a in arrays])
    node = make(name, *nodes, device=DEVICE, **attrs)
    return evaluate([node], nodes, [np.asarray(a) for a in arrays])[0]


def dot(xs: Sequence[Array], ys: Sequence[Array]) -> float:
    return math.fsum(float(np.vdot(x, y)) for x, y in zip(xs, ys, strict=True))


def close(got: Sequence[Array], want: Sequence[Array], tolerance: float) -> None:
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * (1 + np.abs(w).max(initial=0)))


class Program:
    """Outputs as functions of inputs, and both derivatives of them, as graphs."""

    def __init__(self, outputs: Sequence[Node], inputs: Sequence[Node], arrays: Sequence[Array]) -> None:
        self.outputs = [y for y in outputs if y.dtype.is_floating]
        self.inputs, self.arrays = list(inputs), list(arrays)
        self.places = [i for i, x in enumerate(inputs) if x.tracked]
        self.order = toposort(self.outputs)
        fresh = itertools.count(len(inputs))

        def more(nodes: Sequence[Node], tracked: bool) -> list[Node]:
            return [input_node(aval(n.shape, n.dtype, DEVICE, tracked), next(fresh)) for n in nodes]

        moved = [inputs[i] for i in self.places]
        self.tangents, self.cotangents = more(moved, False), more(self.outputs, True)
        seeds: dict[Node, Node] = {}
        for y, c in zip(self.outputs, self.cotangents, strict=True):
            seeds[y] = make("add", seeds[y], c) if y in seeds else c
        pulled = backward(seeds, self.order)
        pushed = forward(dict(zip(moved, self.tangents, strict=True)), self.order)
        self.pulled, self.pushed = [pulled.get(x) for x in moved], [pushed.get(y) for y in self.outputs]

    def value(self, arrays: Sequence[Array]) -> list[Array]:
        return evaluate(self.outputs, self.inputs, arrays)

    def shifted(self, tangents: Sequence[Array], by: float) -> list[Array]:
        arrays = list(self.arrays)
        for i, t in zip(self.places, tangents, strict=True):
            arrays[i] = np.asarray(arrays[i] + by * t)
        return self.value(arrays)

    def quotient(self, tangents: Sequence[Array]) -> list[Array]:
        """The central difference along the tangents."""
        ends = zip(self.shifted(tangents, STEP), self.shifted(tangents, -STEP), strict=True)
        return [(b - a) / (2 * STEP) for b, a in ends]

    def _derivative(
        self, nodes: list[Node | None], like: Sequence[Node], given: list[Node], arrays: list[Array]
    ) -> Any:
        found = [n for n in nodes if n is not None]
        results = iter(evaluate(found, [*self.inputs, *given], [*self.arrays, *arrays]))
        return [np.zeros(x.shape) if n is None else next(results) for n, x in zip(nodes, like, strict=True)]

    def push(self, tangents: list[Array]) -> list[Array]:
        return self._derivative(self.pushed, self.outputs, self.tangents, tangents)

    def pull(self, cotangents: list[Array]) -> list[Array]:
        return self._derivative(self.pulled, [self.inputs[i] for i in self.places], self.cotangents, cotangents)

    def check(self, rng: np.random.Generator, tolerance: float) -> None:
        """Forward against the quotient, in each input alone and in all; then <push t, c> = <t, pull c>, exactly."""
        directions = [normal(rng, self.inputs[i].shape) for i in self.places]
        alone = [[t if i == j else np.zeros(t.shape) for j, t in enumerate(directions)] for i in range(len(directions))]
        c = [normal(rng, y.shape) for y in self.outputs]
        back = self.pull(c)
        for t in [*alone, directions]:
            along = self.push(t)
            close(along, self.quotient(t), tolerance)
            size = sum(float(np.abs(a).sum() * np.abs(b).max(initial=0)) for a, b in zip(along, c, strict=True))
            assert dot(along, c) == pytest.approx(dot(t, back), rel=1e-9, abs=1e-10 * (1 + size))


def program_of(name: str, sample: Sample) -> Program:
    nodes = inputs_for(sample.inputs)
    return Program([make(name, *nodes, device=DEVICE, **sample.attrs)], nodes, sample.inputs)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_first_derivatives(name: str, data: st.DataObject) -> None:
    program = program_of(name, data.draw(SAMPLES[name]))
    if name in FLAT:
        assert program.pulled == [None] * len(program.places) and not any(program.pushed)
        if name == "stop_gradient":
            return  # flat by decree
    program.check(data.draw(RNG), 1e-7)


@pytest.mark.parametrize("name", SMOOTH)
@settings(max_examples=EXAMPLES // 2)
@given(data=st.data())
def test_second_derivatives(name: str, data: st.DataObject) -> None:
    """Both modes over both modes: the derivatives' graphs are differentiated as any other graph."""
    first = program_of(name, data.draw(SAMPLES[name]))
    rng = data.draw(RNG)
    for results, seeds in ((first.pulled, first.cotangents), (first.pushed, first.tangents)):
        arrays = [*first.arrays, *[normal(rng, s.shape) for s in seeds]]
        Program([n for n in results if n is not None], [*first.inputs, *seeds], arrays).check(rng, 1e-6)


@pytest.mark.parametrize("name", sorted({n for n in SMOOTH if n in ("power", "divide", "tanh", "convolution")}))
@given(data=st.data())
def test_third_derivatives(name: str, data: st.DataObject) -> None:
    program, rng = program_of(name, data.draw(SAMPLES[name])), data.draw(RNG)
    for _ in range(2):
        arrays = [*program.arrays, *[normal(rng, c.shape) for c in program.cotangents]]
        pulled = [n for n in program.pulled if n is not None]
        program = Program(pulled, [*program.inputs, *program.cotangents], arrays)
    program.check(rng, 1e-5)


def test_powers_of_and_to_zero() -> None:
    """x ** e has slope 0 where e is 0, whatever x is, and the slope's slopes are right there too."""

    def nested(first: int, second: int, a: float, e: float) -> float:
        nodes = inputs_for([np.array(a), np.array(e)])
        y = make("power", *nodes)
        for i in (first, second):
            one = constant(1.0, float64, DEVICE)
            y = backward({y: one}, toposort([y]))[nodes[i]]
        return float(evaluate([y], nodes, [np.array(a), np.array(e)])[0])

    base, exponent = 0, 1
    assert nested(base, base, 0.0, 0.0) == 0 and nested(base, base, 0.0, 2.0) == 2
    assert nested(base, base, -3.0, 0.0) == 0 and nested(base, base, -3.0, 2.0) == 2
    for a in (0.5, 2.0):
        assert nested(base, exponent, a, 0.0) == nested(exponent, base, a, 0.0) == pytest.approx(1 / a)
        assert nested(exponent, exponent, a, 0.0) == pytest.approx(math.log(a) ** 2)
    program = program_of("power", Sample([np.array([0.0, np.nan, np.inf, -2.0]), np.zeros(4)], {}))
    np.testing.assert_array_equal(program.pull([np.ones(4)])[0], [0, 0, 0, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
def test_gather_along_an_axis_longer_than_its_indices_count(dtype: Any) -> None:
    """The gradient compares positions with indices: positions do not all fit the indices' dtype."""
    x, index = np.zeros((2, 300)), np.array([[1], [100]], dtype)
    program = program_of("gather", Sample([x, index], {"axes": (1,), "batch": 1}))
    (pulled,) = program.pull([np.ones(2)])
    assert np.argwhere(pulled).tolist() == [[0, 1], [1, 100]]


HALVES = sorted(set(NAMES) - {"constant", "iota", "rng_bits", "argmax", "convert", "bitcast_convert"})


@pytest.mark.parametrize("dtype", [float16, bfloat16, float32], ids=lambda d: d.name)
@pytest.mark.parametrize("name", HALVES)
@settings(max_examples=EXAMPLES // 3)
@given(data=st.data())
def test_derivatives_keep_the_dtype(name: str, dtype: DType, data: st.DataObject) -> None:
    """In a narrower dtype: the same values and gradients, less its rounding (of inputs exactly representable)."""
    sample = data.draw(SAMPLES[name])
    rng = data.draw(RNG)
    floats = [x.dtype == np.float64 for x in sample.inputs]
    narrow = [x.astype(dtype.numpy) if f else x for x, f in zip(sample.inputs, floats, strict=True)]
    wide = [x.astype(np.float64) if f else x for x, f in zip(narrow, floats, strict=True)]
    programs = [program_of(name, Sample(arrays, sample.attrs)) for arrays in (narrow, wide)]
    c = [normal(rng, y.shape).astype(dtype.numpy) for y in programs[0].outputs]
    got, exact = [
        [*p.value(p.arrays), *p.pull([x.astype(y.dtype.numpy) for x, y in zip(c, p.outputs, strict=True)])]
        for p in programs
    ]
    eps = float(ml_dtypes.finfo(dtype.numpy).eps)
    for g, e in zip(got, exact, strict=True):
        scale = 1 + np.abs(e).max(initial=0)
        if np.isfinite(e).all() and scale < 1e3:
            np.testing.assert_allclose(g.astype(np.float64), e, atol=60 * eps * scale)


def test_a_missing_cell_is_noticed() -> None:
    """`rule` knows no default: a primitive without derivatives is a KeyError, not a zero."""
    x = inputs_for([np.zeros(())])[0]
    with pytest.raises(KeyError):
        rule(Node("unheard_of", (x,), {}, x.aval), 0)


# ---- definitions against loops --------------------------------------------------------------------------------------


def places(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, shape))


@given(SAMPLES["convolution"])
def test_convolution(sample: Sample) -> None:
    x, w = sample.inputs
    convolution_equals_loops(x, w, sample.attrs)


@pytest.mark.parametrize("padding", [(5, -3), (-3, 5), (-1, -1), (4, -2)])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_convolution_with_negative_padding(padding: tuple[int, int], dilation: int) -> None:
    """More may be cut off than there are pixels: then of the padding on the other side."""
    x, w = np.array([[[3.0, 4.0]]]), np.array([[[2.0]]])
    if sum(padding) + dilation + 1 < 1:
        return
    a = {"strides": (1,), "padding": (padding,), "lhs_dilation": (dilation,), "rhs_dilation": (1,), "groups": 1}
    convolution_equals_loops(x, w, a)


def convolution_equals_loops(x: Array, w: Array, a: Any) -> None:
    per_in, per_out = w.shape[1], w.shape[0] // a["groups"]
    out = define("convolution", x, w, **a)
    want = np.zeros(out.shape)
    for n, o, *at in places(out.shape):
        for c, *tap in places(w.shape[1:]):
            pixel = []
            for i, (p, t) in enumerate(zip(at, tap, strict=True)):
                place = p * a["strides"][i] + t * a["rhs_dilation"][i] - a["padding"][i][0]
                pixel.append(place / a["lhs_dilation"][i])
            if all(p == int(p) and 0 <= p < size for p, size in zip(pixel, x.shape[2:], strict=True)):
                want[(n, o, *at)] += x[(n, o // per_out * per_in + c, *map(int, pixel))] * w[(o, c, *tap)]
    np.testing.assert_allclose(out, want, atol=1e-12)


def windows(x: Array, at: Sequence[int], a: Any) -> list[tuple[int, ...]]:
    """The places of x under one window, in row-major order, padding left out."""
    lead = x.ndim - len(a["window"])
    found = []
    for tap in places(a["window"]):
        spatial = zip(at[lead:], a["strides"], tap, a["padding"], strict=True)
        place = (*at[:lead], *(p * s + t - low for p, s, t, (low, _) in spatial))
        if all(0 <= p < n for p, n in zip(place, x.shape, strict=True)):
            found.append(place)
    return found


def first_maximum(x: Array, candidates: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    best = candidates[0]
    for p in candidates[1:]:
        if x[best] == x[best] and not x[p] <= x[best]:
            best = p
    return best


ODD = np.array([0.0, 1.0, 1.0, 2.0, -np.inf, np.inf, np.nan])


@st.composite
def pools(draw: Any) -> tuple[Array, Array, dict[str, Any]]:
    shape, out, attrs = pooling(draw)
    rng = draw(RNG)
    return rng.choice(ODD[: draw(st.integers(2, len(ODD)))], shape), normal(rng, out), attrs


@given(pools())
def test_reduce_window_with_ties_and_nans(pool: tuple[Array, Array, dict[str, Any]]) -> None:
    x, g, a = pool
    value, gradient = np.zeros(g.shape), np.zeros(x.shape)
    for at in places(g.shape):
        winner = first_maximum(x, windows(x, at, a))
        value[at] = x[winner]
        gradient[winner] += g[at]
    np.testing.assert_array_equal(define("reduce_window", x, **a), value)
    np.testing.assert_allclose(define("reduce_window_gradient", x, g, **a), gradient, atol=1e-12)


@given(pools())
def test_reduce_window_has_one_winner_in_both_modes(pool: tuple[Array, Array, dict[str, Any]]) -> None:
    """Which element wins a tie, and where NaN and -inf stand, must not depend on the direction of differentiation."""
    x, g, a = pool
    program = program_of("reduce_window", Sample([x], a))
    t = np.arange(1.0, x.size + 1).reshape(x.shape)
    np.testing.assert_allclose(dot(program.push([t]), [g]), dot([t], program.pull([g])), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [*INTEGERS, float16, bfloat16], ids=lambda d: d.name)
def test_reduce_window_padding_never_wins(dtype: DType) -> None:
    lowest = dtype.bounds[0] if dtype.is_integer else -np.inf
    x = np.full((2, 3), lowest).astype(dtype.numpy)
    a = {"window": (2, 2), "strides": (1, 1), "padding": ((1, 1), (1, 0))}
    np.testing.assert_array_equal(define("reduce_window", x, **a), np.full((3, 3), lowest).astype(dtype.numpy))


def test_windows_of_padding_alone_pass_nothing_on() -> None:
    a = {"window": (1,), "strides": (1,), "padding": ((2, 1),)}
    x, g = np.array([3.0, 4.0]), np.arange(1.0, 6.0)
    np.testing.assert_array_equal(define("reduce_window", x, **a), [-np.inf, -np.inf, 3, 4, -np.inf])
    np.testing.assert_array_equal(define("reduce_window_gradient", x, g, **a), [3, 4])


def indexed(x: Array, index: Array, at: Sequence[int], a: Any) -> tuple[int, ...]:
    """Where in x the element `at` of gather's result comes from."""
    batch, axes = a["batch"], a["axes"]
    positions = index.ndim - 1
    chosen = dict(zip(axes, index[tuple(at[:positions])].tolist(), strict=True))
    rest = iter(at[positions:])
    return (*at[:batch], *(chosen[i] if i in chosen else next(rest) for i in range(batch, x.ndim)))


@given(SAMPLES["gather"])
def test_gather(sample: Sample) -> None:
    x, index = sample.inputs
    out = define("gather", x, index, **sample.attrs)
    for at in places(out.shape):
        assert out[at] == x[indexed(x, index, at, sample.attrs)]


@given(SAMPLES["scatter"])
def test_scatter(sample: Sample) -> None:
    x, index, update = sample.inputs
    want, combine = x.copy(), sample.attrs["combine"]
    for at in places(update.shape):
        place = indexed(x, index, at, sample.attrs)
        want[place] = update[at] if combine == "set" else getattr(np, combine)(want[place], update[at])
    np.testing.assert_allclose(define("scatter", x, index, update, **sample.attrs), want, atol=1e-12)


@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_gather_and_scatter_check_their_bounds(wrong: int) -> None:
    x, index = np.zeros((2, 3)), np.array([[0], [wrong]])
    where = {"axes": (1,), "batch": 0}
    with pytest.raises(IndexBoundsError, match=f"index {wrong} is outside axis 1 of size 3"):
        define("gather", x, index, **where)
    with pytest.raises(IndexBoundsError, match=f"index {wrong} is outside axis 1 of size 3"):
        define("scatter", x, index, np.zeros((2, 2)), combine="set", **where)


@pytest.mark.parametrize("primitive", ["gather", "scatter"])
def test_an_index_beyond_int64_is_outside(primitive: str) -> None:
    x, index = np.zeros(3), np.array([[2**64 - 1]], np.uint64)
    with pytest.raises(IndexBoundsError):
        update = () if primitive == "gather" else (np.zeros(1),)
        how = {} if primitive == "gather" else {"combine": "add"}
        define(primitive, x, index, *update, axes=(0,), batch=0, **how)


@given(SAMPLES["dot_general"], st.sampled_from(["float64", "int64", "int8", "uint16"]))
def test_dot_general(sample: Sample, dtype: str) -> None:
    a, b = (np.round(x * 9).astype(np.int64).astype(dtype) for x in sample.inputs)
    names = itertools.count()
    left, right = [next(names) for _ in a.shape], [next(names) for _ in b.shape]
    pairs = [*zip(*sample.attrs["batch"], strict=True), *zip(*sample.attrs["contract"], strict=True)]
    for i, j in pairs:
        right[j] = left[i]
    free = [n for n in left + right if (n in left) != (n in right)]
    out = [left[i] for i in sample.attrs["batch"][0]] + free
    np.testing.assert_array_equal(define("dot_general", a, b, **sample.attrs), np.einsum(a, left, b, right, out))


@given(SAMPLES["pad"])
def test_pad(sample: Sample) -> None:
    x, value = sample.inputs
    low, high, interior = (sample.attrs[k] for k in ("low", "high", "interior"))
    out = define("pad", x, value, **sample.attrs)
    spread = [n + max(n - 1, 0) * i for n, i in zip(x.shape, interior, strict=True)]
    assert out.shape == tuple(lo + n + hi for lo, n, hi in zip(low, spread, high, strict=True))
    want = np.full(out.shape, value)
    for at in places(x.shape):
        want[tuple(lo + p * (i + 1) for p, lo, i in zip(at, low, interior, strict=True))] = x[at]
    np.testing.assert_array_equal(out, want)


@given(SAMPLES["slice"])
def test_slice(sample: Sample) -> None:
    (x,), a = sample.inputs, sample.attrs
    np.testing.assert_array_equal(define("slice", x, **a), x[tuple(map(slice, a["start"], a["limit"], a["stride"]))])


@given(SAMPLES["broadcast_in_dim"])
def test_broadcast_in_dim(sample: Sample) -> None:
    (x,), a = sample.inputs, sample.attrs
    out = define("broadcast_in_dim", x, **a)
    for at in places(out.shape):
        assert out[at] == x[tuple(0 if n == 1 else at[d] for n, d in zip(x.shape, a["dims"], strict=True))]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_iota_and_constant(dtype: DType) -> None:
    if dtype is not bool_:
        out = define("iota", shape=(2, 3), dtype=dtype, dimension=1)
        np.testing.assert_array_equal(out.astype(float), [[0, 1, 2]] * 2)
    assert evaluate([constant(1, dtype, DEVICE)], [], [])[0].astype(float) == 1.0


# ---- random bits ----------------------------------------------------------------------------------------------------

PI = ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))
KNOWN = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (*PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]  # from Random123's kat_vectors


def counter_words(a: int, b: int, c: int, d: int) -> tuple[Array, Array, Array, Array]:
    return np.array([a]), np.array([b]), np.array([c]), np.array([d])


@pytest.mark.parametrize(("counter", "key", "want"), KNOWN)
def test_philox_known_answers(counter: Any, key: Any, want: Any) -> None:
    words = philox(counter_words(*counter), key)
    assert tuple(int(w[0]) for w in words) == want


def words(low: int, high: int) -> np.ndarray[Any, Any]:
    return np.asarray(low | high << 32, np.uint64)


@pytest.mark.parametrize(("counter", "key", "want"), KNOWN[:1])
def test_rng_bits_lays_words_out_in_order(counter: Any, key: Any, want: Any) -> None:
    seed, call = words(*key), words(*counter[2:])
    np.testing.assert_array_equal(define("rng_bits", seed, call, shape=(4,)), np.array(want, np.uint32))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 40))
def test_rng_bits_do_not_depend_on_the_size(seed: int, call: int, n: int) -> None:
    operands = np.asarray(seed, np.uint64), np.asarray(call, np.uint64)
    long = define("rng_bits", *operands, shape=(5, 8)).ravel()
    short = define("rng_bits", *operands, shape=(n,))
    np.testing.assert_array_equal(short, long[:n])
    third = philox(counter_words(2, 0, call & 0xFFFFFFFF, call >> 32), (seed & 0xFFFFFFFF, seed >> 32))
    assert long[8:12].tolist() == [int(w[0]) for w in third]


# ---- dtypes ---------------------------------------------------------------------------------------------------------


def edges(dtype: DType) -> Array:
    low, high = dtype.bounds
    few = [0, 1, 2, 3, 5, 7, 8, 31, 63, 64, 100, high, high - 1, low, low + 1, -1, -2, -3, -7]
    return np.array([n for n in dict.fromkeys(few) if low <= n <= high], dtype.numpy)


def wrapped(value: int, dtype: DType) -> int:
    bits = dtype.itemsize * 8
    value %= 1 << bits
    return value - (1 << bits) if dtype.kind == "int" and value >> (bits - 1) else value


def _truncated(a: int, b: int, dtype: DType) -> int:
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _power(a: int, b: int, dtype: DType) -> int:
    if b >= 0:
        return pow(a, b, 1 << dtype.itemsize * 8)
    return {1: 1, -1: -1 if b % 2 else 1}.get(a, 0)


def _shift(a: int, b: int, dtype: DType) -> int:
    bits = dtype.itemsize * 8
    a, b = a % (1 << bits), b % (1 << bits)
    return a >> b if b < bits else 0


def _shift_left(a: int, b: int, dtype: DType) -> int:
    bits = dtype.itemsize * 8
    b %= 1 << bits
    return a << b if b < bits else 0


def _shift_arithmetic(a: int, b: int, dtype: DType) -> int:
    bits = dtype.itemsize * 8
    a = (a + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))  # as if signed
    return a >> min(b % (1 << bits), bits)


def _remainder(a: int, b: int, dtype: DType) -> int:
    return a - b * _truncated(a, b, dtype) if b else 0


EXACT = {
    "add": lambda a, b, d: a + b, "subtract": lambda a, b, d: a - b, "multiply": lambda a, b, d: a * b,
    "divide": _truncated, "power": _power, "maximum": lambda a, b, d: max(a, b), "minimum": lambda a, b, d: min(a, b),
    "and": lambda a, b, d: a & b, "or": lambda a, b, d: a | b, "xor": lambda a, b, d: a ^ b,
    "shift_right_logical": _shift, "shift_left": _shift_left, "shift_right_arithmetic": _shift_arithmetic,
    "remainder": _remainder,
}  # fmt: skip


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.name)
@pytest.mark.parametrize("name", EXACT)
def test_integers_against_pythons(name: str, dtype: DType) -> None:
    xs = edges(dtype)
    a, b = (m.ravel() for m in np.meshgrid(xs, xs))
    want = [wrapped(EXACT[name](x, y, dtype), dtype) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_array_equal(define(name, a, b), np.array(want, dtype.numpy))
    assert define(name, a[5], b[5]) == want[5]  # without axes as well


@pytest.mark.parametrize("dtype", [bool_, *INTEGERS], ids=lambda d: d.name)
def test_one_integer_against_pythons(dtype: DType) -> None:
    xs = edges(dtype) if dtype.is_integer else np.array([False, True])
    exact = {"abs": abs, "negate": lambda n: -n, "sign": lambda n: (n > 0) - (n < 0)} if dtype.is_integer else {}
    for name, f in exact.items():
        np.testing.assert_array_equal(
            define(name, xs), np.array([wrapped(f(n), dtype) for n in xs.tolist()], dtype.numpy)
        )
    np.testing.assert_array_equal(define("not", xs), ~xs)


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 3.0, 100.0, 1e-3, np.inf, -np.inf, np.nan])
FLOAT_UNARY = {
    "exponential": np.exp, "log": np.log, "sqrt": np.sqrt, "tanh": np.tanh, "sine": np.sin, "cosine": np.cos,
    "floor": np.floor, "abs": np.abs, "negate": np.negative, "sign": np.sign, "erf": np.vectorize(math.erf),
    "logistic": lambda x: np.where(x < -700, 0, 1 / (1 + np.exp(-x))), "ceil": np.ceil, "round_nearest_even": np.rint,
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "exponential_minus_one": np.expm1, "log_plus_one": np.log1p,
}  # fmt: skip
FLOAT_BINARY = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide, "power": np.power,
    "maximum": np.maximum, "minimum": np.minimum, "remainder": np.fmod, "atan2": np.arctan2,
}  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
@pytest.mark.parametrize("name", [*FLOAT_UNARY, *FLOAT_BINARY])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_floats_are_computed_exactly_and_rounded_once(name: str, dtype: DType) -> None:
    x = SPECIAL.astype(dtype.numpy)
    operands = [x] if name in FLOAT_UNARY else [m.ravel() for m in np.meshgrid(x, x)]
    f = {**FLOAT_UNARY, **FLOAT_BINARY}[name]
    want = f(*[o.astype(np.float64) for o in operands]).astype(dtype.numpy)
    got = define(name, *operands)
    np.testing.assert_array_max_ulp(got, want, 1) if dtype is float64 else np.testing.assert_array_equal(
        got.astype(np.float64), want.astype(np.float64)
    )
    assert (np.signbit(got) == np.signbit(want))[~np.isnan(want)].all()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_compare_and_select(dtype: DType) -> None:
    x = edges(dtype) if dtype.is_integer else np.array([0, 1]).astype(dtype.numpy) if dtype is bool_ else None
    x = SPECIAL.astype(dtype.numpy) if x is None else x
    a, b = (m.ravel() for m in np.meshgrid(x, x))
    python = dict(zip(DIRECTIONS, ["__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"], strict=True))
    pairs = list(zip(a.astype(float if dtype.is_floating else a.dtype).tolist(), b.tolist(), strict=True))
    for direction, method in python.items():
        got = define("compare", a, b, direction=direction)
        assert got.tolist() == [getattr(p, method)(float(q) if dtype.is_floating else q) for p, q in pairs], direction
    flag = define("compare", a, b, direction="LT")
    as_written = np.uint16 if dtype is bfloat16 else a.dtype
    want = np.where(flag, a.view(as_written), b.view(as_written))
    np.testing.assert_array_equal(define("select", flag, a, b).view(as_written), want)


@pytest.mark.parametrize("source", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("target", DTYPES, ids=lambda d: d.name)
def test_convert(source: DType, target: DType) -> None:
    x = np.array([0, 1, 2, 100]).astype(source.numpy)
    np.testing.assert_array_equal(define("convert", x, dtype=target), x.astype(target.numpy))
    if source.is_floating and target.is_integer:  # towards zero
        x = np.array([1.75, 0.25, 2.5]).astype(source.numpy)
        assert define("convert", x, dtype=target).tolist() == [1, 0, 2]


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS], ids=lambda d: d.name)
def test_reductions(dtype: DType) -> None:
    x = (np.arange(24).reshape(2, 3, 4) * 7 % 11).astype(dtype.numpy)
    exact = x.astype(np.int64)
    for axes in [(), (0,), (2,), (0, 2), (0, 1, 2)]:
        for name, f in (("reduce_sum", np.sum), ("reduce_max", np.max), ("reduce_min", np.min)):
            np.testing.assert_array_equal(define(name, x, axes=axes).astype(np.int64), f(exact, axis=axes))
    np.testing.assert_array_equal(define("argmax", x, axis=1), exact.argmax(1))
    if dtype.is_floating:
        odd = np.array([[1.0, np.nan, 5.0, np.nan], [3.0, 3.0, -np.inf, 3.0]]).astype(dtype.numpy)
        assert define("argmax", odd, axis=1).tolist() == [1, 0]
        np.testing.assert_array_equal(define("reduce_max", odd, axes=(1,)).astype(float), [np.nan, 3])
        np.testing.assert_array_equal(define("reduce_min", odd, axes=(1,)).astype(float), [np.nan, -np.inf])


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS], ids=lambda d: d.name)
def test_cumulative_and_sorted(dtype: DType) -> None:
    x = (np.arange(24).reshape(2, 3, 4) * 7 % 5 + 1).astype(dtype.numpy)
    exact = x.astype(np.int64)
    functions = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}
    for axis in range(3):
        for name, f in functions.items():
            want = f.accumulate(exact, axis)
            np.testing.assert_array_equal(define(f"cumulative_{name}", x, axis=axis), want.astype(dtype.numpy))
        for descending in (False, True):
            want = np.argsort(-exact if descending else exact, axis, kind="stable")
            place = np.moveaxis(np.broadcast_to(np.arange(x.shape[axis]), np.moveaxis(x, axis, -1).shape), -1, axis)
            np.testing.assert_array_equal(define("sort", x, place, axis=axis, descending=descending), want)
            np.testing.assert_array_equal(
                define("sort", x, x, axis=axis, descending=descending), np.take_along_axis(x, want, axis)
            )
    if dtype.is_floating:
        odd = np.array([2.0, np.nan, np.inf, -np.inf, 2.0, np.nan]).astype(dtype.numpy)
        place = np.arange(6)
        assert define("sort", odd, place, axis=0, descending=False).tolist() == [3, 0, 4, 2, 1, 5]
        assert define("sort", odd, place, axis=0, descending=True).tolist() == [1, 5, 2, 0, 4, 3]


@pytest.mark.parametrize("dtype", [bool_, *INTEGERS], ids=lambda d: d.name)
def test_bitwise_reductions(dtype: DType) -> None:
    x = (np.arange(24).reshape(2, 3, 4) * 7 % 11 | 1).astype(dtype.numpy)
    for axes in [(), (0,), (2,), (0, 2), (0, 1, 2)]:
        np.testing.assert_array_equal(define("reduce_and", x, axes=axes), np.bitwise_and.reduce(x, axes))
        np.testing.assert_array_equal(define("reduce_or", x, axes=axes), np.bitwise_or.reduce(x, axes))
        empty = np.zeros((0, 3), dtype.numpy)
    assert define("reduce_and", empty, axes=(0,)).tolist() == (~empty[:0].sum(0, dtype=dtype.numpy)).tolist()


def test_bits_read_as_another_dtype() -> None:
    x = np.array([1.0, -0.0], np.float32)
    assert define("bitcast_convert", x, dtype=uint32).tolist() == [0x3F800000, 0x80000000]
    assert define("bitcast_convert", np.array(np.inf), dtype=int64) == 0x7FF0000000000000
    for dtype in (bool_, float32):
        with pytest.raises(Error, match=f"int64 has not the bits of a {dtype.name}"):
            define("bitcast_convert", np.zeros(2, np.int64), dtype=dtype)


def test_integer_sums_wrap_in_their_own_dtype() -> None:
    assert define("reduce_sum", np.full(3, 100, np.int8), axes=(0,)) == wrapped(300, int8)


EMPTY_AXIS = [("reduce_max", {"axes": (1,)}), ("reduce_min", {"axes": (0, 1)}), ("argmax", {"axis": 1})]


@pytest.mark.parametrize(("name", "attrs"), EMPTY_AXIS)
def test_an_empty_axis_has_no_extreme(name: str, attrs: Any) -> None:
    with pytest.raises(Error, match=r"axis 1 of \(2, 0\) is empty"):
        define(name, np.zeros((2, 0)), **attrs)


WRONG: list[tuple[str, list[Any], dict[str, Any], str]] = [
    ("add", [np.zeros(2), np.zeros(3)], {}, r"one shape, got \(2,\) and \(3,\)"),
    ("add", [np.zeros(2), np.zeros((2, 1))], {}, "one shape"),
    ("add", [np.zeros(2), np.zeros(2, np.float32)], {}, "one dtype, got float64 and float32"),
    ("add", [np.zeros(2, bool)] * 2, {}, "got bool"),
    ("exponential", [np.zeros(2, int)], {}, "floating-point dtype, got int64"),
    ("abs", [np.zeros(2, bool)], {}, "got bool"),
    ("not", [np.zeros(2)], {}, "bool or integers, got float64"),
    ("and", [np.zeros(2)] * 2, {}, "bool or integers, got float64"),
    ("is_finite", [np.zeros(2, int)], {}, "floating-point dtype, got int64"),
    ("atan2", [np.zeros(2, int)] * 2, {}, "floating-point dtype, got int64"),
    ("reduce_and", [np.zeros(2)], {"axes": (0,)}, "bool or integers, got float64"),
    ("cumulative_sum", [np.zeros(2, bool)], {"axis": 0}, "got bool"),
    ("select", [np.zeros(2), np.zeros(2), np.zeros(2)], {}, "bool condition, got float64"),
    ("select", [np.zeros(3, bool), np.zeros(2), np.zeros(2)], {}, "one shape"),
    ("broadcast_in_dim", [np.zeros((2, 3))], {"shape": (3, 2), "dims": (1, 0)}, "ascending"),
    ("broadcast_in_dim", [np.zeros(2)], {"shape": (3,), "dims": (0,)}, r"cannot broadcast \(2,\) to \(3,\)"),
    ("reshape", [np.zeros((2, 3))], {"shape": (4,)}, r"\(2, 3\) \(6 elements\) to \(4,\) \(4\)"),
    ("transpose", [np.zeros((2, 3))], {"permutation": (0, 0)}, "each of 2 axes once"),
    ("concatenate", [np.zeros((2, 3)), np.zeros((2, 4))], {"dimension": 0}, "sizes differ outside axis 0"),
    ("reduce_sum", [np.zeros(2, bool)], {"axes": (0,)}, "got bool"),
    ("dot_general", [np.zeros((2, 3))] * 2, {"batch": ((), ()), "contract": ((1,), (0,))}, "contracted sizes differ"),
    ("gather", [np.zeros(3), np.zeros((1, 1))], {"axes": (0,), "batch": 0}, "integer indices, got float64"),
    ("scatter", [np.zeros(3), np.zeros((2, 1), int), np.zeros(3)], {"axes": (0,), "batch": 0, "combine": "add"},
     r"updates of shape \(2,\), got \(3,\)"),
    ("reduce_window", [np.zeros(3)], {"window": (4,), "strides": (1,), "padding": ((0, 0),)}, "larger than the padded"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arrays", "attrs", "message"), WRONG)
def test_rules_say_what_they_expected(name: str, arrays: list[Any], attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(Error, match=message):
        define(name, *arrays, **attrs)


def test_only_floats_are_tracked() -> None:
    x = inputs_for([np.zeros(2)])[0]
    assert x.tracked and make("add", x, x).tracked
    assert not make("compare", x, x, direction="LT").tracked
    assert not make("convert", x, dtype=int64).tracked and make("convert", x, dtype=float32).tracked
    assert not make("stop_gradient", x).tracked and make("variable", make("stop_gradient", x)).tracked
    assert make("rng_bits", *inputs_for([words(0, 0)] * 2), shape=(2,)).dtype is uint32

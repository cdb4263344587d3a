"""The thin CPU compiler against the reference device: fused groups, every primitive, no compiling for new sizes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from katachi.compiler.fuse import Group, fuse
from katachi.devices.cpu import launch as launch_module
from katachi.devices.cpu.engine import engine
from katachi.devices.cpu.launch import load
from katachi.devices.cpu.pool import Pool
from katachi.devices.cpu.tasks import kernels_of, parts_of
from katachi.devices.reference import REFERENCE
from katachi.errors import IndexBoundsError
from katachi.graph.dtypes import (
    DType,
    as_dtype,
    bool_,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)  # fmt: skip
from katachi.graph.node import Node, aval, toposort
from katachi.graph.primitives import constant, input_node, make
from katachi.kernels.loops import SCRATCH
from katachi.kernels.lower import LOWERING, lowerable
from katachi.kernels.polynomials import ULPS

Array = np.ndarray[Any, Any]
INTEGERS = (int8, int16, int32, int64, uint8, uint16, uint32, uint64)
FLOATS = (float32, float64)
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5, -2.5, 88.8, -104.5, 3e-5, 1e30, 7.0]
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Each test draws the same numbers, whatever ran before it."""
    rng.bit_generator.state = np.random.default_rng(0).bit_generator.state


class Feeds(dict[Node, Array]):
    """Inputs and what they hold."""

    def __call__(self, array: Any, dtype: DType | None = None) -> Node:
        array = np.array(array, None if dtype is None else dtype.numpy, order="C")
        node = input_node(aval(array.shape, as_dtype(array.dtype), "cpu", False), len(self))
        self[node] = array
        return node


def groups_of(outputs: Sequence[Node]) -> list[Group]:
    return fuse(toposort(list(outputs)), outputs, lowerable)


def compiled(outputs: Sequence[Node], feeds: Feeds) -> list[Array]:
    """Values of the outputs by generated code. Every buffer is surrounded by bytes that must survive."""
    groups = groups_of(outputs)
    index: dict[Node, int] = {}  # row of the table
    blocks: list[tuple[Array, Array]] = []

    def place(node: Node, array: Array | None) -> None:
        size = int(np.prod(node.shape)) * node.dtype.itemsize
        block = np.full(size + 256, 0xA5, np.uint8)
        skip = 64 + -block.ctypes.data % 64 + (node.dtype.itemsize if array is not None else 0)  # users align less
        view = block[skip : skip + size].view(node.dtype.numpy).reshape(node.shape)
        if array is not None:
            view[...] = array
        index[node] = SCRATCH + 1 + len(blocks)
        blocks.append((block, view))

    for node, array in feeds.items():
        place(node, array)
    for group in groups:
        assert group.kind != "reference", group
        for node in group.outputs:
            place(node, None)
    launch = load(kernels_of(*parts_of(groups, index, len(groups))))
    assert launch
    scratch = np.full(launch.scratch + 128, 0xA5, np.uint8)
    start = -scratch.ctypes.data % 64
    table = np.array([scratch.ctypes.data + start, *(v.ctypes.data if v.size else 8 for _, v in blocks)], np.int64)
    launch(table.ctypes.data)
    assert (scratch[:start] == 0xA5).all() and (scratch[start + launch.scratch :] == 0xA5).all(), (
        "beyond scratch memory"
    )
    for (block, view), node in zip(blocks, index, strict=True):
        start = view.ctypes.data - block.ctypes.data if view.size else 0
        assert (block[:start] == 0xA5).all() and (block[start + view.nbytes :] == 0xA5).all(), f"{node} written outside"
    for node, array in feeds.items():
        assert blocks[index[node] - SCRATCH - 1][1].tobytes() == array.tobytes(), f"{node} changed"
    return [blocks[index[o] - SCRATCH - 1][1].copy() for o in outputs]


def expected(outputs: Sequence[Node], feeds: Feeds) -> list[Array]:
    values: dict[Node, Array] = dict(feeds)
    with np.errstate(all="ignore"):
        for node in toposort(list(outputs)):
            if node not in values:
                values[node] = REFERENCE[node.primitive](*[values[x] for x in node.inputs], **node.attrs)
    return [values[o] for o in outputs]


def check(outputs: Node | Sequence[Node], feeds: Feeds, ulps: int = 0, scale: float = 0.0) -> None:
    """Generated code agrees with the reference within `ulps`, plus `scale` times the largest operand's rounding."""
    outputs = [outputs] if isinstance(outputs, Node) else list(outputs)
    for got, want in zip(compiled(outputs, feeds), expected(outputs, feeds), strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        if not as_dtype(got.dtype).is_floating:
            np.testing.assert_array_equal(got, want)
            continue
        info = ml_dtypes.finfo(got.dtype)
        with np.errstate(invalid="ignore"):  # NaN
            got, want = got.astype(np.float64), want.astype(np.float64)
            floats = [x.astype(np.float64) for n, x in feeds.items() if n.dtype.is_floating]
        eps, tiny = float(info.eps), float(info.tiny)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        finite = np.isfinite(want)
        np.testing.assert_array_equal(got[~finite], want[~finite])
        got, want = got[finite], want[finite]
        largest = max((float(np.abs(x[np.isfinite(x)]).max(initial=0)) for x in floats), default=0)
        spacing = np.maximum(np.ldexp(eps, np.frexp(want)[1] - 1), tiny)
        assert np.isfinite(got).all(), got
        assert (np.abs(got - want) <= ulps * spacing + scale * eps * max(largest, 1.0) + tiny).all(), (got, want)


def values(shape: Sequence[int], dtype: DType) -> Array:
    n = int(np.prod(shape))
    if dtype.kind == "bool":
        x = rng.integers(0, 2, n)
    elif dtype.is_integer:
        low, high = dtype.bounds
        edges = [low, high, 0, 1, 2, 3, 5, 7, 100, high - 1, low + 1] + ([-1, -7] if low < 0 else [])
        x = np.array([edges[i] for i in rng.integers(0, len(edges), n)], dtype.numpy)
    else:
        x = np.where(rng.random(n) < 0.5, rng.choice(SPECIAL, n), rng.standard_normal(n) * 3)
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(dtype.numpy).reshape(shape)


SHAPES = [(), (1,), (0,), (7,), (16,), (100,), (3, 1), (5, 17), (4, 0, 3), (2, 3, 33)]
UNARY = {
    "exponential": FLOATS, "log": FLOATS, "sqrt": FLOATS, "tanh": FLOATS, "logistic": FLOATS, "erf": FLOATS,
    "sine": FLOATS, "cosine": FLOATS, "floor": FLOATS, "abs": (*INTEGERS, *FLOATS), "negate": (*INTEGERS, *FLOATS),
    "sign": (*INTEGERS, *FLOATS), "not": (bool_, *INTEGERS), **dict.fromkeys(
        ("ceil", "round_nearest_even", "is_finite", "tan", "asin", "acos", "sinh", "cosh", "asinh", "acosh", "atanh",
         "exponential_minus_one", "log_plus_one"), FLOATS
    ),
}  # fmt: skip
ARITHMETIC = dict.fromkeys(("add", "subtract", "multiply", "divide", "maximum", "minimum"), (*INTEGERS, *FLOATS))
BINARY = {
    **ARITHMETIC, "power": FLOATS, **dict.fromkeys(("and", "or", "xor"), (bool_, *INTEGERS)),
    **dict.fromkeys(("shift_right_logical", "shift_right_arithmetic", "shift_left"), INTEGERS), "atan2": FLOATS,
    "remainder": (*INTEGERS, *FLOATS),
}  # fmt: skip
CASES = [(p, d) for p, ds in (UNARY | BINARY).items() for d in ds]


@pytest.mark.parametrize(("primitive", "dtype"), CASES, ids=lambda c: getattr(c, "name", c))
def test_elementwise(primitive: str, dtype: DType) -> None:
    for shape in SHAPES:
        feeds = Feeds()
        xs = [feeds(values(shape, dtype)) for _ in range(1 if primitive in UNARY else 2)]
        check(make(primitive, *xs), feeds, ULPS.get(primitive, 0))


@pytest.mark.parametrize(
    ("source", "target"), [(float32, int32), (uint64, float64), (int16, uint16), (uint32, float32)]
)
def test_bits_read_as_another_dtype(source: DType, target: DType) -> None:
    feeds = Feeds()
    check(make("bitcast_convert", feeds(np.arange(41), source), dtype=target), feeds)


@pytest.mark.parametrize("name", ["reduce_prod", "reduce_and", "reduce_or"])
@pytest.mark.parametrize("shape", [(7,), (100,), (5, 17), (4, 0, 3), (2, 3, 33), (64, 40)])
def test_products_and_bits_over_axes(name: str, shape: tuple[int, ...]) -> None:
    for dtype in (*INTEGERS, *FLOATS) if name == "reduce_prod" else (bool_, *INTEGERS):
        for axes in {(0,), (len(shape) - 1,), tuple(range(len(shape)))}:
            feeds = Feeds()
            x = rng.uniform(0.7, 1.3, shape) if dtype.is_floating else rng.integers(0, 100, shape)
            if dtype is bool_:
                x = rng.random(shape) < (0.95 if name == "reduce_and" else 0.05)
            check(make(name, feeds(x, dtype), axes=axes), feeds, 100)


@pytest.mark.parametrize("name", sorted(ULPS))
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
def test_functions_keep_their_ulps(name: str, dtype: DType) -> None:
    small = rng.standard_normal(4000) * np.exp(rng.uniform(-20, 4, 4000))
    wide = np.exp(rng.uniform(-80, 80, 2000)) * rng.choice([-1, 1], 2000)
    x = np.concatenate([small, wide, np.linspace(-110, 110, 3000), rng.uniform(-2, 2, 4000), SPECIAL]).astype(
        dtype.numpy
    )
    if name in ("sine", "cosine"):
        x[:50] = rng.uniform(-1e6, 1e6, 50)
    feeds = Feeds()
    if name == "power":
        y = rng.permutation(x)
        y[:5000] = rng.integers(-5, 6, 5000)
        check(make(name, feeds(x), feeds(y)), feeds, ULPS[name])
        check(make(name, feeds(np.abs(x)), feeds(np.round(y * 4) / 4)), feeds, ULPS[name])
    else:
        operands = [feeds(x), feeds(rng.permutation(x))][: 2 if name == "atan2" else 1]
        check(make(name, *operands), feeds, ULPS[name])


@pytest.mark.parametrize("source", (bool_, *INTEGERS, *FLOATS), ids=lambda d: d.name)
def test_convert_and_compare(source: DType) -> None:
    feeds = Feeds()
    x, y = feeds(values((41,), source)), feeds(values((41,), source))
    for direction in ("EQ", "NE", "LT", "LE", "GT", "GE"):
        check(make("compare", x, y, direction=direction), feeds)
    tame = feeds(rng.integers(0, 100, 41), source) if source.kind != "bool" else x
    for target in (bool_, *INTEGERS, *FLOATS):
        check(make("convert", tame, dtype=target), feeds)
        if target.is_integer and source.is_floating:
            compiled([make("convert", x, dtype=target)], feeds)  # out of range and NaN: anything but a trap
        else:
            check(make("convert", x, dtype=target), feeds)


@st.composite
def movements(draw: st.DrawFn, feeds: Feeds, dtype: DType = float32) -> Node:
    """A chain of movement and cheap element-wise primitives on one input."""
    shape = draw(st.lists(st.sampled_from([0, 1, 1, 2, 3, 5, 17]), min_size=0, max_size=3))
    x = feeds(rng.integers(-50, 50, shape), dtype)
    for _ in range(draw(st.integers(1, 5))):
        rank = len(x.shape)
        kind = draw(
            st.sampled_from(["broadcast", "transpose", "slice", "pad", "concatenate", "reverse", "reshape", "add"])
        )
        if kind == "broadcast" and rank < 4:
            at = draw(st.integers(0, rank))
            n = draw(st.sampled_from([1, 2, 3, 18]))
            wide = [draw(st.sampled_from([1, 4])) if s == 1 else s for s in x.shape]
            dims = tuple(i for i in range(rank + 1) if i != at)
            x = make("broadcast_in_dim", x, shape=(*wide[:at], n, *wide[at:]), dims=dims)
        elif kind == "transpose":
            x = make("transpose", x, permutation=tuple(draw(st.permutations(range(rank)))))
        elif kind == "slice":
            bounds = [sorted((draw(st.integers(0, s)), draw(st.integers(0, s)))) for s in x.shape]
            stride = tuple(draw(st.integers(1, 3)) for _ in x.shape)
            x = make("slice", x, start=tuple(a for a, _ in bounds), limit=tuple(b for _, b in bounds), stride=stride)
        elif kind == "pad":
            low, high = (tuple(draw(st.integers(0, 2)) for _ in x.shape) for _ in range(2))
            x = make("pad", x, constant(7, dtype, "cpu"), low=low, high=high, interior=(0,) * rank)
        elif kind == "concatenate" and rank:
            other = make("negate", x) if draw(st.booleans()) else x
            x = make("concatenate", x, other, dimension=draw(st.integers(0, rank - 1)))
        elif kind == "reverse":
            x = make("reverse", x, dimensions=tuple(i for i in range(rank) if draw(st.booleans())))
        elif kind == "reshape":
            flat = int(np.prod(x.shape))
            splits = [(flat,), (1, flat), (flat, 1, 1), x.shape[::-1]]
            splits += [(d, flat // d) for d in (2, 3, 5) if flat % d == 0]
            x = make("reshape", x, shape=tuple(draw(st.sampled_from(splits))))
        elif kind == "add":
            x = make("add", x, make("multiply", x, x))
        if int(np.prod(x.shape)) > 5000:
            break
    return x


@settings(max_examples=int(os.environ.get("KATACHI_EXAMPLES", "20")), deadline=None)
@given(st.data())
def test_movement_chains(data: st.DataObject) -> None:
    feeds = Feeds()
    dtype = data.draw(st.sampled_from([float32, int64, uint8]))
    x = data.draw(movements(feeds, dtype))
    outputs = [x]
    if data.draw(st.booleans()) and x.shape:
        axes = tuple(i for i in range(len(x.shape)) if data.draw(st.booleans()))
        reduced = make("reduce_sum", x, axes=axes)
        outputs = [reduced, make("negate", reduced), *outputs]
        if dtype is float32:
            check(outputs, feeds, 2, 64.0 * max(int(np.prod(x.shape)), 1))
            return
    check(outputs, feeds)


@pytest.mark.parametrize("primitive", ["reduce_sum", "reduce_max", "reduce_min"])
@pytest.mark.parametrize("shape", [(5,), (40, 7), (3, 50), (4, 1, 9), (2, 3, 4), (70, 70)])
def test_reductions_over_every_axis_subset(primitive: str, shape: tuple[int, ...]) -> None:
    for dtype in (float32, float64, int32, uint8, int64):
        for n in range(1, len(shape) + 1):
            for axes in itertools.combinations(range(len(shape)), n):
                feeds = Feeds()
                data = rng.standard_normal(shape) if dtype.is_floating else values(shape, dtype)
                x = feeds(data, dtype)
                y = make(primitive, make("add", x, x), axes=axes)
                # the epilogue is exact, so the bound of a sum in any order holds for it as well
                check([y, make("negate", y)], feeds, 4, float(int(np.prod(shape))) * 8)


def test_empty_reductions_and_nan() -> None:
    feeds = Feeds()
    x = feeds(np.zeros((3, 0, 2), "f"))
    check(
        [make("reduce_sum", x, axes=(1,)), make("reduce_sum", x, axes=(0, 1, 2)), make("reduce_max", x, axes=(0,))],
        feeds,
    )
    feeds = Feeds()
    data = rng.standard_normal((5, 40)).astype("f")
    data[1, 17] = data[2, 3] = data[2, 30] = np.nan
    data[3, 39] = np.inf
    x = feeds(data)
    check(
        [make("reduce_max", x, axes=(1,)), make("reduce_min", x, axes=(0,)), make("reduce_sum", x, axes=(1,))],
        feeds,
        4,
        300,
    )


@pytest.mark.parametrize("dtype", (int8, uint16, int64, float32, float64), ids=lambda d: d.name)
def test_argmax(dtype: DType) -> None:
    for shape, axis in (((5,), 0), ((40, 7), 0), ((40, 7), 1), ((3, 100), 1), ((2, 33, 3), 1), ((6, 1), 1)):
        feeds = Feeds()
        data = rng.integers(0, 5, shape).astype(dtype.numpy)
        if dtype.is_floating:
            data = np.where(rng.random(shape) < 0.02, np.nan, data)
        check(make("argmax", feeds(data, dtype), axis=axis), feeds)
    if dtype.is_floating:
        feeds = Feeds()
        check(make("argmax", feeds(np.full((3, 20), -np.inf), dtype), axis=1), feeds)


def test_iota_and_random_bits() -> None:
    feeds = Feeds()
    for dtype in (int64, int32, uint8, float32):
        check(make("iota", shape=(3, 40, 2), dtype=dtype, dimension=1, device="cpu"), Feeds())
    seed, call = feeds(2**40 + 5, uint64), feeds(3, uint64)
    for shape in ((), (1,), (7,), (50, 3), (0, 2)):
        check(make("rng_bits", seed, call, shape=shape), feeds)


def test_gather_and_its_bounds() -> None:
    feeds = Feeds()
    table, index = feeds(rng.standard_normal((11, 40)).astype("f")), feeds(rng.integers(0, 11, (4, 5, 1)))
    check(make("gather", table, index, axes=(0,), batch=0), feeds)
    check(make("gather", make("exponential", table), index, axes=(0,), batch=0), feeds, 2)
    labels = feeds(rng.integers(0, 40, (11, 1)))
    check(make("gather", table, labels, axes=(1,), batch=1), feeds)
    pairs = feeds(rng.integers(0, 11, (9, 2)), int32)
    check(make("gather", table, pairs, axes=(0, 1), batch=0), feeds)
    for wrong in (11, -1, 2**40):
        bad = np.zeros((3, 17, 1), np.int64)
        bad[1, 13] = wrong
        feeds = Feeds()
        table, index = feeds(rng.standard_normal((11, 40)).astype("f")), feeds(bad)
        node = make("gather", table, index, axes=(0,), batch=0)
        with pytest.raises(IndexBoundsError, match=rf"index {wrong} is outside axis 0 of size 11") as caught:
            compiled([make("negate", node)], feeds)
        assert caught.value.node is node  # type: ignore[attr-defined]


@pytest.mark.parametrize("combine", ["add", "set"])
def test_scatter_of_one_place_a_row(combine: str) -> None:
    feeds = Feeds()
    x, index = feeds(rng.standard_normal((6, 19)).astype("f")), feeds(rng.integers(0, 19, (6, 1)))
    update = feeds(rng.standard_normal(6).astype("f"))
    check(make("scatter", x, index, update, axes=(1,), batch=1, combine=combine), feeds, 1)


SIZES = [
    (1, 1, 1),
    (5, 7, 3),
    (8, 48, 16),
    (33, 10, 128),
    (1, 300, 5),
    (64, 1, 64),
    (130, 97, 600),
    (4, 5, 0),
    (0, 3, 2),
]


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_matmul(layout: str, dtype: DType) -> None:
    for m, n, k in SIZES:
        feeds = Feeds()
        a = feeds(rng.standard_normal((m, k) if layout[0] == "n" else (k, m)), dtype)
        b = feeds(rng.standard_normal((k, n) if layout[1] == "n" else (n, k)), dtype)
        contract = ((1 if layout[0] == "n" else 0,), (0 if layout[1] == "n" else 1,))
        check(make("dot_general", a, b, batch=((), ()), contract=contract), feeds, 4, 8.0 * max(k, 1))


def test_matmul_batches_views_and_several_axes() -> None:
    feeds = Feeds()
    a, b = feeds(rng.standard_normal((2, 3, 9, 20)), float32), feeds(rng.standard_normal((2, 3, 20, 11)), float32)
    check(make("dot_general", a, b, batch=((0, 1), (0, 1)), contract=((3,), (2,))), feeds, 4, 200)
    heads = make("transpose", feeds(rng.standard_normal((2, 9, 3, 20)), float32), permutation=(0, 2, 1, 3))
    check(make("dot_general", heads, b, batch=((0, 1), (0, 1)), contract=((3,), (2,))), feeds, 4, 200)
    check(make("dot_general", a, heads, batch=((0, 1), (0, 1)), contract=((3,), (3,))), feeds, 4, 200)
    w = feeds(rng.standard_normal((20, 6)), float32)
    check(make("dot_general", a, w, batch=((), ()), contract=((3,), (0,))), feeds, 4, 200)
    check(make("dot_general", make("exponential", w), w, batch=((), ()), contract=((0,), (0,))), feeds, 4, 4000)
    wide = make("broadcast_in_dim", w, shape=(4, 20, 6), dims=(1, 2))
    c = feeds(rng.standard_normal((4, 7, 20)), float32)
    check(make("dot_general", c, wide, batch=((0,), (0,)), contract=((2,), (1,))), feeds, 4, 200)
    tail = make("reshape", c, shape=(28, 20))
    check(make("dot_general", tail, w, batch=((), ()), contract=((1,), (0,))), feeds, 4, 200)


def softmax(x: Node) -> Node:
    rows = tuple(range(len(x.shape) - 1))
    top = make("broadcast_in_dim", make("reduce_max", x, axes=(len(rows),)), shape=x.shape, dims=rows)
    e = make("exponential", make("subtract", x, top))
    total = make("broadcast_in_dim", make("reduce_sum", e, axes=(len(rows),)), shape=x.shape, dims=rows)
    return make("divide", e, total)


@pytest.mark.parametrize("shape", [(7,), (3, 1), (5, 10), (1, 33), (2, 3, 50), (0, 4)])
def test_softmax_in_one_kernel(shape: tuple[int, ...]) -> None:
    feeds = Feeds()
    p = softmax(feeds(rng.standard_normal(shape), float32))
    if len(shape) > 1 and 1 not in shape:
        assert [g.kind for g in groups_of([p])] == ["loops"]
    check([p, make("reduce_sum", p, axes=(0,))], feeds, 16, 8)


def test_values_read_across_their_own_loops() -> None:
    """A square makes a row look like a column: what is read along other axes must not be taken from the same loops."""
    for n in (1, 5, 40):
        feeds = Feeds()
        x = feeds(rng.standard_normal((n, n)), float32)
        top, e = make("reduce_max", x, axes=(1,)), make("exponential", x)
        along, across = (make("broadcast_in_dim", top, shape=x.shape, dims=(d,)) for d in (0, 1))
        turned = make("add", e, make("transpose", e, permutation=(1, 0)))
        flipped = make("add", top, make("reverse", top, dimensions=(0,)))
        check([make("subtract", x, along), make("subtract", x, across), turned, flipped, e], feeds, 4)


def test_a_later_stage_reads_what_an_earlier_one_stored() -> None:
    feeds = Feeds()
    x = feeds(rng.standard_normal((9, 50)), float32)
    e = make("exponential", x)
    more = make("add", make("add", e, x), make("multiply", x, x))
    total = make("broadcast_in_dim", make("reduce_sum", e, axes=(1,)), shape=x.shape, dims=(0,))
    p = make("divide", more, total)
    top = make("broadcast_in_dim", make("reduce_max", p, axes=(1,)), shape=x.shape, dims=(0,))
    check([make("subtract", make("add", p, e), top), make("reduce_sum", p, axes=(1,))], feeds, 8, 100)


def mlp(batch: int, hidden: int) -> tuple[list[Node], Feeds]:
    """Loss and gradients of a two-layer classifier, written out."""
    feeds = Feeds()
    x, w1 = feeds(rng.standard_normal((batch, 13)), float32), feeds(rng.standard_normal((hidden, 13)) / 4, float32)
    b1, w2 = feeds(rng.standard_normal(hidden), float32), feeds(rng.standard_normal((5, hidden)) / 4, float32)
    labels = feeds(rng.integers(0, 5, (batch, 1)))
    h = make("dot_general", x, w1, batch=((), ()), contract=((1,), (1,)))
    h = make("add", h, make("broadcast_in_dim", b1, shape=h.shape, dims=(1,)))
    zero = make("broadcast_in_dim", constant(0, float32, "cpu"), shape=h.shape, dims=())
    a = make("maximum", h, zero)
    z = make("dot_general", a, w2, batch=((), ()), contract=((1,), (1,)))
    p = softmax(z)
    loss = make("negate", make("reduce_sum", make("log", make("gather", p, labels, axes=(1,), batch=1)), axes=(0,)))
    ones = make("broadcast_in_dim", constant(-1, float32, "cpu"), shape=(batch,), dims=())
    dz = make("scatter", p, labels, ones, axes=(1,), batch=1, combine="add")
    dw2 = make("dot_general", dz, a, batch=((), ()), contract=((0,), (0,)))
    da = make("dot_general", dz, w2, batch=((), ()), contract=((1,), (0,)))
    dh = make("select", make("compare", h, zero, direction="GT"), da, zero)
    dw1 = make("dot_general", dh, x, batch=((), ()), contract=((0,), (0,)))
    return [loss, dw2, dw1, make("reduce_sum", dh, axes=(0,)), make("reduce_sum", dz, axes=(0,))], feeds


def test_other_sizes_compile_nothing() -> None:
    outputs, feeds = mlp(6, 30)
    check(outputs, feeds, 8, 400)
    before = engine().compiled
    for batch, hidden in ((7, 30), (64, 30), (6, 129), (300, 200)):
        outputs, feeds = mlp(batch, hidden)
        check(outputs, feeds, 8, 40.0 * batch)
    assert engine().compiled == before


def test_equal_structure_is_compiled_once() -> None:
    feeds = Feeds()
    xs = [feeds(values((n, 3), float32)) for n in (4, 9, 20)]
    outputs = [make("tanh", make("subtract", make("multiply", x, x), x)) for x in xs]
    before = engine().compiled
    check(outputs, feeds, 4)
    assert engine().compiled <= before + 1


def test_many_tasks_give_the_same_bits() -> None:
    feeds = Feeds()
    x = feeds(rng.standard_normal((333, 1001)), float32)
    y = make("tanh", make("multiply", x, x))
    outputs = [y, make("reduce_sum", y, axes=(0,)), make("reduce_sum", y, axes=(1,)), softmax(x)]
    check(outputs, feeds, 16, 3000)
    first = compiled(outputs, feeds)
    for _ in range(5):
        for a, b in zip(compiled(outputs, feeds), first, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bits", [128, 256])
def test_narrow_targets_without_masks(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code that machines without masked vectors get, run on this one."""
    monkeypatch.setattr(engine(), "target", engine().target._replace(bits=bits, masks=False))
    for primitive, dtype in [
        ("erf", float32),
        ("power", float32),
        ("divide", int32),
        ("tanh", float64),
        ("and", bool_),
    ]:
        test_elementwise(primitive, dtype)
    test_reductions_over_every_axis_subset("reduce_sum", (4, 1, 9))
    test_reductions_over_every_axis_subset("reduce_max", (3, 50))
    test_argmax(float32)
    test_gather_and_its_bounds()
    test_softmax_in_one_kernel((2, 3, 50))
    test_matmul("nt", float32)
    test_matmul("nn", float64)
    outputs, feeds = mlp(7, 30)
    check(outputs, feeds, 8, 400)


def test_forked_children_have_a_pool_of_their_own() -> None:
    feeds = Feeds()
    y = make("tanh", feeds(rng.standard_normal((400, 1000)), float32))
    want = compiled([y], feeds)[0]
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    child = os.fork()
    if child == 0:
        os._exit(0 if (compiled([y], feeds)[0] == want).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_workers_that_sleep_in_python() -> None:
    import time

    pool = Pool(2, native_sleep=False)
    original, launch_module.pool = launch_module.pool, lambda: pool
    try:
        for pause in (0, 0, 0.05, 0.05):
            time.sleep(pause)
            test_many_tasks_give_the_same_bits()
    finally:
        launch_module.pool = original
        pool.close()


def test_table_covers_what_lowers() -> None:
    assert set(LOWERING) <= set(REFERENCE)
    assert not lowerable(
        make("custom_call", input_node(aval((2,), float32, "cpu", False), 0), function=abs, shape=(2,), dtype=float32)
    )

"""What a user calls, against NumPy."""

from __future__ import annotations

import copy
import math
import operator
import pickle
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import katachi
from katachi.errors import DTypeError, IndexBoundsError, ShapeError
from katachi.graph.dtypes import DTYPES, DType, as_dtype, bfloat16, bool_, float16, float32, float64, int64

from .samples import RNG, Array, Ints, shapes, subsets, tuples  # pyrefly: ignore[missing-import]

kt: Any = katachi  # what is checked here is what happens at run time
nn, F = kt.nn, kt.nn.functional
SIZES = st.integers(0, 4)


def name(x: Any) -> str:
    return getattr(x, "name", None) or getattr(x, "__name__", repr(x))


def normals(rng: np.random.Generator, shape: Ints) -> Array:
    return np.asarray(rng.standard_normal(shape), np.float32)


def same(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    """Shape, kind of dtype and values."""
    want = np.asarray(want)
    assert got.shape == want.shape and got.dtype.numpy.kind == want.dtype.kind, (got, want)
    np.testing.assert_allclose(got.numpy(), want, rtol=tolerance, atol=tolerance)


# ---- promotion ------------------------------------------------------------------------------------------------------


def promoted(a: DType, b: DType) -> DType | None:
    """The Array API's table by way of NumPy's, which agrees with it wherever it says something."""
    if {a, b} == {float16, bfloat16}:
        return float32
    if a.is_floating and b.is_floating:
        return as_dtype(np.promote_types(a.numpy, b.numpy))
    if a.is_floating or b.is_floating:
        return a if a.is_floating else b
    common = np.promote_types(a.numpy, b.numpy)
    return None if common == np.float64 else as_dtype(common)  # uint64 with a signed integer


@pytest.mark.parametrize("a", DTYPES, ids=name)
@pytest.mark.parametrize("b", DTYPES, ids=name)
def test_promotion(a: DType, b: DType) -> None:
    x, y, want = kt.zeros(2, dtype=a), kt.ones(2, dtype=b), promoted(a, b)
    if want is None:
        for f in (kt.add, kt.equal, kt.maximum, kt.divide, lambda x, y: kt.concat([x, y])):
            with pytest.raises(DTypeError, match=r"uint64.*no common dtype"):
                f(x, y)
        return
    assert kt.where(kt.tensor([True, False]), x, y).dtype is want
    assert kt.concat([x, y]).dtype is want and kt.stack([x, y]).dtype is want
    assert (x == y).dtype is bool_ and (x < y).tolist() == [True, True]
    assert kt.divide(x, y).dtype is (want if want.is_floating else float32)
    if want is bool_:
        with pytest.raises(DTypeError, match="got bool"):
            x + y
        assert (x | y).tolist() == [True, True]
        return
    for f in (operator.add, operator.sub, operator.mul, kt.maximum, kt.minimum, kt.pow):
        assert f(x, y).dtype is want
    assert (x + y).tolist() == [1, 1]
    assert (x @ y).dtype is want


SCALARS: list[Any] = [True, 2, 0.5]
NUMPY_SCALARS: list[Any] = [np.bool_(True), np.int16(2), np.uint8(2), np.float16(0.5), np.float32(0.5), np.float64(0.5)]


def weak(dtype: DType, kind: type) -> DType:
    if kind is float:
        return dtype if dtype.is_floating else float32
    return int64 if kind is int and dtype is bool_ else dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("scalar", SCALARS + NUMPY_SCALARS, ids=lambda s: f"{type(s).__name__}")
def test_numbers_are_weak_on_both_sides(dtype: DType, scalar: Any) -> None:
    x = kt.ones(2, dtype=dtype)
    want = weak(dtype, type(scalar.item() if isinstance(scalar, np.generic) else scalar))
    assert kt.where(kt.tensor([True, False]), x, scalar).dtype is want
    assert (x == scalar).dtype is bool_ and (scalar == x).dtype is bool_
    if want is bool_:
        with pytest.raises(DTypeError):
            x * scalar
        return
    for got in (x * scalar, scalar * x):
        assert got.dtype is want and got.tolist() == [float(scalar)] * 2
    assert (scalar - x).tolist() == [float(scalar) - 1] * 2 if dtype.kind != "uint" else True
    assert (scalar / x).tolist() == [float(scalar)] * 2
    assert (scalar < x).tolist() == [float(scalar) < 1] * 2


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("array", [np.float32, np.float64, np.int8, np.uint16, ml_dtypes.bfloat16], ids=name)
def test_arrays_on_the_left_are_tensors(dtype: DType, array: Any) -> None:
    x, values = kt.ones(2, dtype=dtype), np.array([3, 4], array)
    want = promoted(dtype, as_dtype(values.dtype))
    if want is None:
        with pytest.raises(DTypeError):
            values + x
        return
    for got in (values + x, x + values):
        assert isinstance(got, kt.Tensor) and got.dtype is want and got.tolist() == [4, 5]
    assert (values - x).tolist() == [2, 3] and (values @ x).item() == 7
    assert (values > x).tolist() == [True, True]
    assert (np.array(2, array) * x).dtype is want  # an array without axes is no Python number


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.is_integer], ids=name)
def test_numbers_must_fit(dtype: DType) -> None:
    low, high = dtype.bounds
    x = kt.zeros(1, dtype=dtype)
    assert (x + high).item() == high and (x + low).item() == low
    for number in (low - 1, high + 1):
        with pytest.raises(OverflowError, match=rf"add: {number} does not fit {dtype.name}"):
            x + number
        with pytest.raises(OverflowError, match=dtype.name):
            kt.full((1,), number, dtype=dtype)


# ---- element by element ---------------------------------------------------------------------------------------------


@st.composite
def broadcastable(draw: Any, count: int) -> list[Ints]:
    shape = draw(shapes(sizes=SIZES))
    out = []
    for _ in range(count):
        cut = draw(st.integers(0, len(shape)))
        ones = draw(tuples(st.booleans(), len(shape) - cut))
        out.append(tuple(1 if one else n for n, one in zip(shape[cut:], ones, strict=True)))
    return out


OPERATORS: list[Any] = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.lt, operator.le, operator.gt, operator.ge,
    operator.eq, operator.ne,
]  # fmt: skip


@given(broadcastable(2), st.sampled_from(OPERATORS), RNG)
def test_operators_broadcast(two: list[Ints], f: Callable[..., Any], rng: np.random.Generator) -> None:
    x, y = (normals(rng, s) for s in two)
    same(f(kt.tensor(x), kt.tensor(y)), f(x, y))


@given(broadcastable(2), RNG)
def test_gradients_of_what_was_broadcast(two: list[Ints], rng: np.random.Generator) -> None:
    """Each gradient has its operand's shape: the sum over what the operand was repeated for."""
    x, y = (normals(rng, s) for s in two)
    shape = np.broadcast_shapes(*two)
    c = normals(rng, shape)

    def summed(g: Array, like: Array) -> Array:
        g = np.broadcast_to(g, shape)
        g = g.sum(tuple(range(g.ndim - like.ndim)))
        return g.sum(tuple(i for i, n in enumerate(like.shape) if n == 1), keepdims=True)

    v, w = kt.variable(x), kt.variable(y)
    ((v * w + kt.where(kt.tensor(c > 0), v, w)) * c).sum().backward()
    same(v.grad, summed(c * y + c * (c > 0), x), 1e-4)
    same(w.grad, summed(c * x + c * (c <= 0), y), 1e-4)


def test_ties_share_the_gradient() -> None:
    v = kt.variable([3.0, 1.0, 3.0])
    v.max().backward()
    assert v.grad.tolist() == [0.5, 0, 0.5]
    w = kt.variable([1.0, 2.0])
    kt.maximum(w, kt.tensor([1.0, 3.0])).sum().backward()
    assert w.grad.tolist() == [0.5, 0]


@given(broadcastable(3), RNG)
def test_where(three: list[Ints], rng: np.random.Generator) -> None:
    flag, x, y = rng.random(three[0]) < 0.5, normals(rng, three[1]), normals(rng, three[2])
    same(kt.where(kt.tensor(flag), kt.tensor(x), kt.tensor(y)), np.where(flag, x, y))


@given(shapes(), shapes())
def test_shapes_that_do_not_broadcast(a: Ints, b: Ints) -> None:
    try:
        want = np.broadcast_shapes(a, b)
    except ValueError:
        with pytest.raises(ShapeError, match=r"add\(.*do not broadcast"):
            kt.zeros(a) + kt.zeros(b)
    else:
        assert (kt.zeros(a) + kt.zeros(b)).shape == want


UNARY: dict[str, Any] = {
    "exp": np.exp, "sqrt": np.sqrt, "log": np.log, "tanh": np.tanh, "sin": np.sin, "cos": np.cos, "floor": np.floor,
    "abs": np.abs, "negative": np.negative, "sign": np.sign, "erf": np.vectorize(math.erf, otypes="f"),
    "relu": lambda x: np.maximum(x, 0), "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf, otypes="f")(x / np.sqrt(2))) / 2,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("function", UNARY)
@given(shape=shapes(), rng=RNG)
def test_functions(function: str, shape: Ints, rng: np.random.Generator) -> None:
    x = normals(rng, shape)
    f, want = getattr(kt, function), np.asarray(UNARY[function](x), np.float32)
    same(f(kt.tensor(x)), want)
    same(f(kt.tensor(x.astype(np.float64))), np.asarray(UNARY[function](x.astype(np.float64))), 1e-6)
    if hasattr(kt.Tensor, function):
        same(getattr(kt.tensor(x), function)(), want)


@pytest.mark.parametrize("function", ["exp", "sqrt", "sin", "sigmoid", "gelu", "divide", "mean", "softmax", "floor"])
def test_integers_become_float32_where_they_must(function: str) -> None:
    x = kt.tensor([1, 2])
    got = getattr(kt, function)(*[x] * (2 if function == "divide" else 1))
    assert got.dtype is (int64 if function == "floor" else float32)


@given(st.integers(-3, 8), RNG)
def test_integer_exponents(n: int, rng: np.random.Generator) -> None:
    x = rng.uniform(0.5, 2, 5) * rng.choice([-1, 1], 5)
    same(kt.tensor(x) ** n, x**n)
    same(kt.tensor(x) ** kt.tensor(float(n), dtype=kt.float64), x**n)
    if n >= 0:
        assert (kt.tensor([2, -3]) ** n).tolist() == [2**n, (-3) ** n]
    v = kt.variable(x)
    (v**n).sum().backward()
    same(v.grad, n * x ** (n - 1) if n else 0 * x)


# ---- reductions -----------------------------------------------------------------------------------------------------


@st.composite
def reductions(draw: Any) -> tuple[Ints, Any]:
    """A shape, and an axis in any of the forms that one can be named in."""
    shape = draw(shapes(sizes=SIZES))
    axes = draw(subsets(len(shape)))
    signed = tuple(a - len(shape) * draw(st.booleans()) for a in axes)
    forms = [None, signed, tuple(reversed(signed)), *([signed[0], np.int64(signed[0])] if signed else [])]
    return shape, draw(st.sampled_from(forms))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("function", ["sum", "mean", "var", "max", "min", "any", "all"])
@given(case=reductions(), keepdims=st.booleans(), rng=RNG)
def test_reductions(function: str, case: tuple[Ints, Any], keepdims: bool, rng: np.random.Generator) -> None:
    shape, axis = case
    x = np.round(normals(rng, shape))
    how = {"axis": axis, "keepdims": keepdims}
    try:
        want = getattr(np, function)(x, **how)
    except ValueError:
        with pytest.raises(ShapeError, match=r"axis \d of .* is empty"):
            getattr(kt, function)(kt.tensor(x), **how)
        return
    same(getattr(kt, function)(kt.tensor(x), **how), want)
    same(getattr(kt.tensor(x), function)(**how), want)
    if isinstance(axis, tuple):
        same(getattr(kt, function)(kt.tensor(x), axis=list(axis), keepdims=keepdims), want)


@given(shapes(1, sizes=st.integers(1, 4)), st.data(), RNG)
def test_argmax(shape: Ints, data: st.DataObject, rng: np.random.Generator) -> None:
    x = np.round(normals(rng, shape))
    axis = data.draw(st.one_of(st.none(), st.integers(-len(shape), len(shape) - 1)))
    for keepdims in (False, True):
        same(kt.argmax(kt.tensor(x), axis, keepdims=keepdims), np.argmax(x, axis, keepdims=keepdims))


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_sums_of_small_integers_are_wide(dtype: DType) -> None:
    total = kt.full((1000,), 1, dtype=dtype).sum()
    want = dtype if dtype.is_floating else as_dtype("uint64" if dtype.kind == "uint" else "int64")
    assert total.dtype is want and (total.item() == 1000)


@given(shapes(1, 3, st.integers(1, 4)), st.data(), RNG, st.sampled_from([1.0, 1e4]))
def test_softmax(shape: Ints, data: st.DataObject, rng: np.random.Generator, scale: float) -> None:
    x = normals(rng, shape) * np.float32(scale)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    wide = x.astype(np.float64) - x.max(axis, keepdims=True)
    log_p = wide - np.log(np.exp(wide).sum(axis, keepdims=True))
    same(kt.softmax(kt.tensor(x), axis), np.exp(log_p).astype(np.float32))
    same(kt.log_softmax(kt.tensor(x), axis), log_p.astype(np.float32), 1e-5)
    v = kt.variable(x)
    v.log_softmax(axis).sum().backward()
    same(v.grad, (1 - shape[axis] * np.exp(log_p)).astype(np.float32), 1e-4)


@pytest.mark.parametrize("huge", [1e4, -1e4, 3e38])
def test_softmax_does_not_overflow(huge: float) -> None:
    x = kt.variable([[huge, 0.0, -huge]])
    p, log_p = x.softmax(1), x.log_softmax(1)
    assert p.tolist() == [[1.0, 0.0, 0.0]] if huge > 0 else [[0.0, 0.0, 1.0]]
    assert not kt.any(log_p != log_p).item() and log_p.max().item() == 0.0
    log_p[0, 0].backward()
    assert np.isfinite(x.grad.numpy()).all()


# ---- indexing -------------------------------------------------------------------------------------------------------

BOUND = st.one_of(st.none(), st.integers(-7, 7))
SLICE = st.builds(slice, BOUND, BOUND, st.one_of(st.none(), st.sampled_from([-3, -2, -1, 1, 2, 3])))


@st.composite
def indices(draw: Any) -> tuple[Ints, Any]:
    shape = draw(shapes(sizes=st.integers(0, 5)))
    parts: list[Any] = []
    for n in shape[: draw(st.integers(0, len(shape)))]:
        parts.append(draw(st.one_of(SLICE, st.integers(-n, n - 1)) if n else SLICE))
    if draw(st.booleans()):
        skipped = len(shape) - len(parts)
        at = draw(st.integers(0, len(parts)))
        tail = shape[at + skipped :]  # the ones after ... index from the back
        for i, n in enumerate(tail):
            if isinstance(parts[at + i], int):
                assume(-n <= parts[at + i] < n)
        parts.insert(at, Ellipsis)
    for _ in range(draw(st.integers(0, 2))):
        parts.insert(draw(st.integers(0, len(parts))), None)
    return shape, parts[0] if len(parts) == 1 and draw(st.booleans()) else tuple(parts)


@given(indices(), RNG)
def test_basic_indexing(case: tuple[Ints, Any], rng: np.random.Generator) -> None:
    shape, index = case
    x = normals(rng, shape)
    want = np.asarray(x[index])
    same(kt.tensor(x)[index], want)
    v = kt.variable(x)
    weights = normals(rng, want.shape)
    (v[index] * weights).sum().backward()
    gradient = np.zeros_like(x)
    gradient[index] += weights
    same(v.grad, gradient)


@pytest.mark.parametrize("index", [np.int8(1), np.uint64(1), kt.tensor(1), np.array(1), True.__index__()])
def test_whatever_is_an_integer_is_an_index(index: Any) -> None:
    x = kt.tensor([[1, 2], [3, 4]])
    assert x[index].tolist() == [3, 4] and x[0, index].item() == 2 and x[..., index].tolist() == [2, 4]


def test_iteration_len_and_containment() -> None:
    x = kt.tensor([[1, 2], [3, 4]])
    assert [row.tolist() for row in x] == [[1, 2], [3, 4]] and len(x) == 2
    a, b = x
    assert (a + b).tolist() == [4, 6] and list(kt.zeros(0)) == []
    assert 3 in kt.tensor([1, 3]) and 5 not in kt.tensor([1, 3])
    assert [r.tolist() for r in reversed(x)] == [[3, 4], [1, 2]]


# ---- movement -------------------------------------------------------------------------------------------------------


@given(shapes(), st.data(), RNG)
def test_reshape(shape: Ints, data: st.DataObject, rng: np.random.Generator) -> None:
    x = normals(rng, shape)
    target = tuple(data.draw(st.permutations(shape)))
    same(kt.tensor(x).reshape(target), x.reshape(target))
    same(kt.reshape(kt.tensor(x), list(target)), x.reshape(target))
    same(kt.tensor(x).flatten(), x.ravel())
    if target:
        hole = data.draw(st.integers(0, len(target) - 1))
        asked = (*target[:hole], -1, *target[hole + 1 :])
        if 0 in asked:
            with pytest.raises(ShapeError, match="reshape"):
                kt.tensor(x).reshape(asked)
        else:
            same(kt.tensor(x).reshape(*asked), x.reshape(asked))


@given(shapes(), st.data(), RNG)
def test_movement(shape: Ints, data: st.DataObject, rng: np.random.Generator) -> None:
    x, t = (a := normals(rng, shape)), kt.tensor(a)
    rank = len(shape)
    order = tuple(data.draw(st.permutations(range(rank))))
    same(t.permute(order), x.transpose(order))
    same(t.T, x.T)
    axes = data.draw(subsets(rank))
    same(kt.flip(t, axes), np.flip(x, axes))
    same(kt.flip(t), np.flip(x))
    place = data.draw(st.integers(-rank - 1, rank))
    same(kt.expand_dims(t, place), np.expand_dims(x, place))
    same(t.squeeze(), x.squeeze())
    same(kt.broadcast_to(t, (2, *shape)), np.broadcast_to(x, (2, *shape)))
    if rank >= 2:
        i, j = (data.draw(st.integers(-rank, rank - 1)) for _ in range(2))
        same(t.transpose(i, j), x.swapaxes(i, j))
        same(t.mT, x.swapaxes(-1, -2))


@given(shapes(1), st.data(), RNG)
def test_concat_and_stack(shape: Ints, data: st.DataObject, rng: np.random.Generator) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    sizes = data.draw(st.lists(SIZES, min_size=1, max_size=3))
    at = axis % len(shape)
    parts = [normals(rng, (*shape[:at], n, *shape[at + 1 :])) for n in sizes]
    tensors = [kt.tensor(p) for p in parts]
    same(kt.concat(tensors, axis), np.concatenate(parts, axis))
    same(kt.concat(iter(tensors), axis=None), np.concatenate(parts, None))
    alike = [normals(rng, shape) for _ in sizes]
    place = data.draw(st.integers(-len(shape) - 1, len(shape)))
    same(kt.stack([kt.tensor(p) for p in alike], place), np.stack(alike, place))


@given(broadcastable(2), st.tuples(SIZES, SIZES, SIZES), st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2)]), RNG)
def test_matmul(lead: list[Ints], sizes: Ints, ranks: Ints, rng: np.random.Generator) -> None:
    n, k, m = sizes
    a = (*lead[0], n, k) if ranks[0] == 2 else (k,)
    b = (*lead[1], k, m) if ranks[1] == 2 else (k,)
    x, y = normals(rng, a[-4:]), normals(rng, b[-4:])
    try:
        want = x @ y
    except ValueError:
        assume(False)
    v, w = kt.variable(x), kt.variable(y)
    out = v @ w
    same(out, want, 1e-4)
    same(np.asarray(x) @ w, want, 1e-4)
    out.sum().backward()
    assert v.grad.shape == x.shape and w.grad.shape == y.shape
    t = normals(rng, x.shape)
    assert (v.grad * t).sum().item() == pytest.approx(float((t @ y).sum()), rel=1e-2, abs=1e-3)


# ---- layers as functions --------------------------------------------------------------------------------------------


@st.composite
def classified(draw: Any) -> tuple[Array, Array, int]:
    """Logits, class numbers, and the axis of classes."""
    shape = draw(shapes(1, 4, st.integers(1, 4)))
    axis = draw(st.integers(0, len(shape) - 1))
    rng = draw(RNG)
    rest = tuple(n for i, n in enumerate(shape) if i != axis)
    target = np.asarray(rng.integers(0, shape[axis], rest), draw(st.sampled_from(["int64", "int32", "uint8"])))
    return normals(rng, shape) * np.float32(5), target, axis - len(shape) * draw(st.booleans())


@given(classified())
def test_cross_entropy(case: tuple[Array, Array, int]) -> None:
    x, target, axis = case
    wide = x.astype(np.float64)
    log_p = wide - np.log(np.exp(wide).sum(axis, keepdims=True))
    index = np.expand_dims(target, axis).astype(int)
    losses = -np.take_along_axis(log_p, index, axis).squeeze(axis)
    hot = np.zeros_like(x)
    np.put_along_axis(hot, index, 1, axis)
    how: Any = {"axis": axis % x.ndim if x.ndim > 1 else axis}
    for t in (target, hot):
        same(F.cross_entropy(kt.tensor(x), kt.tensor(t), reduction="none", **how), losses.astype(np.float32), 1e-4)
        same(F.cross_entropy(kt.tensor(x), kt.tensor(t), reduction="sum", **how), np.float32(losses.sum()), 1e-4)
        v = kt.variable(x)
        loss = F.cross_entropy(v, kt.tensor(t), **how)
        same(loss, np.float32(losses.mean()), 1e-4)
        loss.backward()
        same(v.grad, ((np.exp(log_p) - hot) / max(losses.size, 1)).astype(np.float32), 1e-4)


@given(shapes(sizes=st.integers(1, 4)), RNG)
def test_mse(shape: Ints, rng: np.random.Generator) -> None:
    x, y = normals(rng, shape), normals(rng, shape)
    off = (x - y) ** 2
    for reduction, want in (("none", off), ("sum", off.sum()), ("mean", off.mean())):
        same(F.mse_loss(kt.tensor(x), kt.tensor(y), reduction=reduction), want)


@st.composite
def pictures(draw: Any) -> tuple[Array, Ints, Ints, Ints]:
    """A batch of images, and a window, stride and padding that fit."""
    rng, pair = draw(RNG), st.tuples
    window = draw(pair(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in window)
    shape = (draw(st.integers(1, 2)), draw(st.sampled_from([2, 4])), *draw(pair(st.integers(3, 6), st.integers(3, 6))))
    return normals(rng, shape), window, draw(pair(st.integers(1, 3), st.integers(1, 3))), padding


def patches(x: Array, window: Ints, stride: Ints, padding: Ints, dilation: int, fill: float) -> Array:
    """(N, C, H', W', kH, kW), by loops over windows."""
    wide = np.pad(x, [(0, 0), (0, 0), *[(p, p) for p in padding]], constant_values=fill)
    reach = [dilation * (k - 1) + 1 for k in window]
    counts = [(n - r) // s + 1 for n, r, s in zip(wide.shape[2:], reach, stride, strict=True)]
    out = np.zeros((*x.shape[:2], *counts, *window), x.dtype)
    for i in range(counts[0]):
        for j in range(counts[1]):
            y, z = i * stride[0], j * stride[1]
            out[:, :, i, j] = wide[:, :, y : y + reach[0] : dilation, z : z + reach[1] : dilation]
    return out


@given(pictures())
def test_max_pool2d(case: tuple[Array, Ints, Ints, Ints]) -> None:
    x, window, stride, padding = case
    want = patches(x, window, stride, padding, 1, -np.inf).max((-1, -2))
    same(F.max_pool2d(kt.tensor(x), window, stride, padding), want)
    same(nn.MaxPool2d(window, stride, padding)(kt.tensor(x)), want)
    same(F.max_pool2d(kt.tensor(x[0]), window, stride, padding), want[0])


@given(pictures(), st.integers(1, 2), st.sampled_from([1, 2]), RNG)
def test_conv2d(case: tuple[Array, Ints, Ints, Ints], dilation: int, groups: int, rng: np.random.Generator) -> None:
    x, window, stride, padding = case
    assume(all(dilation * (k - 1) + 1 <= n + 2 * p for k, n, p in zip(window, x.shape[2:], padding, strict=True)))
    layer = nn.Conv2d(x.shape[1], 4, window, stride, padding, dilation, groups)
    weight, bias = layer.weight.numpy(), layer.bias.numpy() if layer.bias is not None else 0
    parts = np.split(patches(x, window, stride, padding, dilation, 0), groups, 1)
    kernels = np.split(weight, groups)
    sums = [np.einsum("nchwij,ocij->nohw", p, k) for p, k in zip(parts, kernels, strict=True)]
    want = np.concatenate(sums, 1) + np.reshape(bias, (1, 4, 1, 1))
    same(layer(kt.tensor(x)), want, 1e-4)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64"])
def test_more_classes_than_the_targets_dtype_counts(dtype: str) -> None:
    v = kt.variable(np.zeros((1, 300), np.float32))
    F.cross_entropy(v, kt.tensor([1], dtype=dtype)).backward()
    assert np.flatnonzero(v.grad.numpy()[0] < 0).tolist() == [1]


def test_dropout_keeps_the_expectation() -> None:
    kt.manual_seed(0)
    x = kt.ones((200, 200))
    y = F.dropout(x, 0.25)
    assert set(np.unique(y.numpy()).tolist()) == {0.0, np.float32(1 / 0.75)}
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    assert F.dropout(x, 0.25, training=False) is x and F.dropout(x, 0.0) is x
    assert F.dropout(x, 1.0).sum().item() == 0


# ---- random numbers -------------------------------------------------------------------------------------------------


def test_moments() -> None:
    kt.manual_seed(1)
    u, z, n = kt.rand(100_000).numpy(), kt.randn(100_001).numpy(), kt.randint(-3, 4, (70_000,)).numpy()
    assert u.min() >= 0 and u.max() < 1
    assert u.mean() == pytest.approx(0.5, abs=0.005) and u.var() == pytest.approx(1 / 12, abs=0.002)
    assert z.mean() == pytest.approx(0, abs=0.01) and z.var() == pytest.approx(1, abs=0.02)
    assert (z**3).mean() == pytest.approx(0, abs=0.05) and (z**4).mean() == pytest.approx(3, abs=0.1)
    counts = np.bincount(n + 3)
    assert counts.size == 7 and abs(counts / 10_000 - 1).max() < 0.05
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01 and abs(np.corrcoef(z[:50_000], z[50_000:-1])[0, 1]) < 0.02


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.is_floating], ids=name)
def test_rand_is_below_one_in_every_dtype(dtype: DType) -> None:
    u = kt.rand(60_000, dtype=dtype, generator=kt.Generator(5))
    assert u.dtype is dtype and (u < 1).all() and (u >= 0).all()
    assert u.astype(float32).mean().item() == pytest.approx(0.5, abs=0.01)


DRAWS: list[Callable[[Any], Any]] = [
    lambda g: kt.rand(3, 4, generator=g), lambda g: kt.randn((5,), generator=g),
    lambda g: kt.randint(0, 1000, (6,), generator=g), lambda g: F.dropout(kt.ones(50), 0.5, generator=g),
]  # fmt: skip


def test_a_draw_depends_on_the_seed_and_its_number_alone() -> None:
    def run(before: int, look: bool, seed: int = 7) -> list[Any]:
        g = kt.Generator(seed)
        first = kt.rand(before, generator=g)
        if look:
            first.numpy()
        return [f(g).tolist() for f in DRAWS]

    assert run(1, False) == run(1000, True) == run(0, True)
    assert run(1, False) != run(1, False, seed=8)
    kt.manual_seed(7)
    kt.rand(3)
    assert [f(None).tolist() for f in DRAWS] == run(1, False)
    g = kt.Generator(7)
    assert kt.rand(3, 4, generator=g).tolist() != kt.rand(3, 4, generator=g).tolist() and g.calls == 2


def test_rand_does_not_depend_on_the_shape() -> None:
    def draw(*shape: int) -> list[Any]:
        return kt.rand(*shape, generator=kt.Generator(3)).flatten().tolist()

    assert draw(2, 6) == draw(12) == draw(3, 4) == draw(20)[:12]


@given(st.integers(-(2**70), 2**70))
def test_any_integer_is_a_seed(seed: int) -> None:
    a, b = (kt.randint(0, 2**32, (4,), generator=kt.Generator(s)).tolist() for s in (seed, seed % 2**64))
    assert a == b and all(0 <= n < 2**32 for n in a)


@pytest.mark.parametrize("bounds", [(0, 1), (-(2**63), -(2**63) + 5), (2**63 - 4, 2**63 - 1), (-(2**31), 2**31)])
def test_randint_stays_within_bounds(bounds: tuple[int, int]) -> None:
    got = kt.randint(*bounds, (500,), generator=kt.Generator(2)).numpy()
    assert got.min() >= bounds[0] and got.max() < bounds[1]


# ---- creation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (True, bool_), (1, int64), (1.0, float32), ([], float32), ([[]], float32), ([1, 2.0], float32), ([True], bool_),
        ([True, 2], int64), (np.float64(1), float64), ([np.float64(1)], float64), (np.zeros(2, np.float16), float16),
        (np.array([1], ml_dtypes.bfloat16), bfloat16), ([np.int8(1)], as_dtype("int8")), (range(3), int64),
        (np.arange(3)[::-1], int64), ([kt.tensor([1.0]), kt.tensor([2.0])], float32), ((1, 2), int64),
    ],
)  # fmt: skip
def test_dtypes_of_new_tensors(value: Any, dtype: DType) -> None:
    t = kt.tensor(value)
    assert t.dtype is dtype
    assert kt.tensor(t, dtype=kt.float64).dtype is float64


def test_tensors_copy() -> None:
    array = np.zeros(3, np.float32)
    t, v = kt.tensor(array), kt.variable(array)
    array[:] = 1
    assert t.tolist() == v.tolist() == [0, 0, 0]
    assert kt.tensor(np.broadcast_to(array, (2, 3))).tolist() == [[1] * 3] * 2


@given(st.integers(-20, 20), st.integers(-20, 20), st.sampled_from([-3, -1, 1, 2, 0.5]))
def test_arange(start: int, stop: int, step: float) -> None:
    same(kt.arange(start, stop, step), np.arange(start, stop, step))
    same(kt.arange(stop), np.arange(stop))


def test_other_creation() -> None:
    same(kt.eye(3), np.eye(3))
    same(kt.eye(2, 4, dtype=kt.float64), np.eye(2, 4))
    same(kt.linspace(0, 1, 7), np.linspace(0, 1, 7))
    same(kt.full((2, 0), 3), np.full((2, 0), 3))
    assert kt.full((2,), True).dtype is bool_ and kt.full(2, 1.5).tolist() == [1.5, 1.5]
    x = kt.ones((2, 3), dtype=kt.float16)
    for made in (kt.zeros_like(x), kt.ones_like(x), kt.full_like(x, 2)):
        assert made.shape == x.shape and made.dtype is float16
    assert kt.zeros().shape == () and kt.zeros(2, 3).shape == kt.zeros((2, 3)).shape == kt.zeros([2, 3]).shape


# ---- looking at values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_numbers_come_out_as_pythons(dtype: DType) -> None:
    x = kt.ones((1, 1), dtype=dtype)
    kind = bool if dtype is bool_ else int if dtype.is_integer else float
    assert type(x.item()) is kind and x.tolist() == [[1]] and type(x.tolist()[0][0]) is kind
    assert bool(x) and float(x) == 1.0 and int(x) == 1
    scalar = x.reshape(())
    if dtype.is_integer:
        assert operator.index(scalar) == 1 and [5, 6][scalar] == 6
    else:
        with pytest.raises(DTypeError, match="integer scalar"):
            operator.index(scalar)


REPRS = [
    (lambda: kt.tensor([1.0, 2.5]), "tensor([1. , 2.5])"), (lambda: kt.tensor(3), "tensor(3)"),
    (lambda: kt.tensor([True]), "tensor([ True])"), (lambda: kt.zeros((2, 0)), "tensor([], shape=(2, 0))"),
    (lambda: kt.tensor([1], dtype=kt.int8), "tensor([1], dtype=int8)"),
    (lambda: kt.variable([1.0]), "tensor([1.], variable)"), (lambda: kt.variable([1.0]) * 2, "tensor([2.], variable)"),
    (lambda: kt.tensor([0.1], dtype=kt.bfloat16), "tensor([0.1001], dtype=bfloat16)"),
    (lambda: kt.tensor([float("nan"), float("inf")]), "tensor([nan, inf])"),
    (lambda: nn.Parameter([1.0]), "tensor([1.], variable)"),
    (lambda: kt.zeros(1, dtype=kt.float64), "tensor([0.], dtype=float64)"),
    (lambda: kt.zeros(()), "tensor(0.)"), (lambda: kt.zeros(0, dtype=kt.int32), "tensor([], dtype=int32, shape=(0,))"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "want"), REPRS)
def test_repr(make: Callable[[], Any], want: str) -> None:
    assert repr(make()) == want == str(make())


def test_repr_of_much_is_short_and_formats_work() -> None:
    assert len(repr(kt.zeros((1000, 1000)))) < 1000 and "..." in repr(kt.zeros(1000))
    assert repr(kt.zeros((2, 2))).count("\n") == 1
    assert f"{kt.tensor(1.2345):.2f}" == "1.23" and f"{kt.tensor([1, 2])}" == "tensor([1, 2])"


def test_numpy_views_are_read_only_and_stay() -> None:
    p = nn.Parameter([1.0, 2.0])
    view = np.asarray(p)
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 9
    p.set([5.0, 6.0])
    assert p.tolist() == [5, 6] and view.tolist() == [1, 2]
    mine = np.array(p)
    mine[0] = 7
    assert p.tolist() == [5, 6] and np.asarray(p, np.float64).dtype == np.float64
    x = kt.tensor([1.0])
    assert np.asarray(x).base is not None and np.shares_memory(np.asarray(x), x.numpy())
    assert np.add(x.numpy(), 1).tolist() == [2]


def test_dlpack() -> None:
    x = kt.tensor([[1.0, 2.0]])
    got = np.from_dlpack(x)
    np.testing.assert_array_equal(got, [[1, 2]])
    assert x.__dlpack_device__() == (1, 0)


# ---- identity and copies --------------------------------------------------------------------------------------------


def test_hash_is_by_identity() -> None:
    a, b = kt.ones(2), kt.ones(2)
    table = {a: "a", b: "b"}
    assert table[a] == "a" and table[b] == "b" and len({a, b, a}) == 2 and hash(a) == hash(a)


@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_copies_of_state_are_state_of_their_own(again: Callable[[Any], Any]) -> None:
    for original in (nn.Parameter([1.0, 2.0]), kt.variable([1.0, 2.0]), nn.Buffer([1.0, 2.0])):
        twin = again(original)
        assert type(twin) is type(original) and kt.is_variable(twin) == kt.is_variable(original)
        original.set([8.0, 9.0])
        assert twin.tolist() == [1, 2] and twin is not original
        twin.set([3.0, 4.0])
        assert original.tolist() == [8, 9]


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_copies_of_values(dtype: DType) -> None:
    x = kt.ones((2, 1), dtype=dtype) * 1 if dtype is not bool_ else kt.ones((2, 1), dtype=dtype)
    twin = pickle.loads(pickle.dumps(x))
    assert twin.dtype is dtype and twin.shape == (2, 1) and twin.tolist() == x.tolist()
    assert copy.copy(x) is x and copy.deepcopy(x) is x
    assert pickle.loads(pickle.dumps(dtype)) is dtype and copy.deepcopy(dtype) is dtype


@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_copies_of_modules(again: Callable[[Any], Any]) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = kt.ones((1, 3))
    twin = again(model)
    assert twin(x).tolist() == model(x).tolist()
    model[0].bias.set(kt.ones(4))
    assert twin(x).tolist() != model(x).tolist()
    twin(x).sum().backward()
    assert all(p.grad is not None for p in twin.parameters()) and all(p.grad is None for p in model.parameters())


def test_shared_state_is_shared_in_a_deep_copy() -> None:
    layer = nn.Linear(2, 2)
    twin = copy.deepcopy([layer, layer])
    assert twin[0] is twin[1] and twin[0].weight is not layer.weight


def test_bounds_are_checked_at_the_call() -> None:
    with pytest.raises(IndexBoundsError, match=r"5 is outside axis 1 of size 3, shape \(2, 3\)"):
        kt.zeros((2, 3))[0, 5]

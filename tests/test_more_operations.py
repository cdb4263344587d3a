"""The rest of what a user calls, against NumPy: functions of one and two, order along an axis, products, movement."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import katachi
from katachi.errors import DTypeError, Error, ShapeError
from katachi.graph.dtypes import DTYPES, bool_, float32, int64, uint8

from .samples import RNG, Array, Ints, shapes, subsets, tuples  # pyrefly: ignore[missing-import]

kt: Any = katachi
ONES = st.integers(1, 4)
SIZES = st.integers(0, 4)


def normals(rng: np.random.Generator, shape: Ints) -> Array:
    return np.asarray(rng.standard_normal(shape))


def same(got: Any, want: Any, tolerance: float = 1e-9) -> None:
    want = np.asarray(want)
    assert got.shape == want.shape and got.dtype.numpy.kind == want.dtype.kind, (got, want)
    np.testing.assert_allclose(got.numpy(), want, rtol=tolerance, atol=tolerance)


def slope(f: Callable[[Any], Any], x: Array, rng: np.random.Generator, tolerance: float = 1e-6) -> None:
    """The gradient of a function of a float64 tensor against a difference quotient along one direction."""
    v, t = kt.variable(x), normals(rng, x.shape)
    y = f(v)
    c = normals(rng, y.shape)
    (y * kt.tensor(c)).sum().backward()
    h = 1e-6
    ends = [(f(kt.tensor(x + s * h * t)).numpy() * c).sum() for s in (1, -1)]
    got = 0.0 if v.grad is None else float((v.grad.numpy() * t).sum())
    assert got == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=tolerance, abs=tolerance * 10)


# ---- element by element ---------------------------------------------------------------------------------------------

UNARY: dict[str, Any] = {
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "expm1": np.expm1, "log1p": np.log1p,
    "log2": np.log2, "log10": np.log10, "square": np.square, "reciprocal": np.reciprocal, "ceil": np.ceil,
    "rsqrt": lambda x: 1 / np.sqrt(x), "round": np.round, "trunc": np.trunc, "isfinite": np.isfinite,
    "isnan": np.isnan, "isinf": np.isinf, "logical_not": np.logical_not, "positive": np.positive,
}  # fmt: skip
ODD = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 1.5, -2.5, 1e-9, 0.3, -0.7, 3.0, 8.0, 1e3, np.inf, -np.inf, np.nan])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("function", UNARY)
def test_functions_of_one(function: str, device: str) -> None:
    f, want = getattr(kt, function), UNARY[function](ODD)
    for kind, tolerance in ((np.float64, 1e-14), (np.float32, 3e-7)):
        x = ODD.astype(kind)
        got = f(kt.tensor(x, device=device))
        assert got.dtype.numpy == (kind if want.dtype.kind == "f" else bool)
        exact = UNARY[function](x.astype(np.float64))
        np.testing.assert_allclose(got.numpy(), np.asarray(exact).astype(got.dtype.numpy), rtol=tolerance)
    whole = kt.tensor([1, 2, 3], device=device)
    assert f(whole).tolist() == pytest.approx(np.asarray(UNARY[function](np.array([1.0, 2, 3]))).tolist(), nan_ok=True)
    if function in ("ceil", "round", "trunc", "positive", "square"):
        assert f(whole).dtype is int64


@pytest.mark.parametrize("function", sorted(set(UNARY) - {"isfinite", "isnan", "isinf", "logical_not"}))
@given(rng=RNG)
def test_slopes_of_functions_of_one(function: str, rng: np.random.Generator) -> None:
    x = rng.uniform(0.1, 0.4, 5) + (1 if function == "acosh" else 0)
    slope(getattr(kt, function), x, rng)
    if function in ("atan", "sinh", "asinh", "expm1"):
        slope(getattr(kt, function), np.array([0.0]), rng)


INTEGERS = [d for d in DTYPES if d.is_integer]


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.name)
def test_integer_division_and_shifts(dtype: Any, device: str) -> None:
    low, high = dtype.bounds
    few = np.array([n for n in (0, 1, 2, 3, 7, 100, high, low, -1, -2, -7) if low <= n <= high], dtype.numpy)
    a, b = (m.ravel() for m in np.meshgrid(few, few))
    x, y = kt.tensor(a, device=device), kt.tensor(b, device=device)
    with np.errstate(all="ignore"):
        same(x % y, np.remainder(a, b))
        same(x // y, np.where(b == 0, 0, np.floor_divide(a, b)))
    by = np.arange(dtype.itemsize * 8).astype(dtype.numpy)
    for n in few:
        same(kt.tensor(n, device=device) << kt.tensor(by, device=device), np.left_shift(n, by))
        same(kt.tensor(n, device=device) >> kt.tensor(by, device=device), np.right_shift(n, by))
    assert (100 // kt.tensor([7], dtype=dtype)).tolist() == [14] and (100 % kt.tensor([7], dtype=dtype)).tolist() == [2]
    assert (1 << kt.tensor([3], dtype=dtype)).tolist() == [8] and (64 >> kt.tensor([3], dtype=dtype)).tolist() == [8]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_float_division(kind: Any, device: str) -> None:
    a, b = (m.ravel() for m in np.meshgrid(*[np.append(ODD, [5.5, -5.5, 0.1, 7]).astype(kind)] * 2))
    x, y = kt.tensor(a, device=device), kt.tensor(b, device=device)
    np.testing.assert_array_equal((x % y).numpy(), np.remainder(a, b))
    np.testing.assert_array_equal((x // y).numpy(), np.floor_divide(a, b))


@given(RNG)
def test_slopes_of_division(rng: np.random.Generator) -> None:
    y = rng.uniform(0.5, 2, 6) * rng.choice([-1, 1], 6)
    x = y * (rng.integers(-3, 3, 6) + rng.uniform(0.2, 0.8, 6))
    slope(lambda v: v % kt.tensor(y), x, rng)
    slope(lambda v: kt.tensor(x) % v, y, rng)
    slope(lambda v: v // kt.tensor(y), x, rng)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(shapes(), RNG)
def test_functions_of_two(shape: Ints, rng: np.random.Generator) -> None:
    x, y = normals(rng, shape), normals(rng, shape[1:])
    for f, g in ((kt.atan2, np.arctan2), (kt.logaddexp, np.logaddexp)):
        same(f(kt.tensor(x), kt.tensor(y)), g(x, y))
        slope(lambda v, f=f: f(v, kt.tensor(y)), x, rng, 1e-4)
        slope(lambda v, f=f: f(kt.tensor(x), v), y, rng, 1e-4)
    p, q = np.round(x), np.round(y)
    for name in ("logical_and", "logical_or", "logical_xor"):
        same(getattr(kt, name)(kt.tensor(p), kt.tensor(q)), getattr(np, name)(p, q))
    grid = [m.ravel() for m in np.meshgrid(ODD, ODD)]
    same(kt.logaddexp(*map(kt.tensor, grid)), np.logaddexp(*grid))
    np.testing.assert_allclose(kt.atan2(*map(kt.tensor, grid)).numpy(), np.arctan2(*grid))


@given(shapes(), RNG)
def test_clip(shape: Ints, rng: np.random.Generator) -> None:
    x, low = normals(rng, shape), normals(rng, shape[1:])
    same(kt.clip(kt.tensor(x), -0.5, 0.5), np.clip(x, -0.5, 0.5))
    same(kt.clip(kt.tensor(x), min=kt.tensor(low)), np.maximum(x, low))
    same(kt.tensor(x).clip(max=0.25), np.minimum(x, 0.25))
    assert kt.clip(kt.tensor(x)).tolist() == x.tolist()
    v = kt.variable(x)
    v.clip(-0.5, 0.5).sum().backward()
    same(v.grad, (np.abs(x) <= 0.5) * 1.0)
    assert kt.clip(kt.tensor([1, 9, 5]), 2, 6).dtype is int64


# ---- reductions and order -------------------------------------------------------------------------------------------


@st.composite
def reductions(draw: Any) -> tuple[Ints, Any]:
    shape = draw(shapes(sizes=SIZES))
    axes = draw(subsets(len(shape)))
    signed = tuple(a - len(shape) * draw(st.booleans()) for a in axes)
    return shape, draw(st.sampled_from([None, signed, *([signed[0]] if signed else [])]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(case=reductions(), keepdims=st.booleans(), rng=RNG)
def test_reductions(case: tuple[Ints, Any], keepdims: bool, rng: np.random.Generator) -> None:
    shape, axis = case
    x = np.round(normals(rng, shape), 1) * (rng.random(shape) < 0.8)
    t, how = kt.tensor(x), {"axis": axis, "keepdims": keepdims}
    same(kt.prod(t, **how), np.prod(x, **how))
    same(kt.std(t, **how), np.std(x, **how), 1e-6)
    same(kt.std(t, correction=1, **how), np.std(x, ddof=1, **how), 1e-6)
    same(kt.count_nonzero(t, **how), np.count_nonzero(x, **how))
    same(kt.logsumexp(t, **how), np.log(np.sum(np.exp(x), **how)))
    slope(lambda v: kt.prod(v, **how), x, rng, 1e-4)
    if np.isfinite(kt.logsumexp(t, **how).numpy()).all():
        slope(lambda v: kt.logsumexp(v, **how), x, rng, 1e-4)


def test_logsumexp_of_extremes() -> None:
    inf = np.inf
    x = kt.variable(np.array([[1e4, 0.0], [-inf, -inf], [inf, 1.0], [-1e4, -1e4], [np.nan, 0.0]]))
    y = kt.logsumexp(x, 1)
    np.testing.assert_allclose(y.numpy(), [1e4, -inf, inf, -1e4 + np.log(2), np.nan])


@given(shapes(1, sizes=ONES), st.data(), RNG)
def test_argmin(shape: Ints, data: st.DataObject, rng: np.random.Generator) -> None:
    x = np.round(normals(rng, shape))
    axis = data.draw(st.one_of(st.none(), st.integers(-len(shape), len(shape) - 1)))
    same(kt.argmin(kt.tensor(x), axis), np.argmin(x, axis))
    for dtype in (np.uint8, np.int8, bool):
        y = rng.choice(np.array([0, 1] if dtype is bool else [np.iinfo(dtype).min, np.iinfo(dtype).max, 3]), shape)
        same(kt.argmin(kt.tensor(y.astype(dtype)), axis), np.argmin(y.astype(dtype), axis))
    assert kt.argmin(kt.tensor([1.0, np.nan, 0.0, np.nan])).item() == 1


@given(shapes(1, sizes=SIZES), st.data(), RNG)
def test_cumulative(shape: Ints, data: st.DataObject, rng: np.random.Generator) -> None:
    x = np.round(normals(rng, shape), 1) * (rng.random(shape) < 0.8)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    t = kt.tensor(x)
    for name in ("cumsum", "cumprod"):
        same(getattr(kt, name)(t, axis), getattr(np, name)(x, axis))
        same(getattr(t, name)(axis), getattr(np, name)(x, axis))
        slope(lambda v, name=name: getattr(kt, name)(v, axis), x, rng, 1e-4)
        first = np.full_like(x[(slice(None),) * (axis % len(shape)) + (slice(0, 1),)], name == "cumprod")
        if x.size:
            want = np.concatenate([first, getattr(np, name)(x, axis)], axis)
            function = kt.cumulative_sum if name == "cumsum" else kt.cumulative_prod
            same(function(t, axis, include_initial=True), want)
    same(kt.cumulative_max(t, axis), np.maximum.accumulate(x, axis))
    same(kt.cumulative_min(t, axis), np.minimum.accumulate(x, axis))
    apart = (rng.permutation(x.size) * 0.5).reshape(shape)
    slope(lambda v: kt.cumulative_max(v, axis), apart, rng)
    slope(lambda v: kt.cumulative_min(v, axis), apart, rng)
    assert kt.cumsum(kt.full((300,), 1, dtype=uint8)).tolist()[-1] == 300


@given(shapes(1, sizes=SIZES), st.data(), RNG, st.booleans())
def test_sorting(shape: Ints, data: st.DataObject, rng: np.random.Generator, descending: bool) -> None:
    x = np.round(normals(rng, shape))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    t, order = kt.tensor(x), np.argsort(-x if descending else x, axis, kind="stable")
    same(kt.argsort(t, axis, descending=descending), order)
    same(kt.sort(t, axis, descending=descending), np.take_along_axis(x, order, axis))
    k = data.draw(st.integers(0, shape[axis]))
    values, indices = kt.topk(t, k, axis, largest=descending)
    index = np.take(order, range(k), axis)
    same(indices, index)
    same(values, np.take_along_axis(x, index, axis))
    apart = (rng.permutation(x.size) * 0.5).reshape(shape)
    slope(lambda v: kt.sort(v, axis, descending=descending), apart, rng)
    slope(lambda v: kt.topk(v, k, axis).values, apart, rng)


# ---- products -------------------------------------------------------------------------------------------------------


@st.composite
def equations(draw: Any) -> tuple[str, list[Ints]]:
    """An equation for one to three operands, and their shapes."""
    sizes = {label: draw(SIZES) for label in "abcd"}
    dots = draw(st.booleans())
    wide = draw(shapes(most=2, sizes=ONES))
    terms, operands = [], []
    for _ in range(draw(st.integers(1, 3))):
        term = "".join(draw(st.lists(st.sampled_from("abcd"), max_size=4)))
        shape: Ints = tuple(sizes[label] for label in term)
        if dots:
            at, cut = draw(st.integers(0, len(term))), draw(st.integers(0, len(wide)))
            mine = tuple(1 if draw(st.booleans()) else n for n in wide[cut:])
            term, shape = term[:at] + "..." + term[at:], shape[:at] + mine + shape[at:]
        terms.append(term)
        operands.append(shape)
    equation = ",".join(terms)
    if draw(st.booleans()):
        known = sorted(set("".join(terms)) - {"."})
        out = draw(st.permutations(known))[: draw(st.integers(0, len(known)))]
        at = draw(st.integers(0, len(out)))
        equation += "->" + "".join(out[:at]) + ("..." if dots else "") + "".join(out[at:])
    return equation, operands


@given(equations(), RNG)
def test_einsum(case: tuple[str, list[Ints]], rng: np.random.Generator) -> None:
    equation, sizes = case
    xs = [normals(rng, s) for s in sizes]
    want = np.einsum(equation, *xs)
    same(kt.einsum(equation, *map(kt.tensor, xs)), want)
    for i in range(len(xs)):
        others = [kt.tensor(x) for x in xs]
        slope(lambda v, i=i, o=others: kt.einsum(equation, *o[:i], v, *o[i + 1 :]), xs[i], rng, 1e-4)


@given(RNG, st.integers(0, 2), tuples(SIZES, 6))
def test_tensordot_and_the_others(rng: np.random.Generator, n: int, sizes: Ints) -> None:
    shared = sizes[:n]
    x, y = normals(rng, sizes[2:4] + shared), normals(rng, shared + sizes[4:])
    same(kt.tensordot(kt.tensor(x), kt.tensor(y), n), np.tensordot(x, y, n))
    if n == 2:
        got = kt.tensordot(kt.tensor(x), kt.tensor(y), axes=([2, -1], [0, 1]))
        same(got, np.tensordot(x, y, ([2, -1], [0, 1])))
    a, b = normals(rng, sizes[:1]), normals(rng, sizes[1:2])
    same(kt.outer(kt.tensor(a), kt.tensor(b)), np.outer(a, b))
    p, q = normals(rng, sizes[:3]), normals(rng, sizes[1:3])
    same(kt.vecdot(kt.tensor(p), kt.tensor(q)), (p * q).sum(-1))
    same(kt.vecdot(kt.tensor(p), kt.tensor(q), axis=-2), (p * q).sum(-2))


# ---- movement -------------------------------------------------------------------------------------------------------


@given(shapes(2, 4, SIZES), st.data(), RNG)
def test_triangles_and_diagonals(shape: Ints, data: st.DataObject, rng: np.random.Generator) -> None:
    x, k = normals(rng, shape), data.draw(st.integers(-5, 5))
    t = kt.tensor(x)
    same(kt.tril(t, k=k), np.tril(x, k))
    same(t.triu(k=k), np.triu(x, k))
    i, j = data.draw(st.permutations(range(-len(shape), 0)))[:2]
    same(kt.diagonal(t, k, i, j), np.diagonal(x, k, i, j))
    same(t.trace(k, i, j), np.trace(x, k, i, j))
    slope(lambda v: kt.diagonal(v, k, i, j), x, rng)
    assert kt.trace(kt.full((3, 3), 100, dtype=uint8)).item() == 300


@given(shapes(sizes=SIZES), st.data(), RNG)
def test_rearranging(shape: Ints, data: st.DataObject, rng: np.random.Generator) -> None:
    x, rank = normals(rng, shape), len(shape)
    t = kt.tensor(x)
    by = data.draw(st.integers(-6, 6))
    same(kt.roll(t, by), np.roll(x, by))
    axes = data.draw(subsets(rank))
    shifts = tuple(data.draw(st.integers(-6, 6)) for _ in axes)
    same(kt.roll(t, shifts, axes), np.roll(x, shifts, axes) if axes else x)
    to = tuple(data.draw(st.permutations(range(rank))))[: len(axes)]
    same(kt.moveaxis(t, axes, to), np.moveaxis(x, axes, to))
    times = data.draw(shapes(most=5, sizes=st.integers(0, 2)))
    same(kt.tile(t, times), np.tile(x, times))
    n = data.draw(st.integers(0, 3))
    same(kt.repeat(t, n), np.repeat(x, n))
    widths = tuple((data.draw(SIZES), data.draw(SIZES)) for _ in shape)
    if rank:
        same(kt.pad(t, widths, value=1.5), np.pad(x, widths, constant_values=1.5))
        same(kt.pad(t, 1), np.pad(x, 1))
        same(kt.pad(t, (1, 2)), np.pad(x, (1, 2)))
        axis = data.draw(st.integers(-rank, rank - 1))
        same(kt.repeat(t, n, axis=axis), np.repeat(x, n, axis))
        each = rng.integers(0, 3, shape[axis])
        same(kt.repeat(t, kt.tensor(each), axis=axis), np.repeat(x, each, axis))
        cuts = sorted(data.draw(st.integers(0, shape[axis])) for _ in range(2))
        sizes = [cuts[0], cuts[1] - cuts[0], shape[axis] - cuts[1]]
        for got, want in zip(kt.split(t, sizes, axis), np.split(x, cuts, axis), strict=True):
            same(got, want)
        parts = kt.split(t, 2, axis)
        assert [p.shape[axis] for p in parts] == ([2] * (shape[axis] // 2) + [1] * (shape[axis] % 2) or [0])
        same(kt.concat(parts, axis), x)
        same(kt.concat(t.chunk(3, axis), axis), x)
        assert len(t.chunk(3, axis)) <= 3
        items = kt.unstack(t, axis=axis)
        assert len(items) == shape[axis]
        for got, want in zip(items, np.moveaxis(x, axis, 0), strict=True):
            same(got, want)
    slope(lambda v: kt.roll(v, by), x, rng)
    slope(lambda v: kt.tile(v, times), x, rng)
    if rank >= 2:
        same(t.swapaxes(0, -1), np.swapaxes(x, 0, -1))


@pytest.mark.parametrize("indexing", ["xy", "ij"])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_meshgrid(indexing: str, count: int) -> None:
    xs = [np.arange(n) * 1.5 for n in (2, 3, 4)[:count]]
    how: Any = {"indexing": indexing}
    for got, want in zip(kt.meshgrid(*map(kt.tensor, xs), **how), np.meshgrid(*xs, **how), strict=True):
        same(got, want)


# ---- on the CPU, and what is asked of dtypes ------------------------------------------------------------------------


def test_the_cpu_agrees() -> None:
    rng = np.random.default_rng(0)
    x = normals(rng, (5, 6))
    index = rng.integers(-5, 5, (3, 2))
    calls: list[Callable[[Any], Any]] = [
        lambda v: v[kt.tensor(index, device=v.device)], lambda v: v.at[1:, ::2].set(3.0),
        lambda v: v.at[2, 1].add(v[0, 0]), lambda v: v.at[::-2, 3].set(v[0, 0]),
        lambda v: v.at[[0, 0, 3]].add(v[:3]), lambda v: v[v > 0] * 2, lambda v: kt.sort(v, 0), lambda v: v.cumprod(1),
        lambda v: kt.einsum("ij,kj->ik", v, v), lambda v: kt.einsum("ij,ij->j", v, v), lambda v: v.prod(0),
        lambda v: v.logsumexp(1), lambda v: kt.diagonal(v), lambda v: kt.roll(v, 2, 0),
        lambda v: v.clip(-1, 1).square(), lambda v: (v % 0.7) // kt.tensor(0.3, device=v.device),
        lambda v: kt.cumulative_max(v, 0), lambda v: kt.tile(v, (2, 1)), lambda v: kt.asinh(v) + kt.expm1(v),
    ]  # fmt: skip
    for f in calls:
        out, gradients = [], []
        for device in ("reference", "cpu"):
            v = kt.variable(x, device=device)
            y = f(v)
            (y * y).sum().backward()
            out.append(y.numpy())
            gradients.append(v.grad.numpy())
        np.testing.assert_allclose(out[0], out[1], rtol=1e-12)
        np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)


def test_truth_over_axes_on_every_device() -> None:
    x = np.arange(60).reshape(3, 4, 5) % 7 != 0
    for device, axis in itertools.product(("reference", "cpu"), (None, 0, 1, 2, (0, 2))):
        t = kt.tensor(x, device=device)
        same(t.any(axis), x.any(axis))
        same(t.all(axis), x.all(axis))
        same((~t).any(axis), (~x).any(axis))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_questions_about_dtypes(dtype: Any) -> None:
    assert kt.can_cast(dtype, dtype) and kt.result_type(dtype, kt.zeros(1, dtype=dtype)) is dtype
    assert kt.isdtype(dtype, dtype) and kt.isdtype(dtype, ("bool", "numeric"))
    if dtype.is_floating:
        info = kt.finfo(dtype)
        assert info.max == -info.min and info.dtype is dtype and kt.isdtype(dtype, "real floating")
        assert (kt.tensor(1.0, dtype=dtype) + info.eps).item() > 1
    elif dtype.is_integer:
        assert (kt.iinfo(dtype).min, kt.iinfo(kt.zeros(1, dtype=dtype)).max) == dtype.bounds
    assert kt.empty((2, 3), dtype=dtype).shape == kt.empty_like(kt.zeros((2, 3), dtype=dtype)).shape == (2, 3)


def test_conversions_from_elsewhere() -> None:
    x = kt.tensor([1.0])
    assert kt.asarray(x) is x and kt.asarray(x, dtype=int64).dtype is int64 and kt.asarray([1, 2]).tolist() == [1, 2]
    array = np.arange(3.0)
    t = kt.from_dlpack(array)
    array[0] = 9
    assert t.tolist() == [0, 1, 2] and kt.from_dlpack(t).tolist() == [0, 1, 2]
    assert kt.result_type(kt.int8, 1.5) is float32 and kt.result_type(True, 2) is int64
    assert kt.result_type(bool_, np.float64(1)) is kt.float64
    assert not kt.can_cast(kt.int64, kt.uint64) and kt.can_cast(kt.zeros(1, dtype=kt.int8), kt.float16)


# ---- misuse ---------------------------------------------------------------------------------------------------------


def matrix() -> Any:
    return kt.zeros((2, 3))


WRONG: list[tuple[Callable[[], Any], type[Error] | type[Exception], str]] = [
    (lambda: matrix() << 1, DTypeError, r"bitwise_left_shift\(float32\[2, 3\], 1\): needs integers, got float32"),
    (lambda: kt.tensor(True) >> kt.tensor(True), DTypeError, r"bitwise_right_shift\(.*needs integers, got bool"),
    (lambda: kt.tensor(True) % kt.tensor(True), DTypeError, r"remainder\(.*got bool"),
    (lambda: kt.clip(kt.zeros(3), kt.zeros((2, 1)), 1), ShapeError, r"clip\(.*broadcast to \(3,\)"),
    (lambda: kt.cumsum(matrix()), ShapeError, r"cumulative_sum\(float32\[2, 3\]\): needs an axis for shape \(2, 3\)"),
    (lambda: kt.cumulative_max(kt.tensor([True])), DTypeError, r"cumulative_max\(.*got bool"),
    (lambda: kt.sort(kt.tensor(1.0)), ShapeError, r"sort\(.*a scalar has no axes"),
    (lambda: kt.topk(matrix(), 4), ShapeError, r"topk\(float32\[2, 3\]\): axis 1 of \(2, 3\) has no 4 elements"),
    (lambda: kt.einsum("ij,jk", matrix()), ShapeError, r"einsum\(.*names 2 operands, got 1"),
    (lambda: kt.einsum("ij,jk", matrix(), matrix()), ShapeError, r"'j' in 'ij,jk' has sizes 3 and 2"),
    (lambda: kt.einsum("i", matrix()), ShapeError, r"'i' in 'i' names 1 axes, its operand has 2"),
    (lambda: kt.einsum("ii", matrix()), ShapeError, r"'i' has sizes 2 and 3 in one operand"),
    (lambda: kt.einsum("ij->k", matrix()), ShapeError, r"'k' must name an axis"),
    (lambda: kt.einsum("i...->i", matrix()), ShapeError, r"must stand in the result"),
    (lambda: kt.einsum("i1", matrix()), ShapeError, "named by letters"),
    (lambda: kt.einsum(matrix(), "ij"), DTypeError, "begins with an equation"),
    (lambda: kt.tensordot(matrix(), matrix(), 1), ShapeError, r"tensordot\(.*contracted sizes differ"),
    (lambda: kt.tensordot(matrix(), matrix(), 3), ShapeError, r"cannot contract 3 axes of \(2, 3\) and \(2, 3\)"),
    (lambda: kt.vecdot(matrix(), kt.zeros(2)), ShapeError, r"vecdot\(.*sizes of axis -1 differ: \(2, 3\) and \(2,\)"),
    (lambda: kt.outer(matrix(), kt.zeros(2)), ShapeError, r"outer\(.*two vectors, got \(2, 3\) and \(2,\)"),
    (lambda: kt.tril(kt.zeros(3)), ShapeError, r"tril\(.*at least two axes, got \(3,\)"),
    (lambda: kt.diagonal(matrix(), 0, 1, -1), ShapeError, r"diagonal\(.*needs two axes"),
    (lambda: kt.moveaxis(matrix(), (0, 1), 0), ShapeError, r"moveaxis\(.*each once"),
    (lambda: kt.roll(matrix(), (1, 2), 0), ShapeError, r"roll\(.*a shift for each"),
    (lambda: kt.roll(matrix(), 0.5), DTypeError, "shift is an int, got 0.5"),
    (lambda: kt.repeat(matrix(), -1), ShapeError, r"repeat\(.*cannot repeat -1 times"),
    (lambda: kt.repeat(matrix(), [1, 2, 3], axis=0), ShapeError, r"repeat: needs 2 numbers for axis 0 of \(2, 3\)"),
    (lambda: kt.tile(matrix(), (-1,)), ShapeError, r"tile\(.*cannot repeat \(-1,\) times"),
    (lambda: kt.split(matrix(), 0), ShapeError, r"split\(.*parts of size 0"),
    (lambda: kt.split(matrix(), [1, 2]), ShapeError, r"sizes \(1, 2\) do not add up to axis 0 of \(2, 3\)"),
    (lambda: kt.chunk(matrix(), 0), ShapeError, r"chunk\(.*into 0 parts"),
    (lambda: kt.unstack(kt.tensor(1.0)), ShapeError, r"unstack\(.*a scalar has no axes"),
    (lambda: kt.pad(matrix(), ((1, 2),) * 3), ShapeError, r"pad\(.*do not fit 2 axes"),
    (lambda: kt.pad(matrix(), -1), ShapeError, "must not be negative"),
    (lambda: kt.pad(kt.tensor([1]), 1, value=0.5), DTypeError, "a number that int64 can hold"),
    (lambda: kt.meshgrid(matrix()), ShapeError, r"meshgrid: needs vectors, got \(2, 3\)"),
    (lambda: kt.meshgrid(indexing="yx"), ValueError, 'indexing is "xy" or "ij"'),
    (lambda: kt.finfo(kt.int8), DTypeError, "finfo: needs a floating-point dtype, got int8"),
    (lambda: kt.iinfo(kt.float32), DTypeError, "iinfo: needs an integer dtype, got float32"),
    (lambda: kt.isdtype(kt.int8, "whole"), ValueError, "'whole'"),
    (lambda: kt.result_type(kt.uint64, kt.int8), DTypeError, "no common dtype"),
    (lambda: kt.from_dlpack([1]), DTypeError, "from_dlpack: cannot read list"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_misuse(call: Callable[[], Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("change", [operator.ifloordiv, operator.imod, operator.ilshift, operator.irshift])
def test_state_is_not_replaced_by_accident(change: Any) -> None:
    for p in (kt.nn.Parameter([1.0]), kt.nn.Buffer([1])):
        with pytest.raises(TypeError, match=r"use p\.set"):
            change(p, 2)
    assert change(kt.tensor([8]), 2).tolist() == [change(8, 2)]

"""The Array API standard 2024.12: every name with its parameters, and against NumPy what came for its sake."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import katachi
from katachi.errors import DeviceError, DTypeError, Error, ShapeError
from katachi.graph.dtypes import DTYPES, bool_, float32, float64, int8, int32, int64, uint64

from .samples import RNG, Ints, shapes  # pyrefly: ignore[missing-import]

kt: Any = katachi
DEVICES = ["reference", "cpu"]


def same(got: Any, want: Any, tolerance: float = 1e-9) -> None:
    want = np.asarray(want)
    assert got.shape == want.shape and got.dtype.numpy.kind == want.dtype.kind, (got, want)
    np.testing.assert_allclose(got.numpy(), want, rtol=tolerance, atol=tolerance)


# ---- names and parameters -------------------------------------------------------------------------------------------

SIGNATURES = {  # the standard's parameters: the functions that have them
    "x, /": """abs acos acosh asin asinh atan atanh bitwise_invert ceil cos cosh exp expm1 floor isfinite isinf isnan
        log log1p log2 log10 logical_not negative positive reciprocal round sign signbit sin sinh square sqrt tan tanh
        trunc matrix_transpose nonzero unique_all unique_counts unique_inverse unique_values""",
    "x1, x2, /": """add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign divide
        equal floor_divide greater greater_equal hypot less less_equal logaddexp logical_and logical_or logical_xor
        maximum minimum multiply nextafter not_equal pow remainder subtract matmul""",
    "x, /, *, axis, keepdims": "max min any all count_nonzero argmax argmin mean",
    "x, /, *, axis, dtype, keepdims": "sum prod",
    "x, /, *, axis, correction, keepdims": "std var",
    "x, /, *, axis, dtype, include_initial": "cumulative_sum cumulative_prod",
    "x, /, *, axis, descending, stable": "argsort sort",
    "x, /, *, axis, n, prepend, append": "diff",
    "x, /, *, axis": "expand_dims flip unstack",
    "x, /, axis": "squeeze",
    "x, /, axes": "permute_dims",
    "x, /, *, k": "tril triu",
    "x, /, min, max": "clip",
    "x, /, shape": "broadcast_to",
    "x, /, shape, *, copy": "reshape",
    "x, /, shift, *, axis": "roll",
    "x, dtype, /, *, copy, device": "astype",
    "x, indices, /, *, axis": "take take_along_axis",
    "x, repeats, /, *, axis": "repeat",
    "x, repetitions, /": "tile",
    "x, source, destination, /": "moveaxis",
    "x1, x2, /, *, axes": "tensordot",
    "x1, x2, /, *, axis": "vecdot",
    "x1, x2, /, *, side, sorter": "searchsorted",
    "condition, x1, x2, /": "where",
    "arrays, /, *, axis": "concat stack",
    "*arrays": "broadcast_arrays",
    "*arrays, indexing": "meshgrid",
    "shape, *, dtype, device": "zeros ones empty",
    "shape, fill_value, *, dtype, device": "full",
    "x, /, *, dtype, device": "zeros_like ones_like empty_like",
    "x, /, fill_value, *, dtype, device": "full_like",
    "x, /, *, device, copy": "from_dlpack",
    "obj, /, *, dtype, device, copy": "asarray",
    "n_rows, n_cols, /, *, k, dtype, device": "eye",
    "start, /, stop, step, *, dtype, device": "arange",
    "start, stop, /, num, *, dtype, device, endpoint": "linspace",
    "type, /": "finfo iinfo",
    "dtype, kind": "isdtype",
    "from_, to, /": "can_cast",
    "*arrays_and_dtypes": "result_type",
    "": "__array_namespace_info__",
}
STANDARD = {name: parameters for parameters, names in SIGNATURES.items() for name in names.split()}


def allowed(function: Any, wanted: str) -> bool:
    """Whether a call that the standard's signature allows is one of this function's."""
    own = inspect.signature(function).parameters
    parts = [p for p in wanted.split(", ") if p]
    many = [p for p in own.values() if p.kind is p.VAR_POSITIONAL]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    places = [p for p in own.values() if p.kind in kinds]
    where, position = ("positional", 0) if "/" in parts else ("either", 0)
    for part in parts:
        if part in "/*":
            where = "either" if part == "/" else "keyword"
        elif part.startswith("*"):
            if not many:
                return False
            where = "keyword"
        else:
            if where != "keyword" and position >= len(places) and not many:
                return False
            if where == "either" and (position >= len(places) or places[position].name != part):
                return False
            if where != "positional" and (part not in own or own[part].kind is inspect.Parameter.POSITIONAL_ONLY):
                return False
            position += where != "keyword"
    return True


@pytest.mark.parametrize("name", STANDARD)
def test_every_function_takes_the_standards_arguments(name: str) -> None:
    assert allowed(getattr(kt, name), STANDARD[name]), inspect.signature(getattr(kt, name))


def test_what_is_no_call_of_the_standard_is_told() -> None:
    def f(x: Any, /, axis: Any, *, keepdims: bool) -> None: ...

    assert allowed(f, "x, /, axis, *, keepdims") and allowed(f, "x, /, *, axis") and allowed(f, "x, y, /")
    assert not any(allowed(f, wrong) for wrong in ("x", "x, /, *, keep", "x, y, z, /", "x, /, axes", "*x"))


METHODS = (
    "__abs__ __add__ __and__ __array_namespace__ __bool__ __dlpack__ __dlpack_device__ __eq__ __float__ __floordiv__ "
    "__ge__ __getitem__ __gt__ __index__ __int__ __invert__ __le__ __lshift__ __lt__ __matmul__ __mod__ __mul__ __ne__ "
    "__neg__ __or__ __pos__ __pow__ __rshift__ __setitem__ __sub__ __truediv__ __xor__ __radd__ __rand__ __rfloordiv__ "
    "__rlshift__ __rmatmul__ __rmod__ __rmul__ __ror__ __rpow__ __rrshift__ __rsub__ __rtruediv__ __rxor__ __iadd__ "
    "__iand__ __ifloordiv__ __ilshift__ __imatmul__ __imod__ __imul__ __ior__ __ipow__ __irshift__ __isub__ "
    "__itruediv__ __ixor__ to_device dtype device mT ndim shape size T"
)


@pytest.mark.parametrize("name", METHODS.split())
def test_every_method_and_attribute_is_there(name: str) -> None:
    assert hasattr(kt.Tensor, name)


def test_constants_and_dtypes() -> None:
    assert (kt.e, kt.pi, kt.inf, kt.newaxis) == (np.e, np.pi, np.inf, None) and np.isnan(kt.nan)
    assert kt.bool is bool_ and kt.zeros(2, dtype=kt.bool).tolist() == [False, False]
    assert kt.ones(2)[kt.newaxis].shape == (1, 2)


def test_the_namespace_of_a_tensor() -> None:
    x = kt.ones(2)
    assert x.__array_namespace__() is katachi and x.__array_namespace__(api_version="2023.12") is katachi
    assert kt.__array_api_version__ == "2024.12"
    with pytest.raises(ValueError, match=r"follows 2024\.12, got '1999\.01'"):
        x.__array_namespace__(api_version="1999.01")
    assert x.to_device("cpu").device == "cpu" and complex(kt.tensor(2.0)) == 2


def test_what_the_namespace_says_of_itself() -> None:
    info = kt.__array_namespace_info__()
    assert info.capabilities() == {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}
    assert kt.zeros((1,) * 64).numpy().ndim == 64
    with kt.device("cpu"):
        assert info.default_device() == "cpu" == kt.zeros(1).device
    assert set(info.devices()) == set(DEVICES)
    defaults = info.default_dtypes(device="cpu")
    assert defaults == {"real floating": kt.tensor(0.5).dtype, "integral": kt.tensor(1).dtype, "indexing": int64}
    assert kt.argsort(kt.ones(2)).dtype is defaults["indexing"]
    every = info.dtypes()
    assert every == {d.name: d for d in DTYPES if d.name not in ("float16", "bfloat16")}
    assert set(info.dtypes(kind="real floating")) == {"float32", "float64"}
    assert set(info.dtypes(kind=("bool", "unsigned integer"))) == {"bool", "uint8", "uint16", "uint32", "uint64"}
    assert info.dtypes(kind="complex floating") == {}
    for ask in (info.dtypes, info.default_dtypes):
        with pytest.raises(DeviceError, match="no device 'abacus'"):
            ask(device="abacus")


# ---- keywords -------------------------------------------------------------------------------------------------------

SUMS = {"sum": np.sum, "prod": np.prod, "cumulative_sum": np.cumsum, "cumulative_prod": np.cumprod}
NUMERIC = [d for d in DTYPES if d is not bool_ and d.name not in ("float16", "bfloat16")]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SUMS)
@given(data=st.data(), rng=RNG)
def test_sums_and_products_in_a_dtype(name: str, device: str, data: st.DataObject, rng: np.random.Generator) -> None:
    source, target = (data.draw(st.sampled_from(NUMERIC)) for _ in range(2))
    shape = data.draw(shapes(1, 3))
    x = rng.integers(0, 9, shape).astype(source.numpy)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    got = getattr(kt, name)(kt.tensor(x, device=device), axis=axis, dtype=target)
    want = SUMS[name](x.astype(target.numpy), axis=axis, dtype=target.numpy)
    assert got.dtype is target
    same(got, want, 1e-6)


def test_a_dtype_for_sums_narrows_and_widens() -> None:
    x = kt.full((300,), fill_value=1, dtype=int8)
    assert kt.sum(x).dtype is int64 and kt.sum(x, dtype=int8).item() == 300 - 256
    assert kt.tensor([1.5, 1.75]).sum(dtype=int32).item() == 2
    assert kt.cumulative_prod(kt.tensor([2, 3]), dtype="float64", include_initial=True).tolist() == [1.0, 2.0, 6.0]
    assert kt.prod(kt.tensor([2, 3], dtype=kt.uint8)).dtype is uint64
    v = kt.variable([1.0, 2.0])
    total = v.prod(dtype=float64)
    total.backward()
    assert total.dtype is float64 and v.grad.tolist() == [2.0, 1.0] and v.grad.dtype is float32
    assert not kt.is_variable(v.sum(dtype=int32))
    with pytest.raises(DTypeError, match=r"sum\(float32\[2\]\): needs a numeric dtype, got bool"):
        kt.sum(kt.ones(2), dtype=kt.bool)
    with pytest.raises(DTypeError, match="katachi has no dtype 'complex64'"):
        kt.sum(kt.ones(2), dtype="complex64")


def test_copies_on_request() -> None:
    x, v = kt.tensor([1.0, 2.0]), kt.variable([1.0, 2.0])
    assert kt.asarray(x) is kt.asarray(x, copy=False) is kt.asarray(x, dtype="float32") is kt.asarray(x, copy=True) is x
    kept, shared = kt.asarray(v, copy=True), kt.asarray(v)
    v.set([5.0, 6.0])
    assert shared is v and kept.tolist() == [1.0, 2.0]
    for what in ({"dtype": float64}, {"device": "cpu" if x.device != "cpu" else "reference"}):
        assert kt.asarray(x, **what).tolist() == [1.0, 2.0]
        with pytest.raises(ValueError, match=r"asarray: .* copy=False"):
            kt.asarray(x, copy=False, **what)
    with pytest.raises(ValueError, match=r"asarray: .* list .* copy=False"):
        kt.asarray([1.0], copy=False)
    with pytest.raises(BufferError, match=r"from_dlpack: .* copy=False"):
        kt.from_dlpack(np.arange(3), copy=False)
    assert kt.from_dlpack(np.arange(3), copy=True, device="cpu").device == "cpu"
    assert x.reshape((2, 1), copy=True).shape == x.reshape(2, 1, copy=False).shape == (2, 1)
    assert kt.astype(x, kt.int8, copy=False, device="cpu").device == "cpu"
    assert kt.astype(x, kt.int8).device == x.device and kt.astype(x, kt.int8).dtype is int8


@pytest.mark.parametrize("device", DEVICES)
def test_new_tensors_like_others(device: str) -> None:
    x = kt.ones((2, 3))
    for f, value in ((kt.zeros_like, 0), (kt.ones_like, 1), (kt.empty_like, 0)):
        y = f(x, dtype=int32, device=device)
        assert (y.device, y.dtype) == (device, int32) and y.tolist() == [[value] * 3] * 2
        assert (f(x).device, f(x).dtype) == (x.device, float32)
    y = kt.full_like(x, fill_value=7, device=device)
    assert y.device == device and y.dtype is float32 and y.tolist() == [[7.0] * 3] * 2


@given(st.integers(0, 7), st.booleans(), st.floats(-9, 9), st.floats(-9, 9))
def test_linspace(num: int, endpoint: bool, start: float, stop: float) -> None:
    got = kt.linspace(start, stop, num, endpoint=endpoint, dtype=float64)
    same(got, np.linspace(start, stop, num, endpoint=endpoint))
    with pytest.raises(ShapeError, match="negative size"):
        kt.linspace(start, stop, -1 - num)


@given(shapes(2), RNG)
def test_matrix_transpose(shape: Ints, rng: np.random.Generator) -> None:
    x = rng.standard_normal(shape)
    same(kt.matrix_transpose(kt.tensor(x)), np.swapaxes(x, -1, -2))
    same(kt.tensor(x).mT, np.swapaxes(x, -1, -2))
    v = kt.variable(x)
    (v.mT * kt.tensor(np.swapaxes(x, -1, -2))).sum().backward()
    same(v.grad, x)
    for f in (kt.matrix_transpose, lambda u: u.mT):
        with pytest.raises(ShapeError, match=r"matrix_transpose\(float32\[3\]\): needs at least two axes"):
            f(kt.ones(3))


def test_tensors_pass_through_dlpack() -> None:
    x = kt.tensor([[1, 2], [3, 4]], dtype=int8)
    assert np.from_dlpack(x).tolist() == kt.from_dlpack(x).tolist() == x.tolist() and x.__dlpack_device__() == (1, 0)


@given(RNG)
def test_under_vmap_jvp_and_compile(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((4, 5)), rng.standard_normal((4, 3))
    x, y, line = kt.tensor(a), kt.tensor(b), kt.sort(kt.tensor(a), axis=1)
    same(kt.vmap(lambda u: kt.nextafter(kt.copysign(u, -1.0), 9.0))(x), np.nextafter(-np.abs(a), 9))
    same(kt.vmap(kt.searchsorted)(line, y), [np.searchsorted(*pair) for pair in zip(np.sort(a, 1), b, strict=True)])
    out, pushed = kt.jvp(kt.hypot, (x, x * 2), (x, x * 2))  # a length grows as what it is the length of
    same(pushed, out.numpy())
    same(kt.compile(lambda u, v: kt.hypot(u, 2 * u).sum(dtype=float64) + kt.diff(v).sum())(x, y),
         np.hypot(a, 2 * a).sum() + np.diff(b).sum())  # fmt: skip
    for look in (kt.nonzero, kt.unique_values):
        with pytest.raises(Error, match="a value is looked at inside a compiled function"):
            kt.compile(look)(x)

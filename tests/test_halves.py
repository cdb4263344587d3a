"""float16 and bfloat16 are for storage: what takes several roundings is computed in float32 and rounded once.

Tolerance, unless a row says otherwise: half a unit in the last place of the half, which rounding the exact answer
costs, and 1/32 of a unit for what float32 lost before: 2**-15 of a float16, 2**-12 of a bfloat16, hundreds of float32's
own roundings. Where many numbers are added up it is a unit of the largest of them, because a sum that cancels has no
more digits in float32 than its terms. bfloat16 has float32's exponents: what overflows in float32 on the way overflows,
so rows that square stay where squares are finite; and what is subnormal in float32 on the way may count as zero, which
costs 128 times the least normal number where that is multiplied again.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Container, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import katachi as kt
from katachi import optim
from katachi.graph.dtypes import DType, bfloat16, float16
from katachi.graph.node import Node, toposort
from katachi.tensor import reduce
from katachi.tensor.entry import Op
from katachi.tensor.trace import current
from tests.half_rows import ONE_OPERAND, ROWS, TINY, Array, Row, half, small

HALVES = (float16, bfloat16)
DEVICES = ("reference", "cpu")
each_half = pytest.mark.parametrize("dtype", HALVES, ids=lambda d: d.name)


def unit(x: Array, dtype: DType) -> Array:
    """A unit in the last place of the half nearest to x."""
    limits = ml_dtypes.finfo(dtype.numpy)
    size = np.clip(np.abs(x), float(limits.smallest_normal), float(limits.max))
    return 2.0 ** np.floor(np.log2(size)) * float(limits.eps)


def check(got: Any, want: Array, dtype: DType, cancels: float = 0.0, along: tuple[int, ...] | None = None) -> None:
    """Within the tolerance; infinite where rounding makes it so."""
    assert got.dtype is dtype and got.shape == want.shape
    found = got.astype(kt.float64).numpy()
    with np.errstate(over="ignore"):
        rounded = half(want, dtype)
    finite = np.isfinite(want)
    scale = np.where(finite, np.abs(want), 0.0)
    if along is not None:
        scale = np.broadcast_to(
            scale.max(tuple(a for a in along if -want.ndim <= a < want.ndim), keepdims=True), want.shape
        )
    slack = 0.5 * unit(np.where(finite, want, 0.0), dtype) + unit(scale, dtype) / 32 + cancels * 2.0**-23 + 128 * TINY
    with np.errstate(invalid="ignore"):
        fits = (found == rounded) | (np.abs(found - want) <= slack) | (np.isnan(found) & np.isnan(want))
    if not fits.all():
        i = np.unravel_index(np.argmin(fits), fits.shape)
        ulps = abs(found[i] - want[i]) / unit(want, dtype)[i]
        raise AssertionError(
            f"{(~fits).sum()} of {fits.size} differ; at {i}: {found[i]}, not {want[i]}, {ulps:.2f} units"
        )


def tensors(arrays: list[Array], chosen: Container[int], dtype: DType) -> list[Any]:
    """Variables of those chosen, constants of the others."""
    return [kt.variable(a, dtype=dtype) if i in chosen else kt.tensor(a, dtype=dtype) for i, a in enumerate(arrays)]


def pulled(row: Row, arrays: list[Array], dtype: DType, g: Array | None) -> tuple[Any, list[Any]]:
    """The result, and for a cotangent g the gradients."""
    chosen = range(len(arrays)) if row.gradient is None else row.gradient
    xs = tensors(arrays, chosen, dtype)
    y = row.f(*xs)
    if g is None or not chosen:
        return y, []
    y.backward(kt.tensor(g, dtype=dtype))
    return y, [xs[i].grad for i in chosen]


@each_half
@pytest.mark.parametrize("name", ROWS)
def test_one_rounding_over_the_whole_range(name: str, dtype: DType) -> None:
    row = ROWS[name]
    arrays = [half(a, dtype) for a in row.operands(dtype)]
    with kt.device("reference"), np.errstate(all="ignore"):
        shape = row.f(*[kt.tensor(a, dtype=kt.float64) for a in arrays]).shape
        g = half(np.random.default_rng(9).uniform(0.5, 2.0, shape), dtype)
        y, gradients = pulled(row, arrays, kt.float64, g)
        want = row.exact(*arrays) if row.exact else y.numpy()
        slopes = [g * row.slope(*arrays)] if row.slope else [x.numpy() for x in gradients]
    for device in DEVICES:
        with kt.device(device):
            y, gradients = pulled(row, arrays, dtype, g)
            check(y, np.asarray(want), dtype, row.cancels, row.along)
            for x, slope in zip(gradients, slopes, strict=True):
                check(x, slope, dtype, row.slope_cancels, row.along)


@each_half
@pytest.mark.parametrize("device", DEVICES)
def test_special_values_are_those_of_float32(device: str, dtype: DType) -> None:
    values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan])
    with kt.device(device):
        for name, row in ONE_OPERAND.items():
            found = row.f(kt.tensor(values, dtype=dtype)).astype(kt.float64).numpy()
            want = row.f(kt.tensor(values, dtype=kt.float32)).astype(dtype).astype(kt.float64).numpy()
            np.testing.assert_array_equal(found, want, err_msg=name)
            np.testing.assert_array_equal(np.signbit(found)[:4], np.signbit(want)[:4], err_msg=name)


EXACT = frozenset((
    "abs", "negate", "sign", "select", "maximum", "minimum", "floor", "ceil", "round_nearest_even", "input", "constant",
    "broadcast_in_dim", "reshape", "transpose", "slice", "pad", "concatenate", "reverse", "gather", "sort", "iota",
    "reduce_max", "reduce_min", "cumulative_max", "cumulative_min", "reduce_window", "dynamic_slice",
    "stop_gradient", "variable", "optimization_barrier",
))  # fmt: skip


def roundings(node: Node, since: set[Node]) -> int:
    """How often, at most, what flows to a node is rounded to a half."""
    most: dict[Node, int] = {}
    for n in toposort([node]):
        here = n.dtype in HALVES and n.primitive not in EXACT
        here = here and not (n.primitive == "convert" and n.inputs[0].dtype is n.dtype)
        most[n] = max((most[x] for x in n.inputs), default=0) + here if n not in since else 0
    return most[node]


@pytest.mark.parametrize("name", ROWS)
def test_the_graph_rounds_once(name: str) -> None:
    row = ROWS[name]
    arrays = small(row, float16)
    chosen = range(len(arrays)) if row.gradient is None else row.gradient
    with kt.device("reference"):
        xs = tensors(arrays, chosen, float16)
        y = row.f(*xs)
        seed = kt.ones_like(y)
        if chosen:
            y.backward(seed)
        t = current()
        slots = t.slots()
        results = [y, *[xs[i].grad for i in chosen]]
        nodes = [slots[r._slot - t.base] for r in results]
        first = {slots[h._slot - t.base] for h in (*xs, seed) if h._slot >= t.base}
        counts = [roundings(n, first) for n in nodes]
        kt.eval(*results)
    assert max(counts) <= 1, dict(zip(["result", *chosen], counts, strict=True))


# ---- nothing is left out --------------------------------------------------------------------------------------------


def modules() -> Iterator[Any]:
    for found in pkgutil.walk_packages(kt.__path__, "katachi."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def every_operation() -> dict[Op, str]:
    """All there are, and where they stand."""
    found: dict[Op, str] = {}
    for module in modules():
        for name, value in vars(module).items():
            inside = vars(value) if isinstance(value, type) else value if isinstance(value, dict) else {}
            for x in (value, *inside.values()) if name != "__builtins__" else ():
                if isinstance(x, Op):
                    found.setdefault(x, f"{module.__name__}.{name}")
    return found


def tried(row: Row) -> set[Op]:
    """The operations that a row's function consists of."""
    with kt.device("reference"):
        xs = [kt.tensor(a, dtype=float16) for a in small(row, float16)]
        kt.eval()
        y = row.f(*xs)
        operations = {e.op for e in current().entry.path()}
        kt.eval(y)
    return operations


# no arithmetic on floats, or none that has a gradient; what stands for a whole graph; the norm of clip_grad_norm_, of
# float32
WITHOUT_ARITHMETIC = """
    T all any argmax argmin argsort astype backward bitwise_and bitwise_invert bitwise_left_shift bitwise_or
    bitwise_right_shift bitwise_xor broadcast_to ceil chunk concat cond count_nonzero custom_call custom_gradient
    diag diagonal equal expand_dims eye flatten flip floor freeze full gradients greater greater_equal index
    isfinite isinf isnan jvp less less_equal logical_and logical_not logical_or logical_xor matrix_transpose
    merge_heads moveaxis nextafter norm not_equal ones pad permute rand randint randn repeat reshape roll round scan
    searchsorted set sign signbit split split_heads squeeze stack tile topk transpose tril triu trunc unique unstack
    variable vmap while_loop zeros
""".split()  # noqa: SIM905 - a table of words


def test_every_operation_has_a_row() -> None:
    """A new one that is composed is tried here, or fails this test; updates are tried in test_halves_in_use.py."""
    v = [kt.variable([1.0])]
    updates = {o.update for o in (optim.SGD(v), optim.SGD(v, momentum=0.9), optim.Adam(v), optim.AdamW(v))}
    known = updates.union(*map(tried, ROWS.values()))
    missing = {op: where for op, where in every_operation().items() if op not in known}
    assert (
        sorted(where for op, where in missing.items() if op.name not in (*WITHOUT_ARITHMETIC, "a traced function"))
        == []
    )
    assert [where for op, where in missing.items() if op.upcast is not None] == []


def test_documentation_says_so() -> None:
    """Of every public function whose operation computes in float32."""
    silent = []
    for module in modules():
        for name, f in vars(module).items():
            if not inspect.isfunction(f) or f.__module__ != module.__name__ or name.startswith("_"):
                continue
            uses = [getattr(m, n, None) for m in (module, reduce) for n in f.__code__.co_names]
            wide = any(isinstance(op, Op) and op.upcast is not None for op in uses)
            if wide and "Half types are computed in float32 and rounded once" not in " ".join(
                (f.__doc__ or "").split()
            ):
                silent.append(f"{module.__name__}.{name}")
    assert silent == []


def test_float32_needs_no_conversion() -> None:
    """In its graphs only bools and integers are converted."""
    for name, row in ROWS.items():
        with kt.device("reference"):
            xs = [kt.variable(a, dtype=kt.float32) for a in small(row, float16)]
            y = row.f(*xs)
            t = current()
            made = toposort([t.slots()[y._slot - t.base]]) if y._slot >= t.base else []
            kt.eval(y)
        assert not any(n.primitive == "convert" and n.inputs[0].dtype.is_floating for n in made), name

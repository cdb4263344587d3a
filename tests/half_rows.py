"""The table of operations that compute in float32 where operands are halves, with operands to try them on.

`Row.f` takes tensors. What is right is float64's answer to the same halves: `exact` and `slope` (the derivative) where
a formula in NumPy is at hand, otherwise `f` itself on float64 tensors of the reference device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np

import katachi as kt
from katachi import nn
from katachi.graph.dtypes import DType
from katachi.nn import functional as F
from katachi.nn.norms import BATCH_NORM_FIXED, RUNNING
from katachi.tensor.apply import apply

Array: TypeAlias = np.ndarray[Any, Any]
Function: TypeAlias = Callable[..., Any]
TINY = 2.0**-126  # the least normal number of float32: what is below it may count as zero


class Row(NamedTuple):
    f: Function
    operands: Callable[[DType], list[Array]]
    exact: Function | None = None
    slope: Function | None = None
    cancels: float = 0.0  # how many of float32's epsilons of 1 the result may be off where 1 - x and the like cancel
    slope_cancels: float = 0.0
    gradient: tuple[int, ...] | None = None  # of which operands a gradient is compared: of all, unless said
    along: tuple[int, ...] | None = None  # axes over which operands add up in a result, whose largest sets the scale


def every(dtype: DType) -> Array:
    """All finite values of a half, in float64."""
    with np.errstate(invalid="ignore"):  # of NaN
        values = np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy).astype(np.float64)
    return values[np.isfinite(values) & ((np.abs(values) >= TINY) | (values == 0))]


def within(low: float, high: float) -> Callable[[DType], list[Array]]:
    """All values between two numbers, both included."""

    def operands(dtype: DType) -> list[Array]:
        x = every(dtype)
        return [x[(x >= low) & (x <= high)]]

    return operands


def sized(least: float, most: float) -> Callable[[DType], list[Array]]:
    """All values of both signs with a size between two."""

    def operands(dtype: DType) -> list[Array]:
        x = every(dtype)
        return [x[(np.abs(x) >= least) & (np.abs(x) <= most)]]

    return operands


def pairs(least: float = 0.0, most: float = math.inf, positive: bool = False) -> Callable[[DType], list[Array]]:
    """A grid of both signs and all exponents, with itself."""

    def operands(dtype: DType) -> list[Array]:
        limits = ml_dtypes.finfo(dtype.numpy)
        exponents = np.arange(limits.minexp, limits.maxexp, 1 if dtype is kt.float16 else 7)
        line = np.concatenate([m * 2.0**exponents for m in (1.0, 1.25, 1.984375)])
        line = line[(line >= least) & (line <= most)]
        line = line if positive else np.concatenate([line, -line])
        return [a.ravel() for a in np.meshgrid(line, line)]

    return operands


def rows(
    *shapes: tuple[int, ...], most: float = math.inf, least: float = 0.0, seed: int = 0
) -> Callable[[DType], list[Array]]:
    """Normal numbers, those of the first operand times all powers of two of the dtype, on a leading axis."""

    def operands(dtype: DType) -> list[Array]:
        rng = np.random.default_rng(seed)
        limits = ml_dtypes.finfo(dtype.numpy)
        powers = 2.0 ** np.arange(limits.minexp + 4, limits.maxexp - 3)
        powers = powers[(powers >= least) & (powers <= most)]
        first = rng.standard_normal((len(powers), *shapes[0])) * powers.reshape(-1, *(1 for _ in shapes[0]))
        return [half(x, dtype) for x in (first, *(rng.standard_normal(s) for s in shapes[1:]))]

    return operands


def half(x: Array, dtype: DType) -> Array:
    """The nearest halves, in float64."""
    return x.astype(dtype.numpy).astype(np.float64)


def around(value: float, *shape: int) -> Callable[[DType], list[Array]]:
    """Numbers that differ little from a large one."""
    return lambda dtype: [half(value + np.random.default_rng(0).standard_normal(shape), dtype)]


def alike(*shapes: tuple[int, ...], factor: float = 1.0) -> Callable[[DType], list[Array]]:
    """Normal numbers, times a factor."""

    def operands(dtype: DType) -> list[Array]:
        rng = np.random.default_rng(1)
        return [half(factor * rng.standard_normal(s), dtype) for s in shapes]

    return operands


def normal_cdf(x: Array) -> Array:
    return np.array([0.5 * math.erfc(-v * math.sqrt(0.5)) for v in x])


def normal_pdf(x: Array) -> Array:
    return np.exp(-np.minimum(x * x, 1e5) / 2) / math.sqrt(2 * math.pi)


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


def gelu_inner(x: Array) -> tuple[Array, Array]:
    x = np.clip(x, -1e30, 1e30)
    return math.sqrt(8 / math.pi) * (x + 0.044715 * x**3), math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * x * x)


def gelu_tanh_slope(x: Array) -> Array:
    u, du = gelu_inner(x)
    return sigmoid(u) + np.where(np.abs(x) < 50, x * sigmoid(u) * sigmoid(-u) * du, 0.0)


def gelu_slope(x: Array) -> Array:
    return normal_cdf(x) + x * normal_pdf(x)


def silu_slope(x: Array) -> Array:
    return sigmoid(x) * (1 + x * sigmoid(-x))


ALL = within(-math.inf, math.inf)
POSITIVE = within(TINY, math.inf)
TWICE = sized(0, 2.0**126)  # what is finite in float32 when a cotangent of 2 has multiplied it

ONE_OPERAND: dict[str, Row] = {
    "exp": Row(kt.exp, ALL, np.exp, np.exp),
    "log": Row(kt.log, POSITIVE, np.log, lambda x: 1 / x),
    "sqrt": Row(kt.sqrt, POSITIVE, np.sqrt, lambda x: 0.5 / np.sqrt(x)),
    "rsqrt": Row(kt.rsqrt, POSITIVE, lambda x: x**-0.5, lambda x: -0.5 * x**-1.5),
    "reciprocal": Row(kt.reciprocal, sized(TINY, math.inf), lambda x: 1 / x, lambda x: -1 / x / x),
    "square": Row(kt.square, ALL, lambda x: x * x, lambda x: 2 * x),
    "tanh": Row(kt.tanh, ALL, np.tanh, lambda x: np.cosh(np.clip(x, -300, 300)) ** -2.0, slope_cancels=4),
    "sigmoid": Row(kt.sigmoid, ALL, sigmoid, lambda x: sigmoid(x) * sigmoid(-x), slope_cancels=2),
    "erf": Row(
        kt.erf, ALL, lambda x: np.array([math.erf(v) for v in x]),
        lambda x: 2 / math.sqrt(math.pi) * np.exp(-np.minimum(x * x, 1e5)),
    ),
    "sin": Row(kt.sin, sized(0, 1e5), np.sin, np.cos, slope_cancels=1, cancels=1),
    "cos": Row(kt.cos, sized(0, 1e5), np.cos, lambda x: -np.sin(x), slope_cancels=1, cancels=1),
    "tan": Row(kt.tan, sized(0, 1.5), np.tan, lambda x: 1 + np.tan(x) ** 2),
    "asin": Row(kt.asin, sized(0, 0.999), np.arcsin, lambda x: ((1 - x) * (1 + x)) ** -0.5),
    "acos": Row(kt.acos, sized(0, 0.999), np.arccos, lambda x: -(((1 - x) * (1 + x)) ** -0.5)),
    "atan": Row(kt.atan, ALL, np.arctan, lambda x: 1 / (1 + x * x)),
    "sinh": Row(kt.sinh, sized(0, 85), np.sinh, np.cosh),
    "cosh": Row(kt.cosh, sized(0, 85), np.cosh, np.sinh),
    "asinh": Row(kt.asinh, sized(0, 2.0**60), np.arcsinh, lambda x: 1 / np.hypot(x, 1)),
    "acosh": Row(kt.acosh, within(1.01, math.inf), np.arccosh, lambda x: 1 / np.sqrt(x - 1) / np.sqrt(x + 1)),
    "atanh": Row(kt.atanh, sized(0, 0.999), np.arctanh, lambda x: 1 / ((1 - x) * (1 + x))),
    "expm1": Row(kt.expm1, ALL, np.expm1, np.exp),
    "log1p": Row(kt.log1p, within(-0.999, math.inf), np.log1p, lambda x: 1 / (1 + x)),
    "log2": Row(kt.log2, POSITIVE, np.log2, lambda x: 1 / x / math.log(2)),
    "log10": Row(kt.log10, POSITIVE, np.log10, lambda x: 1 / x / math.log(10)),
    "pow 3": Row(lambda x: x**3, ALL, lambda x: x**3, lambda x: 3 * x * x),
    "pow -2": Row(lambda x: x**-2, sized(2.0**-30, 2.0**30), lambda x: x**-2.0, lambda x: -2 * x**-3.0),
    "pow 2.5": Row(lambda x: x**2.5, within(2.0**-80, 2.0**80), lambda x: x**2.5, lambda x: 2.5 * x**1.5),
    "times 0.1": Row(lambda x: x * 0.1, ALL, lambda x: x * 0.1, lambda x: 0.1 + 0 * x),
    "divided by 3": Row(lambda x: x / 3.0, ALL, lambda x: x / 3, lambda x: 1 / 3 + 0 * x),
    "gelu": Row(kt.gelu, TWICE, lambda x: x * normal_cdf(x), gelu_slope, slope_cancels=1),
    "gelu tanh": Row(
        lambda x: kt.gelu(x, "tanh"), TWICE, lambda x: x * sigmoid(gelu_inner(x)[0]), gelu_tanh_slope, slope_cancels=1
    ),
    "silu": Row(F.silu, TWICE, lambda x: x * sigmoid(x), silu_slope, slope_cancels=1),
    "leaky_relu": Row(
        F.leaky_relu, ALL, lambda x: np.where(x > 0, x, 0.01 * x), lambda x: np.where(x > 0, 1.0, 0.01)
    ),
    "softplus": Row(lambda x: kt.logaddexp(x, 0.0), sized(TINY, math.inf), lambda x: np.logaddexp(x, 0.0), sigmoid),
}  # fmt: skip


TWO_OPERANDS: dict[str, Row] = {
    "multiply": Row(kt.multiply, pairs()),
    "divide": Row(kt.divide, pairs()),
    "pow": Row(
        kt.pow, lambda dtype: [half(a, dtype) for a in np.meshgrid(np.linspace(0.1, 9, 70), np.linspace(-4, 4, 60))]
    ),
    "logaddexp": Row(kt.logaddexp, pairs(2.0**-100), np.logaddexp),
    "hypot": Row(kt.hypot, pairs(2.0**-100, 2.0**100)),
    "atan2": Row(kt.atan2, pairs(2.0**-60, 2.0**60)),
    "remainder": Row(kt.remainder, pairs(2.0**-60, 2.0**60), np.remainder, gradient=(0,)),
    "floor_divide": Row(kt.floor_divide, pairs(2.0**-10, 2.0**10), np.floor_divide, gradient=()),
}


def variance(x: Array) -> Array:
    return x.var(-1)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def layer_norm(x: Array, eps: float = 1e-5) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


SQUARES = 2.0**60  # the sizes whose squares, and their sums, are float32's as well
MANY: dict[str, Row] = {
    "mean": Row(lambda x: x.mean(-1), rows((64,)), lambda x: x.mean(-1), along=(-1,)),
    "mean of all": Row(lambda x: x.mean(), alike((100_000,)), np.mean),
    "var": Row(lambda x: x.var(-1), rows((64,), least=1 / SQUARES, most=SQUARES), variance),
    "var around 300": Row(
        lambda x: x.var(-1, correction=1), around(300, 8, 64), lambda x: x.var(-1, ddof=1), along=(-1,)
    ),
    "std": Row(lambda x: x.std(-1), rows((64,), least=1 / SQUARES, most=SQUARES), lambda x: x.std(-1)),
    "std around 300": Row(lambda x: x.std(-1), around(300, 8, 64), lambda x: x.std(-1), along=(-1,)),
    "max": Row(lambda x: x.max(-1), rows((64,)), lambda x: x.max(-1)),
    "max of ties": Row(lambda x: x.max(), lambda dtype: [np.ones(70_000)], np.max),
    "min": Row(lambda x: x.min(-1), rows((64,)), lambda x: x.min(-1)),
    "prod": Row(lambda x: x.prod(-1), rows((4,), least=2.0**-20, most=2.0**20), lambda x: x.prod(-1)),
    "cumulative_prod": Row(lambda x: kt.cumulative_prod(x, -1), rows((4,), least=2.0**-20, most=2.0**20)),
    "logsumexp": Row(lambda x: kt.logsumexp(x, -1), rows((64,))),
    "softmax": Row(lambda x: x.softmax(-1), rows((64,)), softmax, along=(-1,), slope_cancels=2),
    "log_softmax": Row(lambda x: x.log_softmax(-1), rows((64,)), log_softmax, along=(-1,)),
    "softmax of many": Row(lambda x: x.softmax(-1), alike((2, 70_000)), softmax),
    "diff": Row(lambda x: kt.diff(x, n=3), rows((16,), most=SQUARES), lambda x: np.diff(x, 3), along=(-1,)),
    "outer": Row(kt.outer, alike((9,), (70,))),
    "vecdot": Row(kt.vecdot, rows((64,), (64,), most=2.0**10), along=(-1,)),
    "matmul": Row(kt.matmul, rows((9, 20), (20, 7), most=2.0**8), along=(-2, -1)),
    "matmul, spread": Row(kt.matmul, alike((3, 1, 9, 20), (4, 20, 7)), along=(-2, -1)),
    "einsum": Row(
        lambda a, b, c: kt.einsum("ij,jk,kl->il", a, b, c), alike((5, 6), (6, 7), (7, 8)), along=(0, 1)
    ),
    "tensordot": Row(lambda a, b: kt.tensordot(a, b, 1), alike((5, 6), (6, 7)), along=(0, 1)),
    "linear": Row(F.linear, rows((3, 20), (7, 20), (7,), most=2.0**8), along=(-2, -1)),
    "conv1d": Row(F.conv1d, alike((2, 3, 9), (4, 3, 3), (4,)), along=(0, 1, 2)),
    "conv2d": Row(F.conv2d, alike((2, 3, 9, 9), (4, 3, 3, 3), (4,), factor=8.0), along=(0, 1, 2, 3)),
    "conv_transpose2d": Row(F.conv_transpose2d, alike((2, 3, 5, 5), (3, 4, 3, 3), (4,)), along=(0, 1, 2, 3)),
    "avg_pool1d": Row(lambda x: F.avg_pool1d(x, 3), rows((2, 12)), along=(-1,)),
    "avg_pool2d": Row(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), rows((2, 9, 9)), along=(-2, -1)),
    "adaptive_avg_pool2d": Row(lambda x: F.adaptive_avg_pool2d(x, 3), rows((2, 7, 6)), along=(-2, -1)),
    "layer_norm": Row(
        lambda x, *p: F.layer_norm(x, 32, *p), rows((32,), (32,), (32,), least=1 / SQUARES, most=SQUARES), along=(-1,)
    ),
    "layer_norm around 300": Row(lambda x: F.layer_norm(x, 64), around(300, 8, 64), layer_norm, along=(-1,)),
    "rms_norm": Row(
        lambda x, *p: F.rms_norm(x, 32, *p, eps=1e-6), rows((32,), (32,), least=1 / SQUARES, most=SQUARES), along=(-1,)
    ),
    "rms_norm around 300": Row(lambda x: F.rms_norm(x, 64, eps=1e-6), around(300, 8, 64), along=(-1,)),
    "batch_norm": Row(nn.BatchNorm1d(4, affine=False, track_running_stats=False), around(300, 16, 4), along=(0,)),
    "batch_norm, fixed": Row(
        lambda x, mean, w, b, v: apply(BATCH_NORM_FIXED, (x, mean, v, w, b), (1e-5,)),
        lambda dtype: [*alike((8, 4), (4,), (4,), (4,), factor=20.0)(dtype), half(np.arange(1, 5) * 100.0, dtype)],
        gradient=(0, 2, 3), along=(0,),
    ),
    "batch_norm, running": Row(
        lambda *xs: apply(RUNNING, (*xs, 0.9, 0.1)),
        lambda dtype: [half(np.arange(1, 9) * k, dtype) for k in (300.0, 299.0)],
    ),
    "attention": Row(
        F.scaled_dot_product_attention, alike((2, 9, 8), (2, 7, 8), (2, 7, 5), factor=2.0), along=(0, 1, 2)
    ),
    "attention, causal": Row(
        lambda *x: F.scaled_dot_product_attention(*x, is_causal=True), alike(*3 * ((2, 9, 8),)), along=(0, 1, 2)
    ),
    "attention, mask": Row(
        F.scaled_dot_product_attention, alike((2, 9, 8), (2, 7, 8), (2, 7, 5), (9, 7), factor=2.0), along=(0, 1, 2)
    ),
    "at multiply": Row(lambda x, v: x.at[kt.tensor(PLACES)].multiply(v), alike((6,), (40,), factor=0.9), along=(0,)),
    "at max": Row(lambda x, v: x.at[kt.tensor(PLACES)].max(v), alike((6,), (40,), factor=0.9)),
    "at min": Row(lambda x, v: x.at[kt.tensor(PLACES)].min(v), alike((6,), (40,), factor=0.9)),
    "dropout": Row(lambda x: F.dropout(x, 0.1, generator=kt.Generator(5)), rows((64,), most=SQUARES)),
}  # fmt: skip
PLACES = np.arange(40) * 7 % 6

CLASSES = np.array([3, 0, 6, 1])
WEIGHTS = np.linspace(0.5, 2.0, 7)


def both(dtype: DType) -> list[Array]:
    """Inputs and targets of all magnitudes whose squares are float32's."""
    return [rows((16,), least=1 / SQUARES, most=2.0**50, seed=seed)(dtype)[0] for seed in (0, 1)]


def losses() -> dict[str, Row]:
    """Each in the reductions."""
    found: dict[str, Row] = {}
    for how in ("mean", "sum", "none"):

        def loss(f: Function, how: str = how, **settings: Any) -> Function:
            return lambda *xs: f(*xs, reduction=how, **settings)

        two = {"none": both, "mean": alike((500,), (500,), factor=100.0), "sum": alike((500,), (500,), factor=5.0)}[how]
        logits = alike((4, 7), factor=9.0)
        found |= {
            f"mse_loss, {how}": Row(loss(F.mse_loss), two),
            f"l1_loss, {how}": Row(loss(F.l1_loss), two),
            f"smooth_l1_loss, {how}": Row(loss(F.smooth_l1_loss, beta=0.7), two),
            f"bce, {how}": Row(
                loss(F.binary_cross_entropy_with_logits, pos_weight=1.5),
                lambda dtype: [
                    half(np.random.default_rng(2).standard_normal(90) * 20, dtype),
                    half(np.random.default_rng(3).random(90), dtype),
                ],
                gradient=(0,),
            ),
            f"cross_entropy, {how}": Row(
                loss(lambda x, **s: F.cross_entropy(x, kt.tensor(CLASSES), label_smoothing=0.1, **s)), logits
            ),
            f"cross_entropy, weighted, {how}": Row(
                loss(lambda x, w, **s: F.cross_entropy(x, kt.tensor(CLASSES), weight=w, **s)),
                lambda dtype, logits=logits: [*logits(dtype), half(WEIGHTS, dtype)], gradient=(0,),
            ),
            f"cross_entropy, probabilities, {how}": Row(
                loss(F.cross_entropy),
                lambda dtype, logits=logits: [logits(dtype)[0], half(softmax(logits(dtype)[0][::-1]), dtype)],
                gradient=(0,),
            ),
            f"nll_loss, {how}": Row(loss(lambda x, **s: F.nll_loss(x, kt.tensor(CLASSES), **s)), logits),
        }  # fmt: skip
    return found


# what rounds once by itself, forward and backward, and computes in the half
ONCE: dict[str, Row] = {
    "add": Row(kt.add, alike((7, 9), (9,)), along=(0,)),
    "subtract": Row(kt.subtract, alike((7, 9), (7, 1)), along=(-1,)),
    "maximum": Row(kt.maximum, alike((7, 9), (9,)), along=(0,)),
    "minimum": Row(kt.minimum, alike((7, 9), (9,)), along=(0,)),
    "where": Row(lambda x, y: kt.where(x > y, x, y), alike((9,), (9,))),
    "relu": Row(kt.relu, ALL),
    "abs": Row(kt.abs, sized(TINY, math.inf)),
    "negative": Row(kt.negative, ALL),
    "clip": Row(lambda x: kt.clip(x, -2, 2), ALL),
    "copysign": Row(lambda x: kt.copysign(x, -1.0), ALL),
    "sum": Row(lambda x: x.sum(-1), rows((64,)), lambda x: x.sum(-1), along=(-1,)),
    "sum of many": Row(lambda x: x.sum(), lambda dtype: [np.full(60_000, 0.5)]),
    "trace": Row(kt.trace, alike((9, 9))),
    "cumulative_sum": Row(lambda x: kt.cumulative_sum(x, -1), alike((4, 90)), along=(-1,)),
    "cumulative_max": Row(lambda x: kt.cumulative_max(x, -1), alike((4, 90))),
    "cumulative_min": Row(lambda x: kt.cumulative_min(x, -1), alike((4, 90))),
    "at add": Row(lambda x, v: x.at[kt.tensor(PLACES)].add(v), alike((6,), (40,)), along=(0,)),
    "at set": Row(lambda x, v: x.at[kt.tensor(PLACES[:6])].set(v), alike((6,), (6,))),
    "index": Row(lambda x: x[kt.tensor(PLACES)], alike((6, 2)), along=(0,)),
    "take_along_axis": Row(lambda x: kt.take_along_axis(x, kt.tensor(PLACES), 0), alike((6,)), along=(0,)),
    "embedding": Row(lambda x: F.embedding(kt.tensor(PLACES), x), alike((6, 2)), along=(0,)),
    "max_pool1d": Row(lambda x: F.max_pool1d(x, 3, 1), alike((2, 12)), along=(-1,)),
    "max_pool2d": Row(lambda x: F.max_pool2d(x, 3, 1), alike((2, 9, 9)), along=(-2, -1)),
    "sort": Row(kt.sort, alike((70,))),
}

ROWS: Mapping[str, Row] = {**ONE_OPERAND, **TWO_OPERANDS, **MANY, **losses(), **ONCE}


def small(row: Row, dtype: DType) -> list[Array]:
    """A row's operands, a few where it is tried on all halves."""
    return [a[:4] if a.ndim == 1 and len(a) > 1000 else a for a in row.operands(dtype)]

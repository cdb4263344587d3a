"""Derivatives at the edges of their domains, against what mathematics says, written by hand: zeros of both signs,
infinities, NaN, ties, exact multiples, the ends of domains, what overflows and what is subnormal.

Where a function has no derivative the convention is torch's: 0 for abs and norms at zero, a half for each at a tie,
infinite at the end of a domain. Where torch is wrong, this is said beside the row. NaN stands where the value is NaN
and so is the slope; outside a domain nothing is promised.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import katachi
from katachi.errors import Error, GradientError
from katachi.graph.node import toposort
from katachi.nn import functional as F
from katachi.tensor import cumulative, elementwise, floats, functions, reduce
from katachi.tensor.handle import LEAF
from katachi.tensor.trace import current
from katachi.transforms.vjp import VJP

kt: Any = katachi
inf, nan = np.inf, np.nan
DEVICES, KINDS = ["reference", "cpu"], [np.float32, np.float64]
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-13}
both = pytest.mark.parametrize("device", DEVICES)
kinds = pytest.mark.parametrize("kind", KINDS)
forms = pytest.mark.parametrize(
    ("how", "kind"), [("plain", np.float32), ("plain", np.float64), ("eager", np.float32), ("compiled", np.float32)]
)
quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def slopes_of_one(big: float, small: float) -> dict[str, tuple[Callable[[Any], Any], list[tuple[float, float]]]]:
    """By name: a function of one number, and its slopes at points. `big` is large for the dtype, `small` is close to
    its smallest normal number."""
    tanh_gelu, clip = (lambda x: kt.gelu(x, "tanh")), (lambda x: kt.clip(x, -1.0, 2.0))
    # not at infinity, where x times its gate is NaN in torch as here: a guard would cost an eighth of gelu's time
    gate = [(0.0, 0.5), (-0.0, 0.5), (big, 1), (-big, 0), (nan, nan), (small, 0.5), (-small, 0.5)]
    soft = [(0.0, 0.5), (-0.0, 0.5), (inf, 1), (-inf, 0), (big, 1), (-big, 0), (nan, nan)]
    saturating = [(inf, 0), (-inf, 0), (big, 0), (-big, 0), (nan, nan)]
    step = [(x, 0) for x in (0.0, -0.0, 1.0, -1.5, 0.5, inf, -inf, nan, big, small)]
    line = [0.0, -0.0, 1.0, inf, -inf, nan, big, small]
    table: dict[str, Any] = {
        "positive": [(x, 1) for x in line],
        "negative": [(x, -1) for x in line],
        "abs": [(0.0, 0), (-0.0, 0), (small, 1), (-small, -1), (inf, 1), (-inf, -1), (nan, nan)],  # torch: 0 at NaN
        "exp": [(0.0, 1), (-0.0, 1), (inf, inf), (-inf, 0), (big, inf), (-big, 0), (small, 1), (nan, nan)],
        "expm1": [(0.0, 1), (-0.0, 1), (inf, inf), (-inf, 0), (big, inf), (-big, 0), (small, 1), (nan, nan)],
        # the only limit at zero comes from above; torch: -inf at -0.0, in all four
        "log": [(0.0, inf), (-0.0, inf), (1.0, 1), (inf, 0), (big, 1 / big), (small, 1 / small), (nan, nan)],
        "log2": [(0.0, inf), (-0.0, inf), (1.0, 1 / np.log(2)), (inf, 0), (nan, nan)],
        "log10": [(0.0, inf), (-0.0, inf), (1.0, 1 / np.log(10)), (inf, 0), (nan, nan)],
        "sqrt": [(0.0, inf), (-0.0, inf), (1.0, 0.5), (inf, 0), (small, 0.5 / small**0.5), (-1.0, nan), (nan, nan)],
        "rsqrt": [(0.0, -inf), (-0.0, -inf), (1.0, -0.5), (inf, 0), (big, -0.5 * big**-1.5), (-1.0, nan), (nan, nan)],
        "log1p": [(-1.0, inf), (0.0, 1), (-0.0, 1), (small, 1), (inf, 0), (big, 1 / big), (nan, nan)],
        "reciprocal": [(0.0, -inf), (-0.0, -inf), (1.0, -1), (inf, 0), (-inf, 0), (big, 0), (nan, nan)],
        "square": [(0.0, 0), (-0.0, 0), (inf, inf), (-inf, -inf), (big, 2 * big), (nan, nan)],
        "tanh": [(0.0, 1), (-0.0, 1), (small, 1), *saturating],
        "sigmoid": [(0.0, 0.25), (-0.0, 0.25), *saturating],
        "erf": [(0.0, 2 / np.pi**0.5), (-0.0, 2 / np.pi**0.5), *saturating],
        "sin": [(0.0, 1), (-0.0, 1), (small, 1), (inf, nan), (nan, nan)],
        "cos": [(0.0, 0), (-0.0, 0), (small, -small), (inf, nan), (nan, nan)],
        "tan": [(0.0, 1), (-0.0, 1), (small, 1), (inf, nan), (nan, nan)],
        "asin": [(0.0, 1), (-0.0, 1), (1.0, inf), (-1.0, inf), (2.0, nan), (inf, nan), (nan, nan)],
        "acos": [(0.0, -1), (-0.0, -1), (1.0, -inf), (-1.0, -inf), (2.0, nan), (inf, nan), (nan, nan)],
        "atan": [(0.0, 1), (-0.0, 1), (1.0, 0.5), (small, 1), *saturating],
        "sinh": [(0.0, 1), (-0.0, 1), (inf, inf), (-inf, inf), (big, inf), (nan, nan)],
        "cosh": [(0.0, 0), (-0.0, 0), (inf, inf), (-inf, -inf), (small, small), (nan, nan)],
        # torch: 0 at big, where the square overflows
        "asinh": [(0.0, 1), (-0.0, 1), (inf, 0), (-inf, 0), (big, 1 / big), (-big, 1 / big), (small, 1), (nan, nan)],
        "acosh": [(1.0, inf), (inf, 0), (big, 1 / big), (0.5, nan), (-2.0, nan), (nan, nan)],  # torch: finite below -1
        "atanh": [(0.0, 1), (-0.0, 1), (1.0, inf), (-1.0, inf), (small, 1), (nan, nan)],
        "sign": step, "floor": step, "ceil": step, "round": step, "trunc": step,
        "relu": [(0.0, 0), (-0.0, 0), (small, 1), (-small, 0), (inf, 1), (-inf, 0), (nan, 1)],  # torch: 1 at NaN
        "gelu": gate,
        "gelu, tanh": (tanh_gelu, gate),
        "silu": (F.silu, gate),
        "clip": (clip, [(-1.0, 1), (2.0, 1), (-1.5, 0), (2.5, 0), (inf, 0), (-inf, 0), (0.0, 1)]),
        "x ** 0": (lambda x: x**0, [(0.0, 0), (-0.0, 0), (inf, 0), (-inf, 0), (nan, 0), (small, 0)]),
        "x ** 1": (lambda x: x**1, [(x, 1) for x in line]),
        "x ** 2": (lambda x: x**2, [(0.0, 0), (-0.0, 0), (inf, inf), (-inf, -inf), (big, 2 * big)]),
        "x ** 3": (lambda x: x**3, [(0.0, 0), (-0.0, 0), (inf, inf), (-inf, inf), (-2.0, 12), (big, inf)]),
        "x ** -1": (lambda x: x**-1, [(0.0, -inf), (-0.0, -inf), (inf, 0), (-inf, 0), (-2.0, -0.25), (big, 0)]),
        "x ** -2": (lambda x: x**-2, [(0.0, -inf), (-0.0, inf), (inf, 0), (-inf, 0), (-2.0, 0.25), (big, 0)]),
        "x ** -3": (lambda x: x**-3, [(0.0, -inf), (-0.0, -inf), (inf, 0), (-inf, 0), (-2.0, -3 / 16), (big, 0)]),
        "softplus": (lambda x: kt.logaddexp(x, 0.0), soft),
        "softplus, mirrored": (lambda x: kt.logaddexp(0.0, x), soft),
        "astype": (lambda x: x.astype(kt.float64), [(x, 1) for x in line]),
    }  # fmt: skip
    return {k: v if isinstance(v, tuple) else (getattr(kt, k), v) for k, v in table.items()}


def slopes_of_two(big: float, small: float) -> dict[str, tuple[Callable[[Any, Any], Any], list[tuple[float, ...]]]]:
    """By name: a function of two numbers, and at points (x, y) its slopes along x and y."""
    table: dict[str, Any] = {
        "add": [(inf, 1, 1, 1), (0.0, -0.0, 1, 1)],
        "subtract": [(inf, 1, 1, -1), (0.0, -0.0, 1, -1)],
        "multiply": [(0.0, inf, inf, 0), (0.0, 3, 3, 0), (inf, 2, 2, inf), (nan, 2, 2, nan), (big, big, big, big)],
        "divide": [
            (1, 0.0, inf, -inf), (1, -0.0, -inf, -inf), (0.0, 1, 1, 0), (0.0, 0.0, inf, nan), (1, inf, 0, 0),
            (inf, 1, 1, -inf), (inf, inf, 0, nan), (big, big, 1 / big, -1 / big), (1, big, 1 / big, 0),
        ],
        # at a tie each a half; a NaN wins, as it does in the value (torch: 1 for both)
        "maximum": [
            (1, 1, 0.5, 0.5), (0.0, -0.0, 0.5, 0.5), (inf, inf, 0.5, 0.5), (-inf, -inf, 0.5, 0.5), (inf, 1, 1, 0),
            (nan, 1, 1, 0), (1, nan, 0, 1), (nan, nan, 0.5, 0.5), (nan, inf, 1, 0), (small, 0.0, 1, 0),
        ],
        "minimum": [
            (1, 1, 0.5, 0.5), (0.0, -0.0, 0.5, 0.5), (inf, inf, 0.5, 0.5), (-inf, -inf, 0.5, 0.5), (inf, 1, 0, 1),
            (nan, 1, 1, 0), (1, nan, 0, 1), (nan, nan, 0.5, 0.5), (-inf, nan, 0, 1), (small, 0.0, 0, 1),
        ],
        # x ** y at zero: 0 along y where it is 0 or 1, as torch; where y is infinite or x is, torch gives NaN for 0
        "pow": [
            (0.0, 0.0, 0, 0), (0.0, 1, 1, 0), (0.0, 0.5, inf, 0), (0.0, 2, 0, 0), (0.0, -1, -inf, -inf),
            (-0.0, 3, 0, 0), (-0.0, 2, 0, 0), (-2, 3, 12, nan), (-2, 2, -4, nan), (-2, -1, -0.25, nan),
            (-2, 0.5, nan, nan), (inf, 0.0, 0, inf), (inf, 1, 1, inf), (inf, 0.5, 0, inf), (inf, -1, 0, 0),
            (inf, 2, inf, inf), (inf, -inf, 0, 0), (0.0, inf, 0, 0), (0.5, inf, 0, 0), (2, inf, inf, inf),
            (2, -inf, 0, 0), (0.5, -inf, -inf, -inf), (nan, 0.0, 0, nan), (0.0, nan, nan, nan), (nan, 1, 1, nan),
            (-inf, 3, inf, nan), (-inf, 2, -inf, nan), (small, 0.0, 0, np.log(small)), (1, 5, 5, 0),
        ],
        # an angle stands still at infinity; at the origin, where it has none, torch's 0
        "atan2": [
            (0.0, 0.0, 0, 0), (0.0, 1, 1, 0), (0.0, -1, -1, 0), (1, 0.0, 0, -1), (-0.0, -1, -1, 0),
            (inf, 1, 0, 0), (1, inf, 0, 0), (1, -inf, 0, 0), (-inf, 1, 0, 0), (inf, inf, 0, 0), (nan, 1, nan, nan),
            (inf, nan, nan, nan), (big, big, 0.5 / big, -0.5 / big), (0.0, big, 1 / big, 0),
            (small, small, 0.5 / small, -0.5 / small),
        ],
        # the larger counts alone when it is infinite, as in the limit; torch: NaN there and at the origin
        "hypot": [
            (0.0, 0.0, 0, 0), (-0.0, 0.0, 0, 0), (3, 0.0, 1, 0), (-3, 4, -0.6, 0.8), (inf, 1, 1, 0), (1, inf, 0, 1),
            (-inf, 1, -1, 0), (1, -inf, 0, -1), (nan, 1, nan, nan), (big, big, 0.5**0.5, 0.5**0.5),
            (small, small, 0.5**0.5, 0.5**0.5), (0.0, 1, 0, 1), (inf, nan, 1, 0),
            (nan, -inf, 0, -1), (inf, -inf, 0.5, -0.5),
        ],
        # at equal infinities a half for each, as at every other tie; torch: NaN
        "logaddexp": [
            (0.0, 0.0, 0.5, 0.5), (0.0, -0.0, 0.5, 0.5), (inf, inf, 0.5, 0.5), (-inf, -inf, 0.5, 0.5), (inf, 0.0, 1, 0),
            (0.0, inf, 0, 1), (0.0, -inf, 1, 0), (-inf, 0.0, 0, 1), (-inf, inf, 0, 1), (inf, -inf, 1, 0),
            (nan, 0.0, nan, nan), (0.0, nan, nan, nan), (big, -big, 1, 0), (big, big, 0.5, 0.5),
        ],
        # x - y floor(x / y), so -floor of the true quotient along y: one less than of the rounded one for 1 and 0.1
        "remainder": [
            (1, 0.1, 1, -9), (-1, 0.1, 1, 10), (1, -0.1, 1, 10), (-1, -0.1, 1, -9), (1, 0.5, 1, -2),
            (-1, 0.5, 1, 2), (6, 3, 1, -2), (-6, 3, 1, 2), (5, 3, 1, -1), (-5, 3, 1, 2), (5, -3, 1, 2),
            (-5, -3, 1, -1), (0.0, 1, 1, 0), (1, inf, 1, 0), (-1, inf, 1, 1), (inf, 1, 1, nan),
            (0.0, 0.0, 1, nan), (1e6, 3, 1, -333333),
        ],
        "floor_divide": [
            (1, 0.0, 0, 0), (0.0, 0.0, 0, 0), (-1, 0.0, 0, 0), (1, 0.1, 0, 0), (6, 3, 0, 0), (inf, 1, 0, 0),
            (1, inf, 0, 0), (nan, 1, 0, 0), (1, -0.0, 0, 0),
        ],
        # as abs: 0 at zero
        "copysign": [
            (0.0, 1, 0, 0), (0.0, -1, 0, 0), (-0.0, 1, 0, 0), (2, -0.0, -1, 0), (-2, 0.0, -1, 0), (inf, -1, -1, 0),
            (-small, 1, -1, 0),
        ],
        "leaky_relu": [
            (0.0, 0.5, 0.5, 0), (-0.0, 0.5, 0.5, 0), (inf, 0.5, 1, 0), (-inf, 0.5, 0.5, -inf), (1, 0.5, 1, 0),
            (-2, 0.5, 0.5, -2),
        ],
        "where": (lambda x, y: kt.where(x > y, x, y), [(1, 1, 0, 1), (inf, 1, 1, 0), (1, nan, 0, 1)]),
        "smooth_l1_loss": (lambda x, y: F.smooth_l1_loss(x, y, reduction="none"), [
            (0.0, 0.0, 0, 0), (1, 0.0, 1, -1), (0.5, 0.0, 0.5, -0.5), (inf, 0.0, 1, -1), (0.0, inf, -1, 1),
            (big, 0.0, 1, -1),
        ]),
        "l1_loss": (lambda x, y: F.l1_loss(x, y, reduction="none"), [
            (1, 1, 0, 0), (inf, 0.0, 1, -1), (-inf, 0.0, -1, 1),
        ]),
        "mse_loss": (lambda x, y: F.mse_loss(x, y, reduction="none"), [(1, 1, 0, 0), (inf, 0.0, inf, -inf)]),
        # sigmoid(logits) - target, and -logits
        "binary_cross_entropy_with_logits": (
            lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
            [(0.0, 0.25, 0.25, 0), (-0.0, 1, -0.5, 0), (0.0, 0.0, 0.5, 0), (100, 0.5, 0.5, -100),
             (-100, 0.5, -0.5, 100)],
        ),
    }  # fmt: skip
    return {k: v if isinstance(v, tuple) else (getattr(kt, k), v) for k, v in table.items()}


def weighted(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The sum of f's results times 1, 2, 3, ..., so that each leaves its trace in the gradient."""

    def total(x: Any) -> Any:
        y = f(x)
        return (y * kt.arange(1, y.shape[0] + 1, device=y.device).astype(y.dtype)).sum()

    return total


def pooled(x: Any) -> Any:
    return F.max_pool1d(x.reshape(1, 1, -1), x.shape[0]).sum()


def twice_first(x: Any) -> Any:
    return x.at[kt.tensor([0, 0], device=x.device)]


def bce(x: Any, target: float) -> Any:
    return F.binary_cross_entropy_with_logits(x, x.freeze() * 0.0 + target, reduction="none")


# name, a scalar function of a vector, the vector, its gradient
SLOPES_OF_MANY: list[tuple[str, Callable[[Any], Any], list[float], list[float]]] = [
    ("sum", kt.sum, [inf, 1, nan], [1, 1, 1]),
    ("mean", kt.mean, [inf, 1], [0.5, 0.5]),
    ("max", kt.max, [1, 1, 0], [0.5, 0.5, 0]),
    ("max, infinite", kt.max, [inf, inf, 0], [0.5, 0.5, 0]),
    ("max, all -inf", kt.max, [-inf, -inf], [0.5, 0.5]),
    ("max, NaN wins", kt.max, [nan, 1, nan], [0.5, 0, 0.5]),  # torch: NaN everywhere
    ("max, zeros of both signs", kt.max, [0.0, -0.0, -1], [0.5, 0.5, 0]),
    ("min", kt.min, [1, 1, 2], [0.5, 0.5, 0]),
    ("min, NaN wins", kt.min, [nan, -inf], [1, 0]),
    ("prod, one zero", kt.prod, [0, 2, 3], [6, 0, 0]),
    ("prod, two zeros", kt.prod, [0, 0, 3], [0, 0, 0]),
    ("prod, -0.0", kt.prod, [-0.0, 2], [2, 0]),
    ("var", kt.var, [1, 1, 1], [0, 0, 0]),
    ("std", kt.std, [1, 1, 1], [0, 0, 0]),
    ("std of zeros", kt.std, [0, 0], [0, 0]),
    ("std, corrected", lambda x: kt.std(x, correction=1), [0.1] * 7, [0] * 7),
    ("std of one, corrected", lambda x: kt.std(x, correction=1), [3.0], [nan]),
    ("std of two", kt.std, [1, -1], [0.5, -0.5]),
    ("logsumexp", kt.logsumexp, [0, 0], [0.5, 0.5]),
    ("logsumexp, -inf", kt.logsumexp, [-inf, 0], [0, 1]),
    # as maximum has it; torch: NaN
    ("logsumexp, all -inf", kt.logsumexp, [-inf, -inf], [0.5, 0.5]),
    ("logsumexp, inf", kt.logsumexp, [inf, 0], [1, 0]),
    ("logsumexp, two inf", kt.logsumexp, [inf, inf, -inf], [0.5, 0.5, 0]),
    ("logsumexp, NaN", kt.logsumexp, [nan, 0], [nan, nan]),
    ("softmax", lambda x: kt.softmax(x)[0], [0, 0], [0.25, -0.25]),
    ("softmax, -inf", lambda x: kt.softmax(x)[0], [0, -inf], [0, 0]),
    ("log_softmax", lambda x: kt.log_softmax(x)[0], [0, 0], [0.5, -0.5]),
    ("log_softmax, -inf", lambda x: kt.log_softmax(x)[1], [0, -inf], [-1, 1]),
    ("cross_entropy, -inf", lambda x: F.cross_entropy(x.reshape(1, 3), kt.tensor([0], device=x.device)),
     [0, 0, -inf], [-0.5, 0.5, 0]),
    ("cumulative_sum", weighted(lambda x: kt.cumulative_sum(x)), [inf, 0, 1], [6, 5, 3]),
    ("cumulative_prod, one zero", weighted(lambda x: kt.cumulative_prod(x)), [0, 2, 3], [23, 0, 0]),
    ("cumulative_prod, two zeros", weighted(lambda x: kt.cumulative_prod(x)), [2, 0, 0], [1, 4, 0]),
    ("cumulative_max, the last of equals", weighted(kt.cumulative_max), [1, 1, 0, 2, 2], [1, 5, 0, 4, 5]),
    ("cumulative_max, NaN stays", weighted(kt.cumulative_max), [1, nan, 2], [1, 5, 0]),
    ("cumulative_min, the last of equals", weighted(kt.cumulative_min), [1, 1, 2], [1, 5, 0]),
    ("diff", weighted(kt.diff), [inf, 1, nan], [-1, -1, 2]),
    ("sort, equals keep their order", weighted(kt.sort), [1, 1, 0, nan], [2, 3, 1, 4]),
    ("sort, descending", weighted(lambda x: kt.sort(x, descending=True)), [1, 1, 2], [2, 3, 1]),
    ("topk", weighted(lambda x: kt.topk(x, 2).values), [1, 1, 1], [1, 2, 0]),
    ("max_pool1d, the first of equals", pooled, [0, 2, 2, 1], [0, 1, 0, 0]),
    ("max_pool1d, all -inf", pooled, [-inf, -inf], [1, 0]),
    ("max_pool1d, NaN wins", pooled, [1, nan, inf], [0, 1, 0]),
    ("scatter, maxima", lambda x: twice_first(x).max(x[1:] * 2.0).sum(), [2, 1, 1], [1 / 3, 1 + 2 / 3, 1 + 2 / 3]),
    ("scatter, products", lambda x: twice_first(x).multiply(x[1:]).sum(), [0, 0, 5], [0, 1, 1]),
    ("layer_norm of equals", weighted(lambda x: F.layer_norm(x, 3, eps=0.01)), [2, 2, 2], [-10, 0, 10]),
    ("rms_norm of zeros", weighted(lambda x: F.rms_norm(x, 2, eps=1e-4)), [0, 0], [100, 200]),
]  # fmt: skip
# Where slopes are infinite. What does not count gets nothing, though an infinite slope stands behind it. Forward, a
# tangent of 0 meets that slope, and is NaN: so it must be, since in sqrt(x) * sqrt(x) at 0 their product is a half.
BACKWARD_ONLY: list[tuple[str, Callable[[Any], Any], list[float], list[float]]] = [
    ("prod, infinite", kt.prod, [inf, 2], [2, inf]),  # torch: NaN for the 2
    ("max, then sqrt", lambda x: kt.sqrt(kt.max(x)), [0, -1, 0], [inf, 0, inf]),
    ("maximum, then sqrt", lambda x: kt.sqrt(kt.maximum(x, 0.0)).sum(), [-1, 0, 4], [0, inf, 0.25]),
    ("relu, then sqrt", lambda x: kt.sqrt(kt.relu(x)).sum(), [-1, 4], [0, 0.25]),
    ("clip, then log", lambda x: kt.log(kt.clip(x, 0.0, 9.0)).sum(), [-1, 4], [0, 0.25]),
    ("cumulative_max, then sqrt", lambda x: kt.sqrt(kt.cumulative_max(x)).sum(), [0, -1], [inf, 0]),
    ("scatter, then sqrt", lambda x: kt.sqrt(x[:1].at[0].max(x[1])).sum(), [0, -1], [inf, 0]),
]  # fmt: skip


def backward(f: Callable[[Any], Any], x: Any) -> Any:
    try:
        y, pull = kt.vjp(f, x)
    except GradientError:  # a constant: the slope of what is made of straight lines
        return kt.zeros(x.shape, dtype=x.dtype, device=x.device)
    return pull(kt.ones(y.shape, dtype=y.dtype, device=y.device))


def forward(f: Callable[[Any], Any], x: Any) -> Any:
    return kt.jvp(f, (x,), (kt.ones(x.shape, dtype=x.dtype, device=x.device),))[1]


MODES = {"backward": backward, "forward": forward}


def agrees(got: Any, want: Any, kind: Any, said: str, around: float = 0.0) -> None:
    """To within rounding of each slope, or of slopes of the size `around`, where such cancel."""
    with np.errstate(all="ignore"):
        exact = np.asarray(want, np.float64).astype(kind)
    np.testing.assert_allclose(got.numpy(), exact, rtol=TOLERANCE[kind], atol=TOLERANCE[kind] * around, err_msg=said)


def table_of(slopes: Any, kind: Any) -> Any:
    info = np.finfo(kind)
    return slopes(1e30 if kind is np.float32 else 1e200, float(info.smallest_normal) * 16)


@contextmanager
def form(name: str) -> Iterator[Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """A way to run a function: plain, one operation at a time, compiled."""
    if name == "eager":
        with kt.eager():
            yield lambda f: f
    else:
        yield kt.compile if name == "compiled" else lambda f: f


@quiet
@both
@forms
@pytest.mark.parametrize("name", slopes_of_one(1.0, 1.0))
def test_slopes_of_functions_of_one(name: str, how: str, kind: Any, device: str) -> None:
    f, points = table_of(slopes_of_one, kind)[name]
    x, want = (np.array(row) for row in zip(*points, strict=True))
    for mode, slope in MODES.items():
        with form(how) as run:
            got = run(lambda x, slope=slope: slope(f, x))(kt.tensor(x.astype(kind), device=device))
        agrees(got, want, kind, f"{mode} of {name} at {x.tolist()}")


@quiet
@both
@forms
@pytest.mark.parametrize("name", slopes_of_two(1.0, 1.0))
def test_slopes_of_functions_of_two(name: str, how: str, kind: Any, device: str) -> None:
    f, points = table_of(slopes_of_two, kind)[name]
    x, y, *want = (np.array(row) for row in zip(*points, strict=True))
    a, b = (kt.tensor(v.astype(kind), device=device) for v in (x, y))
    one = kt.ones(a.shape, dtype=a.dtype, device=device)
    with form(how) as run:
        back = run(lambda a, b: kt.vjp(f, a, b)[1](one))(a, b)
        along = (run(lambda a: forward(lambda v: f(v, b), a))(a), run(lambda b: forward(lambda v: f(a, v), b))(b))
    for mode, pair in (("backward", back), ("forward", along)):
        for got, exact, which in zip(pair, want, "xy", strict=True):
            agrees(got, exact, kind, f"{mode} of {name} along {which} at {list(zip(x, y, strict=True))}")


@quiet
@both
@forms
@pytest.mark.parametrize(("name", "f", "x", "want"), SLOPES_OF_MANY, ids=[row[0] for row in SLOPES_OF_MANY])
def test_slopes_of_functions_of_many(
    name: str, f: Any, x: list[float], want: list[float], how: str, kind: Any, device: str
) -> None:
    v = kt.tensor(np.array(x, kind), device=device)
    units = [kt.tensor(row, device=device) for row in np.eye(len(x), dtype=kind)]
    with form(how) as run:
        back = run(kt.grad(f))(v)
        agrees(back, want, kind, f"backward of {name}", 1.0)
        push = run(lambda v, t: kt.jvp(f, (v,), (t,))[1])
        along = [push(v, t).item() for t in units]
    agrees(kt.tensor(np.array(along, kind)), want, kind, f"forward of {name}", 1.0)


@quiet
@both
@kinds
@pytest.mark.parametrize(("name", "f", "x", "want"), BACKWARD_ONLY, ids=[row[0] for row in BACKWARD_ONLY])
def test_nothing_flows_to_what_does_not_count(
    name: str, f: Any, x: list[float], want: list[float], kind: Any, device: str
) -> None:
    agrees(kt.grad(f)(kt.tensor(np.array(x, kind), device=device)), want, kind, name)


@quiet
@both
@kinds
def test_both_modes_agree(kind: Any, device: str) -> None:
    """At every pair of odd numbers, in a table or not, where there is a value."""
    one, two = table_of(slopes_of_one, kind), table_of(slopes_of_two, kind)
    odd = np.array([0.0, -0.0, 1, -1, 0.1, 0.5, -2, 3, 1e30, -1e30, 1e-30, inf, -inf, nan], kind)
    x = kt.tensor(odd, device=device)
    a, b = (kt.tensor(v.ravel(), device=device) for v in np.meshgrid(odd, odd))
    pairs = [(name, lambda v, f=f: f(v, b), a) for name, (f, _) in two.items()]
    pairs += [(name, lambda v, f=f: f(a, v), b) for name, (f, _) in two.items()]
    for name, f, v in [*((name, f, x) for name, (f, _) in one.items()), *pairs]:
        known = ~np.isnan(f(v).numpy())
        along, back = (kt.tensor(mode(f, v).numpy()[known]) for mode in (forward, backward))
        agrees(along, back.numpy(), kind, name, 1e-20)


# Below the normal numbers. The cpu device counts these as zero in some functions, so it is not among the devices here.
SUBNORMAL: list[tuple[str, Callable[[Any], Any], Callable[[float], float]]] = [
    ("abs", kt.abs, lambda x: 1),
    ("relu", kt.relu, lambda x: 1),
    ("maximum", lambda x: kt.maximum(x, 0.0), lambda x: 1),
    ("minimum", lambda x: kt.minimum(x, 0.0), lambda x: 0),
    ("copysign", lambda x: kt.copysign(x, -1.0), lambda x: -1),
    ("log", kt.log, lambda x: inf),
    ("sqrt", kt.sqrt, lambda x: 0.5 * x**-0.5),
    ("divide", lambda x: x / 4.0, lambda x: 0.25),
    ("power", lambda x: x**0.5, lambda x: 0.5 * x**-0.5),
    ("power of 0", lambda x: x**0.0, lambda x: 0),
    ("hypot", lambda x: kt.hypot(x, 0.0), lambda x: 1),
    ("hypot of equals", lambda x: kt.hypot(x, x), lambda x: 2**0.5),
    ("remainder", lambda x: kt.remainder(5 * x, 2 * x), lambda x: 1),
    ("floor", kt.floor, lambda x: 0),
    ("tanh", kt.tanh, lambda x: 1),
    ("asinh", kt.asinh, lambda x: 1),
    ("atan", kt.atan, lambda x: 1),
    ("gelu", kt.gelu, lambda x: 0.5),
    ("softplus", lambda x: kt.logaddexp(x, 0.0), lambda x: 0.5),
]


@quiet
@both
@kinds
@pytest.mark.parametrize(("name", "f", "slope"), SUBNORMAL, ids=[row[0] for row in SUBNORMAL])
def test_slopes_of_subnormal_numbers(
    name: str, f: Any, slope: Callable[[float], float], kind: Any, device: str
) -> None:
    x = kt.tensor(np.array([1e-39 if kind is np.float32 else 1e-309], kind), device=device)
    for mode in MODES.values():
        got, want = mode(f, x).item(), slope(float(x.item()))
        assert got == pytest.approx(want, rel=1e-4, abs=0)


@both
@pytest.mark.parametrize("order", [1.0, 2.0, 3.0, inf])
def test_the_norm_of_zero_gradients(order: float, device: str) -> None:
    """It has a gradient of its own, 0, where gradients are variables."""
    v = kt.variable([0.0, 0.0], device=device)
    (v * v).sum().backward(create_graph=True)
    norm = katachi.optim.clip_grad_norm_([v], 1.0, order)
    assert norm.item() == 0 and kt.gradients(norm, [v])[v].tolist() == [0, 0]


@pytest.mark.parametrize("f", [kt.floor, kt.ceil, kt.round, kt.trunc, kt.sign, lambda x: kt.floor_divide(x, 2.0)])
def test_steps_have_a_gradient_of_zero(f: Any) -> None:
    """In a leaf's .grad and from grad as well."""
    v = kt.variable([0.5, -1.5])
    f(v).sum().backward()
    assert v.grad.tolist() == [0, 0] and kt.grad(lambda x: f(x).sum())(v.freeze()).tolist() == [0, 0]


# ---- second derivatives ---------------------------------------------------------------------------------------------

ZERO = [(0.0, 0), (-0.0, 0)]
FAR = [(inf, 0), (-inf, 0)]
BELL = [(0.0, (2 / np.pi) ** 0.5), (-0.0, (2 / np.pi) ** 0.5)]
SOFT = [(0.0, 0.25), (-0.0, 0.25), (1.0, 0.19661193324148185), (-1.0, 0.19661193324148185), *FAR]
# name, a smooth function of one number, its second derivative at points
CURVATURES: list[Any] = [
    ("softplus", lambda x: kt.logaddexp(x, 0.0), SOFT),
    ("softplus, mirrored", lambda x: kt.logaddexp(0.0, x), SOFT),
    ("log_sigmoid", lambda x: -kt.logaddexp(0.0, -x), [(x, -c) for x, c in SOFT]),
    ("softplus as logsumexp", lambda x: kt.logsumexp(kt.stack([x, x * 0.0]), axis=0), SOFT[:4]),
    ("softplus as log_softmax", lambda x: -kt.log_softmax(kt.stack([x, x * 0.0]), axis=0)[1], SOFT[:4]),
    ("binary_cross_entropy_with_logits", lambda x: bce(x, 0.3), SOFT[:4]),
    ("binary_cross_entropy_with_logits of 1", lambda x: bce(x, 1.0), SOFT[:4]),
    ("sigmoid", kt.sigmoid, [*ZERO, *FAR]),
    ("tanh", kt.tanh, [*ZERO, *FAR]),
    ("erf", kt.erf, ZERO),
    ("gelu", kt.gelu, [*BELL, (100.0, 0)]),
    ("gelu, tanh", lambda x: kt.gelu(x, "tanh"), [*BELL, (1e25, 0), (-1e25, 0)]),
    ("silu", F.silu, [(0.0, 0.5), (-0.0, 0.5), (1e25, 0), (-1e25, 0)]),
    ("mish", lambda x: x * kt.tanh(kt.logaddexp(x, 0.0)), [(0.0, 0.64), (-0.0, 0.64)]),
    ("x ** 1", lambda x: x**1 * 1.0, [*ZERO, (2.0, 0)]),
    ("x ** 2", lambda x: x**2, [(0.0, 2), (-0.0, 2), (inf, 2)]),
    ("x ** 3", lambda x: x**3, [*ZERO, (-1.0, -6)]),
    ("x ** -2", lambda x: x**-2, [(0.0, inf), (-1.0, 6), *FAR]),
    ("x ** 2.0", lambda x: x**2.0, [(0.0, 2), (-0.0, 2), (-3.0, 2)]),
    ("x ** 3.0", lambda x: x**3.0, [*ZERO, (-1.0, -6)]),
    ("x ** 1.0", lambda x: x**1.0, [*ZERO, (-1.0, 0)]),
    ("x ** 0.0", lambda x: x**0.0, [*ZERO, (-1.0, 0)]),
    ("sqrt", kt.sqrt, [(0.0, -inf), (-0.0, -inf), (1.0, -0.25), (inf, 0)]),
    ("log", kt.log, [(0.0, -inf), (-0.0, -inf), (1.0, -1), (inf, 0)]),
    ("log1p", kt.log1p, [(-1.0, -inf), (0.0, -1), (inf, 0)]),
    ("reciprocal", kt.reciprocal, [(0.0, inf), (-0.0, -inf), (1.0, 2), *FAR]),
    ("atan", kt.atan, [*ZERO, (1.0, -0.5), *FAR]),
    ("asin", kt.asin, [*ZERO, (0.6, 0.6 / 0.8**3)]),
    ("asinh", kt.asinh, [*ZERO, (1.0, -(2**-1.5)), (1e9, -1e-18), (-1e9, 1e-18), *FAR]),
    ("acosh", kt.acosh, [(2.0, -2 / 3**1.5), (inf, 0)]),
    ("atanh", kt.atanh, [*ZERO, (0.5, 1 / 0.75**2)]),
    ("sinh", kt.sinh, ZERO),
    ("cosh", kt.cosh, [(0.0, 1), (-0.0, 1)]),
    ("tan", kt.tan, ZERO),
    ("expm1", kt.expm1, [(0.0, 1), (-inf, 0)]),
    ("hypot with 1", lambda x: kt.hypot(x, 1.0), [(0.0, 1), (-0.0, 1), (1.0, 2**-1.5), *FAR]),
    ("hypot with 0", lambda x: kt.hypot(x, 0.0), [*ZERO, (3.0, 0), *FAR]),
    ("smooth_l1_loss", lambda x: F.smooth_l1_loss(x, x.freeze() * 0.0, beta=2.0, reduction="none"),
     [(0.0, 0.5), (-0.0, 0.5), (1.0, 0.5), (3.0, 0)]),
    # kinks that mathematics has: nothing at the kink itself
    ("abs", kt.abs, [*ZERO, (1.0, 0), *FAR]),
    ("relu", kt.relu, [*ZERO, (1.0, 0), *FAR]),
    ("maximum with 0", lambda x: kt.maximum(x, 0.0), [*ZERO, (1.0, 0), *FAR]),
    ("maximum with itself, squared", lambda x: kt.maximum(x * x, x * x), [(0.0, 2), (3.0, 2)]),
    ("remainder", lambda x: kt.remainder(x, 0.1), [*ZERO, (1.0, 0)]),
    ("floor", lambda x: kt.floor(x), [*ZERO, (1.0, 0), *FAR]),
]  # fmt: skip


@quiet
@both
@kinds
@pytest.mark.parametrize(("name", "f", "points"), CURVATURES, ids=[row[0] for row in CURVATURES])
def test_second_derivatives(name: str, f: Any, points: list[tuple[float, float]], kind: Any, device: str) -> None:
    """The same in both modes over both modes."""
    x, want = (np.array(row) for row in zip(*points, strict=True))
    v = kt.tensor(x.astype(kind), device=device)
    for outer, second in MODES.items():
        for inner, first in MODES.items():
            got = second(lambda x, first=first: first(f, x), v)
            agrees(got, want, kind, f"{outer} over {inner} of {name} at {x.tolist()}")


def hessians(f: Callable[[Any], Any], x: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The Hessian of a scalar function in both modes over both modes."""
    units = [kt.tensor(row, device=x.device) for row in np.eye(x.shape[0], dtype=x.dtype.numpy)]
    slope = {
        "backward": lambda x, t: (kt.grad(f)(x) * t).sum(),
        "forward": lambda x, t: kt.jvp(f, (x,), (t,))[1],
    }
    for inner, along in slope.items():
        rows = [kt.grad(lambda x, t=t, along=along: along(x, t))(x).numpy() for t in units]
        yield f"backward over {inner}", np.stack(rows)
        rows = [[kt.jvp(lambda x, t=t, along=along: along(x, t), (x,), (s,))[1].item() for s in units] for t in units]
        yield f"forward over {inner}", np.array(rows)


A = np.array([[1.0, 2.0], [-3.0, 0.5], [0.25, -1.0]])


def logistic(w: Any) -> Any:
    x, y = (kt.tensor(v.astype(w.dtype.numpy), device=w.device) for v in (A, A[:, 0] > 0))
    return F.binary_cross_entropy_with_logits(x @ w, y)


# name, a scalar function of a vector, the vector, its Hessian
HESSIANS: list[tuple[str, Callable[[Any], Any], list[float], list[list[float]]]] = [
    # a logistic regression that starts at zero: a quarter of the mean of the x x^T
    ("logistic regression", logistic, [0, 0], (A.T @ A / 12).tolist()),
    ("logaddexp at a tie", lambda x: kt.logaddexp(x[0], x[1]), [3, 3], [[0.25, -0.25], [-0.25, 0.25]]),
    ("logaddexp of itself", lambda x: kt.logaddexp(x, x).sum(), [0, 3], [[0, 0], [0, 0]]),
    ("logsumexp at a tie", kt.logsumexp, [1, 1], [[0.25, -0.25], [-0.25, 0.25]]),
    ("hypot", lambda x: kt.hypot(x[0], x[1]), [3, 4], [[16 / 125, -12 / 125], [-12 / 125, 9 / 125]]),
    ("hypot at a tie", lambda x: kt.hypot(x[0], x[1]), [1, 1], [[2**-1.5, -(2**-1.5)], [-(2**-1.5), 2**-1.5]]),
    ("hypot at the origin", lambda x: kt.hypot(x[0], x[1]), [0, 0], [[0, 0], [0, 0]]),
    ("atan2 at a tie", lambda x: kt.atan2(x[0], x[1]), [1, 1], [[-0.5, 0], [0, 0.5]]),
    ("prod with zeros", kt.prod, [0, 0, 3], [[0, 3, 0], [3, 0, 0], [0, 0, 0]]),
    ("cumulative_prod with zeros", lambda x: kt.cumulative_prod(x)[2], [0, 0, 3], [[0, 3, 0], [3, 0, 0], [0, 0, 0]]),
    ("std of equals", kt.std, [1, 1], [[0, 0], [0, 0]]),
    ("std of two", kt.std, [1, -1], [[0, 0], [0, 0]]),
    ("var of equals", kt.var, [1, 1], [[0.5, -0.5], [-0.5, 0.5]]),
    ("pow at 0, 2", lambda x: kt.pow(x[0], x[1]), [0, 2], [[2, 0], [0, 0]]),
    ("pow at 2, 0", lambda x: kt.pow(x[0], x[1]), [2, 0], [[0, 0.5], [0.5, np.log(2) ** 2]]),
    ("squares of the largest", lambda x: kt.max(x * x), [2, 1], [[2, 0], [0, 0]]),
]  # fmt: skip


@both
@kinds
@pytest.mark.parametrize(("name", "f", "x", "want"), HESSIANS, ids=[row[0] for row in HESSIANS])
def test_hessians(name: str, f: Any, x: list[float], want: list[list[float]], kind: Any, device: str) -> None:
    for modes, got in hessians(f, kt.tensor(np.array(x, kind), device=device)):
        np.testing.assert_allclose(got, want, rtol=TOLERANCE[kind], atol=TOLERANCE[kind], err_msg=f"{modes} of {name}")


# ---- nothing is left out --------------------------------------------------------------------------------------------

# Whose derivative is the same whatever the values, or a matter of its own: attention, control flow, matrices.
LINEAR = {
    "variable", "optimization_barrier", "broadcast_in_dim", "reshape", "transpose", "slice", "dynamic_slice", "pad",
    "dynamic_update_slice", "reverse", "gather", "dot_general", "convolution", "attention", "attention_logsumexp",
    "attention_gradient", "reduce_window_gradient", "to_device",
}  # fmt: skip


def primitives_of(f: Callable[..., Any], *xs: float) -> set[str]:
    result = f(*[kt.variable([x] * 4) for x in xs])
    t = current()
    if result._slot < t.base or result._origin is LEAF:  # x itself
        return set()
    return {n.primitive for n in toposort([t.entry.slots()[result._slot - t.base]])}


def test_every_primitive_is_met() -> None:
    met = {"scatter", "concatenate"}
    for f, _ in slopes_of_one(1.0, 1.0).values():
        met |= primitives_of(f, 0.5)
    for f, _ in slopes_of_two(1.0, 1.0).values():
        met |= primitives_of(f, 0.5, 0.5)
    for _, f, x, _ in SLOPES_OF_MANY:
        met |= primitives_of(lambda _, f=f, x=x: f(kt.variable(x)), 0.0)
    assert set(VJP) - LINEAR <= met


def is_variable(f: Callable[..., Any]) -> bool:
    """Whether f of variables, one or two, is a variable: it has a derivative."""
    for n in (1, 2):
        try:
            return kt.is_variable(f(*[kt.variable([0.5, 0.75]) for _ in range(n)]))
        except (TypeError, ValueError, Error):
            continue
    return False


def test_every_function_is_met() -> None:
    told = {*slopes_of_one(1.0, 1.0), *slopes_of_two(1.0, 1.0), *(name.split(",")[0] for name, *_ in SLOPES_OF_MANY)}
    for module in (elementwise, functions, floats, reduce, cumulative):
        for name, f in inspect.getmembers(module, inspect.isfunction):
            if getattr(kt, name, None) is f and is_variable(f):
                assert f.__name__ in told, name

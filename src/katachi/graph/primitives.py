"""The first column of the table: every primitive with its shape and dtype rule.

A rule takes the inputs' Avals and the attributes and returns (shape, dtype), or raises ShapeError or DTypeError saying
what it expected; `tensor/apply.py` puts the operation and its operands in front. Names and meanings are StableHLO's
where it has them. Operands of element-wise primitives have one shape and one dtype: broadcasting and conversion are
nodes of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from katachi.errors import DTypeError, ShapeError
from katachi.graph.dtypes import DType, bool_, int64, uint32
from katachi.graph.node import Aval, Node, aval
from katachi.graph.sizes import Shape, Size, count, fixed, is_one, same, window_count
from katachi.graph.symint import SymInt, as_float

Rule: TypeAlias = Callable[..., tuple[Shape, DType]]
RULES: dict[str, Rule] = {}


def make(primitive: str, *inputs: Node, device: str | None = None, **attrs: Any) -> Node:
    """A checked node. `device` is needed only where there is no input to take it from.

    Raises ShapeError, DTypeError by the primitive's rule.
    """
    shape, dtype = RULES[primitive](*[n.aval for n in inputs], **attrs)
    if primitive == "to_device":
        device = attrs["target"]
    elif inputs:
        device = inputs[0].aval.device
    if primitive == "variable":
        tracked = True
    elif primitive == "stop_gradient" or dtype.kind != "float":
        tracked = False
    else:
        tracked = any(n.aval.tracked for n in inputs)
    return Node(primitive, inputs, attrs, aval(shape, dtype, device or "reference", tracked))


def input_node(kind: Aval, slot: int, scalar: bool = False) -> Node:
    """A value that is handed to the program: the tensor in a trace's `slot`, or its `slot`-th host number."""
    return Node("input", (), {"slot": slot, "scalar": scalar}, kind)


def hole(kind: Aval) -> Node:
    """A place for a value that is not there yet: to be replaced before anything is computed."""
    return Node("input", (), {"slot": -1, "scalar": False}, kind)


def is_hole(n: Node) -> bool:
    return n.primitive == "input" and n.attrs["slot"] < 0


def constant(value: Any, dtype: DType, device: str) -> Node:
    """A number that is part of the program."""
    if value.__class__ is SymInt:
        value = as_float(value) if dtype.is_floating else value
    else:
        value = bool(value) if dtype is bool_ else float(value) if dtype.is_floating else int(value)
    return make("constant", value=value, dtype=dtype, device=device)


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def put(rule: Rule) -> Rule:
        for name in names:
            RULES[name] = rule
        return rule

    return put


FLOAT_UNARY = (
    "exponential", "log", "sqrt", "tanh", "logistic", "erf", "sine", "cosine", "floor", "ceil",
    "round_nearest_even", "tan", "asin", "acos", "sinh", "cosh", "asinh", "acosh", "atanh", "exponential_minus_one",
    "log_plus_one",
)  # fmt: skip
UNARY = (*FLOAT_UNARY, "abs", "negate", "sign", "not")
ARITHMETIC = ("add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "remainder")
BITWISE = ("and", "or", "xor", "shift_left", "shift_right_logical", "shift_right_arithmetic")
BINARY = (*ARITHMETIC, *BITWISE, "atan2")
ELEMENTWISE = (*UNARY, *BINARY, "compare", "select", "convert", "bitcast_convert", "is_finite")
CUMULATIVE = ("cumulative_sum", "cumulative_prod", "cumulative_max", "cumulative_min")
MOVEMENT = ("broadcast_in_dim", "reshape", "transpose", "slice", "pad", "concatenate", "reverse")
REDUCTIONS = ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or")
MARKS = ("stop_gradient", "variable", "to_device")  # identities that only tell what is tracked, and where values are
COMBINES = ("add", "multiply", "maximum", "minimum")  # what a scatter may do beside "set"
DIRECTIONS = ("EQ", "NE", "LT", "LE", "GT", "GE")


@_rule("constant")
def _constant(*, value: Any, dtype: DType) -> tuple[Shape, DType]:
    return (), dtype


@_rule(*FLOAT_UNARY)
def _float_unary(x: Aval) -> tuple[Shape, DType]:
    if x.dtype.kind != "float":
        raise DTypeError(f"needs a floating-point dtype, got {x.dtype.name}; convert with astype")
    return x.shape, x.dtype


@_rule("is_finite")
def _is_finite(x: Aval) -> tuple[Shape, DType]:
    return _float_unary(x)[0], bool_


@_rule("atan2")
def _atan2(y: Aval, x: Aval) -> tuple[Shape, DType]:
    """The angle of the point (x, y)."""
    _alike(y, x)
    return _float_unary(x)


@_rule("bitcast_convert")
def _bitcast_convert(x: Aval, *, dtype: DType) -> tuple[Shape, DType]:
    """The same bits, read as another dtype of the same width."""
    if dtype.kind == "bool" or x.dtype.kind == "bool" or dtype.itemsize != x.dtype.itemsize:
        raise DTypeError(f"{x.dtype.name} has not the bits of a {dtype.name}; both must be numbers of one width")
    return x.shape, dtype


@_rule("abs", "negate", "sign")
def _numeric_unary(x: Aval) -> tuple[Shape, DType]:
    if x.dtype.kind == "bool":
        raise DTypeError("needs a numeric dtype, got bool")
    return x.shape, x.dtype


@_rule("not")
def _not(x: Aval) -> tuple[Shape, DType]:
    if x.dtype.kind == "float":
        raise DTypeError(f"needs bool or integers, got {x.dtype.name}")
    return x.shape, x.dtype


@_rule(*MARKS, "optimization_barrier")
def _mark(x: Aval, *, target: str | None = None) -> tuple[Shape, DType]:
    return x.shape, x.dtype


@_rule("custom_gradient")
def _custom_gradient(y: Aval, *rest: Aval, arguments: int) -> tuple[Shape, DType]:
    """y, with a gradient of the user's making: `rest` is the arguments, a hole where the cotangent goes, and for each
    argument what flows back to it, computed from the hole."""
    return y.shape, y.dtype


def _alike(a: Aval, b: Aval) -> None:
    if len(a.shape) != len(b.shape) or not all(map(same, a.shape, b.shape)):
        raise ShapeError(f"needs operands of one shape, got {a.shape} and {b.shape}")
    if a.dtype is not b.dtype:
        raise DTypeError(f"needs operands of one dtype, got {a.dtype.name} and {b.dtype.name}")


@_rule(*ARITHMETIC)
def _arithmetic(a: Aval, b: Aval) -> tuple[Shape, DType]:
    _alike(a, b)
    if a.dtype.kind == "bool":
        raise DTypeError("needs a numeric dtype, got bool; for bools there are &, | and ^")
    return a.shape, a.dtype


@_rule(*BITWISE)
def _bitwise(a: Aval, b: Aval) -> tuple[Shape, DType]:
    _alike(a, b)
    if a.dtype.kind == "float":
        raise DTypeError(f"needs bool or integers, got {a.dtype.name}")
    return a.shape, a.dtype


@_rule("compare")
def _compare(a: Aval, b: Aval, *, direction: str) -> tuple[Shape, DType]:
    _alike(a, b)
    return a.shape, bool_


@_rule("select")
def _select(which: Aval, yes: Aval, no: Aval) -> tuple[Shape, DType]:
    if which.dtype is not bool_:
        raise DTypeError(f"needs a bool condition, got {which.dtype.name}")
    _alike(yes, no)
    if which.shape != yes.shape:
        raise ShapeError(f"needs operands of one shape, got {which.shape} and {yes.shape}")
    return yes.shape, yes.dtype


@_rule("convert")
def _convert(x: Aval, *, dtype: DType) -> tuple[Shape, DType]:
    return x.shape, dtype


@_rule("broadcast_in_dim")
def _broadcast_in_dim(x: Aval, *, shape: Shape, dims: tuple[int, ...]) -> tuple[Shape, DType]:
    """Axis i of x becomes axis dims[i]; a size of one is repeated."""
    if len(dims) != len(x.shape) or list(dims) != sorted(set(dims)):
        raise ShapeError(f"needs one ascending target axis per axis of {x.shape}, got {dims}")
    if not all(is_one(n) or same(n, shape[d]) for n, d in zip(x.shape, dims, strict=True)):
        raise ShapeError(f"cannot broadcast {x.shape} to {shape}")
    return shape, x.dtype


@_rule("reshape")
def _reshape(x: Aval, *, shape: Shape) -> tuple[Shape, DType]:
    if not same(count(x.shape), count(shape)):
        raise ShapeError(f"cannot reshape {x.shape} ({count(x.shape)} elements) to {shape} ({count(shape)})")
    return shape, x.dtype


@_rule("transpose")
def _transpose(x: Aval, *, permutation: tuple[int, ...]) -> tuple[Shape, DType]:
    if sorted(permutation) != list(range(len(x.shape))):
        raise ShapeError(f"needs each of {len(x.shape)} axes once, got {permutation}")
    return tuple(x.shape[p] for p in permutation), x.dtype


@_rule("slice")
def _slice(x: Aval, *, start: Shape, limit: Shape, stride: Shape) -> tuple[Shape, DType]:
    return tuple((b - a + s - 1) // s for a, b, s in zip(start, limit, stride, strict=True)), x.dtype


@_rule("dynamic_slice")
def _dynamic_slice(x: Aval, *starts: Aval, sizes: Shape) -> tuple[Shape, DType]:
    """The block of `sizes` that begins at `starts`, one integer scalar an axis; the caller keeps it inside."""
    return sizes, x.dtype


@_rule("dynamic_update_slice")
def _dynamic_update_slice(x: Aval, update: Aval, *starts: Aval) -> tuple[Shape, DType]:
    return x.shape, x.dtype


@_rule("pad")
def _pad(x: Aval, value: Aval, *, low: Shape, high: Shape, interior: Shape) -> tuple[Shape, DType]:
    """Edge and interior padding with a scalar; none of the sizes is negative."""
    sizes = zip(x.shape, low, high, interior, strict=True)
    return tuple(lo + hi + n + (0 if same(n, 0) else (n - 1) * i) for n, lo, hi, i in sizes), x.dtype


@_rule("concatenate")
def _concatenate(*xs: Aval, dimension: int) -> tuple[Shape, DType]:
    first = xs[0]
    total: Size = 0
    for x in xs:
        rest = [i for i in range(len(first.shape)) if i != dimension]
        if len(x.shape) != len(first.shape) or not all(same(x.shape[i], first.shape[i]) for i in rest):
            raise ShapeError(f"sizes differ outside axis {dimension}: {first.shape} and {x.shape}")
        total = total + x.shape[dimension]
    return (*first.shape[:dimension], total, *first.shape[dimension + 1 :]), first.dtype


@_rule("reverse")
def _reverse(x: Aval, *, dimensions: tuple[int, ...]) -> tuple[Shape, DType]:
    return x.shape, x.dtype


def _without(shape: Shape, axes: tuple[int, ...]) -> Shape:
    return tuple(n for i, n in enumerate(shape) if i not in axes)


@_rule("reduce_and", "reduce_or")
def _reduce_bits(x: Aval, *, axes: tuple[int, ...]) -> tuple[Shape, DType]:
    if x.dtype.kind == "float":
        raise DTypeError(f"needs bool or integers, got {x.dtype.name}")
    return _without(x.shape, axes), x.dtype


@_rule(*CUMULATIVE)
def _cumulative(x: Aval, *, axis: int) -> tuple[Shape, DType]:
    """Each element combined with all that stand before it along one axis."""
    if x.dtype.kind == "bool":
        raise DTypeError("needs a numeric dtype, got bool")
    return x.shape, x.dtype


@_rule("sort")
def _sort(key: Aval, payload: Aval, *, axis: int, descending: bool) -> tuple[Shape, DType]:
    """The payload in the order that sorts the key along one axis. Equal keys keep their order; NaN counts as larger
    than all. A node has one result, so several payloads are several nodes."""
    if len(key.shape) != len(payload.shape) or not all(map(same, key.shape, payload.shape)):
        raise ShapeError(f"needs operands of one shape, got {key.shape} and {payload.shape}")
    return payload.shape, payload.dtype


@_rule("reduce_sum", "reduce_prod")
def _reduce_sum(x: Aval, *, axes: tuple[int, ...]) -> tuple[Shape, DType]:
    if x.dtype.kind == "bool":
        raise DTypeError("needs a numeric dtype, got bool")
    return _without(x.shape, axes), x.dtype


@_rule("reduce_max", "reduce_min")
def _reduce_extreme(x: Aval, *, axes: tuple[int, ...]) -> tuple[Shape, DType]:
    if x.dtype.kind == "bool":
        raise DTypeError("needs a numeric dtype, got bool")
    for a in axes:
        if same(x.shape[a], 0):
            raise ShapeError(f"axis {a} of {x.shape} is empty, so it has no extreme value")
    return _without(x.shape, axes), x.dtype


@_rule("argmax")
def _argmax(x: Aval, *, axis: int) -> tuple[Shape, DType]:
    """The first index of the largest value (of the first NaN, if any) along one axis."""
    if same(x.shape[axis], 0):
        raise ShapeError(f"axis {axis} of {x.shape} is empty, so it has no largest value")
    return _without(x.shape, (axis,)), int64


@_rule("dot_general")
def _dot_general(a: Aval, b: Aval, *, batch: tuple, contract: tuple) -> tuple[Shape, DType]:
    """Sum of products over `contract` = (axes of a, axes of b), for each index of `batch`. The result's axes: `batch`,
    a's free axes, b's free axes."""
    if a.dtype is not b.dtype or a.dtype.kind == "bool":
        raise DTypeError(f"needs operands of one numeric dtype, got {a.dtype.name} and {b.dtype.name}")
    for what, (left, right) in (("batch", batch), ("contracted", contract)):
        for i, j in zip(left, right, strict=True):
            if not same(a.shape[i], b.shape[j]):
                raise ShapeError(
                    f"{what} sizes differ: axis {i} of {a.shape} is {a.shape[i]}, axis {j} of {b.shape} is {b.shape[j]}"
                )
    head = tuple(a.shape[i] for i in batch[0])
    return head + _without(a.shape, batch[0] + contract[0]) + _without(b.shape, batch[1] + contract[1]), a.dtype


@_rule("convolution")
def _convolution(
    x: Aval, w: Aval, *, strides: Shape, padding: tuple, lhs_dilation: Shape, rhs_dilation: Shape, groups: int
) -> tuple[Shape, DType]:
    """x (N, C, *spatial), w (O, C / groups, *window): cross-correlation. Padding is (low, high) an axis and may be
    negative; `lhs_dilation` puts that many minus one zeros between pixels, `rhs_dilation` between taps."""
    if len(x.shape) < 3 or len(w.shape) != len(x.shape):
        raise ShapeError(
            f"needs input (N, C, *spatial) and weight (O, C, *window) of one rank, got {x.shape}, {w.shape}"
        )
    if x.dtype is not w.dtype or x.dtype.kind != "float":
        raise DTypeError(f"needs one floating-point dtype, got {x.dtype.name} and {w.dtype.name}")
    if not same(x.shape[1], w.shape[1] * groups) or not same(w.shape[0] % groups, 0):
        raise ShapeError(f"{x.shape[1]} channels do not fit weight {w.shape} in {groups} groups")
    spatial = []
    for n, k, s, (low, high), ld, rd in zip(
        map(fixed, x.shape[2:]), map(fixed, w.shape[2:]), strides, padding, lhs_dilation, rhs_dilation, strict=True
    ):
        size = window_count(n if same(n, 0) else (n - 1) * ld + 1, k, s, low, high, rd)
        if size < 1:
            raise ShapeError(f"window {w.shape[2:]} is larger than the padded input {x.shape[2:]}")
        spatial.append(size)
    return (x.shape[0], w.shape[0], *spatial), x.dtype


@_rule("reduce_window")
def _reduce_window(x: Aval, *, window: Shape, strides: Shape, padding: tuple) -> tuple[Shape, DType]:
    """The maximum of each window over the last len(window) axes; padding never wins."""
    lead = len(x.shape) - len(window)
    if x.dtype.kind == "bool":
        raise DTypeError("needs a numeric dtype, got bool")
    if lead < 0:
        raise ShapeError(f"needs at least {len(window)} axes, got {x.shape}")
    sizes = []
    for n, k, s, (low, high) in zip(map(fixed, x.shape[lead:]), window, strides, padding, strict=True):
        size = window_count(n, k, s, low, high)
        if size < 1:
            raise ShapeError(f"window {window} is larger than the padded input {x.shape[lead:]}")
        sizes.append(size)
    return (*x.shape[:lead], *sizes), x.dtype


@_rule("reduce_window_gradient")
def _reduce_window_gradient(x: Aval, g: Aval, *, window: Shape, strides: Shape, padding: tuple) -> tuple[Shape, DType]:
    """g, shaped as reduce_window's result, added where each window's first maximum (its first NaN, if any) stands."""
    return x.shape, x.dtype


@_rule("gather")
def _gather(x: Aval, index: Aval, *, axes: tuple[int, ...], batch: int) -> tuple[Shape, DType]:
    """x at index[..., i] along axes[i]: shape x[:batch] + index[batch:-1] + the rest of x. The first `batch` axes of
    both go in step. Every index lies in 0 <= i < size, else IndexBoundsError when computed."""
    if not index.dtype.is_integer:
        raise DTypeError(f"needs integer indices, got {index.dtype.name}")
    if not all(map(same, x.shape[:batch], index.shape[:batch])):
        raise ShapeError(f"the first {batch} axes of {x.shape} and {index.shape} differ")
    rest = tuple(n for i, n in enumerate(x.shape) if i >= batch and i not in axes)
    return x.shape[:batch] + index.shape[batch:-1] + rest, x.dtype


@_rule("scatter")
def _scatter(
    x: Aval, index: Aval, update: Aval, *, axes: tuple[int, ...], batch: int, combine: str
) -> tuple[Shape, DType]:
    """x with `update` (shaped as gather's result) written where gather would read ("set"), or what `combine` makes of
    both: one of COMBINES. Of several writes to one place the last in row-major order of the indices counts."""
    if combine != "set" and x.dtype.kind == "bool":
        raise DTypeError("needs a numeric dtype, got bool")
    want, _ = _gather(x, index, axes=axes, batch=batch)
    if update.shape != want:
        raise ShapeError(f"needs updates of shape {want}, got {update.shape}")
    return x.shape, x.dtype


@_rule("iota")
def _iota(*, shape: Shape, dtype: DType, dimension: int) -> tuple[Shape, DType]:
    """0, 1, 2, ... along one axis."""
    return shape, dtype


@_rule("rng_bits")
def _rng_bits(seed: Aval, call: Aval, *, shape: Shape) -> tuple[Shape, DType]:
    """Philox 4x32-10: element 4 b + i is word i of the block with counter (b, call), both 64 bits, and key `seed`."""
    return shape, uint32

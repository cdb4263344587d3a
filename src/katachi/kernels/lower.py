"""From a group of nodes to a kernel of the loop language.

Every node is lowered at an *index*: for each of its axes an integer expression in loop variables and computed values. A
movement primitive only changes the index its operand is lowered at, so it costs nothing; an element-wise one lowers its
operands at its own index; a value in memory becomes a load. `LOWERING` is this room's column of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from katachi.graph.attention import FIRST_MASK
from katachi.graph.dtypes import DType, float64, int64
from katachi.graph.node import Node
from katachi.graph.primitives import CUMULATIVE, REDUCTIONS
from katachi.graph.symint import SymInt, always_equal, low_bits
from katachi.kernels.loops import THREAD

# offset, then (variable, coefficient) sorted: variables are loops (0, 1, ...) and values (-1 - instruction)
Index: TypeAlias = tuple[int, tuple[tuple[int, int], ...]]
Indices: TypeAlias = tuple[Index, ...]
ZERO: Index = (0, ())


def combine(*parts: tuple[int, Index]) -> Index:
    """The sum of factor * index."""
    offset, terms = 0, {}
    for factor, (start, rest) in parts:
        offset += factor * start
        for variable, coefficient in rest:
            terms[variable] = terms.get(variable, 0) + factor * coefficient
    return offset, tuple(sorted((v, c) for v, c in terms.items() if c))


def strides(shape: Sequence[int]) -> list[int]:
    """Of a C-contiguous array, in elements."""
    out, step = [0] * len(shape), 1
    for i in range(len(shape) - 1, -1, -1):
        out[i] = step
        step *= shape[i]
    return out


def ones_apart(source: Sequence[int], target: Sequence[int]) -> list[int | None] | None:
    """For each axis of `source` the axis of `target` it becomes (None: it has size one); or None where a reshape does
    more than add and drop axes of size one."""
    kept = [i for i, n in enumerate(target) if n != 1]
    if not always_equal(tuple([n for n in source if n != 1]), tuple([target[i] for i in kept])):
        return None
    it = iter(kept)
    return [None if n == 1 else next(it) for n in source]


# Movement primitives that only rename indices: (node, its index) -> index of the operand


def _broadcast_index(node: Node, at: Indices) -> Indices:
    shape = node.inputs[0].shape
    return tuple(ZERO if n == 1 else at[d] for n, d in zip(shape, node.attrs["dims"], strict=True))


def _transpose_index(node: Node, at: Indices) -> Indices:
    out = [ZERO] * len(at)
    for i, p in enumerate(node.attrs["permutation"]):
        out[p] = at[i]
    return tuple(out)


def _slice_index(node: Node, at: Indices) -> Indices:
    steps = zip(at, node.attrs["start"], node.attrs["stride"], strict=True)
    return tuple((off * s + a, tuple((v, c * s) for v, c in terms)) for (off, terms), a, s in steps)


def _reverse_index(node: Node, at: Indices) -> Indices:
    flip = node.attrs["dimensions"]
    return tuple(
        combine((-1, x), (1, (n - 1, ()))) if i in flip else x
        for i, (x, n) in enumerate(zip(at, node.shape, strict=True))
    )


def _reshape_index(node: Node, at: Indices) -> Indices | None:
    axes = ones_apart(node.inputs[0].shape, node.shape)
    return None if axes is None else tuple(ZERO if a is None else at[a] for a in axes)


INDEX: dict[str, Callable[[Node, Indices], Indices | None]] = {
    "broadcast_in_dim": _broadcast_index,
    "transpose": _transpose_index,
    "slice": _slice_index,
    "reverse": _reverse_index,
    "reshape": _reshape_index,
}


class Lowerer:
    """One group on its way to a kernel. `rows` gives each value in memory its row in the pointer table."""

    def __init__(self, rows: dict[Node, int]) -> None:
        self.rows = rows
        self.extents: list[int] = []
        self.instrs: list[tuple[str, str, tuple[int, ...], Any]] = []  # name, dtype, arguments, extra
        self.memo: dict[tuple[Node, Indices, int | None], int] = {}
        self.known: dict[Any, int] = {}  # equal instructions are one
        self.accumulated: dict[Node, tuple[int, Indices]] = {}  # and the index it was computed at
        self.numbers: list[int] = []
        self.checks: list[tuple[Node, int]] = []  # what each check reports: the node, and its axis
        self.steps: dict[Node, list[int]] = {}  # of values that each thread holds a row of: the steps within, the row's

    def emit(self, name: str, dtype: str, *args: int, extra: Any = None) -> int:
        key = (name, dtype, args, extra)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = len(self.instrs)
            self.instrs.append(key)
        return found

    def number(self, value: int) -> int:
        """A run-time int64; every mention is a slot of its own, so that equal sizes make no difference."""
        self.numbers.append(value)
        return self.emit("number", "int64", extra=len(self.numbers) - 1)

    def slot(self, value: int) -> int:
        self.numbers.append(value)
        return len(self.numbers) - 1

    def index(self, at: Index) -> int:
        return self.emit("index", "int64", extra=at)

    def value(self, node: Node, at: Indices, mask: int | None = None) -> int:
        """The instruction that computes `node` at an index, where `mask` holds."""
        key = (node, at, mask)
        found = self.memo.get(key)
        if found is None:
            found = self.memo[key] = self._value(node, at, mask)
        return found

    def _value(self, node: Node, at: Indices, mask: int | None) -> int:
        if node in self.accumulated:
            value, home = self.accumulated[node]
            assert at == home, f"{node} is known at the loops of its group only"
            return value
        if node in self.rows:
            return self.load(node, node.shape, at, mask)
        return LOWERING[node.primitive](self, node, at, mask)

    def load(self, node: Node, shape: Sequence[int], at: Indices, mask: int | None) -> int:
        place = self.place(node, shape, at)
        return self.emit("load", node.dtype.name, *([] if mask is None else [mask]), extra=(self.rows[node], place))

    def place(self, node: Node, shape: Sequence[int], at: Indices) -> Index:
        """Where an element lies: in an array, or in the row that its thread has."""
        if node not in self.steps:
            return combine(*zip(strides(shape), at, strict=True))
        *steps, row = self.steps[node]
        return combine(*zip(steps, at, strict=True), (row, (0, ((THREAD, 1),))))

    def both(self, a: int | None, b: int) -> int:
        return b if a is None else self.emit("and", "bool", a, b)

    def converted(self, value: int, source: DType, target: DType) -> int:
        return value if source is target else self.emit("convert", target.name, value, extra=source.name)

    def constant(self, value: float, dtype: DType) -> int:
        """Only the commonest numbers are part of the code; the others may come from a size, such as a mean's count."""
        if value.__class__ is not SymInt and (dtype.kind == "bool" or value in (0, 1, -1)):
            return self.emit("constant", dtype.name, extra=value)
        known = ("argument", value, dtype)
        if known not in self.known:
            self.known[known] = self.emit("argument", dtype.name, extra=self.slot(low_bits(dtype.name, value)))
        return self.known[known]


def floor_divide(lo: Lowerer, index: Index, divisor: int) -> Index:
    """index // divisor, with what no vector unit has, the division of integers, done otherwise."""
    if divisor == 1:
        return index
    number = lo.index(index)
    if divisor.__class__ is not SymInt and divisor & (divisor - 1) == 0:
        shift = lo.constant(divisor.bit_length() - 1, int64)
        quotient = lo.emit("shift_right_arithmetic", "int64", number, shift)
    else:  # exact below 2**50: a quotient and a half is never nearer to an integer than a rounding error
        real, half, inverse = (
            lo.emit("convert", "float64", number, extra="int64"),
            lo.emit("constant", "float64", extra=0.5),
            lo.constant(1 / divisor, float64)
            if divisor.__class__ is SymInt
            else lo.emit("constant", "float64", extra=1 / divisor),
        )
        scaled = lo.emit("multiply", "float64", lo.emit("add", "float64", real, half), inverse)
        quotient = lo.emit("convert", "int64", lo.emit("floor", "float64", scaled), extra="float64")
    return 0, ((-1 - quotient, 1),)


LOWERING: dict[str, Callable[[Lowerer, Node, Indices, int | None], int]] = {}


def _rule(*names: str) -> Callable[[Any], Any]:
    def put(f: Any) -> Any:
        for name in names:
            LOWERING[name] = f
        return f

    return put


@_rule(
    "exponential", "log", "sqrt", "tanh", "logistic", "erf", "sine", "cosine", "floor", "abs", "negate", "sign", "not",
    "add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "and", "or", "xor", "shift_right_logical",
    "select", "ceil", "round_nearest_even", "tan", "asin", "acos", "sinh", "cosh", "asinh", "acosh", "atanh", "atan2",
    "exponential_minus_one", "log_plus_one", "remainder", "shift_left", "shift_right_arithmetic",
)  # fmt: skip
def _elementwise(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    return lo.emit(node.primitive, node.dtype.name, *[lo.value(x, at, mask) for x in node.inputs])


@_rule("compare")
def _compare(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    kind = (node.attrs["direction"], node.inputs[0].dtype.name)
    return lo.emit("compare", "bool", *[lo.value(x, at, mask) for x in node.inputs], extra=kind)


@_rule("convert")
def _convert(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    (x,) = node.inputs
    return lo.converted(lo.value(x, at, mask), x.dtype, node.dtype)


@_rule("is_finite", "bitcast_convert")
def _of_another_dtype(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    (x,) = node.inputs
    return lo.emit(node.primitive, node.dtype.name, lo.value(x, at, mask), extra=x.dtype.name)


@_rule("constant")
def _constant(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    return lo.constant(node.attrs["value"], node.dtype)


@_rule("broadcast_in_dim", "transpose", "slice", "reverse")
def _move(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    operand = INDEX[node.primitive](node, at)
    assert operand is not None
    return lo.value(node.inputs[0], operand, mask)


@_rule("reshape")
def _reshape(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    operand = _reshape_index(node, at)
    if operand is not None:
        return lo.value(node.inputs[0], operand, mask)
    (x,) = node.inputs  # fusing put it into memory, where any shape is as good as another
    if x.primitive == "constant":
        return lo.value(x, (), mask)
    return lo.load(x, node.shape, at, mask)


@_rule("pad")
def _pad(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    x, filler = node.inputs
    inside, operand = None, []
    for i, (index, n) in enumerate(zip(at, x.shape, strict=True)):
        shifted = combine((1, index), (1, (-node.attrs["low"][i], ())))
        step = 1 if n == 1 else node.attrs["interior"][i] + 1
        place = floor_divide(lo, shifted, step)
        if step > 1:  # between the elements there is padding
            rest = lo.index(combine((1, shifted), (-step, place)))
            inside = lo.both(inside, lo.emit("compare", "bool", rest, lo.constant(0, int64), extra=("EQ", "int64")))
        if step > 1 or node.attrs["low"][i] or node.attrs["high"][i]:
            inside = lo.both(inside, _within(lo, lo.index(place), n))
        operand.append(ZERO if n == 1 else place)
    if inside is None:
        return lo.value(x, at, mask)
    value = lo.value(x, tuple(operand), inside if mask is None else lo.both(mask, inside))
    return lo.emit("select", node.dtype.name, inside, value, lo.value(filler, (), None))


def _within(lo: Lowerer, index: int, size: int) -> int:
    """0 <= index < size, in one comparison."""
    return lo.emit("compare", "bool", index, lo.number(size), extra=("LT", "uint64"))


def _starts(lo: Lowerer, block: Sequence[int], whole: Sequence[int], starts: Sequence[Node]) -> list[Index]:
    """Where a block begins, moved so that it lies inside."""
    out: list[Index] = []
    for start, size, n in zip(starts, block, whole, strict=True):
        if start.primitive == "constant":
            out.append((min(max(start.attrs["value"], 0), n - size), ()))
            continue
        value = lo.converted(lo.value(start, (), None), start.dtype, int64)
        value = lo.emit("maximum", "int64", value, lo.constant(0, int64))
        value = lo.emit("minimum", "int64", value, lo.number(n - size))
        out.append((0, ((-1 - value, 1),)))
    return out


@_rule("dynamic_slice")
def _dynamic_slice(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    x, *starts = node.inputs
    moved = [combine((1, i), (1, s)) for i, s in zip(at, _starts(lo, node.shape, x.shape, starts), strict=True)]
    return lo.value(x, tuple(ZERO if n == 1 else i for n, i in zip(x.shape, moved, strict=True)), mask)


@_rule("dynamic_update_slice")
def _dynamic_update_slice(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    x, update, *starts = node.inputs
    inside, moved = None, []
    for i, start, n in zip(at, _starts(lo, update.shape, x.shape, starts), update.shape, strict=True):
        place = combine((1, i), (-1, start))
        inside = lo.both(inside, _within(lo, lo.index(place), n))
        moved.append(ZERO if n == 1 else place)
    if inside is None:
        return lo.value(update, at, mask)
    new = lo.value(update, tuple(moved), inside if mask is None else lo.both(mask, inside))
    return lo.emit("select", node.dtype.name, inside, new, lo.value(x, at, mask))


@_rule("concatenate")
def _concatenate(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    axis, begin, out = node.attrs["dimension"], 0, None
    for x in node.inputs:
        shifted = combine((1, at[axis]), (1, (-begin, ())))
        inside = _within(lo, lo.index(shifted), x.shape[axis])
        operand = (*at[:axis], ZERO if x.shape[axis] == 1 else shifted, *at[axis + 1 :])
        value = lo.value(x, operand, inside if mask is None else lo.both(mask, inside))
        out = value if out is None else lo.emit("select", node.dtype.name, inside, value, out)
        begin += x.shape[axis]
    assert out is not None
    return out


@_rule("iota")
def _iota(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    return lo.converted(lo.index(at[node.attrs["dimension"]]), int64, node.dtype)


@_rule("rng_bits")
def _rng_bits(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    words = []
    for x in node.inputs:
        word = lo.value(x, (), None)
        words.append(word if x.dtype.itemsize == 8 else lo.emit("convert", "uint64", word, extra=x.dtype.name))
    flat = lo.index(combine(*zip(strides(node.shape), at, strict=True)))
    return lo.emit("philox", "uint32", flat, *words)


def indexed(
    lo: Lowerer, node: Node, lead: Indices, position: Indices, mask: int | None
) -> tuple[dict[int, Index], int | None]:
    """For each axis that a gather or scatter addresses the index read at `position`, and where all are inside."""
    x, index = node.inputs[:2]
    chosen: dict[int, Index] = {}
    for i, axis in enumerate(node.attrs["axes"]):
        at = (*lead, *position, ZERO if index.shape[-1] == 1 else (i, ()))
        read = lo.value(index, at, mask)
        wide = lo.converted(read, index.dtype, int64)
        report = len(lo.checks)
        lo.checks.append((node, axis))
        extra = (lo.slot(x.shape[axis]), lo.slot(report))
        inside = lo.emit("check", "bool", wide, *([] if mask is None else [mask]), extra=extra)
        chosen[axis] = (0, ((-1 - wide, 1),))
        mask = inside if mask is None else lo.both(mask, inside)
    return chosen, mask


@_rule("gather")
def _gather(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    x, index = node.inputs
    batch = node.attrs["batch"]
    positions = len(index.shape) - 1
    chosen, mask = indexed(lo, node, at[:batch], at[batch:positions], mask)
    rest = iter(at[positions:])
    operand = [*at[:batch], *(chosen[i] if i in chosen else next(rest) for i in range(batch, len(x.shape)))]
    # along an axis of size one there is one place, whatever index was read (and checked)
    return lo.value(x, tuple(ZERO if n == 1 else o for o, n in zip(operand, x.shape, strict=True)), mask)


def one_place(node: Node) -> bool:
    """Whether a scatter has one place a batch row."""
    return len(node.inputs[1].shape) == node.attrs["batch"] + 1


@_rule("scatter")
def _scatter(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    """One place a batch row: every element asks whether it is the one."""
    x, _, update = node.inputs
    batch = node.attrs["batch"]
    chosen, _ = indexed(lo, node, at[:batch], (), mask)
    hit = None
    for axis, place in chosen.items():
        wanted = -1 - place[1][0][0]
        same = lo.emit("compare", "bool", lo.index(at[axis]), wanted, extra=("EQ", "int64"))
        hit = same if hit is None else lo.both(hit, same)
    rest = tuple(a for i, a in enumerate(at) if i >= batch and i not in chosen)
    old, new = lo.value(x, at, mask), lo.value(update, (*at[:batch], *rest), mask)
    if node.attrs["combine"] != "set":
        new = lo.emit(node.attrs["combine"], node.dtype.name, old, new)
    return new if hit is None else lo.emit("select", node.dtype.name, hit, new, old)


@_rule("reduce_window", "reduce_window_gradient", "convolution")
def _windowed(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    from katachi.kernels.windows import WINDOWED

    return WINDOWED[node.primitive](lo, node, at, mask)


def _no_rule(lo: Lowerer, node: Node, at: Indices, mask: int | None) -> int:
    raise AssertionError(f"{node} must begin a group, not stand inside one")


_rule(*REDUCTIONS, "argmax", *CUMULATIVE, "sort")(_no_rule)


def instruction(primitive: str) -> str | None:
    """The one instruction of the loop language that an element of this primitive takes, which a writer must know; None
    where it takes several, or none, or a kernel of its own."""
    return primitive if LOWERING.get(primitive) in (_elementwise, _of_another_dtype) else None


def lowerable(node: Node) -> bool:
    """Whether loop kernels or the matmul template compute this node."""
    if node.primitive in FIRST_MASK:
        from katachi.kernels import attention

        return attention.suits(node)
    if node.primitive == "dot_general":
        from katachi.kernels.matmul import suits

        return suits(node)
    if node.primitive in ("reduce_window", "reduce_window_gradient", "convolution"):
        from katachi.kernels import convolution, windows

        return windows.suits(node) or (node.primitive == "convolution" and convolution.suits(node))
    return node.primitive in LOWERING or node.primitive == "input"

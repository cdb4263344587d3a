"""New tensors, from values or from nothing."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from katachi.devices import memory
from katachi.errors import DTypeError
from katachi.graph import build as b
from katachi.graph.dtypes import DTYPES, DType, as_dtype, float32, int64, uint64
from katachi.graph.node import Node, aval
from katachi.graph.primitives import constant, make
from katachi.tensor import free_sizes
from katachi.tensor.apply import apply
from katachi.tensor.arrays import PLAIN, all_plain, as_array, dtype_of_number, fitting
from katachi.tensor.entry import Op
from katachi.tensor.handle import LEAF, Cell, Handle, handle
from katachi.tensor.modes import check_device
from katachi.tensor.operand import as_shape
from katachi.tensor.signatures import copying, counting, diagonal, filling, repeating, tracking
from katachi.tensor.trace import current
from katachi.tensor.types import _S, Fixed, Shaped, like, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Tracked

MASK = (1 << 64) - 1


@like(copying)
def tensor(x: Any, dtype: Any = None, device: str | None = None) -> Any:
    """A constant with a copy of a number, (nested) list, NumPy array or tensor.

    Python floats become float32, ints int64 (uint64 where one of them needs it); arrays keep their dtype. With `dtype`
    every number goes there directly. Raises DTypeError for anything but numbers and bools, ShapeError for ragged lists,
    OverflowError for a number that the dtype cannot hold.

    >>> import katachi as kt
    >>> kt.tensor([[1.0, 2.0]]).shape, kt.tensor([1, 2]).dtype
    ((1, 2), katachi.int64)
    """
    from katachi.tensor.tensor import Tensor

    with memory.wanted("tensor"):
        array = as_array(x, as_dtype(dtype) if dtype is not None else None)
    where = check_device(device) if device else x._aval.device if isinstance(x, Handle) else current().modes.device
    return handle(Tensor, aval(array.shape, as_dtype(array.dtype), where, False), memory.copy(array))


def leaf(cls: type, x: Any, dtype: Any = None, device: str | None = None, tracked: bool = True) -> Any:
    """State of class `cls` that starts with the value x."""
    start = tensor(x, dtype, device)
    kind = start._aval
    if tracked and not kind.dtype.is_floating:
        raise DTypeError(f"only floating-point values can be variables, got {kind.dtype.name}; convert with astype")
    h = handle(cls, aval(kind.shape, kind.dtype, kind.device, tracked), start._value)
    if tracked:
        h._origin = LEAF
    Cell().adopt(h)
    return h


@like(tracking)
def variable(x: Any, dtype: Any = None, device: str | None = None) -> Any:
    """A variable with a copy of x: gradients of what is computed from it arrive in its `.grad`.

    Raises DTypeError unless it is floating-point.

    >>> import katachi as kt
    >>> v = kt.variable([3.0]); (v * v).sum().backward(); v.grad.tolist()
    [6.0]
    """
    from katachi.tensor.tensor import Tensor

    if dtype is None and all_plain(x) and as_array(x).dtype.kind in "iu":
        dtype = float32
    return leaf(Tensor, x, dtype, device)


def unfreeze(x: Tensor[_S, Fixed], /) -> Tensor[_S, Tracked]:
    """A new variable that starts with this constant's value."""
    return variable(x)


def _fill(number: Node, shape: tuple[int, ...], dtype: DType) -> Node:
    return b.spread(b.convert(number, dtype), shape)


FULL = Op("full", _fill, sizes=free_sizes.created)
FULL_OF_NUMBER = {dtype: Op("full", _fill, scalar=dtype, sizes=free_sizes.created) for dtype in DTYPES}
ZEROS = Op("zeros", lambda shape, dtype, device: b.full(0, shape, dtype, device), sizes=free_sizes.created)
ONES = Op("ones", lambda shape, dtype, device: b.full(1, shape, dtype, device), sizes=free_sizes.created)


def _sizes(shape: Any, more: tuple[int, ...]) -> tuple[int, ...]:
    return as_shape((shape, *more) if more else shape)


@like(filling)
def zeros(shape: Any = (), *more: int, dtype: Any = float32, device: str | None = None) -> Any:
    """Zeros of a shape, given as a tuple or as ints."""
    return apply(ZEROS, (), (_sizes(shape, more), as_dtype(dtype), check_device(device or current().modes.device)))


@like(filling)
def ones(shape: Any = (), *more: int, dtype: Any = float32, device: str | None = None) -> Any:
    """Ones of a shape, given as a tuple or as ints."""
    return apply(ONES, (), (_sizes(shape, more), as_dtype(dtype), check_device(device or current().modes.device)))


@like(repeating)
def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: str | None = None) -> Any:
    """One number everywhere; its dtype follows from the number unless given. Raises OverflowError for a number that
    the dtype cannot hold.

    >>> import katachi as kt
    >>> kt.full((2,), 7).tolist(), kt.full((1,), 0.1, dtype=kt.float64).tolist()
    ([7, 7], [0.1])
    """
    value, sizes = fill_value, as_shape(shape)
    where = current().modes.device if device is None else check_device(device)
    if not isinstance(value, Handle):
        kind = as_dtype(dtype) if dtype is not None else None
        if value.__class__ in PLAIN and where == current().modes.device:
            kind = kind or dtype_of_number(value)
            return apply(FULL_OF_NUMBER[kind], (fitting("full", value, kind),), (sizes, kind))
        value = tensor(value, kind, where)
    elif device is not None:
        value = value.to(device)  # type: ignore[attr-defined]  # a Tensor
    return apply(FULL, (value,), (sizes, value._aval.dtype if dtype is None else as_dtype(dtype)))


@like(filling)
def empty(shape: Any = (), *more: int, dtype: Any = float32, device: str | None = None) -> Any:
    """Zeros of a shape: katachi never shows memory that nobody has written."""
    return apply(ZEROS, (), (_sizes(shape, more), as_dtype(dtype), check_device(device or current().modes.device)))


def empty_like(x: Tensor[_S, Fixed], /, *, dtype: Any = None, device: str | None = None) -> Tensor[_S, Fixed]:
    """Zeros of x's shape, and of its dtype and device unless given."""
    return zeros_like(x, dtype=dtype, device=device)


def asarray(x: Any, /, *, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Any:
    """x itself if it is a tensor of this dtype on this device, else `kt.tensor` of it. Values never change, so no copy
    is told from x, but one of state: `copy=True` makes that. `copy=False` raises ValueError where there has to be one.

    >>> import katachi as kt
    >>> x = kt.ones(2); kt.asarray(x) is x
    True
    """
    dtype = as_dtype(dtype) if dtype is not None else None
    if isinstance(x, Handle) and dtype in (None, x._aval.dtype) and device in (None, x._aval.device):
        return tensor(x) if copy and x._cell is not None else x
    if copy is False:
        raise ValueError(f"asarray: a tensor of {type(x).__name__} is a copy, which copy=False does not allow")
    return tensor(x, dtype, device)


def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Any:
    """A constant with a copy of another library's array. Raises DTypeError for what cannot be read, and
    BufferError for `copy=False`: nothing is shared with what others may write to.

    >>> import katachi as kt, numpy as np
    >>> kt.from_dlpack(np.arange(3)).tolist()
    [0, 1, 2]
    """
    if copy is False:
        raise BufferError(f"from_dlpack: a tensor of {type(x).__name__} is a copy, which copy=False does not allow")
    if not hasattr(x, "__dlpack__"):
        raise DTypeError(f"from_dlpack: cannot read {type(x).__name__}: it has no __dlpack__")
    return tensor(x, device=device)


def zeros_like(x: Tensor[_S, Fixed], /, *, dtype: Any = None, device: str | None = None) -> Tensor[_S, Fixed]:
    """Zeros of x's shape, and of its dtype and device unless given."""
    return zeros(x.shape, dtype=dtype or x.dtype, device=device or x.device)


def ones_like(x: Tensor[_S, Fixed], /, *, dtype: Any = None, device: str | None = None) -> Tensor[_S, Fixed]:
    """Ones of x's shape, and of its dtype and device unless given."""
    return ones(x.shape, dtype=dtype or x.dtype, device=device or x.device)


def full_like(
    x: Tensor[_S, Fixed], /, fill_value: Any, *, dtype: Any = None, device: str | None = None
) -> Tensor[_S, Fixed]:
    """One number everywhere, in x's shape, and in its dtype and on its device unless given."""
    return full(x.shape, fill_value, dtype=dtype or x.dtype, device=device or x.device)


def _eye(rows: int, columns: int, k: int, dtype: DType, device: str) -> Node:
    i, j = (make("iota", shape=(rows, columns), dtype=int64, dimension=d, device=device) for d in (0, 1))
    return b.convert(b.compare(b.shift(i, k), "EQ", j), dtype)


EYE = Op("eye", _eye, sizes=lambda attrs, free, shapes: (*free(attrs[:2]), *attrs[2:]))


@like(diagonal)
def eye(rows: int, columns: int | None = None, *, k: int = 0, dtype: Any = float32, device: str | None = None) -> Any:
    """Ones on diagonal k of a matrix, zeros elsewhere; k counts upwards from the main diagonal.

    >>> import katachi as kt
    >>> kt.eye(2, k=1).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    n, m = as_shape((rows, rows if columns is None else columns))
    if k.__class__ is not int:
        raise DTypeError(f"eye: k is an int, got {k!r}")
    return apply(EYE, (), (n, m, max(min(k, m), -n), as_dtype(dtype), check_device(device or current().modes.device)))


@like(counting)
def arange(start: Any, stop: Any = None, step: Any = 1, *, dtype: Any = None, device: str | None = None) -> Any:
    """Numbers from `start` (0 if only one is given) to below `stop` in steps.

    >>> import katachi as kt
    >>> kt.arange(1, 7, 2).tolist()
    [1, 3, 5]
    """
    start, stop = (0, start) if stop is None else (start, stop)
    if step == 0:
        raise ValueError("arange: the step is 0")
    whole = _ints(start, stop, step)
    if whole is None:
        with memory.wanted("arange"):
            array = np.arange(start, stop, step)
        return tensor(array, float32 if dtype is None else dtype, device)
    numbers = range(*whole)
    ends = (numbers[0], numbers[-1]) if numbers else (0, 0)
    kind = int64 if max(ends) <= int64.bounds[1] else uint64
    for n in ends:
        fitting("arange", n, kind)
    low, by = (np.array(n & MASK, np.uint64) for n in (ends[0], numbers.step))
    with memory.wanted("arange"):  # exact, because int64's wrap around
        array = (np.arange(len(numbers), dtype=np.uint64) * by + low).view(kind.numpy)
    return tensor(array, kind if dtype is None else dtype, device)


def _ints(*values: Any) -> list[int] | None:
    """The values if all of them are ints."""
    try:
        return [operator.index(v) for v in values]
    except TypeError:
        return None


@shape_vars("N")
def linspace(
    start: float,
    stop: float,
    num: Shaped[int, "N"],
    *,
    dtype: Any = float32,
    device: str | None = None,
    endpoint: bool = True,
) -> Tensor[Shaped[tuple[int], "[N]"], Fixed]:
    """`num` numbers at equal distances, both ends included; the last is left out unless `endpoint`.

    >>> import katachi as kt
    >>> kt.linspace(0, 1, 4, endpoint=False).tolist()
    [0.0, 0.25, 0.5, 0.75]
    """
    (n,) = as_shape(num, "num")
    whole = _ints(start, stop)
    if as_dtype(dtype).is_integer and whole:  # exactly, towards zero
        parts = max(n - 1 if endpoint else n, 1)
        steps = [whole[0] * parts + (whole[1] - whole[0]) * i for i in range(n)]
        return tensor([s // parts if s >= 0 else -(-s // parts) for s in steps], dtype, device)
    with memory.wanted("linspace"):
        array = np.linspace(start, stop, n, endpoint=endpoint)
    return tensor(array, dtype, device)


__all__ = [
    "arange", "asarray", "constant", "empty", "empty_like", "eye", "from_dlpack", "full", "full_like", "leaf",
    "linspace", "ones", "ones_like", "tensor", "unfreeze", "variable", "zeros", "zeros_like",
]  # fmt: skip

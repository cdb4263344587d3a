"""Tensor: a value that never changes, and everything a user can ask of it."""

from __future__ import annotations

import sys
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, overload

import numpy as np

from katachi.errors import DTypeError, GradientError, ShapeError
from katachi.graph import build as b
from katachi.graph.dtypes import DType, as_dtype
from katachi.graph.node import Node, aval
from katachi.graph.primitives import make
from katachi.tensor import (
    arrange,
    creation,
    cumulative,
    differentiate,
    elementwise,
    functions,
    indexing,
    linalg,
    movement,
    namespace,
    operators,
    places,
    reduce,
    retained,
)
from katachi.tensor.apply import Result, apply
from katachi.tensor.backward import backward
from katachi.tensor.entry import Op, Write
from katachi.tensor.handle import LEAF, handle
from katachi.tensor.looking import Looked
from katachi.tensor.modes import check_device, placement
from katachi.tensor.signatures import assigning, expecting, pulling
from katachi.tensor.trace import flush, look, note_grad, set_for_all, settle
from katachi.tensor.types import _G, _S, Fixed, G, S, Shaped, Tracked, like, shape_vars

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from katachi.tensor.shape_rules import reverse_shape, turn_shape

__all__ = ["Tensor", "Variable", "is_variable"]


class Tensor(Looked, Generic[S, G]):
    """A value of a shape and a dtype on a device. Made by kt.tensor, kt.variable, kt.zeros and so on, never directly.

    >>> import katachi as kt
    >>> (kt.tensor([1.0, 2.0]) + 1).tolist()
    [2.0, 3.0]
    """

    __slots__ = ()
    __array_ufunc__ = None  # NumPy on the left leaves the operation to us

    if not TYPE_CHECKING:  # Generic's is slower, and wants both parameters

        def __class_getitem__(cls, parameters: Any) -> Any:
            return GenericAlias(cls, parameters)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("tensors are made by kt.tensor(...), kt.variable(...), kt.zeros(...) and the like")

    # ---- what it is
    @property
    def shape(self) -> S:
        return self._aval.shape  # type: ignore[return-value]  # S is what a checker knows of this tuple

    @property
    def dtype(self) -> DType:
        return self._aval.dtype

    @property
    def device(self) -> str:
        return self._aval.device

    @property
    def ndim(self) -> int:
        return len(self._aval.shape)

    @property
    def size(self) -> int:
        n = 1
        for s in self._aval.shape:
            n *= s
        return n

    if TYPE_CHECKING:

        @property
        @shape_vars("*A")
        def T(self: Tensor[Shaped[Any, "A"], _G]) -> Tensor[Shaped[Any, "reverse_shape(A)"], _G]: ...

        @property
        @shape_vars("*A")
        def mT(self: Tensor[Shaped[Any, "A"], _G]) -> Tensor[Shaped[Any, "turn_shape(A)"], _G]: ...

    else:
        T, mT = property(movement.reversed_axes), property(movement.matrix_transpose)

    @property
    def at(self) -> places.At[S, G]:
        """Places to write, giving a new tensor: `x.at[index].set(v)`, and `add`, `multiply`, `max`, `min`; the index is
        any that `x[index]` takes.

        >>> import katachi as kt
        >>> kt.zeros(3).at[1].set(5.0).tolist()
        [0.0, 5.0, 0.0]
        """
        return places.At(self)

    __hash__ = object.__hash__

    # ---- state
    @property
    def grad(
        self: Tensor[_S, Tracked],
    ) -> Tensor[_S, Any] | Any:  # None before the first backward; nobody asks again at every use
        """The gradient that backward() calls have added up, or None: before the first, and after `opt.step()`, which
        takes it. Of what is computed from variables it is there only after `retain_grad()`. Raises GradientError for a
        constant.
        """
        return retained.read(self)

    @grad.setter
    def grad(self: Tensor[_S, Tracked], value: Tensor[_S, Fixed] | None) -> None:
        retained.assign(self, value)

    def retain_grad(self: Tensor[_S, Tracked]) -> None:
        """Have backward() leave a gradient in this tensor's `.grad`, though it is computed and no leaf. Raises
        GradientError for a constant.

        >>> import katachi as kt
        >>> v = kt.variable([1.0, 2.0]); h = v * 3; h.retain_grad(); (h * h).sum().backward(); h.grad.tolist()
        [6.0, 12.0]
        """
        retained.retain(self)

    @like(assigning)
    def set(self, value: Any) -> None:
        """Give a parameter, leaf variable or buffer a new value of the same shape, converted to its dtype.

        Raises GradientError for any other tensor, ShapeError for another shape.

        >>> import katachi as kt
        >>> v = kt.variable([1.0]); v.set([5.0]); v.tolist()
        [5.0]
        """
        set_value(self, value)
        set_for_all()

    @like(pulling)
    def backward(self, gradient: Any = None, *, retain_graph: bool | None = None, create_graph: bool = False) -> None:
        """Add the gradients of this scalar to `.grad` of every variable it was computed from.

        A tensor of another shape needs `gradient`, what to start from. `retain_graph` allows a second pass through the
        same graph; `create_graph` makes the gradients variables. Raises GradientError for a constant, a missing
        gradient, and a second pass that was not allowed.

        >>> import katachi as kt
        >>> v = kt.variable([1.0, 2.0]); (v * v).sum().backward(); v.grad.tolist()
        [2.0, 4.0]
        """
        if gradient is not None and not isinstance(gradient, Tensor):
            gradient = creation.tensor(gradient, dtype=self.dtype, device=self.device)
        if not self._aval.tracked:
            raise GradientError(
                f"backward: needs a variable, but this {self._aval!r} is a constant: nothing it was computed from is "
                "tracked (a parameter, kt.variable(...) or x.unfreeze() is; results under kt.no_grad() are not)"
            )
        backward(self, gradient, retain_graph, create_graph)

    def reset(self) -> None:
        """Forget the gradients of every variable that this value was computed from."""
        for leaf in differentiate.leaves_of(self):
            note_grad(leaf)
            leaf._grad = None

    def to(self, device: Any = None, dtype: Any = None) -> Tensor[S, G]:
        """The value on another device, in another dtype (`x.to(kt.float64)`), or as another tensor has both
        (`x.to(other)`). Computes it if the device differs.

        A variable's gradient does not cross devices: freeze it first. Raises GradientError; DeviceError or DTypeError
        for what is neither a device nor a dtype.
        """
        if isinstance(device, Tensor):
            device, dtype = device.device, device.dtype if dtype is None else dtype
        device, dtype = placement(device, dtype)
        x = self if dtype is None else elementwise.astype(self, dtype)
        if device is None or device == x.device:
            return x
        if x._aval.tracked:
            raise GradientError("to: gradients do not cross devices; x.freeze().to(device) moves the value")
        return handle(Tensor, aval(x.shape, x.dtype, device, False), look(x))

    @like(expecting)
    def expect(self, shape: Any) -> Any:
        """This tensor, after a check of its shape; None matches any size. Raises ShapeError.

        >>> import katachi as kt
        >>> kt.zeros(3, 4).expect((3, 4)).shape
        (3, 4)
        """
        want = tuple(shape)
        if len(want) != self.ndim or any(w is not None and w != n for w, n in zip(want, self.shape, strict=True)):
            raise ShapeError(f"expect: shape {want} was expected, got {self.shape}")
        return self

    def to_device(self, device: str, /, *, stream: None = None) -> Tensor[S, G]:
        """`x.to(device)`, by the Array API's name."""
        return self.to(check_device(device))

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        """The module katachi, which has what the Array API standard asks for. Raises ValueError for a version of the
        standard that it does not know.

        >>> import katachi as kt
        >>> kt.ones(2).__array_namespace__(api_version="2024.12") is kt
        True
        """
        if api_version not in (None, *namespace.KNOWN):
            raise ValueError(f"__array_namespace__: katachi follows {namespace.VERSION}, got {api_version!r}")
        return sys.modules["katachi"]

    # ---- functions that are methods too: one a line, or checkers lose their overloads
    freeze = elementwise.freeze
    unfreeze = creation.unfreeze
    astype = elementwise.astype
    exp = elementwise.exp
    log = elementwise.log
    sqrt = elementwise.sqrt
    tanh = elementwise.tanh
    sin = elementwise.sin
    cos = elementwise.cos
    erf = elementwise.erf
    sigmoid = elementwise.sigmoid
    abs = elementwise.abs
    floor = elementwise.floor
    sign = elementwise.sign
    relu = elementwise.relu
    gelu = elementwise.gelu
    sum = reduce.sum
    mean = reduce.mean
    var = reduce.var
    max = reduce.max
    min = reduce.min
    argmax = reduce.argmax
    any = reduce.any
    all = reduce.all
    softmax = reduce.softmax
    log_softmax = reduce.log_softmax
    reshape = movement.reshape
    flatten = movement.flatten
    permute = movement.permute
    transpose = movement.transpose
    squeeze = movement.squeeze
    expand_dims = movement.expand_dims
    broadcast_to = movement.broadcast_to
    flip = movement.flip
    std = reduce.std
    prod = reduce.prod
    argmin = reduce.argmin
    logsumexp = reduce.logsumexp
    cumsum = cumulative.cumsum
    cumprod = cumulative.cumprod
    sort = cumulative.sort
    argsort = cumulative.argsort
    topk = cumulative.topk
    clip = functions.clip
    square = functions.square
    rsqrt = functions.rsqrt
    reciprocal = functions.reciprocal
    ceil = functions.ceil
    round = functions.round
    trunc = functions.trunc
    isnan = functions.isnan
    isinf = functions.isinf
    isfinite = functions.isfinite
    tril = arrange.tril
    triu = arrange.triu
    roll = arrange.roll
    diagonal = arrange.diagonal
    trace = arrange.trace
    moveaxis = arrange.moveaxis
    swapaxes = arrange.swapaxes
    split = arrange.split
    chunk = arrange.chunk
    unstack = arrange.unstack
    matmul = linalg.matmul

    # ---- operators
    __add__ = elementwise.add
    __sub__ = elementwise.subtract
    __mul__ = elementwise.multiply
    __truediv__ = elementwise.divide
    __pow__ = elementwise.pow
    __matmul__ = linalg.matmul
    __neg__ = elementwise.negative
    __abs__ = elementwise.abs
    __and__ = elementwise.bitwise_and
    __or__ = elementwise.bitwise_or
    __xor__ = elementwise.bitwise_xor
    __invert__ = elementwise.bitwise_invert
    __mod__ = functions.remainder
    __floordiv__ = functions.floor_divide
    __lshift__ = functions.bitwise_left_shift
    __rshift__ = functions.bitwise_right_shift
    __pos__ = functions.positive
    __eq__ = elementwise.equal  # type: ignore[assignment]  # object's gives a bool, an array library's a tensor
    __ne__ = elementwise.not_equal  # type: ignore[assignment]  # object's gives a bool, an array library's a tensor
    __lt__ = elementwise.less
    __le__ = elementwise.less_equal
    __gt__ = elementwise.greater
    __ge__ = elementwise.greater_equal
    __getitem__ = indexing.getitem
    __iter__ = indexing.iterate

    if TYPE_CHECKING:

        def __contains__(self, x: Any) -> bool: ...

    __radd__ = operators.radd
    __rsub__ = operators.rsub
    __rmul__ = operators.rmul
    __rtruediv__ = operators.rtruediv
    __rpow__ = operators.rpow
    __rmatmul__ = operators.rmatmul
    __rand__ = operators.rand
    __ror__ = operators.ror
    __rxor__ = operators.rxor
    __rmod__ = operators.rmod
    __rfloordiv__ = operators.rfloordiv
    __rlshift__ = operators.rlshift
    __rrshift__ = operators.rrshift
    __iadd__ = operators.iadd
    __isub__ = operators.isub
    __imul__ = operators.imul
    __itruediv__ = operators.itruediv
    __ipow__ = operators.ipow
    __imatmul__ = operators.imatmul
    __iand__ = operators.iand
    __ior__ = operators.ior
    __ixor__ = operators.ixor
    __imod__ = operators.imod
    __ifloordiv__ = operators.ifloordiv
    __ilshift__ = operators.ilshift
    __irshift__ = operators.irshift

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError("a tensor's value never changes: x[i] = v is not possible; x.at[i].set(v) gives a new tensor")

    # ---- copies
    def __copy__(self) -> Tensor[S, G]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor[S, G]:
        if self._cell is None:
            return self  # values never change, so one serves for all
        twin: Any = memo.get(id(self._cell))  # what shares state, as a frozen module does, shares it in the copy
        if twin is None:
            new = creation.leaf(type(self), self, device=self.device, tracked=self._aval.tracked)
            memo[id(self._cell)] = new
        else:
            new = handle(type(self), self._aval, twin._value)
            new._origin = LEAF if self._aval.tracked else None
            twin._cell.adopt(new)
        memo[id(self)] = new
        return new

    def __reduce__(self) -> Any:
        state = self._cell is not None
        return _restore, (type(self), np.array(self.numpy()), self.dtype.name, self.device, state, self._aval.tracked)


Result.kind = Tensor


def _restore(cls: type, array: Any, dtype: str, device: str, state: bool, tracked: bool) -> Any:
    if state:
        return creation.leaf(cls, array, as_dtype(dtype), device, tracked)
    return creation.tensor(array, as_dtype(dtype), device)


def _set(old: Node, new: Node) -> tuple[Node, Node]:
    value = make("stop_gradient", b.convert(b.to_device(new, old.device), old.dtype))
    return value, make("variable", value) if old.tracked else value


SET = Op("set", _set)


def set_value(state: Any, value: Any) -> None:
    """What `state.set(value)` does, but that other threads may see it later."""
    if state._cell is None:
        raise GradientError("set: only parameters, leaf variables and buffers change; this is a computed value")
    if not isinstance(value, Tensor):
        value = creation.tensor(value, state.dtype, state.device)
    if value.shape != state.shape:
        raise ShapeError(f"set: needs shape {state.shape}, got {value.shape}")
    cell = state  # if a frozen one shares it with a parameter, that must stay a variable
    if not state._aval.tracked:
        cell = next((h for h in state._cell.live() if h._aval.tracked), state)
    apply(SET, (cell, value), (), (Write(0, 0),), many=True)


if TYPE_CHECKING:
    Variable: TypeAlias = Tensor[S, Tracked]
else:

    class _Variable(type):
        def __instancecheck__(cls, x: object) -> bool:
            return isinstance(x, Tensor) and x._aval.tracked

        def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
            raise TypeError("variables are made by kt.variable(...)")

    class Variable(Tensor, metaclass=_Variable):
        """The type of tensors that are tracked: `isinstance(x, Variable)` tells at run time."""

        __slots__ = ()


@overload
def is_variable(x: Tensor[_S, Fixed]) -> TypeIs[Tensor[_S, Tracked]]: ...
@overload
def is_variable(x: object) -> TypeIs[Tensor[Any, Tracked]]: ...
def is_variable(x: Any) -> bool:
    """Whether x is tracked: a parameter, a variable, or computed from one.

    >>> import katachi as kt
    >>> kt.is_variable(kt.variable([1.0]) * 2), kt.is_variable(kt.ones(1))
    (True, False)
    """
    return isinstance(x, Tensor) and x._aval.tracked


def evaluate(*tensors: Any) -> None:
    """Compute these tensors now, and what else is pending with them: `kt.eval(a, b)`. Without any, all pending work.

    >>> import katachi as kt
    >>> kt.eval(kt.ones(2) + 1)
    """
    if not tensors:
        flush()
    for x in tensors:
        if not isinstance(x, Tensor):
            raise DTypeError(f"eval: needs tensors, got {type(x).__name__}")
        settle(x)

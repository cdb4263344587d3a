"""Module: parameters, buffers and modules found in an object's fields."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from katachi.errors import CheckpointError, ShapeError
from katachi.graph.node import aval
from katachi.tensor.creation import as_array, leaf, tensor
from katachi.tensor.handle import handle
from katachi.tensor.modes import no_grad
from katachi.tensor.tensor import Tensor
from katachi.tensor.trace import settle
from katachi.tensor.types import _S, Fixed, S, Tracked

if TYPE_CHECKING:
    from typing import Self

    from katachi.tensor.types import _L, RegularNestedList

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class Parameter(Tensor[S, Tracked]):
    """State that is trained: a variable whose value an optimiser changes.

    >>> from katachi import nn
    >>> nn.Parameter([1.0, 2.0]).shape
    (2,)
    """

    __slots__ = ()

    if TYPE_CHECKING:

        @overload
        def __new__(cls, data: Tensor[_S, Any], dtype: Any = None, device: str | None = None) -> Parameter[_S]: ...
        @overload
        def __new__(
            cls, data: RegularNestedList[_L, bool | int | float], dtype: Any = None, device: str | None = None
        ) -> Parameter[_L]: ...
        @overload
        def __new__(cls, data: Any, dtype: Any = None, device: str | None = None) -> Parameter[tuple[Any, ...]]: ...

    def __new__(cls, data: Any, dtype: Any = None, device: str | None = None) -> Any:
        return leaf(cls, data, dtype, device)

    def __init__(self, data: Any, dtype: Any = None, device: str | None = None) -> None:
        pass


class Buffer(Tensor[S, Fixed]):
    """State that is not trained, running statistics for example: a constant that `set` changes."""

    __slots__ = ()

    if TYPE_CHECKING:

        @overload
        def __new__(cls, data: Tensor[_S, Any], dtype: Any = None, device: str | None = None) -> Buffer[_S]: ...
        @overload
        def __new__(
            cls, data: RegularNestedList[_L, bool | int | float], dtype: Any = None, device: str | None = None
        ) -> Buffer[_L]: ...
        @overload
        def __new__(cls, data: Any, dtype: Any = None, device: str | None = None) -> Buffer[tuple[Any, ...]]: ...

    def __new__(cls, data: Any, dtype: Any = None, device: str | None = None) -> Any:
        return leaf(cls, data, dtype, device, tracked=False)

    def __init__(self, data: Any, dtype: Any = None, device: str | None = None) -> None:
        pass


class HasForward(Protocol[P, R]):
    """What a module's call is typed by: its own forward."""

    def forward(self, *args: P.args, **kwargs: P.kwargs) -> R: ...


class Module:
    """A part of a model. Assign parameters, buffers, modules, lists and dicts of modules to fields, define `forward`.

    >>> from katachi import nn
    >>> class Twice(nn.Module):
    ...     def __init__(self): self.inner = nn.Linear(3, 3)
    ...     def forward(self, x): return self.inner(self.inner(x))
    >>> [name for name, _ in Twice().named_parameters()]
    ['inner.weight', 'inner.bias']
    """

    training = True

    if TYPE_CHECKING:

        @property
        def __call__(self: HasForward[P, R]) -> Callable[P, R]: ...

    else:

        def __call__(self, *args, **kwargs):
            return self.forward(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        old = vars(self).get(name)
        if isinstance(old, (Parameter, Buffer)) and isinstance(value, Tensor) and not isinstance(value, type(old)):
            kind = type(old).__name__
            raise TypeError(
                f"{type(self).__name__}.{name} is a {kind.lower()}: {name}.set(value) gives it a new value, "
                f"nn.{kind}(value) replaces it"
            )
        object.__setattr__(self, name, value)

    # ---- what it is made of
    def children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of every module in a field, and in lists, tuples and dicts in a field."""
        for name, value in vars(self).items():
            yield from _modules_in(name, value)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all below it."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, cell) of every parameter and buffer, each name once."""
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, (Parameter, Buffer)):
                    yield f"{prefix}.{name}" if prefix else name, value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter), each parameter once."""
        seen: set[int] = set()
        for name, value in self.named_state():
            if isinstance(value, Parameter) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter once."""
        for _, p in self.named_parameters():
            yield p

    # ---- modes
    def train(self, mode: bool = True) -> Self:
        """Training behaviour (dropout drops) here and below; returns the module."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Inference behaviour here and below; returns the module."""
        return self.train(False)

    def freeze(self) -> Any:
        """A module in inference mode that shares this one's state as constants; this one stays trainable."""
        twin = copy.copy(self)
        twin.training = False
        for name, value in vars(self).items():
            vars(twin)[name] = _frozen(value)
        return twin

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters():
            p.grad = None

    def to(self, device: str) -> Self:
        """Move all state to a device, in place; returns the module."""
        from katachi.tensor.modes import check_device

        check_device(device)
        for _, cell in self.named_state():
            settle(cell)
            cell._aval = aval(cell.shape, cell.dtype, device, cell._aval.tracked)
            cell._slot = -1
        return self

    # ---- state
    def state_dict(self) -> dict[str, Tensor]:
        """Constant snapshots of all state, under PyTorch's names."""
        found = dict(self.named_state())
        with no_grad():
            return {name: handle(Tensor, _constant(cell), _value(cell)) for name, cell in found.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give all state new values, tensors or arrays, converted to each dtype. All or nothing.

        Raises CheckpointError that lists every missing, unexpected and misshapen name.
        """
        own = dict(self.named_state())
        wrong = [f"missing: {n}" for n in own if n not in state]
        wrong += [f"unexpected: {n}" for n in state if n not in own]
        arrays = {n: as_array(v) for n, v in state.items() if n in own}
        wrong += [f"{n}: {a.shape} does not fit {own[n].shape}" for n, a in arrays.items() if a.shape != own[n].shape]
        if wrong:
            raise CheckpointError(f"load_state_dict: {len(wrong)} mismatches, nothing loaded\n  " + "\n  ".join(wrong))
        with no_grad():
            values = {n: tensor(a, own[n].dtype, own[n].device) for n, a in arrays.items()}  # all, before any is set
            for name, value in values.items():
                own[name].set(value)

    # ---- looks
    def describe(self) -> str:
        """What stands in the parentheses of this module's line in a repr."""
        return ""

    def __repr__(self) -> str:
        name, own = type(self).__name__, self.describe()
        lines = [f"({child}): {module!r}".replace("\n", "\n  ") for child, module in self.children()]
        return f"{name}({own})" if not lines else "\n  ".join([f"{name}(", *([own] if own else []), *lines]) + "\n)"


def _value(cell: Tensor) -> Any:
    settle(cell)
    assert cell._value is not None
    cell._value.pinned = True
    return cell._value


def _constant(cell: Tensor) -> Any:
    return aval(cell.shape, cell.dtype, cell.device, False)


def _modules_in(name: str, value: Any) -> Iterator[tuple[str, Module]]:
    if isinstance(value, Module):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for i, v in enumerate(value):
            yield from _modules_in(f"{name}.{i}", v)
    elif isinstance(value, dict):
        for k, v in value.items():
            yield from _modules_in(f"{name}.{k}", v)


def _frozen(value: Any) -> Any:
    if isinstance(value, Module):
        return value.freeze()
    if isinstance(value, (list, tuple)):
        return type(value)(_frozen(v) for v in value)
    if isinstance(value, dict):
        return {k: _frozen(v) for k, v in value.items()}
    if isinstance(value, Parameter):
        twin = handle(Buffer, _constant(value), value._value)
        assert value._cell is not None
        settle(value)
        value._cell.adopt(twin)
        return twin
    return value


def check_positive(what: str, **sizes: int) -> None:
    """Raises ShapeError unless every size is a positive int."""
    for name, n in sizes.items():
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ShapeError(f"{what}: {name} must be a positive int, got {n!r}")

"""Module: parameters, buffers and modules found in an object's fields."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypeVar, overload

from katachi.errors import CheckpointError, ShapeError
from katachi.graph.node import aval
from katachi.tensor.arrays import as_array
from katachi.tensor.creation import leaf, tensor
from katachi.tensor.handle import handle
from katachi.tensor.modes import check_device, no_grad
from katachi.tensor.running import locked
from katachi.tensor.tensor import Tensor
from katachi.tensor.trace import Changes, Recording, flush, look, note_module, settle
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

    @property
    def requires_grad(self) -> bool:
        """True: what is not to be trained is frozen, and then is no parameter."""
        return True

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        raise AttributeError(
            "requires_grad cannot be set: to train a part of a model, freeze the rest (model.body = "
            "model.body.freeze()) or give the optimiser only the parameters it shall change"
        )


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


class Mismatch(NamedTuple):
    """Names that a state lacks, and names it has too many, after `load_state_dict(..., strict=False)`."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class HasForward(Protocol[P, R]):
    """What a module's call is typed by: its own forward."""

    def forward(self, *args: P.args, **kwargs: P.kwargs) -> R: ...


class Module:
    """A part of a model. Assign parameters, buffers and modules, or lists and dicts of them, to fields, and define
    `forward`.

    >>> from katachi import nn
    >>> class Twice(nn.Module):
    ...     def __init__(self): self.inner = nn.Linear(3, 3)
    ...     def forward(self, x): return self.inner(self.inner(x))
    >>> [name for name, _ in Twice().named_parameters()]
    ['inner.weight', 'inner.bias']
    """

    training = True
    _fixed = False  # a frozen twin, which stays in inference mode

    if TYPE_CHECKING:

        @property
        def __call__(self: HasForward[P, R]) -> Callable[P, R]: ...

    else:

        def __call__(self, *args, **kwargs):
            if Recording.active:
                note_module(self)
            return self.forward(*args, **kwargs)

        def forward(self, *args, **kwargs):
            raise TypeError(f"{type(self).__name__} cannot be called: it defines no forward(self, ...)")

    def __setattr__(self, name: str, value: Any) -> None:
        old = vars(self).get(name)
        if isinstance(old, (Parameter, Buffer)) and isinstance(value, Tensor) and not isinstance(value, type(old)):
            kind = type(old).__name__
            raise TypeError(
                f"{type(self).__name__}.{name} is a {kind.lower()}: {name}.set(value) gives it a new value, "
                f"nn.{kind}(value) replaces it"
            )
        object.__setattr__(self, name, value)

    def _read_fields(self, named: set[str]) -> set[str] | None:
        """The fields that a compiled function may read whose code names these attributes; None for all, as a layer of
        katachi reads its own."""
        if any(c.__module__.split(".")[0] == "katachi" and c is not Module for c in type(self).__mro__):
            return None
        state = (Module, Parameter, Buffer)
        return {k for k, v in vars(self).items() if k in named or any(True for _ in _find("", v, state))}

    def register_buffer(self, name: str, value: Any) -> None:
        """The field `name` as a Buffer that starts with this value: `self.name = nn.Buffer(value)` in other words."""
        setattr(self, name, None if value is None else Buffer(value))

    # ---- what it is made of
    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of every module in a field, and in lists, tuples and dicts in a field."""
        for name, value in vars(self).items():
            yield from _find(name, value, Module)

    def children(self) -> Iterator[Module]:
        """The modules in its fields, each once."""
        return _once(self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all below it, one that stands in two places under both names."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return _once(self.named_modules())

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, cell) of every parameter and buffer, one that stands in two places under both names."""
        for prefix, module in self.named_modules():
            for field, value in vars(module).items():
                yield from _find(f"{prefix}.{field}" if prefix else field, value, (Parameter, Buffer))

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter), each parameter once."""
        return _first_names(self.named_state(), Parameter)

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter once."""
        return _once(self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """(dotted name, buffer), each buffer once."""
        return _first_names(self.named_state(), Buffer)

    def buffers(self) -> Iterator[Buffer]:
        """Every buffer once."""
        return _once(self.named_buffers())

    def apply(self, function: Callable[[Module], object]) -> Self:
        """Call a function with every module, the inner ones first, to initialise weights for example; returns the
        module."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    # ---- modes
    def train(self, mode: bool = True) -> Self:
        """Training behaviour (dropout drops) here and below, but not in frozen modules; returns the module."""
        for module in self.modules():
            module.training = bool(mode) and not module._fixed
        return self

    def eval(self) -> Self:
        """Inference behaviour here and below; returns the module."""
        return self.train(False)

    def freeze(self) -> Any:
        """A module that shares this one's state as constants, always in inference mode; this one stays trainable."""
        twin = copy.copy(self)
        twin.training, twin._fixed = False, True
        for name, value in vars(self).items():
            vars(twin)[name] = _frozen(value)
        return twin

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters():
            p.grad = None

    def to(self, device: str) -> Self:
        """Move all state, gradients and frozen twins included, to a device, in place; returns the module. Raises
        DeviceError."""
        check_device(device)
        Changes.count += 1
        for _, state in self.named_state():
            settle(state)
            assert state._cell is not None
            for h in state._cell.live():
                h._aval = aval(h._aval.shape, h._aval.dtype, device, h._aval.tracked)
                h._slot = -1
            if state._grad is not None:
                state._grad = state._grad.to(device)
        return self

    # ---- state
    def state_dict(self) -> dict[str, Tensor]:
        """Constant snapshots of all state, under PyTorch's names."""
        found = dict(self.named_state())
        values = locked(lambda: [look(cell) for cell in found.values()])  # of one moment, whatever other threads do
        return {name: handle(Tensor, _constant(cell), v) for (name, cell), v in zip(found.items(), values, strict=True)}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Mismatch:
        """Give all state new values, tensors or arrays, converted to each dtype. All or nothing.

        Raises CheckpointError that lists every missing, unexpected and misshapen name; with strict=False names may be
        missing and unexpected, and are returned.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"load_state_dict: needs values by name, got {type(state).__name__}")
        own = dict(self.named_state())
        odd = Mismatch([n for n in own if n not in state], [n for n in state if n not in own])
        wrong = [f"missing: {n}" for n in odd.missing_keys] + [f"unexpected: {n}" for n in odd.unexpected_keys]
        wrong = wrong if strict else []
        values: dict[str, Tensor] = {}
        for name in [n for n in own if n in state]:  # all are made before any is set
            try:
                array = as_array(state[name])
                if array.shape == own[name].shape:
                    values[name] = tensor(array, own[name].dtype, own[name].device)
                else:
                    wrong.append(f"{name}: {array.shape} does not fit {own[name].shape}")
            except (TypeError, ValueError) as error:
                wrong.append(f"{name}: {error}")
        if wrong:
            raise CheckpointError(f"load_state_dict: {len(wrong)} mismatches, nothing loaded\n  " + "\n  ".join(wrong))
        with no_grad():
            for name, value in values.items():
                own[name].set(value)
        flush()  # other threads see it from here on
        return odd

    # ---- looks
    def describe(self) -> str:
        """What stands in the parentheses of this module's line in a repr."""
        return ""

    def __repr__(self) -> str:
        name, own = type(self).__name__, self.describe()
        lines = [f"({child}): {module!r}".replace("\n", "\n  ") for child, module in self.named_children()]
        return f"{name}({own})" if not lines else "\n  ".join([f"{name}(", *([own] if own else []), *lines]) + "\n)"


def _constant(cell: Tensor) -> Any:
    return aval(cell.shape, cell.dtype, cell.device, False)


def _find(name: str, value: Any, kind: Any) -> Iterator[tuple[str, Any]]:
    """(dotted name, it) of what is of that kind: the value itself, or what lies in a list, tuple or dict."""
    if isinstance(value, kind):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for i, v in enumerate(value):
            yield from _find(f"{name}.{i}", v, kind)
    elif isinstance(value, dict):
        for k, v in value.items():
            yield from _find(f"{name}.{k}", v, kind)


def _first_names(named: Iterable[tuple[str, Any]], kind: Any) -> Iterator[tuple[str, Any]]:
    """Things of that kind, each once, under the first of its names."""
    seen: set[int] = set()
    for name, x in named:
        if isinstance(x, kind) and id(x) not in seen:
            seen.add(id(x))
            yield name, x


def _once(named: Iterable[tuple[str, Any]]) -> Iterator[Any]:
    return (x for _, x in _first_names(named, object))


def _frozen(value: Any) -> Any:
    if isinstance(value, Module):
        return value.freeze()
    if isinstance(value, Parameter):
        return locked(_twin, value)
    if not any(True for _ in _find("", value, (Module, Parameter))):
        return value
    if isinstance(value, tuple):
        parts = map(_frozen, value)
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    twin = copy.copy(value)  # a list or a dict
    for place in range(len(value)) if isinstance(value, list) else value:
        twin[place] = _frozen(value[place])
    return twin


def _twin(parameter: Parameter) -> Any:
    """A constant that always has the parameter's value. With the lock held."""
    settle(parameter)
    twin = handle(Buffer, _constant(parameter), parameter._value)
    assert parameter._cell is not None
    parameter._cell.adopt(twin)
    return twin


def check_positive(what: str, **sizes: int) -> None:
    """Raises ShapeError unless every size is a positive int."""
    for name, n in sizes.items():
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ShapeError(f"{what}: {name} must be a positive int, got {n!r}")

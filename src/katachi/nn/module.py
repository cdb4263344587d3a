"""Module: parameters, buffers and modules found in an object's fields."""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypeVar

from katachi.errors import CheckpointError, DTypeError, ModuleError, ShapeError
from katachi.graph.dtypes import bfloat16, float16, float32, float64
from katachi.graph.halves import HALVES
from katachi.nn.parameter import Buffer, Parameter, Statistic
from katachi.tensor.arrays import as_array
from katachi.tensor.creation import tensor
from katachi.tensor.modes import no_grad, placement
from katachi.tensor.recording import Recording
from katachi.tensor.running import locked
from katachi.tensor.state import frozen, move, snapshot
from katachi.tensor.tensor import Tensor, set_value
from katachi.tensor.trace import flush, note_module, settle

if TYPE_CHECKING:
    from typing import Self

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class Mismatch(NamedTuple):
    """Names that a state lacks, and names it has too many, after `load_state_dict(..., strict=False)`."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"Mismatch(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


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
        """(dotted name, module) of this module and all below it, one that stands in two places under both names.

        Raises ModuleError for two modules of one name, and for a module that contains itself."""
        return _unique(self, _walk(self, prefix, ()), prefix)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return _once(self.named_modules())

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, cell) of every parameter and buffer, one that stands in two places under both names.

        Raises ModuleError for two of one name."""
        return _unique(self, (
            found
            for prefix, module in self.named_modules()
            for field, value in vars(module).items()
            for found in _find(_join(prefix, field), value, (Parameter, Buffer))
        ))  # fmt: skip

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter), each parameter once; those of frozen modules too, as constants."""
        return _first_names(self.named_state(), Parameter)

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter once, those of frozen modules too: `p.requires_grad` tells them apart."""
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
        _check(self)
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
        """A module that shares this one's state as constants, always in inference mode; this one stays trainable.

        Its parameters have the same names and order, and `set` changes them, here and there. For a model of its own
        weights, freeze a copy: `copy.deepcopy(model).freeze()`.

        >>> from katachi import nn
        >>> [(name, p.requires_grad) for name, p in nn.Linear(2, 1).freeze().named_parameters()]
        [('weight', False), ('bias', False)]
        """
        _check(self)
        return _frozen(self, {})

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters():
            p.grad = None

    def to(self, device: Any = None, dtype: Any = None) -> Self:
        """Move all state to a device (`to("reference")`), its floating-point numbers to a dtype (`to(kt.float16)`), or
        both (`to("reference", kt.float32)`); gradients and frozen twins go along. In place; returns the module. The
        running statistics of a module of halves are float32.

        Raises DeviceError or DTypeError for what is neither, DTypeError for a dtype that is not floating-point.

        >>> import katachi as kt
        >>> kt.nn.Linear(2, 1).to(kt.bfloat16).weight.dtype
        katachi.bfloat16
        """
        where, kind = placement(device, dtype)
        if kind is not None and not kind.is_floating:
            raise DTypeError(f"to: modules compute in floating-point dtypes, got {kind.name}")
        states = [state for _, state in self.named_state()]
        for state in states:
            settle(state)
        move([s for s in states if not isinstance(s, Statistic)], where, kind)
        move([s for s in states if isinstance(s, Statistic)], where, float32 if kind in HALVES else kind)
        return self

    def half(self) -> Self:
        """`to(kt.float16)`."""
        return self.to(float16)

    def bfloat16(self) -> Self:
        """`to(kt.bfloat16)`."""
        return self.to(bfloat16)

    def float(self) -> Self:
        """`to(kt.float32)`."""
        return self.to(float32)

    def double(self) -> Self:
        """`to(kt.float64)`."""
        return self.to(float64)

    # ---- state
    def state_dict(self) -> dict[str, Tensor]:
        """Constant snapshots of all state, under PyTorch's names."""
        return locked(lambda: {name: snapshot(cell) for name, cell in self.named_state()})  # of one moment

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
                set_value(own[name], value)
        flush()  # other threads see it from here on
        return odd

    # ---- looks
    def describe(self) -> str:
        """What stands in the parentheses of this module's line in a repr."""
        return ""

    @reprlib.recursive_repr()  # it may show one that contains itself
    def __repr__(self) -> str:
        name, own = type(self).__name__, self.describe()
        lines = [f"({child}): {module!r}".replace("\n", "\n  ") for child, module in self.named_children()]
        return f"{name}({own})" if not lines else "\n  ".join([f"{name}(", *([own] if own else []), *lines]) + "\n)"


def _join(prefix: str, name: object) -> str:
    return f"{prefix}.{name}" if prefix else str(name)


def _walk(module: Module, prefix: str, above: tuple[tuple[str, Module], ...]) -> Iterator[tuple[str, Module]]:
    """(dotted name, module) of a module and all below it; `above` are those it stands in."""
    yield prefix, module
    above = (*above, (prefix, module))
    for name, child in module.named_children():
        where = _join(prefix, name)
        for other, parent in above:
            if parent is child:
                raise ModuleError(
                    f"{type(above[0][1]).__name__}: {where} is {other or 'the module'} itself, which it stands in, so "
                    f"names of state would have no end; let it hold weakref.ref({other or 'module'}) instead"
                )
        yield from _walk(child, where, above)


def _check(module: Module) -> None:
    """Raises ModuleError as `named_modules` does."""
    for _ in module.named_modules():
        pass


def _find(name: str, value: Any, kind: Any, above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(dotted name, it) of what is of that kind: the value itself, or what lies in a list, tuple or dict. `above` are
    the lists and dicts that it lies in."""
    if isinstance(value, kind):
        yield name, value
    elif isinstance(value, (list, tuple, dict)):
        if id(value) in above:
            raise ModuleError(f"the field {name} is a {type(value).__name__} that contains itself")
        above = (*above, id(value))
        for key, v in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _find(f"{name}.{key}", v, kind, above)


def _unique(root: Module, named: Iterable[tuple[str, Any]], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The same; raises ModuleError when two things have one name."""
    seen: dict[str, Any] = {}
    for name, x in named:
        if seen.setdefault(name, x) is not x:
            first = [text for text, value in _places(root, name, prefix, prefix) if value is seen[name]]
            other = [text for text, value in _places(root, name, prefix, prefix) if value is x]
            raise ModuleError(
                f"{type(root).__name__}: {' = '.join(first)} and {' = '.join(other)} would both be named {name!r}; "
                "a state_dict would lose one, so give one another key or field"
            )
        yield name, x


def _places(value: Any, wanted: str, name: str, text: str) -> Iterator[tuple[str, Any]]:
    """(how a program reaches it, it) of everything with the dotted name `wanted`."""
    if name == wanted:
        yield text, value
    elif not name or wanted.startswith(f"{name}."):
        if isinstance(value, Module):
            for field, v in vars(value).items():
                yield from _places(v, wanted, _join(name, field), _join(text, field))
        elif isinstance(value, (list, tuple, dict)):
            for key, v in value.items() if isinstance(value, dict) else enumerate(value):
                yield from _places(v, wanted, f"{name}.{key}", f"{text}[{key!r}]")


def _first_names(named: Iterable[tuple[str, Any]], kind: Any) -> Iterator[tuple[str, Any]]:
    """Things of that kind, each once, under the first of its names."""
    seen: set[int] = set()
    for name, x in named:
        if isinstance(x, kind) and id(x) not in seen:
            seen.add(id(x))
            yield name, x


def _once(named: Iterable[tuple[str, Any]]) -> Iterator[Any]:
    return (x for _, x in _first_names(named, object))


def _frozen(value: Any, known: dict[int, Any]) -> Any:
    """A value with constants in place of parameters. `known` are the new ones by id: what stands in two places does so
    afterwards."""
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, Parameter):
        twin: Any = frozen(value)
    elif isinstance(value, Module):
        twin = known[id(value)] = copy.copy(value)
        vars(twin).update({name: _frozen(v, known) for name, v in vars(value).items()}, training=False, _fixed=True)
    elif not any(True for _ in _find("", value, (Module, Parameter))):
        return value
    elif isinstance(value, tuple):
        parts = [_frozen(v, known) for v in value]
        twin = type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    else:
        twin = copy.copy(value)  # a list or a dict
        for place in range(len(value)) if isinstance(value, list) else value:
            twin[place] = _frozen(value[place], known)
    known[id(value)] = twin
    return twin


def check_positive(what: str, **sizes: int) -> None:
    """Raises ShapeError unless every size is a positive int."""
    for name, n in sizes.items():
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ShapeError(f"{what}: {name} must be a positive int, got {n!r}")

"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

from katachi.nn.module import Module


class ModuleList(Module):
    """A list of modules. A plain list in a field is found as well.

    >>> from katachi import nn
    >>> len(nn.ModuleList([nn.ReLU(), nn.ReLU()]))
    2
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self.extend(modules)

    @property
    def _items(self) -> dict[str, Any]:
        """By field: what is a module, or has a number for its name, for a Sequential may hold functions too."""
        return {name: x for name, x in vars(self).items() if isinstance(x, Module) or name.isdigit()}

    def __iter__(self) -> Iterator[Module]:
        return iter(self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, i: int) -> Module: ...
    @overload
    def __getitem__(self, i: slice) -> Any: ...
    def __getitem__(self, i: Any) -> Any:
        items = list(self)
        if isinstance(i, slice):
            return type(self)(*items[i]) if isinstance(self, Sequential) else type(self)(items[i])
        if not -len(items) <= i < len(items):
            raise IndexError(f"{type(self).__name__} of {len(items)} modules, asked for {i}")
        return items[i]

    def __setitem__(self, i: int, module: Module) -> None:
        size = len(self)
        if not -size <= i < size:
            raise IndexError(f"{type(self).__name__} of {size} modules, asked to replace {i}")
        self._put(list(self._items)[i], module)

    def append(self, module: Module) -> None:
        """One module more, at the end."""
        self._put(str(len(self)), module)

    def extend(self, modules: Iterable[Module]) -> None:
        """Several modules more, at the end."""
        for module in modules:
            self.append(module)

    def _put(self, name: str, module: Any) -> None:
        what = f"{type(self).__name__}: item {name}"
        if isinstance(module, type):
            raise TypeError(f"{what} is the class {module.__name__}; an object is needed: {module.__name__}()")
        if not callable(module):
            raise TypeError(f"{what} is not callable: {type(module).__name__}")
        if hasattr(type(self), name):
            raise ValueError(f"{what} cannot have the name of an attribute that every {type(self).__name__} has")
        setattr(self, name, module)


if TYPE_CHECKING:
    from katachi.nn.chains import Chain
else:
    Chain = ModuleList


class Sequential(Chain):
    """Modules, or functions of one tensor, one after another; or a dict of them, whose keys become their names.

    >>> import katachi as kt
    >>> kt.nn.Sequential(kt.nn.Linear(3, 4), kt.nn.ReLU())(kt.ones((2, 3))).shape
    (2, 4)
    """

    def __init__(self, *modules: Any) -> None:
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self._put(name, module)
        else:
            super().__init__(modules)

    def forward(self, x: Any) -> Any:
        for step in self._items.values():
            x = step(x)
        return x

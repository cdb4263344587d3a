"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from katachi.nn.module import Module


class ModuleList(Module):
    """A list of modules. A plain list in a field is found as well.

    >>> from katachi import nn
    >>> len(nn.ModuleList([nn.ReLU(), nn.ReLU()]))
    2
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        for i, m in enumerate(modules):
            vars(self)[str(i)] = m

    def __iter__(self) -> Iterator[Module]:
        return (m for _, m in self.children())

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __getitem__(self, i: int) -> Module:
        return list(self)[i]

    def append(self, module: Module) -> None:
        vars(self)[str(len(self))] = module


if TYPE_CHECKING:
    from katachi.nn.chains import Chain
else:
    Chain = ModuleList


class Sequential(Chain):
    """Modules one after another.

    >>> import katachi as kt
    >>> kt.nn.Sequential(kt.nn.Linear(3, 4), kt.nn.ReLU())(kt.ones((2, 3))).shape
    (2, 4)
    """

    def __init__(self, *modules: Any) -> None:
        for i, m in enumerate(modules):
            if isinstance(m, type):
                raise TypeError(f"Sequential: item {i} is the class {m.__name__}; an object is needed: {m.__name__}()")
            if not callable(m):
                raise TypeError(f"Sequential: item {i} is not callable: {type(m).__name__}")
        super().__init__(modules)

    def forward(self, x: Any) -> Any:
        for name, step in vars(self).items():
            if name != "training":
                x = step(x)
        return x

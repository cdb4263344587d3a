"""The types of operations that share them, as overloads: `@like(binary)` gives `add` those of `binary`.

A binary operation has two overloads for tensors, so that a variable on either side makes a variable, and others for
numbers and arrays beside a tensor; an array's shape is not known before the run.
"""

from collections.abc import Callable, Iterable
from types import EllipsisType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

import numpy as np

from katachi.tensor.random import Generator
from katachi.tensor.shape_rules import (
    concat_shape,
    cut_shape,
    expand_shape,
    item_shape,
    keep_shape,
    matmul_shape,
    ones_shape,
    permute_shape,
    reduce_shape,
    reshape_shape,
    same_axis,
    squeeze_shape,
    stack_shape,
    without_last,
)  # fmt: skip
from katachi.tensor.tensor import Tensor
from katachi.tensor.types import (
    _G,
    _L,
    _S,
    Array,
    Elements,
    Fixed,
    Int,
    IntTuple,
    Number,
    RegularNestedList,
    Shaped,
    Tracked,
    broadcast,
    shape_vars,
)  # fmt: skip

# ---- element by element

@overload
@shape_vars("*A, *B")
def binary(
    x1: Tensor[Shaped[Any, "A"], Fixed], x2: Tensor[Shaped[Any, "B"], Tracked], /
) -> Tensor[Shaped[Any, "broadcast(A, B)"], Tracked]: ...
@overload
@shape_vars("*A, *B")
def binary(
    x1: Tensor[Shaped[Any, "A"], _G], x2: Tensor[Shaped[Any, "B"], Fixed], /
) -> Tensor[Shaped[Any, "broadcast(A, B)"], _G]: ...
@overload
def binary(x1: Tensor[_S, _G], x2: Number, /) -> Tensor[_S, _G]: ...
@overload
def binary(x1: Tensor[Any, _G], x2: Array, /) -> Tensor[tuple[Any, ...], _G]: ...
@overload
def binary(x1: Number, x2: Tensor[_S, _G], /) -> Tensor[_S, _G]: ...
@overload
def binary(x1: Array, x2: Tensor[Any, _G], /) -> Tensor[tuple[Any, ...], _G]: ...
@overload
def reflected(x: Tensor[_S, _G], other: Number, /) -> Tensor[_S, _G]: ...
@overload
def reflected(x: Tensor[Any, _G], other: Array, /) -> Tensor[tuple[Any, ...], _G]: ...
@overload
@shape_vars("*A, *B")
def comparison(
    x1: Tensor[Shaped[Any, "A"], Fixed], x2: Tensor[Shaped[Any, "B"], Fixed], /
) -> Tensor[Shaped[Any, "broadcast(A, B)"], Fixed]: ...
@overload
def comparison(x1: Tensor[_S, Fixed], x2: Number, /) -> Tensor[_S, Fixed]: ...
@overload
def comparison(x1: Tensor, x2: Array, /) -> Tensor: ...
@overload
def comparison(x1: Number, x2: Tensor[_S, Fixed], /) -> Tensor[_S, Fixed]: ...
@overload
def comparison(x1: Array, x2: Tensor, /) -> Tensor: ...
@overload
@shape_vars("*C, *A, *B")
def choice(
    condition: Tensor[Shaped[Any, "C"], Fixed],
    x1: Tensor[Shaped[Any, "A"], Fixed],
    x2: Tensor[Shaped[Any, "B"], Tracked],
    /,
) -> Tensor[Shaped[Any, "broadcast(C, broadcast(A, B))"], Tracked]: ...
@overload
@shape_vars("*C, *A, *B")
def choice(
    condition: Tensor[Shaped[Any, "C"], Fixed], x1: Tensor[Shaped[Any, "A"], _G], x2: Tensor[Shaped[Any, "B"], Fixed], /
) -> Tensor[Shaped[Any, "broadcast(C, broadcast(A, B))"], _G]: ...
@overload
@shape_vars("*C, *A")
def choice(
    condition: Tensor[Shaped[Any, "C"], Fixed], x1: Tensor[Shaped[Any, "A"], _G], x2: Number, /
) -> Tensor[Shaped[Any, "broadcast(C, A)"], _G]: ...
@overload
@shape_vars("*C, *A")
def choice(
    condition: Tensor[Shaped[Any, "C"], Fixed], x1: Number, x2: Tensor[Shaped[Any, "A"], _G], /
) -> Tensor[Shaped[Any, "broadcast(C, A)"], _G]: ...
@overload
def choice(condition: Tensor[_S, Fixed], x1: Number, x2: Number, /) -> Tensor[_S, Fixed]: ...
@overload
def searching(
    x1: Tensor[Any, Fixed], x2: Tensor[_S, Fixed], /, *, side: str = "left", sorter: Tensor | None = None
) -> Tensor[_S, Fixed]: ...
@overload
def searching(
    x1: Tensor[Any, Fixed], x2: Number, /, *, side: str = "left", sorter: Tensor | None = None
) -> Tensor[tuple[()], Fixed]: ...
@overload
def searching(x1: Tensor[Any, Fixed], x2: Array, /, *, side: str = "left", sorter: Tensor | None = None) -> Tensor: ...

# ---- over axes

@overload
def accumulation(
    x: Tensor[Any, _G], /, axis: None = None, *, dtype: Any = None, keepdims: Literal[False] = False
) -> Tensor[tuple[()], _G]: ...
@overload
@shape_vars("*A")
def accumulation(
    x: Tensor[Shaped[Any, "A"], _G], /, axis: None = None, *, dtype: Any = None, keepdims: Literal[True]
) -> Tensor[Shaped[Any, "ones_shape(A)"], _G]: ...
@overload
@shape_vars("*A, D")
def accumulation(
    x: Tensor[Shaped[Any, "A"], _G], /, axis: Shaped[int, "D"], *, dtype: Any = None, keepdims: Literal[False] = False
) -> Tensor[Shaped[Any, "reduce_shape(A, IntTuple[D])"], _G]: ...
@overload
@shape_vars("*A, D")
def accumulation(
    x: Tensor[Shaped[Any, "A"], _G], /, axis: Shaped[int, "D"], *, dtype: Any = None, keepdims: Literal[True]
) -> Tensor[Shaped[Any, "keep_shape(A, IntTuple[D])"], _G]: ...
@overload
@shape_vars("*A, *D")
def accumulation(
    x: Tensor[Shaped[Any, "A"], _G],
    /,
    axis: Shaped[tuple[int, ...], "D"],
    *,
    dtype: Any = None,
    keepdims: Literal[False] = False,
) -> Tensor[Shaped[Any, "reduce_shape(A, D)"], _G]: ...
@overload
@shape_vars("*A, *D")
def accumulation(
    x: Tensor[Shaped[Any, "A"], _G],
    /,
    axis: Shaped[tuple[int, ...], "D"],
    *,
    dtype: Any = None,
    keepdims: Literal[True],
) -> Tensor[Shaped[Any, "keep_shape(A, D)"], _G]: ...
@overload
def accumulation(
    x: Tensor[Any, _G], /, axis: int | Iterable[int] | None = None, *, dtype: Any = None, keepdims: bool = False
) -> Tensor[tuple[Any, ...], _G]: ...
@overload
def reduction(
    x: Tensor[Any, _G], /, axis: None = None, *, keepdims: Literal[False] = False
) -> Tensor[tuple[()], _G]: ...
@overload
@shape_vars("*A")
def reduction(
    x: Tensor[Shaped[Any, "A"], _G], /, axis: None = None, *, keepdims: Literal[True]
) -> Tensor[Shaped[Any, "ones_shape(A)"], _G]: ...
@overload
@shape_vars("*A, D")
def reduction(
    x: Tensor[Shaped[Any, "A"], _G], /, axis: Shaped[int, "D"], *, keepdims: Literal[False] = False
) -> Tensor[Shaped[Any, "reduce_shape(A, IntTuple[D])"], _G]: ...
@overload
@shape_vars("*A, D")
def reduction(
    x: Tensor[Shaped[Any, "A"], _G], /, axis: Shaped[int, "D"], *, keepdims: Literal[True]
) -> Tensor[Shaped[Any, "keep_shape(A, IntTuple[D])"], _G]: ...
@overload
@shape_vars("*A, *D")
def reduction(
    x: Tensor[Shaped[Any, "A"], _G], /, axis: Shaped[tuple[int, ...], "D"], *, keepdims: Literal[False] = False
) -> Tensor[Shaped[Any, "reduce_shape(A, D)"], _G]: ...
@overload
@shape_vars("*A, *D")
def reduction(
    x: Tensor[Shaped[Any, "A"], _G], /, axis: Shaped[tuple[int, ...], "D"], *, keepdims: Literal[True]
) -> Tensor[Shaped[Any, "keep_shape(A, D)"], _G]: ...
@overload
def reduction(
    x: Tensor[Any, _G], /, axis: int | Iterable[int] | None = None, *, keepdims: bool = False
) -> Tensor[tuple[Any, ...], _G]: ...
@overload
def verdict(x: Tensor, /, axis: None = None, *, keepdims: Literal[False] = False) -> Tensor[tuple[()], Fixed]: ...
@overload
@shape_vars("*A")
def verdict(
    x: Tensor[Shaped[Any, "A"], Fixed], /, axis: None = None, *, keepdims: Literal[True]
) -> Tensor[Shaped[Any, "ones_shape(A)"], Fixed]: ...
@overload
@shape_vars("*A, D")
def verdict(
    x: Tensor[Shaped[Any, "A"], Fixed], /, axis: Shaped[int, "D"], *, keepdims: Literal[False] = False
) -> Tensor[Shaped[Any, "reduce_shape(A, IntTuple[D])"], Fixed]: ...
@overload
@shape_vars("*A, D")
def verdict(
    x: Tensor[Shaped[Any, "A"], Fixed], /, axis: Shaped[int, "D"], *, keepdims: Literal[True]
) -> Tensor[Shaped[Any, "keep_shape(A, IntTuple[D])"], Fixed]: ...
@overload
def verdict(x: Tensor, /, axis: Iterable[int] | None, *, keepdims: bool = False) -> Tensor: ...
@overload
def variance(
    x: Tensor[Any, _G], /, axis: None = None, *, correction: float = 0.0, keepdims: Literal[False] = False
) -> Tensor[tuple[()], _G]: ...
@overload
@shape_vars("*A, D")
def variance(
    x: Tensor[Shaped[Any, "A"], _G],
    /,
    axis: Shaped[int, "D"],
    *,
    correction: float = 0.0,
    keepdims: Literal[False] = False,
) -> Tensor[Shaped[Any, "reduce_shape(A, IntTuple[D])"], _G]: ...
@overload
@shape_vars("*A, D")
def variance(
    x: Tensor[Shaped[Any, "A"], _G], /, axis: Shaped[int, "D"], *, correction: float = 0.0, keepdims: Literal[True]
) -> Tensor[Shaped[Any, "keep_shape(A, IntTuple[D])"], _G]: ...
@overload
@shape_vars("*A, *D")
def variance(
    x: Tensor[Shaped[Any, "A"], _G],
    /,
    axis: Shaped[tuple[int, ...], "D"],
    *,
    correction: float = 0.0,
    keepdims: Literal[False] = False,
) -> Tensor[Shaped[Any, "reduce_shape(A, D)"], _G]: ...
@overload
@shape_vars("*A, *D")
def variance(
    x: Tensor[Shaped[Any, "A"], _G],
    /,
    axis: Shaped[tuple[int, ...], "D"],
    *,
    correction: float = 0.0,
    keepdims: Literal[True],
) -> Tensor[Shaped[Any, "keep_shape(A, D)"], _G]: ...
@overload
def variance(
    x: Tensor[Any, _G], /, axis: int | Iterable[int] | None = None, *, correction: float = 0.0, keepdims: bool = False
) -> Tensor[tuple[Any, ...], _G]: ...

# ---- products and places

@overload
@shape_vars("*A, *B")
def product(
    x1: Tensor[Shaped[Any, "A"], Fixed], x2: Tensor[Shaped[Any, "B"], Tracked], /
) -> Tensor[Shaped[Any, "matmul_shape(A, B)"], Tracked]: ...
@overload
@shape_vars("*A, *B")
def product(
    x1: Tensor[Shaped[Any, "A"], _G], x2: Tensor[Shaped[Any, "B"], Fixed], /
) -> Tensor[Shaped[Any, "matmul_shape(A, B)"], _G]: ...
@overload
def product(x1: Tensor[Any, _G], x2: Array, /) -> Tensor[tuple[Any, ...], _G]: ...
@overload
def product(x1: Array, x2: Tensor[Any, _G], /) -> Tensor[tuple[Any, ...], _G]: ...
@overload
@shape_vars("*A, *D")
def reshaping(
    x: Tensor[Shaped[Any, "A"], _G], /, shape: Shaped[tuple[int, ...], "D"], *, copy: bool | None = None
) -> Tensor[Shaped[Any, "reshape_shape(A, D)"], _G]: ...
@overload
@shape_vars("*A, I")
def reshaping(
    x: Tensor[Shaped[Any, "A"], _G], /, shape: Shaped[int, "I"], *, copy: bool | None = None
) -> Tensor[Shaped[Any, "reshape_shape(A, IntTuple[I])"], _G]: ...
@overload
@shape_vars("*A, I, J")
def reshaping(
    x: Tensor[Shaped[Any, "A"], _G], shape: Shaped[int, "I"], j: Shaped[int, "J"], /, *, copy: bool | None = None
) -> Tensor[Shaped[Any, "reshape_shape(A, IntTuple[I, J])"], _G]: ...
@overload
@shape_vars("*A, I, J, K")
def reshaping(
    x: Tensor[Shaped[Any, "A"], _G],
    shape: Shaped[int, "I"],
    j: Shaped[int, "J"],
    k: Shaped[int, "K"],
    /,
    *,
    copy: bool | None = None,
) -> Tensor[Shaped[Any, "reshape_shape(A, IntTuple[I, J, K])"], _G]: ...
@overload
@shape_vars("*A, I, J, K, L")
def reshaping(
    x: Tensor[Shaped[Any, "A"], _G],
    shape: Shaped[int, "I"],
    j: Shaped[int, "J"],
    k: Shaped[int, "K"],
    l: Shaped[int, "L"],
    /,
    *,
    copy: bool | None = None,
) -> Tensor[Shaped[Any, "reshape_shape(A, IntTuple[I, J, K, L])"], _G]: ...
@overload
def reshaping(
    x: Tensor[Any, _G], /, shape: int | Iterable[int], *more: int, copy: bool | None = None
) -> Tensor[tuple[Any, ...], _G]: ...
@overload
@shape_vars("*A, *D")
def permutation(
    x: Tensor[Shaped[Any, "A"], _G], /, axes: Shaped[tuple[int, ...], "D"]
) -> Tensor[Shaped[Any, "permute_shape(A, D)"], _G]: ...
@overload
@shape_vars("*A, I, J")
def permutation(
    x: Tensor[Shaped[Any, "A"], _G], axes: Shaped[int, "I"], j: Shaped[int, "J"], /
) -> Tensor[Shaped[Any, "permute_shape(A, IntTuple[I, J])"], _G]: ...
@overload
@shape_vars("*A, I, J, K")
def permutation(
    x: Tensor[Shaped[Any, "A"], _G], axes: Shaped[int, "I"], j: Shaped[int, "J"], k: Shaped[int, "K"], /
) -> Tensor[Shaped[Any, "permute_shape(A, IntTuple[I, J, K])"], _G]: ...
@overload
@shape_vars("*A, I, J, K, L")
def permutation(
    x: Tensor[Shaped[Any, "A"], _G],
    axes: Shaped[int, "I"],
    j: Shaped[int, "J"],
    k: Shaped[int, "K"],
    l: Shaped[int, "L"],
    /,
) -> Tensor[Shaped[Any, "permute_shape(A, IntTuple[I, J, K, L])"], _G]: ...
@overload
def permutation(x: Tensor[Any, _G], /, axes: int | Iterable[int], *more: int) -> Tensor[tuple[Any, ...], _G]: ...
@overload
@shape_vars("*A, D")
def squeezing(
    x: Tensor[Shaped[Any, "A"], _G], /, axis: Shaped[int, "D"]
) -> Tensor[Shaped[Any, "squeeze_shape(A, Int[D])"], _G]: ...
@overload
def squeezing(x: Tensor[Any, _G], /, axis: Iterable[int] | None = None) -> Tensor[tuple[Any, ...], _G]: ...
@overload
@shape_vars("*A, *B, D")
def joining(
    xs: tuple[Tensor[Shaped[Any, "A"], Fixed], Tensor[Shaped[Any, "B"], Tracked]], /, axis: Shaped[int, "D"] = 0
) -> Tensor[Shaped[Any, "concat_shape(A, B, Int[D])"], Tracked]: ...
@overload
@shape_vars("*A, *B, D")
def joining(
    xs: tuple[Tensor[Shaped[Any, "A"], _G], Tensor[Shaped[Any, "B"], Fixed]], /, axis: Shaped[int, "D"] = 0
) -> Tensor[Shaped[Any, "concat_shape(A, B, Int[D])"], _G]: ...
@overload
@shape_vars("*A, *B, *C, D")
def joining(
    xs: tuple[Tensor[Shaped[Any, "A"], Fixed], Tensor[Shaped[Any, "B"], Fixed], Tensor[Shaped[Any, "C"], Tracked]],
    /,
    axis: Shaped[int, "D"] = 0,
) -> Tensor[Shaped[Any, "concat_shape(concat_shape(A, B, Int[D]), C, Int[D])"], Tracked]: ...
@overload
@shape_vars("*A, *B, *C, D")
def joining(
    xs: tuple[Tensor[Shaped[Any, "A"], Fixed], Tensor[Shaped[Any, "B"], Tracked], Tensor[Shaped[Any, "C"], Fixed]],
    /,
    axis: Shaped[int, "D"] = 0,
) -> Tensor[Shaped[Any, "concat_shape(concat_shape(A, B, Int[D]), C, Int[D])"], Tracked]: ...
@overload
@shape_vars("*A, *B, *C, D")
def joining(
    xs: tuple[Tensor[Shaped[Any, "A"], _G], Tensor[Shaped[Any, "B"], Fixed], Tensor[Shaped[Any, "C"], Fixed]],
    /,
    axis: Shaped[int, "D"] = 0,
) -> Tensor[Shaped[Any, "concat_shape(concat_shape(A, B, Int[D]), C, Int[D])"], _G]: ...
@overload
def joining(xs: list[Tensor] | Iterable[Tensor], /, axis: int | None = 0) -> Tensor[tuple[Any, ...], Any]: ...
@overload
@shape_vars("*A, *B, D")
def stacking(
    xs: tuple[Tensor[Shaped[Any, "A"], Fixed], Tensor[Shaped[Any, "B"], Tracked]], /, axis: Shaped[int, "D"] = 0
) -> Tensor[Shaped[Any, "stack_shape(A, B, 2, Int[D])"], Tracked]: ...
@overload
@shape_vars("*A, *B, D")
def stacking(
    xs: tuple[Tensor[Shaped[Any, "A"], _G], Tensor[Shaped[Any, "B"], Fixed]], /, axis: Shaped[int, "D"] = 0
) -> Tensor[Shaped[Any, "stack_shape(A, B, 2, Int[D])"], _G]: ...
@overload
def stacking(xs: list[Tensor] | Iterable[Tensor], /, axis: int = 0) -> Tensor[tuple[Any, ...], Any]: ...

# ---- a part of a tensor

@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: int | np.integer[Any], /
) -> Tensor[Shaped[Any, "item_shape(A, IntTuple[0])"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: slice[None, None, None] | EllipsisType, /
) -> Tensor[Shaped[Any, "A"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: slice[Any, Any, Any], /
) -> Tensor[Shaped[Any, "cut_shape(A, 0)"], _G]: ...
@overload
@shape_vars("*A")
def indexing(x: Tensor[Shaped[Any, "A"], _G], index: None, /) -> Tensor[Shaped[Any, "[1, *Elements[A]]"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: tuple[int, int], /
) -> Tensor[Shaped[Any, "item_shape(A, IntTuple[0, 1])"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: tuple[slice[None, None, None], int], /
) -> Tensor[Shaped[Any, "item_shape(A, IntTuple[1])"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: tuple[slice[Any, Any, Any], int], /
) -> Tensor[Shaped[Any, "cut_shape(item_shape(A, IntTuple[1]), 0)"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: tuple[int, slice[None, None, None]], /
) -> Tensor[Shaped[Any, "item_shape(same_axis(A, 1), IntTuple[0])"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: tuple[int, slice[Any, Any, Any]], /
) -> Tensor[Shaped[Any, "item_shape(cut_shape(A, 1), IntTuple[0])"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: tuple[slice[None, None, None], slice[Any, Any, Any]], /
) -> Tensor[Shaped[Any, "cut_shape(A, 1)"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: tuple[slice[Any, Any, Any], slice[Any, Any, Any]], /
) -> Tensor[Shaped[Any, "cut_shape(cut_shape(A, 0), 1)"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: tuple[EllipsisType, int], /
) -> Tensor[Shaped[Any, "without_last(A)"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: tuple[EllipsisType, None], /
) -> Tensor[Shaped[Any, "[*Elements[A], 1]"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: tuple[slice[None, None, None], None], /
) -> Tensor[Shaped[Any, "expand_shape(A, 1)"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: tuple[int, int, int], /
) -> Tensor[Shaped[Any, "item_shape(A, IntTuple[0, 1, 2])"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: tuple[slice[None, None, None], slice[None, None, None], int], /
) -> Tensor[Shaped[Any, "item_shape(A, IntTuple[2])"], _G]: ...
@overload
@shape_vars("*A")
def indexing(
    x: Tensor[Shaped[Any, "A"], _G], index: tuple[slice[None, None, None], int, slice[None, None, None]], /
) -> Tensor[Shaped[Any, "item_shape(same_axis(A, 2), IntTuple[1])"], _G]: ...
@overload
def indexing(
    x: Tensor[Any, _G],
    index: Tensor
    | Array
    | list[Any]
    | tuple[Tensor | Array | list[Any] | EllipsisType | None, Any]
    | tuple[Any, Tensor | Array | list[Any] | EllipsisType | None]
    | tuple[()]
    | tuple[Any]
    | tuple[Any, Any, Any]
    | tuple[Any, Any, Any, Any]
    | tuple[Any, Any, Any, Any, Any],
    /,
) -> Tensor[tuple[Any, ...], _G]: ...
@overload
@shape_vars("*D")
def expecting(x: Tensor[Any, _G], shape: Shaped[tuple[int, ...], "D"]) -> Tensor[Shaped[Any, "D"], _G]: ...
@overload
def expecting(x: Tensor[Any, _G], shape: Iterable[int | None]) -> Tensor[tuple[Any, ...], _G]: ...

# ---- state

@shape_vars("*A")
def assigning(
    x: Tensor[Shaped[Any, "[*Elements[A]]"], Any],
    value: Tensor[Shaped[Any, "[*Elements[A]]"], Any] | Array | Number | list[Any],
) -> None: ...
@overload
@shape_vars("")
def pulling(
    x: Tensor[Shaped[Any, "[]"], Tracked],
    gradient: Array | Number | None = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None: ...
@overload
@shape_vars("*A")
def pulling(
    x: Tensor[Shaped[Any, "[*Elements[A]]"], Tracked],
    gradient: Tensor[Shaped[Any, "[*Elements[A]]"], Any] | Array | list[Any],
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None: ...

# ---- new tensors

@overload
def copying(x: Number, dtype: Any = None, device: str | None = None) -> Tensor[tuple[()], Fixed]: ...
@overload
def copying(x: Tensor[_S, Fixed], dtype: Any = None, device: str | None = None) -> Tensor[_S, Fixed]: ...
@overload
def copying(
    x: RegularNestedList[_L, bool | int | float], dtype: Any = None, device: str | None = None
) -> Tensor[_L, Fixed]: ...
@overload
def copying(x: Any, dtype: Any = None, device: str | None = None) -> Tensor: ...
@overload
def tracking(x: Number, dtype: Any = None, device: str | None = None) -> Tensor[tuple[()], Tracked]: ...
@overload
def tracking(x: Tensor[_S, Fixed], dtype: Any = None, device: str | None = None) -> Tensor[_S, Tracked]: ...
@overload
def tracking(
    x: RegularNestedList[_L, bool | int | float], dtype: Any = None, device: str | None = None
) -> Tensor[_L, Tracked]: ...
@overload
def tracking(x: Any, dtype: Any = None, device: str | None = None) -> Tensor[tuple[Any, ...], Tracked]: ...
@overload
@shape_vars("*D")
def filling(
    shape: Shaped[tuple[int, ...], "D"] = (), *, dtype: Any = ..., device: str | None = None
) -> Tensor[Shaped[Any, "D"], Fixed]: ...
@overload
@shape_vars("I")
def filling(
    shape: Shaped[int, "I"], *, dtype: Any = ..., device: str | None = None
) -> Tensor[Shaped[tuple[int], "[I]"], Fixed]: ...
@overload
@shape_vars("I, J")
def filling(
    shape: Shaped[int, "I"], j: Shaped[int, "J"], /, *, dtype: Any = ..., device: str | None = None
) -> Tensor[Shaped[tuple[int, int], "[I, J]"], Fixed]: ...
@overload
@shape_vars("I, J, K")
def filling(
    shape: Shaped[int, "I"], j: Shaped[int, "J"], k: Shaped[int, "K"], /, *, dtype: Any = ..., device: str | None = None
) -> Tensor[Shaped[tuple[int, int, int], "[I, J, K]"], Fixed]: ...
@overload
@shape_vars("I, J, K, L")
def filling(
    shape: Shaped[int, "I"],
    j: Shaped[int, "J"],
    k: Shaped[int, "K"],
    l: Shaped[int, "L"],
    /,
    *,
    dtype: Any = ...,
    device: str | None = None,
) -> Tensor[Shaped[tuple[int, int, int, int], "[I, J, K, L]"], Fixed]: ...
@overload
def filling(shape: int | Iterable[int], *more: int, dtype: Any = ..., device: str | None = None) -> Tensor: ...
@overload
def drawing(*, dtype: Any = ..., generator: Generator | None = None) -> Tensor[tuple[()], Fixed]: ...
@overload
@shape_vars("*D")
def drawing(
    shape: Shaped[tuple[int, ...], "D"], /, *, dtype: Any = ..., generator: Generator | None = None
) -> Tensor[Shaped[Any, "D"], Fixed]: ...
@overload
@shape_vars("I")
def drawing(
    i: Shaped[int, "I"], /, *, dtype: Any = ..., generator: Generator | None = None
) -> Tensor[Shaped[tuple[int], "[I]"], Fixed]: ...
@overload
@shape_vars("I, J")
def drawing(
    i: Shaped[int, "I"], j: Shaped[int, "J"], /, *, dtype: Any = ..., generator: Generator | None = None
) -> Tensor[Shaped[tuple[int, int], "[I, J]"], Fixed]: ...
@overload
@shape_vars("I, J, K")
def drawing(
    i: Shaped[int, "I"],
    j: Shaped[int, "J"],
    k: Shaped[int, "K"],
    /,
    *,
    dtype: Any = ...,
    generator: Generator | None = None,
) -> Tensor[Shaped[tuple[int, int, int], "[I, J, K]"], Fixed]: ...
@overload
@shape_vars("I, J, K, L")
def drawing(
    i: Shaped[int, "I"],
    j: Shaped[int, "J"],
    k: Shaped[int, "K"],
    l: Shaped[int, "L"],
    /,
    *,
    dtype: Any = ...,
    generator: Generator | None = None,
) -> Tensor[Shaped[tuple[int, int, int, int], "[I, J, K, L]"], Fixed]: ...
@overload
def drawing(*shape: int | list[int], dtype: Any = ..., generator: Generator | None = None) -> Tensor: ...
@overload
@shape_vars("*D")
def repeating(
    shape: Shaped[tuple[int, ...], "D"], fill_value: Number, *, dtype: Any = None, device: str | None = None
) -> Tensor[Shaped[Any, "D"], Fixed]: ...
@overload
@shape_vars("*D")
def repeating(
    shape: Shaped[tuple[int, ...], "D"],
    fill_value: Tensor[tuple[()], _G],
    *,
    dtype: Any = None,
    device: str | None = None,
) -> Tensor[Shaped[Any, "D"], _G]: ...
@overload
def repeating(
    shape: int | Iterable[int], fill_value: Any, *, dtype: Any = None, device: str | None = None
) -> Tensor: ...
@overload
@shape_vars("N")
def diagonal(
    rows: Shaped[int, "N"], columns: None = None, *, k: int = 0, dtype: Any = ..., device: str | None = None
) -> Tensor[Shaped[tuple[int, int], "[N, N]"], Fixed]: ...
@overload
@shape_vars("N, M")
def diagonal(
    rows: Shaped[int, "N"], columns: Shaped[int, "M"], *, k: int = 0, dtype: Any = ..., device: str | None = None
) -> Tensor[Shaped[tuple[int, int], "[N, M]"], Fixed]: ...
@overload
@shape_vars("N")
def counting(
    start: Shaped[int, "N"], stop: None = None, step: Literal[1] = 1, *, dtype: Any = None, device: str | None = None
) -> Tensor[Shaped[tuple[int], "[N]"], Fixed]: ...
@overload
def counting(
    start: float, stop: float | None = None, step: float = 1, *, dtype: Any = None, device: str | None = None
) -> Tensor[tuple[int], Fixed]: ...

# ---- functions of functions

_P = ParamSpec("_P")
_R = TypeVar("_R", bound=tuple[int, ...])
_H = TypeVar("_H", bound=Fixed)
_C = TypeVar("_C")

@shape_vars("")
def pulled_values(
    output: Tensor[Shaped[Any, "[]"], Tracked],
    inputs: Iterable[Tensor[Any, Tracked]],
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> dict[Any, Tensor[tuple[Any, ...], Any]]: ...
@overload
@shape_vars("*A")
def valued_gradient(
    f: Callable[Concatenate[Tensor[Shaped[Any, "A"], Tracked], _P], Tensor[Shaped[Any, "[]"], Tracked]],
    argnums: Literal[0] = 0,
) -> Callable[
    Concatenate[Tensor[Shaped[Any, "A"], Fixed], _P], tuple[Tensor[tuple[()], Any], Tensor[Shaped[Any, "A"], Any]]
]: ...
@overload
def valued_gradient(
    f: Callable[..., Tensor[Any, Tracked]], argnums: int
) -> Callable[..., tuple[Tensor[tuple[()], Any], Tensor[tuple[Any, ...], Any]]]: ...
@overload
def valued_gradient(
    f: Callable[..., Tensor[Any, Tracked]], argnums: tuple[int, ...]
) -> Callable[..., tuple[Tensor[tuple[()], Any], tuple[Tensor[tuple[Any, ...], Any], ...]]]: ...
@overload
@shape_vars("*A")
def gradient(
    f: Callable[Concatenate[Tensor[Shaped[Any, "A"], Tracked], _P], Tensor[Shaped[Any, "[]"], Tracked]],
    argnums: Literal[0] = 0,
) -> Callable[Concatenate[Tensor[Shaped[Any, "A"], Fixed], _P], Tensor[Shaped[Any, "A"], Any]]: ...
@overload
def gradient(f: Callable[..., Tensor[Any, Tracked]], argnums: int) -> Callable[..., Tensor[tuple[Any, ...], Any]]: ...
@overload
def gradient(
    f: Callable[..., Tensor[Any, Tracked]], argnums: tuple[int, ...]
) -> Callable[..., tuple[Tensor[tuple[Any, ...], Any], ...]]: ...
@overload
def pullback(
    f: Callable[[Tensor[_S, Tracked]], Tensor[_R, Tracked]], x: Tensor[_S, Fixed], /
) -> tuple[Tensor[_R, Any], Callable[[Tensor[_R, Fixed]], Tensor[_S, Any]]]: ...
@overload
def pullback(
    f: Callable[..., Tensor[_R, Tracked]], x: Tensor, y: Tensor, /, *more: Tensor
) -> tuple[Tensor[_R, Any], Callable[[Tensor[_R, Fixed]], tuple[Tensor[tuple[Any, ...], Any], ...]]]: ...
@overload
def pushforward(
    f: Callable[[Tensor[_S, Tracked]], Tensor[_R, Fixed]],
    args: tuple[Tensor[_S, Fixed]],
    tangents: tuple[Tensor[_S, Fixed]],
) -> tuple[Tensor[_R, Any], Tensor[_R, Any]]: ...
@overload
def pushforward(
    f: Callable[..., Tensor[_R, Fixed]], args: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor[_R, Any], Tensor[_R, Any]]: ...

class Mapped(Generic[_C]):
    """What vmap returns: told from other functions, because a second vmap would take its N for the first one's."""

    @property
    def __call__(self) -> _C: ...

@overload
def mapping(
    f: Mapped[Any],
    in_axes: Any = 0,
    out_axes: int = 0,
    *,
    randomness: Literal["error", "different", "same"] = "error",
) -> Mapped[Callable[..., Tensor[tuple[Any, ...], Any]]]: ...
@overload
@shape_vars("*A, *B, N")
def mapping(
    f: Callable[[Tensor[Shaped[Any, "A"], _G]], Tensor[Shaped[Any, "B"], _H]],
    in_axes: Literal[0] = 0,
    out_axes: Literal[0] = 0,
    *,
    randomness: Literal["error", "different", "same"] = "error",
) -> Mapped[Callable[[Tensor[Shaped[Any, "[N, *Elements[A]]"], _G]], Tensor[Shaped[Any, "[N, *Elements[B]]"], _H]]]: ...
@overload
def mapping(
    f: Callable[..., Tensor[Any, _G]],
    in_axes: Any = 0,
    out_axes: int = 0,
    *,
    randomness: Literal["error", "different", "same"] = "error",
) -> Callable[..., Tensor[tuple[Any, ...], _G]]: ...
@overload
def mapping(
    f: Callable[..., Any],
    in_axes: Any = 0,
    out_axes: Any = 0,
    *,
    randomness: Literal["error", "different", "same"] = "error",
) -> Callable[..., Any]: ...

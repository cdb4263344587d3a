"""nn.Sequential for checkers: one class for each number of modules, so that a chain is as exact as its links.

Each call is typed by itself and not through Module's property: a protocol would hide a link that does not fit. What
Flatten makes of sizes that are not known yet fits no Linear, so chains that go on behind a Flatten (`Seq5F2`: it is the
second of five) have classes in which its result has two axes of unknown size. More than eight modules, or a list of
them, are gradual.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar, overload

from katachi.nn.containers import ModuleList, Sequential
from katachi.nn.simple import Flatten
from katachi.tensor.tensor import Tensor

_0 = TypeVar("_0")
_1 = TypeVar("_1")
_2 = TypeVar("_2")
_3 = TypeVar("_3")
_4 = TypeVar("_4")
_5 = TypeVar("_5")
_6 = TypeVar("_6")
_7 = TypeVar("_7")
_8 = TypeVar("_8")
_M1 = TypeVar("_M1", covariant=True)
_M2 = TypeVar("_M2", covariant=True)
_M3 = TypeVar("_M3", covariant=True)
_M4 = TypeVar("_M4", covariant=True)
_M5 = TypeVar("_M5", covariant=True)
_M6 = TypeVar("_M6", covariant=True)
_M7 = TypeVar("_M7", covariant=True)
_M8 = TypeVar("_M8", covariant=True)
_A = TypeVar("_A")
_B = TypeVar("_B")
L: TypeAlias = Callable[[_A], _B]  # a link
H: TypeAlias = Callable[[Tensor[tuple[Any, Any], Any]], _A]  # a link behind Flatten

class Chain(ModuleList):
    @overload
    def __new__(cls, m1: Flatten, m2: _2, /) -> Seq2F1[_2]: ...
    @overload
    def __new__(cls, m1: _1, m2: _2, /) -> Seq2[_1, _2]: ...
    @overload
    def __new__(cls, m1: Flatten, m2: _2, m3: _3, /) -> Seq3F1[_2, _3]: ...
    @overload
    def __new__(cls, m1: _1, m2: Flatten, m3: _3, /) -> Seq3F2[_1, _3]: ...
    @overload
    def __new__(cls, m1: _1, m2: _2, m3: _3, /) -> Seq3[_1, _2, _3]: ...
    @overload
    def __new__(cls, m1: Flatten, m2: _2, m3: _3, m4: _4, /) -> Seq4F1[_2, _3, _4]: ...
    @overload
    def __new__(cls, m1: _1, m2: Flatten, m3: _3, m4: _4, /) -> Seq4F2[_1, _3, _4]: ...
    @overload
    def __new__(cls, m1: _1, m2: _2, m3: Flatten, m4: _4, /) -> Seq4F3[_1, _2, _4]: ...
    @overload
    def __new__(cls, m1: _1, m2: _2, m3: _3, m4: _4, /) -> Seq4[_1, _2, _3, _4]: ...
    @overload
    def __new__(cls, m1: Flatten, m2: _2, m3: _3, m4: _4, m5: _5, /) -> Seq5F1[_2, _3, _4, _5]: ...
    @overload
    def __new__(cls, m1: _1, m2: Flatten, m3: _3, m4: _4, m5: _5, /) -> Seq5F2[_1, _3, _4, _5]: ...
    @overload
    def __new__(cls, m1: _1, m2: _2, m3: Flatten, m4: _4, m5: _5, /) -> Seq5F3[_1, _2, _4, _5]: ...
    @overload
    def __new__(cls, m1: _1, m2: _2, m3: _3, m4: Flatten, m5: _5, /) -> Seq5F4[_1, _2, _3, _5]: ...
    @overload
    def __new__(cls, m1: _1, m2: _2, m3: _3, m4: _4, m5: _5, /) -> Seq5[_1, _2, _3, _4, _5]: ...
    @overload
    def __new__(cls, m1: Flatten, m2: _2, m3: _3, m4: _4, m5: _5, m6: _6, /) -> Seq6F1[_2, _3, _4, _5, _6]: ...
    @overload
    def __new__(cls, m1: _1, m2: Flatten, m3: _3, m4: _4, m5: _5, m6: _6, /) -> Seq6F2[_1, _3, _4, _5, _6]: ...
    @overload
    def __new__(cls, m1: _1, m2: _2, m3: Flatten, m4: _4, m5: _5, m6: _6, /) -> Seq6F3[_1, _2, _4, _5, _6]: ...
    @overload
    def __new__(cls, m1: _1, m2: _2, m3: _3, m4: Flatten, m5: _5, m6: _6, /) -> Seq6F4[_1, _2, _3, _5, _6]: ...
    @overload
    def __new__(cls, m1: _1, m2: _2, m3: _3, m4: _4, m5: Flatten, m6: _6, /) -> Seq6F5[_1, _2, _3, _4, _6]: ...
    @overload
    def __new__(cls, m1: _1, m2: _2, m3: _3, m4: _4, m5: _5, m6: _6, /) -> Seq6[_1, _2, _3, _4, _5, _6]: ...
    @overload
    def __new__(
        cls, m1: Flatten, m2: _2, m3: _3, m4: _4, m5: _5, m6: _6, m7: _7, /
    ) -> Seq7F1[_2, _3, _4, _5, _6, _7]: ...
    @overload
    def __new__(
        cls, m1: _1, m2: Flatten, m3: _3, m4: _4, m5: _5, m6: _6, m7: _7, /
    ) -> Seq7F2[_1, _3, _4, _5, _6, _7]: ...
    @overload
    def __new__(
        cls, m1: _1, m2: _2, m3: Flatten, m4: _4, m5: _5, m6: _6, m7: _7, /
    ) -> Seq7F3[_1, _2, _4, _5, _6, _7]: ...
    @overload
    def __new__(
        cls, m1: _1, m2: _2, m3: _3, m4: Flatten, m5: _5, m6: _6, m7: _7, /
    ) -> Seq7F4[_1, _2, _3, _5, _6, _7]: ...
    @overload
    def __new__(
        cls, m1: _1, m2: _2, m3: _3, m4: _4, m5: Flatten, m6: _6, m7: _7, /
    ) -> Seq7F5[_1, _2, _3, _4, _6, _7]: ...
    @overload
    def __new__(
        cls, m1: _1, m2: _2, m3: _3, m4: _4, m5: _5, m6: Flatten, m7: _7, /
    ) -> Seq7F6[_1, _2, _3, _4, _5, _7]: ...
    @overload
    def __new__(cls, m1: _1, m2: _2, m3: _3, m4: _4, m5: _5, m6: _6, m7: _7, /) -> Seq7[_1, _2, _3, _4, _5, _6, _7]: ...
    @overload
    def __new__(
        cls, m1: Flatten, m2: _2, m3: _3, m4: _4, m5: _5, m6: _6, m7: _7, m8: _8, /
    ) -> Seq8F1[_2, _3, _4, _5, _6, _7, _8]: ...
    @overload
    def __new__(
        cls, m1: _1, m2: Flatten, m3: _3, m4: _4, m5: _5, m6: _6, m7: _7, m8: _8, /
    ) -> Seq8F2[_1, _3, _4, _5, _6, _7, _8]: ...
    @overload
    def __new__(
        cls, m1: _1, m2: _2, m3: Flatten, m4: _4, m5: _5, m6: _6, m7: _7, m8: _8, /
    ) -> Seq8F3[_1, _2, _4, _5, _6, _7, _8]: ...
    @overload
    def __new__(
        cls, m1: _1, m2: _2, m3: _3, m4: Flatten, m5: _5, m6: _6, m7: _7, m8: _8, /
    ) -> Seq8F4[_1, _2, _3, _5, _6, _7, _8]: ...
    @overload
    def __new__(
        cls, m1: _1, m2: _2, m3: _3, m4: _4, m5: Flatten, m6: _6, m7: _7, m8: _8, /
    ) -> Seq8F5[_1, _2, _3, _4, _6, _7, _8]: ...
    @overload
    def __new__(
        cls, m1: _1, m2: _2, m3: _3, m4: _4, m5: _5, m6: Flatten, m7: _7, m8: _8, /
    ) -> Seq8F6[_1, _2, _3, _4, _5, _7, _8]: ...
    @overload
    def __new__(
        cls, m1: _1, m2: _2, m3: _3, m4: _4, m5: _5, m6: _6, m7: Flatten, m8: _8, /
    ) -> Seq8F7[_1, _2, _3, _4, _5, _6, _8]: ...
    @overload
    def __new__(
        cls, m1: _1, m2: _2, m3: _3, m4: _4, m5: _5, m6: _6, m7: _7, m8: _8, /
    ) -> Seq8[_1, _2, _3, _4, _5, _6, _7, _8]: ...
    @overload
    def __new__(cls, modules: Mapping[str, Callable[[Any], Any]], /) -> Sequential: ...
    @overload
    def __new__(cls, *modules: Callable[[Any], Any]) -> Sequential: ...
    def __call__(self, x: Tensor) -> Tensor[Any, Any]: ...

class Seq2F1(Sequential, Generic[_M2]):
    def __call__(self: Seq2F1[H[_2]], x: Tensor) -> _2: ...

class Seq2(Sequential, Generic[_M1, _M2]):
    def __call__(self: Seq2[L[_0, _1], L[_1, _2]], x: _0) -> _2: ...

class Seq3F1(Sequential, Generic[_M2, _M3]):
    def __call__(self: Seq3F1[H[_2], L[_2, _3]], x: Tensor) -> _3: ...

class Seq3F2(Sequential, Generic[_M1, _M3]):
    def __call__(self: Seq3F2[L[_0, Tensor[Any, Any]], H[_3]], x: _0) -> _3: ...

class Seq3(Sequential, Generic[_M1, _M2, _M3]):
    def __call__(self: Seq3[L[_0, _1], L[_1, _2], L[_2, _3]], x: _0) -> _3: ...

class Seq4F1(Sequential, Generic[_M2, _M3, _M4]):
    def __call__(self: Seq4F1[H[_2], L[_2, _3], L[_3, _4]], x: Tensor) -> _4: ...

class Seq4F2(Sequential, Generic[_M1, _M3, _M4]):
    def __call__(self: Seq4F2[L[_0, Tensor[Any, Any]], H[_3], L[_3, _4]], x: _0) -> _4: ...

class Seq4F3(Sequential, Generic[_M1, _M2, _M4]):
    def __call__(self: Seq4F3[L[_0, _1], L[_1, Tensor[Any, Any]], H[_4]], x: _0) -> _4: ...

class Seq4(Sequential, Generic[_M1, _M2, _M3, _M4]):
    def __call__(self: Seq4[L[_0, _1], L[_1, _2], L[_2, _3], L[_3, _4]], x: _0) -> _4: ...

class Seq5F1(Sequential, Generic[_M2, _M3, _M4, _M5]):
    def __call__(self: Seq5F1[H[_2], L[_2, _3], L[_3, _4], L[_4, _5]], x: Tensor) -> _5: ...

class Seq5F2(Sequential, Generic[_M1, _M3, _M4, _M5]):
    def __call__(self: Seq5F2[L[_0, Tensor[Any, Any]], H[_3], L[_3, _4], L[_4, _5]], x: _0) -> _5: ...

class Seq5F3(Sequential, Generic[_M1, _M2, _M4, _M5]):
    def __call__(self: Seq5F3[L[_0, _1], L[_1, Tensor[Any, Any]], H[_4], L[_4, _5]], x: _0) -> _5: ...

class Seq5F4(Sequential, Generic[_M1, _M2, _M3, _M5]):
    def __call__(self: Seq5F4[L[_0, _1], L[_1, _2], L[_2, Tensor[Any, Any]], H[_5]], x: _0) -> _5: ...

class Seq5(Sequential, Generic[_M1, _M2, _M3, _M4, _M5]):
    def __call__(self: Seq5[L[_0, _1], L[_1, _2], L[_2, _3], L[_3, _4], L[_4, _5]], x: _0) -> _5: ...

class Seq6F1(Sequential, Generic[_M2, _M3, _M4, _M5, _M6]):
    def __call__(self: Seq6F1[H[_2], L[_2, _3], L[_3, _4], L[_4, _5], L[_5, _6]], x: Tensor) -> _6: ...

class Seq6F2(Sequential, Generic[_M1, _M3, _M4, _M5, _M6]):
    def __call__(self: Seq6F2[L[_0, Tensor[Any, Any]], H[_3], L[_3, _4], L[_4, _5], L[_5, _6]], x: _0) -> _6: ...

class Seq6F3(Sequential, Generic[_M1, _M2, _M4, _M5, _M6]):
    def __call__(self: Seq6F3[L[_0, _1], L[_1, Tensor[Any, Any]], H[_4], L[_4, _5], L[_5, _6]], x: _0) -> _6: ...

class Seq6F4(Sequential, Generic[_M1, _M2, _M3, _M5, _M6]):
    def __call__(self: Seq6F4[L[_0, _1], L[_1, _2], L[_2, Tensor[Any, Any]], H[_5], L[_5, _6]], x: _0) -> _6: ...

class Seq6F5(Sequential, Generic[_M1, _M2, _M3, _M4, _M6]):
    def __call__(self: Seq6F5[L[_0, _1], L[_1, _2], L[_2, _3], L[_3, Tensor[Any, Any]], H[_6]], x: _0) -> _6: ...

class Seq6(Sequential, Generic[_M1, _M2, _M3, _M4, _M5, _M6]):
    def __call__(self: Seq6[L[_0, _1], L[_1, _2], L[_2, _3], L[_3, _4], L[_4, _5], L[_5, _6]], x: _0) -> _6: ...

class Seq7F1(Sequential, Generic[_M2, _M3, _M4, _M5, _M6, _M7]):
    def __call__(self: Seq7F1[H[_2], L[_2, _3], L[_3, _4], L[_4, _5], L[_5, _6], L[_6, _7]], x: Tensor) -> _7: ...

class Seq7F2(Sequential, Generic[_M1, _M3, _M4, _M5, _M6, _M7]):
    def __call__(
        self: Seq7F2[L[_0, Tensor[Any, Any]], H[_3], L[_3, _4], L[_4, _5], L[_5, _6], L[_6, _7]], x: _0
    ) -> _7: ...

class Seq7F3(Sequential, Generic[_M1, _M2, _M4, _M5, _M6, _M7]):
    def __call__(
        self: Seq7F3[L[_0, _1], L[_1, Tensor[Any, Any]], H[_4], L[_4, _5], L[_5, _6], L[_6, _7]], x: _0
    ) -> _7: ...

class Seq7F4(Sequential, Generic[_M1, _M2, _M3, _M5, _M6, _M7]):
    def __call__(
        self: Seq7F4[L[_0, _1], L[_1, _2], L[_2, Tensor[Any, Any]], H[_5], L[_5, _6], L[_6, _7]], x: _0
    ) -> _7: ...

class Seq7F5(Sequential, Generic[_M1, _M2, _M3, _M4, _M6, _M7]):
    def __call__(
        self: Seq7F5[L[_0, _1], L[_1, _2], L[_2, _3], L[_3, Tensor[Any, Any]], H[_6], L[_6, _7]], x: _0
    ) -> _7: ...

class Seq7F6(Sequential, Generic[_M1, _M2, _M3, _M4, _M5, _M7]):
    def __call__(
        self: Seq7F6[L[_0, _1], L[_1, _2], L[_2, _3], L[_3, _4], L[_4, Tensor[Any, Any]], H[_7]], x: _0
    ) -> _7: ...

class Seq7(Sequential, Generic[_M1, _M2, _M3, _M4, _M5, _M6, _M7]):
    def __call__(
        self: Seq7[L[_0, _1], L[_1, _2], L[_2, _3], L[_3, _4], L[_4, _5], L[_5, _6], L[_6, _7]], x: _0
    ) -> _7: ...

class Seq8F1(Sequential, Generic[_M2, _M3, _M4, _M5, _M6, _M7, _M8]):
    def __call__(
        self: Seq8F1[H[_2], L[_2, _3], L[_3, _4], L[_4, _5], L[_5, _6], L[_6, _7], L[_7, _8]], x: Tensor
    ) -> _8: ...

class Seq8F2(Sequential, Generic[_M1, _M3, _M4, _M5, _M6, _M7, _M8]):
    def __call__(
        self: Seq8F2[L[_0, Tensor[Any, Any]], H[_3], L[_3, _4], L[_4, _5], L[_5, _6], L[_6, _7], L[_7, _8]], x: _0
    ) -> _8: ...

class Seq8F3(Sequential, Generic[_M1, _M2, _M4, _M5, _M6, _M7, _M8]):
    def __call__(
        self: Seq8F3[L[_0, _1], L[_1, Tensor[Any, Any]], H[_4], L[_4, _5], L[_5, _6], L[_6, _7], L[_7, _8]], x: _0
    ) -> _8: ...

class Seq8F4(Sequential, Generic[_M1, _M2, _M3, _M5, _M6, _M7, _M8]):
    def __call__(
        self: Seq8F4[L[_0, _1], L[_1, _2], L[_2, Tensor[Any, Any]], H[_5], L[_5, _6], L[_6, _7], L[_7, _8]], x: _0
    ) -> _8: ...

class Seq8F5(Sequential, Generic[_M1, _M2, _M3, _M4, _M6, _M7, _M8]):
    def __call__(
        self: Seq8F5[L[_0, _1], L[_1, _2], L[_2, _3], L[_3, Tensor[Any, Any]], H[_6], L[_6, _7], L[_7, _8]], x: _0
    ) -> _8: ...

class Seq8F6(Sequential, Generic[_M1, _M2, _M3, _M4, _M5, _M7, _M8]):
    def __call__(
        self: Seq8F6[L[_0, _1], L[_1, _2], L[_2, _3], L[_3, _4], L[_4, Tensor[Any, Any]], H[_7], L[_7, _8]], x: _0
    ) -> _8: ...

class Seq8F7(Sequential, Generic[_M1, _M2, _M3, _M4, _M5, _M6, _M8]):
    def __call__(
        self: Seq8F7[L[_0, _1], L[_1, _2], L[_2, _3], L[_3, _4], L[_4, _5], L[_5, Tensor[Any, Any]], H[_8]], x: _0
    ) -> _8: ...

class Seq8(Sequential, Generic[_M1, _M2, _M3, _M4, _M5, _M6, _M7, _M8]):
    def __call__(
        self: Seq8[L[_0, _1], L[_1, _2], L[_2, _3], L[_3, _4], L[_4, _5], L[_5, _6], L[_6, _7], L[_7, _8]], x: _0
    ) -> _8: ...

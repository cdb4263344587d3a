"""What a compiled function can reach: the search that finds the places to guard."""

from __future__ import annotations

import array
import builtins
import contextvars
import functools
import importlib.util
import io
import operator
import os
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from enum import Enum
from typing import Any

import numpy as np

from katachi.errors import Error
from katachi.tensor.guards import MISSING, Guards, Read
from katachi.tensor.handle import Handle
from katachi.tensor.names import library_code, library_module, names_in
from katachi.tensor.trees import PLAIN

MOST_ELEMENTS = 10_000  # compared before a call
MOST_READS = 100_000  # fields of objects among them
MOST_BYTES = 1 << 16  # of an array that is compared before a call
FEW = 32  # elements of a container that are compared one by one, each by code of its own

# Methods of a class that are called seldom unless the code names them, and those that make an object.
QUIET = frozenset(
    ("__init__", "__new__", "__post_init__", "__init_subclass__", "__class_getitem__", "__set_name__", "__del__",
     "__repr__", "__str__", "__format__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__",
     "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__sizeof__", "__dir__", "__copy__",
     "__deepcopy__", "__replace__")
)  # fmt: skip
MAKING = frozenset(("__init__", "__new__", "__post_init__"))
CONSTANT = (np.generic, np.dtype, types.CodeType, range, slice, Handle)
ARRAYS = ("__array__", "__array_interface__", "__dlpack__")  # what other libraries' arrays have
METHODS = (types.FunctionType, staticmethod, classmethod)
HEAP_TYPE = 1 << 9  # a class that Python code has made
VIEWS = (type({}.keys()), type({}.values()), type({}.items()))
GENERATORS = {"numpy.random._generator.Generator", "numpy.random.mtrand.RandomState", "random.Random"}


TENSOR = "pass it as an argument, or make it a tensor: {name} = kt.tensor({name})"


def _refused(name: str, what: str, remedy: str) -> Error:
    return Error(f"compile: the function reads {name}, {what}; {remedy}")


def find(roots: Iterable[tuple[str, Any]]) -> Guards:
    """The places that the things given, functions and objects with their names, may read from. Raises Error for what
    changes in ways that cannot be seen."""
    return _Search(list(roots)).guards()


class _Search:
    """One search. It goes on until the code that was reached names no attribute that was not yet followed."""

    def __init__(self, roots: list[tuple[str, Any]]) -> None:
        self.roots = roots
        self.names: set[str] = set()  # of attributes, in all code reached
        self.sought: set[str] = set()  # those of them that may be missing
        self.all_fields = False
        self.packages: set[str] = set()  # libraries whose containers were found
        self.views: dict[type, Any] = {}

    def guards(self) -> Guards:
        known: Any = None
        while known != (len(self.names), self.all_fields):
            known = (len(self.names), self.all_fields)
            self.reads: dict[Any, Read] = {}
            self.seen: dict[int, Any] = {}
            self.elements = 0
            self.waiting = self.roots[::-1]
            while self.waiting:
                name, x = self.waiting.pop()
                self._look(name, x)
        return Guards(self.reads.values(), self.seen)

    def _read(self, how: str, holder: Any, key: Any, name: str, follow: bool = True) -> Any:
        """Note a place, and follow what is there."""
        read = Read(how, holder, key, MISSING, name)
        at = read.at()
        if at not in self.reads:
            self.reads[at] = read = read._replace(value=read.now())
            self.waiting += [(name, read.value)] if follow else []
            self._count(0, name)
        return self.reads[at].value

    def _count(self, elements: int, name: str) -> None:
        self.elements += elements
        if self.elements > MOST_ELEMENTS or len(self.reads) > MOST_READS:
            what = f"and with it more than {MOST_ELEMENTS:,} values, too many to compare before every call"
            remedy = "read what it needs outside and pass that as an argument, or keep it in a tensor or in a tuple"
            raise _refused(name, what, remedy)

    def _wanted(self, key: Any) -> bool:
        return key in self.names or (self.all_fields and not str(key).startswith("__"))

    def _view(self, cls: type) -> Any:
        """A class's dict: the same view of it each time."""
        return self.views.setdefault(cls, vars(cls))

    # ---- one thing
    def _look(self, name: str, x: Any) -> None:
        if x.__class__ in PLAIN or x is MISSING or isinstance(x, CONSTANT) or id(x) in self.seen:
            return
        self.seen[id(x)] = x
        if isinstance(x, types.FunctionType):
            self._function(name, x)
        elif isinstance(x, types.ModuleType):
            if not _is_library_module(x):
                self._fields(name, vars(x))
                self._missing(name, x)
                self.waiting.append((f"{name}.__getattr__", vars(x).get("__getattr__")))
        elif isinstance(x, type):
            self._class(name, x, True)
        elif isinstance(x, (np.ndarray, array.array, bytearray, memoryview)):
            self._array(name, x)
        elif any(hasattr(type(x), method) for method in ARRAYS) and not _is_users(type(x)):
            what = f"a {type(x).__module__}.{type(x).__name__}, whose changes cannot be seen"
            raise _refused(name, what, TENSOR.format(name=name))
        elif isinstance(x, (operator.attrgetter, operator.methodcaller)):
            self.all_fields = True
        elif isinstance(x, weakref.ref):
            self._read("referent", x, None, name)
        elif isinstance(x, contextvars.ContextVar):
            self._read("context", x, None, name)
        elif any(f"{c.__module__}.{c.__qualname__}" in GENERATORS for c in type(x).__mro__):
            what = f"a {type(x).__name__} that would draw its numbers only once, when the function is traced"
            raise _refused(name, what, "use kt.rand, kt.randn or kt.randint, or pass what it draws as an argument")
        else:
            parts = list(_parts(x))
            self.waiting += [(name, part) for part in parts]
            if not parts:
                self._object(name, x)

    def _function(self, name: str, f: types.FunctionType) -> None:
        cells = list(zip(f.__code__.co_freevars, f.__closure__ or (), strict=True))
        if library_code(f):  # a wrapper of the user's functions, perhaps
            for variable, cell in cells:
                self._carried(f"{name}'s {variable}", Read("cell", cell, None, None, "").now())
            self._carried(name, f.__dict__.get("__wrapped__"))
            return
        names = names_in(f.__code__)
        self.names |= names.attributes
        self.sought |= names.sought
        of_library = {k for k in names.asked if _is_library_module(f.__globals__.get(k))}
        self.all_fields |= names.all_fields or names.asked != of_library
        for field in ("__code__", "__defaults__", "__kwdefaults__"):
            self._read("field", f, field, f"{name}.{field}")
        positional = f.__code__.co_varnames[: f.__code__.co_argcount]
        defaults = f.__defaults__ or ()
        self.waiting += zip(positional[len(positional) - len(defaults) :], defaults, strict=True)
        for key in f.__kwdefaults__ or {}:
            self._read("item", f.__kwdefaults__, key, key)
        for variable, cell in cells:
            if variable != "__class__":
                self._read("cell", cell, None, variable)
        for key in sorted(names.globals):
            self._read("item" if key in f.__globals__ else "entry", f.__globals__, key, key)
            if key not in f.__globals__ and key in vars(builtins):
                self._builtin(vars(builtins)[key], key)
        for level, module in names.modules:
            package = f.__globals__.get("__package__") or ""
            full = importlib.util.resolve_name("." * level + module, package) if level else module
            if not library_module(full):
                self._read("entry", sys.modules, full, full)
        if not (names.globals | names.attributes).isdisjoint(("environ", "environb", "getenv")):
            self._dict("os.environ", os.environ._data)  # type: ignore[attr-defined]
        self._fields(name, f.__dict__)

    def _builtin(self, x: Any, key: str) -> None:
        if x is eval or x is exec:
            raise _refused(key, "which runs code that cannot be seen", "call the code itself")
        if not isinstance(x, (type, types.BuiltinFunctionType)):  # it is the user's own
            self._read("item", vars(builtins), key, key)

    def _fields(self, name: str, fields: dict[Any, Any]) -> None:
        """The entries of an object's or a module's dict that the code names."""
        for key in list(fields):
            if self._wanted(key):
                self._read("item", fields, key, f"{name}.{key}")

    def _missing(self, name: str, x: Any) -> None:
        """What the code asks an object for and does not get."""
        for key in self.sought - getattr(x, "__dict__", {}).keys():
            if not any(key in vars(c) for c in type(x).__mro__):  # looked up so that no property runs
                self._read("field", x, key, f"{name}.{key}")

    def _carried(self, name: str, x: Any) -> None:
        """Something within a library's object or function: followed if it is the user's, or leads there."""
        inner = x.values() if type(x) is dict else x if type(x) in (list, tuple, set) else (x,)
        if any(map(_leads_on, inner)):
            self.waiting.append((name, x))

    def _class(self, name: str, cls: type, made: bool = False) -> None:
        """What the code names of the user's classes, and their methods that operators call, or that make an object."""
        for i, c in enumerate(cls.__mro__):
            if not _is_user_class(c):
                continue
            for key, value in list(vars(c).items()):
                special = key.startswith("__")
                called = isinstance(value, METHODS) and special and (key not in QUIET or (made and key in MAKING))
                if key in self.names or called or (self.all_fields and not special and not callable(value)):
                    self._read("item", self._view(c), key, f"{name}.{key}")
            for key in self.names - vars(c).keys():  # it may get an attribute that hides a farther one
                if not key.startswith("__") and any(key in vars(base) for base in cls.__mro__[i + 1 :]):
                    self._read("entry", self._view(c), key, f"{name}.{key}")
        if _is_users(type(cls)):
            self._class(name, type(cls))
        if issubclass(cls, Enum):
            self.waiting += [(f"{name}.{m}", v) for m, v in cls._member_map_.items()]

    def _object(self, name: str, x: Any) -> None:
        """An object of any other class: its elements, its class, its fields."""
        cls = type(x)
        users = _is_users(cls)
        if not users and hasattr(cls, "__next__") and not isinstance(x, io.IOBase):
            what = f"a {cls.__name__} from which it would take only once, when it is traced"
            raise _refused(name, what, "take the next element outside and pass it as an argument")
        self._elements(name, x)
        fields = getattr(x, "__dict__", None)
        fields = fields if isinstance(fields, dict) else None
        says = getattr(cls, "_read_fields", None)  # katachi's modules and optimisers tell themselves
        if says is not None:
            self.names.add("forward")
        if isinstance(x, Enum):
            self.waiting.append((f"{name}.value", x._value_))
        if users:
            self._object_of_class(name, x, fields)
        if fields is None:
            return
        named = filter(self._wanted, list(fields)) if says is None else says(x, self.names)
        if named is None or (users and self.all_fields) or self._is_made_of_fields(x):
            self._dict(name, fields, "{}.{}", ordered=self.all_fields or hasattr(cls, "__iter__"))
        elif users or not cls.__module__.startswith(("katachi.tensor", "katachi.graph")):
            own = isinstance(x, threading.local)  # which has another dict in each thread
            for key in named:
                self._read("field" if own else "item", x if own else fields, key, f"{name}.{key}")
        for key, value in list(fields.items()) if not users else ():
            self._carried(f"{name}.{key}", value)

    def _object_of_class(self, name: str, x: Any, fields: dict[str, Any] | None) -> None:
        """What belongs to an object of a user's class beside what is in its dict."""
        cls = type(x)
        self._missing(name, x)
        self._read("field", x, "__class__", f"{name}.__class__", follow=False)
        self._class(name, cls)
        for key, value in ((k, v) for c in cls.__mro__ for k, v in vars(c).items()):
            if isinstance(value, types.MemberDescriptorType) and self._wanted(key):  # a slot
                self._read("field", x, key, f"{name}.{key}")
        if fields is not None:
            self._read("field", x, "__dict__", f"{name}.__dict__", follow=False)
            for key in self.names - fields.keys():  # an attribute of the class may get one of the object in front of it
                if not key.startswith("__") and any(key in vars(c) for c in cls.__mro__):
                    self._read("entry", fields, key, f"{name}.{key}")

    def _is_made_of_fields(self, x: Any) -> bool:
        """Whether it is a container of a library's own kind, such as a tree of options, or belongs to one."""
        cls = type(x)
        package = cls.__module__.partition(".")[0]
        if package == "katachi":
            return False
        abstract = isinstance(x, (Mapping, Sequence, Set))
        if package in sys.stdlib_module_names or _is_users(cls):
            return abstract
        if abstract or any(name in vars(c) for c in cls.__mro__ for name in ("__getattr__", "__getitem__")):
            self.packages.add(package)
        return package in self.packages

    # ---- containers
    def _elements(self, name: str, x: Any) -> None:
        if isinstance(x, (dict, types.MappingProxyType)):
            self._count(len(x), name)
            self._dict(name, x)
        elif isinstance(x, (list, deque)):
            self._count(len(x), name)
            if type(x) in (list, deque) and _one_by_one(x):
                self._read("length", x, None, name)
                for i in range(len(x)):
                    self._read("item", x, i, f"{name}[{i}]")
            else:
                self._in_bulk("elements", name, x)
        elif isinstance(x, (set, tuple, frozenset)):
            if isinstance(x, set):
                self._count(len(x), name)
                self._in_bulk("elements", name, x)
            else:
                fields = getattr(x, "_fields", None)
                rest = [(i, v) for i, v in enumerate(x) if v.__class__ not in PLAIN]
                self.waiting += [(f"{name}.{fields[i]}" if fields else f"{name}[{i}]", v) for i, v in rest]

    def _in_bulk(self, how: str, name: str, x: Any) -> None:
        values = self._read(how, x, _base(type(x)), name, follow=False)
        rest = values if values is not MISSING else ()
        self.waiting += [(f"{name}[...]", v) for v in rest if v.__class__ not in PLAIN]

    def _dict(self, name: str, d: Any, entry: str = "{}[{!r}]", ordered: bool = True) -> None:
        if type(d) is dict and all(type(k) is str for k in d):
            self._read("names" if ordered else "length", d, None, name, follow=False)
        else:
            self._in_bulk("keys", name, d)
        if type(d) is dict and _one_by_one(d.values()):
            for key in list(d):
                plain = type(key) in PLAIN
                self._read("item", d, key, entry.format(name, key if plain else type(key)))
        else:
            self._in_bulk("values", name, d)

    def _array(self, name: str, x: Any) -> None:
        size = memoryview(x).nbytes if not isinstance(x, np.ndarray) else x.nbytes
        objects = isinstance(x, np.ndarray) and x.dtype.hasobject
        if size > MOST_BYTES or objects:
            what = "of Python objects" if objects else f"of {size:,} bytes, too large to compare before every call"
            raise _refused(name, f"an array {what}", TENSOR.format(name=name))
        self._read("content", x, None, name, follow=False)
        if isinstance(getattr(x, "__dict__", None), dict):  # a masked array's mask
            self._dict(name, x.__dict__, "{}.{}")


def _parts(x: Any) -> Iterator[Any]:
    """What something that only wraps other things is made of."""
    if isinstance(x, (types.BuiltinMethodType, types.MethodWrapperType)):
        yield from () if isinstance(x.__self__, types.ModuleType) else (x.__self__,)
    elif isinstance(x, types.MethodType):
        yield from (x.__func__, x.__self__)
    elif isinstance(x, (functools.partial, functools.partialmethod)):
        yield from (x.func, x.args, x.keywords)
    elif isinstance(x, property):
        yield from (f for f in (x.fget, x.fset) if f)
    elif isinstance(x, (staticmethod, classmethod)):
        yield x.__func__
    elif isinstance(x, functools.cached_property):
        yield x.func
    elif isinstance(x, VIEWS):
        yield x.mapping
    elif isinstance(x, functools._lru_cache_wrapper):
        yield x.__wrapped__


def _one_by_one(elements: Any) -> bool:
    """Whether the elements of a container are read one by one: a tensor among them is an operand."""
    return len(elements) <= FEW or any(isinstance(x, Handle) for x in elements)


def _leads_on(x: Any) -> bool:
    """Whether the user's code is called through it, or it is an object of the user's."""
    functions = (types.FunctionType, types.MethodType, functools.partial)
    if isinstance(x, type):
        return _is_user_class(x)
    return isinstance(x, functions) or hasattr(type(x), "_read_fields") or _is_users(type(x))


def _is_library_module(x: Any) -> bool:
    return isinstance(x, types.ModuleType) and library_module(x.__name__)


def _is_user_class(c: type) -> bool:
    made_by_exec = c.__module__ == "builtins" and c.__flags__ & HEAP_TYPE  # in a namespace without a name
    return bool(made_by_exec) or not library_module(c.__module__)


def _is_users(cls: type) -> bool:
    return any(map(_is_user_class, cls.__mro__))


def _base(cls: type) -> type:
    """The library's class that a container's class derives from: the user's may define iteration anew."""
    return next(c for c in cls.__mro__ if not _is_user_class(c))

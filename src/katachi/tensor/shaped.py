"""`Shaped` and `shape_vars` as users get them: what a checker reads before the run is checked at every call too.

What the types cannot see (data from a file, sizes in plain ints) is compared here with the same strings.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import typing
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from katachi.errors import ShapeError
from katachi.tensor.handle import Handle

if TYPE_CHECKING:
    from shape_extensions import Shaped as Shaped
    from shape_extensions import shape_vars as shape_vars
else:
    from typing import Annotated as Shaped  # noqa: F401

MOST = 1000  # sets of shapes a function remembers to have checked
ANY_SIZE = ("int", "_")  # names in a pattern that stand for a size nobody asks about


class Want(NamedTuple):
    """What one value must be: a pattern, or what its elements must be."""

    pattern: ast.expr | None
    text: str
    elements: tuple[tuple[Want, ...], ...] = ()


class Checked(NamedTuple):
    """A function's patterns, and the names in them that its own declaration does not have."""

    parameters: tuple[tuple[int, str, tuple[Want, ...]], ...]  # (place, name, patterns)
    result: tuple[Want, ...]
    foreign: frozenset[str]


Sizes = dict[str, Any]  # name: a size, or a shape for a name declared with a star
_sizes: weakref.WeakKeyDictionary[Any, Sizes] = weakref.WeakKeyDictionary()  # object: what its class's names are


def _declared(declaration: str) -> list[str]:
    names = [n.strip().removeprefix("*") for n in declaration.split(",") if n.strip()]
    for name in names:
        if not name.isidentifier():
            raise ValueError(f"shape_vars: {name!r} in {declaration!r} is not a name")
    return names


def _parsed(text: str, where: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise ValueError(f"shape_vars: {where}: {text!r} is not a shape") from None


def _wants(annotation: Any, where: str) -> Iterator[Want]:
    """The patterns in an annotation, which is a string, or an object where annotations are evaluated."""
    if isinstance(annotation, str):
        try:
            yield from _in_source(ast.parse(annotation, mode="eval").body, where)
        except SyntaxError:
            return
    elif typing.get_origin(annotation) is typing.Annotated:
        for text in annotation.__metadata__:
            if isinstance(text, str):
                yield Want(_parsed(text, where), text)
    elif typing.get_origin(annotation) is tuple:
        yield _tuple_of(tuple(tuple(_wants(a, where)) for a in typing.get_args(annotation)))
    else:
        for a in typing.get_args(annotation):
            yield from _wants(a, where)


def _in_source(node: ast.expr, where: str) -> Iterator[Want]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):  # an annotation quoted once more
        yield from _wants(node.value, where)
    elif isinstance(node, ast.BinOp):  # X | None
        yield from _in_source(node.left, where)
        yield from _in_source(node.right, where)
    elif isinstance(node, ast.Subscript):
        name = ast.unparse(node.value).rpartition(".")[2]
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name == "Shaped":
            if len(inside) == 2 and isinstance(inside[1], ast.Constant) and isinstance(inside[1].value, str):
                yield Want(_parsed(inside[1].value, where), inside[1].value)
        elif name == "tuple":
            yield _tuple_of(tuple(tuple(_in_source(e, where)) for e in inside))
        elif name in ("Tensor", "Variable", "Parameter", "Optional", "Union"):
            for e in inside:
                yield from _in_source(e, where)


def _tuple_of(elements: tuple[tuple[Want, ...], ...]) -> Want:
    return Want(None, "", elements)


def _names(want: Want) -> Iterator[str]:
    """The size variables in a pattern; not `int`, and not the rules that it calls."""
    if want.pattern is not None:
        rules = {id(n.func) for n in ast.walk(want.pattern) if isinstance(n, ast.Call)}
        rules |= {id(n.value) for n in ast.walk(want.pattern) if isinstance(n, ast.Subscript)}
        for n in ast.walk(want.pattern):
            if isinstance(n, ast.Name) and id(n) not in rules and n.id not in ANY_SIZE:
                yield n.id
    for alternatives in want.elements:
        for w in alternatives:
            yield from _names(w)


class _Match:
    """One call: what its names have turned out to be."""

    def __init__(self, where: str, known: Sizes) -> None:
        self.where, self.known = where, known

    def bind(self, what: str, want: Want, value: Any) -> None:
        """Give names that stand alone in the pattern their sizes; ranks and numbers are compared at once."""
        if want.pattern is None:
            for alternatives, v in self._pairs(want, value):
                for w in alternatives:
                    self.bind(what, w, v)
            return
        shape = _shape_of(value)
        if shape is None:
            return
        for pattern, actual in self._sides(what, want, shape):
            if isinstance(pattern, ast.Name) and pattern.id not in ANY_SIZE:
                if self.known.setdefault(pattern.id, actual) != actual:
                    self.fail(what, want, shape)
            elif isinstance(pattern, ast.Constant) and pattern.value != actual:
                self.fail(what, want, shape)

    def compare(self, what: str, want: Want, value: Any) -> None:
        """Compare what is computed from names, `2 * N`, once all names are bound."""
        if want.pattern is None:
            for alternatives, v in self._pairs(want, value):
                for w in alternatives:
                    self.compare(what, w, v)
            return
        shape = _shape_of(value)
        if shape is None:
            return
        for pattern, actual in self._sides(what, want, shape):
            if isinstance(pattern, (ast.BinOp, ast.UnaryOp)):
                try:
                    size = eval(compile(ast.Expression(pattern), "<shape>", "eval"), {"__builtins__": {}}, self.known)
                except (NameError, TypeError, ZeroDivisionError):  # not known in this call, or a rule for checkers
                    continue
                if size != actual:
                    self.fail(what, want, shape)

    def _pairs(self, want: Want, value: Any) -> Iterator[tuple[tuple[Want, ...], Any]]:
        if isinstance(value, tuple) and len(value) == len(want.elements):
            yield from zip(want.elements, value, strict=True)

    def _sides(self, what: str, want: Want, shape: Any) -> Iterator[tuple[ast.expr, Any]]:
        """(pattern, what it stands for) of every axis, and of the axes under a star."""
        if not isinstance(want.pattern, ast.List):
            assert want.pattern is not None
            yield want.pattern, shape
            return
        if not isinstance(shape, tuple):
            return
        patterns = want.pattern.elts
        stars = [i for i, p in enumerate(patterns) if isinstance(p, ast.Starred)]
        extra = len(shape) - len(patterns)
        if len(stars) > 1 or extra < -len(stars) or (not stars and extra):
            if len(stars) < 2:
                self.fail(what, want, shape)
            return
        at = 0
        for p in patterns:
            if isinstance(p, ast.Starred):
                inner = p.value.slice if isinstance(p.value, ast.Subscript) else p.value  # *Elements[R] or *R
                yield inner, shape[at : at + extra + 1]
                at += extra + 1
            else:
                yield p, shape[at]
                at += 1

    def fail(self, what: str, want: Want, shape: Any) -> None:
        known = ", ".join(f"{n} = {self.known[n]}" for n in dict.fromkeys(_names(want)) if n in self.known)
        raise ShapeError(
            f"{self.where}: {what} must {'have shape' if isinstance(shape, tuple) else 'be'} {want.text}"
            f"{f' with {known}' if known else ''}, got {shape}"
        )


def _shape_of(value: Any) -> Any:
    """A tensor's shape, or the int or tuple of ints itself; None for anything else."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return tuple(shape)
    if isinstance(value, tuple) and all(isinstance(n, int) for n in value):
        return value
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _read(function: Callable[..., Any], own: list[str]) -> Checked:
    notes = getattr(function, "__annotations__", {})
    where = function.__qualname__
    parameters = []
    for place, p in enumerate(inspect.signature(function).parameters.values()):
        if p.name in notes and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            wants = tuple(w for w in _wants(notes[p.name], where) if w.text or any(w.elements))
            if wants:
                parameters.append((place if p.kind is not p.KEYWORD_ONLY else 1 << 30, p.name, wants))
    result = tuple(w for w in _wants(notes.get("return"), where) if w.text or any(w.elements))
    used = {n for _, _, wants in parameters for w in wants for n in _names(w)} | {n for w in result for n in _names(w)}
    return Checked(tuple(parameters), result, frozenset(used - set(own)))


def _unknown(where: str, names: frozenset[str], has: list[str]) -> NameError:
    return NameError(
        f"shape_vars: {where} uses {', '.join(sorted(names))}, which nobody declares"
        + (f"; declared are {', '.join(has)}" if has else '; write @shape_vars("...") with the names')
    )


def _class_names(cls: type) -> set[str]:
    return {n for c in cls.__mro__ for n in vars(c).get("__shape_vars__", ())}


def _checked(function: Callable[..., Any], own: list[str]) -> Callable[..., Any]:
    checks = _read(function, own)
    where = function.__qualname__
    scope = where.rpartition("<locals>.")
    is_method, is_inner = "." in scope[2], bool(scope[1])
    if checks.foreign and not is_method and not is_inner:
        raise _unknown(where, checks.foreign, own)
    if not checks.parameters and not checks.result:
        return function
    sure = set[type]()  # classes that declare what is foreign here
    fitting: dict[Any, Any] = {}  # sizes and shapes that were found to fit: the result's shape

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        known: Sizes = {}
        if is_method and args:
            if checks.foreign and type(args[0]) not in sure:
                if not is_inner and (unknown := checks.foreign - _class_names(type(args[0]))):
                    raise _unknown(where, unknown, own)
                sure.add(type(args[0]))
            if type(args[0]).__hash__ is not None:
                known.update(_sizes.get(args[0], {}))
        values = [args[place] if place < len(args) else kwargs.get(name) for place, name, _ in checks.parameters]
        try:
            key = (*known.items(), *[v._aval.shape if isinstance(v, Handle) else v for v in values])
            passed = key in fitting
        except TypeError:  # a list, say
            key, passed = None, False
        match = _Match(where, known)
        if not passed:
            given = [
                (name, w, v)
                for (_, name, wants), v in zip(checks.parameters, values, strict=True)
                if v is not None
                for w in wants
            ]
            for name, want, value in given:
                match.bind(name, want, value)
            for name, want, value in given:
                match.compare(name, want, value)
        out = function(*args, **kwargs)
        shape = out._aval.shape if isinstance(out, Handle) else None
        if passed and shape is not None and fitting[key] == shape:
            return out
        if passed:  # known to fit, but not what the names are
            for (_, name, wants), value in zip(checks.parameters, values, strict=True):
                for want in wants if value is not None else ():
                    match.bind(name, want, value)
        for want in checks.result:
            match.bind("the result", want, out)
            match.compare("the result", want, out)
        if key is not None and shape is not None:
            if len(fitting) == MOST:
                fitting.clear()
            fitting[key] = shape
        return out

    run.__shape_checks__ = checks  # type: ignore[attr-defined]  # for the class around it
    return run


def _remembering(cls: type, own: list[str]) -> None:
    """Let objects of a class know what the names declared on it are, from the sizes their constructor gets."""
    init = vars(cls).get("__init__")
    if init is None:
        return
    checks = _read(init, own)
    if checks.foreign - _class_names(cls) and "<locals>" not in cls.__qualname__:
        raise _unknown(init.__qualname__, checks.foreign - _class_names(cls), own)

    @functools.wraps(init)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        match = _Match(init.__qualname__, {})
        for place, name, wants in checks.parameters:
            value = args[place - 1] if place - 1 < len(args) else kwargs.get(name)
            for want in wants:
                match.bind(name, want, value)
        with contextlib.suppress(TypeError):  # neither hashed nor referred to weakly: its methods check less
            _sizes.setdefault(self, {}).update({n: size for n, size in match.known.items() if n in own})
        init(self, *args, **kwargs)

    cls.__init__ = construct  # type: ignore[misc]


def _itself(cls: type, parameters: Any) -> type:
    return cls


if not TYPE_CHECKING:

    def shape_vars(declaration, *, required=False):
        """Declares the names of sizes that the `Shaped[...]` of a function or class use: `@shape_vars("B, *Rest")`.

        A function checks its arguments and its result at every call: ShapeError. A name that is not declared is a
        NameError. The methods of a class know its names from the ints that its constructor gets as `Shaped[int, "N"]`.

        >>> import katachi as kt
        >>> from katachi import Shaped, Tensor, shape_vars
        >>> @shape_vars("B, N")
        ... def last(x: Shaped[Tensor, "[B, N]"], at: Shaped[Tensor, "[B]"]) -> Shaped[Tensor, "[B]"]:
        ...     return x[:, -1]
        >>> last(kt.ones(2, 3), kt.ones(4))
        Traceback (most recent call last):
        katachi.errors.ShapeError: last: at must have shape [B] with B = 2, got (4,)
        """
        own = _declared(declaration)

        def decorate(thing):
            if not isinstance(thing, type):
                return _checked(thing, own)
            if not hasattr(thing, "__class_getitem__"):
                thing.__class_getitem__ = classmethod(_itself)
            thing.__shape_vars__ = tuple(own)
            for value in vars(thing).values():
                checks = getattr(value, "__shape_checks__", None)
                unknown = checks.foreign - _class_names(thing) if checks is not None else None
                if unknown and "<locals>" not in thing.__qualname__:
                    raise _unknown(value.__qualname__, unknown, [*own, *sorted(_class_names(thing) - set(own))])
            _remembering(thing, own)
            return thing

        return decorate

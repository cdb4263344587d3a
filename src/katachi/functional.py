"""What a user applies to functions: grad, value_and_grad, vjp, jvp; and gradients of values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from katachi.errors import GradientError
from katachi.graph.node import aval
from katachi.graph.primitives import hole, make
from katachi.tensor import differentiate
from katachi.tensor.apply import apply
from katachi.tensor.elementwise import TRACK
from katachi.tensor.entry import Op
from katachi.tensor.modes import changed
from katachi.tensor.signatures import gradient, pullback, pulled_values, pushforward, valued_gradient
from katachi.tensor.tensor import Tensor
from katachi.tensor.trace import current
from katachi.tensor.types import like


@like(pulled_values)
def gradients(
    output: Any, inputs: Iterable[Any], *, retain_graph: bool = False, create_graph: bool = False
) -> dict[Any, Any]:
    """A store {input: gradient of the scalar output}. `.grad` is left alone; `optimizer.step(store)` drains it.

    Raises GradientError for a constant output, and for an input that the output does not depend on.

    >>> import katachi as kt
    >>> v = kt.variable([3.0]); kt.gradients((v * v).sum(), [v])[v].tolist()
    [6.0]
    """
    wanted = list(inputs)
    for x in (output, *wanted):
        _variable_needed("gradients", x)
    _, found = differentiate.gradients([output], [None], wanted, retain_graph, create_graph)
    for i, g in enumerate(found):
        if g is None:
            raise GradientError(f"gradients: the output does not depend on input {i}, {wanted[i]._aval!r}")
    return dict(zip(wanted, found, strict=True))


def _variable_needed(what: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise GradientError(f"{what}: needs tensors, got {type(x).__name__}")
    if not x._aval.tracked:
        raise GradientError(
            f"{what}: needs variables, but this {x._aval!r} is a constant; x.unfreeze() makes one of it"
        )


@like(valued_gradient)
def value_and_grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """A function that gives f's scalar result and its gradient with respect to the positional arguments `argnums`.

    The arguments are variables within f; the results are constants unless f's arguments or what it captures are not.
    Raises GradientError when the result does not depend on an argument.

    >>> import katachi as kt
    >>> y, g = kt.value_and_grad(lambda x: x * x)(kt.tensor(3.0)); y.item(), g.item()
    (9.0, 6.0)
    """
    places = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def run(*args: Any, **kwargs: Any) -> Any:
        inside, wanted = _track("grad", args, places)
        with _differentiating(args) as nested:
            y = f(*inside, **kwargs)
        if not isinstance(y, Tensor) or not y._aval.tracked:
            raise GradientError("grad: the function's result is a constant: it does not depend on its variables")
        (value,), found = differentiate.gradients([y], [None], wanted, retain_graph=True, dissolve=True, nested=nested)
        for place, g in zip(places, found, strict=True):
            if g is None:
                raise GradientError(f"grad: the function's result does not depend on argument {place}")
        return value, found[0] if isinstance(argnums, int) else tuple(found)

    return run


@like(gradient)
def grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The gradient of a scalar function, as a function; it can be differentiated again.

    >>> import katachi as kt
    >>> kt.grad(kt.grad(lambda x: x * x * x))(kt.tensor(2.0)).item()
    12.0
    """
    both: Callable[..., Any] = value_and_grad(f, argnums)  # type: ignore[call-overload]  # two of its overloads
    return lambda *args, **kwargs: both(*args, **kwargs)[1]


@like(pullback)
def vjp(f: Callable[..., Any], *args: Any) -> tuple[Any, Callable[..., Any]]:
    """f's result and the function that pulls a cotangent of it back to the arguments (one, or a tuple for several).

    >>> import katachi as kt
    >>> y, pull = kt.vjp(lambda x: x * x, kt.tensor([1.0, 2.0])); pull(kt.ones(2)).tolist()
    [2.0, 4.0]
    """
    inside, wanted = _track("vjp", args, tuple(range(len(args))))
    with _differentiating(args) as nested:
        y = f(*inside)
    if not isinstance(y, Tensor) or not y._aval.tracked:
        raise GradientError("vjp: the function's result is a constant: it does not depend on its variables")

    def pull(cotangent: Any) -> Any:
        _, found = differentiate.gradients([y], [cotangent], wanted, retain_graph=True, dissolve=True, nested=nested)
        full = [_zeros_like(x) if g is None else g for x, g in zip(args, found, strict=True)]
        return full[0] if len(full) == 1 else tuple(full)

    return y, pull


@like(pushforward)
def jvp(f: Callable[..., Any], args: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """f's result and its derivative along `tangents`, one an argument.

    >>> import katachi as kt
    >>> y, t = kt.jvp(lambda x: x * x, (kt.tensor(3.0),), (kt.tensor(1.0),)); t.item()
    6.0
    """
    if len(args) != len(tangents):
        raise GradientError(f"jvp: {len(args)} arguments need as many tangents, got {len(tangents)}")
    for i, (x, t) in enumerate(zip(args, tangents, strict=True)):
        if not isinstance(x, Tensor) or not isinstance(t, Tensor):
            raise GradientError(f"jvp: argument {i} and its tangent must be tensors, got {x!r} and {t!r}")
        if x.shape != t.shape or x.dtype is not t.dtype:
            raise GradientError(f"jvp: the tangent of {x._aval!r} must be like it, got {t._aval!r}")
    inside, wanted = _track("jvp", args, tuple(range(len(args))))
    with _differentiating(args) as nested:
        y = f(*inside)
    if not isinstance(y, Tensor):
        raise GradientError(f"jvp: the function must return a tensor, got {type(y).__name__}")
    value, tangent = differentiate.jvp([y], wanted, tangents, nested)
    return value, tangent


HOLE = Op("custom_gradient", lambda shape, dtype, device: hole(aval(shape, dtype, device, False)))
CUSTOM = Op("custom_gradient", lambda nodes, n: make("custom_gradient", *nodes, arguments=n), variadic=True)


def custom_gradient(f: Callable[..., Any]) -> Callable[..., Any]:
    """f with a gradient of your own. f(*tensors) returns (y, pull): y is computed from constants, and pull(cotangent of
    y) gives one gradient an argument, by operations on tensors: it cannot look at values, being traced in
    advance.

    Raises GradientError for gradients that do not match the arguments.

    >>> import katachi as kt
    >>> clipped = kt.custom_gradient(lambda x: (x * x, lambda g: kt.minimum(g * 2.0 * x, 1.0)))
    >>> v = kt.variable([3.0]); clipped(v).sum().backward(); v.grad.tolist()
    [1.0]
    """

    def run(*args: Any) -> Any:
        if not all(isinstance(x, Tensor) for x in args):
            raise GradientError(f"custom_gradient: arguments must be tensors, got {[type(x).__name__ for x in args]}")
        with changed(eager=False):
            y, pull = f(*[x.freeze() for x in args])
            gap = apply(HOLE, (), (y.shape, y.dtype, y.device))
            found = pull(gap)
            found = found if isinstance(found, tuple) else (found,)
            if len(found) != len(args):
                raise GradientError(f"custom_gradient: {len(args)} arguments need as many gradients, got {len(found)}")
            for i, (x, g) in enumerate(zip(args, found, strict=True)):
                if not isinstance(g, Tensor) or g.shape != x.shape or g.dtype is not x.dtype:
                    got = repr(g._aval) if isinstance(g, Tensor) else type(g).__name__
                    raise GradientError(f"custom_gradient: the gradient of argument {i} must be {x._aval!r}, got {got}")
            return apply(CUSTOM, (y, *args, gap, *found), (len(args),))

    return run


def checkpoint(f: Callable[..., Any]) -> Callable[..., Any]:
    """f with a smaller memory: what it computes on the way is not kept for the backward pass, but computed again there
    (Chen et al., "Training deep nets with sublinear memory cost", 2016). Results and gradients are the same.

    >>> import katachi as kt
    >>> v = kt.variable([0.5]); kt.checkpoint(lambda x: x.tanh().exp())(v).sum().backward(); round(v.grad.item(), 4)
    1.2484
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        t = current()
        if t.modes.region:  # part of a larger region already
            return f(*args, **kwargs)
        t.regions += 1
        with changed(region=t.regions):
            return f(*args, **kwargs)

    return run


@contextmanager
def _differentiating(args: tuple[Any, ...]) -> Iterator[bool]:
    """Within it a function under differentiation runs. Whether somebody may differentiate the result again: a function
    around this one, or the owner of an argument that is variable anyway."""
    t = current()
    t.nesting += 1
    try:
        yield t.nesting > 1 or any(isinstance(x, Tensor) and x._aval.tracked for x in args)
    finally:
        t.nesting -= 1


def _track(what: str, args: tuple[Any, ...], places: tuple[int, ...]) -> tuple[list[Any], list[Any]]:
    """The arguments with those at `places` made variable for this purpose, and these alone."""
    inside = list(args)
    for i in places:
        x = args[i] if -len(args) <= i < len(args) else None
        if not isinstance(x, Tensor) or not x.dtype.is_floating:
            found = x._aval if isinstance(x, Tensor) else type(x).__name__
            raise GradientError(f"{what}: argument {i} must be a floating-point tensor, got {found}")
        inside[i] = apply(TRACK, (x,))
    return inside, [inside[i] for i in places]


def _zeros_like(x: Any) -> Any:
    from katachi.tensor.creation import zeros_like

    return zeros_like(x)

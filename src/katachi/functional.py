"""What a user applies to functions: grad, value_and_grad, vjp, jvp, vmap; and gradients of values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import ref

from katachi.errors import DTypeError, Error, GradientError, ShapeError
from katachi.graph.node import Node, aval, toposort
from katachi.graph.primitives import hole, make
from katachi.graph.site import describe
from katachi.tensor import differentiate
from katachi.tensor.apply import apply
from katachi.tensor.control import bare, together
from katachi.tensor.deferred import Escaped
from katachi.tensor.elementwise import TRACK
from katachi.tensor.entry import Op
from katachi.tensor.handle import Handle
from katachi.tensor.modes import changed
from katachi.tensor.signatures import gradient, mapping, pullback, pulled_values, pushforward, valued_gradient
from katachi.tensor.tensor import Tensor
from katachi.tensor.trace import Trace, current, flush
from katachi.tensor.types import like
from katachi.transforms.batching import batch, from_front, spread, to_front


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
        hint = (
            "x.unfreeze() makes one of it" if x._cell is None else "[p for p in parameters if p.requires_grad] has none"
        )
        raise GradientError(f"{what}: needs variables, but this {x._aval!r} is a constant; {hint}")


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

    # what was made variable for this purpose only is nobody else's, so neither is a graph to keep for y
    others = nested or any(all(leaf is not w for w in wanted) for leaf in differentiate.leaves_of(y))
    return (y if others else y.freeze()), pull


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


def _custom(nodes: Sequence[Node], n: int) -> Node:
    return make("custom_gradient", *nodes[: n + 1], *bare(nodes[n + 1 : n + 2]), *nodes[n + 2 :], arguments=n)


CUSTOM = Op("custom_gradient", _custom, variadic=True)


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
            t = current()
            y, pull = f(*[x.freeze() for x in args])
            try:
                t.unfinished += 1
                gap = apply(HOLE, (), (y.shape, y.dtype, y.device))
                found = pull(gap)
            finally:
                t.unfinished -= 1
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


EXAMPLE = Op("vmap", lambda shape, dtype, device, tracked: hole(aval(shape, dtype, device, tracked)))
RANDOMNESS = ("error", "different", "same")


@like(mapping)
def vmap(
    f: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0, *, randomness: str = "error"
) -> Callable[..., Any]:
    """f, which is written for one example, for many at once: its operations run once, each on all examples.

    `in_axes` says which axis of the arguments counts the examples: an int for all, or a tuple with an entry for each
    argument. An entry is an int, None for what is the same for all examples (which may be anything, a module too), or a
    tuple, list or dict of entries for such an argument. `out_axes` says the same of the results: an axis, or None for
    what cannot differ. f sees arguments without that axis; keyword arguments are the same for all. Random draws are
    allowed with `randomness="different"` for each example, or "same" for all.

    Shapes: for arguments (N, *A) and a result *R of f the result is (N, *R). Raises ShapeError for sizes N that differ,
    axes that are not there, and a result that differs under an out_axes of None; Error where f looks at a value, draws
    at random without leave, or sets state to what differs between examples.

    >>> import katachi as kt
    >>> kt.vmap(lambda a, b: a @ b)(kt.ones((5, 3)), kt.ones((5, 3))).shape
    (5,)
    >>> kt.vmap(kt.grad(lambda w, x: (w * x).sum() ** 2), in_axes=(None, 0))(kt.ones(2), kt.ones((3, 2))).shape
    (3, 2)
    """
    if randomness not in RANDOMNESS:
        raise ValueError(f"vmap: randomness is one of {', '.join(RANDOMNESS)}, got {randomness!r}")

    def run(*args: Any, **kwargs: Any) -> Any:
        t = current()
        before, start, stop = t.examples, len(t.refs), None
        try:
            t.unfinished += 1
            with changed(eager=False):
                result = _for_all(t, f, in_axes, out_axes, randomness, args, kwargs)
            stop = len(t.refs) - len(t.last.nodes)  # the last are the results
        finally:
            t.unfinished -= 1
            inside, t.examples = t.examples - before, before
            _let_go(t, t.refs[start:stop], inside)
        if t.modes.eager:
            flush(t)
        return result

    return run


def _for_all(
    t: Trace, f: Callable[..., Any], in_axes: Any, out_axes: Any, randomness: str, args: Any, kwargs: Any
) -> Any:
    """f's result for all examples."""
    given: list[tuple[Any, int, str]] = []

    def collect(x: Any, axis: int | None, name: str) -> Any:
        if axis is not None:
            given.append((x, _axis(name, x, axis, x.ndim), name))
        return x

    _each(args, in_axes, "arguments", collect)
    size = _examples(given)
    given = [
        (x, axis, name) for x, (_, axis, name) in zip(together("vmap", [x for x, _, _ in given]), given, strict=True)
    ]
    places = []
    for x, axis, _ in given:
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        places.append(apply(EXAMPLE, (), (shape, x.dtype, x.device, x._aval.tracked)))
        t.examples |= {t.last.nodes[0]}
    rest = iter(places)
    result = f(*_each(args, in_axes, "arguments", lambda x, axis, name: x if axis is None else next(rest)), **kwargs)
    outs: list[Any] = []
    axes: list[int | None] = []

    def deliver(x: Any, axis: int | None, name: str) -> None:
        outs.append(x)
        axes.append(None if axis is None else _axis(name, x, axis, x.ndim + 1))

    _each(result, out_axes, "the result", deliver)
    ins = tuple([axis for _, axis, _ in given])
    operands = (*[x for x, _, _ in given], *places, *outs)
    made = iter(apply(VMAP, operands, (ins, tuple(axes), size, randomness), many=True))
    return _each(result, out_axes, "the result", lambda x, axis, name: next(made))


def _each(x: Any, axes: Any, name: str, leaf: Callable[[Any, int | None, str], Any]) -> Any:
    """x with leaf(tensor, its axis, its name) for its tensors; `axes` is like x, or ends sooner where all is alike."""
    if isinstance(axes, (tuple, list)) and not (isinstance(x, (tuple, list)) and len(x) == len(axes)):
        raise ShapeError(f"vmap: the axes {axes!r} are for {len(axes)} things, but {name} is {_brief(x)}")
    if isinstance(axes, dict) and not (isinstance(x, dict) and x.keys() == axes.keys()):
        raise ShapeError(f"vmap: the axes {axes!r} are for a dict with these keys, but {name} is {_brief(x)}")
    if isinstance(x, Tensor):
        return leaf(x, axes, name)
    if isinstance(x, (tuple, list)):
        inner = axes if isinstance(axes, (tuple, list)) else [axes] * len(x)
        parts = [_each(v, a, f"{name}[{i}]", leaf) for i, (v, a) in enumerate(zip(x, inner, strict=True))]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    if isinstance(x, dict):
        return {k: _each(v, axes[k] if isinstance(axes, dict) else axes, f"{name}[{k!r}]", leaf) for k, v in x.items()}
    if axes is not None and x is not None:
        raise DTypeError(f"vmap: {name} is {_brief(x)}, and only tensors have an axis {axes!r}; say None for its axis")
    return x


def _brief(x: Any) -> str:
    if isinstance(x, Tensor):
        return repr(x._aval)
    size = f" of {len(x)}" if isinstance(x, (tuple, list)) else f" of {list(x)}" if isinstance(x, dict) else ""
    return f"a {type(x).__name__}{size}"


def _axis(name: str, x: Any, axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ShapeError(f"vmap: {name}, {x._aval!r}, cannot have the examples on axis {axis}: there are {rank} axes")
    return axis % rank


def _examples(given: list[tuple[Any, int, str]]) -> int:
    """How many examples there are."""
    sizes = {x.shape[axis] for x, axis, _ in given}
    if not sizes:
        raise ShapeError("vmap: in_axes leaves no argument with an axis of examples, and one must have it")
    if len(sizes) > 1:
        told = ", ".join(f"{x.shape[axis]} on axis {axis} of {name} ({x._aval!r})" for x, axis, name in given)
        raise ShapeError(f"vmap: needs one number of examples, got {told}")
    return sizes.pop()


def _vmapped(
    nodes: Sequence[Node], in_axes: tuple[int, ...], out_axes: tuple[int | None, ...], size: int, randomness: str
) -> tuple[Node, ...]:
    n = len(in_axes)
    given, places, outs = nodes[:n], bare(nodes[n : 2 * n]), nodes[2 * n :]
    begun = min(p.serial for p in places)

    def draws(node: Node) -> bool:
        """Whether this is a draw of the function's own that is to differ from example to example."""
        if node.primitive != "rng_bits":
            return False
        if max(x.serial for x in toposort(node.inputs) if x.primitive == "input") < begun:  # drawn before
            return False
        if randomness == "error":
            raise Error(
                f"random numbers are drawn inside, at {describe(node.site)}: say randomness='different' for each "
                "example's own, or 'same' for the same ones"
            )
        return randomness == "different"

    at = {p: to_front(x, axis) for p, x, axis in zip(places, given, in_axes, strict=True)}
    found = batch(toposort(outs), at, size, draws)
    results = []
    for o, axis in zip(outs, out_axes, strict=True):
        if axis is None and o in found:
            raise ShapeError(f"out_axes is None for a result, {o.aval!r}, that differs from example to example")
        results.append(o if axis is None else from_front(found.get(o) or spread(o, size), axis))
    return tuple(results)


GONE = Escaped("vmap", "stood for one example inside a function that runs once for all")
VMAP = Op("vmap", _vmapped, variadic=True)


def _let_go(t: Trace, refs: Sequence[ref[Handle]], inside: frozenset[Node]) -> None:
    """Whatever of one example is still held, by an error's frames perhaps, must not keep the trace from ending."""
    held = [h for r in refs if (h := r()) is not None and h._value is None and h._slot >= t.base]
    if held:
        slots = t.entry.slots()
        for h in held:
            if not inside.isdisjoint(toposort([slots[h._slot - t.base]])):
                h._origin, h._slot = GONE, -1


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

"""Control flow that is part of the program: cond, while_loop, scan.

The functions given are traced once, on tensors without values, so they cannot look at any, nor set state; a random
number that one draws is drawn at the trace, so all runs of a loop's body see the same. They may use any tensor from
around them. What they compute of these alone is part of a branch of `cond`, and computed if that is chosen; in a loop's
body it is computed once, before the loop, unless the body may never run and computing it may fail. Python's own `if`,
`while` and `for` on values work as well; looking at a value ends the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from katachi.errors import DTypeError, ShapeError
from katachi.graph.control import Body, always, elements, may_fail, never
from katachi.graph.dtypes import bool_
from katachi.graph.node import Aval, Node, aval
from katachi.graph.primitives import hole, is_hole, make
from katachi.tensor.apply import apply
from katachi.tensor.deferred import Escaped
from katachi.tensor.entry import Op
from katachi.tensor.modes import changed
from katachi.tensor.tensor import Tensor
from katachi.tensor.trace import current, flush

HOLE = Op("a traced function", lambda shape, dtype, device: hole(aval(shape, dtype, device, dtype.is_floating)))


TOGETHER = {name: Op(name, tuple, variadic=True) for name in ("scan", "while_loop", "cond", "vmap")}


def together(name: str, xs: Sequence[Any]) -> Sequence[Any]:
    """The tensors on the device where an operation on all of them runs, so that what is traced on their kinds does."""
    return xs if len({x._aval.device for x in xs}) < 2 else apply(TOGETHER[name], xs, many=True)


def _several(name: str, what: str, x: Any) -> tuple[Any, ...]:
    """One tensor, or a tuple or list of them, as a tuple."""
    xs = tuple(x) if isinstance(x, (tuple, list)) else (x,)
    for t in xs:
        if not isinstance(t, Tensor):
            raise DTypeError(f"{name}: {what} must be a tensor or a tuple of tensors, got {type(t).__name__}")
    return xs


def _like(x: Any, results: Sequence[Any]) -> Any:
    """Results in the form that x had."""
    return tuple(results) if isinstance(x, (tuple, list)) else results[0]


@contextmanager
def _tracing(name: str) -> Iterator[None]:
    """Within it the functions given to `name` run, and the last operation makes its results of all that they have made,
    which nobody else can use."""
    t = current()
    start, stop = len(t.refs), None
    try:
        with changed(eager=False, tracing=name):
            yield
        stop = len(t.refs) - len(t.last.nodes)
    finally:
        gone = Escaped(name, "was made inside a function that is traced once, however often it runs")
        for r in t.refs[start:stop]:
            h = r()
            if h is not None and h._value is None and h._slot >= t.base:
                h._origin, h._slot = gone, -1
    if t.modes.eager:
        flush(t)


def _holes(kinds: Sequence[Aval], device: str) -> tuple[Any, list[Any]]:
    """The first thing that is made inside the functions, and a tensor without a value for each of these kinds."""
    params = [apply(HOLE, (), (k.shape, k.dtype, k.device)) for k in kinds]
    return (params[0] if params else apply(HOLE, (), ((), bool_, device))), params


def bare(nodes: Sequence[Node]) -> list[Node]:
    """Parameters as they were made, whatever mark a mode has put on them since."""
    return [bare(n.inputs)[0] if n.primitive in ("stop_gradient", "to_device") else n for n in nodes]


def _before(begin: Node) -> Callable[[Node], bool]:
    """Whether a node was there before `begin`, or enters the program from outside."""
    serial = bare([begin])[0].serial
    return lambda n: n.serial < serial or (n.primitive == "input" and not is_hole(n))


def _captured(body: Body) -> list[Node]:
    """The body's captured operands; those that no gradient reaches from its results, as under no_grad, as constants."""
    reached = {n for n in body.outputs if n.tracked}
    for n in reversed(body.order):
        if n in reached:
            reached.update([x for x in n.inputs if x.tracked])
    return [make("stop_gradient", n) if n.tracked and n not in reached else n for n in body.captured]


def _same_kinds(what: str, before: Sequence[Node], after: Sequence[Node]) -> None:
    if [(n.shape, n.dtype) for n in before] != [(n.shape, n.dtype) for n in after]:
        raise ShapeError(f"{what} must stay {[n.aval for n in before]}, got {[n.aval for n in after]}")


def _scan(nodes: Sequence[Node], n: int, m: int, length: int, reverse: bool) -> tuple[Node, ...]:
    before, nodes = _before(nodes[0]), nodes[1:]
    given, params, outs = nodes[: n + m], bare(nodes[n + m : 2 * (n + m)]), nodes[2 * (n + m) :]
    _same_kinds("the carry", given[:n], outs[:n])
    body = Body(params, outs, before, never if length else always)
    bundle = make("scan", *given, *_captured(body), body=body, carry=n, length=length, reverse=reverse)
    stacks = [aval((length, *y.shape), y.dtype, y.device, False) for y in outs[n:]]
    return elements(bundle, [*(c.aval for c in outs[:n]), *stacks])


def _while(nodes: Sequence[Node], n: int) -> tuple[Node, ...]:
    before, nodes = _before(nodes[0]), nodes[1:]
    given, params, test, outs = nodes[:n], bare(nodes[n : 2 * n]), nodes[2 * n], nodes[2 * n + 1 :]
    _same_kinds("the carry", given, outs)
    if test.shape != () or test.dtype is not bool_:
        raise ShapeError(f"the condition must be a bool scalar, got {test.aval!r}")
    condition, body = Body(params, [test], before), Body(params, outs, before, may_fail)
    captured = (*_captured(condition), *_captured(body))
    return elements(make("while", *given, *captured, condition=condition, body=body, carry=n), [o.aval for o in outs])


def _cond(nodes: Sequence[Node], n: int, k: int) -> tuple[Node, ...]:
    before, which, nodes = _before(nodes[0]), nodes[1], nodes[2:]
    given, params, outs = nodes[:n], bare(nodes[n : 2 * n]), nodes[2 * n :]
    if which.shape != () or which.dtype is not bool_:
        raise ShapeError(f"the condition must be a bool scalar, got {which.aval!r}")
    yes, no = (Body(params, part, before, always) for part in (outs[:k], outs[k:]))
    _same_kinds("the result of the second function", yes.outputs, no.outputs)
    bundle = make("cond", which, *given, *_captured(yes), *_captured(no), yes=yes, no=no)
    return elements(bundle, [o.aval for o in yes.outputs])


SCAN, WHILE, COND = (
    Op("scan", _scan, variadic=True),
    Op("while_loop", _while, variadic=True),
    Op("cond", _cond, variadic=True),
)


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """carry, y = f(carry, x) along the first axis of xs; returns the last carry and the ys stacked.

    `init`, `xs` and what f returns are tensors or tuples of them; `xs` may be None with a `length`, y may be None.
    `reverse` starts at the end. Can be differentiated both ways. f may use tensors from around it; what it computes of
    these alone is computed once, and a random number that it draws is the same in every step. Raises ShapeError when
    the carry changes its shape; Error where f looks at a value or sets state.

    >>> import katachi as kt
    >>> total, sums = kt.scan(lambda c, x: (c + x, c + x), kt.tensor(0.0), kt.tensor([1.0, 2.0, 3.0]))
    >>> total.item(), sums.tolist()
    (6.0, [1.0, 3.0, 6.0])
    """
    carry, stacks = _several("scan", "init", init), _several("scan", "xs", xs) if xs is not None else ()
    both = together("scan", [*carry, *stacks])
    carry, stacks = tuple(both[: len(carry)]), tuple(both[len(carry) :])
    sizes = {s.shape[:1] for s in stacks} | ({(length,)} if length is not None else set())
    if len(sizes) != 1 or sizes == {()}:
        raise ShapeError(f"scan: needs one length, got first sizes {[s.shape for s in stacks]} and length={length}")
    (steps,) = sizes.pop()
    n, m = len(carry), len(stacks)
    kinds = [c._aval for c in carry] + [aval(s.shape[1:], s.dtype, s.device, False) for s in stacks]
    with _tracing("scan"):
        begin, params = _holes(kinds, current().modes.device)
        out = f(_like(init, params[:n]), _like(xs, params[n:]) if m else None)
        if not isinstance(out, tuple) or len(out) != 2:
            raise DTypeError("scan: the function must return (carry, y)")
        after = _several("scan", "the carry", out[0])
        ys = _several("scan", "y", out[1]) if out[1] is not None else ()
        if len(after) != n:
            raise ShapeError(f"scan: the carry must stay {n} tensors, got {len(after)}")
        results = apply(SCAN, (begin, *carry, *stacks, *params, *after, *ys), (n, m, steps, reverse), many=True)
    return _like(init, results[:n]), _like(out[1], results[n:]) if ys else None


def while_loop(condition: Callable[[Any], Any], body: Callable[[Any], Any], init: Any) -> Any:
    """carry = body(carry) as long as condition(carry), a bool scalar, holds. Forward differentiation only.

    Both may use tensors from around them; what the body computes of these alone is computed once, if it cannot fail. A
    random number that one draws is the same in every turn. Raises ShapeError when the carry changes its shape; Error
    where a function looks at a value or sets state.

    >>> import katachi as kt
    >>> kt.while_loop(lambda x: x < 100.0, lambda x: x * 2.0, kt.tensor(3.0)).item()
    192.0
    """
    carry = tuple(together("while_loop", _several("while_loop", "init", init)))
    with _tracing("while_loop"):
        begin, params = _holes([c._aval for c in carry], current().modes.device)
        test = _several("while_loop", "the condition", condition(_like(init, params)))
        out = _several("while_loop", "the carry", body(_like(init, params)))
        if len(out) != len(carry):
            raise ShapeError(f"while_loop: the carry must stay {len(carry)} tensors, got {len(out)}")
        results = apply(WHILE, (begin, *carry, *params, *test, *out), (len(carry),), many=True)
    return _like(init, results)


def cond(which: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], *operands: Any) -> Any:
    """true_fn(*operands) or false_fn(*operands), by a bool scalar; only one of them is computed.

    Both may use tensors from around them, and all that they compute of these belongs to them: where a function is not
    chosen, no index is looked up, no infinity or NaN arises, and the gradient of what it uses is zero. (What was
    computed before the call is not theirs: a zero that comes back to a root of -1 is NaN, so take the root inside.)
    Under vmap each is computed if an example chooses it, with the values of such an example in the place of those that
    do not. Both draw the random numbers they ask for, whichever is chosen. Raises ShapeError when their results differ
    in number, shape or dtype; Error where a function looks at a value or sets state.

    >>> import katachi as kt
    >>> kt.cond(kt.tensor(2.0) > 1.0, lambda x: x * 10.0, lambda x: -x, kt.tensor(3.0)).item()
    30.0
    >>> kt.grad(lambda x: kt.cond(x > 0.0, lambda: x.sqrt(), lambda: x))(kt.tensor(-1.0)).item()
    1.0
    """
    given = together("cond", _several("cond", "operands", operands))
    which = which if isinstance(which, Tensor) else _scalar(which)
    with _tracing("cond"):
        begin, params = _holes([x._aval for x in given], which.device)
        first, second = true_fn(*params), false_fn(*params)
        yes, no = (_several("cond", "the result", out) for out in (first, second))
        if len(yes) != len(no):
            raise ShapeError(f"cond: both functions must return as many tensors, got {len(yes)} and {len(no)}")
        results = apply(COND, (begin, which, *given, *params, *yes, *no), (len(given), len(yes)), many=True)
    return _like(first, results)


def _scalar(which: Any) -> Any:
    from katachi.tensor.creation import tensor

    return tensor(which)

"""Control flow that is part of the program: cond, while_loop, scan.

The functions given are traced once, on tensors without values, so they cannot look at any. Python's own `if`, `while`
and `for` on values work as well; looking at a value ends the program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from katachi.errors import DTypeError, ShapeError
from katachi.graph.control import Body, elements
from katachi.graph.dtypes import bool_
from katachi.graph.node import Aval, Node, aval
from katachi.graph.primitives import hole, make
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.modes import changed
from katachi.tensor.tensor import Tensor

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


def _trace(f: Callable[..., Any], kinds: Sequence[Aval]) -> tuple[list[Any], Any]:
    """f run once on tensors without values: these and what it returned."""
    params = [apply(HOLE, (), (k.shape, k.dtype, k.device)) for k in kinds]
    return params, f(params)


def bare(nodes: Sequence[Node]) -> list[Node]:
    """Parameters as they were made, whatever mark a mode has put on them since."""
    return [bare(n.inputs)[0] if n.primitive in ("stop_gradient", "to_device") else n for n in nodes]


def _same_kinds(what: str, before: Sequence[Node], after: Sequence[Node]) -> None:
    if [(n.shape, n.dtype) for n in before] != [(n.shape, n.dtype) for n in after]:
        raise ShapeError(f"{what} must stay {[n.aval for n in before]}, got {[n.aval for n in after]}")


def _scan(nodes: Sequence[Node], n: int, m: int, length: int, reverse: bool) -> tuple[Node, ...]:
    given, params, outs = nodes[: n + m], bare(nodes[n + m : 2 * (n + m)]), nodes[2 * (n + m) :]
    _same_kinds("the carry", given[:n], outs[:n])
    body = Body(params, outs)
    bundle = make("scan", *given, *body.captured, body=body, carry=n, length=length, reverse=reverse)
    stacks = [aval((length, *y.shape), y.dtype, y.device, False) for y in outs[n:]]
    return elements(bundle, [*(c.aval for c in outs[:n]), *stacks])


def _while(nodes: Sequence[Node], n: int) -> tuple[Node, ...]:
    given, params, test, outs = nodes[:n], bare(nodes[n : 2 * n]), nodes[2 * n], nodes[2 * n + 1 :]
    _same_kinds("the carry", given, outs)
    if test.shape != () or test.dtype is not bool_:
        raise ShapeError(f"the condition must be a bool scalar, got {test.aval!r}")
    condition, body = Body(params, [test]), Body(params, outs)
    captured = (*condition.captured, *body.captured)
    return elements(make("while", *given, *captured, condition=condition, body=body, carry=n), [o.aval for o in outs])


def _cond(nodes: Sequence[Node], n: int, k: int) -> tuple[Node, ...]:
    which, given, rest = nodes[0], nodes[1 : 1 + n], nodes[1 + n :]
    if which.shape != () or which.dtype is not bool_:
        raise ShapeError(f"the condition must be a bool scalar, got {which.aval!r}")
    first, second = rest[: n + k], rest[n + k :]
    yes, no = (Body(bare(part[:n]), part[n:]) for part in (first, second))
    _same_kinds("the result of the second function", yes.outputs, no.outputs)
    bundle = make("cond", which, *given, *yes.captured, *no.captured, yes=yes, no=no)
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
    `reverse` starts at the end. Can be differentiated both ways. Raises ShapeError when the carry changes its shape.

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
    with changed(eager=False):
        params, out = _trace(lambda ps: f(_like(init, ps[:n]), _like(xs, ps[n:]) if m else None), kinds)
        if not isinstance(out, tuple) or len(out) != 2:
            raise DTypeError("scan: the function must return (carry, y)")
        after = _several("scan", "the carry", out[0])
        ys = _several("scan", "y", out[1]) if out[1] is not None else ()
        if len(after) != n:
            raise ShapeError(f"scan: the carry must stay {n} tensors, got {len(after)}")
        results = apply(SCAN, (*carry, *stacks, *params, *after, *ys), (n, m, steps, reverse), many=True)
    return _like(init, results[:n]), _like(out[1], results[n:]) if ys else None


def while_loop(condition: Callable[[Any], Any], body: Callable[[Any], Any], init: Any) -> Any:
    """carry = body(carry) as long as condition(carry), a bool scalar, holds. Forward differentiation only.

    >>> import katachi as kt
    >>> kt.while_loop(lambda x: x < 100.0, lambda x: x * 2.0, kt.tensor(3.0)).item()
    192.0
    """
    carry = tuple(together("while_loop", _several("while_loop", "init", init)))
    with changed(eager=False):
        params, test = _trace(lambda ps: condition(_like(init, ps)), [c._aval for c in carry])
        out = _several("while_loop", "the carry", body(_like(init, params)))
        test = _several("while_loop", "the condition", test)
        if len(out) != len(carry):
            raise ShapeError(f"while_loop: the carry must stay {len(carry)} tensors, got {len(out)}")
        results = apply(WHILE, (*carry, *params, *test, *out), (len(carry),), many=True)
    return _like(init, results)


def cond(which: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], *operands: Any) -> Any:
    """true_fn(*operands) or false_fn(*operands), by a bool scalar; only one of them is computed.

    Raises ShapeError when their results differ in number, shape or dtype.

    >>> import katachi as kt
    >>> kt.cond(kt.tensor(2.0) > 1.0, lambda x: x * 10.0, lambda x: -x, kt.tensor(3.0)).item()
    30.0
    """
    given = together("cond", _several("cond", "operands", operands))
    which = which if isinstance(which, Tensor) else _scalar(which)
    with changed(eager=False):
        kinds = [x._aval for x in given]
        traced = [_trace(lambda ps, f=f: f(*ps), kinds) for f in (true_fn, false_fn)]
        outs = [_several("cond", "the result", out) for _, out in traced]
        if len(outs[0]) != len(outs[1]):
            raise ShapeError(f"cond: both functions must return as many tensors, got {len(outs[0])} and {len(outs[1])}")
        sides = [x for (params, _), out in zip(traced, outs, strict=True) for x in (*params, *out)]
        results = apply(COND, (which, *given, *sides), (len(given), len(outs[0])), many=True)
    return _like(traced[0][1], results)


def _scalar(which: Any) -> Any:
    from katachi.tensor.creation import tensor

    return tensor(which)

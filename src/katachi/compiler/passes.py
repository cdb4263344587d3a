"""THE list of passes. Each maps a program's outputs to equivalent outputs; `verify` holds before and after each.

Nodes are immutable, so a pass rebuilds what it changes, and what nothing refers to any more is gone: there is no
pass for dead nodes. On the reference device a pass must not change a single bit, so exact algebra only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from katachi.compiler import products
from katachi.compiler.simplify import simpler
from katachi.errors import GradientError
from katachi.graph.attention import FIRST_MASK, composed
from katachi.graph.dtypes import float32
from katachi.graph.halves import HALVES
from katachi.graph.node import Node, toposort
from katachi.graph.primitives import MARKS, RULES, make
from katachi.graph.site import of_update, origin
from katachi.graph.symint import always_equal
from katachi.kernels import attention, matmul

Outputs = Sequence[Node]
ADDS_UP = frozenset(("dot_general", "convolution", "reduce_window_gradient", "scatter", *FIRST_MASK))


def forget_marks(outputs: Outputs) -> list[Node]:
    """Drop what only told differentiation apart, and movements that move nothing."""

    def simpler(node: Node) -> Node:
        if node.primitive in MARKS or node.primitive == "custom_gradient":
            return node.inputs[0]
        if node.primitive in ("reshape", "broadcast_in_dim", "slice") and always_equal(
            node.shape, node.inputs[0].shape
        ):
            return node.inputs[0]
        return node

    return _rewrite(outputs, simpler)


def merge(outputs: Outputs) -> list[Node]:
    """Equal nodes with equal inputs become one."""
    known: dict[object, Node] = {}

    def once(node: Node) -> Node:
        if node.primitive in ("input", "optimization_barrier"):
            return node
        key = (
            node.primitive,
            node.inputs,
            tuple(node.attrs.items()),
            node.aval.shape,
            node.aval.dtype,
            node.aval.device,
            of_update(node.group),
        )
        if node.primitive == "constant":
            key = (*key, repr(node.attrs["value"]))  # 0.0 == -0.0, and True == 1
        return known.setdefault(key, node)

    return _rewrite(outputs, once)


def lift_barriers(outputs: Outputs) -> list[Node]:
    """What was to be computed twice is by now told apart."""
    return _rewrite(outputs, lambda n: n.inputs[0] if n.primitive == "optimization_barrier" else n)


def _for_kernels(node: Node, inputs: Sequence[Node]) -> Node | None:
    """A node that the device has no kernel for, as nodes it has kernels for; None of the others."""
    primitive, attrs, half = node.primitive, node.attrs, inputs[0].dtype if inputs else None
    if node.device != "reference" and half in HALVES and primitive in ADDS_UP:
        wide = [make("convert", x, dtype=float32) if x.dtype is half else x for x in inputs]
        made = make(primitive, *wide, **attrs)
        made = _for_kernels(made, wide) or made
        return made if node.dtype is float32 else make("convert", made, dtype=node.dtype)
    if primitive in FIRST_MASK and node.device != "reference" and not attention.suits(node):
        return composed(primitive, inputs, attrs)
    if primitive != "dot_general" or node.device == "reference":
        return None
    if node.dtype.is_floating and products.of_a_vector(inputs, attrs):
        return products.as_sums(inputs, attrs)
    if not matmul.suits(node):
        return products.as_matrices(inputs, attrs, node.shape)
    return None


def compose(outputs: Outputs) -> list[Node]:
    """What has no kernel from parts that have one; halves are added up in float32: rounded once at the end, their sums
    are as good as the reference's."""
    new: dict[Node, Node] = {}
    later = False  # whether serial numbers have to start anew, for what is made here comes before the nodes behind it
    asked = origin.site, origin.group
    try:
        for node in toposort(list(outputs)):
            inputs = tuple(new[x] for x in node.inputs)
            origin.site, origin.group = node.site, node.group  # of whatever is made for it
            made = _for_kernels(node, inputs)
            new[node] = made or (Node(node.primitive, inputs, node.attrs, node.aval) if later and inputs else node)
            later = later or made is not None
    finally:
        origin.site, origin.group = asked
    return [new[n] for n in outputs]


def exact_algebra(outputs: Outputs) -> list[Node]:
    """What is equal, bit for bit, with less work; constants folded."""
    return _rewrite(outputs, simpler)


PASSES: list[tuple[str, Callable[[Outputs], list[Node]]]] = [
    ("compose", compose),
    ("forget marks", forget_marks),
    ("exact algebra", exact_algebra),
    ("merge equal nodes", merge),
    ("lift barriers", lift_barriers),
]


def optimise(outputs: Outputs, check: bool = False) -> list[Node]:
    """All passes in order; with `check`, each result is verified. Raises GradientError for a gradient that is not of
    the graph."""
    result = list(outputs)
    for name, run in PASSES:
        result = run(result)
        if check:
            verify(result, name)
    nodes = toposort(result)
    assert not any(isinstance(n.group, tuple) for n in nodes), "a tape's copy carries structure, never a value"
    if any(n.primitive == "input" and n.attrs["slot"] < 0 for n in nodes):
        raise GradientError("custom_gradient: the gradient function looked at a value; it may only compute with them")
    return result


def verify(outputs: Outputs, after: str = "tracing") -> None:
    """Every node's type follows from its rule, and inputs come first; raises AssertionError naming the pass."""
    for node in toposort(list(outputs)):
        assert all(x.serial < node.serial for x in node.inputs), f"after {after}: {node!r} precedes an input"
        if node.primitive != "input":
            shape, dtype = RULES[node.primitive](*[x.aval for x in node.inputs], **node.attrs)
            assert (shape, dtype) == (node.shape, node.dtype), f"after {after}: {node!r} should be {dtype} {shape}"


def _rewrite(outputs: Outputs, change: Callable[[Node], Node]) -> list[Node]:
    """Apply `change` to every node, inputs first; a node whose inputs changed is rebuilt before."""
    new: dict[Node, Node] = {}
    for node in toposort(list(outputs)):
        new[node] = change(_with(node, tuple(new[x] for x in node.inputs)))
    return [new[n] for n in outputs]


def _with(node: Node, inputs: tuple[Node, ...]) -> Node:
    """The node, or if its inputs changed another, which takes its place in the order."""
    if all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
        return node
    rebuilt = Node(node.primitive, inputs, node.attrs, node.aval)
    rebuilt.site, rebuilt.group, rebuilt.serial = node.site, node.group, node.serial
    return rebuilt

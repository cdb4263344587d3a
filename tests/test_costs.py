"""The table of costs, and what follows from it: a kernel computes nothing dear twice, whoever reads it."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import katachi as kt
import katachi.graph.control
from katachi.compiler.fuse import Group, fuse
from katachi.graph.costs import CHEAP, COSTS, DEAR, DRAWN, SLOW, costing, operations
from katachi.graph.dtypes import float32
from katachi.graph.node import Node, aval, toposort
from katachi.graph.primitives import BITWISE, ELEMENTWISE, FLOAT_UNARY, REDUCTIONS, RULES, input_node, make
from katachi.kernels.loops import Kernel
from katachi.kernels.lower import LOWERING, lowerable
from katachi.kernels.nest import lower_loops
from katachi.nn import functional as F

assert katachi.graph.control.BUNDLES  # whose primitives are rows of the table as well
tasks: Any = importlib.import_module("katachi.devices.cpu.tasks")


def test_every_primitive_has_a_cost_and_every_cost_a_primitive() -> None:
    assert not set(RULES) - set(COSTS), "primitives without a row in graph/costs.py"
    assert not set(COSTS) - set(RULES), "rows of graph/costs.py that name no primitive"


def test_families_cost_alike() -> None:
    rounding = {"floor", "ceil", "round_nearest_even"}
    assert set(BITWISE) | rounding | {"add", "compare", "select"} <= costing(CHEAP)
    assert set(FLOAT_UNARY) - rounding - {"sqrt"} <= costing(DEAR)
    assert costing(DEAR) <= set(ELEMENTWISE)
    assert not set(REDUCTIONS) & costing(CHEAP, SLOW, DEAR)


def test_operations_of_products() -> None:
    a, b = (input_node(aval(shape, float32, "cpu", False), i) for i, shape in enumerate([(3, 4), (4, 5)]))
    assert operations(make("dot_general", a, b, batch=((), ()), contract=((1,), (0,)))) == 2 * 3 * 4 * 5
    x, w = (input_node(aval(s, float32, "cpu", False), i) for i, s in enumerate([(2, 3, 5, 5), (7, 3, 3, 3)]))
    plain = {"strides": (1, 1), "padding": ((1, 1),) * 2, "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1}
    assert operations(make("convolution", x, w, **plain)) == 2 * (2 * 7 * 5 * 5) * (3 * 3 * 3)


def kernels(outputs: list[Node]) -> list[Kernel]:
    groups: list[Group] = fuse(toposort(outputs), outputs, lowerable)
    values = dict.fromkeys(x for g in groups for x in (*g.inputs, *g.outputs))
    rows = {x: i for i, x in enumerate(values, 1)}
    return [lower_loops(g.nodes, g.inputs, g.outputs, rows, g.local) for g in groups]


def instructions(outputs: list[Node]) -> Counter[str]:
    return Counter(i.name for k in kernels(outputs) for i in k.code.body)


@pytest.mark.parametrize("primitive", sorted(costing(DEAR)))
def test_what_is_dear_is_computed_once_for_all_its_readers(primitive: str) -> None:
    x = input_node(aval((30, 40), float32, "cpu", False), 0)

    def value(name: str) -> Node:
        return make(name, x, x) if name in ("power", "atan2") else make(name, x)

    def sums(y: Node) -> list[Node]:  # two loops: along rows, and along columns
        return [make("reduce_sum", y, axes=(0,)), make("reduce_sum", y, axes=(1,))]

    once, twice = instructions([value(primitive)]), instructions(sums(value(primitive)))
    own = {name: n for name, n in once.items() if name not in ("load", "store", "constant", "index", "number")}
    assert own and {name: twice[name] for name in own} == own, "computed again for the second reader"
    assert instructions(sums(make("negate", x)))["negate"] == 2, "what is cheap is computed where it is read"


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "softmax": lambda x: F.softmax(x, 1), "softmax of columns": lambda x: F.softmax(x, 0),
    "log_softmax": lambda x: F.log_softmax(x, 1), "logsumexp": lambda x: x.logsumexp(1),
    "cross_entropy": lambda x: F.cross_entropy(x, kt.tensor(np.arange(30))),
    "gelu": F.gelu, "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu,
    "mish": lambda x: x * kt.tanh(kt.log1p(kt.exp(x))),
    "tanh": kt.tanh, "sigmoid": F.sigmoid, "layer_norm": lambda x: F.layer_norm(x, (40,)),
    "dropout": lambda x: F.dropout(kt.tan(x), 0.5, True), "std": lambda x: kt.asinh(x).std(1),
    "two readers": lambda x: kt.tan(x).sum(0).sum() + (kt.tan(x) * kt.atan2(x, x + 1)).max(1).sum(),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_kernel_computes_nothing_dear_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward: whatever stages a kernel has and however many results, each dear node is one instruction
    of its body."""
    asked: list[tuple[Counter[str], Counter[str]]] = []
    dear = costing(DEAR, DRAWN)

    def lowering(nodes: Any, inputs: Any, *rest: Any) -> Kernel:
        kernel = lower_loops(nodes, inputs, *rest)
        made = Counter(n.primitive for n in nodes if n.primitive in dear and n not in inputs)
        asked.append((made, Counter(i.name for i in kernel.code.body if i.name in dear)))
        return kernel

    monkeypatch.setattr(tasks, "lower_loops", lowering)
    monkeypatch.setattr("katachi.compiler.stored.name_of", lambda *_: None)  # nothing comes from the disk
    with kt.device("cpu"):
        x = kt.variable(np.random.default_rng(0).standard_normal((30, 40)).astype("f"))
        y = FUNCTIONS[name](x)
        (y * y).sum().backward()
        kt.eval(x.grad, y)
    assert asked
    for made, body in asked:
        assert all(body[p] <= made[p] for p in dear), (made, body)
    assert any(made for made, _ in asked) == (name != "layer_norm")
    assert costing(DEAR) <= set(LOWERING)

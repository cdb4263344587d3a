"""Exact algebra: what it does, what it must not, and that no bit changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from katachi.compiler.passes import PASSES, optimise, verify
from katachi.compiler.program import ReferenceProgram
from katachi.devices.memory import copy
from katachi.graph import build as b
from katachi.graph.dtypes import bfloat16, bool_, float16, float32, float64, int32
from katachi.graph.node import Node, aval, toposort
from katachi.graph.primitives import constant, input_node, make

DTYPES = {"float32": float32, "float64": float64, "float16": float16, "bfloat16": bfloat16, "int32": int32}


def leaf(shape: tuple[int, ...] = (2, 3), dtype: Any = float32, slot: int = 0) -> Node:
    return input_node(aval(shape, dtype, "reference", False), slot)


def left(node: Node) -> list[str]:
    """The primitives that a program of this node has, inputs apart."""
    (out,) = optimise([node], check=True)
    return [n.primitive for n in toposort([out]) if n.primitive != "input"]


X = leaf()
N = leaf(dtype=int32)
GONE: dict[str, Node] = {
    "x * 1": b.scale(X, 1.0),
    "1 * x": b.multiply(b.like(X, 1.0), X),
    "x / 1": b.divide(X, b.like(X, 1.0)),
    "x - 0": b.subtract(X, b.like(X, 0.0)),
    "x + -0": b.shift(X, -0.0),
    "n + 0": b.shift(N, 0),
    "n + 0 + 0": b.shift(b.shift(N, 0), 0),
    "--x": make("negate", make("negate", X)),
    "select(c, x, x)": b.select(b.compare(X, "GT", b.like(X, 0.0)), X, X),
    "select(true, x, y)": b.select(b.spread(constant(True, bool_, "reference"), (2, 3)), X, b.like(X, 5.0)),
    "to float64 and back": b.convert(b.convert(X, float64), float32),
    "transposed twice": b.transpose(b.transpose(X, (1, 0)), (1, 0)),
    "reshaped twice": b.reshape(b.reshape(X, (6,)), (2, 3)),
    "no padding": make("pad", X, b.full(0.0, (), float32, "reference"), low=(0, 0), high=(0, 0), interior=(0, 0)),
}
KEPT: dict[str, tuple[Node, list[str]]] = {
    "x + 0 makes -0 a 0": (b.shift(X, 0.0), ["constant", "broadcast_in_dim", "add"]),
    "x * 0 keeps NaN": (b.scale(X, 0.0), ["constant", "broadcast_in_dim", "multiply"]),
    "to float16 and back rounds": (b.convert(b.convert(X, float16), float32), ["convert", "convert"]),
    "three transposes are one": (
        b.transpose(b.transpose(b.transpose(leaf((2, 3, 4)), (1, 2, 0)), (1, 2, 0)), (1, 0, 2)), ["transpose"],
    ),
    "two broadcasts are one": (b.spread(b.spread(leaf((3,)), (2, 3)), (4, 2, 3)), ["broadcast_in_dim"]),
    "constants are folded": (
        b.add(X, b.multiply(b.like(X, 2.0), make("exponential", b.like(X, 0.0)))),
        ["constant", "broadcast_in_dim", "add"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GONE)
def test_nothing_is_left_of(case: str) -> None:
    assert left(GONE[case]) == []


@pytest.mark.parametrize("case", KEPT)
def test_what_is_left(case: str) -> None:
    node, wanted = KEPT[case]
    assert left(node) == wanted


SPECIAL = [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3.0, float("inf"), float("-inf"), float("nan"), 1e30, 1e-40]
UNARY = ["negate", "abs", "sign", "exponential", "sqrt", "floor", "tanh"]
BINARY = ["add", "subtract", "multiply", "divide", "maximum", "minimum"]


@st.composite
def expressions(draw: Any) -> tuple[Node, Any]:
    """A graph of element-wise and movement nodes on one input and many constants."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    x = leaf(dtype=dtype)
    pool = [x]
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(["constant", "unary", "binary", "move", "select", "convert"]))
        a = draw(st.sampled_from(pool))
        if kind == "constant":
            value = draw(st.sampled_from(SPECIAL if dtype.is_floating else [0, 1, -1, 2]))
            pool.append(b.like(a, value))
        elif kind == "unary":
            name = draw(st.sampled_from(UNARY if dtype.is_floating else UNARY[:3]))
            pool.append(make(name, a))
        elif kind == "move":
            moved = b.transpose(a, (1, 0)) if draw(st.booleans()) else b.reshape(a, a.shape[::-1])
            pool.append(moved if draw(st.booleans()) else b.reshape(b.transpose(moved, (1, 0)), a.shape))
        else:
            same = [n for n in pool if n.shape == a.shape]
            other = draw(st.sampled_from(same))
            if kind == "binary":
                pool.append(make(draw(st.sampled_from(BINARY)), a, other))
            elif kind == "select":
                pool.append(b.select(b.compare(a, draw(st.sampled_from(["LT", "EQ"])), other), a, other))
            elif dtype.is_floating:
                pool.append(b.convert(b.convert(a, DTYPES[draw(st.sampled_from(["float64", "float16"]))]), dtype))
    return pool[-1], dtype


def computed(nodes: list[Node], *inputs: Any) -> list[Any]:
    """The values, in memory that is not used again."""
    return [buffer.array.copy() for buffer in ReferenceProgram(nodes).run(list(inputs), [])]


@given(expressions())
def test_no_bit_changes(case: tuple[Node, Any]) -> None:
    node, dtype = case
    numbers = np.array(SPECIAL[:6] if dtype.is_floating else [0, 1, -1, 5, -7, 3])
    for shift in (0, 6):
        values = np.array(SPECIAL)[shift : shift + 6] if dtype.is_floating else numbers
        with np.errstate(all="ignore"):
            x = copy(values.astype(dtype.numpy).reshape(2, 3))
            (plain,), (simple,) = computed([node], x), computed(optimise([node], check=True), x)
        assert plain.dtype == simple.dtype
        same = (plain == simple) & (np.signbit(plain) == np.signbit(simple)) | ((plain != plain) & (simple != simple))
        assert same.all()


def test_every_pass_leaves_a_valid_graph() -> None:
    for name, run in PASSES:
        for node in [*GONE.values(), *(n for n, _ in KEPT.values())]:
            verify(run([node]), name)

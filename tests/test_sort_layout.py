"""How the sort template lays out keys and indices; and comparisons that say something else than they look like."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import katachi
from katachi.devices.cpu.engine import engine
from katachi.graph.dtypes import DType, float16, float32, float64, int8, int32, int64
from katachi.graph.node import aval
from katachi.graph.primitives import input_node, make
from katachi.kernels.sort import Sort, lower, problem


@pytest.mark.parametrize("dtype", [int8, float16, float32, int32, float64, int64])
@pytest.mark.parametrize("size", [2, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**40])
def test_an_index_shares_a_number_with_its_key_where_both_fit(dtype: DType, size: int) -> None:
    key = input_node(aval((size,), dtype, "cpu", False), 0)
    payload = input_node(aval((size,), int64, "cpu", False), 1)
    node = make("sort", key, payload, axis=0, descending=False)
    steps = lower(problem(node, [node], {key: 1, payload: 2, node: 3}), 2, engine().target)
    ((kind, *_),) = steps.kernels
    assert isinstance(kind, Sort)
    most_bits = (size - 1).bit_length()
    assert kind.narrow == (8 * dtype.itemsize <= 32 and most_bits <= 32)


def test_no_comparison_points_both_ways() -> None:
    """`a < b > c` never compares a with c, though it reads as if it did."""
    down, up = (ast.Lt, ast.LtE), (ast.Gt, ast.GtE)
    for path in sorted(Path(katachi.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                both = any(isinstance(op, down) for op in node.ops) and any(isinstance(op, up) for op in node.ops)
                assert not both, f"{path}:{node.lineno}: {ast.unparse(node)}"

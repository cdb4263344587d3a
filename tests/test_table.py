"""The table: every primitive has a cell in every column, and every cell belongs to a primitive."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from katachi.devices.reference import REFERENCE
from katachi.graph.primitives import ELEMENTWISE, MARKS, MOVEMENT, REDUCTIONS, RULES
from katachi.kernels.lower import LOWERING
from katachi.kernels.polynomials import ULPS
from katachi.transforms.batching import ALIKE, BATCHING
from katachi.transforms.batching_control import BUNDLE_BATCHING
from katachi.transforms.control import BUNDLE_JVP, BUNDLE_VJP
from katachi.transforms.derivatives import FLAT
from katachi.transforms.elementwise import DERIVATIVES
from katachi.transforms.jvp import JVP
from katachi.transforms.vjp import VJP

from .samples import SAMPLES  # pyrefly: ignore[missing-import]

# A template has the first, and a pass removes the marks.
TEMPLATES = {"dot_general", "attention", "attention_logsumexp", "attention_gradient"}

CONTROL = {
    *BUNDLE_VJP,
    "element",
    "custom_call",
}  # examples in test_control.py

COLUMNS: dict[str, Iterable[str]] = {
    "definition": REFERENCE,
    "vjp": {*VJP, *FLAT, *CONTROL, "concatenate", "custom_gradient"},  # their rules depend on the number of operands
    "jvp": {*JVP, *FLAT, *BUNDLE_JVP, "element"},
    "batching": {*BATCHING, *BUNDLE_BATCHING, *ALIKE, "element"},
    "lowering": {*LOWERING, *TEMPLATES, *MARKS, "optimization_barrier", "custom_gradient", *CONTROL},
    "samples": {*SAMPLES, *CONTROL, "custom_gradient"},  # whose gradient is the user's: see test_functional.py
}


@pytest.mark.parametrize("column", COLUMNS)
def test_no_cell_is_missing(column: str) -> None:
    assert not set(RULES) - set(COLUMNS[column]), f"primitives without a cell in the column {column!r}"


@pytest.mark.parametrize("column", COLUMNS)
def test_no_cell_is_left_over(column: str) -> None:
    known = {*RULES, "input"}  # a value from outside: nothing computes it
    assert not set(COLUMNS[column]) - known, f"the column {column!r} has cells of no primitive"


def test_a_primitive_either_differentiates_or_is_flat() -> None:
    assert not set(VJP) & FLAT and not set(JVP) & FLAT
    assert set(DERIVATIVES) <= set(VJP) & set(JVP)


def test_a_primitive_is_alike_for_all_examples_or_has_a_rule() -> None:
    assert not ALIKE & {*BATCHING, *BUNDLE_BATCHING}
    assert not set(BUNDLE_BATCHING) ^ set(BUNDLE_VJP), "all control flow, and nothing else"


@pytest.mark.parametrize("family", [ELEMENTWISE, MOVEMENT, REDUCTIONS, MARKS])
def test_families_name_primitives(family: tuple[str, ...]) -> None:
    assert set(family) <= set(RULES) and len(set(family)) == len(family)


def test_accuracy_is_promised_for_primitives() -> None:
    assert set(ULPS) <= set(LOWERING)

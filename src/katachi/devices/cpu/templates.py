"""What templates compute, each imported where it is used: a problem in numbers, and its kernels."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from katachi.devices.cpu.engine import engine
from katachi.devices.cpu.pool import pool
from katachi.graph.node import Node
from katachi.kernels.loops import Steps

TEMPLATES = ("matmul", "convolution", "attention", "sort", "unpool")  # modules of kernels/


def problem_of(kind: str, outputs: Sequence[Node], rows: Mapping[Node, int]) -> Any:
    """What a template computes, in numbers, which may be sizes; `rows` of the table of addresses."""
    return _module(kind).problem(outputs[-1], outputs, rows)


def steps_of(kind: str, problem: Sequence[Any]) -> Steps:
    """The kernels for a problem whose numbers are known."""
    module = _module(kind)
    return module.lower(module.Problem(*problem), pool().threads, engine().target)


def _module(kind: str) -> Any:
    return importlib.import_module(f"katachi.kernels.{kind}")

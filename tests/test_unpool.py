"""The gradient of max pooling without overlap, by its template, against the reference: bit for bit."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import katachi as kt
import katachi.nn.functional as F
from katachi.graph.dtypes import float32
from katachi.graph.node import aval
from katachi.graph.primitives import input_node, make
from katachi.kernels.unpool import suits

SHAPES = [
    (2, 3, 8, 8), (1, 1, 3, 2), (2, 2, 5, 7), (3, 1, 6, 67), (1, 2, 28, 28), (2, 20, 14, 14), (0, 2, 4, 4),
    (1, 1, 9, 33), (64, 3, 40, 40),
]  # fmt: skip


def gradient(device: str, x: np.ndarray, g: np.ndarray, window: tuple[int, int]) -> tuple[Any, Any]:
    with kt.device(device):
        v: Any = kt.variable(x)
        y = F.max_pool2d(v, window)
        y.backward(kt.tensor(g))
        told = kt.explain(lambda: v.grad.numpy())
        assert device == "reference" or not told.reference_steps
        return y.numpy(), v.grad.numpy()


FITTING = [(s, w) for s in SHAPES for w in ((2, 2), (1, 2), (3, 2), (4, 2)) if s[2] >= w[0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "window"), FITTING)
def test_against_the_reference(shape: tuple[int, ...], dtype: type, window: tuple[int, int]) -> None:
    n, c, h, w = shape
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, shape).astype(dtype)  # many ties: the first one gets all
    for value, share in ((np.nan, 0.05), (np.inf, 0.05), (-np.inf, 0.05), (-0.0, 0.1)):
        x[rng.random(shape) < share] = value
    g = rng.standard_normal((n, c, h // window[0], w // window[1])).astype(dtype)
    for a, b in zip(gradient("reference", x, g, window), gradient("cpu", x, g, window), strict=True):
        np.testing.assert_array_equal(a, b)


def test_which_windows_it_takes() -> None:
    x = input_node(aval((2, 3, 8, 8), float32, "cpu", False), 0)

    def taken(window: tuple[int, ...], strides: tuple[int, ...], padding: tuple[tuple[int, int], ...]) -> bool:
        pooled = make("reduce_window", x, window=window, strides=strides, padding=padding)
        return suits(make("reduce_window_gradient", x, pooled, window=window, strides=strides, padding=padding))

    none = ((0, 0), (0, 0))
    assert [taken(w, w, none) for w in itertools.product((1, 2, 3, 4, 5), (2,))] == [True, True, True, True, False]
    assert not taken((2, 3), (2, 3), none)
    assert not taken((2, 2), (1, 1), none)
    assert not taken((2, 2), (2, 2), ((0, 0), (1, 1)))


def test_a_new_size_compiles_nothing() -> None:
    with kt.device("cpu"):

        def step(n: int, size: int) -> Any:
            v: Any = kt.variable(np.ones((n, 2, size, size), np.float32))
            F.max_pool2d(v, 2).sum().backward()
            return v.grad.numpy()

        step(2, 8)
        step(3, 36)
        assert kt.explain(step, 5, 100).kernels_compiled == 0

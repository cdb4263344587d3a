"""One structure at many sizes: a program that has seen others gives the bits of one that has not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import katachi as kt
from katachi import nn, optim
from katachi.graph.shape_env import ShapeEnv, holds
from katachi.graph.symint import always_equal, bounds, evaluate, from_plain, plain, symbol

F: Any = nn.functional
DEVICES = ["reference", "cpu"]
WIDTH = 6  # of what does not change its size
SIZES = [0, 1, 2, 3, 5, WIDTH, 7, 8, 16, 33]


# ---- arithmetic of sizes


expressions = st.recursive(
    st.one_of(st.integers(-5, 40), st.integers(0, 2).map(symbol)),
    lambda inner: st.one_of(
        st.tuples(st.just("+"), inner, inner),
        st.tuples(st.just("-"), inner, inner),
        st.tuples(st.just("*"), inner, inner),
        st.tuples(st.just("//"), inner, st.integers(1, 9)),
        st.tuples(st.just("%"), inner, st.integers(1, 9)),
    ),
    max_leaves=6,
)
some_sizes = st.lists(st.integers(2, 50), min_size=3, max_size=3)


def calculated(e: Any, sizes: list[int] | None) -> Any:
    """An expression, with numbers in place of its symbols or not."""
    if not isinstance(e, tuple):
        return evaluate(e, sizes) if sizes else e
    a, b = calculated(e[1], sizes), calculated(e[2], sizes)
    if e[0] == "+":
        return a + b
    if e[0] == "-":
        return a - b
    return a * b if e[0] == "*" else a // b if e[0] == "//" else a % b


@given(expressions, some_sizes)
def test_an_expression_is_what_its_numbers_make(e: Any, sizes: list[int]) -> None:
    x = calculated(e, None)
    value = calculated(e, sizes)
    assert evaluate(x, sizes) == value
    low, high = bounds(x)
    assert (low is None or low <= value) and (high is None or value <= high)
    assert always_equal(from_plain(plain(x)), x)


@given(expressions, expressions, some_sizes, some_sizes)
def test_what_is_decided_holds_wherever_its_guards_do(a: Any, b: Any, at: list[int], other: list[int]) -> None:
    def decisions(x: Any, y: Any) -> list[bool]:
        return [x == y, x < y, x <= y, x > y, x >= y, x != y, bool(x)]

    x, y = calculated(a, None), calculated(b, None)
    with ShapeEnv(at) as env:
        found = decisions(x, y)
        assert found == decisions(calculated(a, at), calculated(b, at))
        known = [(env.simplified(symbol(i)), i) for i in range(3)]
    assert holds(env.guards, at)
    if holds(env.guards, other):
        assert found == decisions(calculated(a, other), calculated(b, other))
        assert all(evaluate(expression, other) == other[i] for expression, i in known)


# ---- programs


def fresh(f: Callable[[], Any]) -> Any:
    """What f gives in a thread of its own, which knows no programs."""
    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.append(f()))
    thread.start()
    thread.join()
    return out[0]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def operations(rng: np.random.Generator, count: int) -> list[Callable[[Any, Any, Any], Any]]:
    """From (n, m, WIDTH)-shaped x, a weight w and the x before to a tensor of that shape."""
    w = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)
    kinds: list[Callable[[Any, Any, Any], Any]] = [
        lambda x, w, old: x @ w,
        lambda x, w, old: x.tanh() + old,
        lambda x, w, old: F.softmax(x, -1) * old,
        lambda x, w, old: x - x.mean(-1, keepdims=True),
        lambda x, w, old: F.layer_norm(x, (WIDTH,)),
        lambda x, w, old: (x.reshape(-1, WIDTH) @ w).reshape(x.shape),
        lambda x, w, old: x.transpose(0, 1).exp().log().transpose(0, 1),
        lambda x, w, old: kt.concat([x[:, :1], x[:, 1:]], 1) * 0.5,
        lambda x, w, old: x * (old.abs().sum((0, 1), keepdims=True) + 1.0).log(),
        lambda x, w, old: x + kt.zeros(x.shape[0], 1, WIDTH),
        lambda x, w, old: kt.cumulative_sum(x, axis=1) * 0.25,
        lambda x, w, old: x * (1.0 / max(x.shape[0] * x.shape[1], 1)) + old,
        lambda x, w, old: kt.where(x > old, x, old * 0.5),
        lambda x, w, old: x[::-1] if x.shape[0] else x,
        lambda x, w, old: kt.pad(x, [(0, 0), (1, 0), (0, 0)])[:, :-1],
        lambda x, w, old: x.at[:, :, 0].set(1.0),
        lambda x, w, old: x - (x.max(1, keepdims=True) if x.shape[1] else 0.0),
    ]
    return [kinds[rng.integers(len(kinds))] for _ in range(count)] + [lambda x, _, old: x @ kt.tensor(w)]


def program(seed: int) -> Callable[[int, int], list[np.ndarray]]:
    """A loss, its gradients, and other values, some looked at on the way."""
    rng = np.random.default_rng(seed)
    chain = operations(rng, int(rng.integers(2, 6)))
    look = int(rng.integers(0, 2 * len(chain)))
    start = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)

    def run(n: int, m: int) -> list[np.ndarray]:
        data = np.random.default_rng(n * 100 + m).standard_normal((n, m, WIDTH)).astype(np.float32)
        w, out = kt.variable(start), []
        x: Any = kt.tensor(data)
        old = x
        for i, f in enumerate(chain):
            x, old = f(x, w, old), x
            if i == look:
                out.append(x.numpy())
        loss = (x * x).sum() + (w * w).sum()
        loss.backward()
        return [*out, loss.numpy(), w.grad.numpy(), x.numpy()]

    return run


@pytest.mark.parametrize("device", DEVICES)
@given(
    st.integers(0, 2**20), st.lists(st.tuples(st.sampled_from(SIZES), st.sampled_from(SIZES)), min_size=2, max_size=5)
)
def test_random_programs_at_random_sizes(device: str, seed: int, sizes: list[tuple[int, int]]) -> None:
    run = program(seed)
    with kt.device(device):
        for n, m in sizes:
            found = run(n, m)
            with kt.device(device):
                same(found, fresh(lambda n=n, m=m: in_device(device, run, n, m)))
            if device == "reference":
                with kt.eager():
                    for a, b in zip(found, run(n, m), strict=True):
                        np.testing.assert_array_equal(a, b)


def in_device(device: str, run: Callable[[int, int], Any], n: int, m: int) -> Any:
    with kt.device(device):
        return run(n, m)


# ---- everyday loops


class Classifier(nn.Module):
    def __init__(self) -> None:
        self.first, self.second = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Any) -> Any:
        return self.second(F.relu(self.first(x)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("printing", [False, True])
def test_training_at_many_batch_sizes_builds_once_and_computes_as_if_each_were_the_first(
    device: str, printing: bool
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 8)).astype(np.float32), rng.integers(0, 3, 64)
    batches = [int(n) for n in rng.integers(2, 64, 30)] + [WIDTH, 8, 3]

    def train(between: Callable[[], None]) -> list[np.ndarray]:
        kt.manual_seed(0)
        with kt.device(device):
            net = Classifier()
            opt = optim.AdamW(net.parameters(), lr=0.01)
            for n in batches:
                between()
                loss = F.cross_entropy(net(kt.tensor(x[:n])), kt.tensor(y[:n]))
                if printing:
                    loss.item()
                loss.backward()
                opt.step()
            return [p.numpy() for p in net.parameters()]

    kt.clear_caches()
    with kt.explain() as told:
        found = train(lambda: None)
    assert device == "reference" or told.programs_built <= 8
    same(found, train(kt.clear_caches))


def test_a_cache_that_grows() -> None:
    """Attention over one more position each time, by concatenation and by writing into what is there."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, 40, 4)).astype(np.float32) for _ in range(3))
    with kt.device("cpu"), kt.no_grad():
        keys, values = kt.zeros(1, 2, 0, 4), kt.zeros(1, 2, 0, 4)
        whole = kt.zeros(1, 2, 40, 4)
        for i in range(40):
            with kt.explain() as told:
                keys = kt.concat([keys, kt.tensor(k[:, :, i : i + 1])], 2)
                values = kt.concat([values, kt.tensor(v[:, :, i : i + 1])], 2)
                whole = whole.at[:, :, i : i + 1].set(kt.tensor(k[:, :, i : i + 1]))
                out = F.scaled_dot_product_attention(kt.tensor(q[:, :, i : i + 1]), keys, values).numpy()
                written = whole.numpy()
            scores = q[:, :, i : i + 1] @ k[:, :, : i + 1].swapaxes(-1, -2) / 2.0
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            np.testing.assert_allclose(
                out, weights / weights.sum(-1, keepdims=True) @ v[:, :, : i + 1], rtol=1e-4, atol=1e-6
            )
            np.testing.assert_array_equal(written[:, :, : i + 1], k[:, :, : i + 1])
            assert i < 5 or not told.programs_built


def test_errors_at_new_sizes_name_numbers() -> None:
    w = kt.ones(8, 4)

    def f(n: int, m: int) -> Any:
        return kt.ones(n, m) @ w

    f(3, 8).numpy(), f(5, 8).numpy()
    with pytest.raises(kt.ShapeError, match=r"float32\[7, 9\]"):
        f(7, 9)
    x = kt.tensor(np.arange(12))
    for n in (4, 5, 6):
        with pytest.raises(kt.IndexBoundsError, match=f"size {n}"):
            kt.take(x[:n], kt.tensor([n])).numpy()


def test_threads_that_record_and_resize_at_once() -> None:
    wrong: list[Any] = []

    def work(k: int) -> None:
        rng = np.random.default_rng(k)
        w = kt.tensor(rng.standard_normal((8, 5)).astype(np.float32))
        for n in rng.integers(2, 200, 150):
            x = rng.standard_normal((int(n), 8)).astype(np.float32)
            got = (kt.tensor(x) @ w).sum(0).numpy()
            if not np.allclose(got, (x @ w.numpy()).sum(0), rtol=1e-3, atol=1e-3):
                wrong.append((k, n))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_number_that_was_a_size_by_chance_stays_a_number() -> None:
    def reshaped(x: Any) -> Any:
        return (x * 2).reshape(-1, 8)

    def wide(x: Any) -> Any:
        return (x * 2).broadcast_to((64, 5))

    for rows in (8, 4, 8, 16, 2):
        assert reshaped(kt.ones(rows, 16)).shape == (2 * rows, 8)
        assert reshaped(kt.ones(rows, 16)).numpy().shape == (2 * rows, 8)
    assert wide(kt.ones(64, 5)).numpy().shape == (64, 5)
    with pytest.raises(kt.ShapeError, match=r"\(32, 5\) does not broadcast to \(64, 5\)"):
        wide(kt.ones(32, 5))

    def slope(rows: int) -> np.ndarray:
        w = kt.variable(np.ones(16, np.float32))
        y = kt.tensor(np.arange(rows * 16, dtype=np.float32).reshape(rows, 16)) * w
        (y.reshape(-1, 8).sum(0) ** 2).sum().backward()
        return w.grad.numpy()

    slope(8)
    np.testing.assert_array_equal(slope(4), fresh(lambda: slope(4)))


def test_bounds_that_are_not_plain_ints() -> None:
    a = np.arange(6.0)
    x = kt.tensor(a) * 1

    class Last:
        def __index__(self) -> int:
            return -1

    for s in (slice(None, np.int64(-1)), slice(np.int64(-3), None), slice(Last(), None), slice(None, Last())):
        np.testing.assert_array_equal(x[s].numpy(), a[s])
    np.testing.assert_array_equal(x[: kt.tensor(-1)].numpy(), a[:-1])
    np.testing.assert_array_equal(x.at[: np.int64(-1)].set(0).numpy(), [0, 0, 0, 0, 0, 5])
    y = kt.tensor(np.arange(12, dtype=np.float32).reshape(4, 3)) * 1
    one: Any = np.float32(1)
    np.testing.assert_allclose(y.var(0, correction=one).numpy(), y.numpy().var(0, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("loop", ["chunk", "eye", "tail", "half"])
def test_structures_that_serve_all_sizes(loop: str) -> None:
    def step(n: int) -> np.ndarray:
        x = kt.tensor(np.arange(4.0 * n).reshape(n, 4)) * 1.0
        if loop == "chunk":
            return (kt.chunk(x, 2)[0] * 2).numpy()
        if loop == "eye":
            return (kt.eye(n) @ x.astype(kt.float32)).numpy()
        if loop == "tail":
            return (x[1:, :-1] - x[:-1, 1:])[-2:].numpy()
        return kt.concat([x[: n // 2], x[n // 2 :]]).numpy()

    for n in (5, 8, 12):
        step(n)
    a = np.arange(4.0 * 22).reshape(22, 4)
    want = {
        "chunk": a[:11] * 2, "eye": a.astype(np.float32), "tail": (a[1:, :-1] - a[:-1, 1:])[-2:], "half": a,
    }  # fmt: skip
    with kt.explain() as told:
        np.testing.assert_array_equal(step(22), want[loop])
    assert loop == "half" or not told.programs_built

"""vmap: every primitive, and every function, is what a Python loop over the examples makes, stacked."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import katachi as kt
from katachi import nn
from katachi.devices.reference import REFERENCE
from katachi.graph.dtypes import as_dtype
from katachi.graph.node import Node, aval, toposort
from katachi.graph.primitives import input_node, make
from katachi.transforms.batching import batch
from katachi.transforms.derivatives import FLAT
from katachi.transforms.vjp import backward

from .samples import SAMPLES, Array  # pyrefly: ignore[missing-import]

DEVICES = ["reference", "cpu"]
TAKING = sorted(set(SAMPLES) - {"constant", "iota"})  # the others have no input that could differ


# ---- primitives


def values(outputs: Sequence[Node], given: dict[Node, Array]) -> list[Array]:
    """What the definitions make of the inputs; every value has the shape and dtype that its rule foretold."""
    found: dict[Node, Any] = dict(given)
    with np.errstate(all="ignore"):
        for n in toposort(list(outputs)):
            if n not in found:
                out = found[n] = REFERENCE[n.primitive](*[found[x] for x in n.inputs], **n.attrs)
                if n.primitive not in ("scan", "while", "cond"):
                    assert out.shape == n.shape and out.dtype == n.dtype.numpy, (n, out.shape, out.dtype)
    return [found[n] for n in outputs]


def another(rng: np.random.Generator, name: str, i: int, inputs: list[Array]) -> Array:
    """An input as good as inputs[i]."""
    x = inputs[i]
    first = {"dynamic_slice": 1, "dynamic_update_slice": 2}.get(name, len(inputs))
    if i >= first:  # where a block begins
        size = inputs[0].shape[i - first]
        return np.asarray(rng.integers(0, max(size, 1)))
    if name in ("gather", "scatter") and i == 1:  # rows of indices
        return x.reshape(-1, x.shape[-1])[rng.permutation(x.size // x.shape[-1])].reshape(x.shape) if x.size else x
    if x.shape == ():
        return np.asarray(x * (1.0 + 0.01 * rng.random())) if x.dtype.kind == "f" else x + np.asarray(7, x.dtype)
    return rng.permutation(x.reshape(-1)).reshape(x.shape)


@pytest.mark.parametrize("name", TAKING)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_primitive_and_its_gradients_are_the_loops(name: str, data: Any) -> None:
    inputs, attrs = data.draw(SAMPLES[name])
    size = data.draw(st.sampled_from([0, 1, 2, 3]))
    on = data.draw(st.lists(st.booleans(), min_size=len(inputs), max_size=len(inputs)))
    assume(any(on))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    stacks = [
        np.stack([x, *[another(rng, name, i, inputs) for _ in range(2)]])[:size] if o else x
        for i, (x, o) in enumerate(zip(inputs, on, strict=True))
    ]
    if name.startswith("dynamic"):  # blocks stay inside
        first = 1 if name == "dynamic_slice" else 2
        sizes = attrs["sizes"] if first == 1 else inputs[1].shape
        for i in range(first, len(inputs)):
            stacks[i] = np.minimum(stacks[i], inputs[0].shape[i - first] - sizes[i - first])

    one = [
        input_node(aval(x.shape, as_dtype(x.dtype), "reference", x.dtype.kind == "f"), i) for i, x in enumerate(inputs)
    ]
    node = make(name, *one, **attrs)
    outputs, seeds = [node], {}
    if node.tracked and name not in FLAT:
        g = rng.standard_normal(node.shape)
        seed = input_node(aval(node.shape, node.dtype, "reference", False), len(one))
        found = backward({node: seed}, toposort([node]))
        outputs += [found[x] for x in one if x in found and x is not node]
        seeds = {seed: g}
    wide = [
        input_node(aval(x.shape, as_dtype(x.dtype), "reference", n.tracked), i)
        for i, (x, n) in enumerate(zip(stacks, one, strict=True))
    ]
    at = {n: w for n, w, o in zip(one, wide, on, strict=True) if o}
    same = {n: x for n, x, o in zip(one, stacks, on, strict=True) if not o}
    results = batch(toposort(outputs), at, size)
    assert results[node].tracked == node.tracked
    got = values([results.get(n, n) for n in outputs], {**dict(zip(wide, stacks, strict=True)), **same, **seeds})
    for k in range(size):
        alone = {n: np.asarray(x[k]) if o else x for n, x, o in zip(one, stacks, on, strict=True)}
        for out, n, want in zip(got, outputs, values(outputs, {**alone, **seeds}), strict=True):
            np.testing.assert_allclose(out[k] if n in results else out, want, rtol=1e-9, atol=1e-12)
    for out, n in zip(got, outputs, strict=True):
        assert out.shape == ((size, *n.shape) if n in results else n.shape)


# ---- functions

X = np.random.default_rng(0).standard_normal((4, 3))
V = np.random.default_rng(1).standard_normal((4, 3)) + 0.1
PICK = np.array([2, 0, 1, 2])
W = np.random.default_rng(2).standard_normal((3, 3)) * 0.5
IMAGES = np.random.default_rng(3).standard_normal((4, 2, 5, 5))
KERNEL = np.random.default_rng(4).standard_normal((3, 2, 3, 3))


@kt.custom_gradient
def doubled(x: Any, w: Any) -> Any:
    """A product whose gradient is made up, so that it is seen to be used."""
    return x * w, lambda g: (g * w * 2.0, g * x)


def numpy_roots(x: Any) -> Any:
    return kt.custom_call(np.cbrt, x.shape, x.dtype, x), lambda g: g * x


def table_walk(x: Any, stop: Any) -> Any:
    """Reads x from place to place until `stop`: one step more would be outside of it."""
    done = kt.while_loop(
        lambda c: c[0] <= stop,
        lambda c: (c[0] + 1, c[1] + kt.take(x, c[0])),
        (kt.tensor(0), kt.tensor(0.0, dtype=kt.float64)),
    )
    return done[1]


def halvings(x: Any) -> Any:
    """Every example has another number of steps."""
    return kt.while_loop(lambda c: (c[0] * c[0]).sum() > 0.01, lambda c: (c[0] * 0.5, c[1] + 1), (x, kt.tensor(0)))


def rooted(x: Any) -> Any:
    """Where x is not positive the other way's root has no derivative."""
    s = x.sum()
    return kt.cond(s > 0.0, lambda t: t.sqrt() * W.sum(), lambda t: t * 3.0, s)


def recurrent(x: Any, w: Any) -> Any:
    last, ys = kt.scan(lambda h, a: ((h @ w + a).tanh(), h * a), x, kt.stack([x, x * 2.0]))
    return last.sum() + ys.sum()


def counted(x: Any) -> Any:
    """A carry that is the same for all, one that becomes different, and one that differs from the start."""
    zero = kt.tensor(0.0, dtype=kt.float64)
    (n, late, own), _ = kt.scan(lambda c, a: ((c[0] + 1.0, c[1] + c[2], c[2] * a), None), (zero, zero, x[0]), x)
    return n + late + own


# functions of one example, and which of their arguments differ
FUNCTIONS: dict[str, tuple[Callable[..., Any], Sequence[Any]]] = {
    "matmul": (lambda x, y: (x @ W).tanh() @ y, (X, V)),
    "softmax": (lambda x: x.softmax(0) + x.logsumexp(), (X,)),
    "layer_norm": (lambda x: nn.functional.layer_norm(x, (3,)), (X,)),
    "take": (lambda x, i: x[i] * 2.0 + kt.take(x, i), (X, PICK)),
    "index": (lambda x: x[1] + x[-1:].sum(), (X,)),
    "at": (lambda x, i: x.at[i].set(x.sum()).at[0].add(1.0), (X, PICK)),
    "sort": (lambda x: kt.sort(x) * kt.cumulative_sum(x) + kt.cumulative_max(x), (X,)),
    "conv": (lambda x: nn.functional.conv2d(x[None], kt.tensor(KERNEL)).relu(), (IMAGES,)),
    "pool": (lambda x: nn.functional.max_pool2d(x, 2).sum(), (IMAGES,)),
    "reduce": (lambda x: x.max() + x.prod() + x.var() + x.std(), (X,)),
    "custom_gradient": (lambda x: doubled(x, kt.tensor(W[0])) + doubled(kt.tensor(W[1]), x), (X,)),
    "custom_call": (lambda x: kt.custom_gradient(numpy_roots)(x) * 2.0, (X,)),
    "scan": (lambda x: recurrent(x, W), (X,)),
    "counted": (counted, (X,)),
    "cond": (rooted, (X,)),
    "cond for all": (lambda x: kt.cond(kt.tensor(W).sum() > 0.0, lambda t: t * x, lambda t: t - x, x.exp()), (X,)),
    "checkpoint": (kt.checkpoint(lambda x: (x @ W).tanh().exp()), (X,)),
    "nested": (lambda x: kt.vmap(lambda a, b: a * b + x, in_axes=(0, None))(x, kt.tensor(W[0])), (X,)),
    "nothing of it": (lambda x: kt.tensor(W) * 2.0, (X,)),
}
FORWARD: dict[str, tuple[Callable[..., Any], Sequence[Any]]] = {
    "while": (lambda x: halvings(x)[0], (X,)),
    "steps": (lambda x: halvings(x)[1], (X,)),
    "table": (table_walk, (X, PICK)),
    "argmax": (lambda x: x.argmax(), (X,)),
    "compare": (lambda x: (x > 0.0) & (x < 1.0), (X,)),
}


def looped(f: Callable[..., Any], *arrays: Array) -> Array:
    return np.stack([np.asarray(f(*[kt.tensor(a[i]) for a in arrays])) for i in range(len(arrays[0]))])


def check(f: Callable[..., Any], arrays: Sequence[Array], device: str, eager: bool) -> None:
    want = looped(f, *arrays)
    with kt.device(device):
        for _ in range(3):  # recorded, replayed, replayed
            if eager:
                with kt.eager():
                    got = kt.vmap(f)(*map(kt.tensor, arrays)).numpy()
            else:
                got = kt.vmap(f)(*map(kt.tensor, arrays)).numpy()
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [*FUNCTIONS, *FORWARD])
def test_a_function_is_the_loop(name: str, device: str, eager: bool) -> None:
    check(*(FUNCTIONS | FORWARD)[name], device, eager)


def summed(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *rest: (f(x, *rest) * 1.5).sum() + x.sum() * 0.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_the_loops(name: str, device: str) -> None:
    """Inside, outside, and twice."""
    f, arrays = FUNCTIONS[name]
    one = kt.grad(summed(f))
    check(one, arrays, device, False)
    want = looped(one, *arrays)
    with kt.device(device):
        given = [kt.tensor(a) for a in arrays]
        outside = kt.grad(lambda x, *rest: kt.vmap(summed(f))(x, *rest).sum())(*given)
        np.testing.assert_allclose(outside.numpy(), want, rtol=1e-9, atol=1e-12)
        second = kt.grad(lambda x, *rest: (kt.vmap(one)(x, *rest) ** 2).sum() + (x * x).sum())(*given)
        one_by_one = looped(kt.grad(lambda x, *rest: (one(x, *rest) ** 2).sum() + (x * x).sum()), *arrays)
        np.testing.assert_allclose(second.numpy(), one_by_one, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", sorted({*FUNCTIONS, "while"} - {"custom_gradient", "custom_call"}))
def test_tangents_are_the_loops(name: str) -> None:
    f, (x, *rest) = (FUNCTIONS | FORWARD)[name]
    t = np.cos(np.arange(x.size)).reshape(x.shape)

    def one(a: Any, b: Any, *others: Any) -> Any:
        return kt.jvp(lambda v: f(v, *others), (a,), (b,))[1]

    want = looped(one, x, t, *rest)
    others = [kt.tensor(a) for a in rest]
    np.testing.assert_allclose(kt.vmap(one)(kt.tensor(x), kt.tensor(t), *others).numpy(), want, rtol=1e-9, atol=1e-12)
    got = kt.jvp(lambda v: kt.vmap(f)(v, *others), (kt.tensor(x),), (kt.tensor(t),))[1]
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-9, atol=1e-12)


# ---- axes, sizes, structures


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_axes_may_be_anywhere(data: Any) -> None:
    """Any axis of the arguments, any of the result, any size of either."""
    size = data.draw(st.sampled_from([0, 1, 2, 5]))
    shape = data.draw(st.lists(st.sampled_from([0, 1, 2, 3]), max_size=3).map(tuple))
    a, b, o = (data.draw(st.integers(-len(shape) - 1, len(shape))) for _ in range(3))
    shared = data.draw(st.booleans())
    x = np.random.default_rng(0).standard_normal((size, *shape))
    y = np.random.default_rng(1).standard_normal(shape if shared else (size, *shape))
    over = kt.vmap(lambda p, q: (p - q).exp(), in_axes=(a, None if shared else b), out_axes=o)
    got = over(kt.tensor(np.moveaxis(x, 0, a)), kt.tensor(y if shared else np.moveaxis(y, 0, b)))
    np.testing.assert_allclose(got.numpy(), np.moveaxis(np.exp(x - y), 0, o), rtol=1e-12)
    pairs = kt.vmap(kt.vmap(lambda p, q: (p - q).sum(), in_axes=(0, None)), in_axes=(None, 0))
    both = pairs(kt.tensor(x), kt.tensor(x)).numpy()
    np.testing.assert_allclose(both, (x[None] - x[:, None]).sum(tuple(range(2, x.ndim + 1))), rtol=1e-9, atol=1e-12)


def test_structures_and_modules() -> None:
    layer = nn.Linear(3, 2)

    def f(model: Any, batch: dict[str, Any], *, scale: float) -> dict[str, Any]:
        return {"y": (model(batch["x"]) * scale, batch["pair"][0] + batch["pair"][1]), "w": model.weight, "none": None}

    batch = {"x": kt.ones((3, 5)), "pair": [kt.ones(2), kt.arange(5.0)]}
    over = kt.vmap(f, in_axes=(None, {"x": 1, "pair": (None, 0)}), out_axes={"y": (0, 1), "w": None, "none": 0})
    out = over(layer, batch, scale=2.0)
    np.testing.assert_allclose(out["y"][0].numpy(), np.tile((layer(kt.ones(3)) * 2.0).numpy(), (5, 1)), rtol=1e-6)
    assert out["y"][1].shape == (2, 5) and out["y"][1][1].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert out["w"].shape == (2, 3) and out["none"] is None


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_per_example_of_a_model(device: str) -> None:
    """Of parameters handed in, and (added up, by backward) of a module's own."""
    with kt.device(device):
        x = kt.tensor(np.random.default_rng(5).standard_normal((6, 3)).astype(np.float32))
        t = kt.tensor(np.random.default_rng(6).integers(0, 4, 6))

        def loss(w: Any, b: Any, a: Any, label: Any) -> Any:
            return nn.functional.cross_entropy((a @ w + b)[None], label[None])

        w, b = kt.tensor(np.eye(3, 4, dtype=np.float32)), kt.zeros(4)
        each = kt.vmap(kt.grad(loss, (0, 1)), in_axes=(None, None, 0, 0))(w, b, x, t)
        for i in range(6):
            for got, want in zip(each, kt.grad(loss, (0, 1))(w, b, x[i], t[i]), strict=True):
                np.testing.assert_allclose(got[i].numpy(), want.numpy(), rtol=1e-5, atol=1e-6)
        values, _ = kt.vmap(kt.value_and_grad(loss), in_axes=(None, None, 0, 0))(w, b, x, t)
        whole = kt.grad(lambda v: nn.functional.cross_entropy(x @ v + b, t))(w)
        np.testing.assert_allclose(each[0].mean(0).numpy(), whole.numpy(), rtol=1e-5, atol=1e-6)
        assert values.shape == (6,)

        layer = nn.Linear(3, 4)
        grads = []
        for many in (True, False):
            out = kt.vmap(lambda a: layer(a).tanh())(x) if many else layer(x).tanh()
            (out * out).sum().backward()
            grads.append([p.grad.numpy() for p in layer.parameters()])
            layer.zero_grad()
        for a, c in zip(*grads, strict=True):
            np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-6)


def test_hessians_by_nesting() -> None:
    def f(x: Any) -> Any:
        return (x * x * x).sum() + x[0] * x[1]

    def hessian(x: Any) -> Any:
        return kt.vmap(lambda e: kt.jvp(kt.grad(f), (x,), (e,))[1])(kt.tensor(np.eye(3)))

    got = kt.vmap(hessian)(kt.tensor(X)).numpy()
    want = np.stack([np.diag(6 * row) for row in X])
    want[:, 0, 1] = want[:, 1, 0] = 1.0
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_a_loop_replays() -> None:
    """Another batch, other random numbers: nothing is built again."""
    v = kt.variable(W)

    def step(x: Any) -> Any:
        loss = kt.vmap(lambda a: ((a @ v).tanh() * kt.rand(3)).sum(), randomness="different")(x).sum()
        each = kt.vmap(kt.grad(lambda w, a: ((a @ w) ** 2).sum()), in_axes=(None, 0))(v.freeze(), x)
        loss.backward()
        g, v.grad = v.grad, None
        return (g + each.mean(0)).numpy()

    batches = [kt.tensor(X + i) for i in range(4)]
    found = [kt.explain(step, x) for x in batches]
    assert [f.programs_built for f in found[2:]] == [0, 0]
    assert len({f.result.tobytes() for f in found}) == 4


def test_it_is_compiled_and_compiles() -> None:
    over = kt.compile(lambda x: kt.vmap(lambda a: a.sum() * kt.rand(), randomness="same")(x))
    first, second = over(kt.tensor(X)).numpy(), over(kt.tensor(X)).numpy()
    np.testing.assert_allclose(first / second, np.full(4, first[0] / second[0]))
    assert first[0] != second[0]
    inner = kt.compile(lambda a: a * 2.0)
    np.testing.assert_array_equal(kt.vmap(inner)(kt.tensor(X)).numpy(), X * 2.0)


# ---- where examples go different ways


@pytest.mark.parametrize("device", DEVICES)
def test_a_way_that_no_example_goes_is_not_computed(device: str) -> None:
    called: list[float] = []

    def note(a: Array) -> Array:
        called.append(float(a))
        return a

    def f(x: Any) -> Any:
        return kt.cond(x > 0.0, lambda t: kt.custom_call(note, (), kt.float32, t), lambda t: t * 0.0, x)

    with kt.device(device):
        assert kt.vmap(f)(kt.tensor([-1.0, -2.0])).tolist() == [0.0, 0.0] and called == []
        assert kt.vmap(f)(kt.tensor([-1.0, 5.0, -2.0])).tolist() == [0.0, 5.0, 0.0]
        assert set(called) == {5.0}


def test_examples_that_are_done_do_not_read_outside() -> None:
    """`table_walk` ends at the last place; the loop goes on for others, and an index too far is still an error."""
    assert kt.vmap(table_walk)(kt.tensor(X), kt.tensor(np.array([2, 0, 2, 1]))).shape == (4,)
    with pytest.raises(kt.IndexBoundsError, match=r"test_vmap.py:\d+"):
        kt.vmap(table_walk)(kt.tensor(X), kt.tensor(np.array([3, 0, 2, 1]))).numpy()


def test_no_infinity_comes_from_where_no_example_went() -> None:
    g = kt.grad(lambda w, x: kt.vmap(lambda a: kt.cond(a > 0.0, lambda t: (t * w).sqrt(), lambda t: t * w, a))(x).sum())
    x = np.array([4.0, -9.0, 0.0])
    np.testing.assert_allclose(g(kt.tensor(np.array(1.0)), kt.tensor(x)).item(), 1.0 - 9.0)
    np.testing.assert_allclose(g(kt.tensor(np.array(1.0)), kt.tensor(-np.abs(x))).item(), -13.0)


# ---- random numbers


@pytest.mark.parametrize("device", DEVICES)
def test_random_draws_differ_or_are_the_same(device: str) -> None:
    with kt.device(device):
        x = kt.zeros((5, 3))
        for draw in (lambda: kt.rand(3), lambda: kt.randn(3), lambda: kt.randint(0, 1 << 30, (3,))):
            kt.manual_seed(3)
            different = kt.vmap(lambda a, d=draw: (a, d()), randomness="different")(x)[1].numpy()
            assert len(np.unique(different)) == 15
            kt.manual_seed(3)
            same = kt.vmap(lambda a, d=draw: (a, d()), randomness="same")(x)[1].numpy()
            kt.manual_seed(3)
            np.testing.assert_array_equal(same, np.tile(draw().numpy(), (5, 1)))
        kept = kt.vmap(lambda a: nn.functional.dropout(a + 1.0, 0.5), randomness="different")(kt.zeros((4, 64))).numpy()
        assert len(np.unique(kept, axis=0)) == 4 and set(np.unique(kept)) == {0.0, 2.0}
        outside = kt.rand(3)
        assert len(np.unique(kt.vmap(lambda a: a + outside, randomness="different")(x).numpy(), axis=0)) == 1
        grid = kt.vmap(kt.vmap(lambda a: a * 0.0 + kt.rand(), randomness="same"), randomness="different")(x).numpy()
        assert [len(np.unique(row)) for row in grid] == [1] * 5 and len(np.unique(grid)) == 5


def test_random_draws_need_leave() -> None:
    with pytest.raises(kt.Error, match=r"vmap.*test_vmap.py:\d+: say randomness='different'"):
        kt.vmap(lambda a: a + kt.rand(3))(kt.zeros((5, 3)))
    with pytest.raises(ValueError, match="randomness is one of"):
        kt.vmap(lambda a: a, randomness="any")  # type: ignore[call-overload]  # pyrefly: ignore[no-matching-overload]
    kt.vmap(lambda a: a)(kt.rand(5, 3)).numpy()


# ---- errors


@pytest.mark.parametrize("look", [lambda x: x.sum().item(), bool, float, str, lambda x: x.tolist(), np.asarray])
def test_looking_inside_names_the_line(look: Callable[[Any], Any]) -> None:
    before = kt.tensor(X) * 2.0  # pending, and unharmed
    with pytest.raises(kt.Error, match=r"vmap: a value is looked at.*test_vmap.py:\d+") as caught:
        kt.vmap(lambda a: a * look(a.sum()))(kt.tensor(X))
    assert caught.value is not None
    np.testing.assert_array_equal(before.numpy(), X * 2.0)  # although the error's frames still hold a's


def test_what_was_computed_before_may_be_looked_at() -> None:
    factor = kt.tensor(2.0) * 1.0
    factor.item()
    assert kt.vmap(lambda a: a * factor.item())(kt.ones((2, 3))).tolist() == [[2.0] * 3] * 2


def test_misuse() -> None:
    x = kt.ones((4, 3))
    with pytest.raises(
        kt.ShapeError, match=r"4 on axis 0 of arguments\[0\] \(float32\[4, 3\]\), 5 on axis 0 of arguments\[1\]"
    ):
        kt.vmap(kt.add)(x, kt.ones(5))
    with pytest.raises(kt.ShapeError, match=r"arguments\[0\], float32\[4, 3\], cannot have the examples on axis 2"):
        kt.vmap(lambda a: a, in_axes=2)(x)
    with pytest.raises(kt.ShapeError, match=r"the result\[1\], float32\[3\], cannot have the examples on axis 2"):
        kt.vmap(lambda a: (a, a), out_axes=(0, 2))(x)
    with pytest.raises(kt.ShapeError, match="are for 2 things, but arguments is a tuple of 1"):
        kt.vmap(lambda a: a, in_axes=(0, 0))(x)
    with pytest.raises(kt.ShapeError, match=r"are for a dict with these keys, but arguments\[0\] is a dict of \['b'\]"):
        kt.vmap(lambda a: a, in_axes=({"a": 0},))({"b": x})
    with pytest.raises(kt.ShapeError, match="no argument with an axis"):
        kt.vmap(lambda a: a, in_axes=None)(x)
    with pytest.raises(kt.DTypeError, match=r"arguments\[1\] is a Linear, and only tensors have an axis 0"):
        kt.vmap(lambda a, m: m(a))(x, nn.Linear(3, 2))
    with pytest.raises(kt.DTypeError, match="the result is a float"):
        kt.vmap(lambda a: 3.0)(x)
    with pytest.raises(kt.ShapeError, match=r"out_axes is None for a result, float32\[3\], that differs"):
        kt.vmap(lambda a: a, out_axes=None)(x)
    with pytest.raises(kt.ShapeError, match=r"matmul\(float32\[3\], float32\[4, 3\]\)"):
        kt.vmap(lambda a: a @ x)(x)
    with pytest.raises(kt.GradientError, match="use scan"):
        kt.grad(lambda v: kt.vmap(halvings)(v)[0].sum())(x)
    assert (x + 1).tolist() == [[2.0] * 3] * 4


def test_state_has_one_value_for_all() -> None:
    v = kt.variable([1.0, 2.0, 3.0])
    x = kt.ones((4, 3))
    with pytest.raises(kt.Error, match="set: inside vmap the new value differs"):
        kt.vmap(lambda a: v.set(a))(x)
    with pytest.raises(kt.GradientError, match="backward: inside vmap"):
        kt.vmap(lambda a: (a * v).sum().backward())(x)
    assert v.grad is None and v.tolist() == [1.0, 2.0, 3.0]

    def doubles(a: Any) -> Any:
        v.set(v * 2.0)
        return a * v

    assert kt.vmap(doubles)(x)[0].tolist() == v.tolist() == [2.0, 4.0, 6.0]


def test_what_escapes_has_no_value() -> None:
    kept: list[Any] = []

    def keep(a: Any) -> Any:
        kept.extend([a * 2.0, kt.ones(2) * 3.0])
        return a

    assert kt.vmap(keep)(kt.ones((4, 3))).sum().item() == 12.0
    with pytest.raises(kt.Error, match=r"vmap: this float32\[3\] stood for one example"):
        kept[0].numpy()
    with pytest.raises(kt.Error, match=r"vmap: this float32\[3\] stood for one example"):
        kept[0] + 1.0
    assert kept[1].tolist() == [3.0, 3.0]
    gc.collect()
    assert (kt.ones(2) + 1).tolist() == [2.0, 2.0]


def test_in_no_grad_the_results_are_constants() -> None:
    v = kt.variable(X)
    with kt.no_grad():
        assert not kt.is_variable(kt.vmap(lambda a: a * 2.0)(v))
    out = kt.vmap(lambda a: a * 2.0)(v)
    assert kt.is_variable(out)
    out.sum().backward()
    np.testing.assert_array_equal(v.grad.numpy(), np.full(X.shape, 2.0))

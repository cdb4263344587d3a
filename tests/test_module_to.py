"""Modules and tensors take devices and dtypes in `to`, and what depends on them goes along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import DeviceError, DTypeError, GradientError, nn, optim
from katachi.nn import functional as F

TO: dict[str, tuple[Callable[[Any], Any], str, Any]] = {
    "to(float16)": (lambda x: x.to(kt.float16), "cpu", kt.float16),
    "to(dtype=bfloat16)": (lambda x: x.to(dtype=kt.bfloat16), "cpu", kt.bfloat16),
    'to("float64")': (lambda x: x.to("float64"), "cpu", kt.float64),
    "to(np.float16)": (lambda x: x.to(np.float16), "cpu", kt.float16),
    'to("reference")': (lambda x: x.to("reference"), "reference", kt.float32),
    'to(device="reference")': (lambda x: x.to(device="reference"), "reference", kt.float32),
    'to("reference", float64)': (lambda x: x.to("reference", kt.float64), "reference", kt.float64),
    "to(device, dtype)": (lambda x: x.to(device="reference", dtype=kt.float16), "reference", kt.float16),
    "to()": (lambda x: x.to(), "cpu", kt.float32),
}
SHORT: dict[str, Any] = {"half": kt.float16, "bfloat16": kt.bfloat16, "float": kt.float32, "double": kt.float64}


def network() -> Any:
    kt.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize("name", TO)
def test_what_modules_and_tensors_take(name: str) -> None:
    to, device, dtype = TO[name]
    with kt.device("cpu"):
        net, x = network(), kt.ones(2)
    before = {n: v.numpy() for n, v in net.state_dict().items()}
    assert to(net) is net
    assert all(p.dtype is dtype and p.device == device and p.requires_grad for p in net.parameters())
    kept = kt.float64 if dtype is kt.float64 else kt.float32  # statistics of halves are float32
    assert net[1].running_mean.dtype is kept and net[1].running_mean.device == device
    assert net[1].num_batches_tracked.dtype is kt.int64 and net[1].num_batches_tracked.device == device
    for n, v in net.state_dict().items():
        assert np.array_equal(v.numpy(), before[n].astype(v.numpy().dtype)), n
    moved = to(x)
    assert moved.dtype is dtype and moved.device == device


@pytest.mark.parametrize("name", SHORT)
def test_short_names(name: str) -> None:
    net = network().double()
    assert getattr(net, name)() is net and {p.dtype for p in net.parameters()} == {SHORT[name]}
    assert net[1].num_batches_tracked.dtype is kt.int64


@pytest.mark.parametrize("thing", [nn.Linear(1, 1), kt.ones(1)], ids=["module", "tensor"])
def test_what_is_refused_lists_what_there_is(thing: Any) -> None:
    for wrong in ("cuda", "cuda:0", "float8"):
        with pytest.raises(
            DeviceError, match=rf"no device '{wrong}'.*devices: cpu, reference; dtypes: bool, .*float64"
        ):
            thing.to(wrong)
    for wrong in (3, nn.Linear, [kt.float32]):
        with pytest.raises(DTypeError, match=r"to: needs a device or a dtype, got .*devices: cpu.*dtypes: bool"):
            thing.to(wrong)
    for move in (kt.ones(1).to_device, lambda device: kt.astype(kt.ones(1), kt.float32, device=device)):
        with pytest.raises(DeviceError, match="no device 'float64'"):
            move("float64")
    with pytest.raises(DTypeError, match=r"no dtype 'reference'; it has bool"):
        thing.to("cpu", "reference")
    with pytest.raises(DTypeError, match=r"got two dtypes, float16 and katachi\.float32"):
        thing.to(kt.float16, kt.float32)


def test_modules_do_not_become_integers() -> None:
    layer = nn.Linear(1, 1)
    for dtype in (kt.int32, kt.bool, "uint8"):
        with pytest.raises(DTypeError, match="floating-point dtypes, got"):
            layer.to(dtype)
    assert layer.weight.dtype is kt.float32


def train(net: Any, optimizer: Any, x: Any, y: Any, steps: int) -> None:
    for _ in range(steps):
        F.mse_loss(net(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, lr=0.1, momentum=0.9), lambda p: optim.Adam(p, lr=0.01),
                                  lambda p: optim.AdamW(p, lr=0.01)], ids=["SGD", "Adam", "AdamW"])  # fmt: skip
def test_optimisers_go_on(make: Any) -> None:
    """float32 to float64 loses nothing: the run equals one that was float64 from where it changed."""
    x, y = np.random.default_rng(1).standard_normal((2, 8, 2))
    net = nn.Linear(2, 2)
    optimizer = make(net.parameters())
    train(net, optimizer, kt.tensor(x, kt.float32), kt.tensor(y, kt.float32), 3)
    other = nn.Linear(2, 2).double()
    other.load_state_dict(net.state_dict())
    theirs = make(other.parameters())
    theirs.load_state_dict(optimizer.state_dict())
    net.double()
    for model, opt in ((net, optimizer), (other, theirs)):
        train(model, opt, kt.tensor(x), kt.tensor(y), 3)
    assert net.weight.tolist() == other.weight.tolist() and net.weight.dtype is kt.float64
    state = optimizer.state_dict()["state"][0]
    assert state["step"] == 6 and all(v.dtype is kt.float64 for v in state.values() if isinstance(v, kt.Tensor))
    net.to(kt.float32)
    train(net, optimizer, kt.tensor(x, kt.float32), kt.tensor(y, kt.float32), 2)
    assert net.weight.dtype is kt.float32 and np.isfinite(net.weight.numpy()).all()


def test_gradients_and_twins_go_along_and_tied_parameters_once() -> None:
    layer = nn.Linear(2, 1, bias=False)
    net: Any = nn.Sequential(layer, nn.Linear(1, 2))
    net.tied = [layer.weight]
    frozen = net.freeze()
    net[0](kt.ones(1, 2)).sum().backward()
    net.to("reference", kt.float64)
    assert net.tied[0] is net[0].weight and net[0].weight.grad.dtype is kt.float64
    assert net[0].weight.grad.device == "reference" and net[0].weight.grad.tolist() == [[1.0, 1.0]]
    assert frozen[0].weight.dtype is kt.float64 and frozen[0].weight.device == "reference"
    assert frozen[0].weight.tolist() == net[0].weight.tolist()
    with kt.device("reference"):
        net(kt.ones(1, 2, dtype=kt.float64)).sum().backward()
    frozen.to("cpu", kt.float32)  # the same cells
    assert net[0].weight.device == "cpu" and kt.is_variable(net[0].weight) and net[0].weight.grad.dtype is kt.float32


def test_a_pending_value_is_moved() -> None:
    layer = nn.Linear(1, 1, bias=False)
    before = layer.weight * 1.0
    layer.weight.set([[1.5]])
    layer.to(kt.float16)
    assert layer.weight.dtype is kt.float16 and layer.weight.item() == 1.5 and before.dtype is kt.float32


@pytest.mark.parametrize("to", [(kt.float64,), ("reference",)], ids=str)
@pytest.mark.parametrize("looked", [False, True])
def test_a_loss_from_before_is_refused(to: tuple[Any, ...], looked: bool) -> None:
    def loss_of(layer: Any) -> Any:
        loss = layer(kt.ones((1, 2), device="cpu", dtype=kt.float32)).sum()
        if looked:
            loss.item()
        return loss

    def once(move: bool) -> Any:
        layer = nn.Linear(2, 1).to("cpu")
        loss = loss_of(layer)
        if move:
            layer.to(*to)
        loss.backward()
        return layer.weight.grad.tolist()

    for _ in range(3):  # what is replayed looks as well
        assert once(False) == [[1.0, 1.0]]
        with pytest.raises(GradientError, match=r"computed from float32\[1.* on cpu, which has become .* since"):
            once(True)


def test_a_compiled_function_sees_that_a_module_was_moved() -> None:
    layer = nn.Linear(2, 1).to("cpu")
    optimizer = optim.Adam(layer.parameters(), lr=0.1)

    @kt.compile
    def step(x: Any) -> Any:
        loss = layer(x.to(layer.weight.dtype)).sum()
        loss.backward()
        optimizer.step()
        return loss

    x = kt.ones((1, 2), device="cpu")
    for dtype in (kt.float32, kt.float64, kt.bfloat16, kt.float32):
        layer.to(dtype)
        before = layer.weight.tolist()
        for _ in range(2):
            assert step(x).dtype is dtype
        assert layer.weight.dtype is dtype and layer.weight.tolist() != before
        kept = kt.float64 if dtype is kt.float64 else kt.float32  # moments of halves are float32
        assert optimizer.state_dict()["state"][0]["exp_avg"].dtype is kept


@pytest.mark.parametrize("dtype", [kt.float16, kt.bfloat16])
def test_running_statistics_of_halves_neither_overflow_nor_stand_still(dtype: Any) -> None:
    layer: Any = nn.BatchNorm1d(2).to(dtype)
    rng = np.random.default_rng(0)
    for _ in range(60):
        x = kt.tensor(rng.standard_normal((500, 2)) * 300 + 100, dtype=dtype)
        assert layer(x).dtype is dtype
    layer.eval()
    assert layer.running_var.tolist() == pytest.approx([9e4, 9e4], rel=0.05)
    out = layer(kt.tensor([[400.0, -200.0]], dtype=dtype))
    assert out.dtype is dtype and out.tolist()[0] == pytest.approx([1.0, -1.0], abs=0.05)

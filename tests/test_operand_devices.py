"""Where an operation runs: zero-dimensional operands follow the others, and the order of operands decides nothing."""

from __future__ import annotations

from typing import Any

import pytest

import katachi as kt
from katachi import nn, optim

FORMS = {
    "plain": lambda f: f(),
    "eager": lambda f: _eagerly(f),
    "compiled": lambda f: kt.compile(f)(),
    "no_grad": lambda f: _without_gradients(f),
}


def _eagerly(f: Any) -> Any:
    with kt.eager():
        return f()


def _without_gradients(f: Any) -> Any:
    with kt.no_grad():
        return f()


def scalar(value: Any, device: str) -> Any:
    return kt.tensor(value, device=device)


def other(device: str) -> str:
    return "reference" if device == "cpu" else "cpu"


BINARY = [
    kt.add, kt.subtract, kt.multiply, kt.divide, kt.maximum, kt.minimum, kt.pow, kt.atan2, kt.hypot, kt.logaddexp,
    kt.remainder, kt.floor_divide, kt.copysign, kt.equal, kt.less, kt.greater_equal, kt.logical_and, kt.nextafter,
]  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("form", FORMS)
def test_a_scalar_follows_an_array_on_either_side(form: str, device: str) -> None:
    array, alone = kt.full((3,), 3.0, device=device), scalar(2.0, other(device))
    for op in BINARY:
        for operands in ((array, alone), (alone, array)):
            x = FORMS[form](lambda op=op, operands=operands: op(*operands))
            at_home = op(*(v.to(device) for v in operands))
            assert (x.device, x.shape) == (device, (3,)), op.__name__
            assert x.tolist() == at_home.tolist()


@pytest.mark.parametrize("form", FORMS)
def test_among_scalars_those_on_the_cpu_follow(form: str) -> None:
    a, b = scalar(2.0, "cpu"), scalar(3.0, "reference")
    for op in BINARY:
        for operands in ((a, b), (b, a)):
            x = FORMS[form](lambda op=op, operands=operands: op(*operands))
            assert x.device == "reference", op.__name__
            assert x.item() == op(*(v.to("reference") for v in operands)).item()


CASES = {
    "where": lambda x, s: kt.where(x > 0, s, 0.0),
    "where's condition": lambda x, s: kt.where(s > 0, x, s),
    "clip": lambda x, s: x.clip(s, s),
    "pad": lambda x, s: kt.pad(x, (0, 0), value=s),
    "at.set": lambda x, s: x.at[0].set(s),
    "at.add": lambda x, s: x.at[[0, 0]].add(s),
    "index": lambda x, s: x[(s * 0).astype(kt.int64)] + x * 0,
    "leaky_relu": lambda x, s: kt.leaky_relu(-x, s),
    "lerp": lambda x, s: s * x + (1 - s) * x,
    "cond": lambda x, s: kt.cond(s > 0, lambda v: v * s, lambda v: v, x),
    "while_loop": lambda x, s: kt.while_loop(lambda c: c[0] < 9.0, lambda c: (c[0] * 2, c[1] + c[0]), (s, x))[1],
    "scan": lambda x, s: kt.scan(lambda c, v: (c + v, c * v), s, x)[1],
    "vmap": lambda x, s: kt.vmap(lambda v, w: v * w, in_axes=(0, None))(x, s),
    "vmap of scalars": lambda x, s: kt.vmap(lambda v: s - v)(x),
    "custom_gradient": lambda x, s: kt.custom_gradient(lambda v: (v * s, lambda g: g * s))(x),
    "checkpoint": lambda x, s: kt.checkpoint(lambda v: (v * s).exp())(x),
    "loss": lambda x, s: nn.functional.smooth_l1_loss(x, x * 0) * x * s,
    "pos_weight": lambda x, s: x * nn.functional.binary_cross_entropy_with_logits(x, x * 0 + 1, pos_weight=s),
}


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_whatever_takes_a_scalar_runs_where_the_array_is(name: str, form: str, device: str) -> None:
    x, s = kt.tensor([1.0, 2.0, 3.0], device=device), scalar(2.0, other(device))
    found = FORMS[form](lambda: CASES[name](x, s))
    assert (found.device, found.shape) == (device, (3,))
    assert found.tolist() == CASES[name](x, s.to(device)).tolist()


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("index", "where's condition", "while_loop")])
@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("form", ["plain", "eager", "compiled"])
def test_gradients_arrive_where_the_variable_is(name: str, form: str, device: str) -> None:
    right = []
    for where in (other(device), device):
        x, s = kt.variable([1.0, 2.0, 3.0], device=device), kt.variable(2.0, device=where)

        def step(x: Any = x, s: Any = s) -> Any:
            (CASES[name](x, s) ** 2).sum().backward()

        FORMS[form](step)
        grads = [(g, home) for g, home in ((x.grad, device), (s.grad, where)) if g is not None]
        assert len(grads) == (1 if name in ("where", "custom_gradient") else 2)
        assert all(g.device == home for g, home in grads)
        right.append([g.tolist() for g, _ in grads])
    assert right[0] == right[1]


@pytest.mark.parametrize("devices", [("cpu", "reference"), ("reference", "cpu")])
def test_derivatives_of_every_kind_cross(devices: tuple[str, str]) -> None:
    x, s = kt.tensor([1.0, 2.0], device=devices[0]), scalar(3.0, devices[1])
    value, tangent = kt.jvp(
        lambda x, s: (x * s * s).sum(), (x, s), (kt.ones(2, device=devices[0]), scalar(1.0, devices[1]))
    )
    assert (value.item(), tangent.item(), value.device) == (27.0, 36.0, devices[0])
    first, second = kt.grad(lambda x, s: (x * s * s).sum(), (0, 1))(x, s)
    assert (first.device, second.device) == devices and (first.tolist(), second.item()) == ([9.0, 9.0], 18.0)
    again = kt.grad(kt.grad(lambda s: (x * s * s * s).sum()))(s)
    assert (again.device, again.item()) == (devices[1], 54.0)


def test_scalars_that_are_put_together_are_on_one_device_in_any_order() -> None:
    a, b = scalar(1.0, "cpu"), scalar(2.0, "reference")
    for xs in ((a, b), (b, a)):
        assert kt.stack(xs).device == "reference"
        assert kt.where(xs[0] < xs[1], *xs).device == "reference"
        assert kt.stack(xs).tolist() == [x.item() for x in xs]


def test_arrays_do_not_cross() -> None:
    x, y = kt.ones(2, device="cpu"), kt.ones(2, device="reference")
    for operands in ((x, y), (y, x)):
        for op in (kt.add, lambda a, b: kt.concat([a, b]), lambda a, b: kt.stack([a, b]), kt.matmul,
                   lambda a, b: kt.where(a > 0, b, 0.0), lambda a, b: a.at[:].set(b)):  # fmt: skip
            with pytest.raises(kt.DeviceError, match="operands are on cpu and reference"):
                op(*operands)


def test_state_stays_where_it_is() -> None:
    for device in ("cpu", "reference"):
        for p in (kt.variable(1.0, device=device), kt.variable([1.0], device=device)):
            value = scalar(5.0, other(device))
            if p.ndim:
                with pytest.raises(kt.DeviceError):
                    p.set(value.reshape((1,)))
                continue
            p.set(value)
            assert (p.device, p.item()) == (device, 5.0)
            with kt.no_grad():
                p.set(p * value)
            assert (p.device, (p * 1.0).device, p.item()) == (device, device, 25.0)


@pytest.mark.parametrize("optimiser", [optim.SGD, optim.AdamW, optim.Adam])
@pytest.mark.parametrize("form", ["plain", "eager", "compiled"])
def test_a_scalar_parameter_elsewhere_is_trained_there(optimiser: Any, form: str) -> None:
    found = []
    for where in ("cpu", "reference"):
        w, scale = kt.variable([1.0, 2.0]), kt.variable(3.0, device=where)
        opt = optimiser([w, scale], lr=0.1)

        def step(w: Any = w, scale: Any = scale, opt: Any = opt) -> Any:
            loss = (w * scale).sum()
            loss.backward()
            optim.clip_grad_norm_([w, scale], 1.0)
            opt.step()
            return loss

        run = kt.compile(step) if form == "compiled" else lambda step=step: FORMS[form](step)
        losses = [run() for _ in range(4)]
        assert (w.device, scale.device, losses[0].device) == ("cpu", where, "cpu")
        found.append([w.tolist(), scale.item(), *(x.item() for x in losses)])
    for a, b in zip(*found, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_norms_of_gradients_on_two_devices_are_one() -> None:
    v, w = kt.variable([3.0, 0.0]), kt.variable([0.0, 4.0], device="reference")
    for order in ([v, w], [w, v]):
        (v * v / 2).sum().backward()
        (w * w / 2).sum().backward()
        norm = optim.clip_grad_norm_(order, 1.0)
        assert (norm.item(), norm.device) == (5.0, "reference")
        assert (v.grad.device, w.grad.device) == ("cpu", "reference")
        assert v.grad.tolist() == pytest.approx([0.6, 0.0], rel=1e-5)
        assert w.grad.tolist() == pytest.approx([0.0, 0.8], rel=1e-5)
        v.grad = w.grad = None


def test_a_change_of_device_is_another_trace() -> None:
    """The third turn of a loop compiles nothing, wherever the scalar is."""
    x = kt.ones(3)

    def turn(s: Any) -> list[float]:
        return (s * x + s).tolist()

    scalars = [scalar(2.0, d) for d in ("cpu", "reference")]
    built = [[kt.explain(lambda s=s: turn(s)).programs_built for s in scalars] for _ in range(3)]
    assert built[0] == [1, 1] and built[1:] == [[0, 0], [0, 0]]

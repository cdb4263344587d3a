"""Wrong on purpose: each line marked `planted` must be reported, and no other. Read by a checker, never run."""

from __future__ import annotations

import katachi as kt
from katachi import Shaped, Tensor, Variable, shape_vars


def arithmetic() -> None:
    x, y = kt.zeros(3, 4), kt.ones(4, 3)
    x + y.T
    x + y  # planted: 4 and 3 do not broadcast
    x @ y
    x @ x  # planted: inner sizes 4 and 3
    kt.where(x > 0, x, y)  # planted: (3, 4) beside (4, 3)
    kt.maximum(x, kt.zeros(3))  # planted: 4 and 3


def axes() -> None:
    x = kt.randn(2, 3, 4)
    x.sum(-3)
    x.sum(3)  # planted: axis 3 of three axes
    x.mean((0, 0))  # planted: one axis twice
    x.softmax(-4)  # planted: axis -4 of three axes
    x.permute((2, 0, 1))
    x.permute((2, 0))  # planted: an axis is missing
    x.transpose(0, 3)  # planted: axis 3 of three axes
    x.squeeze(1)  # planted: size 3 cannot be dropped


def layout() -> None:
    x = kt.zeros((6, 4))
    x.reshape((2, 12))
    x.reshape((5, 5))  # planted: 24 elements into 25
    x.reshape(7, -1)  # planted: 24 elements do not divide by 7
    kt.concat((x, kt.zeros(6, 2)), axis=1)
    kt.concat((x, kt.zeros(6, 2)), axis=0)  # planted: 4 and 2 on the other axis
    kt.stack((x, x.T))  # planted: two shapes
    x[0, 1]
    x.sum(0)[:, 0]  # planted: two indices for one axis
    kt.zeros(3).broadcast_to((2, 4))  # planted: 3 repeated to 4


def gradients() -> None:
    c, v = kt.ones(3), kt.variable([1.0, 2.0, 3.0])
    (c * v).sum().backward()
    (c * c).sum().backward()  # planted: nothing in it is a variable
    (c * v).backward()  # planted: not a scalar
    v.freeze().sum().backward()  # planted: frozen
    c.grad  # planted: a constant has no gradient
    v.set(kt.zeros(4))  # planted: another shape
    kt.gradients((v * v).sum(), [c])  # planted: with respect to a constant


@shape_vars("N")
def norm(v: Shaped[Variable, "[N]"]) -> Shaped[Variable, "[N]"]:
    return v * v


def transforms() -> None:
    kt.grad(norm)(kt.ones(3))  # planted: its result is not a scalar
    kt.vjp(norm, kt.ones(3))[1](kt.ones(3))
    kt.vjp(norm, kt.ones(3))[1](kt.ones(4))  # planted: a cotangent of another shape


@shape_vars("B, N")
def rows(x: Shaped[Tensor, "[B, N]"], scale: Shaped[Tensor, "[N]"], count: int) -> Shaped[Tensor, "[B]"]:
    x.expect((count, 4)) @ kt.zeros(5, 2)  # planted: 4 was expected, 5 follows
    x * scale
    return (x * scale).sum(0)  # planted: that leaves N

"""Mistakes, and what katachi says to each: the type of the error and the words that tell what was wrong."""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import katachi
from katachi.errors import (
    CheckpointError,
    DeviceError,
    DTypeError,
    Error,
    GradientError,
    IndexBoundsError,
    ShapeError,
)  # fmt: skip

kt: Any = katachi  # wrong on purpose, so the type checker is not asked
data, nn, optim, F = kt.data, kt.nn, kt.optim, kt.nn.functional

Case = tuple[str, Callable[[], Any], type[Exception], tuple[str, ...]]


def matrix() -> Any:
    return kt.zeros((2, 3))


def leaf() -> Any:
    return kt.variable([1.0, 2.0])


def parameter() -> Any:
    return nn.Parameter([1.0, 2.0])


def image() -> Any:
    return kt.zeros((1, 3, 8, 8))


def square(x: Any) -> Any:
    return x * x


def loss_of(x: Any) -> Any:
    return (x * x).sum()


AUGMENTED = {"+": "iadd", "-": "isub", "*": "imul", "/": "itruediv", "**": "ipow", "@": "imatmul"}


def augmented(sign: str) -> Callable[[], Any]:
    return lambda: getattr(operator, AUGMENTED[sign])(parameter(), kt.ones(2))


def twice() -> None:
    loss = loss_of(leaf())
    loss.backward()
    loss.backward()


def twice_through_a_shared_part() -> None:
    v = leaf()
    trunk = (v * 2).tanh()
    trunk.sum().backward()
    (trunk * 3).sum().backward()


def without_grad() -> None:
    with kt.no_grad():
        loss_of(leaf()).backward()


def assign(target: Any, name: str, value: Any) -> None:
    setattr(target, name, value)


SHAPES: list[Case] = [
    ("add", lambda: matrix() + kt.zeros((2, 4)), ShapeError,
     ("add(float32[2, 3], float32[2, 4])", "(2, 3) and (2, 4) do not broadcast")),
    ("matmul", lambda: matrix() @ matrix(), ShapeError,
     ("matmul(float32[2, 3], float32[2, 3])", "inner sizes differ: 3 and 2")),
    ("matmul by a number", lambda: matrix() @ 2.0, ShapeError,
     ("matmul(float32[2, 3], 2.0)", "at least one axis", "there is *")),
    ("matmul batches", lambda: kt.zeros((2, 3, 4)) @ kt.zeros((3, 4, 5)), ShapeError, ("batch axes (2,) and (3,)",)),
    ("reshape", lambda: matrix().reshape(4), ShapeError, ("reshape(float32[2, 3])", "(6 elements) to (4,) (4)")),
    ("two holes", lambda: matrix().reshape((-1, -1)), ShapeError, ("one size may be -1",)),
    ("hole that does not divide", lambda: matrix().reshape((4, -1)), ShapeError, ("cannot reshape (2, 3)", "(4, -1)")),
    ("permute", lambda: matrix().permute(0, 0), ShapeError, ("permute(float32[2, 3])", "each of the 2 axes", "(0, 0)")),
    ("permute one", lambda: matrix().permute(1), ShapeError, ("each of the 2 axes",)),
    ("transpose", lambda: matrix().transpose(0, 5), ShapeError, ("transpose(", "axis 5 is out of range for 2 axes")),
    ("squeeze", lambda: matrix().squeeze(0), ShapeError, ("axis 0 of (2, 3) has size 2, only size 1",)),
    ("broadcast_to", lambda: kt.broadcast_to(matrix(), (3, 2)), ShapeError, ("(2, 3) does not broadcast to (3, 2)",)),
    ("concat sizes", lambda: kt.concat([matrix(), kt.zeros((3, 3))], 1), ShapeError,
     ("concat(", "outside axis 1: (2, 3) and (3, 3)")),
    ("concat ranks", lambda: kt.concat([matrix(), kt.zeros(3)]), ShapeError, ("one rank, got (2, 3), (3,)",)),
    ("concat nothing", lambda: kt.concat([]), ShapeError, ("concat needs at least one tensor",)),
    ("stack", lambda: kt.stack([matrix(), kt.zeros(3)]), ShapeError, ("stack(", "one shape, got (2, 3), (3,)")),
    ("negative size", lambda: kt.zeros((2, -1)), ShapeError, ("(2, -1) has a negative size",)),
    ("ragged", lambda: kt.tensor([[1], [1, 2]]), ShapeError, ("ragged", "[[1], [1, 2]]")),
    ("ragged tensors", lambda: kt.tensor([kt.zeros(2), kt.zeros(3)]), ShapeError, ("ragged",)),
    ("empty maximum", lambda: kt.zeros((0, 2)).max(0), ShapeError, ("max(float32[0, 2])", "axis 0 of (0, 2) is empty")),
    ("expect", lambda: matrix().expect((None, 4)), ShapeError, ("expect: shape (None, 4) was expected, got (2, 3)",)),
    ("axis", lambda: matrix().sum(2), ShapeError, ("sum(float32[2, 3])", "axis 2 is out of range for 2 axes")),
    ("axis of a scalar", lambda: kt.tensor(1.0).sum(0), ShapeError, ("a scalar has no axes",)),
    ("axis twice", lambda: matrix().mean((0, -2)), ShapeError, ("mean(", "axes (0, -2) name one axis twice")),
    ("where", lambda: kt.where(kt.tensor([True, False]), matrix(), 1), ShapeError,
     ("where(", "(2,) and (2, 3) do not broadcast")),
    ("set", lambda: leaf().set([1.0]), ShapeError, ("set: needs shape (2,), got (1,)",)),
]  # fmt: skip

DTYPES: list[Case] = [
    ("a string operand", lambda: matrix() + "a", DTypeError, ("add: operands are tensors and numbers, got str",)),
    ("None as operand", lambda: matrix() * None, DTypeError, ("multiply", "got NoneType")),
    ("a list operand", lambda: kt.add(matrix(), [1, 2, 3]), DTypeError, ("add", "got list")),
    ("complex array", lambda: np.array([1j]) + matrix(), DTypeError, ("numbers and bools only, got complex128",)),
    ("tensor of a string", lambda: kt.tensor("abc"), DTypeError, ("cannot make a tensor of 'abc'",)),
    ("tensor of None", lambda: kt.tensor([None, 1]), DTypeError, ("[None, 1]", "numbers and bools only, got object")),
    ("tensor of an object", lambda: kt.tensor(object()), DTypeError, ("got object",)),
    ("tensor of a generator", lambda: kt.tensor(i for i in range(3)), DTypeError, ("generator",)),
    ("unknown dtype", lambda: matrix().astype("float33"), DTypeError, ("no dtype 'float33'", "float16, bfloat16")),
    ("dtype None", lambda: matrix().astype(None), DTypeError, ("no dtype None",)),
    ("complex dtype", lambda: kt.zeros(2, dtype=np.complex64), DTypeError, ("complex64", "it has bool, int8")),
    ("uint64 with int64", lambda: kt.zeros(1, dtype=kt.uint64) + kt.zeros(1, dtype=kt.int64), DTypeError,
     ("add(uint64[1], int64[1])", "no common dtype", "astype")),
    ("too large", lambda: kt.tensor([1], dtype=kt.int8) + 300, OverflowError,
     ("add: 300 does not fit int8 (-128 to 127)",)),
    ("negative to unsigned", lambda: kt.tensor([1], dtype=kt.uint8) * -1, OverflowError,
     ("multiply: -1 does not fit uint8",)),
    ("too large a fill", lambda: kt.full((2,), 300, dtype=kt.int8), OverflowError, ("full: 300 does not fit int8",)),
    ("too large a value", lambda: kt.tensor([1, 300], dtype=kt.int8), OverflowError,
     ("tensor: 300 does not fit int8",)),
    ("too small a value", lambda: kt.tensor(np.array([-1]), dtype=kt.uint8), OverflowError, ("-1 does not fit uint8",)),
    ("sum of bools with +", lambda: (matrix() > 0) + (matrix() > 0), DTypeError,
     ("add(bool[2, 3], bool[2, 3])", "&, | and ^")),
    ("float bits", lambda: ~matrix(), DTypeError, ("bitwise_invert(float32[2, 3])", "bool or integers, got float32")),
    ("integer to the -1", lambda: kt.tensor([2]) ** -1, DTypeError, ("int64 to the power -1", "astype")),
    ("condition", lambda: kt.where(matrix(), 1, 2), DTypeError,
     ("where(float32[2, 3], 1, 2)", "bool condition, got float32")),
    ("axis of a float", lambda: matrix().sum(0.5), DTypeError, ("sum(", "an axis is an int, got 0.5")),
    ("axis of a set", lambda: matrix().sum({0}), DTypeError, ("ints or tuples of ints, got {0}",)),
    ("nested shape", lambda: matrix().reshape([[6]]), DTypeError, ("ints or tuples of ints, got ([6],)",)),
    ("float shape", lambda: kt.zeros(2.5), DTypeError, ("shape must be ints, got 2.5",)),
    ("shape None", lambda: kt.zeros(None), DTypeError, ("shape must be ints, got None",)),
    ("concat a number", lambda: kt.concat(5), DTypeError, ("concat: needs a list of tensors, got int",)),
    ("index by a matrix", lambda: operator.index(matrix()), DTypeError, ("integer scalar, got float32[2, 3]",)),
    ("eval", lambda: kt.eval(1), DTypeError, ("eval: needs tensors, got int",)),
    ("rand of ints", lambda: kt.rand(2, dtype=kt.int32), DTypeError,
     ("rand: needs a floating-point dtype, got int32",)),
    ("randint that overflows", lambda: kt.randint(0, 300, (2,), dtype=kt.int8), OverflowError,
     ("0 to 299 do not fit int8",)),
    ("randint of nothing", lambda: kt.randint(3, 3, (2,)), ValueError, ("low < high", "got 3 and 3")),
    ("step 0", lambda: kt.arange(0, 5, 0), ValueError, ("arange: the step is 0",)),
]  # fmt: skip

VALUES: list[Case] = [
    ("Tensor()", lambda: kt.Tensor([1.0]), TypeError, ("kt.tensor(...)", "kt.zeros(...)")),
    ("Variable()", lambda: kt.Variable([1.0]), TypeError, ("kt.variable(...)",)),
    ("x[i] = v", lambda: operator.setitem(matrix(), 0, 1), TypeError, ("never changes", "x.at[i].set(v)")),
    *[(f"p {s}= v", augmented(s), TypeError, (f"p {s}= v", f"p.set(p {s} v)")) for s in AUGMENTED],
    ("assigning a shape", lambda: assign(matrix(), "shape", (6,)), AttributeError, ("shape",)),
    ("bool of a matrix", lambda: bool(matrix()), ShapeError,
     ("shape (2, 3) is neither true nor false", ".any() or .all()")),
    ("and", lambda: matrix() and matrix(), ShapeError, (".any() or .all()",)),
    ("item of a matrix", lambda: matrix().item(), ShapeError, ("item: needs one element, got shape (2, 3)",)),
    ("float of a matrix", lambda: float(matrix()), ShapeError, ("needs one element",)),
    ("len of a scalar", lambda: len(kt.tensor(1.0)), TypeError, ("a scalar has no length",)),
    ("iterating a scalar", lambda: list(kt.tensor(1.0)), ShapeError, ("a scalar has no axes", ".item()")),
    ("index outside", lambda: matrix()[2], IndexBoundsError, ("2 is outside axis 0 of size 2, shape (2, 3)",)),
    ("too many indices", lambda: matrix()[0, 0, 0], ShapeError, ("3 indices for 2 axes of shape (2, 3)",)),
    ("float index", lambda: matrix()[0.5], DTypeError, ("ints, slices, None or ..., got 0.5",)),
    ("float slice", lambda: matrix()[0.5:], DTypeError, ("slice bounds must be ints",)),
    ("two ellipses", lambda: matrix()[..., ...], ShapeError, ("only one ...",)),
    ("index of a scalar", lambda: kt.tensor(1.0)[0], ShapeError, ("a scalar has no axes to index",)),
    ("unknown device", lambda: kt.zeros(2, device="gpu"), DeviceError, ("no device 'gpu'", "cpu")),
    ("device scope", lambda: kt.use_device("tpu"), DeviceError, ("no device 'tpu'",)),
    ("to nowhere", lambda: matrix().to("tpu"), DeviceError, ("no device 'tpu'",)),
    ("two devices", lambda: kt.zeros(2, device="cpu") + kt.zeros(2, device="reference"), DeviceError,
     ("add(float32[2], float32[2])", "on cpu and reference", "x.to(device)")),
]  # fmt: skip

GRADIENTS: list[Case] = [
    ("backward on a constant", lambda: matrix().sum().backward(), GradientError,
     ("float32[] is a constant", "kt.variable(...)")),
    ("backward under no_grad", without_grad, GradientError, ("is a constant", "kt.no_grad()")),
    ("backward twice", twice, GradientError, ("a second time", "retain_graph=True")),
    ("backward through a consumed part", twice_through_a_shared_part, GradientError,
     ("a second time", "retain_graph=True")),
    ("backward on a vector", lambda: square(leaf()).backward(), GradientError,
     ("needs a scalar, got shape (2,)", ".sum() or .mean()")),
    ("seed shape", lambda: square(leaf()).backward(kt.ones(3)), GradientError, ("must be float32[2], got float32[3]",)),
    ("seed dtype", lambda: square(leaf()).backward(kt.ones(2, dtype=kt.float64)), GradientError,
     ("float32[2], got float64[2]",)),
    ("grad of a constant", lambda: matrix().grad, GradientError, ("this is a constant", "x.unfreeze()")),
    ("grad given to a constant", lambda: assign(matrix(), "grad", matrix()), GradientError,
     ("float32[2, 3] is a constant",)),
    ("grad of another shape", lambda: assign(leaf(), "grad", kt.ones(3)), GradientError,
     ("must be float32[2]", "got float32[3]")),
    ("grad that is a number", lambda: assign(leaf(), "grad", 1.0), GradientError, ("a tensor or None, got float",)),
    ("set on a computed value", lambda: (leaf() * 2).set([1.0, 2.0]), GradientError,
     ("set: only parameters", "computed value")),
    ("set on a constant", lambda: matrix().set(matrix()), GradientError, ("set: only parameters",)),
    ("set to a string", lambda: leaf().set("a"), DTypeError, ("'a'",)),
    ("integer variable", lambda: kt.variable(np.array([1])), DTypeError, ("only floating-point", "int64")),
    ("integer parameter", lambda: nn.Parameter([1, 2]), DTypeError, ("only floating-point", "int64")),
    ("variable across devices", lambda: kt.variable([1.0], device="reference").to("cpu"), GradientError,
     ("do not cross devices", "freeze()")),
    ("gradients of a constant", lambda: kt.gradients(matrix().sum(), [leaf()]), GradientError,
     ("float32[] is a constant",)),
    ("gradients for a constant", lambda: kt.gradients(loss_of(leaf()), [matrix()]), GradientError,
     ("float32[2, 3] is a constant",)),
    ("gradients for another input", lambda: kt.gradients(loss_of(leaf()), [leaf()]), GradientError,
     ("does not depend on input 0, float32[2]",)),
    ("gradients of a number", lambda: kt.gradients(loss_of(leaf()), [1.0]), GradientError,
     ("needs tensors, got float",)),
    ("grad of a vector function", lambda: kt.grad(square)(matrix()), GradientError,
     ("needs a scalar, got shape (2, 3)",)),
    ("grad of a constant function", lambda: kt.grad(lambda x: 1.0)(matrix()), GradientError, ("result is a constant",)),
    ("grad at an integer", lambda: kt.grad(square)(kt.tensor(1)), GradientError,
     ("argument 0 must be a floating-point tensor, got int64[]",)),
    ("grad at a number", lambda: kt.grad(square)(3.0), GradientError, ("argument 0", "got float")),
    ("grad for no argument", lambda: kt.grad(square, 2)(kt.tensor(1.0)), GradientError, ("argument 2",)),
    ("grad for an unused argument", lambda: kt.grad(lambda x, y: loss_of(x), (0, 1))(matrix(), matrix()), GradientError,
     ("does not depend on argument 1",)),
    ("jvp without tangents", lambda: kt.jvp(square, (matrix(),), ()), GradientError, ("1 arguments", "got 0")),
    ("jvp with others", lambda: kt.jvp(square, (matrix(),), (kt.zeros(2),)), GradientError,
     ("float32[2, 3] must be like it, got float32[2]",)),
    ("vjp with another seed", lambda: kt.vjp(square, matrix())[1](kt.ones(2)), GradientError,
     ("float32[2, 3], got float32[2]",)),
    ("vjp of a constant function", lambda: kt.vjp(lambda x: kt.ones(2), matrix()), GradientError,
     ("result is a constant",)),
]  # fmt: skip

TRAINING: list[Case] = [
    ("optimising constants", lambda: optim.SGD([matrix()]), GradientError, ("SGD", "float32[2, 3]")),
    ("optimising computed values", lambda: optim.SGD([leaf() * 2]), GradientError, ("SGD", "float32[2]")),
    ("optimising names", lambda: optim.SGD(nn.Linear(1, 1).named_parameters()), GradientError, ("SGD", "tuple")),
    ("optimising twice", lambda: optim.SGD([p := parameter(), p]), ValueError, ("SGD: a parameter occurs twice",)),
    ("optimising nothing", lambda: optim.AdamW([]), ValueError, ("AdamW: there are no parameters",)),
    ("optimising a frozen model", lambda: optim.AdamW(nn.Linear(1, 1).freeze().parameters()), GradientError,
     ("AdamW: all of the 2 parameters are frozen", "freeze() was called on")),
    ("negative lr", lambda: optim.SGD([parameter()], lr=-1), ValueError, ("SGD: lr must be at least 0.0", "got -1")),
    ("lr is NaN", lambda: optim.AdamW([parameter()], lr=float("nan")), ValueError, ("AdamW: lr", "got nan")),
    ("lr is a string", lambda: optim.SGD([parameter()], lr="0.1"), ValueError, ("SGD: lr", "got '0.1'")),
    ("beta of 1", lambda: optim.AdamW([parameter()], betas=(0.9, 1.0)), ValueError, ("betas[1]", "below 1.0, got 1.0")),
    ("nesterov alone", lambda: optim.SGD([parameter()], nesterov=True), ValueError, ("nesterov needs a momentum",)),
    ("a group without params", lambda: optim.SGD([{"param": [parameter()]}]), ValueError,
     ("\"params\", got the keys 'param'",)),
    ("groups and parameters", lambda: optim.SGD([{"params": [parameter()]}, parameter()]), ValueError,
     ("got Parameter",)),
    ("targets of another shape", lambda: F.cross_entropy(matrix(), kt.tensor([1, 2, 0])), ShapeError,
     ("cross_entropy(float32[2, 3], int64[3])", "target of shape (2,)", "without class axis 1, got (3,)")),
    ("integer one-hot targets", lambda: F.cross_entropy(matrix(), kt.zeros((2, 3), dtype=kt.int64)), ShapeError,
     ("target of shape (2,)",)),
    ("bool targets", lambda: F.cross_entropy(matrix(), kt.tensor([True, False])), DTypeError,
     ("class numbers", "got bool")),
    ("probabilities of another shape", lambda: F.cross_entropy(matrix(), kt.zeros((2, 2))), ShapeError,
     ("(2, 3), got (2, 2)",)),
    ("class axis", lambda: F.cross_entropy(matrix(), kt.tensor([0, 1]), axis=5), ShapeError,
     ("axis 5 is out of range",)),
    ("reduction", lambda: F.cross_entropy(matrix(), kt.tensor([0, 1]), reduction="avg"), ValueError,
     ('"mean", "sum" or "none"', "'avg'")),
    ("mse that would broadcast", lambda: F.mse_loss(kt.zeros((4, 1)), kt.zeros(4)), ShapeError,
     ("mse_loss(", "(4, 1), got (4,)")),
    ("Linear", lambda: nn.Linear(3, 4)(kt.zeros((2, 4))), ShapeError,
     ("linear(float32[2, 4]", "(..., 3)", "got (2, 4)")),
    ("Linear on a string", lambda: nn.Linear(3, 4)("a"), DTypeError, ("linear", "got str")),
    ("Linear of nothing", lambda: nn.Linear(0, 3), ShapeError, ("Linear: in_features must be a positive int, got 0",)),
    ("Sequential", lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2))(matrix()), ShapeError,
     ("(..., 5)", "got (2, 4)")),
    ("Sequential of numbers", lambda: nn.Sequential(nn.ReLU(), 3), TypeError, ("item 1 is not callable: int",)),
    ("channels", lambda: nn.Conv2d(1, 4, 3)(image()), ShapeError,
     ("conv2d(", "1 channels on axis 1, got 3 in (1, 3, 8, 8)")),
    ("image without a batch", lambda: nn.Conv2d(3, 4, 3)(image()[0]), ShapeError, ("(N, C, H, W)", "(3, 8, 8)")),
    ("window larger than the image", lambda: nn.Conv2d(3, 4, 9)(image()), ShapeError,
     ("window (9, 9) is larger", "(8, 8)")),
    ("pool larger than the image", lambda: F.max_pool2d(image(), 9), ShapeError, ("window (9, 9) is larger", "(8, 8)")),
    ("pool padding", lambda: F.max_pool2d(image(), 2, 1, 2), ShapeError,
     ("(2, 2) is more than half the window (2, 2)",)),
    ("pool of bools", lambda: F.max_pool2d(image() > 0, 2), DTypeError, ("max_pool2d(bool[1, 3, 8, 8])", "got bool")),
    ("groups", lambda: nn.Conv2d(3, 4, 3, groups=2), ShapeError, ("3 and 4 channels do not divide into 2 groups",)),
    ("stride 0", lambda: F.conv2d(image(), kt.zeros((4, 3, 3, 3)), stride=0), ShapeError,
     ("stride", "at least 1, got 0")),
    ("stride None", lambda: F.conv2d(image(), kt.zeros((4, 3, 3, 3)), stride=None), ShapeError, ("stride", "got None")),
    ("dilation 0", lambda: nn.Conv2d(3, 4, 3, dilation=0)(image()), ShapeError, ("dilation", "at least 1, got 0")),
    ("negative padding", lambda: nn.Conv2d(3, 4, 3, padding=-1)(image()), ShapeError,
     ("padding", "at least 0, got -1")),
    ("pool stride 0", lambda: F.max_pool2d(image(), 2, 0), ShapeError, ("max_pool2d: stride", "at least 1, got 0")),
    ("pool window 0", lambda: F.max_pool2d(image(), 0), ShapeError, ("max_pool2d: kernel_size", "at least 1, got 0")),
    ("three window sizes", lambda: nn.Conv2d(3, 4, (3, 3, 3)), ShapeError, ("kernel_size", "(3, 3, 3)")),
    ("bias", lambda: F.conv2d(image(), kt.zeros((4, 3, 3, 3)), kt.zeros(3)), ShapeError,
     ("bias of shape (4,), got (3,)",)),
    ("linear bias", lambda: F.linear(matrix(), kt.zeros((4, 3)), kt.zeros(3)), ShapeError,
     ("bias of shape (4,), got (3,)",)),
    ("dropout", lambda: F.dropout(matrix(), 2), ValueError, ("p is a probability, got 2",)),
    ("gelu", lambda: kt.gelu(matrix(), "fast"), ValueError, ('"none" or "tanh"', "'fast'")),
    ("module to nowhere", lambda: nn.Linear(1, 1).to("gpu"), DeviceError, ("no device 'gpu'",)),
    ("loader of a number", lambda: data.DataLoader(3), TypeError, ("got a int", "__len__ and __getitem__")),
    ("batches of nothing", lambda: data.DataLoader([1], 0), ValueError, ("batch_size=0", "at least 1")),
    ("workers", lambda: data.DataLoader([1], num_workers=-1), ValueError, ("num_workers=-1",)),
    ("items of several shapes", lambda: list(data.DataLoader([np.zeros(2), np.zeros(3)], 2)), ShapeError,
     ("(2,)", "(3,)")),
    ("items that are strings", lambda: list(data.DataLoader(["a", "b"], 2)), DTypeError,
     ("cannot batch a str", "collate_fn")),
    ("arrays of several lengths", lambda: data.TensorDataset(np.zeros(2), np.zeros(3)), ShapeError,
     ("(2,), (3,)", "same first size")),
    ("item outside", lambda: data.TensorDataset(np.zeros(2))[5], IndexBoundsError, ("2 items, asked for 5",)),
]  # fmt: skip

CASES = [*SHAPES, *DTYPES, *VALUES, *GRADIENTS, *TRAINING]


@pytest.mark.parametrize(("act", "error", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_the_message_says_what_was_wrong(
    act: Callable[[], Any], error: type[Exception], words: tuple[str, ...]
) -> None:
    for _ in range(3):  # the second time the trace remembers how the call went, and must not be misled by it
        with pytest.raises(error) as caught:
            act()
        text = str(caught.value)
        assert all(w in text for w in words), text
    assert (kt.tensor([1.0, 2.0]) + kt.variable([3.0, 4.0])).tolist() == [4, 6]  # nothing is left in a bad state


def test_case_names_are_unique() -> None:
    assert len({c[0] for c in CASES}) == len(CASES)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [(ShapeError, ValueError), (DTypeError, TypeError), (DeviceError, ValueError), (GradientError, RuntimeError),
     (IndexBoundsError, IndexError), (CheckpointError, ValueError)],
)  # fmt: skip
def test_errors_are_builtins_too(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, Error) and issubclass(error, builtin)


# ---- nothing is left in a bad state ---------------------------------------------------------------------------------


def test_an_overflow_leaves_operands_as_they_were() -> None:
    """The operand had been given a slot in the trace by then: a later use must not find another value there."""
    x, y = kt.tensor([1], dtype=kt.int8), kt.tensor([100], dtype=kt.int8)
    for _ in range(3):
        with pytest.raises(OverflowError):
            x + 300
        z = y + 1
        assert (x + 2).item() == 3 and z.item() == 101


def test_errors_in_the_middle_of_a_trace_keep_what_came_before() -> None:
    v = leaf()
    y = v * 3
    for wrong in (lambda: y + kt.zeros(3), lambda: y + "a", lambda: y.sum(4), lambda: y[5], lambda: y.backward()):
        with pytest.raises(Error):
            wrong()
    loss = (y + 1).sum()
    loss.backward()
    assert loss.item() == 11 and v.grad.tolist() == [3, 3]


def classifier() -> tuple[Any, Any, Any]:
    kt.manual_seed(0)
    return nn.Linear(4, 3), kt.ones((2, 4)), kt.tensor([0, 2])


def state_of(model: Any, opt: Any) -> list[Any]:
    cells = [v for s in opt.state.values() for v in s.values()]
    return [t.tolist() if isinstance(t, kt.Tensor) else t for t in (*model.parameters(), *cells)]


@pytest.mark.parametrize("wrong", [3, -1, 2**40])
def test_a_class_out_of_range_names_the_line(wrong: int) -> None:
    model, x, _ = classifier()
    frame = inspect.currentframe()
    assert frame is not None
    line = frame.f_lineno + 1
    loss = F.cross_entropy(model(x), kt.tensor([0, wrong]))
    with pytest.raises(IndexBoundsError, match=rf"index {wrong} is outside .* of size 3.*{re.escape(__file__)}:{line}"):
        loss.item()


@pytest.mark.parametrize(
    "make", [lambda p: optim.SGD(p, 0.1, momentum=0.9), lambda p: optim.AdamW(p, 0.1)], ids=["SGD", "AdamW"]
)
@pytest.mark.parametrize("looked_at", [False, True])
def test_a_failed_step_changes_nothing_and_the_next_one_works(make: Any, looked_at: bool) -> None:
    model, x, good = classifier()
    opt = make(model.parameters())

    def step(target: Any) -> None:
        F.cross_entropy(model(x), target).backward()
        if looked_at and target is good:
            assert all(p.grad.tolist() for p in model.parameters())
        opt.step()

    step(good)
    before = state_of(model, opt)
    with pytest.raises(IndexBoundsError, match=r"index 3 is outside"):
        step(kt.tensor([0, 3]))
    assert state_of(model, opt) == before
    assert all(p.grad is not None for p in model.parameters())  # given back; it cannot be computed, and says so
    with pytest.raises(IndexBoundsError):
        next(model.parameters()).grad.tolist()
    opt.zero_grad()
    step(good)
    after = state_of(model, opt)
    twin, _, _ = classifier()
    model, opt = twin, make(twin.parameters())
    step(good)
    step(good)
    assert after == state_of(model, opt) and after != before


def test_a_failed_step_gives_computed_gradients_back() -> None:
    model, x, good = classifier()
    opt = optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(x), good).backward()
    grads = [p.grad.tolist() for p in model.parameters()]
    other = nn.Parameter([1.0])
    (other * F.cross_entropy(kt.zeros((1, 2)), kt.tensor([5]))).sum().backward()
    opt.param_groups[0]["params"].append(other)
    with pytest.raises(IndexBoundsError):
        opt.step()
    assert [p.grad.tolist() for p in model.parameters()] == grads and other.tolist() == [1]
    other.grad = None
    opt.step()
    assert all(p.grad is None for p in model.parameters())


def test_load_state_dict_lists_every_mismatch_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {k: v.tolist() for k, v in model.state_dict().items()}
    state: dict[str, Any] = {k: v.numpy() + 1 for k, v in model.state_dict().items()}
    del state["0.bias"]
    state |= {"1.weight": np.zeros((3, 1)), "2.weight": np.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        model.load_state_dict(state)
    for words in (
        "3 mismatches, nothing loaded",
        "missing: 0.bias",
        "unexpected: 2.weight",
        "1.weight: (3, 1) does not fit (1, 3)",
    ):
        assert words in str(caught.value)
    assert {k: v.tolist() for k, v in model.state_dict().items()} == before


def test_load_state_dict_is_all_or_nothing_when_a_value_does_not_fit() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            self.weight = nn.Parameter([1.0])
            self.count = nn.Buffer(np.zeros(1, np.int8))

    model = Counted()
    with pytest.raises(OverflowError, match="300 does not fit int8"):
        model.load_state_dict({"weight": np.ones(1) * 7, "count": np.array([300])})
    assert model.weight.tolist() == [1] and model.count.tolist() == [0]


def test_a_failed_set_changes_nothing() -> None:
    p = parameter()
    for wrong in ([1.0], "a", [[1.0, 2.0]], kt.zeros(3)):
        with pytest.raises(Error):
            p.set(wrong)
    assert p.tolist() == [1, 2]
    p.set([5, 6])  # integers are converted
    assert p.tolist() == [5, 6] and p.dtype is kt.float32

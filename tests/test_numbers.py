"""Python's numbers on their way into tensors: floats straight to the dtype, integers exactly or not at all."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import katachi as kt
from katachi import nn

FORMS = {"plain": lambda f: f(), "eager": lambda f: _eagerly(f), "compiled": lambda f: kt.compile(f)()}


def _eagerly(f):
    with kt.eager():
        return f()


def doubles(n=1, fill=0.0):
    return kt.full((n,), fill, dtype=kt.float64)


F64 = kt.float64
TENTHS = {
    "full": lambda: kt.full((1,), 0.1, dtype=F64),
    "full_like": lambda: kt.full_like(doubles(), 0.1),
    "full_like of a dtype": lambda: kt.full_like(kt.zeros(1), 0.1, dtype=F64),
    "full of NumPy's": lambda: kt.full((1,), np.float64(0.1)),
    "where": lambda: kt.where(kt.ones(1) > 0, 0.1, doubles()),
    "add": lambda: doubles() + 0.1,
    "reflected": lambda: 0.1 - doubles(),
    "clip": lambda: kt.clip(doubles(), 0.1, 0.2),
    "maximum": lambda: kt.maximum(doubles(), 0.1),
    "pad": lambda: kt.pad(doubles(), (1, 0), value=0.1)[:1],
    "leaky_relu": lambda: -kt.leaky_relu(doubles() - 1.0, 0.1),
    "sum of a dtype": lambda: kt.full((1,), 0.1, dtype=F64).sum(dtype=F64, keepdims=True),
    "at.set": lambda: doubles().at[0].set(0.1),
    "at.set of a list": lambda: doubles().at[:].set([0.1]),
    "at.add": lambda: doubles().at[[0]].add(0.1),
    "at.max": lambda: doubles().at[0].max(0.1),
    "remainder": lambda: kt.full((1,), 0.1, dtype=F64) % 0.3,
}


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TENTHS)
def test_a_python_float_beside_float64_is_not_rounded_before(name, form, device):
    with kt.device(device):
        x = FORMS[form](TENTHS[name])
    assert (x.dtype, x.device) == (F64, device)
    assert x.tolist() == [0.1]


MADE = {
    "tensor": lambda: kt.tensor(0.1, dtype=F64),
    "tensor of a mixed list": lambda: kt.tensor([1, 0.1], dtype=F64)[1],
    "tensor of objects": lambda: kt.tensor(np.array([0.1, 1], object), dtype=F64)[0],
    "variable": lambda: kt.variable(0.1, dtype=F64),
    "parameter": lambda: nn.Parameter([0.1], dtype=F64)[0],
    "asarray": lambda: kt.asarray(0.1, dtype=F64),
    "arange": lambda: kt.arange(0.0, 0.15, 0.1, dtype=F64)[1],
    "linspace": lambda: kt.linspace(0.0, 0.1, 3, dtype=F64)[2],
    "searchsorted": lambda: kt.searchsorted(kt.tensor([0.1], dtype=F64), 0.1) + kt.tensor(0.1, dtype=F64),
}


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("name", MADE)
def test_what_is_made_in_float64_is_not_rounded_before(name, device):
    with kt.device(device):
        x = MADE[name]()
    assert (x.dtype, x.device, x.item()) == (F64, device, 0.1)


def test_full_takes_the_dtype_that_is_asked_for_whatever_it_is_filled_with():
    half = kt.tensor(0.5)
    assert kt.full((2,), half).dtype == kt.float32
    assert kt.full((2,), half, dtype=kt.int64).dtype == kt.int64
    assert kt.full_like(kt.zeros(2, dtype=kt.int64), half).tolist() == [0, 0]
    assert kt.full((2,), np.float32(0.5)).tolist() == [0.5, 0.5]
    assert kt.full((2,), 2, dtype=kt.bool_).tolist() == [True, True]
    assert kt.full((2,), half, device="reference").device == "reference"
    with pytest.raises(OverflowError, match="full: nan does not fit int32"):
        kt.full((2,), math.nan, dtype=kt.int32)


def test_state_of_float64_is_set_without_rounding():
    p = nn.Parameter(doubles())
    for p_of in (lambda: p.set([0.1]), lambda: nn.init.constant_(p, 0.1)):
        p.set([0.0])
        p_of()
        assert p.tolist() == [0.1]
    kt.manual_seed(3)
    nn.init.uniform_(p, 0.1, 0.1)
    assert p.tolist() == [0.1]
    nn.init.normal_(p, 0.1, 0.0)
    assert p.tolist() == [0.1]


def test_an_optimiser_of_float64_parameters_steps_in_float64():
    for optimiser, right in ((kt.optim.SGD, 1 - 0.1 * 0.3), (kt.optim.AdamW, None)):
        p = nn.Parameter(doubles(fill=1.0))
        (p * 0.3).sum().backward()
        optimiser([p], lr=0.1).step()
        if right is None:  # AdamW's first step, whatever the gradient
            right = 1 - 0.1 * 0.01 - 0.1 * 0.3 / (math.sqrt(0.3**2) + 1e-8)
        assert p.item() == pytest.approx(right, abs=1e-15)


# ---- integers

M64, M63 = 2**64 - 1, 2**63
EXACT = [
    (lambda: kt.tensor([M64, 0, 5], dtype=kt.uint64), kt.uint64, [M64, 0, 5]),
    (lambda: kt.tensor([M64, 0, 5]), kt.uint64, [M64, 0, 5]),
    (lambda: kt.tensor((M63, True)), kt.uint64, [M63, 1]),
    (lambda: kt.tensor([[M64], [0]]), kt.uint64, [[M64], [0]]),
    (lambda: kt.tensor(M63), kt.uint64, M63),
    (lambda: kt.tensor([2**53 + 1, 0.5], dtype=kt.int64), kt.int64, [2**53 + 1, 0]),
    (lambda: kt.tensor([2**53 + 1, True]), kt.int64, [2**53 + 1, 1]),
    (lambda: kt.tensor([np.uint64(M63), 1]), kt.uint64, [M63, 1]),
    (lambda: kt.tensor([1, np.uint64(5)]), kt.int64, [1, 5]),
    (lambda: kt.tensor([np.int64(-1), np.uint64(5)]), kt.int64, [-1, 5]),
    (lambda: kt.tensor([kt.tensor(5), M63]), kt.uint64, [5, M63]),
    (lambda: kt.tensor([np.array([1, 2]), [3, M63]]), kt.uint64, [[1, 2], [3, M63]]),
    (lambda: kt.tensor(np.array([M64, 0], object)), kt.uint64, [M64, 0]),
    (lambda: kt.tensor(range(M63, M63 + 2)), kt.uint64, [M63, M63 + 1]),
    (lambda: kt.full((2,), M64), kt.uint64, [M64, M64]),
    (lambda: kt.full((1,), np.uint64(M64)), kt.uint64, [M64]),
    (lambda: kt.full((1,), 2**53 + 1), kt.int64, [2**53 + 1]),
    (lambda: kt.full_like(kt.zeros(1, dtype=kt.uint64), M64), kt.uint64, [M64]),
    (lambda: kt.arange(M63, M63 + 3), kt.uint64, [M63, M63 + 1, M63 + 2]),
    (lambda: kt.arange(M64 - 2, M64, dtype=kt.uint64), kt.uint64, [M64 - 2, M64 - 1]),
    (lambda: kt.arange(2**53 + 3, 2**53, -2), kt.int64, [2**53 + 3, 2**53 + 1]),
    (lambda: kt.arange(-M63, M63, M63), kt.int64, [-M63, 0]),
    (lambda: kt.linspace(2**53 + 1, 2**53 + 3, 3, dtype=kt.int64), kt.int64, [2**53 + 1, 2**53 + 2, 2**53 + 3]),
    (lambda: kt.linspace(0, M64, 2, dtype=kt.uint64), kt.uint64, [0, M64]),
    (lambda: kt.linspace(0, -5, 3, dtype=kt.int64), kt.int64, [0, -2, -5]),
    (lambda: kt.tensor([5], dtype=kt.uint64) + M63, kt.uint64, [M63 + 5]),
    (lambda: M64 - kt.tensor([5], dtype=kt.uint64), kt.uint64, [M64 - 5]),
    (lambda: (M63 + 1) // kt.tensor([7], dtype=kt.uint64), kt.uint64, [(M63 + 1) // 7]),
    (lambda: kt.tensor([M64], dtype=kt.uint64) % (M63 + 1), kt.uint64, [M64 % (M63 + 1)]),
    (lambda: kt.maximum(kt.tensor([5], dtype=kt.uint64), M63 + 1), kt.uint64, [M63 + 1]),
    (lambda: kt.clip(kt.tensor([0, M64], dtype=kt.uint64), 3, M64 - 1), kt.uint64, [3, M64 - 1]),
    (lambda: kt.where(kt.ones(1) > 0, M63, kt.zeros(1, dtype=kt.uint64)), kt.uint64, [M63]),
    (lambda: kt.pad(kt.zeros(1, dtype=kt.uint64), (0, 1), value=M64), kt.uint64, [0, M64]),
    (lambda: kt.zeros(2, dtype=kt.uint64).at[:].set([M64, 0]), kt.uint64, [M64, 0]),
    (lambda: kt.zeros(1, dtype=kt.uint64).at[0].add(M64), kt.uint64, [M64]),
    (lambda: kt.tensor([2**53 + 1] * 2).sum(), kt.int64, 2**54 + 2),
    (lambda: kt.tensor([M63, M63 - 1], dtype=kt.uint64).sum(), kt.uint64, M64),
    (lambda: kt.tensor([3, 2**61 + 1]).prod(), kt.int64, 3 * 2**61 + 3),
    (lambda: kt.cumsum(kt.tensor([2**53, 1])), kt.int64, [2**53, 2**53 + 1]),
    (lambda: kt.tensor([2**53 + 1, -1]).max(), kt.int64, 2**53 + 1),
    (lambda: kt.sort(kt.tensor([2**53 + 1, 2**53])), kt.int64, [2**53, 2**53 + 1]),
    (lambda: kt.tensor([2**53 + 1]) == 2**53, kt.bool_, [False]),
    (lambda: kt.tensor([M64 - 1], dtype=kt.uint64) < M64, kt.bool_, [True]),
    (lambda: kt.tensor([-M63]) >= -M63, kt.bool_, [True]),
    (lambda: kt.tensor([2**53 + 1]).astype(kt.uint64), kt.uint64, [2**53 + 1]),
]  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("case", range(len(EXACT)))
def test_integers_are_kept_exactly(case, device):
    make, dtype, right = EXACT[case]
    with kt.device(device):
        for x in (make(), _eagerly(make)):
            assert (x.dtype, x.tolist(), x.device) == (dtype, right, device)


REFUSED = [
    (lambda: kt.tensor([M63, -1]), "-1 does not fit uint64"),
    (lambda: kt.tensor([2**64]), "18446744073709551616 does not fit uint64"),
    (lambda: kt.tensor([2**200, 1]), "an int of 201 bits does not fit uint64"),
    (lambda: kt.tensor([2**2000, 0.5]), "an int of 2001 bits does not fit float32"),
    (lambda: kt.tensor([-1, 2**40], dtype=kt.uint64), "-1 does not fit uint64"),
    (lambda: kt.tensor([0.5, 300], dtype=kt.int8), "300 does not fit int8"),
    (lambda: kt.tensor([math.nan], dtype=kt.int32), "nan does not fit int32"),
    (lambda: kt.tensor([1e30], dtype=kt.int64), "does not fit int64"),
    (lambda: kt.tensor(np.array([300.5]), dtype=kt.uint8), "300.5 does not fit uint8"),
    (lambda: kt.full((1,), 2**64), "does not fit uint64"),
    (lambda: kt.full((1,), -1, dtype=kt.uint64), "full: -1 does not fit uint64"),
    (lambda: kt.full_like(kt.zeros(1, dtype=kt.int8), 128), "full: 128 does not fit int8"),
    (lambda: kt.arange(2**64, 2**64 + 1), "arange: 18446744073709551616 does not fit uint64"),
    (lambda: kt.arange(-1, 2 * M63, M63), "arange: -1 does not fit uint64"),
    (lambda: kt.arange(300, dtype=kt.int8), "299 does not fit int8"),
    (lambda: kt.linspace(0, M64, 2, dtype=kt.int64), "does not fit int64"),
    (lambda: kt.tensor([5], dtype=kt.uint64) + 2**64, "add: 18446744073709551616 does not fit uint64"),
    (lambda: kt.tensor([5], dtype=kt.uint64) > -1, "greater: -1 does not fit uint64"),
    (lambda: kt.tensor([5]) < M63, "less: 9223372036854775808 does not fit int64"),
    (lambda: kt.tensor([5]) == -M63 - 1, "equal: -9223372036854775809 does not fit int64"),
    (lambda: kt.tensor([5]).clip(0, M63), "clip: 9223372036854775808 does not fit int64"),
    (lambda: kt.where(kt.ones(1) > 0, M63, 1), "where: 9223372036854775808 does not fit int64"),
    (lambda: kt.pad(kt.zeros(1, dtype=kt.int8), 1, value=300), "pad: 300 does not fit int8"),
    (lambda: kt.zeros(1, dtype=kt.int8).at[:].set([300]), "300 does not fit int8"),
    (lambda: kt.randint(M63, M63 + 2, (1,)), "randint: "),
    (lambda: kt.randint(0, 2**32 + 1, (1,), dtype=kt.uint32), "needs low < high"),
    (lambda: kt.randint(2**32 - 5, 2**32 + 1, (1,), dtype=kt.uint32), "do not fit uint32"),
    (lambda: kt.zeros(1) + 10**400, "add: an int of 1329 bits does not fit float32"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_or_refused(case):
    make, message = REFUSED[case]
    for _ in range(2):
        with pytest.raises((OverflowError, ValueError), match=message):
            make()
    assert (kt.tensor([1]) + 1).tolist() == [2]


def test_what_an_integer_tensor_cannot_hold_is_refused_as_padding():
    with pytest.raises(kt.DTypeError, match="a number that int8 can hold"):
        kt.pad(kt.zeros(1, dtype=kt.int8), 1, value=kt.tensor(300))
    with pytest.raises(kt.DTypeError, match="uint64 cannot hold"):
        kt.zeros(1, dtype=kt.uint64).at[0].set([0.5])


@pytest.mark.parametrize("low", [0, -(2**63), 2**63 - 5, 2**63 - 2, 2**63, 2**64 - 5])
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_randint_draws_within_its_bounds_at_the_ends_of_64_bits(low, device):
    dtype = kt.uint64 if low + 5 > 2**63 else kt.int64
    kt.manual_seed(0)
    with kt.device(device):
        x = kt.randint(low, low + 5, (200,), dtype=dtype)
    assert set(x.tolist()) == set(range(low, low + 5)) and x.dtype == dtype


INTEGERS = [d for d in (kt.int8, kt.int16, kt.int32, kt.int64, kt.uint8, kt.uint16, kt.uint32, kt.uint64)]


@given(st.sampled_from(INTEGERS), st.data())
def test_integers_go_in_and_come_out_the_same(dtype, data):
    info = kt.iinfo(dtype)
    numbers = st.integers(info.min, info.max)
    values = data.draw(st.lists(numbers | st.sampled_from([info.min, info.max]), min_size=1, max_size=4))
    for x in (kt.tensor(values, dtype=dtype), kt.tensor(tuple(values)), kt.tensor(np.array(values, object))):
        assert x.tolist() == values and [x[i].item() for i in range(len(values))] == values
    assert kt.full((1,), values[0], dtype=dtype).tolist() == values[:1]
    assert (kt.zeros(1, dtype=dtype) + values[0]).tolist() == values[:1]
    assert kt.zeros(len(values), dtype=dtype).at[:].set(values).tolist() == values


@given(st.lists(st.integers(-(2**65), 2**65) | st.booleans(), min_size=1, max_size=4))
def test_a_list_of_ints_is_exact_or_an_error(values):
    try:
        x = kt.tensor(values)
    except OverflowError:
        assert max(values) >= 2**64 or min(values) < -(2**63) or (max(values) >= 2**63 and min(values) < 0)
    else:
        assert x.tolist() == values


@given(st.integers(-(2**90), 2**90))
def test_an_int_beside_float32_is_rounded_once(n):
    digits = n.bit_length() - 24
    right = float(n)
    if digits > 0:  # to nearest, ties to even, in integers
        half, rest = 1 << (digits - 1), abs(n) & ((1 << digits) - 1)
        whole = abs(n) >> digits
        whole += rest > half or (rest == half and whole & 1)
        right = math.copysign(float(whole << digits), n)
    forms = [kt.zeros(()) + n, kt.full((), n, dtype=kt.float32), kt.tensor(n, dtype=kt.float32)]
    forms += [kt.tensor([n, 0.5])[0]]
    assert [x.item() for x in forms] == [right] * 4


def test_what_is_drawn_from_lists_does_not_depend_on_their_order():
    for values, dtype in (
        ([0.5, np.float64(0.1)], kt.float64), ([0.5, np.float32(0.1)], kt.float32), ([0.5, np.int64(1)], kt.float32),
        ([1, np.float64(0.1)], kt.float64), ([True, 0.5], kt.float32), ([kt.tensor(0.1), 1], kt.float32),
    ):  # fmt: skip
        assert {kt.tensor(values).dtype, kt.tensor(values[::-1]).dtype} == {dtype}, values


# ---- clip

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [kt.float32, kt.float64, kt.float16, kt.bfloat16])
def test_clip_is_numpys_for_every_bound(dtype, device):
    values = [NAN, -INF, -2.0, -0.0, 0.0, 1.0, 3.0, INF]
    with kt.device(device):
        x = kt.tensor(values, dtype=dtype)
        for low in (None, NAN, -INF, -1.0, INF):
            for high in (None, NAN, -INF, 2.0, INF):
                want = np.clip(np.array(values), low, high) if (low, high) != (None, None) else np.array(values)
                bounds = [v if v is None else kt.tensor(v, dtype=dtype) for v in (low, high)]
                for got in (
                    kt.clip(x, low, high),
                    kt.clip(x, *bounds),
                    kt.compile(lambda x, a=low, b=high: x.clip(a, b))(x),
                ):
                    np.testing.assert_array_equal(got.astype(kt.float64).numpy(), want)


def test_nothing_flows_to_what_a_nan_bound_replaces():
    x = kt.variable([1.0, 2.0])
    low = kt.variable([NAN, 0.0])
    kt.clip(x, low).sum().backward()
    assert (x.grad.tolist(), low.grad.tolist()) == ([0.0, 1.0], [1.0, 0.0])


# ---- to


def test_to_takes_what_torchs_takes():
    x, other = kt.ones(2), kt.zeros(1, dtype=kt.float16, device="reference")
    for moved, dtype, device in (
        (x.to(kt.bfloat16), kt.bfloat16, "cpu"), (x.to("reference"), kt.float32, "reference"),
        (x.to("reference", kt.float16), kt.float16, "reference"), (x.to(dtype=kt.float64), kt.float64, "cpu"),
        (x.to(device="reference"), kt.float32, "reference"), (x.to(other), kt.float16, "reference"),
        (x.to(other, dtype=kt.int32), kt.int32, "reference"), (x.to(), kt.float32, "cpu"), (x.to(x), kt.float32, "cpu"),
    ):  # fmt: skip
        assert (moved.dtype, moved.device, moved.tolist()) == (dtype, device, [1, 1])
    v = kt.variable([1.0])
    v.to(kt.zeros(1, dtype=kt.float64)).sum().backward()
    assert v.grad.tolist() == [1.0]
    with pytest.raises(kt.GradientError, match="gradients do not cross devices"):
        v.to(other)

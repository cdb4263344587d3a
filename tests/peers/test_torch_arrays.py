"""torch's tensors become katachi's: halves, slices, what requires gradients; or an error says what is in the way."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import katachi as kt
from katachi import nn, optim

DTYPES = ["float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool",
          "uint16", "uint32", "uint64"]  # fmt: skip

VIEWS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda x: x,
    "turned": lambda x: x.T,
    "every other": lambda x: x[::2, 1:],
    "one element": lambda x: x[1, 2],
    "none": lambda x: x[:0],
    "expanded": lambda x: x[:1].expand(5, 4),
    "a parameter": lambda x: torch.nn.Parameter(x) if x.is_floating_point() else x,
    "computed from a parameter": lambda x: torch.nn.Parameter(x) * 2 if x.is_floating_point() else x,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", VIEWS)
def test_every_dtype_in_every_layout(dtype: str, view: str) -> None:
    x = VIEWS[view]((torch.arange(12).reshape(3, 4) % 7).to(getattr(torch, dtype)))
    for made in (kt.tensor(x), kt.asarray(x), kt.from_dlpack(x)):
        assert made.dtype.name == dtype and made.shape == tuple(x.shape)
        assert made.tolist() == x.detach().tolist()
    if x.dtype.is_floating_point:
        assert nn.Parameter(x).tolist() == kt.variable(x).tolist() == x.detach().tolist()
        assert kt.tensor(x, kt.float64).tolist() == x.detach().tolist()


def test_bfloat16_keeps_every_bit() -> None:
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    made = kt.tensor(bits.view(torch.bfloat16))
    assert made.dtype is kt.bfloat16 and np.array_equal(made.numpy().view(np.int16), bits.numpy())


def test_a_copy_is_made() -> None:
    for x in (torch.ones(3), torch.ones(3, dtype=torch.bfloat16), torch.ones(3, requires_grad=True)):
        made = kt.tensor(x)
        with torch.no_grad():
            x.fill_(5.0)
        assert made.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_state_dict_loads(dtype: Any) -> None:
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).to(dtype)
    mine: Any = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for state in (theirs.state_dict(), {**dict(theirs.named_parameters()), **dict(theirs.named_buffers())}):
        assert str(mine.load_state_dict(state)) == "<All keys matched successfully>"
    for name, value in mine.state_dict().items():
        assert value.tolist() == theirs.state_dict()[name].float().tolist() and value.dtype in (kt.float32, kt.int64)
    mine.to(getattr(kt, str(dtype).removeprefix("torch.")))
    mine.load_state_dict(theirs.state_dict())
    assert mine[0].weight.tolist() == theirs[0].weight.tolist()
    mine[0].weight.set(torch.zeros(4, 3, dtype=torch.bfloat16))
    assert not mine[0].weight.numpy().any()


def test_an_optimisers_state_of_halves_loads() -> None:
    layer = torch.nn.Linear(2, 2, dtype=torch.bfloat16)
    theirs = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
    theirs.step()
    mine = optim.Adam(nn.Linear(2, 2).parameters())
    mine.load_state_dict(theirs.state_dict())
    assert mine.state_dict()["state"][0]["exp_avg"].tolist() == theirs.state_dict()["state"][0]["exp_avg"].tolist()


def test_lists_of_tensors() -> None:
    halves = [torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
    assert kt.tensor(halves).tolist() == [[1.0, 2.0]] * 2  # type: ignore[call-overload]
    assert kt.tensor([torch.tensor(1.5, dtype=torch.float64)]).dtype is kt.float64  # type: ignore[call-overload]


def fake() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(2)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse": (lambda: torch.eye(3).to_sparse(), "x.to_dense()"),
    "sparse rows": (lambda: torch.eye(3).to_sparse_csr(), "x.to_dense()"),
    "quantised": (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "x.dequantize()"),
    "without values": (lambda: torch.ones(2, device="meta"), "device meta has a shape and no values"),
    "float8": (lambda: torch.ones(2).to(torch.float8_e4m3fn), "no dtype torch.float8_e4m3fn; convert"),
    "complex": (lambda: torch.ones(2, dtype=torch.complex64).conj(), "numbers and bools only, got complex64"),
    "under vmap": (lambda: torch.func.vmap(lambda x: kt.tensor(x))(torch.ones(2, 2)), "cannot read this torch.Tensor"),
    "of a fake mode": (lambda: fake(), "cannot read this torch.FakeTensor"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # torch's, about sparse and quantised tensors
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_says_so(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(kt.DTypeError, match=re.escape(message)):
        kt.tensor(make())
    if name != "under vmap":
        with pytest.raises(kt.CheckpointError, match=rf"(?s)1 mismatches.*weight: .*{re.escape(message)}"):
            nn.Linear(3, 3, bias=False).load_state_dict({"weight": make()})

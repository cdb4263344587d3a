"""What a module is made of, moving it, freezing parts of it, and lists of modules."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import katachi as kt
from katachi import CheckpointError, nn, optim


class Sizes(NamedTuple):
    inner: int
    parts: Any


class Odd(nn.Module):
    """State wherever a field can hold it."""

    def __init__(self) -> None:
        self.scales = [nn.Parameter([2.0]), nn.Parameter([3.0])]
        self.table = {"a": nn.Linear(1, 1), "b": (nn.Buffer([5.0]),)}
        self.sizes = Sizes(3, [nn.Dropout(0.5)])
        self.note = {"words": [1, 2]}
        self.register_buffer("late", kt.tensor([7.0]))
        self.register_buffer("nothing", None)

    def forward(self, x: Any) -> Any:
        return self.table["a"](x) * self.scales[0] * self.scales[1] + self.late  # type: ignore[attr-defined]


def test_state_is_found_in_lists_tuples_and_dicts() -> None:
    odd = Odd()
    names = ["scales.0", "scales.1", "table.a.weight", "table.a.bias"]
    assert {n for n, _ in odd.named_parameters()} == set(names)
    assert len(list(odd.parameters())) == 4 and [n for n, _ in odd.named_buffers()] == ["table.b.0", "late"]
    assert [b.item() for b in odd.buffers()] == [5.0, 7.0] and odd.nothing is None  # type: ignore[attr-defined]
    assert set(odd.state_dict()) == {*names, "table.b.0", "late"}
    x = kt.ones((2, 1))
    odd(x).sum().backward()
    assert all(p.grad is not None for p in odd.parameters())
    frozen = odd.freeze()
    assert [n for n, _ in frozen.named_parameters()] == [n for n, _ in odd.named_parameters()]
    assert not any(map(kt.is_variable, frozen.parameters())) and set(frozen.state_dict()) == set(odd.state_dict())
    assert type(frozen.sizes) is Sizes and not frozen.sizes.parts[0].training and odd.sizes.parts[0].training
    assert not kt.is_variable(frozen(x)) and frozen(x).tolist() == odd(x).tolist()
    odd.scales[0].set([4.0])
    assert frozen.scales[0].tolist() == [4.0]


def test_walks_over_modules() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared))
    assert [n for n, _ in model.named_children()] == ["0", "1"] and next(model.children()) is shared
    assert [n for n, _ in model.named_modules()] == ["", "0", "1", "1.0", "1.1"]
    assert [type(m).__name__ for m in model.modules()] == ["Sequential", "Linear", "Sequential", "ReLU"]
    seen: list[nn.Module] = []
    assert model.apply(seen.append) is model
    assert seen[0] is shared and seen[-1] is model and [type(m).__name__ for m in seen[1:3]] == ["ReLU", "Linear"]


def test_a_frozen_part_stays_as_it_is() -> None:
    """Fine-tuning: neither weights nor running statistics of the frozen part move, whatever mode the model is in."""
    body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten())
    model: Any = nn.Sequential(body.freeze(), nn.Linear(8, 2)).train()
    assert not any(m.training for m in model[0].modules()) and model.training and model[1].training
    before = {n: v.tolist() for n, v in model.state_dict().items()}
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    assert len(optimizer.param_groups[0]["params"]) == 2
    for _ in range(3):
        (model(kt.rand(3, 1, 4, 4)) ** 2).sum().backward()
        optimizer.step()
    after = {n: v.tolist() for n, v in model.state_dict().items()}
    assert {n for n in before if before[n] != after[n]} == {"1.weight", "1.bias"}
    body.train()
    assert body[1].training  # the original is not frozen


def test_moving_takes_gradients_frozen_twins_and_the_optimisers_state_along() -> None:
    model = nn.Linear(2, 1).to("reference")
    twin, optimizer = model.freeze(), optim.Adam(model.parameters(), lr=0.1)

    def step(device: str) -> None:
        for _ in range(2):
            model(kt.ones((1, 2), device=device)).sum().backward()
            optimizer.step()

    step("reference")
    model(kt.ones((1, 2), device="reference")).sum().backward()
    want, grad = model.weight.tolist(), model.weight.grad
    assert model.to("cpu") is model and model.weight.device == "cpu" == twin.weight.device
    assert grad is not None and model.weight.grad is not None and model.weight.grad.device == "cpu"
    assert model.weight.tolist() == want == twin.weight.tolist() and kt.is_variable(model.weight)
    x = kt.ones((1, 2), device="cpu")
    assert twin(x).item() == model(x).item()
    optimizer.step()
    step("cpu")
    assert twin.weight.tolist() == model.weight.tolist() != want
    assert optimizer.state_dict()["state"][0]["step"] == 5
    assert optimizer.state_dict()["state"][0]["exp_avg"].device == "cpu"


def test_loading_a_part() -> None:
    model: Any = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {"0.weight": np.ones((3, 2), np.float64), "extra": np.zeros(1)}
    with pytest.raises(CheckpointError, match="4 mismatches"):
        model.load_state_dict(state)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["0.bias", "1.weight", "1.bias"] and unexpected == ["extra"]
    assert model[0].weight.tolist() == [[1, 1]] * 3
    before = model[1].weight.tolist()
    with pytest.raises(CheckpointError, match=r"1 mismatches(.|\n)*0.weight: \(2, 3\) does not fit \(3, 2\)"):
        model.load_state_dict({"1.weight": np.ones((1, 3)), "0.weight": np.ones((2, 3))}, strict=False)
    with pytest.raises(CheckpointError, match=r"0.weight: tensor: cannot make a tensor of 'hello'"):
        model.load_state_dict({"1.weight": np.ones((1, 3)), "0.weight": "hello"}, strict=False)
    assert model[1].weight.tolist() == before
    with pytest.raises(TypeError, match="needs values by name, got list"):
        model.load_state_dict([1])  # type: ignore[arg-type]
    assert nn.Linear(2, 2).load_state_dict(nn.Linear(2, 2).state_dict()) == ([], [])


def test_lists_of_modules() -> None:
    chain: Any = nn.Sequential(nn.Linear(2, 2), kt.exp)
    chain.append(nn.ReLU())
    chain.note = "any field may stand beside the steps"
    assert len(chain) == 3 and chain[1] is kt.exp and isinstance(chain[-1], nn.ReLU)
    x = kt.ones((1, 2))
    assert chain(x).tolist() == kt.exp(chain[0](x)).tolist()
    chain[-1] = nn.Tanh()
    assert list(vars(chain)) == ["0", "1", "2", "note"] and isinstance(chain[2], nn.Tanh)
    head = chain[:2]
    assert isinstance(head, nn.Sequential) and len(head) == 2 and head[0] is chain[0]
    tail = nn.ModuleList([nn.ReLU(), nn.Tanh(), nn.Linear(2, 2)])[1:]
    assert isinstance(tail, nn.ModuleList) and [type(m).__name__ for m in tail] == ["Tanh", "Linear"]
    tail.extend([nn.ReLU()])
    assert [n for n, _ in tail.named_children()] == ["0", "1", "2"]
    named: Any = nn.Sequential({"first": nn.Linear(2, 3), "last": nn.Linear(3, 1)})
    assert [n for n, _ in named.named_parameters()][::2] == ["first.weight", "last.weight"]
    assert named(x).item() == named.last(named.first(x)).item() and named[1] is named.last


def test_what_is_refused_and_how() -> None:
    with pytest.raises(TypeError, match=r"Module cannot be called: it defines no forward\(self, ...\)"):
        nn.Module()(kt.ones(1))
    with pytest.raises(TypeError, match="ModuleList cannot be called"):
        nn.ModuleList()(kt.ones(1))
    with pytest.raises(TypeError, match="ModuleList: item 1 is not callable: int"):
        nn.ModuleList([nn.ReLU(), 3])  # type: ignore[list-item]
    with pytest.raises(IndexError, match="ModuleList of 1 modules, asked for 1"):
        nn.ModuleList([nn.ReLU()])[1]
    with pytest.raises(IndexError, match="Sequential of 1 modules, asked to replace -2"):
        nn.Sequential(nn.ReLU())[-2] = nn.ReLU()
    with pytest.raises(ValueError, match="item forward cannot have the name"):
        nn.Sequential({"forward": nn.ReLU()})
    layer = nn.Linear(1, 1)
    assert all(p.requires_grad for p in layer.parameters())
    with pytest.raises(AttributeError, match=r"requires_grad cannot be set: .*freeze"):
        layer.weight.requires_grad = False

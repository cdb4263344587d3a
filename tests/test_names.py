"""Names of state: two things never share one, a module never contains itself, and sharing stays sharing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

import katachi as kt
from katachi import ModuleError, nn, optim


class Holder(nn.Module):
    """A module with these fields."""

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self, name, value)


def linear() -> nn.Linear:
    return nn.Linear(1, 1)


COLLISIONS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "a dot in a key": (
        lambda: Holder(table={"a.b": linear(), "a": {"b": linear()}}), ("table['a.b']", "table['a']['b']"),
    ),
    "1 and '1'": (lambda: Holder(table={1: linear(), "1": linear()}), ("table[1]", "table['1']")),
    "of parameters": (
        lambda: Holder(table={"a.b": nn.Parameter([1.0]), "a": {"b": nn.Parameter([2.0])}}),
        ("table['a.b']", "table['a']['b']"),
    ),
    "of a buffer and a parameter": (
        lambda: Holder(table={2: nn.Buffer([1.0]), "2": nn.Parameter([2.0])}), ("table[2]", "table['2']"),
    ),
    "of a module's field and a key": (
        lambda: Holder(table={"inner.weight": nn.Parameter([1.0]), "inner": linear()}),
        ("table['inner.weight']", "table['inner'].weight"),
    ),
    "in a Sequential": (
        lambda: nn.Sequential({"a.0": linear(), "a": nn.Sequential(linear())}), ("a.0",),
    ),
    "far below": (
        lambda: Holder(body=nn.ModuleList([Holder(x={(0,): linear(), "(0,)": linear()})])),
        ("body.0.x[(0,)]", "body.0.x['(0,)']"),
    ),
}  # fmt: skip

WALKS: dict[str, Callable[[Any], object]] = {
    "state_dict": lambda m: m.state_dict(),
    "load_state_dict": lambda m: m.load_state_dict({}),
    "named_parameters": lambda m: list(m.named_parameters()),
    "parameters": lambda m: list(m.parameters()),
    "buffers": lambda m: list(m.buffers()),
    "zero_grad": lambda m: m.zero_grad(),
    "to": lambda m: m.to("cpu"),
}
ALL_WALKS: dict[str, Callable[[Any], object]] = {
    **WALKS,
    "named_modules": lambda m: list(m.named_modules()),
    "train": lambda m: m.train(),
    "eval": lambda m: m.eval(),
    "freeze": lambda m: m.freeze(),
    "apply": lambda m: m.apply(id),
    "half": lambda m: m.half(),
    "optimiser": lambda m: optim.SGD(m.parameters(), lr=0.1),
}


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("name", COLLISIONS)
def test_an_error_names_both_that_have_one_name(name: str, walk: str) -> None:
    make, places = COLLISIONS[name]
    module = make()
    with pytest.raises(ModuleError, match="would both be named") as error:
        WALKS[walk](module)
    assert all(place in str(error.value) for place in places), error.value
    repr(module)


def test_a_prefix_and_what_is_shared_beside_what_is_not() -> None:
    layer = linear()
    module = Holder(table={"a.b": layer, "a": {"b": layer, "b.weight": nn.Parameter([1.0])}})
    assert [name for name, _ in module.named_modules("net")] == ["net", "net.table.a.b", "net.table.a.b"]
    with pytest.raises(ModuleError) as error:
        module.state_dict()
    assert "table['a']['b.weight'] and table['a.b'].weight = table['a']['b'].weight would both" in str(error.value)
    module.table[1], module.table["1"] = nn.ReLU(), nn.Tanh()  # type: ignore[attr-defined]
    with pytest.raises(ModuleError, match=r"net.table\[1\] and net.table\['1'\] would both .* 'net.table.1'"):
        list(module.named_modules("net"))


def child_and_parent() -> nn.Module:
    parent = Holder(child=Holder(layer=linear()))
    parent.child.parent = parent  # type: ignore[attr-defined]
    return parent


def itself() -> nn.Module:
    module = Holder(layer=linear())
    module.me = module
    return module


def through_containers() -> nn.Module:
    parent = Holder(parts=[nn.Sequential(linear())])
    parent.parts[0].append(Holder(table={"up": (parent.parts[0],)}))  # type: ignore[attr-defined]
    return parent


CIRCLES = {
    "child and parent": (child_and_parent, "Holder: child.parent is the module itself"),
    "itself": (itself, "Holder: me is the module itself"),
    "below": (through_containers, "Holder: parts.0.1.table.up.0 is parts.0 itself"),
}


@pytest.mark.parametrize("walk", ALL_WALKS)
@pytest.mark.parametrize("name", CIRCLES)
def test_an_error_names_the_path_of_a_circle(name: str, walk: str) -> None:
    make, message = CIRCLES[name]
    module = make()
    with pytest.raises(ModuleError, match="weakref") as error:
        ALL_WALKS[walk](module)
    assert message in str(error.value)


@pytest.mark.parametrize("name", CIRCLES)
def test_a_circle_can_be_printed_and_copied(name: str) -> None:
    module = CIRCLES[name][0]()
    assert "..." in repr(module) and "..." in repr(copy.deepcopy(module))


@pytest.mark.parametrize("kind", [list, dict])
def test_a_container_within_itself(kind: type) -> None:
    around: Any = kind()
    if kind is list:
        around.append(around)
    else:
        around["in"] = around
    module = Holder(items=around)
    for walk in ("state_dict", "freeze", "train"):
        with pytest.raises(ModuleError, match=f"field items.* is a {kind.__name__} that contains itself"):
            ALL_WALKS[walk](module)


def test_a_parent_may_be_held_weakly() -> None:
    import weakref

    parent: Any = Holder(child=Holder(layer=linear()))
    parent.child.parent = weakref.ref(parent)
    assert list(parent.state_dict()) == ["child.layer.weight", "child.layer.bias"]


def test_what_is_shared_stays_shared() -> None:
    """As in PyTorch: one parameter under two names, one module in two places."""
    layer = linear()
    module: Any = Holder(first=layer, second=layer, again=[layer.weight], same={"x.y": layer, "x": {"y": layer}})
    assert [n for n, _ in module.named_parameters()] == ["again.0", "first.bias"]
    assert len(list(module.parameters())) == 2 and len(list(module.modules())) == 2
    assert {"first.weight", "second.weight", "again.0", "same.x.y.weight"} <= set(module.state_dict())
    frozen = module.freeze()
    assert frozen.first is frozen.second is frozen.same["x"]["y"] and frozen.again[0] is frozen.first.weight
    for walk in ("named_parameters", "named_modules", "named_buffers"):
        assert [n for n, _ in getattr(frozen, walk)()] == [n for n, _ in getattr(module, walk)()]
    copied = copy.deepcopy(module)
    assert copied.first is copied.second and copied.again[0] is copied.first.weight
    state = {name: kt.ones(value.shape) * 3 for name, value in module.state_dict().items()}
    assert module.load_state_dict(state) == ([], [])
    assert layer.weight.item() == frozen.again[0].item() == 3


def test_a_copy_of_a_model_with_its_frozen_twin_shares_too() -> None:
    layer = linear()
    pair: Any = Holder(trained=layer, fixed=layer.freeze())
    other = copy.deepcopy(pair)
    other.trained.weight.set([[7.0]])
    assert other.fixed.weight.item() == 7.0 != layer.weight.item()
    other.fixed.weight.set([[8.0]])
    assert other.trained.weight.item() == 8.0 and kt.is_variable(other.trained.weight)
    (other.trained(kt.ones(1, 1)) * 2).sum().backward()
    assert other.trained.weight.grad.tolist() == [[2.0]]
    optim.SGD(other.trained.parameters(), lr=1.0).step()
    assert other.trained.weight.item() == other.fixed.weight.item() == 6.0


def test_a_state_that_fits_says_so() -> None:
    told = linear().load_state_dict(linear().state_dict())
    assert repr(told) == str(told) == "<All keys matched successfully>"
    assert told.missing_keys == told.unexpected_keys == [] and told == ([], [])
    told = linear().load_state_dict({"bias": [1.0], "more": [1.0]}, strict=False)
    assert repr(told) == "Mismatch(missing_keys=['weight'], unexpected_keys=['more'])"

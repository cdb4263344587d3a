"""A compiled function sees what it reads beside its arguments, or is refused: never an old value."""

from __future__ import annotations

import gc
import importlib
import sys
import types
import warnings
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import katachi as kt
from katachi import data, nn, optim


@pytest.fixture(autouse=True, params=["reference", "cpu"])
def device(request):
    with kt.device(request.param):
        yield
    for name in [n for n in sys.modules if n.split(".")[0] in ("program", "mymodels", "treeconf")]:
        del sys.modules[name]


@pytest.fixture
def module(monkeypatch):
    """A module of the user's."""
    module: Any = types.ModuleType("settings")
    module.__file__ = "settings.py"
    exec("RATE = 2.0\nTABLE = {'a': 2.0}\ndef scaled(x): return x * RATE\nclass Deep: rate = 2.0", vars(module))
    monkeypatch.setitem(sys.modules, "settings", module)
    monkeypatch.setenv("KATACHI_N", "0")


def programs(name: str) -> dict[str, Any]:
    """By title, the parts of each program in a file: titles start with ##, parts are separated by --."""
    text = (Path(__file__).parent / "guards" / f"{name}.txt").read_text("utf-8")
    titled = [part.partition("\n") for part in text.split("\n## ")[1:]]
    return {title: [p.strip("\n") for p in body.split("\n--\n")] for title, _, body in titled}


CHANGES, CHANGING, FILLING = programs("changes"), programs("changing"), programs("filling")
LEAVING, REFUSED, UNRELATED = programs("leaving"), programs("refused"), programs("unrelated")


def run(text: str, space: dict[str, Any] | None = None) -> dict[str, Any]:
    """A program as its own module."""
    if space is None:
        module = sys.modules["program"] = types.ModuleType("program")  # where dataclasses look
        space = vars(module)
        space.update(kt=kt, nn=nn, np=np)
    exec(compile(text, "<program>", "exec"), space)
    return space


@pytest.mark.parametrize("case", CHANGES)
def test_the_next_call_sees_the_change(case, module):
    program, change = CHANGES[case]
    space = run(program)
    f, x = space["f"], kt.tensor([1.0, 2.0])
    compiled = kt.compile(f)
    before = compiled(x).numpy()
    assert [*map(repr, (compiled(x).numpy(), f(x).numpy()))] == [repr(before)] * 2
    told = kt.explain(compiled, x)
    assert told.programs_built == 0, told  # nothing has changed
    run(change, space)
    after = compiled(x).numpy()
    assert repr(after) == repr(f(x).numpy())
    assert repr(after) != repr(before)  # so that it mattered
    assert repr(compiled(x).numpy()) == repr(after)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_seen_is_refused(case):
    program, message = REFUSED[case]
    with pytest.raises(kt.Error, match=message):
        kt.compile(run(program)["f"])(kt.tensor([1.0, 2.0]))
    assert (kt.ones(2) + 1).tolist() == [2.0, 2.0]  # the thread's own trace is as it was


@pytest.mark.parametrize("case", CHANGING)
def test_what_a_function_changes_itself_is_never_stale(case):
    """Each call gives what the plain function gives, or is refused."""
    program, message = CHANGING[case]
    plain, compiled = run(program)["f"], kt.compile(run(program)["f"])
    x = kt.tensor([1.0, 2.0])
    assert compiled(x).tolist() == plain(x).tolist()
    with pytest.raises(kt.Error, match="compile: " + message + ", which .* was changed while it was traced"):
        compiled(x)


@pytest.mark.parametrize("case", FILLING)
def test_a_cache_may_be_filled(case):
    plain, compiled = run(FILLING[case][0])["f"], kt.compile(run(FILLING[case][0])["f"])
    x = kt.tensor([1.0, 2.0])
    for _ in range(4):
        assert compiled(x).tolist() == plain(x).tolist()
    assert kt.explain(compiled, x).programs_built == 0


@pytest.mark.parametrize("case", LEAVING)
def test_tensors_that_are_left_in_places(case):
    a, b = run(LEAVING[case][0]), run(LEAVING[case][0])
    compiled = kt.compile(b["f"])
    for i in range(6):
        x = kt.tensor([1.0 + i, 2.0])
        assert compiled(x).tolist() == a["f"](x).tolist()
        assert b["seen"]().tolist() == a["seen"]().tolist()
    assert kt.explain(compiled, kt.ones(2)).programs_built == 0


@pytest.mark.parametrize("case", UNRELATED)
def test_what_is_not_read_costs_no_new_trace(case):
    program, change = UNRELATED[case]
    space = run(program)
    compiled, x = kt.compile(space["f"]), kt.tensor([1.0, 2.0])
    compiled(x)
    for _ in range(3):
        run(change, space)
        told = kt.explain(compiled, x)
        assert told.programs_built == 0, told
        assert repr(told.result.numpy()) == repr(space["f"](x).numpy()) or case == "optimiser's rate"


def test_a_tensor_that_was_replaced_is_not_kept_alive():
    space = run(LEAVING["dict"][0])
    first, f = weakref.ref(space["s"]["h"]), kt.compile(space["f"])
    f(kt.ones(2))
    f(kt.ones(2))
    gc.collect()
    assert first() is None


def test_a_group_added_to_an_optimiser():
    """Its parameters had gradients that the step did not use."""

    def make(wrap):
        a, b = kt.variable([1.0, 2.0]), kt.variable([3.0, 4.0])
        o = optim.SGD([a], lr=0.1)

        def step(x):
            (a * b * x).sum().backward()
            o.step()
            return x

        return wrap(step), a, b, o

    rows = []
    for wrap in (lambda f: f, kt.compile):
        step, a, b, o = make(wrap)
        for i in range(6):
            if i == 3:
                o.add_param_group({"params": [b], "lr": 0.2})
            step(kt.tensor([1.0, 2.0]))
            rows.append((a.tolist(), b.tolist()))
    assert rows[:6] == rows[6:]


def test_a_value_looked_at_inside_is_refused_wherever_it_was_found():
    for program in ("d = {'a': kt.tensor(2.0)}\ndef f(x): return x * d['a'].item()",
                    "d = (kt.tensor(2.0),)\ndef f(x): return x if d[0] > 1 else -x"):  # fmt: skip
        with pytest.raises(kt.Error, match="looked at inside a compiled function"):
            kt.compile(run(program)["f"])(kt.ones(2))


def test_objects_given_as_arguments():
    class Options:
        def __init__(self, scale):
            self.scale, self.inner = scale, {"shift": [1.0]}

    f = kt.compile(lambda x, o, *, more=None: x * o.scale + o.inner["shift"][0] + (more.scale if more else 0.0))
    x, a, b = kt.tensor(1.0), Options(2.0), Options(5.0)
    assert (f(x, a).item(), f(x, b).item(), f(x, a, more=b).item()) == (3.0, 6.0, 8.0)
    a.inner["shift"][0], b.scale = 10.0, 7.0
    assert (f(x, a).item(), f(x, b).item(), f(x, a, more=b).item()) == (12.0, 8.0, 19.0)


class Pair(NamedTuple):
    left: kt.Tensor
    right: float

    def scaled(self):
        return self.left * SCALES["left"]


SCALES = {"left": 2.0}


def test_named_tuples_given_as_arguments(monkeypatch):
    f = kt.compile(lambda p: p.scaled())
    assert f(Pair(kt.tensor(1.0), 1.0)).item() == 2.0
    monkeypatch.setitem(SCALES, "left", 3.0)
    assert f(Pair(kt.tensor(1.0), 1.0)).item() == 3.0


class Options:
    def __init__(self, value):
        self.value = value


def total(x):
    """Of everything in a structure, depending on the order."""
    if isinstance(x, Options):
        return total(x.value) * 3.0
    if isinstance(x, dict):
        return sum((i + 1.5) * total(v) + len(str(k)) for i, (k, v) in enumerate(x.items()))
    if isinstance(x, (list, tuple)):
        return sum((i + 0.5) * total(v) for i, v in enumerate(x))
    return (
        x.sum()
        if isinstance(x, (kt.Tensor, np.ndarray))
        else 0.25
        if x is None
        else len(x)
        if isinstance(x, str)
        else x
    )


NUMBERS = st.one_of(
    st.integers(-3, 3), st.floats(-2, 2, width=16), st.booleans(), st.sampled_from(["a", "bc"]), st.none()
)
ARRAYS = st.one_of(
    st.integers(0, 3).map(lambda n: np.full(2, float(n))), st.integers(0, 3).map(lambda n: kt.full((2,), float(n)))
)
KEYS = st.sampled_from(["a", "bb", 1, None, 2.5])
STRUCTURES = st.recursive(
    st.one_of(NUMBERS, ARRAYS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=3),
        st.tuples(inner, inner),
        inner.map(Options),
    ),
    max_leaves=8,
)


def changeable(x):
    """All things in a structure that can be changed in place."""
    inner = (
        [x.value]
        if isinstance(x, Options)
        else [*x.values()]
        if isinstance(x, dict)
        else x
        if isinstance(x, (list, tuple))
        else []
    )
    here = [x] if isinstance(x, (Options, dict, list, np.ndarray)) else []
    return here + [y for v in inner for y in changeable(v)]


def change(choices, root):
    """Something in it becomes something else."""
    x = choices.draw(st.sampled_from(changeable(root)))
    value = choices.draw(st.one_of(NUMBERS, ARRAYS, STRUCTURES))
    if isinstance(x, Options):
        x.value = value
    elif isinstance(x, np.ndarray):
        x[choices.draw(st.integers(0, 1))] = choices.draw(st.integers(-2, 2))
    elif x and choices.draw(st.booleans()):
        key = (
            choices.draw(st.sampled_from(sorted(x, key=str)))
            if isinstance(x, dict)
            else choices.draw(st.integers(0, len(x) - 1))
        )
        if choices.draw(st.integers(0, 3)):
            x[key] = value
        else:
            del x[key]
    elif isinstance(x, dict):
        x[choices.draw(KEYS)] = value
    else:
        x.insert(choices.draw(st.integers(0, len(x))), value)


@settings(suppress_health_check=list(HealthCheck))  # the device stays the same
@given(st.data())
def test_any_structure_may_change_in_any_way(choices):
    root = Options(choices.draw(STRUCTURES))

    def plain(x):
        return x * total(root) + x

    f, x = kt.compile(plain), kt.tensor([1.0, 2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NaN and infinity are as good as any number
        for _ in range(6):
            assert repr(f(x).numpy()) == repr(plain(x).numpy())
            if choices.draw(st.booleans()):
                change(choices, root)


def test_a_model_in_an_installed_package(tmp_path, monkeypatch):
    """One that uses katachi is the user's program, wherever it lies."""
    folder = tmp_path / "site-packages" / "mymodels"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "options.py").write_text("SCALES = {'n': 2.0}\ndef scale(): return SCALES['n']\n")
    (folder / "model.py").write_text(
        "from katachi import nn\nfrom mymodels import options\nclass Model(nn.Module):\n"
        "    def __init__(self): self.shifts = [1.0]\n"
        "    def forward(self, x): return x * options.scale() + self.shifts[0]\n"
    )
    monkeypatch.syspath_prepend(folder.parent)
    model = importlib.import_module("mymodels.model").Model()
    options = sys.modules["mymodels.options"]
    f = kt.compile(lambda x: model(x))
    assert f(kt.tensor(1.0)).item() == 3.0
    model.shifts[0] = 5.0
    assert f(kt.tensor(1.0)).item() == 7.0
    options.SCALES["n"] = 3.0
    assert f(kt.tensor(1.0)).item() == 8.0


def test_a_data_set_beside_an_optimiser():
    """katachi's own objects: what an optimiser counts costs no new trace."""
    w = kt.variable([1.0, 2.0])
    opt, items = optim.AdamW([w]), data.TensorDataset(np.ones((3, 2), np.float32))

    @kt.compile
    def step(x):
        (w * x * len(items)).sum().backward()
        opt.step()
        return w.freeze()

    step(kt.ones(2))
    step(kt.ones(2))
    for group in opt.param_groups:
        group["lr"] *= 0.5
    assert kt.explain(step, kt.ones(2)).programs_built == 0


def test_options_of_an_installed_package(tmp_path, monkeypatch):
    """A tree of nodes behind __getattr__, with the library's own code between."""
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "treeconf.py").write_text(
        "class Node:\n    def __init__(self, v): self._v = v\n"
        "class Tree:\n    def __init__(self, **kw): vars(self)['_d'] = {k: Node(v) for k, v in kw.items()}\n"
        "    def __getattr__(self, k): return self._d[k]._v\n"
        "    def __setattr__(self, k, v): self._d[k]._v = v\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    treeconf = importlib.import_module("treeconf")
    options = treeconf.Tree(model=treeconf.Tree(rate=2.0))
    f = kt.compile(lambda x: x * options.model.rate)
    assert f(kt.tensor(1.0)).item() == 2.0
    options.model.rate = 3.0
    assert f(kt.tensor(1.0)).item() == 3.0


def test_methods_of_objects_with_state():
    class Trainer:
        def __init__(self):
            self.options, self.log = {"scale": 2.0}, []

        @kt.compile
        def run(self, x):
            return self.scaled(x)

        def scaled(self, x):
            return x * self.options["scale"]

    t, x = Trainer(), kt.tensor(1.0)
    for scale in (2.0, 3.0, 2.0):
        t.options["scale"] = scale
        t.log.append(t.run(x))
    assert [y.item() for y in t.log] == [2.0, 3.0, 2.0]
    assert kt.explain(t.run, x).programs_built == 0


def test_a_number_that_changes_at_every_call_is_right_and_warned_of():
    space = run("rate = 0.0\ndef f(x): return x * rate")
    f, x = kt.compile(space["f"]), kt.tensor(1.0)
    with pytest.warns(UserWarning, match="f was traced 16 times .* rate has changed"):
        for i in range(70):
            space["rate"] = float(i)
            assert f(x).item() == i
    assert "rate has changed" in kt.explain(f, kt.tensor(1.0)).flushes[0].why or f(x).item() == 69


def test_why_a_call_was_traced_again():
    space = run("class C: pass\nc = C()\nc.d = {'n': [1, 2]}\ndef f(x): return x * c.d['n'][1]")
    f, x = kt.compile(space["f"]), kt.tensor(1.0)
    f(x)
    space["c"].d["n"][1] = 5
    assert kt.explain(f, x).flushes[0].why == "traced again: c.d['n'][1] has changed"

"""kt.explain: launches and nodes in the user's terms, and why a program was built."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import katachi as kt
from katachi import nn, optim


def step(x: Any) -> Any:
    return ((x @ x).relu() + 1).sum().item()


def line_of(function: Any) -> str:
    return f"{__file__}:{inspect.getsourcelines(function)[1] + 1}"


@pytest.mark.parametrize("device", kt.devices())
def test_every_launch_says_what_it_computes_and_for_which_line(device: str) -> None:
    with kt.device(device):
        x = kt.ones((4, 4))
        kt.eval(x)
        told = kt.explain(step, x)
        (program,) = [f.program for f in told.flushes]
        title, *lines = told.kernels.splitlines()
        assert title.startswith("program 0") and len(lines) == len(program.launches())
        assert all(line.endswith(line_of(step)) for line in lines)
        (product,) = [line for line in lines if " matmul  " in line and "reads 64 B" in line]
        assert "float32[4, 4]" in product and "writes 64 B" in product
        assert "sum" in lines[-1] and "float32[]" in lines[-1] and "writes 4 B" in lines[-1]
        assert all(name in told.kernels for name in ("relu", "add", "sum"))


@pytest.mark.parametrize("device", kt.devices())
def test_the_graph_names_every_node_that_another_one_reads(device: str) -> None:
    with kt.device(device):
        model = nn.Linear(4, 2)
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        def train() -> None:
            (model(kt.ones((3, 4))) ** 2).mean().backward()
            optimizer.step()

        told = kt.explain(train)
        title, *lines = told.graph.splitlines()
        assert title.startswith("program 0")
        made: set[str] = set()
        for line in lines:
            name, _, rest = line.strip().partition(":")
            operands = rest.partition("(")[2].partition(")")[0]
            assert all(x in made for x in operands.split(", ") if x)
            assert " input(" in line or line.endswith(
                (line_of(train), f"{line_of(train)[:-1]}{int(line_of(train)[-1]) + 1}")
            )
            made.add(name)
        assert any("dot_general" in x and "linear" in x for x in lines) and any("SGD.step" in x for x in lines)


def test_a_stretch_of_code_by_lines() -> None:
    def total(n: int) -> float:
        return (kt.ones(n) * 2.0).sum().item()

    square = kt.compile(lambda x: x * x)
    x = kt.tensor([2.0])
    with kt.explain() as told:
        for n in (3, 4, 5, 3, 4):
            total(n)
        square(x), square(x)
        pending = x + 1.0  # computed at the end
    first, compiled, last = told.lines.splitlines()
    assert first.startswith(line_of(total)) and "5 ran" in first and "1 built" in first and "2 of new sizes" in first
    assert compiled.startswith("a compiled function") and "2 ran" in compiled and "1 built" in compiled
    assert __file__ in last and "1 ran" in last
    assert told.programs_built == 3 and pending.item() == 3.0
    with pytest.raises(ZeroDivisionError), kt.explain() as told:
        total(3)
        raise ZeroDivisionError
    assert len(told.flushes) == 1
    total(3)
    assert len(told.flushes) == 1


@pytest.mark.parametrize("device", kt.devices())
def test_why_a_program_was_built(device: str) -> None:
    def run(x: Any, power: int = 2, keep: bool = True) -> None:
        y = x**power
        z = y + 1
        if not keep:
            del y
        kt.eval(z)

    def why(*args: Any) -> str:
        told = kt.explain(run, *args)
        (f,) = told.flushes
        assert f.built == bool(f.why) and (f"({f.why})" in str(told)) == f.built
        return f.why

    def reasons() -> None:
        x, y = kt.tensor([1.0, 2.0], device=device), kt.tensor([[1.0]], device=device)
        assert why(x) == "first seen"
        assert why(x) == ""
        assert why(y) == f"pow at {line_of(run)}: an operand is float32[1, 1] on {device}, not float32[2] on {device}"
        assert why(x, 2, False) == "other values are alive at its end"
        assert why(x, 3) == f"pow at {line_of(run)}: a number varies, and is an operand from now on"
        assert why(x, 4) == why(x) == ""
        assert why(y) == ""
        assert "pow" in why(y, 5)  # that it varies is known here, too
        assert why(y, 6) == ""
        with kt.no_grad():
            assert "in other modes" in why(x)

    with ThreadPoolExecutor(1) as fresh:  # a thread has not seen anything yet
        fresh.submit(reasons).result()

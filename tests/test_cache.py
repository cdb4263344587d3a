"""Machine code on disk: found by the next process, never trusted when damaged, never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import katachi as kt
from katachi.compiler import making, stored
from katachi.compiler.stored import name_of
from katachi.devices.cpu.image import possible
from katachi.graph.node import aval, toposort
from katachi.graph.primitives import input_node, make
from katachi.graph.site import Group
from tests import random_graphs

PROGRAM = """
import katachi as kt
kt.use_device("cpu")
x = kt.arange(100, dtype=kt.float32).reshape((10, 10))
print((kt.exp(-x) @ x).sum().item())
from katachi.devices.cpu.engine import engine
print(engine().compiled, engine().loaded)
"""

TRAINING = """
import sys
import katachi as kt
from katachi import nn, optim
kt.manual_seed(1)
kt.use_device("cpu")
model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 5))
optimizer = optim.AdamW(model.parameters())
x, y = kt.arange(40) % 50, kt.arange(40) % 5
for i in range(4):
    if i == 3 and len(sys.argv) > 1:
        x = x + int(sys.argv[1])
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(loss.item().hex())
from katachi.devices.cpu.engine import engine
print(engine().compiled, "llvmlite.binding" in sys.modules)
"""


def run(folder):
    return finish(begin(folder))


def begin(folder):
    environment = {**os.environ, "KATACHI_CACHE": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    value, counts = out.splitlines()
    compiled, loaded = map(int, counts.split())
    return value, compiled, loaded


def test_the_second_process_compiles_nothing(tmp_path):
    value, compiled, loaded = run(tmp_path)
    assert compiled > 0 and loaded == 0
    assert run(tmp_path) == (value, 0, compiled)


def test_without(tmp_path):
    value, compiled, _ = run("off")
    assert compiled > 0
    assert run("off") == (value, compiled, 0)
    assert not list(tmp_path.iterdir())


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "a bit": lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
    "another format": lambda data: b"#!/bin/sh\n" * 100,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_files_are_made_again(tmp_path, how):
    value, compiled, _ = run(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(DAMAGE[how](path.read_bytes()))
    assert run(tmp_path) == (value, compiled, 0)
    assert run(tmp_path) == (value, 0, compiled)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("in the way")
    value, compiled, _ = run(tmp_path / "file" / "cache")
    assert compiled > 0
    assert run(tmp_path / "file" / "cache") == (value, compiled, 0)


def test_several_processes_at_once(tmp_path):
    together = [begin(tmp_path) for _ in range(4)]
    assert len({finish(p)[0] for p in together}) == 1
    assert run(tmp_path)[1] == 0
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".new-")]


def test_too_much_is_tidied(tmp_path, monkeypatch):
    from katachi.devices.cpu import cache

    monkeypatch.setenv("KATACHI_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "MOST_BYTES", 1000)
    for i in range(10):
        cache.write(f"kernel_{i}", bytes(200))
        os.utime(tmp_path / f"kernel_{i}", (i, i))
    cache.tidy()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"kernel_{i}" for i in (6, 7, 8, 9)]
    assert cache.read("kernel_9") == bytes(200) and cache.read("kernel_0") is None
    monkeypatch.setattr(cache, "MOST_FILES", 2)
    cache.tidy()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kernel_8", "kernel_9"]


def trained(folder, *arguments):
    environment = {**os.environ, "KATACHI_CACHE": str(folder)}
    command = [sys.executable, "-c", TRAINING, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_the_second_process_plans_nothing(tmp_path):
    first, second = (trained(tmp_path).stdout.split() for _ in range(2))
    assert int(first[-2]) > 0
    assert second == [*first[:4], "0", str(not possible())]
    assert list(tmp_path.glob("sized_*"))


def named(constant=2.0, axis=0, shape=(3, 4), dtype=kt.float32, swapped=False, scalar=False, replaces=None):
    x = input_node(aval(shape, dtype, "cpu", False), 0)
    y = input_node(aval((), dtype, "cpu", False), 1, scalar)
    factor = make("constant", value=constant, dtype=dtype, device="cpu")
    scaled = make("multiply", x, make("broadcast_in_dim", factor, shape=shape, dims=()))
    total = make("reduce_sum", scaled, axes=(axis,))
    outputs = [scaled, total, y] if swapped else [total, scaled, y]
    return name_of(toposort(outputs), outputs, replaces or {})


def test_every_difference_is_another_name():
    variants = [
        {}, {"constant": 2.5}, {"constant": -2.0}, {"constant": 0.0}, {"constant": -0.0}, {"axis": 1},
        {"shape": (4, 3)}, {"dtype": kt.float64}, {"swapped": True}, {"scalar": True}, {"replaces": {1: 0}},
    ]  # fmt: skip
    names = [named(**v) for v in variants]
    assert len({*names}) == len(variants) and None not in names
    assert [named(**v) for v in variants] == names
    assert named(constant=object()) is None


def test_which_operation_fails_is_part_of_the_name():
    """Equal nodes, but taken for one operation or two: an index outside would be another operation's."""

    def name(together):
        x = input_node(aval((4,), kt.float32, "cpu", False), 0)
        first, second = make("negate", x), make("exponential", x)
        first.group, second.group = Group("one"), Group("two")
        if together:
            second.group = first.group
        outputs = [first, second]
        return name_of(toposort(outputs), outputs, {})

    assert name(False) == name(False) != name(True)


def in_a_new_thread(work):
    """Traces belong to threads, so a new one builds its programs anew."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(120)


def test_stored_programs_compute_the_same(tmp_path, monkeypatch):
    """Random graphs with their gradients: what is read from the disk equals, bit for bit, what was made."""
    monkeypatch.setenv("KATACHI_CACHE", str(tmp_path))
    monkeypatch.setattr(stored, "LEAST", 0)

    def values():
        return [v.numpy().tobytes() for seed in range(2000, 2040) for v in random_graphs.build(seed, "cpu")[0]]

    first = in_a_new_thread(values)
    monkeypatch.setattr(making, "make", None)
    assert in_a_new_thread(values) == first


def test_a_recipe_without_its_kernels_is_made_again(tmp_path):
    first = trained(tmp_path).stdout.split()
    for path in tmp_path.glob("kernel_*"):
        path.unlink()
    assert trained(tmp_path).stdout.split() == first


def test_a_stored_program_names_the_line(tmp_path):
    first, second = (trained(tmp_path, 1000).stderr for _ in range(2))
    assert "IndexBoundsError" in first and "embedding" in first and "string>:8" not in first
    assert first.splitlines()[-1] == second.splitlines()[-1]
    assert "index 1000 is outside axis 0 of size 50" in first and "<string>:" in first

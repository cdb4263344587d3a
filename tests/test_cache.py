"""Machine code on disk: found by the next process, never trusted when damaged, never in the way."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import katachi as kt
kt.use_device("cpu")
x = kt.arange(100, dtype=kt.float32).reshape((10, 10))
print((kt.exp(-x) @ x).sum().item())
from katachi.devices.cpu.engine import engine
print(engine().compiled, engine().loaded)
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

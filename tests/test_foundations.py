"""What katachi stands on: LLVM in the versions that work, code that only LLVM can link, and a cache folder that nobody
else may write to."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import llvmlite
import pytest

import katachi as kt
from katachi.devices.cpu import engine, image
from katachi.devices.cpu.engine import Engine

ROOT = Path(__file__).parents[1]
images = pytest.mark.skipif(not image.possible(), reason="images are code for Linux on x86-64; elsewhere LLVM links all")

TRAINING = """
import katachi as kt
from katachi import nn, optim
from katachi.devices.cpu import codegen, engine, image
linked = []
load = codegen.Linker.load
def counting(self, objects):
    linked.extend(objects)
    return load(self, objects)
codegen.Linker.load = counting
{before}
kt.manual_seed(1)
model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 5))
optimizer = optim.AdamW(model.parameters())
x, y = kt.arange(40) % 50, kt.arange(40) % 5
for i in range(4):
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
print(loss.item().hex(), engine.engine().compiled, len(linked))
"""


def python(code: str, cache: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KATACHI_CACHE": str(cache)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)


# ---- versions of LLVM


def test_the_versions_of_llvmlite_are_the_same_everywhere() -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    (lowest, above) = engine.LLVMLITE
    assert "llvmlite>={}.{},<{}.{}".format(*lowest, *above) in asked
    locked = re.search(r"^llvmlite==(\d+)\.(\d+)", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE)
    assert locked and lowest <= tuple(map(int, locked.groups())) < above


@pytest.mark.parametrize("version", ["0.44.0", "0.47.0", "0.51.0", "1.0.0", "0+unknown"])
def test_another_version_of_llvmlite_is_named(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llvmlite, "__version__", version)
    with pytest.raises(kt.Error, match=re.escape(f"does not work with llvmlite {version}, only with llvmlite>=0.48")):
        Engine(image.possible())


def test_with_another_version_of_llvmlite_the_reference_computes() -> None:
    code = """
import llvmlite
llvmlite.__version__ = "0.47.0"
import katachi as kt
for _ in range(2):
    try:
        (kt.ones(3) * 2.0).tolist()
    except kt.Error as error:
        print(error)
with kt.device("reference"):
    print((kt.ones(3) * 2.0).tolist())
"""
    lines = python(code, "off").stdout.splitlines()
    assert len(lines) == 3 and lines[0] == lines[1] and "llvmlite 0.47.0" in lines[0] and lines[2] == "[2.0, 2.0, 2.0]"


@pytest.mark.parametrize("version", ["0.48.0", "0.49.1", "0.50.0rc1", "0.50.0"])
def test_the_versions_of_llvmlite_that_work(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llvmlite, "__version__", version)
    assert engine._llvm_version() == version


# ---- objects that no image can be of

ZERO = "@x = internal global i64 0\n"
FUNCTION = """
define i64 @f(i64 %i) {
  %old = load i64, ptr @x
  %new = add i64 %old, %i
  store i64 %new, ptr @x
  ret i64 %new
}
"""
OBJECTS = {
    "data that is not zero": FUNCTION + "@x = internal global i64 5\n",
    "data of the C library": ZERO + FUNCTION + "@stdout = external global ptr\n"
    "define i64 @g() {\n  %p = load ptr, ptr @stdout\n  %n = ptrtoint ptr %p to i64\n  ret i64 %n\n}\n",
    "a wide alignment": ZERO + FUNCTION + "@y = constant [4096 x i8] zeroinitializer, align 4096\n",
    "data with addresses": ZERO + FUNCTION + "@y = constant [2 x ptr] [ptr @x, ptr @f]\n",
    "a function that another may replace": ZERO + FUNCTION.replace("define", "define weak"),
}


@pytest.mark.parametrize("what", OBJECTS)
def test_an_object_that_no_image_can_be_of_is_linked_by_llvm(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once compiled and once from the disk; each time with memory of its own."""
    monkeypatch.setenv("KATACHI_CACHE", str(tmp_path))
    first = 5 if what == "data that is not zero" else 0
    for _ in range(2):
        (address,) = engine.engine().functions(OBJECTS[what], ["f"])
        f = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)
        assert [f(1), f(10)] == [first + 1, first + 11]
    (kept,) = tmp_path.glob("module_*")
    assert not image.unpack(kept.read_bytes()[32:]).linked


@images
def test_what_becomes_an_image_is_none_of_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KATACHI_CACHE", str(tmp_path))
    (address,) = engine.engine().functions(ZERO + FUNCTION, ["f"])
    assert ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(7) == 7
    (kept,) = tmp_path.glob("module_*")
    assert image.unpack(kept.read_bytes()[32:]).linked


@images
@pytest.mark.parametrize("error", ["ValueError('relocation 9')", "IndexError()", "__import__('struct').error()"])
def test_training_where_images_know_only_every_other_object(error: str, tmp_path: Path) -> None:
    """The same bits, compiled and then from the disk, as with images alone."""
    refusing = f"""
flatten, seen = image.flatten, []
def refuse(elf):
    seen.append(elf)
    if len(seen) % 2:
        raise {error}
    return flatten(elf)
image.flatten = refuse
"""
    want, compiled, none = python(TRAINING.format(before=""), tmp_path / "images").stdout.split()
    assert int(compiled) > 0 and none == "0"
    mixed = python(TRAINING.format(before=refusing), tmp_path / "mixed")
    assert mixed.returncode == 0, mixed.stderr
    loss, compiled_mixed, linked = mixed.stdout.split()
    assert (loss, compiled_mixed) == (want, compiled) and int(linked) > 1
    again = python(TRAINING.format(before=""), tmp_path / "mixed").stdout.split()
    assert again == [want, "0", linked]

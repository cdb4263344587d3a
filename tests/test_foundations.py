"""What katachi stands on: LLVM in the versions that work, code that only LLVM can link, and a cache folder that nobody
else may write to."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llvmlite
import pytest

import katachi as kt
from katachi.devices.cpu import cache, engine, image
from katachi.devices.cpu.engine import Engine

ROOT = Path(__file__).parents[1]
images = pytest.mark.skipif(
    not image.possible(), reason="images are code for Linux on x86-64; elsewhere LLVM links all"
)

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


# ---- the cache folder

posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")
NAME = "kernel_0"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with one file in it."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("KATACHI_CACHE", str(folder))
    monkeypatch.setattr(cache, "_warned", set())
    cache.write(NAME, b"code")
    assert cache.read(NAME) == b"code"
    return folder


@contextlib.contextmanager
def unused(folder: Path, why: str) -> Iterator[None]:
    """Within it nothing is read from the folder, written to it or removed, and a single warning says so."""
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            assert cache.read(NAME) is None
            cache.write(NAME, b"other code")
            cache.tidy()
    (one,) = told
    assert one.category is RuntimeWarning and re.search(why, str(one.message)) and "KATACHI_CACHE" in str(one.message)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    yield


@posix
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o720, 0o702])
def test_a_folder_that_others_may_write_to_is_not_used(place: Path, mode: int) -> None:
    place.chmod(mode)
    with unused(place, f"{place}, which others may write to .*chmod go-w"):
        place.chmod(mode & ~0o022)  # the remedy
    assert cache.read(NAME) == b"code"


@posix
def test_a_folder_of_another_user_is_not_used(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with unused(place, rf"belongs to user {user} \(this process runs as {user + 1}\)"):
        monkeypatch.undo()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files to others")
def test_a_folder_given_to_another_user_is_not_used(place: Path) -> None:
    os.chown(place, 65533, 65533)
    with unused(place, "belongs to user 65533"):
        pass


@posix
def test_a_link_leads_to_a_folder_of_ones_own(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "link"
    link.symlink_to(place)
    monkeypatch.setenv("KATACHI_CACHE", str(link))
    assert cache.read(NAME) == b"code"
    cache.write("kernel_1", b"more")
    assert (place / "kernel_1").exists()
    place.chmod(0o777)
    with unused(place, f"{link}, which others may write to"):
        pass


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files to others")
def test_a_link_of_another_user_is_not_followed(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "link"
    link.symlink_to(place)
    os.chown(link, 65533, 65533, follow_symlinks=False)
    monkeypatch.setenv("KATACHI_CACHE", str(link))
    with unused(place, "belongs to user 65533"):
        pass


@posix
def test_a_folder_made_under_any_umask_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KATACHI_CACHE", str(tmp_path / "deep" / "cache"))
    before = os.umask(0)
    try:
        cache.write(NAME, b"code")
    finally:
        os.umask(before)
    assert cache.read(NAME) == b"code"
    made = tmp_path / "deep" / "cache", tmp_path / "deep" / "cache" / NAME
    assert [path.stat().st_mode & 0o777 for path in made] == [0o700, 0o600]


@posix
def test_a_file_that_others_may_write_to_or_a_link_counts_as_missing(place: Path, tmp_path: Path) -> None:
    (place / NAME).chmod(0o660)
    assert cache.read(NAME) is None
    cache.write(NAME, b"code")
    assert cache.read(NAME) == b"code"
    shutil.move(place / NAME, tmp_path / "elsewhere")
    (place / NAME).symlink_to(tmp_path / "elsewhere")
    assert cache.read(NAME) is None
    cache.write(NAME, b"new code")
    assert cache.read(NAME) == b"new code" and not (place / NAME).is_symlink()
    assert (tmp_path / "elsewhere").read_bytes()[32:] == b"code"


@posix
def test_a_file_of_another_user_counts_as_missing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, folder = os.fstat, place.stat().st_ino

    def of_another(fd: int) -> os.stat_result:
        found = real(fd)
        return found if found.st_ino == folder else os.stat_result((*found[:4], found.st_uid + 1, *found[5:]))

    monkeypatch.setattr(os, "fstat", of_another)
    assert cache.read(NAME) is None


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_file_stays_open(place: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        cache.read(NAME), cache.read("kernel_2"), cache.write(NAME, b"code"), cache.tidy()
        (place / NAME).chmod(0o666)
    place.chmod(0o777)
    with unused(place, "others may write"):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


@posix
def test_a_program_in_a_folder_that_others_may_write_to_is_right_and_says_so_once(tmp_path: Path) -> None:
    code = TRAINING.format(before="")
    want, compiled, _ = python(code, tmp_path).stdout.split()
    tmp_path.chmod(0o777)
    done = python(code, tmp_path)
    assert done.stdout.split()[:2] == [want, compiled] and done.stderr.count("does not use the cache folder") == 1


def test_only_what_was_written_here_is_tidied(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that the user named may hold other files."""
    monkeypatch.setattr(cache, "MOST_BYTES", 100)
    for name in ("thesis.tex", "kernel_of_truth", "program_1.py"):
        (place / name).write_bytes(bytes(200))
        os.utime(place / name, (1, 1))
    for i in range(3):
        cache.write(f"program_{i}", bytes(60))
    cache.tidy()
    left = {p.name for p in place.iterdir()}
    assert {"thesis.tex", "kernel_of_truth", "program_1.py"} < left and len(left) == 4


def test_what_folds_constants_belongs_to_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed in any file of the rooms that make programs and kernels, katachi does not find what it made before."""
    copy = shutil.copytree(ROOT / "src" / "katachi", tmp_path / "katachi", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache, "__file__", str(copy / "devices" / "cpu" / "cache.py"))
    digests = {cache.source_digest()}
    assert digests == {cache.source_digest()}
    changed = ["devices/reference/elementwise.py", "devices/reference/__init__.py", "devices/cpu/codegen.py"]
    changed += ["graph/primitives.py", "kernels/lower.py", "compiler/simplify.py"]
    for name in changed:
        with (copy / name).open("a") as file:
            file.write("\n")
        digests.add(cache.source_digest())
    for version in ("numpy", "ml_dtypes"):
        monkeypatch.setattr(f"{version}.__version__", "0.0")
        digests.add(cache.source_digest())
    assert len(digests) == 1 + len(changed) + 2

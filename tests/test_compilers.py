"""Machine code of processes that come and go, loaded without a linker."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from katachi.devices.cpu import codegen, image
from katachi.devices.cpu import compilers as processes
from katachi.devices.cpu.compilers import Compiler, Compilers, Here
from katachi.devices.cpu.engine import engine

images = pytest.mark.skipif(
    not image.possible(),
    reason="images are code for Linux on x86-64; elsewhere LLVM links, and the other tests run",
)
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells of processes in /proc")

TEXT = """
@state = internal global [600 x i64] zeroinitializer, align 64
@numbers = internal constant [4 x i64] [i64 5, i64 7, i64 11, i64 13], align 64
declare i64 @labs(i64)
define i64 @{name}(i64 %i) {{
  %at = getelementptr i64, ptr @numbers, i64 %i
  %x = load i64, ptr %at
  %minus = sub i64 0, %x
  %plus = call i64 @labs(i64 %minus)
  %cell = getelementptr i64, ptr @state, i64 599
  %old = load i64, ptr %cell
  %new = add i64 %old, %plus
  store i64 %new, ptr %cell
  ret i64 %new
}}
"""
LOOP = "define i64 @{name}(i64 %x) {{\n  %y = add i64 %x, {number}\n  ret i64 %y\n}}"


def function(address):
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)


def loops(n):
    return [(f"f{i}", LOOP.format(name=f"f{i}", number=i)) for i in range(n)]


@functools.cache
def linker():
    return codegen.Linker()


def check(objects, n):
    made = [objects[f"f{i}"] for i in range(n)]
    if image.possible():
        addresses = image.load([image.flatten(data) for data in made])
    else:
        addresses = linker().load([image.Image(data, 0, {f"f{i}": 0}, {}) for i, data in enumerate(made)])
    assert [function(addresses[f"f{i}"])(100) for i in range(n)] == [100 + i for i in range(n)]


@pytest.fixture
def compilers():
    made = Compilers(2)
    yield made
    for compiler in made._idle:
        compiler.close()


@images
def test_an_image_reads_writes_and_calls(compilers):
    """Constants, memory of its own that is zero at first, and a function of the C library; between two without."""
    objects = compilers.compile([*loops(2), ("g", TEXT.format(name="g"))])
    images = [image.unpack(image.flatten(objects[name]).pack()) for name in ("f0", "g", "f1")]
    addresses = image.load(images)
    g = function(addresses["g"])
    assert [g(0), g(1), g(2), g(3)] == [5, 12, 23, 36]
    assert [function(addresses[name])(1) for name in ("f0", "f1")] == [1, 2]
    again = image.load(images)
    assert function(again["g"])(0) == 5 and g(0) == 41


@images
def test_what_an_image_cannot_be(compilers):
    data = compilers.compile(
        [("h", "@x = global i64 7\ndefine i64 @h(i64 %i) {\n  store i64 %i, ptr @x\n  ret i64 0\n}")]
    )
    with pytest.raises(ValueError):
        image.flatten(data["h"])
    for damaged in (b"", b"MZ", b"\x7fELF\x01\x01" + data["h"][6:]):
        with pytest.raises(ValueError):
            image.flatten(damaged)


@images
def test_code_cannot_be_written(compilers):
    addresses = image.load([image.flatten(compilers.compile([("g", TEXT.format(name="g"))])["g"])])
    with open("/proc/self/maps", encoding="ascii") as maps:
        for line in maps:
            first, last = (int(n, 16) for n in line.split()[0].split("-"))
            if first <= addresses["g"] < last:
                assert line.split()[1].startswith("r-x")
                return
    raise AssertionError("not mapped")


def test_many_at_once(compilers):
    check(compilers.compile(iter(loops(40))), 40)
    assert len(compilers._idle) == 2


def test_a_text_that_is_wrong(compilers):
    with pytest.raises(RuntimeError, match="expected"):
        compilers.compile([("bad", "define nonsense")])
    check(compilers.compile(loops(3)), 3)


def test_one_that_has_ended(compilers):
    check(compilers.compile(loops(1)), 1)
    compilers._idle[0].process.kill()
    compilers._idle[0].process.wait()
    check(compilers.compile(loops(3)), 3)


def test_one_that_hangs_up_twice(compilers, monkeypatch):
    def ask(self, text):
        raise EOFError

    monkeypatch.setattr(Compiler, "ask", ask)
    with pytest.raises(RuntimeError, match="LLVM ended"):
        compilers.compile(loops(1))


def eventually(condition, seconds=30):
    until = time.perf_counter() + seconds
    while not condition() and time.perf_counter() < until:
        time.sleep(0.01)
    return condition()


def test_they_are_ended_when_nobody_asks(compilers, monkeypatch):
    monkeypatch.setattr(processes, "IDLE", 0.3)
    check(compilers.compile(loops(8)), 8)
    started = [compiler.process for compiler in compilers._idle]
    assert started and eventually(lambda: not compilers._idle)
    assert eventually(lambda: all(p.returncode is not None for p in started))  # waited for: no zombies
    check(compilers.compile(loops(3)), 3)


def test_they_stay_when_somebody_asks_in_time(compilers, monkeypatch):
    waiting = []

    class Timer:
        def __init__(self, seconds, function):
            assert seconds == processes.IDLE
            self.function = function

        def start(self):
            waiting.append(self.function)

    monkeypatch.setattr(processes.threading, "Timer", Timer)
    check(compilers.compile(loops(8)), 8)
    started = [compiler.process for compiler in compilers._idle]
    check(compilers.compile(loops(8)), 8)
    first, second = waiting
    first()  # its time is up, but somebody has asked since
    assert started and [c.process for c in compilers._idle] and all(p.poll() is None for p in started)
    second()
    assert not compilers._idle and all(p.returncode is not None for p in started)


@linux
def test_they_end_with_their_parent():
    code = """
import os
from katachi.devices.cpu.compilers import Compilers
compilers = Compilers(1)
compilers.compile([("f", "define void @f() { ret void }")])
print(compilers._idle[0].process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert eventually(lambda: not os.path.exists(f"/proc/{int(out)}/exe"))


def test_none_can_be_started(monkeypatch):
    """LLVM works in this process then, and makes the same code."""
    wanted = Compilers(2).compile(loops(2))
    for broken in ("", "/nowhere/python", "/bin/true"):
        monkeypatch.setattr(sys, "executable", broken)
        made = Compilers(2)
        assert made.compile(loops(2)) == wanted
        assert isinstance(made._idle[0], Here)


@pytest.mark.alone
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_interrupted(compilers):
    """Ctrl-C while the main thread waits; what is asked next is answered."""
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    def endless():
        for i in range(10**6):
            yield f"f{i}", LOOP.format(name=f"f{i}", number=i)
            time.sleep(0.01)

    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        compilers.compile(endless())
    assert time.perf_counter() - start < 2
    assert eventually(lambda: not [t for t in threading.enumerate() if t.name == "katachi-compile"])
    check(compilers.compile(loops(5)), 5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_child_has_its_own(compilers):
    check(compilers.compile(loops(1)), 1)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            check(compilers.compile(loops(5)), 5)
            os.write(writer, b"well")
        finally:
            os._exit(0)
    check(compilers.compile(loops(5)), 5)
    os.close(writer)
    assert os.read(reader, 10) == b"well"
    os.waitpid(child, 0)


def test_linked_by_llvm(tmp_path):
    """As on other systems than Linux: the whole of it in a process of its own."""
    code = """
from katachi.devices.cpu import image
image.possible = lambda: False
import numpy as np
import katachi as kt
x = kt.arange(12.0).reshape((3, 4))
assert np.allclose((kt.exp(-x) @ x.T).sum().item(), (np.exp(-x.numpy()) @ x.numpy().T).sum())
from katachi.devices.cpu.engine import engine
print(engine().images, engine().compiled > 0)
"""
    for compiled in (True, False):
        environment = {**os.environ, "KATACHI_CACHE": str(tmp_path)}
        out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
        assert out.stdout.split() == ["False", str(compiled)], out.stderr


def test_two_threads_compile(compilers):
    got = {}

    def work(k):
        names = [(f"t{k}_{i}", LOOP.format(name=f"t{k}_{i}", number=i)) for i in range(20)]
        got[k] = set(compilers.compile(names)) == {name for name, _ in names}

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {0: True, 1: True, 2: True}


def test_this_process_links_by_itself_where_it_can():
    assert engine().images == image.possible()

"""Processes that compile, several at once, each started when there is something for it to do.

They are ended after a while, so what LLVM takes is gone soon after the last compilation. Where there can be none (other
systems than Linux, programs that are not Python) LLVM works in this process.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from katachi.devices.cpu import codegen

IDLE = 5.0  # seconds with nothing to compile, after which they are ended
EACH = 4  # texts that make another process worth its start


class Compiler:
    """One process. Raises OSError where there can be none; `ask` raises EOFError when it has ended."""

    def __init__(self) -> None:
        found = importlib.util.find_spec("llvmlite")
        assert found and found.origin
        folder = Path(found.origin).parent.parent
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", codegen.__file__, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            self._described = codegen.Processor(*self._receive())
        except (EOFError, TypeError):
            self.close()
            raise OSError("no compiler started") from None

    def processor(self) -> codegen.Processor:
        """What it said at first."""
        return self._described

    def ask(self, text: str) -> bytes:
        """The object of a module in LLVM's language. Raises RuntimeError where it is wrong."""
        assert self.process.stdin
        try:
            codegen.send(self.process.stdin, text)
        except OSError:
            raise EOFError from None
        fine, answer = self._receive()
        if not fine:
            raise RuntimeError(answer)
        return answer

    def _receive(self) -> Any:
        assert self.process.stdout
        try:
            return codegen.receive(self.process.stdout)
        except (OSError, ValueError, TypeError):
            raise EOFError from None

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()


class Here:
    """LLVM in this process, where there can be no other."""

    def __init__(self) -> None:
        self.codegen = codegen.Codegen()

    def processor(self) -> codegen.Processor:
        return self.codegen.processor

    def ask(self, text: str) -> bytes:
        return self.codegen.compile(text)

    def close(self) -> None:
        """Nothing: it stays."""


class Compilers:
    """At most so many, each started when there is something for it to do; with none, LLVM works in this process."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._idle: list[Compiler | Here] = []
        self._here: Here | None = None
        self._asked = 0  # how often
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._idle.clear)  # a child must not talk into its parent's pipes

    def processor(self) -> codegen.Processor:
        """What LLVM says of this machine."""
        compiler = self._start()
        self._idle.append(compiler)
        self._end_later()
        return compiler.processor()

    def compile(self, texts: Iterable[tuple[str, str]]) -> dict[str, bytes]:
        """Objects by name, of texts by name. Raises RuntimeError where one is wrong."""
        waiting: SimpleQueue[tuple[str, str] | None] = SimpleQueue()
        made: dict[str, bytes] = {}
        failed: list[BaseException] = []
        workers: list[threading.Thread] = []

        def work() -> None:
            compiler = None
            try:
                compiler = self._taken() or self._start()
                while (task := waiting.get()) is not None and not failed:
                    name, text = task
                    try:
                        made[name] = compiler.ask(text)
                    except EOFError:  # it was idle for too long, or it failed; then the next one will as well
                        compiler.close()
                        compiler = self._start()
                        made[name] = compiler.ask(text)
            except EOFError:
                failed.append(RuntimeError("LLVM ended while it compiled"))
            except BaseException as error:
                failed.append(error)
            if compiler:
                self._idle.append(compiler)

        try:
            for i, task in enumerate(texts):
                waiting.put(task)
                if i >= EACH * len(workers) and len(workers) < max(self.most, 1):
                    workers.append(threading.Thread(target=work, name="katachi-compile", daemon=True))
                    workers[-1].start()
            for _ in workers:
                waiting.put(None)
            for worker in workers:
                worker.join()
        except BaseException as error:
            failed.append(error)  # the workers end after what they do now
            for _ in workers:
                waiting.put(None)
            raise
        finally:
            self._end_later()
        if failed:
            raise failed[0]
        return made

    def _end_later(self) -> None:
        """Ends those that are idle, unless somebody asks before."""
        self._asked += 1

        def end(asked: int = self._asked) -> None:
            while asked == self._asked and (compiler := self._taken()):
                compiler.close()

        timer = threading.Timer(IDLE, end)
        timer.daemon = True
        timer.start()

    def _taken(self) -> Compiler | Here | None:
        """An idle one."""
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        return None

    def _start(self) -> Compiler | Here:
        """Another one. `sys.executable` may be anything, so only one that describes the machine is taken."""
        if self.most > 0 and sys.executable and not getattr(sys, "frozen", False):
            with contextlib.suppress(OSError):
                return Compiler()
        self._here = self._here or Here()
        return self._here

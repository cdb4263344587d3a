"""A worker from outside: started with nothing cached, asked under a time limit, never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
# Settings that would favour somebody. Without bytecode, what is installed starts faster than what is not.
LIMITS = ("OMP_", "MKL_", "OPENBLAS_", "XLA_", "JAX_", "TORCH", "KATACHI_", "PYTHONDONTWRITEBYTECODE")


class Failed(Exception):
    """A worker that died, took too long, or says that it cannot. The message fits into a table."""


def environment(caches: Path) -> dict[str, str]:
    """Everybody's defaults, and caches in a folder that is ours."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(LIMITS)}
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "src"), kept.get("PYTHONPATH")]))
    return {
        **kept,
        "PYTHONPATH": path,
        "KATACHI_CACHE": str(caches / "katachi"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
    }


class Process:
    """`python -m bench.worker`, or another command, with its pipes. Use it as a context: it is gone at the end."""

    def __init__(
        self, column: str, row: str, caches: Path, timeout: float, command: Sequence[str] | None = None
    ) -> None:
        self.column, self.timeout = column, timeout
        self.errors: IO[str] = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by close
        self.process = subprocess.Popen(
            command or [sys.executable, "-m", "bench.worker", column, row],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env=environment(caches), start_new_session=True,
        )  # fmt: skip
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        """Pipes know no time limit, queues do. An empty line is the end."""
        assert self.process.stdout
        with contextlib.suppress(ValueError):
            for line in self.process.stdout:
                self.lines.put(line)
        self.lines.put("")

    def ask(self, *command: Any) -> dict[str, Any]:
        """The answer to a command. Raises Failed."""
        assert self.process.stdin
        with contextlib.suppress(OSError):  # a dead one's pipe; its silence is noticed below
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        try:
            line = self.lines.get(timeout=self.timeout)
        except queue.Empty:
            raise Failed(f"no answer in {self.timeout:.0f} s") from None
        if not line:
            raise Failed(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self.process.wait()
        how = f"died of signal {-code}" if code < 0 else f"ended with code {code}"
        self.errors.seek(0)
        said = [line.strip() for line in self.errors if line.strip()]
        return f"{how}: {said[-1][:160]}" if said else how

    def close(self) -> None:
        """End it and whatever it started (torch.compile's compilers)."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)  # its own session, so its number is the group's
        else:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

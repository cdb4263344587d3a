"""The thread pool and the runner, both machine code: a run of kernels is one call from Python.

A worker claims tasks one by one; a claim is a compare-and-swap on generation and count together, so whoever wakes late
never runs a task of a newer kernel with older arguments, and the caller never waits for a sleeper. Idle workers spin,
then sleep: on Linux in the kernel (futex), elsewhere in Python.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys
import threading

from katachi.devices.cpu.engine import engine
from katachi.devices.cpu.machine import cores

FLUSHED = 8  # the flag of a row whose kernel takes subnormal numbers for zero
STOPPED = -2  # what `run` gives when it was asked to stop before anything was written
_FUTEX = {"x86_64": 202, "aarch64": 98}
_SPINS = 20_000

_RUNNER = """
@state = internal global i64 0, align 64         ; generation << 32 | tasks nobody claimed yet
@job = internal global [6 x i64] zeroinitializer, align 64   ; kernel, parameters, table, status, tasks, flags
@cancelled = internal global i64 0, align 64
@done = internal global i64 0, align 64
@asleep = internal global i32 0, align 64
@stopping = internal global i32 0

define internal void @work(i64 %thread) {{
entry:
  br label %top
top:
  %w = load atomic i64, ptr @state seq_cst, align 8
  %left = and i64 %w, 4294967295
  %none = icmp eq i64 %left, 0
  br i1 %none, label %out, label %claim
claim:
  %kernel = load ptr, ptr @job
  %parameters = load ptr, ptr getelementptr (i64, ptr @job, i64 1)
  %table = load ptr, ptr getelementptr (i64, ptr @job, i64 2)
  %status = load ptr, ptr getelementptr (i64, ptr @job, i64 3)
  %tasks = load i64, ptr getelementptr (i64, ptr @job, i64 4)
  %less = sub i64 %w, 1
  %swap = cmpxchg ptr @state, i64 %w, i64 %less seq_cst seq_cst
  %mine = extractvalue {{ i64, i1 }} %swap, 1
  br i1 %mine, label %go, label %top
go:
  %cancel = load atomic i64, ptr @cancelled seq_cst, align 8
  %flags = load i64, ptr getelementptr (i64, ptr @job, i64 5)
  %firm = and i64 %flags, 2
  %wanted = icmp eq i64 %cancel, 0
  %held = icmp ne i64 %firm, 0
  %runs = or i1 %wanted, %held
  br i1 %runs, label %task_runs, label %task_done
task_runs:
  %task = sub i64 %tasks, %left
  call void @use_mode(i64 %flags)
  call void %kernel(ptr %parameters, ptr %table, ptr %status, i64 %task, i64 %thread)
  br label %task_done
task_done:
  %d = atomicrmw add ptr @done, i64 1 seq_cst
  br label %top
out:
  ret void
}}

define void @worker(i64 %thread) {{
entry:
  br label %wait
wait:
  call void @work(i64 %thread)
  %w = load atomic i64, ptr @state seq_cst, align 8
  %high = lshr i64 %w, 32
  %generation = trunc i64 %high to i32
  br label %spin
spin:
  %k = phi i32 [0, %wait], [%next, %again]
  %now = load atomic i64, ptr @state seq_cst, align 8
  %left = and i64 %now, 4294967295
  %some = icmp ne i64 %left, 0
  br i1 %some, label %wait, label %again
again:
  {pause}
  %next = add i32 %k, 1
  %tired = icmp ugt i32 %next, {spins}
  br i1 %tired, label %rest, label %spin
rest:
  %s = load atomic i32, ptr @stopping seq_cst, align 4
  %stop = icmp ne i32 %s, 0
  br i1 %stop, label %out, label %sleep
sleep:
  %a = atomicrmw add ptr @asleep, i32 1 seq_cst
  {sleep}
out:
  ret void
}}

define void @stop(i32 %value) {{
  store atomic i32 %value, ptr @stopping seq_cst, align 4
  %g = atomicrmw add ptr @state, i64 4294967296 seq_cst
  {wake}
  ret void
}}

define void @reset() {{
  store i64 0, ptr @cancelled
  store i64 0, ptr @state
  store i32 0, ptr @asleep
  store i32 0, ptr @stopping
  ret void
}}

define void @cancel(i64 %value) {{
  store atomic i64 %value, ptr @cancelled seq_cst, align 8
  ret void
}}

define i32 @sleepers() {{
  %n = atomicrmw xchg ptr @asleep, i32 0 seq_cst
  ret i32 %n
}}

define internal void @share(ptr %kernel, ptr %parameters, ptr %table, ptr %status, i64 %tasks, i64 %flags) {{
entry:
  store i64 %flags, ptr getelementptr (i64, ptr @job, i64 5)
  store ptr %kernel, ptr @job
  store ptr %parameters, ptr getelementptr (i64, ptr @job, i64 1)
  store ptr %table, ptr getelementptr (i64, ptr @job, i64 2)
  store ptr %status, ptr getelementptr (i64, ptr @job, i64 3)
  store i64 %tasks, ptr getelementptr (i64, ptr @job, i64 4)
  store i64 0, ptr @done
  %w = load atomic i64, ptr @state seq_cst, align 8
  %g = lshr i64 %w, 32
  %g1 = add i64 %g, 1
  %gs = shl i64 %g1, 32
  %new = or i64 %gs, %tasks
  store atomic i64 %new, ptr @state seq_cst, align 8
  %sleeping = load atomic i32, ptr @asleep seq_cst, align 4
  %any = icmp ne i32 %sleeping, 0
  br i1 %any, label %wake, label %go
wake:
  {wake}
  br label %go
go:
  call void @work(i64 0)
  br label %join
join:
  %d = load atomic i64, ptr @done seq_cst, align 8
  {pause}
  %all = icmp sge i64 %d, %tasks
  br i1 %all, label %out, label %join
out:
  ret void
}}

; rows of (kernel, parameters, tasks, flags); gives the row of the first failed check, or -1, or -2 if it was cancelled.
; status[3] becomes 1 when all has run
define i64 @run(ptr %rows, i64 %n, ptr %table, ptr %status) {{
entry:
  %mode = call i32 @mode()
  call void @use_mode(i64 0)
  br label %head
head:
  %i = phi i64 [0, %entry], [%i1, %next]
  %last = phi i64 [0, %entry], [%flags, %next]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %row, label %finished
finished:
  %cancel_at_end = load atomic i64, ptr @cancelled seq_cst, align 8
  %wanted_at_end = icmp eq i64 %cancel_at_end, 0
  %firm_bits = and i64 %last, 6
  %firm = icmp ne i64 %firm_bits, 0
  %whole = or i1 %wanted_at_end, %firm
  br i1 %whole, label %complete, label %end
complete:
  %complete_at = getelementptr i64, ptr %status, i64 3
  store atomic i64 1, ptr %complete_at seq_cst, align 8
  br label %end
row:
  %at = mul i64 %i, 4
  %p0 = getelementptr i64, ptr %rows, i64 %at
  %p1 = getelementptr i64, ptr %p0, i64 1
  %p2 = getelementptr i64, ptr %p0, i64 2
  %p3 = getelementptr i64, ptr %p0, i64 3
  %kernel = load ptr, ptr %p0
  %parameters = load ptr, ptr %p1
  %tasks = load i64, ptr %p2
  %flags = load i64, ptr %p3
  %late = and i64 %flags, 4
  %early = icmp eq i64 %late, 0
  %cancel = load atomic i64, ptr @cancelled seq_cst, align 8
  %unwanted = icmp ne i64 %cancel, 0
  %stops = and i1 %early, %unwanted
  br i1 %stops, label %end, label %starts
starts:
  %one = icmp sle i64 %tasks, 1
  br i1 %one, label %alone, label %together
alone:
  %turned = xor i64 %flags, %last
  %turn = and i64 %turned, {flushed}
  %turns = icmp ne i64 %turn, 0
  br i1 %turns, label %turns_mode, label %keeps_mode
turns_mode:
  call void @use_mode(i64 %flags)
  br label %keeps_mode
keeps_mode:
  call void %kernel(ptr %parameters, ptr %table, ptr %status, i64 0, i64 0)
  br label %after
together:
  call void @use_mode(i64 %flags)
  call void @share(ptr %kernel, ptr %parameters, ptr %table, ptr %status, i64 %tasks, i64 %flags)
  br label %after
after:
  %check_bit = and i64 %flags, 1
  %checked = icmp ne i64 %check_bit, 0
  br i1 %checked, label %check, label %next
check:
  %s = load atomic i64, ptr %status seq_cst, align 8
  %failed = icmp ne i64 %s, 0
  br i1 %failed, label %end, label %next
next:
  %i1 = add i64 %i, 1
  br label %head
end:
  %result = phi i64 [-1, %complete], [-2, %finished], [-2, %row], [%i, %check]
  call void @restore_mode(i32 %mode)
  ret i64 %result
}}
"""

# How a thread treats subnormal numbers. On x86 it is told so for each task (MXCSR: bit 15 flushes results, bit 6 takes
# operands for zero); other machines keep them always.
_X86_MODE = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
define internal i32 @mode() {
  %slot = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %slot)
  %mode = load i32, ptr %slot
  ret i32 %mode
}
define internal void @restore_mode(i32 %mode) {
  %slot = alloca i32
  store i32 %mode, ptr %slot
  call void @llvm.x86.sse.ldmxcsr(ptr %slot)
  ret void
}
define internal void @use_mode(i64 %flags) {
  %old = call i32 @mode()
  %keep = and i32 %old, -32833
  %flush = or i32 %old, 32832
  %bit = and i64 %flags, FLUSHED
  %flushes = icmp ne i64 %bit, 0
  %new = select i1 %flushes, i32 %flush, i32 %keep
  %same = icmp eq i32 %new, %old
  br i1 %same, label %out, label %change
change:
  call void @restore_mode(i32 %new)
  br label %out
out:
  ret void
}
""".replace("FLUSHED", str(FLUSHED))
_OTHER_MODE = """
define internal i32 @mode() {
  ret i32 0
}
define internal void @restore_mode(i32 %mode) {
  ret void
}
define internal void @use_mode(i64 %flags) {
  ret void
}
"""
_SYSCALL = (
    "call i64 (i64, ...) @syscall(i64 {0}, ptr getelementptr (i8, ptr @state, i64 4), i32 {1}, i32 {2},"
    " ptr null, ptr null, i32 0)"
)


def _source(arch: str, futex: int | None) -> str:
    x86 = arch in ("x86_64", "amd64", "i686")
    pause = "call void @llvm.x86.sse2.pause()" if x86 else "fence seq_cst"
    if arch in ("aarch64", "arm64"):
        pause = "call void @llvm.aarch64.hint(i32 1)"
    sleep, wake = "br label %out", ""
    if futex is not None:
        # the futex word is the generation, the upper half of the state
        wait, wake = (_SYSCALL.format(futex, op, value) for op, value in ((128, "%generation"), (129, 2147483647)))
        sleep = f"%r = {wait}\n  %b = atomicrmw sub ptr @asleep, i32 1 seq_cst\n  br label %wait"
        wake = f"%woken = {wake}"
    heads = ["declare void @llvm.x86.sse2.pause()"] if x86 else []
    if arch in ("aarch64", "arm64"):
        heads.append("declare void @llvm.aarch64.hint(i32)")
    if futex is not None:
        heads.append("declare i64 @syscall(i64, ...)")
    body = _RUNNER.format(flushed=FLUSHED, pause=pause, spins=_SPINS, sleep=sleep, wake=wake)
    return "\n".join([*heads, _X86_MODE if x86 else _OTHER_MODE, body])


def thread_count() -> int:
    """KATACHI_THREADS, or as many as the cores this process may use."""
    asked = os.environ.get("KATACHI_THREADS")
    if asked:
        return max(int(asked), 1)
    return cores()


class Pool:
    """Worker threads and the runner that hands them tasks. Python's side of both."""

    def __init__(self, threads: int, native_sleep: bool = True) -> None:
        arch = engine().target.arch
        futex = _FUTEX.get(arch) if native_sleep and sys.platform.startswith("linux") else None
        names = ("run", "worker", "stop", "reset", "sleepers", "cancel")
        run, worker, stop, reset, sleepers, cancel = engine().functions(_source(arch, futex), names)
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._run = ctypes.CFUNCTYPE(number, pointer, number, pointer, pointer)(run)
        self._worker = ctypes.CFUNCTYPE(None, number)(worker)
        self._stop = ctypes.CFUNCTYPE(None, ctypes.c_int32)(stop)
        self._reset = ctypes.CFUNCTYPE(None)(reset)
        self.cancel = ctypes.CFUNCTYPE(None, number)(cancel)  # 1: stop soon, if no cell has been written to; 0: go on
        self._sleepers = ctypes.CFUNCTYPE(ctypes.c_int32)(sleepers)
        self.threads = threads
        self._bell = threading.Semaphore(0)
        self._closing = False
        self._native = futex is not None
        self._workers: list[threading.Thread] = []
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)
        # a closure would cost as much as the call
        self.run = self._run if self._native else self._run_and_ring

    def start(self) -> None:
        """Starts the workers, all but the caller, where there are none: at first, and again in a forked child."""
        if self._workers:
            return
        self._workers = [
            threading.Thread(target=self._work, args=(i,), name=f"katachi-{i}", daemon=True)
            for i in range(1, self.threads)
        ]
        for worker in self._workers:
            worker.start()

    def _work(self, number: int) -> None:
        self._worker(number)
        while not self._native and not self._closing:
            self._bell.acquire()
            self._worker(number)

    def _run_and_ring(self, rows: int, count: int, table: int, status: int) -> int:
        sleepers = self._sleepers()
        if sleepers:
            self._bell.release(sleepers)
        return self._run(rows, count, table, status)

    def close(self) -> None:
        """Ends the workers."""
        self._closing = True
        self._stop(1)
        if not self._native:
            self._bell.release(self.threads)
        for worker in self._workers:
            with contextlib.suppress(RuntimeError):
                worker.join(2)

    def _after_fork(self) -> None:
        self._reset()
        self._bell, self._workers = threading.Semaphore(0), []


_pool: Pool | None = None


def pool() -> Pool:
    """The one Pool, started on first use."""
    global _pool
    if _pool is None:
        _pool = Pool(thread_count())
    _pool.start()
    return _pool

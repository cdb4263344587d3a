"""Kernels of the loop language as LLVM functions with explicit vectors.

    void kernel(ptr parameters, ptr table, ptr status, i64 task, i64 thread)

`table` holds the address of each value in memory; `status` is where a failed check leaves (report + 1, value, size).
"""

from __future__ import annotations

import functools
from typing import Any

from katachi.kernels.accumulate import TERMS, Totals, merged, reduction
from katachi.kernels.halves import narrowed, rounded, widened
from katachi.kernels.llvm_text import MEMORY, SCALARS, Builder, Value, Variable
from katachi.kernels.loops import ACCUMULATIONS, PLACED, THREAD, UNIT, Affine, Code, Instr
from katachi.kernels.scalar_llvm import FUNCTIONS, INFINITY, WRITTEN, operation
from katachi.kernels.target import Target

SHORT, ABREAST = 8, 4  # instructions of a step that is short; how many such steps are taken at a time
WIDE = (16, ABREAST)  # vectors of a row that are taken at a time where sums go down the columns
SIGNATURE = "(ptr %parameters, ptr %table, ptr %status, i64 %task, i64 %thread)"


def write_kernel(code: Code, name: str, target: Target, declared: set[str]) -> str:
    """The text of one function; what it calls is added to `declared`."""
    b = Builder(f"define void @{name}{SIGNATURE}", declared, target.bits == 512 and target.arch == "x86_64")
    b.halves = target.halves
    _Writer(code, target, b).write()
    return b.text()


def writes(instruction: str) -> bool:
    """Whether the writer knows an instruction that computes or accumulates.

    >>> writes("add"), writes("sum"), writes("gamma")
    (True, True, False)
    """
    return instruction in WRITTEN or instruction in ACCUMULATIONS


class _Writer:
    def __init__(self, code: Code, target: Target, b: Builder) -> None:
        self.code, self.target, self.b = code, target, b
        self.starts = code.starts
        self.at_depth: dict[int, list[int]] = {}
        self.accumulations: list[list[int]] = [[] for _ in code.stages]
        self.running: dict[int, Variable] = {}
        self.alone = {i.extra[-1] for i in code.body if i.name == "scatter"}  # stages whose lanes might collide
        self.vector_loops = self._vector_loops()
        self.varies: list[bool] = []  # along the vector loop
        self.uses: dict[int, list[int]] = {}  # loop: the instructions whose place moves with it
        for i, instr in enumerate(code.body):
            varies = any(self.varies[a] for a in instr.args)
            if instr.name in ACCUMULATIONS:
                self.accumulations[instr.extra].append(i)
                varies = code.vector_outer
            else:
                self.at_depth.setdefault(instr.where, []).append(i)
            affine = _affine(instr)
            if affine is not None:
                varies = varies or any(loop in self.vector_loops for loop, _ in affine.loops)
                varies = varies or any(self.varies[v] for v, _ in affine.values)
                for loop, _ in affine.loops:
                    self.uses.setdefault(loop, []).append(i)
            self.varies.append(varies or instr.name == "running")
        self.lanes = target.bits // 32
        self.width = 1  # lanes of what is being written now
        self.mask: Value | None = None  # which of them count
        self.totals: Totals | None = None  # of the stage that is being written
        self.values: dict[int, Value] = {}
        self.partial: dict[int, Value] = {}  # an instruction's place as far as the open loops determine it
        self.parameters: dict[int, Value] = {}

    def _vector_loops(self) -> set[int]:
        code = self.code
        if code.vector_outer:
            return {code.vector}
        loops, at = set(), code.outer
        for stage, inner in enumerate(code.stages):
            at += inner
            if inner and stage not in self.alone:
                loops.add(at - 1)
        return loops

    def write(self) -> None:
        b, code = self.b, self.code
        slots = set(range(code.loops + 2))
        for instr in code.body:
            affine = _affine(instr)
            if affine is not None:
                slots |= {affine.offset, *(s for _, s in affine.loops), *(s for _, s in affine.values)}
            if instr.name in PLACED:
                slots.add(instr.extra[0])
            elif instr.name == "number":
                slots.add(instr.extra)
            elif instr.name == "check":
                slots.update(instr.extra)
        base = b.value("ptr", 1, "%parameters")
        for s in sorted(slots - {UNIT}):
            self.parameters[s] = b.load("i64", b.place("i64", base, s))
        if code.outer:
            chunk = self.parameters[code.split_slot + 1]
            self.first = b.value("i64", 1, "%task") * chunk
            self.last = self.first + chunk
        for i, instr in enumerate(code.body):
            affine = _affine(instr)
            if affine is None:
                continue
            start = self.parameters[affine.offset]
            if instr.name != "index":
                row = b.place("i64", b.value("ptr", 1, "%table"), self.parameters[instr.extra[0]])
                start = b.place(MEMORY[instr.dtype], b.load("ptr", row), start)
            self.partial[i] = start
            for loop, slot in affine.loops:
                if loop == THREAD:
                    own = b.value("i64", 1, "%thread") * self.parameters[slot]
                    self.partial[i] = self._moved(i, start, own)
        self._outer(0)
        b.do("ret void")

    def _outer(self, depth: int) -> None:
        if depth == self.code.outer:
            self._stages()
            return
        self._instructions(depth)
        b = self.b
        high = self.parameters[depth]
        mine = self.parameters[self.code.split_slot].eq(depth)
        low = b.select(mine, self.first, b.const("i64", 0))
        high = b.select(mine, b.smin(self.last, high), high)
        vector = depth == self.code.vector
        if vector and any(self.accumulations) and self._light():
            # Sums over rows: of each row several cache lines, side by side.
            for abreast in WIDE:
                each = abreast * self.lanes
                whole = low + ((high - low) & -each)
                with b.loop(low, whole, each) as i:
                    self._body(depth, i, each, None, lambda: self._outer(depth + 1), True)
                low = whole
        self._loop(depth, low, high, vector, lambda: self._outer(depth + 1))

    def _stages(self) -> None:
        loop = self.code.outer
        for stage, inner in enumerate(self.code.stages):
            for i in self.at_depth.get(self.starts[stage] + inner, ()):
                if self.code.body[i].name == "running":
                    self.running[i] = self._fold(i).start(self.width, None)
            self._instructions(self.starts[stage])
            sums = self.accumulations[stage]
            vector = inner > 0 and not self.code.vector_outer
            masked = self.target.masks
            slots = (
                {i: reduction(self.b, self.code.body[i]).start(self.width, self.mask) for i in sums}
                if not vector
                else {}
            )
            wide = {i: reduction(self.b, self.code.body[i]).start(self.lanes, None) for i in sums} if vector else {}
            if vector and not masked:
                slots = {i: reduction(self.b, self.code.body[i]).start(1, None) for i in sums}
            long = {i: self.code.body[i] for i in sums if inner and _rounds(self.code.body[i])}
            self.totals = Totals(self.b, long, (wide, slots), self.lanes) if long else None
            self._inner(stage, loop, inner, slots, wide)
            if self.totals and inner > 1:
                self.totals.settle(self.b.const("i1", 1))
            values = self.totals.results() if self.totals else {}
            for i in sums:
                instr = self.code.body[i]
                value = values[i] if i in values else merged(self.b, instr, i, (wide, slots))
                self.values[i] = value if instr.name == "argmax" else rounded(self.b, instr.dtype, value)
            loop += inner

    def _inner(self, stage: int, loop: int, left: int, slots: dict[int, Any], wide: dict[int, Any]) -> None:
        depth = self.starts[stage] + self.code.stages[stage] - left
        if depth > self.starts[stage]:
            self._instructions(depth)
        if left == 0:
            for i, args in self._terms(stage).items():
                self._accumulate(i, args, slots, wide)
            return
        zero, high = self.b.const("i64", 0), self.parameters[loop]
        vector = left == 1 and not self.code.vector_outer and stage not in self.alone
        inside = functools.partial(self._inner, stage, loop + 1, left - 1, slots, wide)
        if left > 1 or not self.accumulations[stage]:
            self._loop(loop, zero, high, vector, inside)
            return
        abreast = vector and self._light(stage)
        each = (self.lanes if vector else 1) * (ABREAST if abreast else 1)

        def through(low: Value, high: Value) -> None:
            if abreast:
                low = self._abreast(stage, loop, low, high, slots, wide)
            self._loop(loop, low, high, vector, inside)

        if self.totals is None:
            through(zero, high)
            return
        one = self.code.stages[stage] == 1  # else it comes again and again, and may be short
        with self.b.loop(zero, high, TERMS * each) as low:
            if not one:
                self.totals.room(TERMS * each)
            end = self.b.smin(low + TERMS * each, high)
            through(low, end)
            if one:
                self.totals.settle(end >= high)
            else:  # what is short of a vector counts as if it were several
                self.totals.added(end - low + (2 * each if each > 1 else 0))

    def _terms(self, stage: int) -> dict[int, list[Value]]:
        """What one iteration adds to each accumulation of a stage."""
        body = self.code.body
        return {i: [self.b.splat(self.values[a], self.width) for a in body[i].args] for i in self.accumulations[stage]}

    def _accumulate(self, i: int, args: list[Value], slots: dict[int, Any], wide: dict[int, Any]) -> None:
        into = wide[i] if i in wide and self.width > 1 else slots.get(i, wide.get(i))
        reduction(self.b, self.code.body[i]).step(into, args, self.mask)

    def _light(self, stage: int | None = None) -> bool:
        """Whether the steps of a stage, or of all, are so short that several fit into the registers side by side. One
        alone would wait for the one before to accumulate, and for memory."""
        stages = range(len(self.code.stages)) if stage is None else [stage]
        work = [i for s in stages for i in self.at_depth.get(self.starts[s] + self.code.stages[s], ())]
        names = [self.code.body[i].name for i in (*work, *(i for s in stages for i in self.accumulations[s]))]
        heavy = {*FUNCTIONS, "argmax", "scatter", "running"}
        return len(work) <= SHORT and heavy.isdisjoint(names)

    def _abreast(
        self, stage: int, loop: int, low: Value, high: Value, slots: dict[int, Any], wide: dict[int, Any]
    ) -> Value:
        """Goes through a vector loop in several vectors at a time, as far as these are whole; gives where that is. What
        they add is combined in pairs first: fewer steps wait for the one before, and fewer round."""
        b, each = self.b, ABREAST * self.lanes
        whole = low + ((high - low) & -each)
        with b.loop(low, whole, each) as i:
            terms: list[dict[int, list[Value]]] = []

            def inside() -> None:
                self._instructions(self.starts[stage] + self.code.stages[stage])
                terms.append(self._terms(stage))

            for k in range(ABREAST):
                self._body(loop, i + k * self.lanes, self.lanes, None, inside, True)
            saved, self.width, self.mask = (self.width, self.mask), self.lanes, None
            for k in self.accumulations[stage]:
                values = [term[k][0] for term in terms]
                while len(values) > 1:
                    values = [
                        reduction(b, self.code.body[k]).both(x, y)
                        for x, y in zip(values[::2], values[1::2], strict=True)
                    ]
                self._accumulate(k, values, slots, wide)
            self.width, self.mask = saved
        return whole

    def _loop(self, loop: int, low: Value, high: Value, vector: bool, inside: Any) -> None:
        b = self.b
        if not vector:
            with b.loop(low, high) as i:
                self._body(loop, i, self.width, self.mask, inside, False)
            return
        whole = low + ((high - low) & -self.lanes)
        with b.loop(low, whole, self.lanes) as i:
            self._body(loop, i, self.lanes, None, inside, True)
        if self.target.masks:
            with b.when(whole < high):
                rest = b.splat(high - whole, self.lanes)
                self._body(loop, whole, self.lanes, b.lanes_iota(self.lanes) < rest, inside, True)
        else:
            with b.loop(whole, high) as i:
                self._body(loop, i, 1, None, inside, True)

    def _body(self, loop: int, i: Value, width: int, mask: Value | None, inside: Any, vector: bool) -> None:
        """What is inside a loop, seen from iteration i on."""
        saved = self.width, self.mask, dict(self.values), dict(self.partial)
        self.width, self.mask = width, mask
        for k in self.uses.get(loop, ()):
            instr = self.code.body[k]
            slot = dict(_affine(instr).loops)[loop]  # type: ignore[union-attr]
            move = i if slot == UNIT else i * self.parameters[slot]
            self.partial[k] = self._moved(k, self.partial[k], move)
        inside()
        self.width, self.mask, self.values, self.partial = saved

    def _moved(self, k: int, place: Value, by: Value) -> Value:
        instr = self.code.body[k]
        return place + by if instr.name == "index" else self.b.place(MEMORY[instr.dtype], place, by)

    def _instructions(self, depth: int) -> None:
        for i in self.at_depth.get(depth, ()):
            self.values[i] = self._instruction(i)

    def _place(self, i: int) -> tuple[Value, bool]:
        """Where an instruction reads or writes (or the integer it stands for), and whether that is the first of
        consecutive places, one a lane."""
        b, affine = self.b, _affine(self.code.body[i])
        assert affine is not None
        place, consecutive = self.partial[i], False
        lanes = self.width if self.varies[i] else 1
        for value, slot in affine.values:
            place = self._moved(i, place, self.values[value] * self.parameters[slot])
        for loop, slot in affine.loops:
            if loop in self.vector_loops and lanes > 1:
                if slot == UNIT and self.code.body[i].name != "index" and place.lanes == 1:
                    consecutive = True
                else:
                    step = b.lanes_iota(lanes)
                    if slot != UNIT:
                        step = step * self.parameters[slot]
                    place = self._moved(i, place, step)
        return place, consecutive

    def _instruction(self, i: int) -> Value:
        b, instr = self.b, self.code.body[i]
        scalar = SCALARS[instr.dtype]
        if instr.name == "constant":
            return b.const(scalar, instr.extra)
        if instr.name == "number":
            return self.parameters[instr.extra]
        if instr.name == "argument":
            at = b.place("i64", b.value("ptr", 1, "%parameters"), instr.extra)
            return widened(b, instr.dtype, b.load(MEMORY[instr.dtype], at))  # little-endian: the low bytes come first
        if instr.name == "index":
            return self._place(i)[0]
        if instr.name == "load":
            mask = self.values[instr.args[0]] if instr.args else None
            return widened(b, instr.dtype, self._load(i, MEMORY[instr.dtype], mask))
        if instr.name == "store":
            self._store(i, narrowed(b, instr.dtype, self.values[instr.args[0]]))
            return self.values[instr.args[0]]
        if instr.name == "check":
            return self._check(i)
        if instr.name == "scatter":
            return self._scatter(i)
        if instr.name == "running":
            return self._run(i)
        lanes = self.width if self.varies[i] else 1
        args = [b.splat(self.values[a], lanes) for a in instr.args]
        return operation(b, instr, args)

    def _load(self, i: int, scalar: str, mask: Value | None) -> Value:
        b = self.b
        place, consecutive = self._place(i)
        if place.lanes == 1 and not consecutive:  # one value for all lanes
            if mask is not None:
                place = b.select(b.reduce("or", mask), place, b.value("ptr", 1, "%parameters"))
            return b.load(scalar, place)
        if self.mask is not None:
            mask = self.mask if mask is None else b.splat(mask, self.width) & self.mask
        elif mask is not None:
            mask = b.splat(mask, self.width)
        return b.load(scalar, place, self.width, mask)

    def _store(self, i: int, value: Value) -> None:
        b = self.b
        place, consecutive = self._place(i)
        if place.lanes == 1 and not consecutive:
            b.store(value, place)
        else:
            b.store(b.splat(value, self.width), place, self.mask)

    def _scatter(self, i: int) -> Value:
        b, instr = self.b, self.code.body[i]
        value, allowed = self.values[instr.args[0]], self.values[instr.args[1]]

        def put(mask: Value | None) -> None:
            place, consecutive = self._place(i)
            lanes = self.width if consecutive else place.lanes
            new = b.splat(value, lanes)
            if instr.extra[2] != "set":
                old = widened(b, instr.dtype, b.load(MEMORY[instr.dtype], place, lanes, mask))
                new = operation(b, instr._replace(name=instr.extra[2]), [old, new])
            b.store(narrowed(b, instr.dtype, new), place, mask)

        if allowed.lanes == 1:
            with b.when(allowed):
                put(self.mask)
        else:
            put(allowed if self.mask is None else allowed & self.mask)
        return value

    def _fold(self, i: int) -> Any:
        instr = self.code.body[i]
        return reduction(self.b, Instr(instr.extra[0], instr.dtype, instr.args, None, instr.where))

    def _run(self, i: int) -> Value:
        """What was accumulated so far. Lanes along the order add up among themselves first, in log2 steps."""
        b, slot, fold = self.b, self.running[i], self._fold(i)
        x = b.splat(self.values[self.code.body[i].args[0]], self.width)
        if slot.lanes == self.width:
            slot.set(fold.both(slot.get(), x))
            return slot.get()
        step, nothing = 1, b.const(x.scalar, fold.first, self.width)
        while step < self.width:
            x = fold.both(b.shuffle(nothing, x, range(self.width - step, 2 * self.width - step)), x)
            step *= 2
        x = fold.both(slot.get(), x)
        slot.set(b.op(x.scalar, 1, f"extractelement {x.typed}, i32 {self.width - 1}"))
        return x

    def _check(self, i: int) -> Value:
        b, instr = self.b, self.code.body[i]
        size, report = (self.parameters[s] for s in instr.extra)
        index = self.values[instr.args[0]]
        inside = index.compare("ult", "", size)
        wrong = inside ^ 1
        for mask in (
            self.values[instr.args[1]] if len(instr.args) > 1 else None,
            self.mask if index.lanes > 1 else None,
        ):
            if mask is not None:
                wrong = b.splat(wrong, max(wrong.lanes, mask.lanes)) & mask
        with b.when(b.reduce("or", wrong)):
            status = b.value("ptr", 1, "%status")
            won = b.name()
            b.do(f"{won}.pair = cmpxchg ptr %status, i64 0, i64 {report + 1} seq_cst seq_cst")
            b.do(f"{won} = extractvalue {{ i64, i1 }} {won}.pair, 1")
            with b.when(b.value("i1", 1, won)):
                seen = b.reduce("smax", b.select(wrong, b.splat(index, wrong.lanes), INFINITY["i64"][0]))
                b.store(seen, b.place("i64", status, 1))
                b.store(size, b.place("i64", status, 2))
        return inside


def _rounds(instr: Any) -> bool:
    return instr.name == "sum" and SCALARS[instr.dtype] in ("float", "double")


def _affine(instr: Any) -> Affine | None:
    if instr.name == "index":
        return instr.extra
    return instr.extra[1] if instr.name in PLACED else None

"""LLVM, which makes objects of text. It takes 90 MB and a while to load, so a process that trains does not: it starts
this file as a process of its own (`compilers.py`), and ends it when there is nothing more to compile. Where that is
not possible, its classes serve in the process itself.

    python -I -S codegen.py FOLDER_OF_LLVMLITE

It imports nothing of katachi's. What it is told and what it says are `send` and `receive`'s: first what `describe`
says, then for each text (True, object) or (False, error).
"""

from __future__ import annotations

import marshal
import sys
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

_LENGTH = 8

# Kernels arrive with their vectors and hoisting done, so this little is as fast as -O3 and twice as quick.
_PASSES = (
    "sroa", "instruction_combine", "simplify_cfg", "new_gvn", "instruction_combine", "simplify_cfg",
    "dead_code_elimination",
)  # fmt: skip
_WANTED = ("avx2", "avx512bw", "avx512vl", "f16c")  # features that decide what is written


class Processor(NamedTuple):
    """What LLVM says of this machine: `features` is its list, `has` those that decide what kernels look like."""

    triple: str
    name: str
    features: str
    has: tuple[str, ...]


def describe() -> Processor:
    """This machine."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    has = tuple(name for name in _WANTED if features.get(name, False))
    return Processor(llvm.get_default_triple(), llvm.get_host_cpu_name(), features.flatten(), has)


class Codegen:
    """LLVM, set up for this machine."""

    def __init__(self) -> None:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.llvm, self.processor = llvm, describe()
        self.machine = llvm.Target.from_triple(self.processor.triple).create_target_machine(
            cpu=self.processor.name, features=self.processor.features, opt=1, reloc="pic", codemodel="small"
        )
        self._builder = llvm.create_pass_builder(self.machine, llvm.create_pipeline_tuning_options(2))

    def compile(self, text: str) -> bytes:
        """The object of a module in LLVM's language. Raises RuntimeError where it is wrong."""
        module = self.llvm.parse_assembly(text)
        module.verify()
        passes = self.llvm.create_new_module_pass_manager()
        for name in _PASSES:
            getattr(passes, f"add_{name}_pass")()
        passes.run(module, self._builder)
        return self.machine.emit_object(module)


class Linker:
    """LLVM's own, for code of this process."""

    def __init__(self) -> None:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self._library, self._jit = llvm.JITLibraryBuilder, llvm.create_lljit_compiler()
        self._kept: list[Any] = []  # without its tracker code goes away

    def load(self, images: Sequence[Any]) -> dict[str, int]:
        """The addresses of the functions of objects: `code` with the names `entries`."""
        library, names = self._library().add_current_process(), [name for x in images for name in x.entries]
        for each in images:
            library.add_object_img(each.code)
        for name in names:
            library.export_symbol(name)
        self._kept.append(library.link(self._jit, f"library{len(self._kept)}"))
        return {name: self._kept[-1][name] for name in names}


def send(pipe: IO[bytes], what: Any) -> None:
    """One message."""
    data = marshal.dumps(what)
    pipe.write(len(data).to_bytes(_LENGTH, "little") + data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """The next message. Raises EOFError when there will be none."""
    size = pipe.read(_LENGTH)
    data = pipe.read(int.from_bytes(size, "little")) if len(size) == _LENGTH else b""
    if not data:
        raise EOFError
    return marshal.loads(data)


def serve() -> None:
    """Answer until nobody can ask any more."""
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    codegen = Codegen()
    send(answers, tuple(codegen.processor))
    while True:
        try:
            text = receive(asked)
        except EOFError:
            return
        try:
            answer = True, codegen.compile(text)
        except RuntimeError as error:
            answer = False, str(error)
        send(answers, answer)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    serve()

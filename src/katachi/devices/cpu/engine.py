"""From the text of kernels to machine code in this process, each structure once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm

from katachi.kernels.llvm_text import Target
from katachi.kernels.loops import Code
from katachi.kernels.matmul import Product, write_product
from katachi.kernels.write_llvm import write_kernel

# Kernels arrive with their vectors and hoisting done, so this little is as fast as -O3 and twice as quick.
_PASSES = (
    "sroa", "instruction_combine", "simplify_cfg", "new_gvn", "instruction_combine", "simplify_cfg",
    "dead_code_elimination",
)  # fmt: skip

WRITERS: dict[type, Callable[[Any, str, Target, set[str]], str]] = {Code: write_kernel, Product: write_product}


class Engine:
    """The compiler of this process. `compiled` counts the kernels it compiled."""

    def __init__(self) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features()
        triple = llvm.get_default_triple()
        self.machine = llvm.Target.from_triple(triple).create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=1, jit=True
        )
        wide = features.get("avx512bw", False) and features.get("avx512vl", False)
        arch = triple.split("-")[0]
        self.target = Target(512 if wide else 256 if features.get("avx2", False) else 128, wide, arch)
        self.compiled = 0
        self._jit = llvm.create_lljit_compiler(self.machine)
        self._builder = llvm.create_pass_builder(self.machine, llvm.create_pipeline_tuning_options(2))
        self._addresses: dict[Any, int] = {}
        self._keep: list[Any] = []  # resource trackers: without them the code goes away
        self._names = itertools.count()

    def addresses(self, keys: Sequence[Any]) -> list[int]:
        """Where each kernel begins; those not known are compiled, together."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._addresses]
        if missing:
            names = [f"kernel{next(self._names)}" for _ in missing]
            declared: set[str] = set()
            texts = [
                WRITERS[type(key)](key, name, self.target, declared) for key, name in zip(missing, names, strict=True)
            ]
            found = self.link("\n".join([*sorted(declared), *texts]), names)
            self._addresses.update(zip(missing, found, strict=True))
            self.compiled += len(missing)
        return [self._addresses[key] for key in keys]

    def link(self, text: str, names: Sequence[str]) -> list[int]:
        """Compiles a module and gives the addresses of some of its functions."""
        module = llvm.parse_assembly(text)
        module.verify()
        passes = llvm.create_new_module_pass_manager()
        for name in _PASSES:
            getattr(passes, f"add_{name}_pass")()
        passes.run(module, self._builder)
        library = llvm.JITLibraryBuilder().add_object_img(self.machine.emit_object(module)).add_current_process()
        for name in names:
            library.export_symbol(name)
        tracker = library.link(self._jit, f"library{next(self._names)}")
        self._keep.append(tracker)
        return [tracker[name] for name in names]


_engine: Engine | None = None


def engine() -> Engine:
    """The one Engine, made on first use."""
    global _engine
    if _engine is None:
        _engine = Engine()
    return _engine

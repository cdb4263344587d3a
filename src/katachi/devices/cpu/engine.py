"""From the text of kernels to machine code in this process, each structure once."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from katachi.devices.cpu import cache
from katachi.kernels.attention import Attend
from katachi.kernels.convolution import Convolve
from katachi.kernels.llvm_text import Target
from katachi.kernels.loops import Code
from katachi.kernels.matmul import Product, write_product
from katachi.kernels.sort import Sort, write_sort
from katachi.kernels.unpool import Unpool, write_unpool
from katachi.kernels.winograd import Winograd
from katachi.kernels.write_attention import write_attention
from katachi.kernels.write_convolution import write_convolution
from katachi.kernels.write_llvm import write_kernel
from katachi.kernels.write_winograd import write_winograd

# Kernels arrive with their vectors and hoisting done, so this little is as fast as -O3 and twice as quick.
_PASSES = (
    "sroa", "instruction_combine", "simplify_cfg", "new_gvn", "instruction_combine", "simplify_cfg",
    "dead_code_elimination",
)  # fmt: skip

WRITERS: dict[type, Callable[[Any, str, Target, set[str]], str]] = {
    Code: write_kernel, Product: write_product, Convolve: write_convolution, Winograd: write_winograd,
    Attend: write_attention, Sort: write_sort, Unpool: write_unpool,
}  # fmt: skip


class Engine:
    """The compiler of this process. `compiled` counts the kernels it compiled, `loaded` those it found on disk."""

    def __init__(self) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features()
        triple, cpu = llvm.get_default_triple(), llvm.get_host_cpu_name()
        self.machine = llvm.Target.from_triple(triple).create_target_machine(
            cpu=cpu, features=features.flatten(), opt=1, jit=True
        )
        wide = features.get("avx512bw", False) and features.get("avx512vl", False)
        arch = triple.split("-")[0]
        bits = 512 if wide else 256 if features.get("avx2", False) else 128
        self.target = Target(bits, wide, arch, features.get("f16c", False) or arch in ("aarch64", "arm64"))
        self.compiled = self.loaded = 0
        self._made_by = (llvmlite.__version__, triple, cpu, features.flatten(), cache.source_digest())
        self._jit = llvm.create_lljit_compiler(self.machine)
        self._builder = llvm.create_pass_builder(self.machine, llvm.create_pipeline_tuning_options(2))
        self._addresses: dict[Any, int] = {}
        self._keep: list[Any] = []  # resource trackers: without them the code goes away
        self._numbers = itertools.count()

    def addresses(self, keys: Sequence[Any]) -> list[int]:
        """Where each kernel begins; those not known come from the disk or are compiled."""
        wanted = [(type(key), key) for key in keys]  # keys are tuples: of two kinds, two may be equal
        missing = [key for key in dict.fromkeys(wanted) if key not in self._addresses]
        if missing:
            objects, names = [], []
            for _, key in missing:
                name = f"kernel_{self._digest(key)}"
                data = cache.read(name)
                if data is None:
                    self.compiled += 1
                    declared: set[str] = set()
                    text = WRITERS[type(key)](key, name, self.target, declared)
                    data = self._compile("\n".join([*sorted(declared), text]))
                    cache.write(name, data)
                else:
                    self.loaded += 1
                objects.append(data)
                names.append(name)
            self._addresses.update(zip(missing, self._link(objects, names), strict=True))
        return [self._addresses[key] for key in wanted]

    def functions(self, text: str, names: Sequence[str]) -> list[int]:
        """The addresses of some functions of a module in LLVM's language."""
        name = f"module_{self._digest(text)}"
        data = cache.read(name)
        if data is None:
            data = self._compile(text)
            cache.write(name, data)
            cache.tidy()
        return self._link([data], names)

    def _digest(self, key: Any) -> str:
        return hashlib.sha256(repr((self._made_by, self.target, type(key).__name__, key)).encode()).hexdigest()[:40]

    def _compile(self, text: str) -> bytes:
        module = llvm.parse_assembly(text)
        module.verify()
        passes = llvm.create_new_module_pass_manager()
        for name in _PASSES:
            getattr(passes, f"add_{name}_pass")()
        passes.run(module, self._builder)
        return self.machine.emit_object(module)

    def _link(self, objects: Sequence[bytes], names: Sequence[str]) -> list[int]:
        library = llvm.JITLibraryBuilder().add_current_process()
        for data in objects:
            library.add_object_img(data)
        for name in names:
            library.export_symbol(name)
        tracker = library.link(self._jit, f"library{next(self._numbers)}")
        self._keep.append(tracker)
        return [tracker[name] for name in names]


_engine: Engine | None = None


def engine() -> Engine:
    """The one Engine, made on first use."""
    global _engine
    if _engine is None:
        _engine = Engine()
    return _engine

"""Kernels by name in this process: found on disk or compiled, then loaded, each structure once."""

from __future__ import annotations

import hashlib
import importlib
import marshal
import re
from collections.abc import Iterable, Sequence
from typing import Any

from katachi.devices.cpu import cache, image, machine
from katachi.devices.cpu.codegen import Linker, Processor
from katachi.errors import Error
from katachi.kernels.target import Target

_MOST_COMPILERS = 8  # each takes 100 MB while it works
LLVMLITE = (0, 48), (0, 51)  # from, below: those with LLVM 22, whose language the writers write

# What writes the text of a kernel, by the kind of its key. Imported when something is to be written.
WRITERS = {
    "Code": ("write_llvm", "write_kernel"), "Product": ("matmul", "write_product"),
    "Convolve": ("write_convolution", "write_convolution"), "Winograd": ("write_winograd", "write_winograd"),
    "Attend": ("write_attention", "write_attention"), "Sort": ("sort", "write_sort"),
    "Unpool": ("unpool", "write_unpool"),
}  # fmt: skip


class Engine:
    """`compiled` counts the kernels that were compiled, `loaded` those found on disk. With `images`, what is compiled
    becomes code that needs no linker, where that is possible; otherwise LLVM links it in this process."""

    def __init__(self, images: bool) -> None:
        """Raises Error if the version of llvmlite is one that katachi does not work with."""
        self.images, self.compiled, self.loaded = images, 0, 0
        self._compilers: Any = None
        processor = self._processor()
        wide = "avx512bw" in processor.has and "avx512vl" in processor.has
        arch = processor.triple.split("-")[0]
        bits = 512 if wide else 256 if "avx2" in processor.has else 128
        self.target = Target(bits, wide, arch, "f16c" in processor.has or arch in ("aarch64", "arm64"))
        self.made_by = (_llvm_version(), processor, images, cache.source_digest())
        self._linker: Linker | None = None  # takes 90 MB, so made when there is something to link
        self._addresses: dict[str, int] = {}

    def names(self, keys: Sequence[Any]) -> list[str]:
        """The kernels' names; those that are neither known nor on disk are compiled."""
        by_name = {self._name(key): key for key in keys}
        found = self._read([name for name in by_name if name not in self._addresses])
        missing = [name for name in by_name if name not in self._addresses and name not in found]
        self.loaded += len(found)
        if missing:
            self.compiled += len(missing)
            found.update(self._compile(self._write(by_name[name], name) for name in missing))
        self._addresses.update(self._link(found.values()))
        return [self._name(key) for key in keys]

    def addresses(self, names: Sequence[str]) -> list[int] | None:
        """Where each kernel begins; None if one of them is neither known nor on disk."""
        new = [name for name in dict.fromkeys(names) if name not in self._addresses]
        found = self._read(new)
        if len(found) < len(new):
            return None
        self.loaded += len(found)
        self._addresses.update(self._link(found.values()))
        return [self._addresses[name] for name in names]

    def functions(self, text: str, names: Sequence[str]) -> list[int]:
        """The addresses of some functions of a module in LLVM's language."""
        name = f"module_{self._digest(text)}"
        found = self._read([name])
        if not found:
            found = self._compile([(name, text)], names)
            cache.tidy()
        addresses = self._link(found.values())
        return [addresses[name] for name in names]

    def _name(self, key: Any) -> str:
        return f"kernel_{self._digest((type(key).__name__, key))}"

    def _digest(self, what: Any) -> str:
        return hashlib.sha256(repr((self.made_by, self.target, what)).encode()).hexdigest()[:40]

    def _write(self, key: Any, name: str) -> tuple[str, str]:
        module, function = WRITERS[type(key).__name__]
        declared: set[str] = set()
        text = getattr(importlib.import_module(f"katachi.kernels.{module}"), function)(key, name, self.target, declared)
        return name, "\n".join([*sorted(declared), text])

    def _read(self, names: Sequence[str]) -> dict[str, image.Image]:
        """Those of them that are on disk."""
        read = ((name, cache.read(name)) for name in names)
        return {name: image.unpack(data) for name, data in read if data is not None}

    def _compile(self, texts: Iterable[tuple[str, str]], entries: Sequence[str] = ()) -> dict[str, image.Image]:
        """By name. `entries` are the functions in it, if not one by its own name."""
        made = {}
        for name, data in self._compiling().compile(texts).items():
            functions = entries or [name]
            made[name] = image.made_of(data, functions) if self.images else image.unlinked(data, functions)
            cache.write(name, made[name].pack())
        return made

    def _link(self, images: Iterable[image.Image]) -> dict[str, int]:
        """The addresses of all their functions, now in memory."""
        flat, objects = [], []
        for each in images:
            (flat if each.linked else objects).append(each)
        addresses = image.load(flat)
        if objects:
            self._linker = self._linker or Linker()
            addresses.update(self._linker.load(objects))
        return addresses

    def _compiling(self) -> Any:
        from katachi.devices.cpu.compilers import Compilers

        self._compilers = self._compilers or Compilers(min(machine.cores(), _MOST_COMPILERS) if self.images else 0)
        return self._compilers

    def _processor(self) -> Processor:
        """What LLVM says of this machine, from the disk if it has been asked before."""
        here = machine.processor()
        name = f"machine_{hashlib.sha256(repr((here, _llvm_version())).encode()).hexdigest()[:40]}"
        data = cache.read(name) if here else None
        if data is None:
            found = self._compiling().processor()
            cache.write(name, marshal.dumps(tuple(found)))
            return found
        return Processor(*marshal.loads(data))


def _llvm_version() -> str:
    import llvmlite  # without LLVM itself

    version = re.match(r"(\d+)\.(\d+)", llvmlite.__version__)
    lowest, above = LLVMLITE
    if not version or not lowest <= tuple(map(int, version.groups())) < above:
        wanted = "llvmlite>={}.{},<{}.{}".format(*lowest, *above)
        raise Error(
            f"the device cpu does not work with llvmlite {llvmlite.__version__}, only with {wanted}: its kernels are"
            f" in the language of LLVM 22. Remedy: pip install '{wanted}'; or compute on the device reference"
        )
    return llvmlite.__version__


_engine: Engine | None = None


def engine() -> Engine:
    """The one Engine, made on first use."""
    global _engine
    if _engine is None:
        _engine = Engine(image.possible())
    return _engine

"""What a file is that is no .safetensors file, by its first bytes, and how what it holds can be had."""

from __future__ import annotations

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

HEAD = 4096  # bytes that are looked at
LIMIT = 100_000_000  # a safetensors header may not be longer
DAMAGED = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)  # what a wrong header raises

TORCH = (
    "was written by torch.save and can hold code, so it is not read here; "
    "model.load_state_dict(torch.load(path, weights_only=True)) takes torch's tensors as they are, and "
    "safetensors.torch.save_file writes a .safetensors file"
)
ARCHIVES: list[tuple[Callable[[list[str]], bool], str]] = [  # by the names within
    (lambda names: any(n.endswith("constants.pkl") for n in names),
     "is a TorchScript file, a program; save its state_dict() from torch instead"),
    (lambda names: any(n.endswith("data.pkl") for n in names), TORCH),
    (lambda names: any(n.endswith(".weights.h5") for n in names),
     "is a Keras file; keras.models.load_model reads it"),
    (lambda names: bool(names) and all(n.endswith(".npy") for n in names),
     "is NumPy's .npz file; model.load_state_dict(numpy.load(path)) takes its arrays"),
]  # fmt: skip
KINDS: list[tuple[str, str]] = [  # the pattern that its first bytes match, what it is and what to do
    (r"version https://git-lfs", "is a pointer to a file in Git LFS, not the file; `git lfs pull` fetches that"),
    (r"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", TORCH),
    (r"\x80[\x02-\x05]", "is a pickle, which can hold code, so it is not read here; save its arrays by name with "
     "save_safetensors, or with numpy.savez"),
    (r"\x93NUMPY", "is NumPy's .npy file, one array without a name; kt.tensor(numpy.load(path)) reads it"),
    (r"\x89HDF\r\n\x1a\n", "is an HDF5 file, as Keras writes; h5py reads it, and kt.tensor takes its arrays"),
    (r"GGUF", "is a GGUF file of llama.cpp, mostly of quantised weights; take the .safetensors files of the model it "
     "was made from"),
    (r"\x08[\x03-\x1f][\x12\x1a\x22\x2a\x3a\x42]", "is an ONNX file, it seems, a graph and not only weights; katachi "
     "does not read ONNX yet; onnx.numpy_helper.to_array gives the arrays of its initialisers"),
    (r".{4}TFL3", "is a TensorFlow Lite file; take the .safetensors files of the model it was made from"),
    (r"\x1f\x8b|\x28\xb5\x2f\xfd|\xfd7zXZ|BZh\d|7z\xbc\xaf", "is compressed (gzip, zstd, xz, bzip2 or 7z); unpack it "
     "first"),
    (r".{257}ustar", "is a tar archive; unpack it first"),
    (r"\s*(?i:<!doctype|<html|<\?xml|<head)", "is a web page: what was downloaded is a page about the file, or an "
     "error, not the file"),
]  # fmt: skip


def told(path: str | os.PathLike[str]) -> str:
    """What kind of file this is, and what to do about it; "" where that is not known.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "w"); _ = path.write_bytes(b"GGUF and so on"); told(path)[:35]
    'is a GGUF file of llama.cpp, mostly'
    """
    with Path(path).open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "is empty"
    if not any(head):
        return "begins with nothing but zeros: it was not written, or not downloaded, to its end"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= LIMIT:
        return _truncated(Path(path))
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _archive(path)
    text = head.decode("latin-1")
    return next((what for pattern, what in KINDS if re.match(pattern, text, re.DOTALL)), None) or _plain(head)


def _truncated(path: Path) -> str:
    """Of a .safetensors file that is shorter than its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
    whole = 8 + length
    with contextlib.suppress(*DAMAGED):
        whole += max([entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"])
    return f"is truncated: it has {size:,} bytes of {whole:,}" if size < whole else ""


def _archive(path: str | os.PathLike[str]) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "is a zip archive that is damaged or truncated, perhaps of torch.save or numpy.savez"
    return next((what for fits, what in ARCHIVES if fits(names)), "is a zip archive; unpack it first")


def _plain(head: bytes) -> str:
    """Of what a person can read."""
    text = head.decode(errors="replace").strip("\ufeff \t\r\n\ufffd")
    if not text or not re.fullmatch(r"[^\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd]*", text):
        return ""
    if text.startswith(("{", "[")):
        if '"weight_map"' in text:
            return 'is the index of a model in several files; load each file that its "weight_map" names'
        return "is a JSON file, not weights"
    return f"is text, not weights; it begins with {text[:40]!r}"

"""load_safetensors says what kind of file it was given, and what reads it."""

from __future__ import annotations

import gzip
import io as streams
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import io, nn


def zipped(*names: str) -> bytes:
    out = streams.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return out.getvalue()


def written(save: Any, *args: Any, **kwargs: Any) -> bytes:
    out = streams.BytesIO()
    save(out, *args, **kwargs)
    return out.getvalue()


def tarred() -> bytes:
    out = streams.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("w"))
    return out.getvalue()


KINDS: dict[str, tuple[bytes, str]] = {
    "torch.save": (zipped("archive/data.pkl", "archive/data/0"), r"torch\.save.*load_state_dict\(torch"),
    "torch.save, the older form": (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"...", r"torch\.save.*load_state_dict"),
    "TorchScript": (zipped("m/data.pkl", "m/constants.pkl", "m/code/m.py"), "TorchScript"),
    "npz": (written(np.savez, w=np.ones(2)), r"\.npz file; model\.load_state_dict\(numpy\.load"),
    "npy": (written(np.save, np.ones(2)), r"\.npy file.*kt\.tensor\(numpy\.load"),
    "keras": (zipped("config.json", "model.weights.h5"), "Keras"),
    "another zip": (zipped("readme.txt"), "zip archive; unpack"),
    "a truncated zip": (zipped("archive/data.pkl")[:-30], "zip archive that is damaged or truncated"),
    "pickle": (pickle.dumps({"w": [1.0]}), "a pickle, which can hold code"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5.*h5py"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(64), "GGUF.*quantised"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xf4\x01", "ONNX"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(40), "TensorFlow Lite"),
    "gzip": (gzip.compress(b"weights"), "compressed"),
    "tar": (tarred(), "tar archive"),
    "html": (b"\n<!DOCTYPE html><html><title>404</title>", "web page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
    "json": (json.dumps({"hidden_size": 4}).encode(), "JSON"),
    "index": (json.dumps({"metadata": {}, "weight_map": {"w": "model-1.safetensors"}}).encode(), "several files"),
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS.*git lfs pull",
    ),
    "text": ("Gewichte, größer als 3\n".encode(), "is text.*begins with 'Gewichte"),
    "empty": (b"", "is empty"),
    "zeros": (bytes(5000), "nothing but zeros"),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_the_kind_is_named(name: str, tmp_path: Path) -> None:
    contents, pattern = KINDS[name]
    path = tmp_path / "t.pt"
    path.write_bytes(contents)
    for load in (io.load_safetensors, lambda path: io.load_checkpoint(path, model=nn.Linear(1, 1))):
        with pytest.raises(kt.CheckpointError, match=rf"(?s)load_safetensors: .*t\.pt: the file .*{pattern}"):
            load(path)
    path.unlink()  # nothing holds it open


def test_every_truncation_says_how_much_is_missing(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole", tmp_path / "part"
    for size in (1, 40, 200):  # headers of lengths whose bytes look like other kinds of files among them
        io.save_safetensors(whole, {f"weight{i:03}": kt.ones(2) for i in range(size)})
        contents = whole.read_bytes()
        for n in range(9, len(contents), max(1, len(contents) // 60)):
            path.write_bytes(contents[:n])
            with pytest.raises(kt.CheckpointError, match=rf"is truncated: it has {n:,} bytes of [\d,]+$"):
                io.load_safetensors(path)
    path.write_bytes(contents[:-1])
    with pytest.raises(
        kt.CheckpointError, match=rf"is truncated: it has {len(contents) - 1:,} bytes of {len(contents):,}$"
    ):
        io.load_safetensors(path)


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x120708, 0x8B1F])
def test_a_long_header_is_not_taken_for_something_else(length: int, tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(struct.pack("<Q", length) + b'{"w"' + bytes(50))
    with pytest.raises(kt.CheckpointError, match=r"is truncated: it has 62 bytes of"):
        io.load_safetensors(path)


def test_what_is_not_known_keeps_the_librarys_message(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(struct.pack("<Q", 30_000) + b"{" + b"[" * 29_999 + bytes(9))  # no recursion error
    with pytest.raises(kt.CheckpointError):
        io.load_safetensors(path)
    path.write_bytes(bytes(range(1, 256)))
    with pytest.raises(kt.CheckpointError, match=r"load_safetensors: .*w: (?!the file)."):
        io.load_safetensors(path)
    with pytest.raises(OSError):
        io.load_safetensors(tmp_path)
    with pytest.raises(FileNotFoundError):
        io.load_safetensors(tmp_path / "none")

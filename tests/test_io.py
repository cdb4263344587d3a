"""Files of weights: what goes in comes out, hostile files are errors, and a crash never costs the old file."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import katachi as kt
from katachi import io, nn
from katachi.graph.dtypes import DTYPES
from katachi.io.replacing import replacing


def test_every_dtype_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    state = {d.name: kt.tensor(np.arange(6).reshape(2, 3).astype(d.numpy)) for d in DTYPES}
    state |= {"scalar": kt.tensor(2.5), "empty": kt.zeros((0, 3))}
    io.save_safetensors(path, state, metadata={"made": "here"})
    back = io.load_safetensors(path)
    assert set(back) == set(state)
    for name, x in state.items():
        assert back[name].shape == x.shape and back[name].dtype is x.dtype
        assert back[name].numpy().tobytes() == x.numpy().tobytes()


def test_bfloat16_keeps_every_bit(tmp_path: Path) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    io.save_safetensors(tmp_path / "b", {"b": bits})
    assert io.load_safetensors(tmp_path / "b")["b"].numpy().tobytes() == bits.tobytes()


def test_a_model_and_strided_arrays(tmp_path: Path) -> None:
    model, other = nn.Linear(3, 4), nn.Linear(3, 4)
    io.save_safetensors(tmp_path / "m", model.state_dict())
    other.load_state_dict(io.load_safetensors(tmp_path / "m"))
    assert other.weight.tolist() == model.weight.tolist()
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    io.save_safetensors(tmp_path / "t", {"t": turned})
    assert io.load_safetensors(tmp_path / "t")["t"].tolist() == turned.tolist()


def test_a_file_is_readable_as_its_neighbours_are(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    io.save_safetensors(tmp_path / "w", {"w": kt.ones(2)})
    assert (tmp_path / "w").stat().st_mode == (tmp_path / "plain").stat().st_mode


def header(**entries: object) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


HOSTILE = {
    "empty": b"",
    "short": b"\x08\x00\x00",
    "huge header": struct.pack("<Q", 1 << 62) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"\xff\xfe\x00\x00",
    "beyond the end": header(w={"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}),
    "size and shape": header(w={"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}) + bytes(4),
    "overlap": header(
        a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        b={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    )
    + bytes(4),
    "product overflows": header(w={"dtype": "F32", "shape": [1 << 33, 1 << 33], "data_offsets": [0, 0]}),
    "unknown dtype": header(w={"dtype": "Q7", "shape": [1], "data_offsets": [0, 1]}) + bytes(1),
    "dtype katachi lacks": header(w={"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}) + bytes(1),
    "trailing bytes": header(w={"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}) + bytes(2),
}


@pytest.mark.parametrize("contents", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(contents)
    with pytest.raises(kt.CheckpointError, match=r"bad\.safetensors: ."):
        io.load_safetensors(path)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "w"
    io.save_safetensors(path, {"w": kt.ones(4)})
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(kt.CheckpointError):
            io.load_safetensors(path)


def test_what_cannot_be_saved_leaves_nothing(tmp_path: Path) -> None:
    for bad in ({1: kt.ones(1)}, {"__metadata__": kt.ones(1)}, {"w": "text"}, {"w": np.array([1j])}):
        with pytest.raises(kt.CheckpointError, match=r"w: |name"):
            io.save_safetensors(tmp_path / "w", bad)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        io.save_safetensors(tmp_path / "no" / "w", {"w": kt.ones(1)})
    with pytest.raises(FileNotFoundError):
        io.load_safetensors(tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "note"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as new:
        new.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_kill_while_saving_keeps_the_old_file(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "w.safetensors"
    io.save_safetensors(path, {"w": kt.ones(1000)})
    program = f"""
        import os, signal, sys
        import katachi as kt
        from katachi import io
        os.{moment} = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        io.save_safetensors(sys.argv[1], {{"w": kt.zeros(1000)}})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), path], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert io.load_safetensors(path)["w"].tolist() == [1.0] * 1000

"""Tensors in a .safetensors file: names, dtypes, shapes and bytes, and nothing that could be executed."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from katachi.errors import CheckpointError, DTypeError
from katachi.io.kinds import told
from katachi.io.replacing import replacing
from katachi.tensor import Tensor, tensor
from katachi.tensor.arrays import as_array


def save_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors (or arrays) by name: `io.save_safetensors("model.safetensors", model.state_dict())`.

    A file of that name is replaced in one moment, so it is never half-written. Raises CheckpointError for what the
    format cannot hold, OSError for a folder that cannot be written.

    >>> import tempfile, katachi as kt
    >>> path = Path(tempfile.mkdtemp(), "w.safetensors")
    >>> save_safetensors(path, {"w": kt.ones(2)})
    >>> load_safetensors(path)["w"].tolist()
    [1.0, 1.0]
    """
    if not isinstance(tensors, Mapping):
        raise TypeError(
            f"save_safetensors: needs tensors by name, such as model.state_dict(), got {type(tensors).__name__}"
        )
    arrays = {name: _array(path, name, value) for name, value in tensors.items()}
    with replacing(path) as new:
        new.touch()  # raises the OSError that fits, and has the permissions that files here have
        allowed = stat.S_IMODE(new.stat().st_mode)
        try:
            save_file(arrays, new, metadata=dict(metadata) if metadata else None)
        except SafetensorError as error:
            raise CheckpointError(f"save_safetensors: {os.fspath(path)}: {error}") from None
        new.chmod(allowed)  # the library's own temporary file was for its owner only


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file by name, as constants on the device of new tensors.

    The file is not trusted: a truncated or inconsistent one raises CheckpointError that says what is wrong, one of
    another kind (torch.save, .npz, HDF5, GGUF, ONNX, ...) what it is and what reads it. Raises OSError where there is
    no such file.
    """
    where = os.fspath(path)
    with Path(path).open("rb"):  # the OSError that fits
        pass
    try:
        with safe_open(where, framework="numpy") as file:
            return {name: tensor(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, DTypeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"load_safetensors: {where}: {_why(where, error)}") from None


def _why(path: str, error: Exception) -> str:
    """What kind of file it is, or if that is not known what the library said."""
    kind = told(path) if isinstance(error, SafetensorError) else ""
    return f"the file {kind}" if kind else str(error)


def _array(path: str | os.PathLike[str], name: object, value: Any) -> np.ndarray[Any, Any]:
    if not isinstance(name, str) or name == "__metadata__":
        raise CheckpointError(f"save_safetensors: {os.fspath(path)}: {name!r} cannot be a tensor's name")
    try:
        return np.asarray(as_array(value), order="C")
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"save_safetensors: {os.fspath(path)}: {name}: {error}") from None

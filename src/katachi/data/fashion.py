"""Fashion-MNIST, from Debian's package or a folder of its four files."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np

from katachi.data.dataset import TensorDataset

PACKAGED = Path("/usr/share/datasets/fashion-mnist")
FOLDER_VARIABLE = "KATACHI_FASHION_MNIST"
_PARTS = (("train", 60_000), ("t10k", 10_000))


def fashion_mnist(folder: str | os.PathLike[str] | None = None) -> tuple[TensorDataset, TensorDataset]:
    """60,000 training and 10,000 test images of clothing (Xiao et al., 2017): float32 (1, 28, 28) in [0, 1], and
    int64 labels.

    Read from `folder`, else from the folder that KATACHI_FASHION_MNIST names, else from Debian's package. Raises
    FileNotFoundError that says how to get the files, ValueError for a file that is damaged.
    """
    where = Path(folder or os.environ.get(FOLDER_VARIABLE) or PACKAGED)
    train, test = (_part(where, name, count) for name, count in _PARTS)
    return train, test


def _part(folder: Path, name: str, count: int) -> TensorDataset:
    images = _read(folder / f"{name}-images-idx3-ubyte.gz", (count, 28, 28))
    labels = _read(folder / f"{name}-labels-idx1-ubyte.gz", (count,))
    return TensorDataset(images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64))


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An array of bytes in LeCun's idx format: two zeros, 8 (unsigned byte), the rank, the sizes, the elements."""
    if not path.is_file():
        raise FileNotFoundError(
            f"fashion_mnist: no {path}. On Debian and Ubuntu: apt-get install dataset-fashion-mnist. Elsewhere put "
            "the four *-ubyte.gz files of the data set into a folder and name it: fashion_mnist(folder), or "
            f"{FOLDER_VARIABLE}"
        )
    try:
        with gzip.open(path) as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"fashion_mnist: {path} is damaged: {error}") from None
    head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    if raw[: len(head)] != head or len(raw) != len(head) + int(np.prod(shape)):
        raise ValueError(f"fashion_mnist: {path} is not the file it should be: bytes of shape {shape} were expected")
    return np.frombuffer(raw, np.uint8, offset=len(head)).reshape(shape)

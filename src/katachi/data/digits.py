"""The bundled handwritten digits: a real data set that needs no download."""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from katachi.data.dataset import TensorDataset

HELD_OUT = 360


def digits() -> tuple[TensorDataset, TensorDataset]:
    """The training set of 1,437 handwritten digits, and the 360 held out for testing.

    Images are float32 of shape (1, 8, 8) in [0, 1], labels int64 from 0 to 9. The order was drawn once and is stored,
    so everybody's split is the same. UCI optdigits, CC BY 4.0: see digits.LICENSE.md.

    >>> train, test = digits()
    >>> len(train), len(test), train[0][0].shape
    (1437, 360, (1, 8, 8))
    """
    with files("katachi.data").joinpath("digits.npz").open("rb") as file, np.load(file) as stored:
        images = stored["images"][:, None].astype(np.float32) / np.float32(16)
        labels = stored["labels"].astype(np.int64)
    return (
        TensorDataset(images[:-HELD_OUT], labels[:-HELD_OUT]),
        TensorDataset(images[-HELD_OUT:], labels[-HELD_OUT:]),
    )

"""Text that every machine with Python has: the standard library's own source."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np

from katachi.data.dataset import Dataset
from katachi.errors import IndexBoundsError

HELD_OUT = 20  # one file in so many
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3", "pydoc_data"}


class Windows(Dataset[tuple[np.ndarray, np.ndarray]]):
    """Overlapping pieces of a text: item i is `length` characters from place i * stride, and the same one further on.

    >>> Windows(np.arange(10), length=4, stride=4)[1]
    (array([4, 5, 6, 7]), array([5, 6, 7, 8]))
    """

    def __init__(self, codes: np.ndarray, length: int, stride: int) -> None:
        if length < 1 or stride < 1 or len(codes) <= length:
            raise ValueError(f"Windows: {len(codes)} characters give no windows of {length} with a stride of {stride}")
        self.codes, self.length, self.stride = codes, length, stride

    def __len__(self) -> int:
        return (len(self.codes) - self.length - 1) // self.stride + 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexBoundsError(f"Windows of {len(self)} items, asked for {index}")
        start = index * self.stride
        return self.codes[start : start + self.length], self.codes[start + 1 : start + self.length + 1]


class Text:
    """A text as numbers: `alphabet` has a character for each, the last one standing for all rare ones."""

    def __init__(self, train: str, test: str, alphabet: str) -> None:
        self.alphabet = alphabet
        self.train, self.test = self.encode(train), self.encode(test)

    def encode(self, text: str) -> np.ndarray:
        """int64 numbers; characters outside the alphabet become the last one."""
        table = {c: i for i, c in enumerate(self.alphabet)}
        return np.fromiter((table.get(c, len(table) - 1) for c in text), np.int64, len(text))

    def decode(self, codes: np.ndarray) -> str:
        """The text of some numbers."""
        return "".join(self.alphabet[i] for i in np.asarray(codes).tolist())


ALPHABET = "\n" + "".join(map(chr, range(32, 127))) + "\ufffd"


def python_source(limit: int | None = None) -> Text:
    """The standard library's own modules as text: whole files are held out for testing, one in twenty.

    `limit` takes about so many characters only. The files are those of the Python that runs, in the order of their
    names, so different versions give slightly different texts.

    >>> text = python_source(limit=50_000)
    >>> len(text.alphabet), text.decode(text.encode("def f(x):"))
    (97, 'def f(x):')
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(p for p in root.rglob("*.py") if not _LEFT_OUT & set(p.relative_to(root).parts[:-1]))
    train: list[str] = []
    test: list[str] = []
    size = 0
    for i, path in enumerate(files):
        if limit is not None and size >= limit and test:
            break
        text = path.read_text("utf-8", errors="replace")
        (test if i % HELD_OUT == HELD_OUT - 1 else train).append(text)
        size += len(text)
    if not train or not test:
        raise FileNotFoundError(f"python_source: {root} has no source files of the standard library")
    return Text("".join(train), "".join(test), ALPHABET)

"""Datasets, batches, and the bundled data."""

from katachi.data.dataset import Dataset, Subset, TensorDataset, random_split
from katachi.data.digits import digits
from katachi.data.fashion import fashion_mnist
from katachi.data.loader import DataLoader
from katachi.data.text import ALPHABET, Text, Windows, python_source

__all__ = [
    "ALPHABET",
    "DataLoader",
    "Dataset",
    "Subset",
    "TensorDataset",
    "Text",
    "Windows",
    "digits",
    "fashion_mnist",
    "python_source",
    "random_split",
]

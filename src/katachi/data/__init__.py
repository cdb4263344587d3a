"""Datasets, batches, and the bundled data."""

from katachi.data.dataset import Dataset, TensorDataset
from katachi.data.digits import digits
from katachi.data.loader import DataLoader

__all__ = ["DataLoader", "Dataset", "TensorDataset", "digits"]

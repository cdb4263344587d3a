"""Optimisers: one a file."""

from katachi.optim.adamw import AdamW as AdamW
from katachi.optim.optimizer import Optimizer as Optimizer
from katachi.optim.sgd import SGD as SGD

"""Optimisers, one a file, and schedules of their learning rates."""

from katachi.optim import lr_scheduler as lr_scheduler
from katachi.optim.adam import Adam as Adam
from katachi.optim.adamw import AdamW as AdamW
from katachi.optim.clip import clip_grad_norm_ as clip_grad_norm_
from katachi.optim.clip import clip_grad_value_ as clip_grad_value_
from katachi.optim.optimizer import Optimizer as Optimizer
from katachi.optim.sgd import SGD as SGD

"""Training: a Trainer over the plain loop, what it measures, and what it leaves behind."""

from katachi.train.curves import MissingExtra as MissingExtra
from katachi.train.curves import save_curves as save_curves
from katachi.train.folder import RunFolder as RunFolder
from katachi.train.metrics import Running as Running
from katachi.train.metrics import accuracy as accuracy
from katachi.train.progress import Progress as Progress
from katachi.train.trainer import Row as Row
from katachi.train.trainer import Trainer as Trainer

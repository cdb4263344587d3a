"""What a user holds: tensors, their operations, and the trace of pending work behind them."""

from katachi.tensor.tensor import Tensor as Tensor
from katachi.tensor.tensor import Variable as Variable

# isort: split
from katachi.tensor.creation import tensor as tensor  # last: loading the file tensor.py took the name

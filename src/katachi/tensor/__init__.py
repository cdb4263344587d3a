"""What a user holds: tensors, their operations, and the trace of pending work behind them."""

from katachi.tensor.creation import tensor as tensor
from katachi.tensor.tensor import Tensor as Tensor
from katachi.tensor.tensor import Variable as Variable

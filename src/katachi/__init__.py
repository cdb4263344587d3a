"""katachi: deep learning in Python with shapes known before the run. `import katachi as kt`."""

from typing import Any

from katachi.errors import CheckpointError as CheckpointError
from katachi.errors import DeviceError as DeviceError
from katachi.errors import DTypeError as DTypeError
from katachi.errors import Error as Error
from katachi.errors import GradientError as GradientError
from katachi.errors import IndexBoundsError as IndexBoundsError
from katachi.errors import MemoryLimitError as MemoryLimitError
from katachi.errors import ShapeError as ShapeError
from katachi.functional import checkpoint, custom_gradient, grad, gradients, jvp, value_and_grad, vjp
from katachi.graph.dtypes import (
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)  # fmt: skip
from katachi.tensor.creation import (
    arange,
    eye,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    tensor,
    variable,
    zeros,
    zeros_like,
)  # fmt: skip
from katachi.tensor.elementwise import (
    abs,
    add,
    astype,
    bitwise_and,
    bitwise_invert,
    bitwise_or,
    bitwise_xor,
    cos,
    divide,
    equal,
    erf,
    exp,
    floor,
    gelu,
    greater,
    greater_equal,
    leaky_relu,
    less,
    less_equal,
    log,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    pow,
    relu,
    sigmoid,
    sign,
    sin,
    sqrt,
    subtract,
    tanh,
    where,
)  # fmt: skip
from katachi.tensor.explain import explain
from katachi.tensor.linalg import matmul
from katachi.tensor.modes import device, devices, eager, no_grad, use_device
from katachi.tensor.movement import (
    broadcast_to,
    concat,
    expand_dims,
    flatten,
    flip,
    permute,
    permute_dims,
    reshape,
    squeeze,
    stack,
    transpose,
)  # fmt: skip
from katachi.tensor.random import Generator, manual_seed, rand, randint, randn
from katachi.tensor.reduce import all, any, argmax, log_softmax, max, mean, min, softmax, sum, var
from katachi.tensor.shaped import Shaped, shape_vars
from katachi.tensor.tensor import Tensor, Variable, is_variable
from katachi.tensor.tensor import evaluate as eval

__version__ = "0.1.0"
_ROOMS = ("nn", "optim", "data", "train", "io")


def __getattr__(name: str) -> Any:
    """Rooms are loaded when they are first named: a core that is not used costs nothing."""
    if name in _ROOMS:
        import importlib

        return importlib.import_module(f"katachi.{name}")
    raise AttributeError(f"module 'katachi' has no attribute {name!r}")

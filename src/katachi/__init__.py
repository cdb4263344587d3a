"""katachi: deep learning in Python with shapes known before the run. `import katachi as kt`."""

from typing import Any

from katachi.errors import CheckpointError as CheckpointError
from katachi.errors import DeviceError as DeviceError
from katachi.errors import DTypeError as DTypeError
from katachi.errors import Error as Error
from katachi.errors import GradientError as GradientError
from katachi.errors import IndexBoundsError as IndexBoundsError
from katachi.errors import MemoryLimitError as MemoryLimitError
from katachi.errors import ModuleError as ModuleError
from katachi.errors import OutOfMemoryError as OutOfMemoryError
from katachi.errors import ShapeError as ShapeError
from katachi.functional import checkpoint, custom_gradient, grad, gradients, jvp, value_and_grad, vjp, vmap
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
from katachi.tensor import memory as memory
from katachi.tensor.advanced import take, take_along_axis
from katachi.tensor.arrange import (
    chunk,
    diag,
    diagonal,
    meshgrid,
    moveaxis,
    pad,
    repeat,
    roll,
    split,
    swapaxes,
    tile,
    trace,
    tril,
    triu,
    unstack,
)  # fmt: skip
from katachi.tensor.building import strict
from katachi.tensor.compiled import compile
from katachi.tensor.control import cond, scan, while_loop
from katachi.tensor.creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    from_dlpack,
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
from katachi.tensor.cumulative import (
    argsort,
    cumprod,
    cumsum,
    cumulative_max,
    cumulative_min,
    cumulative_prod,
    cumulative_sum,
    diff,
    sort,
    topk,
)  # fmt: skip
from katachi.tensor.custom import custom_call
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
from katachi.tensor.floats import copysign, hypot, nextafter, signbit
from katachi.tensor.functions import (
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    bitwise_left_shift,
    bitwise_right_shift,
    ceil,
    clip,
    cosh,
    expm1,
    floor_divide,
    isfinite,
    isinf,
    isnan,
    log1p,
    log2,
    log10,
    logaddexp,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    positive,
    reciprocal,
    remainder,
    round,
    rsqrt,
    sinh,
    square,
    tan,
    trunc,
)  # fmt: skip
from katachi.tensor.kinds import (
    can_cast,
    finfo,
    iinfo,
    isdtype,
    result_type,
)  # fmt: skip
from katachi.tensor.linalg import matmul
from katachi.tensor.modes import device, devices, eager, no_grad, use_device
from katachi.tensor.movement import (
    broadcast_arrays,
    broadcast_to,
    concat,
    expand_dims,
    flatten,
    flip,
    matrix_transpose,
    permute,
    permute_dims,
    reshape,
    squeeze,
    stack,
    transpose,
)  # fmt: skip
from katachi.tensor.namespace import VERSION as __array_api_version__
from katachi.tensor.namespace import e, inf, nan, newaxis, pi
from katachi.tensor.namespace import namespace_info as __array_namespace_info__
from katachi.tensor.products import (
    einsum,
    outer,
    tensordot,
    vecdot,
)  # fmt: skip
from katachi.tensor.random import Generator, manual_seed, rand, randint, randn
from katachi.tensor.reduce import (
    all,
    any,
    argmax,
    argmin,
    count_nonzero,
    log_softmax,
    logsumexp,
    max,
    mean,
    min,
    prod,
    softmax,
    std,
    sum,
    var,
)  # fmt: skip
from katachi.tensor.searching import (
    nonzero,
    searchsorted,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
)  # fmt: skip
from katachi.tensor.shaped import Shaped, shape_vars
from katachi.tensor.tensor import Tensor, Variable, is_variable
from katachi.tensor.tensor import evaluate as eval
from katachi.tensor.trace import clear_caches

__version__ = "0.1.0"
_ROOMS = ("nn", "optim", "data", "train", "io")
bool = bool_  # the Array API's name; at the end, so that nothing above means it


def __getattr__(name: str) -> Any:
    """Rooms are loaded when they are first named: a core that is not used costs nothing."""
    if name in _ROOMS:
        import importlib

        return importlib.import_module(f"katachi.{name}")
    raise AttributeError(f"module 'katachi' has no attribute {name!r}")

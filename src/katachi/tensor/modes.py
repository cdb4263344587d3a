"""What changes how operations are taken: gradients on or off, eager, the device of new tensors. Thread-local."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from katachi.errors import DeviceError, DTypeError
from katachi.graph.dtypes import DTYPES, DType, as_dtype

DEVICES = ("cpu", "reference")


class Modes:
    """Interned: two threads in the same modes hold the same object, so replay compares by identity."""

    __slots__ = ("device", "eager", "grad", "region", "tracing")

    def __init__(self, grad: bool, eager: bool, device: str, region: int, tracing: str) -> None:
        self.grad, self.eager, self.device, self.region, self.tracing = grad, eager, device, region, tracing


_modes: dict[tuple[bool, bool, str, int, str], Modes] = {}


def modes(
    grad: bool = True, eager: bool = False, device: str | None = None, region: int = 0, tracing: str = ""
) -> Modes:
    """The one Modes object with these settings; `region` numbers the checkpointed parts of a trace, `tracing` is the
    operation (cond, while_loop, scan) whose function runs to be traced, empty for none."""
    key = (grad, eager, device or Default.device, region, tracing)
    return _modes.setdefault(key, Modes(*key))


class Default:
    """The device of tensors made in threads that have not chosen one."""

    device = "cpu"


def check_device(name: object) -> str:
    """`name` if it is a device, else DeviceError."""
    if name not in DEVICES:
        raise DeviceError(f"katachi has no device {name!r}; it has {', '.join(DEVICES)}")
    assert isinstance(name, str)
    return name


def placement(device: Any, dtype: Any) -> tuple[str | None, DType | None]:
    """The device and the dtype that `to(device)`, `to(dtype)`, `to(device, dtype)` and their keywords ask for. Raises
    DeviceError or DTypeError, which lists what there is."""
    if device is None or device in DEVICES:
        return device, None if dtype is None else as_dtype(dtype)
    try:
        kind = as_dtype(device)
    except DTypeError:
        there = f"devices: {', '.join(DEVICES)}; dtypes: {', '.join(d.name for d in DTYPES)}"
        if isinstance(device, str):
            raise DeviceError(f"katachi has no device {device!r}, nor a dtype of this name; {there}") from None
        raise DTypeError(f"to: needs a device or a dtype, got {device!r}; {there}") from None
    if dtype is not None:
        raise DTypeError(f"to: got two dtypes, {kind.name} and {dtype!r}; the order is to(device, dtype)")
    return None, kind


@contextmanager
def changed(**to: object) -> Iterator[None]:
    from katachi.tensor.trace import current

    trace = current()
    before = trace.modes
    now = {name: getattr(before, name) for name in Modes.__slots__}
    trace.modes = modes(**{**now, **to})  # type: ignore[arg-type]
    try:
        yield
    finally:
        trace.modes = before


def no_grad():
    """Within it, results are constants and nothing is kept for a backward pass.

    >>> import katachi as kt
    >>> with kt.no_grad(): kt.is_variable(kt.variable([1.0]) * 2)
    False
    """
    return changed(grad=False)


def eager():
    """Within it, every operation is computed at once: slow, and good for finding the line that goes wrong."""
    return changed(eager=True)


def device(name: str):
    """Within it, new tensors live on the named device: "cpu" or "reference". Raises DeviceError.

    The operands of an operation must be on one device, which its result is on, too. Zero-dimensional ones follow the
    others, in whatever order they stand; if all are zero-dimensional, those on the CPU follow the rest. Gradients
    arrive where the variable is.

    >>> import katachi as kt
    >>> with kt.device("cpu"): kt.zeros(2).device
    'cpu'
    """
    return changed(device=check_device(name))


def use_device(name: str) -> None:
    """New tensors of this thread, and of threads that start later, live on the named device. Raises DeviceError."""
    from katachi.tensor.trace import current

    Default.device = check_device(name)
    trace = current()
    now = trace.modes
    trace.modes = modes(now.grad, now.eager, name, now.region, now.tracing)


def devices() -> tuple[str, ...]:
    """The devices of this machine.

    >>> import katachi as kt
    >>> kt.devices()
    ('cpu', 'reference')
    """
    return DEVICES

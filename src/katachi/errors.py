"""Every error a user can meet. Each is also the built-in that fits, so `except ValueError` keeps working."""

from __future__ import annotations


class Error(Exception):
    """Root of everything katachi raises on purpose."""


class ShapeError(Error, ValueError):
    """Shapes, ranks, axes or sizes that do not fit an operation."""


class DTypeError(Error, TypeError):
    """A dtype that an operation does not take, or a value that a dtype cannot hold."""


class DeviceError(Error, ValueError):
    """An unknown device, or operands on different devices."""


class GradientError(Error, RuntimeError):
    """Differentiation of a constant, a second backward through the same tape, a missing seed."""


class MemoryLimitError(Error, MemoryError):
    """A program whose peak would exceed the limit that the user set."""


class OutOfMemoryError(Error, MemoryError):
    """Memory that the machine does not have."""


class IndexBoundsError(Error, IndexError):
    """An index outside the axis it addresses."""


class CheckpointError(Error, ValueError):
    """A state or file that does not fit the model it is loaded into."""


class ModuleError(Error, ValueError):
    """A module whose state cannot be named: two parts have one name, or it contains itself."""

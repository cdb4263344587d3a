"""Random tensors: counter-based, so a draw depends on the seed and on how many came before, and on nothing else."""

from __future__ import annotations

import math
import operator
import os
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from katachi.errors import DTypeError
from katachi.graph import build as b
from katachi.graph.dtypes import DType, as_dtype, float32, float64, int32, int64, uint32, uint64
from katachi.graph.node import Node
from katachi.graph.primitives import make
from katachi.graph.sizes import count
from katachi.tensor import free_sizes
from katachi.tensor.apply import apply
from katachi.tensor.entry import Op
from katachi.tensor.operand import as_shape
from katachi.tensor.signatures import drawing
from katachi.tensor.trace import local, only_outside
from katachi.tensor.types import Shaped, like, shape_vars

if TYPE_CHECKING:
    from katachi.tensor.tensor import Tensor
    from katachi.tensor.types import Fixed

MASK = (1 << 64) - 1
_drawing = threading.RLock()  # by a signal handler as well
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_drawing.acquire, after_in_parent=_drawing.release, after_in_child=_drawing.release)


class Generator:
    """A stream of random draws. Its whole state is `seed` and `calls`, the number of draws taken.

    >>> import katachi as kt
    >>> a, b = kt.Generator(7), kt.Generator(7)
    >>> kt.rand(2, generator=a).tolist() == kt.rand(2, generator=b).tolist()
    True
    """

    def __init__(self, seed: int = 0) -> None:
        self.seedings = 0  # how often it was seeded, so that whoever took a seed of it knows when to take another
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> Generator:
        """Start over from a seed (its lowest 64 bits). Raises Error inside a compiled function."""
        only_outside("a Generator is seeded")
        self.seed, self.calls = int(seed) & MASK, 0
        self.seedings += 1
        return self

    def random_seed(self) -> int:
        """64 random bits, to seed something else with; they take one draw."""
        with _drawing:
            call = self.calls
            self.calls = (call + 1) & MASK
        return int(np.random.SeedSequence([self.seed, call]).generate_state(1, np.uint64)[0])

    def draw(self, signed: bool = False) -> tuple[int, int]:
        """The seed (as an int64 if `signed`) and the number of the next draw, which is now taken: the first two numbers
        of the operation that follows."""
        recording = local.trace.recording
        if recording is not None:
            recording.sources.append((len(local.trace.scalars), _Draw(self, signed), self.calls))
        with _drawing:
            call = self.calls
            self.calls = (call + 1) & MASK
        seed = self.seed
        return seed - (1 << 64) if signed and seed >> 63 else seed, call

    def __repr__(self) -> str:
        return f"Generator(seed={self.seed}, calls={self.calls})"


class _Draw(NamedTuple):
    """Where a compiled function finds the numbers of a draw at each call."""

    generator: Generator
    signed: bool

    def fits(self) -> bool:
        return True

    def take(self, ahead: dict[int, int]) -> tuple[int, int]:
        return self.generator.draw(self.signed)

    def settle(self, ahead: dict[int, int]) -> None:
        """A draw is taken at once."""

    def now(self) -> int:
        return self.generator.calls

    def undo(self, before: int) -> None:
        """Nobody has drawn: the number of the next draw is what it was `before`."""
        self.generator.calls = before


default_generator = Generator(0)


def manual_seed(seed: int) -> Generator:
    """Seed the default generator and return it: tensors, initial values, dropout, the orders of `DataLoader` and
    `random_split`.

    >>> import katachi as kt
    >>> loader = kt.data.DataLoader(range(9), 9, shuffle=True)
    >>> orders = [(kt.manual_seed(7), next(iter(loader)).tolist())[1] for _ in range(2)]; orders[0] == orders[1]
    True
    """
    return default_generator.manual_seed(seed)


def uniform_bits(bits: Node, dtype: DType) -> Node:
    """Uniform in [0, 1) from 32 random bits: the highest that the dtype holds exactly, at most float32's 24."""
    kept = {"float16": 11, "bfloat16": 8}.get(dtype.name, 24)
    high = make("shift_right_logical", bits, b.like(bits, 32 - kept))
    return b.convert(b.scale(b.convert(high, float32), 2.0**-kept), dtype)


def _uniform(seed: Node, call: Node, shape: tuple[int, ...], dtype: DType) -> Node:
    return uniform_bits(make("rng_bits", seed, call, shape=shape), dtype)


def _normal(seed: Node, call: Node, shape: tuple[int, ...], dtype: DType) -> Node:
    """Box and Muller (1958): two uniforms make two normals; the first half of the bits is the radius."""
    n = (count(shape) + 1) // 2
    bits = make("rng_bits", seed, call, shape=(2, n))
    u = uniform_bits(bits, float64 if dtype is float64 else float32)
    first = make("slice", u, start=(0, 0), limit=(1, n), stride=(1, 1))
    second = make("slice", u, start=(1, 0), limit=(2, n), stride=(1, 1))
    radius = make("sqrt", b.scale(make("log", b.subtract(b.like(first, 1.0), first)), -2.0))
    angle = b.scale(second, 2 * math.pi)
    halves = (b.multiply(radius, make("cosine", angle)), b.multiply(radius, make("sine", angle)))
    flat = b.reshape(make("concatenate", *halves, dimension=0), (2 * n,))
    if count(shape) != 2 * n:
        flat = make("slice", flat, start=(0,), limit=(count(shape),), stride=(1,))
    return b.convert(b.reshape(flat, shape), dtype)


def _integers(seed: Node, call: Node, low: Node, high: Node, shape: tuple[int, ...], dtype: DType) -> Node:
    """The high word of bits times range: bias below range / 2**32."""
    bits = b.convert(make("rng_bits", seed, call, shape=shape), uint64)
    low, high = (b.convert(x, int64) for x in (low, high))
    span = b.convert(b.subtract(high, low), uint64)
    scaled = make("shift_right_logical", b.multiply(bits, span), b.like(bits, 32))
    return b.convert(b.add(b.convert(scaled, int64), low), dtype)


def _bernoulli(seed: Node, call: Node, probability: Node, shape: tuple[int, ...], dtype: DType) -> Node:
    return b.convert(keep_mask(seed, call, probability, shape), dtype)


def keep_mask(seed: Node, call: Node, probability: Node, shape: tuple[int, ...]) -> Node:
    """True with a probability (a float32 or uint64 scalar node's value)."""
    u = uniform_bits(make("rng_bits", seed, call, shape=shape), float32)
    return b.compare(u, "LT", probability)


UNIFORM = Op("rand", _uniform, scalar=uint64, sizes=free_sizes.created)
NORMAL = Op("randn", _normal, scalar=uint64, sizes=free_sizes.created)


@like(drawing)
def rand(*shape: Any, dtype: Any = float32, generator: Generator | None = None) -> Any:
    """Uniform in [0, 1), of a shape given as ints or a tuple.

    >>> import katachi as kt
    >>> kt.rand(2, 3).shape
    (2, 3)
    """
    return apply(UNIFORM, (generator or default_generator).draw(), (_shape(shape), _floating("rand", dtype)))


@like(drawing)
def randn(*shape: Any, dtype: Any = float32, generator: Generator | None = None) -> Any:
    """Normal with mean 0 and variance 1, of a shape given as ints or a tuple."""
    return apply(NORMAL, (generator or default_generator).draw(), (_shape(shape), _floating("randn", dtype)))


RANDINT = Op("randint", _integers, scalar=int64, sizes=free_sizes.created)


@shape_vars("*D")
def randint(
    low: int, high: int, shape: Shaped[tuple[int, ...], "D"], *, dtype: Any = int64, generator: Generator | None = None
) -> Tensor[Shaped[Any, "D"], Fixed]:
    """Integers with low <= n < high, all as likely (to within (high - low) / 2**32).

    Raises ValueError unless low < high <= low + 2**32.
    """
    low, high = operator.index(low), operator.index(high)
    if not low < high <= low + (1 << 32):
        raise ValueError(f"randint: needs low < high <= low + 2**32, got {low} and {high}")
    kind = as_dtype(dtype)
    within = kind if kind.is_integer else int64
    if not (within.bounds[0] <= low and high - 1 <= within.bounds[1]):
        raise OverflowError(f"randint: {low} to {high - 1} do not fit {within.name}")
    seed, call = (generator or default_generator).draw(signed=True)
    return apply(RANDINT, (seed, call, _wrapped(low), _wrapped(high)), (as_shape(shape), kind))


def _wrapped(n: int) -> int:
    """The int64 with n's lowest 64 bits: integers are drawn in wrapping arithmetic, so uint64's and the end of int64's
    range come out right."""
    return ((n + (1 << 63)) & MASK) - (1 << 63)


def _floating(what: str, dtype: Any) -> DType:
    kind = as_dtype(dtype)
    if not kind.is_floating:
        raise DTypeError(f"{what}: needs a floating-point dtype, got {kind.name}; kt.randint draws integers")
    return kind


def _shape(shape: tuple[Any, ...]) -> tuple[int, ...]:
    return as_shape(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)


__all__ = ["Generator", "int32", "manual_seed", "rand", "randint", "randn", "uint32"]

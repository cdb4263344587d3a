"""The convolution template: any strides, dilations, padding and groups, in up to three dimensions, and both gradients.

A convolution sums x[i] w[t] over taps t and channels, for every output position o. There is no copy of x with a row a
window: a block of x is copied with its padding into memory of the thread's own, where an element lies at the sum of two
offsets, one of the row (here o) and one of the term (here t and the channel). So one micro-kernel, a table of offsets
for each, and weights packed in panels of consecutive output channels, do every convolution:

    pixels    rows are output positions, terms are channels and taps, panels are weights
    weights   rows are channels and output positions, terms are images and taps, panels are the transposed "weights"

The second order is for the gradient of the weights: there few outputs are sums over all positions of all images.

Where x is dilated, only every so many-th pair of o and t meets an element of x. Outputs of equal remainder meet the
same taps, so they form a *phase* with tables of its own, and the zeros between the elements are never multiplied.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from katachi.graph.dtypes import as_dtype
from katachi.graph.node import Node
from katachi.kernels import winograd
from katachi.kernels.llvm_text import SCALARS
from katachi.kernels.loops import Steps
from katachi.kernels.lower import INDEX, ZERO, Index, combine, strides
from katachi.kernels.matmul import SPAN, tile
from katachi.kernels.target import Target
from katachi.kernels.windows import suits as few_taps

AXES = 3  # spatial ones; fewer are preceded by axes of size one
_CACHE = 1 << 16  # elements of a block that is to stay near: of results, or of operands
_TERMS = 256  # of a slice of channels, so that its weights stay nearer still
_PARTIAL = 1 << 17  # elements of a task's partial sums
Array = np.ndarray[Any, Any]


class Convolve(NamedTuple):
    """The key of a compiled template: nothing but the dtype and which of its kernels."""

    dtype: str
    part: str  # "panels" and "pixels", or "weights" and "sum"; none has a name of another template's


NAMES = (
    "x", "w", "y", "x_offset", "w_offset", "x_image", "x_channel", "x_group", "w_term", "w_out", "w_group", "images",
    "channels", "groups", "channels_out", "own", "each", "second", "slice", "blocks", "block_images",
    "block_channels", "panels", "some_panels", "row", "phases", "rows_table", "terms_table", "phase_table", "sources",
    "ranks", "straight", "parts", "per_part", "p_image", "p_channel", "pixels", "outputs", "plane", "terms", "acc",
    "chunk", "totals", *(f"{kind}{i}" for i in range(AXES)
               for kind in ("x_step", "size", "first", "move", "wide", "long", "box", "w_move")),
)  # fmt: skip
PHASE = 6  # numbers of a phase: start and count of long offsets, count in the last block; of short ones; panel row


class Axis(NamedTuple):
    """One spatial axis: element i of x meets `long` position p and `short` position q where
    i * dilation = p * long_step + q * short_step - low. Long are outputs and short taps, or the other way round."""

    size: int  # of x
    long: int
    short: int
    long_step: int
    short_step: int
    low: int
    dilation: int

    @property
    def phases(self) -> int:
        return self.dilation // math.gcd(self.long_step, self.dilation)

    @property
    def stride(self) -> int:
        """Elements of x between neighbours of one phase."""
        return self.long_step // math.gcd(self.long_step, self.dilation)

    def meets(self, phase: int) -> list[tuple[int, int]]:
        """The short positions that a phase meets, each with the element that its first position meets there."""
        at = [(q, phase * self.long_step + q * self.short_step - self.low) for q in range(self.short)]
        return [(q, place // self.dilation) for q, place in at if place % self.dilation == 0]


class Problem(NamedTuple):
    """One convolution in numbers. A view's steps: along images, channels, groups and the spatial axes."""

    dtype: str
    rank: int  # of the windows
    x_offset: int
    w_offset: int
    x_steps: tuple[int, ...]
    w_steps: tuple[int, ...]  # along terms (channels or images), output channels, groups, spatial axes
    groups: int
    images: int
    channels: int  # of a group
    channels_out: int  # of a group
    axes: tuple[Axis, ...]
    weights: bool  # which order
    elements: int = 1  # of the result
    rows: tuple[int, ...] = ()  # of the table of addresses: x, w and the result


def _split(place: Index, shape: Sequence[int], sizes: Sequence[int]) -> tuple[Index, ...] | None:
    """The index of an array's element from its place, or None where variables do not divide up among the axes."""
    if 0 in shape:
        return None
    offset, terms = place
    out = []
    for n, step in zip(shape, strides(shape), strict=True):
        if n == 1:
            out.append(ZERO)
            continue
        rest = tuple((v, c) for v, c in terms if c % step)
        low = offset + sum(min(c * (sizes[v] - 1), 0) for v, c in rest)
        high = offset + sum(max(c * (sizes[v] - 1), 0) for v, c in rest)
        if low // step != high // step:
            return None
        out.append((low // step, tuple((v, c // step) for v, c in terms if c % step == 0)))
        offset, terms = offset - low // step * step, rest
    return tuple(out)


def _view(node: Node, at: tuple[Index, ...], sizes: Sequence[int]) -> tuple[Node, Index]:
    """The value in memory of which an operand is a view, and where in it an element lies."""
    while node.primitive in INDEX:
        x = node.inputs[0]
        if node.primitive == "reshape":
            place = combine(*zip(strides(node.shape), at, strict=True))
            operand = _split(place, x.shape, sizes)
            if operand is None:  # in memory any shape is as good as another
                return x, place
        else:
            operand = INDEX[node.primitive](node, at)
            assert operand is not None
        node, at = x, tuple(ZERO if n == 1 else i for n, i in zip(x.shape, operand, strict=True))
    return node, combine(*zip(strides(node.shape), at, strict=True))


def analyse(node: Node) -> tuple[Problem, Node, Node]:
    """The numbers of a convolution, and the values in memory that it reads."""
    x, w = node.inputs
    a, rank = node.attrs, len(node.shape) - 2
    groups = a["groups"]

    def view(operand: Node, grouped: int, per_group: int) -> tuple[Node, int, list[int]]:
        """Variables: the axis without groups, the place within a group, the group, then the spatial ones."""
        sizes = (operand.shape[1 - grouped], per_group, groups, *operand.shape[2:])
        along = [ZERO if n == 1 else (0, ((i, 1),)) for i, n in enumerate(sizes)]
        pair = [along[0], along[0]]
        pair[grouped] = combine((1, along[1]), (per_group, along[2]))
        found, (offset, terms) = _view(operand, (*pair, *along[3:]), sizes)
        steps = [dict(terms).get(i, 0) for i in range(len(sizes))]
        return found, offset, [*steps[:3], *[0] * (AXES - rank), *steps[3:]]

    channels, channels_out = w.shape[1], w.shape[0] // groups
    x_base, x_offset, x_steps = view(x, 1, channels)
    w_base, w_offset, w_steps = view(w, 0, channels_out)
    weights = math.prod(w.shape[2:]) > math.prod(node.shape[2:])
    axes = [Axis(1, 1, 1, 1, 1, 0, 1)] * (AXES - rank)
    for i in range(rank):
        both = [(node.shape[2 + i], a["strides"][i]), (w.shape[2 + i], a["rhs_dilation"][i])]
        (long, long_step), (short, short_step) = reversed(both) if weights else both
        axes.append(Axis(x.shape[2 + i], long, short, long_step, short_step, a["padding"][i][0], a["lhs_dilation"][i]))
    images = x.shape[0]
    if weights:
        x_steps[:2] = x_steps[1::-1]
        images, channels = channels, images
    numbers = Problem(
        node.dtype.name, rank, x_offset, w_offset, tuple(x_steps), tuple(w_steps), groups, images, channels,
        channels_out, tuple(axes), weights,
    )  # fmt: skip
    return numbers, x_base, w_base


def suits(node: Node) -> bool:
    """Whether the template computes this convolution."""
    return node.dtype.name in ("float32", "float64") and len(node.shape) - 2 <= AXES and not few_taps(node)


def bases(node: Node) -> tuple[Node, Node]:
    """The values in memory that a convolution reads."""
    return analyse(node)[1:]


class _Tables(NamedTuple):
    """What a block of long positions (of some images) looks like. All blocks but the last are alike."""

    box: list[int]  # images, then long positions along each axis; whole along all axes behind the one that is cut
    wide: list[int]  # elements of x along each axis that a block reads, padding included
    first: list[int]  # the element of x that the first block begins with
    pitches: list[int]  # in the padded copy, of images and axes
    long: list[list[Array]]  # by phase: offset in the copy, place in the block
    short: list[list[Array]]  # by phase: offset in the copy, index along each axis
    last: list[int]  # positions of each phase in the last block

    @property
    def pixels(self) -> int:
        return math.prod(self.box)


def _tables(p: Problem, want: int) -> _Tables:
    sizes, phases = [p.images, *(a.long for a in p.axes)], [1, *(a.phases for a in p.axes)]
    cut = 0
    while cut < AXES and math.prod(sizes[cut + 1 :]) > want and phases[cut] == 1:
        cut += 1
    box = [1] * cut + sizes[cut:]
    step = phases[cut]
    at_once = max(want // max(math.prod(sizes[cut + 1 :]), 1), 1)
    blocks = max(-(-sizes[cut] // max(at_once // step * step, step)), 1)
    box[cut] = max(-(-sizes[cut] // (blocks * step)) * step, 1)

    firsts, wide = [], []
    for a, n in zip(p.axes, box[1:], strict=True):
        met = [i for phase in range(a.phases) for _, i in a.meets(phase)] or [0]
        firsts.append(min(met))
        wide.append((-(-n // a.phases) - 1) * a.stride + max(met) - min(met) + 1)
    pitches = [math.prod(wide[i:]) for i in range(AXES + 1)]
    steps = strides(box)
    left = sizes[cut] - (max(-(-sizes[cut] // box[cut]), 1) - 1) * box[cut]
    long, short, last = [], [], []
    for phase in itertools.product(*[range(a.phases) for a in p.axes]):
        spots = [
            np.arange(box[0]),
            *(np.arange(r, n, a.phases) for a, n, r in zip(p.axes, box[1:], phase, strict=True)),
        ]
        moves = [pitches[0], *(a.stride * pitch for a, pitch in zip(p.axes, pitches[1:], strict=True))]
        of_phase = [1, *(a.phases for a in p.axes)]
        offset = _outer([i // k * m for i, k, m in zip(spots, of_phase, moves, strict=True)])
        long.append([offset, _outer([i * s for i, s in zip(spots, steps, strict=True)])])
        last.append(len(offset) // max(len(spots[cut]), 1) * int((spots[cut] < left).sum()))
        met = [np.array(a.meets(r), np.int64).reshape(-1, 2) for a, r in zip(p.axes, phase, strict=True)]
        places = [(m[:, 1] - f) * pitch for m, f, pitch in zip(met, firsts, pitches[1:], strict=True)]
        zeros = [m[:, 0] * 0 for m in met]
        indices = [_outer([*zeros[:i], met[i][:, 0], *zeros[i + 1 :]]) for i in range(AXES)]
        short.append([_outer(places), *indices])
    return _Tables(box, wide, firsts, pitches, long, short, last)


def _outer(parts: Sequence[Array]) -> Array:
    """All sums of one element of each, the last varying fastest."""
    total = np.zeros(1, np.int64)
    for part in parts:
        total = (total[:, None] + part[None, :]).reshape(-1)
    return total


def vectors(target: Target) -> int:
    """Of output channels in the register tile."""
    return min(tile(target)[1], 2)


class _Plan(NamedTuple):
    """One convolution's steps, but for what depends on addresses."""

    numbers: dict[str, int]
    tables: dict[str, Array]
    counts: list[tuple[str, int]]  # kernels with their numbers of tasks
    shared: int  # bytes that all threads see
    own: int  # bytes of each thread
    fast: bool


def _plan(p: Problem, threads: int, target: Target) -> _Plan:
    lanes, itemsize = target.lanes(SCALARS[p.dtype]), as_dtype(p.dtype).itemsize
    width = vectors(target) * lanes
    v = {
        "x_offset": p.x_offset, "w_offset": p.w_offset, "x_image": p.x_steps[0], "x_channel": p.x_steps[1],
        "x_group": p.x_steps[2], "w_term": p.w_steps[0], "w_out": p.w_steps[1], "w_group": p.w_steps[2],
        "images": p.images, "channels": p.channels, "groups": p.groups, "channels_out": p.channels_out,
        "panels": -(-p.channels_out // width), "plane": math.prod(a.long for a in p.axes),
        "outputs": math.prod(a.short for a in p.axes),
    }  # fmt: skip
    v["row"] = v["panels"] * width
    fast = winograd.suits(p)
    plan = winograd.lower if fast else _lower_weights if p.weights else _lower_pixels
    tables, counts, shared, own = plan(p, v, threads, tile(target)[0], lanes, width)
    v["each"] = -(-own // 64) * 64
    return _Plan(v, tables, counts, -(-shared // 64) * 64 * itemsize, v["each"] * itemsize, fast)


def problem(node: Node, outputs: Sequence[Node], rows: Mapping[Node, int]) -> Problem:
    """One convolution in numbers, for `lower`."""
    p, x, w = analyse(node)
    return p._replace(elements=math.prod(node.shape), rows=(rows[x], rows[w], rows[outputs[0]]))


def lower(p: Problem, threads: int, target: Target) -> Steps:
    """The steps of one convolution. Behind a kernel's numbers lie its tables."""
    if not p.elements:
        return Steps([])
    p = p._replace(axes=tuple([Axis(*a) for a in p.axes]))
    v, tables, counts, shared, own, fast = _plan(p, threads, target)
    v.update(zip("xwy", p.rows, strict=True))
    key, names = (winograd.Winograd, winograd.NAMES) if fast else (Convolve, NAMES)
    entries: list[int] = []
    for name, table in tables.items():
        v[name] = len(names) + len(entries)
        entries += table.reshape(-1).tolist()
    v["own"] = shared
    numbers = [v.get(name, 0) for name in names] + entries
    return Steps([(key(p.dtype, part), numbers, n) for part, n in counts], shared + threads * own)


Lowered = tuple[dict[str, Array], list[tuple[str, int]], int, int]
"""Tables by name, kernels with their numbers of tasks, elements of shared memory and of each thread's."""


def _describe(p: Problem, t: _Tables, v: dict[str, int]) -> None:
    """The numbers of a block."""
    for i, a in enumerate(p.axes):
        n = t.box[1 + i]
        v.update({f"x_step{i}": p.x_steps[3 + i], f"size{i}": a.size, f"first{i}": t.first[i], f"long{i}": a.long})
        v.update({f"move{i}": n // a.phases * a.stride, f"wide{i}": t.wide[i], f"box{i}": n})
        v[f"w_move{i}"] = n * p.w_steps[3 + i]
    v.update(block_images=t.box[0], p_image=t.pitches[0], pixels=t.pixels, phases=len(t.long))
    v["p_channel"] = t.box[0] * t.pitches[0]


def _lower_pixels(p: Problem, v: dict[str, int], threads: int, mr: int, lanes: int, width: int) -> Lowered:
    total, wanted = p.images * v["plane"], 4 * threads
    least = 192 if v["panels"] >= wanted else 64  # where channels suffice to share out, few tiles are to be partial
    want = min(max(_CACHE // v["row"], least), 1024, max(-(-total * p.groups // wanted), least))
    t = _tables(p, want)
    _describe(p, t, v)
    blocks = p.groups * _blocks(p, t)
    shares = min(v["panels"], max(-(-wanted // blocks), 1))
    v["some_panels"] = some = -(-v["panels"] // shares)
    v["row"] = row = some * width
    taps = [len(s[0]) for s in t.short]
    v["terms"] = p.channels * sum(taps)
    slices = max(-(-p.channels // max(_TERMS // max(*taps, 1), 1)), 1)
    v["slice"] = many = max(-(-p.channels // slices), 1)
    v["second"] = (t.pixels + lanes) * row  # behind the results: the copy

    pairs, terms, phases, sources = [], [], [], []
    at = [0, 0, 0]
    for long, short, last in zip(t.long, t.short, t.last, strict=True):
        rows = np.stack([long[0], long[1] * row], 1)
        pairs.append(_whole(rows, mr, t.pixels * row))
        terms.append(_outer([np.arange(many) * v["p_channel"], short[0]]))
        phases.append([at[0], len(rows), last, at[1], len(short[0]), at[2]])
        taps_at = _places(short[1:], p.w_steps[3:])
        sources.append(_outer([np.arange(p.channels) * p.w_steps[0], taps_at]))
        at = [at[0] + len(pairs[-1]), at[1] + len(terms[-1]), at[2] + len(sources[-1])]
    tables = {"rows_table": np.concatenate(pairs), "terms_table": np.concatenate(terms)}
    tables.update(phase_table=np.array(phases, np.int64), sources=np.concatenate(sources))
    v["straight"] = _straight(tables["sources"])
    v["chunk"] = chunk = 512
    packs = p.groups * v["panels"] * -(-v["terms"] // chunk)
    counts = [("panels", packs)] * (packs > 0) + [("pixels", blocks * -(-v["panels"] // some))]
    shared = p.groups * v["panels"] * width * v["terms"]
    return tables, counts, shared, v["second"] + many * v["p_channel"] + lanes


def _lower_weights(p: Problem, v: dict[str, int], threads: int, mr: int, lanes: int, width: int) -> Lowered:
    row, outputs, wanted = v["row"], v["outputs"], 4 * threads
    shares = max(min(p.channels, p.channels * outputs * row // _PARTIAL), 1)
    v["block_channels"] = many = -(-p.channels // shares)
    shares = -(-p.channels // many)
    t = _tables(p, min(max(_CACHE // (row + many), 64), 512, max(-(-p.images * v["plane"] // wanted), 64)))
    _describe(p, t, v)
    v["blocks"] = blocks = _blocks(p, t)
    parts = max(min(-(-wanted // (p.groups * shares)), blocks), 1)
    v["per_part"] = per_part = max(-(-blocks // parts), 1)
    v["parts"] = parts = max(-(-blocks // per_part), 1)
    v["acc"] = (many * outputs + 1) * row
    v["second"] = many * v["p_channel"] + lanes  # behind the copy: the panels

    pairs, terms, phases, order = [], [], [], []
    at = [0, 0]
    for long, short, last in zip(t.long, t.short, t.last, strict=True):
        taps_at = _places(short[1:], strides([a.short for a in p.axes]))
        offsets = _outer([np.arange(many) * v["p_channel"], short[0]])
        sums = _outer([np.arange(many) * outputs, taps_at]) * row
        pairs.append(_whole(np.stack([offsets, sums], 1), mr, many * outputs * row))
        terms.append(long[0])
        order.append(long[1])
        phases.append([at[0], len(long[0]), last, at[1], len(short[0]), at[0]])
        at = [at[0] + len(long[0]), at[1] + len(pairs[-1])]
    ranks = np.full(t.pixels + lanes, t.pixels, np.int64)
    ranks[np.concatenate(order)] = np.arange(t.pixels)
    moves = [np.arange(n) * s for n, s in zip(t.box[1:], p.w_steps[3:], strict=True)]
    sources = np.concatenate([_outer(moves), np.zeros(lanes, np.int64)])
    v["straight"] = _straight(sources[:-lanes])
    tables = {"rows_table": np.concatenate(pairs), "terms_table": np.concatenate(terms)}
    tables.update(phase_table=np.array(phases, np.int64), sources=sources, ranks=ranks)
    tasks = parts * p.groups * shares
    counts = [("weights", tasks), ("sum", p.groups * p.channels)]
    v["totals"] = -(-(v["second"] + (t.pixels + 1) * row) // 64) * 64  # behind the panels: where blocks are many
    own = v["totals"] + (2 * v["acc"] if per_part > SPAN else 0)  # float64, so of float32 twice as many
    return tables, counts, tasks * v["acc"], own


def _blocks(p: Problem, t: _Tables) -> int:
    sizes = [p.images, *(a.long for a in p.axes)]
    return math.prod(-(-n // b) for n, b in zip(sizes, t.box, strict=True))


def _places(indices: Sequence[Array], steps: Sequence[int]) -> Array:
    total = np.zeros(1, np.int64)
    for index, step in zip(indices, steps, strict=True):
        total = total + index * step
    return total


def _straight(places: Array) -> int:
    """Whether places follow one another."""
    return int((places == np.arange(len(places))).all())


def _whole(pairs: Array, multiple: int, spare: int) -> Array:
    """Rows with some to spare, so that a tile is always whole; their results go to a place that nobody reads."""
    more = np.broadcast_to(np.array([0, spare], np.int64), (-len(pairs) % multiple, 2))
    return np.concatenate([pairs, more])

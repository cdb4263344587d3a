# mypy: ignore-errors
# pyright: basic, reportIndexIssue=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
"""How operations change shapes, for Pyrefly, which evaluates these functions. They are never imported at run time.

They are written in its small language: `if` and `return`, tuples made of generators, dsl functions; a size may be a
number, a symbol or unknown. Rules take `Int` (a size or an axis) and `IntTuple` (a shape) only, so that the strings
in `Shaped[...]` can call them. A rank can be compared with elements of an IntTuple, not with an Int: hence the tuples
of one axis.
"""

import shape_extensions.dsl as dsl
from shape_extensions import Int, IntTuple, gufunc_broadcast, type_shape_dsl_function


@type_shape_dsl_function
def matmul_shape(left: IntTuple, right: IntTuple) -> IntTuple:
    if len(left) == 0 or len(right) == 0:
        return dsl.Invalid("matmul needs operands with at least one axis")
    operands = dsl.IntTuples((left, right))
    if len(left) == 1 and len(right) == 1:
        return gufunc_broadcast("(n),(n)->()", operands)
    if len(left) == 1:
        return gufunc_broadcast("(n),(n,p)->(p)", operands)
    if len(right) == 1:
        return gufunc_broadcast("(m,n),(n)->(m)", operands)
    return gufunc_broadcast("(m,n),(n,p)->(m,p)", operands)


@type_shape_dsl_function
def reduce_shape(shape: IntTuple, axes: IntTuple) -> IntTuple:
    if any(a < 0 - len(shape) or a >= len(shape) for a in axes):
        return dsl.Invalid("the axis is out of range")
    at = dsl.IntTuple(a + len(shape) if a < 0 else a for a in axes)
    repeats = dsl.IntTuple(1 if any(at[i] == at[j] for j in range(i)) else 0 for i in range(len(at)))
    if any(r == 1 for r in repeats):
        return dsl.Invalid("the axes name one axis twice")
    return dsl.IntTuple(shape[i] for i in range(len(shape)) if not any(n == i for n in at))


@type_shape_dsl_function
def keep_shape(shape: IntTuple, axes: IntTuple) -> IntTuple:
    if any(a < 0 - len(shape) or a >= len(shape) for a in axes):
        return dsl.Invalid("the axis is out of range")
    at = dsl.IntTuple(a + len(shape) if a < 0 else a for a in axes)
    repeats = dsl.IntTuple(1 if any(at[i] == at[j] for j in range(i)) else 0 for i in range(len(at)))
    if any(r == 1 for r in repeats):
        return dsl.Invalid("the axes name one axis twice")
    return dsl.IntTuple(1 if any(n == i for n in at) else shape[i] for i in range(len(shape)))


@type_shape_dsl_function
def ones_shape(shape: IntTuple) -> IntTuple:
    return dsl.IntTuple(1 for d in shape)


@type_shape_dsl_function
def same_shape(shape: IntTuple, axis: Int) -> IntTuple:
    if any(a < 0 - len(shape) or a >= len(shape) for a in dsl.IntTuple((axis,))):
        return dsl.Invalid("the axis is out of range")
    return shape


@type_shape_dsl_function
def squeeze_shape(shape: IntTuple, axis: Int) -> IntTuple:
    axes = dsl.IntTuple((axis,))
    if any(a < 0 - len(shape) or a >= len(shape) for a in axes):
        return dsl.Invalid("the axis is out of range")
    at = dsl.IntTuple(a + len(shape) if a < 0 else a for a in axes)
    dropped = dsl.IntTuple(shape[a] for a in at)
    if any(dsl.is_concrete_int(d) and d != 1 for d in dropped):
        return dsl.Invalid("only an axis of size 1 can be dropped")
    return dsl.IntTuple(shape[i] for i in range(len(shape)) if not any(n == i for n in at))


@type_shape_dsl_function
def expand_shape(shape: IntTuple, axis: Int) -> IntTuple:
    axes = dsl.IntTuple((axis,))
    if any(a < -1 - len(shape) or a > len(shape) for a in axes):
        return dsl.Invalid("the axis is out of range")
    at = dsl.IntTuple(a + len(shape) + 1 if a < 0 else a for a in axes)
    before = dsl.IntTuple(shape[i] for i in range(len(shape)) if any(n > i for n in at))
    after = dsl.IntTuple(shape[i] for i in range(len(shape)) if not any(n > i for n in at))
    return dsl.concat(before, dsl.concat(dsl.IntTuple((1,)), after))


@type_shape_dsl_function
def reverse_shape(shape: IntTuple) -> IntTuple:
    return dsl.IntTuple(shape[len(shape) - i - 1] for i in range(len(shape)))


@type_shape_dsl_function
def permute_shape(shape: IntTuple, axes: IntTuple) -> IntTuple:
    if len(axes) != len(shape):
        return dsl.Invalid("permute needs each axis once")
    if any(a < 0 - len(shape) or a >= len(shape) for a in axes):
        return dsl.Invalid("the axis is out of range")
    at = dsl.IntTuple(a + len(shape) if a < 0 else a for a in axes)
    repeats = dsl.IntTuple(1 if any(at[i] == at[j] for j in range(i)) else 0 for i in range(len(shape)))
    if any(r == 1 for r in repeats):
        return dsl.Invalid("permute needs each axis once")
    return dsl.IntTuple(shape[a] for a in at)


@type_shape_dsl_function
def swap_shape(shape: IntTuple, first: Int, second: Int) -> IntTuple:
    axes = dsl.IntTuple((first, second))
    if any(a < 0 - len(shape) or a >= len(shape) for a in axes):
        return dsl.Invalid("the axis is out of range")
    at = dsl.IntTuple(a + len(shape) if a < 0 else a for a in axes)
    order = dsl.IntTuple(at[1] if at[0] == i else at[0] if at[1] == i else i for i in range(len(shape)))
    return dsl.IntTuple(shape[a] for a in order)


@type_shape_dsl_function
def turn_shape(shape: IntTuple) -> IntTuple:
    if len(shape) < 2:
        return dsl.Invalid("mT needs at least two axes")
    last = len(shape) - 1
    return dsl.IntTuple(
        shape[last] if i == last - 1 else shape[last - 1] if i == last else shape[i] for i in range(len(shape))
    )


@type_shape_dsl_function
def reshape_shape(shape: IntTuple, target: IntTuple) -> IntTuple:
    holes = tuple(1 for d in target if dsl.is_concrete_int(d) and d == -1)
    if len(holes) > 1:
        return dsl.Invalid("reshape can infer one size only")
    if any(dsl.is_concrete_int(d) and d < -1 for d in target):
        return dsl.Invalid("reshape needs sizes that are -1 or larger")
    known = dsl.prod(dsl.IntTuple(d for d in target if not (dsl.is_concrete_int(d) and d == -1)))
    total = dsl.prod(shape)
    if len(holes) == 0:
        if dsl.is_concrete_int(total) and dsl.is_concrete_int(known) and total != known:
            return dsl.Invalid("reshape cannot change the number of elements")
        return target
    if dsl.is_concrete_int(known):
        if known == 0:
            return dsl.Invalid("reshape cannot infer a size next to 0")
        if dsl.is_concrete_int(total) and total % known != 0:
            return dsl.Invalid("reshape cannot infer a size: the elements do not divide")
    return dsl.IntTuple(total // known if dsl.is_concrete_int(d) and d == -1 else d for d in target)


@type_shape_dsl_function
def flatten_shape(shape: IntTuple, start: Int) -> IntTuple:
    if len(shape) == 0:
        return dsl.IntTuple((1,))
    axes = dsl.IntTuple((start,))
    if any(a < 0 - len(shape) or a >= len(shape) for a in axes):
        return dsl.Invalid("the axis is out of range")
    at = dsl.IntTuple(a + len(shape) if a < 0 else a for a in axes)
    before = dsl.IntTuple(shape[i] for i in range(len(shape)) if any(n > i for n in at))
    rest = dsl.IntTuple(shape[i] for i in range(len(shape)) if not any(n > i for n in at))
    return dsl.concat(before, dsl.IntTuple((dsl.prod(rest),)))


@type_shape_dsl_function
def concat_shape(left: IntTuple, right: IntTuple, axis: Int) -> IntTuple:
    if len(left) != len(right):
        return dsl.Invalid("concat needs tensors of one rank")
    axes = dsl.IntTuple((axis,))
    if any(a < 0 - len(left) or a >= len(left) for a in axes):
        return dsl.Invalid("the axis is out of range")
    at = dsl.IntTuple(a + len(left) if a < 0 else a for a in axes)
    if any(left[i] != right[i] for i in range(len(left)) if not any(n == i for n in at)):
        return dsl.Invalid("concat needs equal sizes on the other axes")
    return dsl.IntTuple(left[i] + right[i] if any(n == i for n in at) else left[i] for i in range(len(left)))


@type_shape_dsl_function
def stack_shape(shape: IntTuple, other: IntTuple, count: Int, axis: Int) -> IntTuple:
    if len(shape) != len(other):
        return dsl.Invalid("stack needs tensors of one shape")
    if any(shape[i] != other[i] for i in range(len(shape))):
        return dsl.Invalid("stack needs tensors of one shape")
    axes = dsl.IntTuple((axis,))
    if any(a < -1 - len(shape) or a > len(shape) for a in axes):
        return dsl.Invalid("the axis is out of range")
    at = dsl.IntTuple(a + len(shape) + 1 if a < 0 else a for a in axes)
    before = dsl.IntTuple(shape[i] for i in range(len(shape)) if any(n > i for n in at))
    after = dsl.IntTuple(shape[i] for i in range(len(shape)) if not any(n > i for n in at))
    return dsl.concat(before, dsl.concat(dsl.IntTuple((count,)), after))


@type_shape_dsl_function
def fit(size: Int, window: Int, stride: Int, padding: Int, dilation: Int) -> Int:
    # how many windows fit
    out = dsl.IntTuple(((size + 2 * padding - dilation * (window - 1) - 1) // stride + 1,))
    if any(dsl.is_concrete_int(n) and n < 1 for n in out):
        return dsl.Invalid("the window is larger than the padded input")
    return out[0]


@type_shape_dsl_function
def first_size(shape: IntTuple) -> Int:
    if len(shape) == 0:
        return dsl.Invalid("a scalar has no axes")
    return shape[0]


@type_shape_dsl_function
def rest_size(shape: IntTuple) -> Int:
    if len(shape) < 2:
        return dsl.Invalid("needs at least two axes")
    return dsl.prod(dsl.IntTuple(shape[i] for i in range(1, len(shape))))


@type_shape_dsl_function
def cut_shape(shape: IntTuple, axis: Int) -> IntTuple:
    # a slice: how much is left is not known
    if any(a >= len(shape) for a in dsl.IntTuple((axis,))):
        return dsl.Invalid("more indices than axes")
    at = dsl.IntTuple((axis,))
    return dsl.IntTuple(dsl.Int.gradual() if any(a == i for a in at) else shape[i] for i in range(len(shape)))


@type_shape_dsl_function
def same_axis(shape: IntTuple, axis: Int) -> IntTuple:
    if any(a >= len(shape) for a in dsl.IntTuple((axis,))):
        return dsl.Invalid("more indices than axes")
    return shape


@type_shape_dsl_function
def item_shape(shape: IntTuple, axes: IntTuple) -> IntTuple:
    if any(a >= len(shape) for a in axes):
        return dsl.Invalid("more indices than axes")
    return dsl.IntTuple(shape[i] for i in range(len(shape)) if not any(a == i for a in axes))


@type_shape_dsl_function
def without_last(shape: IntTuple) -> IntTuple:
    if len(shape) == 0:
        return dsl.Invalid("a scalar has no axes to index")
    return dsl.IntTuple(shape[i] for i in range(len(shape) - 1))


@type_shape_dsl_function
def losses_shape(logits: IntTuple, target: IntTuple, axis: Int) -> IntTuple:
    if len(logits) == 0:
        return dsl.Invalid("logits need an axis of classes")
    axes = dsl.IntTuple((axis,))
    at = dsl.IntTuple(a + len(logits) if a < 0 else 0 if len(logits) == 1 else a for a in axes)
    if any(a < 0 or a >= len(logits) for a in at):
        return dsl.Invalid("the axis is out of range")
    others = dsl.IntTuple(logits[i] for i in range(len(logits)) if not any(a == i for a in at))
    if len(target) == len(logits):
        if any(logits[i] != target[i] for i in range(len(logits))):
            return dsl.Invalid("target probabilities need the shape of the logits")
        return others
    if len(target) != len(others):
        return dsl.Invalid("the target needs the logits' shape without the axis of classes")
    if any(others[i] != target[i] for i in range(len(others))):
        return dsl.Invalid("the target needs the logits' shape without the axis of classes")
    return others


@type_shape_dsl_function
def nothing_of(shape: IntTuple) -> IntTuple:
    return dsl.IntTuple(())


@type_shape_dsl_function
def same_shapes(shape: IntTuple, other: IntTuple) -> IntTuple:
    if len(shape) != len(other):
        return dsl.Invalid("the shapes must be equal")
    if any(shape[i] != other[i] for i in range(len(shape))):
        return dsl.Invalid("the shapes must be equal")
    return shape


@type_shape_dsl_function
def conv_shape(x: IntTuple, weight: IntTuple, stride: Int, padding: Int, dilation: Int, groups: Int) -> IntTuple:
    if len(x) != 4 or len(weight) != 4:
        return dsl.Invalid("conv2d needs input (N, C, H, W) and weight (O, C / groups, kH, kW)")
    channels = weight[1] * groups
    if x[1] != channels:
        return dsl.Invalid("the input's channels are not those of the weight")
    out = dsl.IntTuple((x[i] + 2 * padding - dilation * (weight[i] - 1) - 1) // stride + 1 for i in range(2, 4))
    if any(dsl.is_concrete_int(n) and n < 1 for n in out):
        return dsl.Invalid("the window is larger than the padded input")
    return dsl.IntTuple((x[0], weight[0], out[0], out[1]))

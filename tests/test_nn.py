"""Layers and losses: gradients, state, copies, frozen twins, what they print and what they refuse."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import DTypeError, IndexBoundsError, ShapeError, nn, optim
from katachi.nn import functional as F

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def images() -> Any:
    return kt.tensor(normal(2, 4, 6, 6).astype(np.float32))


def rows() -> Any:
    return kt.tensor(normal(3, 5, 8).astype(np.float32))


def numbers() -> Any:
    return kt.tensor(RNG.integers(0, 9, (3, 5)))


MODULES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "Linear(8, 3, bias=False)": (lambda: nn.Linear(8, 3, bias=False), rows),
    "Conv2d(4, 6, kernel_size=(3, 3), stride=2, padding=1, groups=2)": (
        lambda: nn.Conv2d(4, 6, 3, 2, 1, groups=2), images,
    ),
    "ConvTranspose2d(4, 2, kernel_size=(2, 3), stride=2, output_padding=1, bias=False)": (
        lambda: nn.ConvTranspose2d(4, 2, (2, 3), 2, output_padding=1, bias=False), images,
    ),
    "MaxPool2d(kernel_size=2, stride=2)": (lambda: nn.MaxPool2d(2), images),
    "AvgPool2d(kernel_size=3, stride=1, padding=1)": (lambda: nn.AvgPool2d(3, 1, 1), images),
    "AvgPool2d(kernel_size=3, stride=2, ceil_mode=True, count_include_pad=False, divisor_override=2)": (
        lambda: nn.AvgPool2d(3, 2, 0, True, False, 2), images,
    ),
    "MaxPool2d(kernel_size=3, stride=2, padding=1, ceil_mode=True)": (
        lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True), images,
    ),
    "MaxPool1d(kernel_size=3, stride=3)": (lambda: nn.MaxPool1d(3), rows),
    "AvgPool1d(kernel_size=3, stride=1, padding=1, count_include_pad=False)": (
        lambda: nn.AvgPool1d(3, 1, 1, count_include_pad=False), rows,
    ),
    "Conv2d(4, 6, kernel_size=(3, 3), stride=1, padding='same', padding_mode='circular')": (
        lambda: nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), images,
    ),
    "Conv1d(5, 2, kernel_size=(3,), stride=2, padding=1, padding_mode='reflect', bias=False)": (
        lambda: nn.Conv1d(5, 2, 3, 2, 1, bias=False, padding_mode="reflect"), rows,
    ),
    "Flatten(0, 1)": (lambda: nn.Flatten(0, 1), rows),
    "AdaptiveAvgPool2d(output_size=(4, None))": (lambda: nn.AdaptiveAvgPool2d((4, None)), images),
    "BatchNorm2d(4, eps=1e-05, momentum=0.1)": (lambda: nn.BatchNorm2d(4), images),
    "BatchNorm2d(4, eps=0.1, momentum=None, affine=False)": (lambda: nn.BatchNorm2d(4, 0.1, None, False), images),
    "BatchNorm2d(4, eps=1e-05, momentum=0.1, track_running_stats=False)": (
        lambda: nn.BatchNorm2d(4, track_running_stats=False), images,
    ),
    "LayerNorm((5, 8), eps=1e-05)": (lambda: nn.LayerNorm((5, 8)), rows),
    "LayerNorm((8,), eps=1e-05, elementwise_affine=False)": (lambda: nn.LayerNorm(8, elementwise_affine=False), rows),
    "RMSNorm((8,), eps=None)": (lambda: nn.RMSNorm(8), rows),
    "Embedding(9, 4, padding_idx=0)": (lambda: nn.Embedding(9, 4, padding_idx=0), numbers),
    "LeakyReLU(negative_slope=0.01)": (nn.LeakyReLU, rows),
    "GELU(approximate='tanh')": (lambda: nn.GELU("tanh"), rows),
    "ReLU()": (nn.ReLU, rows),
    "SiLU()": (nn.SiLU, rows),
    "Sigmoid()": (nn.Sigmoid, rows),
    "Tanh()": (nn.Tanh, rows),
    "Identity()": (nn.Identity, rows),
    "Flatten()": (nn.Flatten, rows),
    "Dropout(p=0.2)": (lambda: nn.Dropout(0.2), rows),
    "Softmax(dim=1)": (lambda: nn.Softmax(1), rows),
    "LogSoftmax(dim=-1)": (nn.LogSoftmax, rows),
    "MultiheadAttention(\n  8, num_heads=2\n  (out_proj): Linear(8, 8)\n)": (
        lambda: nn.MultiheadAttention(8, 2), rows,
    ),
    "MultiheadAttention(\n  8, num_heads=2, bias=False\n  (out_proj): Linear(8, 8, bias=False)\n)": (
        lambda: nn.MultiheadAttention(8, 2, bias=False), rows,
    ),
    "TransformerBlock(\n  causal=True\n  (norm1): LayerNorm((8,), eps=1e-05)\n  (attention): MultiheadAttention(\n"
    "    8, num_heads=4\n    (out_proj): Linear(8, 8)\n  )\n  (norm2): LayerNorm((8,), eps=1e-05)\n"
    "  (up): Linear(8, 32)\n  (down): Linear(32, 8)\n  (dropout): Dropout(p=0.1)\n)": (
        lambda: nn.TransformerBlock(8, 4, dropout=0.1), rows,
    ),
    "Sequential(\n  (0): Linear(8, 3)\n  (1): SiLU()\n)": (lambda: nn.Sequential(nn.Linear(8, 3), nn.SiLU()), rows),
}  # fmt: skip


def state(module: nn.Module) -> dict[str, Any]:
    return {name: value.tolist() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("text", list(MODULES))
def test_every_layer_prints_copies_pickles_and_freezes(text: str) -> None:
    make, draw = MODULES[text]
    module = make()
    assert repr(module) == text
    for _ in range(2):  # running statistics, if any, have moved
        module(draw())
    before = state(module)
    x = draw()
    module.eval()
    assert not any(m.training for _, m in module.named_modules())
    want = module(x).numpy()
    assert (module(x).numpy() == want).all() and state(module) == before
    frozen = module.freeze()
    out = frozen(x)
    assert not kt.is_variable(out) and (out.numpy() == want).all()
    assert not any(p.requires_grad for p in frozen.parameters()) and state(frozen) == before and repr(frozen) == text
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.deepcopy(frozen)):
        assert repr(other) == text and state(other) == before and not other.training
        assert (other(x).numpy() == want).all()
        for p in other.parameters():
            p.set(p * 0 + 7)
    assert state(module) == before  # the copies are others
    names = [name for name, _ in module.named_parameters()]
    assert names == [n for n in before if n in dict(module.named_parameters())]
    for p in module.parameters():
        p.set(p * 2)
    assert state(frozen) == state(module)  # the frozen twin shares
    module.train()
    assert all(m.training for _, m in module.named_modules()) and not frozen.training
    if names:
        (module(x) ** 2).sum().backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in module.parameters())
        copied = copy.deepcopy(module)
        assert all(p.grad is None for p in copied.parameters())
        module.zero_grad()
        assert all(p.grad is None for p in module.parameters())


def test_what_is_shared_stays_shared_in_copies() -> None:
    first = nn.Linear(3, 3)
    module = nn.Sequential(first, nn.ReLU(), first)
    tied = nn.Linear(3, 3)
    tied.weight = first.weight
    module.append(tied)
    assert [n for n, _ in module.named_parameters()] == ["0.weight", "0.bias", "3.bias"]
    copies: list[Any] = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    for other in copies:
        assert other[0] is other[2] and other[0].weight is other[3].weight and other[0].weight is not first.weight


# ---- gradients, against differences ---------------------------------------------------------------------------------

FUNCTIONS: dict[str, tuple[Callable[..., Any], list[np.ndarray]]] = {
    "silu": (F.silu, [normal(7)]),
    "rms_norm": (lambda x, w: F.rms_norm(x, 4, w, 0.01), [normal(3, 4), normal(4)]),
    "layer_norm": (lambda x, w: F.layer_norm(x, 4, w), [normal(3, 4), normal(4)]),
    "conv_transpose2d": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, (2, 1), 1, (1, 0), 2, (1, 2)),
        [normal(1, 4, 3, 4), normal(4, 1, 3, 2), normal(2)],
    ),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, (3, 2)), [normal(2, 7, 5)]),
    "avg_pool2d overlapping": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), [normal(2, 5, 6)]),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), [normal(2, 5, 4)]),
    "avg_pool2d beyond the padding": (lambda x: F.avg_pool2d(x, 3, 2, 1, True), [normal(2, 6, 4)]),
    "max_pool1d": (lambda x: F.max_pool1d(x, 3, 2, 1, ceil_mode=True), [normal(2, 6)]),
    "conv1d": (
        lambda x, w, b: F.conv1d(x, w, b, padding="same", dilation=2, groups=2),
        [normal(2, 4, 6), normal(2, 2, 3), normal(2)],
    ),
    **{f"pad {mode}": (lambda x, mode=mode: F.pad(x, (1, 2, 2, 0), mode), [normal(2, 4, 3)])
       for mode in ("constant", "reflect", "replicate", "circular")},
    "nll_loss": (
        lambda x, w: F.nll_loss(x, kt.tensor([2, 0, -100]), w), [normal(3, 4), np.abs(normal(4))],
    ),
    "cross_entropy": (
        lambda x: F.cross_entropy(x, kt.tensor([2, 0, 3]), ignore_index=0, label_smoothing=0.2), [normal(3, 4)],
    ),
    "embedding": (lambda w: F.embedding(kt.tensor([2, 0, 2]), w), [normal(4, 3)]),
}  # fmt: skip


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_gradients_are_slopes(name: str, device: str) -> None:
    function, arrays = FUNCTIONS[name]
    with kt.device(device):
        inputs = [kt.variable(a) for a in arrays]
        out = function(*inputs)
        seed = normal(*out.shape)
        out.backward(kt.tensor(seed))
        for i, x in enumerate(inputs):
            along = normal(*x.shape)
            far = [np.copy(a) for a in arrays]
            near = [np.copy(a) for a in arrays]
            far[i] += 1e-5 * along
            near[i] -= 1e-5 * along
            with kt.no_grad():
                ends = [(function(*map(kt.tensor, a)).numpy() * seed).sum() for a in (far, near)]
            assert (x.grad.numpy() * along).sum() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-8)


def test_a_padding_row_has_no_gradient() -> None:
    layer = nn.Embedding(5, 2, padding_idx=-1)
    assert layer.padding_idx == 4 and layer.weight[4].tolist() == [0, 0]
    layer(kt.tensor([[4, 1], [1, 4]])).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.sum(1).tolist() == [0, 4, 0, 0, 0]
    assert F.embedding(kt.tensor([4]), layer.weight).grad is None


# ---- losses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_ignored_targets(device: str) -> None:
    with kt.device(device):
        x = normal(4, 3).astype(np.float32)
        for ignore in (-100, -1, 7, 1):
            target = np.array([0, ignore, 2, ignore])
            v = kt.variable(x)
            loss = F.cross_entropy(v, kt.tensor(target), ignore_index=ignore)
            want = F.cross_entropy(kt.tensor(x[[0, 2]]), kt.tensor([0, 2]))
            assert loss.item() == pytest.approx(want.item(), rel=1e-6)
            loss.backward()
            assert (v.grad.numpy()[[1, 3]] == 0).all() and (v.grad.numpy()[[0, 2]] != 0).all()
            each = F.cross_entropy(kt.tensor(x), kt.tensor(target), ignore_index=ignore, reduction="none").numpy()
            assert (each[[1, 3]] == 0).all() and each[[0, 2]].mean() == pytest.approx(want.item())


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_when_all_is_ignored_the_mean_is_of_nothing(device: str) -> None:
    with kt.device(device):
        target = kt.tensor([-100, -100])
        for loss in (
            lambda v, how: F.cross_entropy(v, target, reduction=how),
            lambda v, how: F.nll_loss(v, target, reduction=how),
            lambda v, how: F.cross_entropy(v, target, reduction=how, label_smoothing=0.1),
        ):
            v = kt.variable(np.ones((2, 3), np.float32))
            mean = loss(v, "mean")
            assert np.isnan(mean.item()) and loss(v, "sum").item() == 0
            mean.backward()
            assert (v.grad.numpy() == 0).all()


def test_the_other_classes_are_still_checked() -> None:
    for wrong, ignore in [(3, -100), (-1, -100), (-100, -1), (3, 2)]:
        for loss in (F.cross_entropy, F.nll_loss):
            with pytest.raises(IndexBoundsError, match=rf"index {wrong} is outside"):
                loss(kt.zeros(2, 3), kt.tensor([0, wrong]), ignore_index=ignore).item()


def test_targets_of_small_unsigned_dtypes() -> None:
    """-100 is no uint8, so nothing can be ignored."""
    x = normal(2, 3).astype(np.float32)
    small = kt.tensor(np.array([2, 0], np.uint8))
    assert F.cross_entropy(kt.tensor(x), small).item() == F.cross_entropy(kt.tensor(x), kt.tensor([2, 0])).item()


def test_losses_as_modules_hold_their_settings() -> None:
    criterion = nn.CrossEntropyLoss(np.array([1.0, 2.0, 3.0], np.float32), ignore_index=0, reduction="sum")
    assert repr(criterion) == "CrossEntropyLoss(ignore_index=0, reduction='sum')" and list(criterion.parameters()) == []
    assert list(criterion.state_dict()) == ["weight"]
    assert repr(nn.MSELoss()) == "MSELoss()" and repr(nn.NLLLoss()) == "NLLLoss()"
    x = kt.zeros(2, 3)
    assert criterion(x, kt.tensor([0, 2])).item() == pytest.approx(3 * np.log(3), rel=1e-6)
    assert criterion.freeze()(x, kt.tensor([0, 1])).item() == pytest.approx(2 * np.log(3), rel=1e-6)
    last = nn.NLLLoss(axis=-1)(kt.zeros(2, 4, 3), kt.zeros(2, 4, dtype=kt.int64))
    assert last.item() == 0 and last.shape == ()


# ---- pooling, normalisation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize(("n", "bins"), [(7, 3), (10, 4), (3, 5), (8, 4), (5, 1), (6, 6), (1, 3)])
def test_adaptive_bins_begin_at_the_floor_and_end_at_the_ceiling(n: int, bins: int, device: str) -> None:
    with kt.device(device):
        x = normal(2, n, 3)
        want = np.stack([x[:, i * n // bins : -(-(i + 1) * n // bins)].mean(1) for i in range(bins)], 1)
        got = F.adaptive_avg_pool2d(kt.tensor(x), (bins, None)).numpy()
        np.testing.assert_allclose(got, want, rtol=1e-12)
        turned = F.adaptive_avg_pool2d(kt.tensor(x.transpose(0, 2, 1)), (None, bins)).numpy()
        np.testing.assert_allclose(turned.transpose(0, 2, 1), want, rtol=1e-12)


def test_what_is_infinite_stays_in_its_bin() -> None:
    x = np.zeros((1, 1, 5, 5), np.float32)
    x[..., 0, 0] = np.inf
    assert np.isinf(F.adaptive_avg_pool2d(kt.tensor(x), 3).numpy()).sum() == 1
    assert np.isinf(F.avg_pool2d(kt.tensor(x), 2).numpy()).sum() == 1
    assert np.isinf(F.avg_pool2d(kt.tensor(x), 3, 1, 1).numpy()).sum() == 4
    assert not np.isnan(F.avg_pool2d(kt.tensor(x), 3, 1, 1).numpy()).any()


def test_batch_norm_follows_its_batches() -> None:
    x = normal(8, 3, 2, 2).astype(np.float32) * 2 + 5
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), ddof=1)
    layer, even = nn.BatchNorm2d(3, momentum=0.25), nn.BatchNorm2d(3, momentum=None)
    twin = layer.freeze()
    for n in range(1, 4):
        layer(kt.tensor(x))
        even(kt.tensor(x))
        share = 1 - 0.75**n
        np.testing.assert_allclose(layer.running_mean.numpy(), mean * share, rtol=1e-5)  # type: ignore[union-attr]
        np.testing.assert_allclose(twin.running_var.numpy(), variance * share + 1 - share, rtol=1e-5)
        np.testing.assert_allclose(even.running_mean.numpy(), mean, rtol=1e-5)  # type: ignore[union-attr]
        assert twin.num_batches_tracked.item() == n
    before = state(layer)
    layer.eval()(kt.tensor(x))
    twin(kt.tensor(x))
    assert state(layer) == before
    names = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert list(before) == names and list(nn.BatchNorm2d(3, affine=False).state_dict()) == names[2:]
    assert list(nn.BatchNorm2d(3, track_running_stats=False).state_dict()) == names[:2]
    untracked = nn.BatchNorm2d(3, track_running_stats=False)
    assert np.array_equal(untracked(kt.tensor(x)).numpy(), untracked.eval()(kt.tensor(x)).numpy())


def test_a_causal_block_does_not_look_ahead() -> None:
    block = nn.TransformerBlock(8, 2).eval()
    x = normal(1, 6, 8).astype(np.float32)
    y = x.copy()
    y[:, 4:] = 9
    one, other = block(kt.tensor(x)).numpy(), block(kt.tensor(y)).numpy()
    assert np.array_equal(one[:, :4], other[:, :4]) and not np.allclose(one[:, 4:], other[:, 4:])


def test_initial_values() -> None:
    kt.manual_seed(3)
    p = nn.Parameter(np.zeros((100, 90), np.float32))
    assert nn.init.normal_(p, 2.0, 0.5) is p
    assert p.numpy().mean() == pytest.approx(2, abs=0.03) and p.numpy().std() == pytest.approx(0.5, rel=0.05)
    nn.init.uniform_(p, -1.0, 3.0)
    assert p.numpy().min() >= -1 and p.numpy().max() < 3 and p.numpy().mean() == pytest.approx(1, abs=0.05)
    assert nn.init.ones_(p).sum().item() == 9000 and nn.init.constant_(p, -2).sum().item() == -18000
    assert nn.init.zeros_(p).sum().item() == 0
    assert kt.is_variable(p) and (p * 2).sum().backward() is None and p.grad is not None


# ---- misuse ---------------------------------------------------------------------------------------------------------


def zeros(*shape: int) -> Any:
    """Of a shape that the checker does not know: it would find these mistakes itself."""
    return kt.zeros(shape)


def picture() -> Any:
    return zeros(1, 3, 8, 8)


WRONG: list[tuple[str, Callable[[], Any], type[Exception], tuple[str, ...]]] = [
    ("transposed channels", lambda: nn.ConvTranspose2d(4, 2, 3)(picture()), ShapeError,
     ("conv_transpose2d(", "4 channels on axis 1, got 3")),
    ("output_padding", lambda: nn.ConvTranspose2d(3, 2, 3, 2, output_padding=2)(picture()), ShapeError,
     ("output_padding (2, 2)", "below stride (2, 2)")),
    ("transposed groups", lambda: nn.ConvTranspose2d(3, 4, 3, groups=2), ShapeError, ("do not divide into 2 groups",)),
    ("transposed functional groups", lambda: F.conv_transpose2d(picture(), zeros(3, 2, 3, 3), groups=2), ShapeError,
     ("3 channels do not divide into 2 groups",)),
    ("transposed to nothing", lambda: F.conv_transpose2d(zeros(1, 3, 1, 1), zeros(3, 2, 3, 3), padding=2),
     ShapeError, ("conv_transpose2d(",)),
    ("average of a large window", lambda: nn.AvgPool2d(9)(picture()), ShapeError, ("avg_pool2d(", "(9, 9) is larger")),
    ("average padding", lambda: F.avg_pool2d(picture(), 2, 2, 2), ShapeError, ("more than half the window (2, 2)",)),
    ("average of a vector", lambda: F.avg_pool2d(zeros(4), 2), ShapeError, ("(..., C, H, W), got (4,)",)),
    ("average of a short signal", lambda: F.avg_pool1d(zeros(2, 3), 4), ShapeError, ("avg_pool1d(", "(4,) is larger")),
    ("average of a scalar", lambda: F.avg_pool1d(zeros(4), 2), ShapeError, ("(..., C, L), got (4,)",)),
    ("a divisor of zero", lambda: nn.AvgPool2d(2, divisor_override=0), ValueError,
     ("AvgPool2d: divisor_override", "got 0")),
    ("a divisor that is no int", lambda: F.avg_pool2d(picture(), 2, divisor_override=0.5), ValueError, ("got 0.5",)),  # type: ignore[arg-type]
    ("a signal for an image", lambda: F.conv1d(picture(), zeros(2, 3, 3)), ShapeError,
     ("conv1d(", "(N, C, L)", "(O, C / groups, k)")),
    ("same with a stride", lambda: nn.Conv2d(3, 4, 3, 2, padding="same"), ShapeError,
     ("Conv2d: padding", "(2, 2) cannot")),
    ("padding in other words", lambda: F.conv2d(picture(), zeros(2, 3, 3, 3), padding="full"), ShapeError,  # type: ignore[arg-type]
     ('"same" or "valid", got \'full\'',)),
    ("another padding mode", lambda: nn.Conv1d(3, 4, 3, padding_mode="constant"), ValueError,  # type: ignore[arg-type]
     ("Conv1d: a padding mode", "zeros, reflect, replicate, circular", "'constant'")),
    ("padding of odd length", lambda: F.pad(picture(), (1, 2, 3)), ShapeError, ("pairs", "(1, 2, 3)")),
    ("padding of more axes", lambda: F.pad(zeros(3), (1, 2, 3, 4)), ShapeError, ("for 2 axes, got (3,)",)),
    ("padding by floats", lambda: F.pad(zeros(3), (1.0, 2)), ShapeError, ("ints in pairs",)),
    ("reflecting too much", lambda: F.pad(zeros(2, 3), (3, 0), "reflect"), ShapeError,
     ("at most 2", "axis 1 of (2, 3)")),
    ("circling too much", lambda: F.pad(zeros(2, 3), (0, 4), "circular"), ShapeError, ("at most 3", "(0, 4)")),
    ("repeating nothing", lambda: F.pad(zeros(2, 0), (1, 0), "replicate"), ShapeError, ("at most 0",)),
    ("reflecting less than nothing", lambda: F.pad(zeros(2, 3), (-1, 0), "reflect"), ShapeError, ("cannot take away",)),
    ("taking away more than there is", lambda: F.pad(zeros(2, 3), (-2, -2)), ShapeError, ("takes more from axis 1",)),
    ("a value to reflect", lambda: F.pad(zeros(3), (1, 1), "reflect", 2.0), ValueError, ("no value, got 2.0",)),
    ("a value of another kind", lambda: F.pad(kt.tensor([1]), (1, 1), value=0.5), DTypeError, ("pad(int64[1], 0.5)",)),
    ("in place", lambda: nn.ReLU(inplace=True), ValueError, ("ReLU: inplace=True", "never changes")),  # type: ignore[arg-type]
    ("dropout in place", lambda: nn.Dropout(0.5, True), ValueError, ("Dropout: inplace=True",)),  # type: ignore[arg-type]
    ("flattening backwards", lambda: nn.Flatten(2, 1)(picture()), ShapeError, ("from 2 to 1 of (1, 3, 8, 8)",)),
    ("flattening by a float", lambda: nn.Flatten(1.0), TypeError, ("start_dim and end_dim are ints, got 1.0",)),  # type: ignore[arg-type]
    ("no bins", lambda: nn.AdaptiveAvgPool2d(0), ShapeError, ("AdaptiveAvgPool2d: output_size", "at least 1")),
    ("three bins", lambda: nn.AdaptiveAvgPool2d((1, 2, 3)), ShapeError, ("output_size", "got (1, 2, 3)")),  # type: ignore[call-overload]
    ("bins of nothing", lambda: F.adaptive_avg_pool2d(zeros(1, 0, 3), 2), ShapeError, ("with pixels",)),
    ("float targets", lambda: F.nll_loss(zeros(2, 3), zeros(2)), DTypeError, ("nll_loss(", "class numbers")),
    ("nll shape", lambda: nn.NLLLoss()(zeros(2, 3), kt.tensor([0, 1, 2])), ShapeError, ("target of shape (2,)",)),
    ("nll reduction", lambda: nn.NLLLoss(reduction="avg"), ValueError, ("NLLLoss: reduction", "'avg'")),  # type: ignore[arg-type]
    ("mse reduction", lambda: nn.MSELoss(reduction=None), ValueError, ("MSELoss: reduction", "None")),  # type: ignore[arg-type]
    ("weights for other classes", lambda: F.cross_entropy(zeros(2, 3), kt.tensor([0, 1]), weight=kt.ones(2)),
     ShapeError, ("weight of shape (3,)", "got (2,)")),
    ("l1 shape", lambda: nn.L1Loss()(zeros(2, 1), zeros(2)), ShapeError, ("l1_loss(", "shape (2, 1), got (2,)")),
    ("logits shape", lambda: nn.BCEWithLogitsLoss()(zeros(2, 1), zeros(2)), ShapeError,
     ("binary_cross_entropy_with_logits(", "shape (2, 1), got (2,)")),
    ("beta", lambda: nn.SmoothL1Loss(beta=-1.0)(zeros(2), zeros(2)), ValueError, ("beta must not be negative",)),
    ("a probability to ignore", lambda: F.cross_entropy(zeros(2, 3), zeros(2, 3), ignore_index=1), DTypeError,
     ("ignore_index is for class numbers", "float32")),
    ("a mask of numbers", lambda: F.scaled_dot_product_attention(
        zeros(1, 2, 3), zeros(1, 2, 3), zeros(1, 2, 3), kt.tensor([[1, 0]])), DTypeError,
     ("attn_mask is bool", "got int64")),
    ("padding's shape", lambda: nn.MultiheadAttention(4, 2)(
        zeros(2, 3, 4), key_padding_mask=kt.tensor([[True] * 2] * 2)), ShapeError,
     ("key_padding_mask is bool of shape (2, 3)", "got bool of shape (2, 2)")),
    ("no key", lambda: nn.MultiheadAttention(4, 2)(zeros(2, 3, 4), True), TypeError, ("key is a tensor", "got True")),
    ("the key's width", lambda: nn.MultiheadAttention(4, 2)(zeros(2, 3, 4), zeros(2, 3, 5)), ShapeError,
     ("needs key (B, T, 4), got (2, 3, 5)",)),
    ("smoothing", lambda: nn.CrossEntropyLoss(label_smoothing=1.5), ValueError,
     ("label_smoothing is between 0 and 1",)),
    ("softmax axis", lambda: nn.Softmax(3)(zeros(2, 3)), ShapeError, ("softmax(", "axis 3 is out of range")),
    ("rms_norm", lambda: nn.RMSNorm(4)(zeros(2, 3)), ShapeError, ("rms_norm(", "ends in (4,), got (2, 3)")),
    ("padding row", lambda: nn.Embedding(4, 2, padding_idx=4), ShapeError, ("padding_idx 4 is outside 4 rows",)),
    ("batch norm channels", lambda: nn.BatchNorm2d(4)(picture()), ShapeError, ("BatchNorm2d", "(N, 4, H, W)")),
    ("batch norm of images", lambda: nn.BatchNorm1d(4)(picture()), ShapeError,
     ("BatchNorm1d: needs input (N, 4) or (N, 4, L), got (1, 3, 8, 8)",)),
    ("momentum", lambda: nn.BatchNorm1d(4, momentum=1.5), ValueError, ("BatchNorm1d: momentum", "1.5")),
    ("eps", lambda: nn.LayerNorm(4, eps=-1.0), ValueError, ("LayerNorm: eps must not be negative, got -1.0",)),
    ("layer_norm's weight", lambda: F.layer_norm(zeros(2, 3), 3, zeros(2)), ShapeError,
     ("layer_norm(", "weights of shape (3,)", "got (2,)")),
    ("a weight that broadcasts", lambda: F.rms_norm(zeros(2, 3), 3, zeros(2, 3)), ShapeError,
     ("rms_norm(", "weights of shape (3,)", "got (2, 3)")),
    ("more axes than there are", lambda: F.layer_norm(zeros(3), (2, 3)), ShapeError, ("ends in (2, 3), got (3,)",)),
    ("approximation", lambda: nn.GELU("tan"), ValueError, ("GELU: approximate", "'tan'")),
    ("a dropout of words", lambda: nn.Dropout("half"), ValueError, ("Dropout: p is a probability", "'half'")),  # type: ignore[arg-type]
    ("a negative padding", lambda: nn.Conv2d(1, 2, 3, padding=-1), ShapeError, ("Conv2d: padding", "at least 0", "-1")),
    ("no stride", lambda: nn.ConvTranspose2d(1, 2, 3, stride=0), ShapeError, ("ConvTranspose2d: stride", "got 0")),
    ("batch norm of one value", lambda: nn.BatchNorm2d(3)(zeros(1, 3, 1, 1)), ShapeError, ("more than one value",)),
    ("fan of a vector", lambda: nn.init.xavier_uniform_(nn.Parameter([1.0])), ShapeError, ("got (1,)",)),
    ("fan mode", lambda: nn.init.kaiming_normal_(nn.Parameter([[1.0]]), mode="in"), ValueError, ("mode is", "'in'")),
    ("nonlinearity", lambda: nn.init.kaiming_normal_(nn.Parameter([[1.0]]), nonlinearity="gelu"), ValueError,
     ("nonlinearity is one of", "'gelu'")),
    ("negative std", lambda: nn.init.normal_(nn.Parameter([1.0]), 0.0, -1.0), ValueError, ("normal_: std",)),
    ("heads", lambda: nn.TransformerBlock(8, 3), ShapeError, ("8 does not divide into 3 heads",)),
]  # fmt: skip


@pytest.mark.parametrize(("act", "error", "words"), [c[1:] for c in WRONG], ids=[c[0] for c in WRONG])
def test_what_is_refused_and_how(act: Callable[[], Any], error: type[Exception], words: tuple[str, ...]) -> None:
    for _ in range(3):
        with pytest.raises(error) as caught:
            act()
        assert all(w in str(caught.value) for w in words), str(caught.value)


def test_a_class_is_not_a_layer_and_a_model_not_its_parameters() -> None:
    with pytest.raises(TypeError, match=r"item 1 is the class ReLU; an object is needed: ReLU\(\)"):
        nn.Sequential(nn.Linear(2, 2), nn.ReLU)
    with pytest.raises(TypeError, match=r"SGD: needs parameters, such as model.parameters\(\), got Linear"):
        optim.SGD(nn.Linear(2, 2), lr=0.1)  # type: ignore[arg-type] # that is the point


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [kt.bool_, kt.int64, kt.float16])
def test_padding_is_of_any_dtype(device: str, dtype: Any) -> None:
    with kt.device(device):
        x = RNG.integers(0, 2, (3, 4)).astype(dtype.numpy)
        for mode, name in (
            ("reflect", "reflect"),
            ("replicate", "edge"),
            ("circular", "wrap"),
            ("constant", "constant"),
        ):
            got = F.pad(kt.tensor(x), (3, 1, 0, 2), mode)
            assert got.dtype is dtype
            np.testing.assert_array_equal(got.numpy(), np.pad(x, ((0, 2), (3, 1)), name))  # type: ignore[call-overload]


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_an_operation_that_changes_nothing_can_be_looked_at_and_differentiated(device: str) -> None:
    with kt.device(device):
        for nothing in (lambda v: F.pad(v, (0, 0)), lambda v: v.reshape((2, 2)), lambda v: v.squeeze()):
            v = kt.variable([[1.0, 2.0], [3.0, 4.0]])
            out = nothing(v)
            assert out.tolist() == [[1, 2], [3, 4]]
            out.backward(kt.tensor([[1.0, 0.0], [2.0, 0.0]]))
            assert v.grad is not None and v.grad.tolist() == [[1, 0], [2, 0]]

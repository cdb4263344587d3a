"""A resumed run equals one that went on, bit for bit, wherever it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import CheckpointError, data, io, nn, optim
from katachi.optim import lr_scheduler

STEPS = 11


def run_parts() -> dict[str, Any]:
    kt.manual_seed(4)
    rng = np.random.default_rng(0)
    items = data.TensorDataset(rng.standard_normal((20, 5)).astype(np.float32), rng.integers(0, 3, 20))
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
        "loader": data.DataLoader(items, batch_size=6, shuffle=True, seed=2),
    }


def train(parts: dict[str, Any], first: int, last: int, path: Path | None = None) -> dict[str, np.ndarray]:
    step = first
    while step < last:
        for x, y in parts["loader"]:
            nn.functional.cross_entropy(parts["model"](x), y).backward()
            parts["optimizer"].step()
            parts["scheduler"].step()
            step += 1
            if step == last:
                break
    if path is not None:
        io.save_checkpoint(path, **parts, step=step, extra={"note": "here"})
    return {k: v.numpy() for k, v in parts["model"].state_dict().items()}


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("stop", [1, 4, 6, 8])
def test_resuming_is_bit_exact(tmp_path: Path, stop: int, device: str) -> None:
    with kt.device(device):
        whole = train(run_parts(), 0, STEPS)
        train(run_parts(), 0, stop, tmp_path / "run")
        kt.manual_seed(99)
        parts = run_parts()
        kt.rand(3)
        note = io.load_checkpoint(tmp_path / "run", **parts)
        assert note == {"step": stop, "extra": {"note": "here"}}
        resumed = train(parts, stop, STEPS)
    assert all(np.array_equal(whole[k], resumed[k]) for k in whole)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    parts = run_parts()
    train(parts, 0, 3, tmp_path / "run")
    raw = (tmp_path / "run").read_bytes()
    for place in np.random.default_rng(0).integers(0, len(raw), 60).tolist():
        damaged = bytearray(raw)
        damaged[place] ^= 1
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(kt.CheckpointError):
            io.load_checkpoint(tmp_path / "damaged", **parts)
    io.load_checkpoint(tmp_path / "run", **parts)


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    parts = run_parts()
    io.save_safetensors(tmp_path / "weights", parts["model"].state_dict())
    with pytest.raises(kt.CheckpointError, match="not a training checkpoint"):
        io.load_checkpoint(tmp_path / "weights", model=parts["model"])
    io.save_checkpoint(tmp_path / "run", model=parts["model"])
    with pytest.raises(kt.CheckpointError, match="no state of the optimizer"):
        io.load_checkpoint(tmp_path / "run", model=parts["model"], optimizer=parts["optimizer"])
    with pytest.raises(kt.CheckpointError, match="nothing loaded"):
        io.load_checkpoint(tmp_path / "run", model=nn.Linear(2, 2))
    with pytest.raises(FileNotFoundError):
        io.load_checkpoint(tmp_path / "nothing", model=parts["model"])


def test_a_checkpoint_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    path, parts = tmp_path / "run.safetensors", run_parts()
    train(parts, 0, 2)
    io.save_checkpoint(path, **parts)
    other = run_parts()
    other["optimizer"] = optim.SGD(other["model"].parameters(), lr=0.1, momentum=0.9)
    del other["scheduler"]
    for wrong, words in ((other, "momentum_buffer"), (run_parts(), "batches of 5")):
        if wrong is not other:
            wrong["loader"] = data.DataLoader(wrong["loader"].dataset, batch_size=5)
        before = {n: v.numpy() for n, v in wrong["model"].state_dict().items()}
        settings = wrong["optimizer"].state_dict()
        with pytest.raises(CheckpointError, match=words):
            io.load_checkpoint(path, **wrong)
        after = wrong["model"].state_dict()
        assert all(np.array_equal(before[n], after[n].numpy()) for n in before)
        assert wrong["optimizer"].state_dict() == settings


def test_what_cannot_be_saved_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"extra is not for JSON: .*ndarray"):
        io.save_checkpoint(tmp_path / "a", model=nn.Linear(1, 1), extra={"a": np.ones(1)})
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere'$"):
        io.save_checkpoint(tmp_path / "nowhere" / "a", model=nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"needs tensors by name, such as model.state_dict\(\), got Linear"):
        io.save_safetensors(tmp_path / "a", nn.Linear(1, 1))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []

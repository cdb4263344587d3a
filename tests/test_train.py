"""Trainer and what it leaves behind."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import katachi as kt
from katachi import data, nn, optim, train
from katachi.train.metrics import FOLD


def points(n: int = 40) -> data.TensorDataset:
    x = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    return data.TensorDataset(x, (x.sum(1) > 0).astype(np.int64))


def trainer(**settings: Any) -> train.Trainer:
    kt.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
    optimizer = optim.AdamW(model.parameters(), lr=0.02)
    return train.Trainer(model, optimizer, nn.functional.cross_entropy, {"accuracy": train.accuracy}, **settings)


def test_it_learns_and_keeps_a_history() -> None:
    t, rows, steps = trainer(), [], []
    loader = data.DataLoader(points(), batch_size=16, shuffle=True, seed=0)
    history = t.fit(loader, 20, validate=loader, on_step=lambda seen: steps.append(seen.examples), on_epoch=rows.append)
    assert history is t.history and rows == history and [r["epoch"] for r in rows] == list(range(1, 21))
    assert steps[:4] == [16, 32, 40, 16]
    assert history[-1]["loss"] < history[0]["loss"] and history[-1]["validation_accuracy"] > 0.9
    assert list(history[0]) == [
        "epoch", "loss", "accuracy", "seconds", "examples_per_second", "validation_loss", "validation_accuracy",
    ]  # fmt: skip
    assert t.fit(loader, 1)[-1]["epoch"] == 21


def test_it_does_what_the_plain_loop_does() -> None:
    plain = trainer()
    for inputs, targets in data.DataLoader(points(), batch_size=16):
        plain.loss(plain.model(inputs), targets).backward()
        plain.optimizer.step()
    other = trainer()
    other.fit(data.DataLoader(points(), batch_size=16), 1)
    for p, q in zip(plain.model.parameters(), other.model.parameters(), strict=True):
        assert p.tolist() == q.tolist()


def test_means_are_weighted_by_examples() -> None:
    t = trainer()
    whole = t.evaluate(data.DataLoader(points(), batch_size=40))
    parts = t.evaluate(data.DataLoader(points(), batch_size=16))
    assert whole == pytest.approx(parts, rel=1e-6)


def test_sums_fold_without_a_trace_of_it() -> None:
    seen = train.Running()
    values = np.random.default_rng(1).random(3 * FOLD + 5)
    for v in values:
        seen.add(2, loss=kt.tensor(np.float32(v)))
    assert seen.examples == 2 * len(values)
    assert seen.means()["loss"] == pytest.approx(values.mean(), rel=1e-6)
    assert train.Running().means() == {}


def test_a_step_is_one_program_that_is_built_once() -> None:
    t = trainer()
    loader = data.DataLoader(points(64), batch_size=16)
    told = kt.explain(lambda: t.fit(loader, 5, on_step=lambda seen: seen.means()))
    assert len(told.flushes) == 20 and [f.built for f in told.flushes[2:]] == [False] * 18


def test_an_epoch_goes_on_in_its_middle() -> None:
    """Model, optimiser and loader stay; a new Trainer takes up what the first one counted, to the last bit."""

    def stop(seen: train.Running) -> None:
        if seen.examples > 2 * FOLD:
            states.append(json.loads(json.dumps(t.state_dict())))
            raise KeyboardInterrupt

    whole, t, states = trainer(), trainer(), []
    for one in (whole, t):
        one.scheduler = optim.lr_scheduler.StepLR(one.optimizer, 3)
    loader = data.DataLoader(points(200), batch_size=1, shuffle=True, seed=1)
    rows = whole.fit(data.DataLoader(points(200), batch_size=1, shuffle=True, seed=1), 2)
    kt.manual_seed(0)
    t = trainer()
    t.scheduler = optim.lr_scheduler.StepLR(t.optimizer, 3)
    with pytest.raises(KeyboardInterrupt):
        t.fit(loader, 2, on_step=stop)
    loader.load_state_dict(loader.state_dict())
    again = train.Trainer(t.model, t.optimizer, t.loss, t.metrics, scheduler=t.scheduler)
    again.load_state_dict(states[0])
    assert again.counted == 2 * FOLD + 1
    got = again.fit(loader, 2)
    for a, b in zip(rows, got, strict=True):
        assert (a["epoch"], a["loss"], a["accuracy"]) == (b["epoch"], b["loss"], b["accuracy"])


def test_modes_come_back() -> None:
    t = trainer()
    t.model.eval()
    frozen = dict(t.model.named_modules())["2"]
    t.fit(data.DataLoader(points(), batch_size=40), 1)
    assert not t.model.training and not frozen.training
    t.model.train()
    frozen.eval()
    t.evaluate(data.DataLoader(points(), batch_size=40))
    assert t.model.training and not frozen.training
    assert t.model(kt.ones((1, 4)))._aval.tracked


def test_nothing_to_train_on() -> None:
    with pytest.raises(ValueError, match="no batches"):
        trainer().fit([], 1)
    with pytest.raises(ValueError, match="no batches"):
        trainer().evaluate([])


def test_an_interrupt_keeps_what_was_reached() -> None:
    def stop(row: train.Row) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    t = trainer()
    with pytest.raises(KeyboardInterrupt):
        t.fit(data.DataLoader(points(), batch_size=16), 9, on_epoch=stop)
    assert len(t.history) == 2 and t.model.training
    assert t.evaluate(data.DataLoader(points(), batch_size=16))["loss"] < 1


def watched(terminal: bool) -> str:
    console = Console(width=100, force_terminal=terminal, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    loader = data.DataLoader(points(), batch_size=16)
    with train.Progress(2, len(loader), console) as progress:
        trainer().fit(loader, 2, validate=loader, on_step=progress.step, on_epoch=progress.epoch)
    console.file.close()
    return console.export_text()


def test_progress_off_a_terminal_is_a_line_an_epoch() -> None:
    lines = watched(terminal=False).splitlines()
    assert len(lines) == 2 and lines[1].startswith("epoch 2/2  loss 0.")
    assert "validation accuracy" in lines[1] and lines[1].endswith("examples/s")


def test_progress_on_a_terminal_is_a_bar() -> None:
    shown = watched(terminal=True)
    assert "epoch 1/2" in shown and "accuracy" in shown and "examples/s" in shown and "left" in shown


def test_a_run_folder(tmp_path: Path) -> None:
    t, folder = trainer(), train.RunFolder.numbered("x", tmp_path / "runs")
    folder.save_config({"seed": 0})
    t.fit(data.DataLoader(points(), batch_size=16), 3, on_epoch=folder.add_row)
    folder.add_row({"epoch": 4, "loss": math.nan})
    folder.save_weights(t.model.state_dict())
    folder.save_curves(t.history)
    assert sorted(p.name for p in folder.path.iterdir()) == [
        "config.json", "curves.png", "metrics.jsonl", "model.safetensors",
    ]  # fmt: skip
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert rows[:3] == t.history and rows[3]["loss"] is None
    assert folder.curves.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FileExistsError, match="not empty"):
        train.RunFolder(folder.path)
    assert train.RunFolder.numbered("x", tmp_path / "runs").path.name == "x-2"


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(train.MissingExtra, match=r"katachi\[curves\]"):
        train.save_curves(tmp_path / "c.png", [{"epoch": 1, "loss": 1.0}])
    assert not list(tmp_path.iterdir())


def test_accuracy_is_of_targets_of_the_right_shape() -> None:
    output = kt.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert train.accuracy(output, kt.tensor([1, 1, 1])).item() == pytest.approx(2 / 3)
    with pytest.raises(kt.ShapeError, match=r"accuracy: needs a target of shape \(3,\) .* got \(3, 1\)"):
        train.accuracy(output, kt.tensor([[1], [1], [1]]))
    assert train.accuracy(output.reshape((1, 3, 2)), kt.tensor([[1, 0, 0]]), axis=-1).item() == pytest.approx(2 / 3)


def test_no_metric_takes_the_losss_place() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match='cannot be called "loss"'):
        train.Trainer(model, optim.SGD(model.parameters()), nn.functional.mse_loss, {"loss": train.accuracy})

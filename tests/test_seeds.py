"""kt.manual_seed decides the orders of DataLoader and random_split; `seed=` wins; a resumed run is bit-equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import data, io, nn, optim, train

ITEMS = data.TensorDataset(np.arange(50))


def order(loader: data.DataLoader) -> list[int]:
    return [int(i) for (part,) in loader for i in part.tolist()]


def shuffled(**settings: Any) -> data.DataLoader:
    return data.DataLoader(ITEMS, 8, shuffle=True, **settings)


def test_manual_seed_decides_the_orders() -> None:
    runs = []
    for seed in (0, 0, 1):
        kt.manual_seed(seed)
        loader = shuffled()
        runs.append([order(loader), order(loader), order(shuffled())])
    assert runs[0] == runs[1]
    assert len({tuple(o) for run in runs[1:] for o in run}) == 6


def test_it_does_so_for_a_loader_that_is_there_already() -> None:
    loader, workers = shuffled(), shuffled(num_workers=2)
    for one in (loader, workers):
        kt.manual_seed(5)
        first, second = order(one), order(one)
        kt.manual_seed(5)
        assert [order(one), order(one)] == [first, second] and first != second
    kt.manual_seed(5)
    assert order(loader) == first


def test_a_seed_of_its_own_wins() -> None:
    orders = []
    for seed in (0, 1):
        kt.manual_seed(seed)
        orders.append(order(shuffled(seed=3)))
        assert kt.rand(1).item() == kt.rand(1, generator=kt.Generator(seed)).item()
    assert orders[0] == orders[1]


def test_an_unshuffled_loader_takes_no_draw() -> None:
    kt.manual_seed(4)
    assert order(data.DataLoader(ITEMS, 8)) == list(range(50))
    assert kt.rand(1).item() == kt.rand(1, generator=kt.Generator(4)).item()


def test_what_a_loader_drew_repeats_its_run() -> None:
    loader = shuffled()
    assert loader.seed is None
    first, second = order(loader), order(loader)
    again = shuffled(seed=loader.seed)
    assert [order(again), order(again)] == [first, second]
    assigned = shuffled()
    assigned.seed, assigned.epoch = loader.seed, 1
    assert order(assigned) == second


def test_manual_seed_decides_random_split() -> None:
    def split(seed: int | None = None) -> list[list[int]]:
        return [list(part.indices) for part in data.random_split(range(30), [20, 10], seed)]

    kt.manual_seed(0)
    first, second = split(), split()
    kt.manual_seed(0)
    assert [split(), split()] == [first, second] and first != second
    fixed = split(3)
    kt.manual_seed(1)
    assert split(3) == fixed and split() != first


def parts() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    items = data.TensorDataset(rng.standard_normal((20, 5)).astype(np.float32), rng.integers(0, 3, 20))
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    return {
        "model": model, "optimizer": optim.AdamW(model.parameters(), lr=0.05),
        "loader": data.DataLoader(items, batch_size=6, shuffle=True),
    }  # fmt: skip


STEPS = 11


def run(p: dict[str, Any], first: int, last: int, path: Path | None = None) -> list[Any]:
    step = first
    while step < last:
        for x, y in p["loader"]:
            nn.functional.cross_entropy(p["model"](x), y).backward()
            p["optimizer"].step()
            step += 1
            if step == last:
                break
    if path is not None:
        io.save_checkpoint(path, **p, step=step)
    return [v.tolist() for v in p["model"].state_dict().values()]


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("stop", [0, 1, 4, 5, 8])
@pytest.mark.parametrize("seeded", [False, True])
def test_a_resumed_run_of_an_unseeded_loader_is_bit_equal(tmp_path: Path, stop: int, device: str, seeded: bool) -> None:
    with kt.device(device):
        kt.manual_seed(8)
        whole = run(parts(), 0, STEPS)
        kt.manual_seed(8)
        run(parts(), 0, stop, tmp_path / "run")
        if seeded:  # by a program that begins as the first one did
            kt.manual_seed(8)
        p = parts()
        io.load_checkpoint(tmp_path / "run", **p)
        assert run(p, stop, STEPS) == whole


def test_a_trainer_resumes_an_unseeded_loader(tmp_path: Path) -> None:
    points = data.TensorDataset(np.arange(24, dtype=np.float32)[:, None], np.ones((24, 1), np.float32))

    def fit(epochs: int, loader: data.DataLoader, model: nn.Module) -> list[Any]:
        opt = optim.SGD(model.parameters(), lr=1e-3)
        train.Trainer(model, opt, nn.functional.mse_loss).fit(loader, epochs)
        return [v.tolist() for v in model.state_dict().values()]

    kt.manual_seed(2)
    whole = fit(4, data.DataLoader(points, 5, shuffle=True), nn.Linear(1, 1))
    kt.manual_seed(2)
    loader, model = data.DataLoader(points, 5, shuffle=True), nn.Linear(1, 1)
    fit(2, loader, model)
    io.save_checkpoint(tmp_path / "run", model=model, loader=loader)
    loader, model = data.DataLoader(points, 5, shuffle=True), nn.Linear(1, 1)
    io.load_checkpoint(tmp_path / "run", model=model, loader=loader)
    assert fit(2, loader, model) == whole

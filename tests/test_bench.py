"""The benchmark's own machinery: rows, merging, medians, tables, and one worker that needs no peer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import chart, memory, models, process, report, results, rounds, rows, tables, worker

MACHINE = {"processor": "a slide rule", "cores": "2"}
SETTINGS = rounds.Settings(rounds=2, burst=0.001, pause=0.0, timeout=60.0)


def row(kind: str = "steps", **seconds: float) -> dict[str, Any]:
    columns = {name.replace("_", " "): {"seconds": s, "versions": {"it": "1.0"}} for name, s in seconds.items()}
    return {"kind": kind, "what": "an example", "date": "2020-01-01", "rounds": 2, "columns": columns}


def test_rows_are_chosen_by_name_kind_and_family() -> None:
    assert [r.name for r in rows.chosen(["gpt", "matmul"])] == ["gpt", "matmul-512", "matmul-1024", "matmul-2048"]
    assert [r.name for r in rows.chosen(["steps"])] == ["xor", "mlp-small", "mlp-big", "cnn", "gpt"]
    assert len(rows.chosen([])) == len(rows.ROWS)
    with pytest.raises(ValueError, match="no row 'gtp'"):
        rows.chosen(["xor", "gtp"])


def test_a_row_measured_again_replaces_itself_and_no_other(tmp_path: Path) -> None:
    found = results.load(tmp_path, MACHINE)
    for name, seconds in (("cnn", 3.0), ("xor", 1.0), ("cnn", 2.0)):
        found = results.merged(found, name, row(katachi=seconds))
        results.save(tmp_path, found)
    again = results.load(tmp_path, MACHINE)
    assert list(again["rows"]) == ["xor", "cnn"]  # in the order of the table, not of the runs
    assert again["rows"]["cnn"]["columns"]["katachi"]["seconds"] == 2.0
    with pytest.raises(results.OtherMachine, match="a slide rule"):
        results.load(tmp_path, {**MACHINE, "cores": "64"})
    assert [path.name for path in tmp_path.iterdir()] == [results.NAME]


def test_ratios_take_the_best_peer_and_tables_name_what_is_missing() -> None:
    step = row(katachi=0.002, katachi_compiled=0.001, torch=0.004)
    step["columns"]["torch.compile"] = {"error": "no C++ compiler"}
    step["columns"]["JAX jit"] = {"error": "died of signal 9: " + "a long story " * 9}
    found = results.merged({"machine": MACHINE, "rows": {}}, "xor", step)
    (times,) = [t for t in tables.tables(found) if t.title.startswith("Training steps")]
    assert times.lines == [["xor", "2.00", "1.00", "4.00", "no C++ compiler", "failed, see below", "0.50", "0.25"]]
    text = report.markdown(found, None)
    assert "xor, JAX jit: died of signal 9" in text and "a slide rule" in text and "| it | 1.0 |" in text


def test_adamw_is_told_as_a_share_of_the_best_triad() -> None:
    adamw = row("kernels", katachi=0.035, torch=0.07, katachi_triad=0.012, torch_triad=0.02)
    found = results.merged({"machine": MACHINE, "rows": {}}, "adamw", adamw)
    times, bandwidth = tables.tables(found)
    assert times.lines == [["adamw", "35.0", "70.0", "0.50", tables.NONE]]  # a triad is no peer
    assert [line[1:] for line in bandwidth.lines] == [
        ["40.0", "80%"],
        ["20.0", "40%"],
        ["50.0", "100%"],
        ["30.0", "60%"],
    ]


def test_the_picture(tmp_path: Path) -> None:
    found: dict[str, Any] = {"machine": MACHINE, "rows": {}}
    assert not chart.draw(found, tmp_path / "ratios.png")
    found = results.merged(found, "xor", row(katachi=0.002, torch=0.001))
    assert chart.draw(found, tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")


def test_distance_sees_shapes_values_and_nan() -> None:
    assert rounds.distance([[[1.0, 4.0]]], [[[1.0, 2.0]]]) == 1.0
    assert rounds.distance([[[1.0]]], [[[1.0, 2.0]]]) == np.inf
    assert rounds.distance([[[1.0]]], [[[1.0], [1.0]]]) == np.inf
    assert np.isnan(rounds.distance([[[1.0], [np.nan]]], [[[1.0], [1.0]]]))


def test_a_sample_meets_every_column() -> None:
    (few,) = worker.sample(np.tile(np.arange(64.0), (4096, 1)))
    assert len(few) <= worker.SAMPLE and set(few) == set(np.arange(64.0))


def test_weights_have_the_names_and_shapes_of_the_layers() -> None:
    from bench.steps_katachi import GPT
    from katachi import nn

    for name in models.BATCHES:
        network: Any = GPT() if name == "gpt" else models.sequential(nn, name)
        want = {key: value.shape for key, value in network.state_dict().items()}
        assert {key: w.shape for key, w in models.weights(name).items()} == want


def test_katachi_alone_runs_xor_in_both_modes() -> None:
    found = rounds.race(rows.ROWS["xor"], SETTINGS, lambda _: None, ("katachi", "katachi compiled"))["columns"]
    for figures in found.values():
        assert figures.get("error") is None
        low, high = figures["quartiles"]
        assert 0 < low <= figures["seconds"] <= high and figures["seconds"] == pytest.approx((low + high) / 2)  # of two
        assert 0 < figures["first"] < figures["start"] and figures["forecast"] > 0 and figures["apart"] == 0
        assert (figures["peak"] is None) == (memory.read("VmHWM") is None)
    json.dumps(found)


def test_a_worker_that_dies_or_hangs_is_named_and_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KATACHI_CACHE", "elsewhere")  # is ours to set in a worker
    assert process.environment(tmp_path)["KATACHI_CACHE"] == str(tmp_path / "katachi")
    with process.Process("katachi", "xor", tmp_path, 30.0) as one:
        one.process.kill()
        with pytest.raises(process.Failed, match=r"signal 9|code"):
            one.ask("first")
    with process.Process("katachi", "xor", tmp_path, 0.01) as one, pytest.raises(process.Failed, match=r"no answer in"):
        one.ask("first")
    assert one.process.poll() is not None
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(OSError):
        process.Process("katachi", "xor", tmp_path, 1.0)

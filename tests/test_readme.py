"""What the documentation shows is run: the README's loop, the tour's snippets, and the commands it names."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest

import katachi as kt
from katachi.data import DataLoader
from katachi.train import accuracy

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_the_loop_in_the_readme_learns(device: str) -> None:
    loop, logged, *_ = blocks(README, "python")
    assert len(loop.strip().splitlines()) <= 11  # with the blank line
    kt.manual_seed(0)
    names: dict[str, object] = {}
    with kt.device(device):
        exec(compile(loop, "README.md", "exec"), names)
        images, labels = next(iter(DataLoader(names["test"], batch_size=360)))  # type: ignore[arg-type]
        with kt.no_grad():
            assert accuracy(names["model"](images), labels).item() > 0.9  # type: ignore[operator]
        exec(compile(logged, "README.md", "exec"), names)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_the_compiled_step_in_the_readme_learns(device: str) -> None:
    *_, text, _ = blocks(README, "python")
    names: dict[str, Any] = {}
    with kt.device(device):
        exec(compile(text, "README.md", "exec"), names)
        x, y = kt.randn(4, 2), kt.randint(0, 3, (4,))
        first = names["step"](x, y).item()
        assert kt.explain(names["step"], x, y).programs_built == 0
        for _ in range(50):
            last = names["step"](x, y).item()
        assert last < first


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_the_evaluation_in_the_readme_builds_nothing_more(device: str) -> None:
    *_, text = blocks(README, "python")
    with kt.device(device):
        exec(compile(text, "README.md", "exec"), {})


def test_the_tour_is_as_it_says() -> None:
    text = "\n".join(blocks((ROOT / "docs" / "tour.md").read_text("utf-8"), "pycon"))
    example = doctest.DocTestParser().get_doctest(text, {}, "tour.md", "docs/tour.md", 0)
    said: list[str] = []
    before = kt.zeros(1).device
    kt.eval()  # the tour begins with an empty trace
    try:
        failed, tried = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(example, out=said.append)
    finally:
        kt.use_device(before)
    assert tried > 20 and not failed, "".join(said)


def test_every_room_has_its_readme() -> None:
    for room in sorted(p for p in (ROOT / "src" / "katachi").iterdir() if p.is_dir() and p.name != "__pycache__"):
        lines = (room / "README.md").read_text("utf-8").splitlines()
        assert lines[0] == f"# {room.name}/" and 5 <= len(lines) <= 20, room
        for named in re.findall(r"^- `([\w/.]+\.py)`", "\n".join(lines), re.MULTILINE):
            assert (room / named).exists(), f"{room.name}/README.md names {named}"


def test_what_the_documents_name_exists() -> None:
    for document in ("README.md", "CONTRIBUTING.md", "docs/tour.md", "docs/status.md"):
        text = (ROOT / document).read_text("utf-8")
        for path in re.findall(r"`((?:docs|src|tools)/[\w/.]+)`", text):
            assert (ROOT / path).exists(), f"{document} names {path}"
        for path in re.findall(r"`((?:graph|transforms|kernels|devices|tensor|nn|optim)/[\w/]+\.py)`", text):
            assert (ROOT / "src" / "katachi" / path).exists(), f"{document} names {path}"
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"`?make (\w+)", README + (ROOT / "CONTRIBUTING.md").read_text("utf-8"))) <= set(targets)

"""Shapes checked before the run: good programs pass, wrong lines are found, and the run finds them as well."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import katachi as kt

ROOT = Path(__file__).parents[1]
MLP, CNN, TRANSFORMER = (ROOT / "examples" / f"{name}.py" for name in ("mlp", "cnn", "transformer"))
PLANTED = sorted((ROOT / "tests" / "planted").glob("*.py"))


def pyrefly(folder: Path, *files: Path) -> dict[tuple[str, int], str]:
    """(file name, line): message, for every error that Pyrefly finds in files, checked as a user's would be."""
    binary = Path(sys.executable).with_name("pyrefly.exe" if os.name == "nt" else "pyrefly")
    (folder / "pyproject.toml").write_text("[tool.pyrefly]\n", "utf-8")
    found = subprocess.run(
        [
            str(binary), "check", "-j1", "--config", str(folder / "pyproject.toml"), "--search-path", str(ROOT / "src"),
            "--python-interpreter-path", sys.executable, "--output-format", "min-text", *map(str, files),
        ],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert found.returncode in (0, 1), found.stdout + found.stderr
    lines = re.findall(r"^ *ERROR (.*?):(\d+):\S+ (.*)", found.stdout, re.MULTILINE)
    assert bool(lines) == (found.returncode == 1), found.stdout + found.stderr
    return {(Path(name).name, int(line)): message for name, line, message in lines}


def test_the_examples_are_clean(tmp_path: Path) -> None:
    assert pyrefly(tmp_path, MLP, CNN, TRANSFORMER) == {}


def test_every_planted_bug_is_found_and_nothing_else(tmp_path: Path) -> None:
    planted = {
        (path.name, number)
        for path in PLANTED
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if "# planted:" in line
    }
    assert len(planted) >= 30
    found = pyrefly(tmp_path, *PLANTED)
    assert planted - set(found) == set(), "missed"
    assert {place: found[place] for place in set(found) - planted} == {}, "false"


@pytest.mark.parametrize("path", PLANTED, ids=lambda path: path.stem)
def test_the_run_agrees_with_the_planted_lines(path: Path) -> None:
    text = path.read_text("utf-8")
    names: dict[str, object] = {"__name__": path.stem}
    exec(compile(text, str(path), "exec"), names)
    for function in ast.parse(text).body:
        if isinstance(function, ast.FunctionDef) and not function.args.args:
            for statement in function.body:
                code = compile(ast.Module([statement], []), str(path), "exec")
                if "# planted:" in text.splitlines()[statement.lineno - 1]:
                    with pytest.raises(kt.Error):
                        exec(code, names)
                else:
                    exec(code, names)


@pytest.mark.parametrize(
    ("example", "right", "wrong", "at"),
    [
        (MLP, "nn.Linear(32, 10)", "nn.Linear(23, 10)", "return self.out("),
        (MLP, "nn.Linear(hidden, outputs))", "nn.Linear(outputs, hidden))", "return self.net(x)"),
        (CNN, "stride=2, padding=1)", "stride=1, padding=1)", "return self.fc("),
        (CNN, "8 * 3 * 3, 10)", "8 * 4 * 4, 10)", "return self.head("),
        (CNN, "nn.Conv2d(8, 16,", "nn.Conv2d(16, 8,", "self.conv2(x1)"),
        (TRANSFORMER, "nn.Linear(width, letters)", "nn.Linear(letters, width)", "return self.head("),
        (TRANSFORMER, "nn.Linear(4 * width, width))", "nn.Linear(width, 4 * width))", "return y + self.mlp("),
    ],
)
def test_a_wrong_size_is_found_before_the_run_and_by_it(
    tmp_path: Path, example: Path, right: str, wrong: str, at: str
) -> None:
    text = example.read_text("utf-8")
    assert text.count(right) == 1
    copy = tmp_path / "wrong.py"
    copy.write_text(text.replace(right, wrong), "utf-8")
    line = next(n for n, content in enumerate(text.splitlines(), 1) if at in content)
    assert ("wrong.py", line) in pyrefly(tmp_path, copy)
    names: dict[str, object] = {"__name__": "wrong"}
    exec(compile(copy.read_text("utf-8"), str(copy), "exec"), names)
    shapes = names["shapes"]
    assert callable(shapes)
    with pytest.raises(kt.ShapeError):
        shapes()


def test_what_the_checker_cannot_know_is_a_shape_error_with_names() -> None:
    names: dict[str, object] = {"__name__": "mlp"}
    exec(compile(MLP.read_text("utf-8"), str(MLP), "exec"), names)
    model = names["MLP"]
    assert callable(model)
    with pytest.raises(
        kt.ShapeError, match=r"MLP.forward: x must have shape \[B, I\] with B = 2, I = 64, got \(2, 63\)"
    ):
        model(64, 5, 10)(kt.zeros(2, 63))


def test_undeclared_names_and_patterns_that_are_none_are_refused() -> None:
    @kt.shape_vars("B")
    def fine(x: kt.Shaped[kt.Tensor, "[B, 3]"]) -> kt.Tensor:
        return x

    assert fine(kt.zeros(2, 3)).shape == (2, 3)
    head = "from __future__ import annotations\nfrom katachi import Shaped, Tensor, shape_vars\n"
    for body, error in [
        ('@shape_vars("B")\ndef f(x: Shaped[Tensor, "[Bx, 3]"]): ...', NameError),
        ('@shape_vars("B")\ndef f(x: Shaped[Tensor, "[B, 3"]): ...', ValueError),
        ('@shape_vars("B C")\ndef f(x: Shaped[Tensor, "[B, 3]"]): ...', ValueError),
        (
            '@shape_vars("I")\nclass A:\n    @shape_vars("B")\n    def f(self, x: Shaped[Tensor, "[B, J]"]): ...',
            NameError,
        ),
    ]:
        with pytest.raises(error, match="shape_vars"):
            exec(head + body, {"__name__": "typo"})


def test_functions_and_methods_are_one_object_and_shape_rules_are_not_imported() -> None:
    assert kt.Tensor.sum is kt.sum and kt.Tensor.__add__ is kt.add and kt.Tensor.reshape is kt.reshape
    assert not hasattr(kt.zeros(1), "__dict__")
    code = "import katachi, katachi.nn, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"shape_extensions", "katachi.tensor.shape_rules"} & set(run.stdout.split())

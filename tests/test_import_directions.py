"""Imports point down the list of rooms, and the checker that says so sees what it should."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
violations = runpy.run_path(str(ROOT / "tools" / "import_directions.py"))["violations"]


def test_the_package_imports_one_way() -> None:
    assert violations(ROOT / "src" / "katachi") == []


def package(folder: Path, files: dict[str, str]) -> Path:
    for name, text in {"__init__.py": "", "errors.py": "", "nn/__init__.py": "", "tensor/__init__.py": ""}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(files.get(name, text))
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    "files",
    [
        {"tensor/a.py": "from katachi.nn import Linear"},
        {"tensor/a.py": "import katachi.nn.linear"},
        {"tensor/a.py": "from katachi import nn"},
        {"tensor/a.py": "from katachi import zeros"},
        {"tensor/a.py": "import katachi as kt"},
        {"tensor/a.py": "from ..nn import Linear"},
        {"tensor/a.py": "from .. import nn"},
        {"tensor/a.py": "def f():\n    from katachi.nn import Linear"},
        {"tensor/a.py": "if TYPE_CHECKING:\n    pass\nelse:\n    import katachi.nn"},
        {"tensor/a.py": "try:\n    import katachi.nn\nexcept ImportError:\n    pass"},
        {"errors.py": "from katachi.tensor import Tensor"},
        {"nn/a.py": "import katachi.optim", "optim/__init__.py": ""},
        {"__init__.py": "from katachi import nn"},
        {"__init__.py": "from katachi.train import Trainer", "train/a.py": "from katachi.nn import Module"},
        {"cellar/__init__.py": ""},
    ],
)
def test_wrong_ways_are_found(tmp_path: Path, files: dict[str, str]) -> None:
    assert len(violations(package(tmp_path, files))) == 1


@pytest.mark.parametrize(
    "files",
    [
        {"nn/a.py": "from katachi.tensor import Tensor\nfrom katachi.errors import ShapeError"},
        {"nn/a.py": "from katachi.nn.b import Module\nfrom . import b\nfrom .b import Module"},
        {"tensor/a.py": "if TYPE_CHECKING:\n    from katachi.nn import Linear"},
        {"tensor/a.py": "if typing.TYPE_CHECKING:\n    from katachi.nn import Linear"},
        {"tensor/a.py": "import numpy"},
        {"__init__.py": "from katachi.tensor import Tensor\ndef __getattr__(name):\n    import katachi.nn"},
    ],
)
def test_right_ways_pass(tmp_path: Path, files: dict[str, str]) -> None:
    assert violations(package(tmp_path, files)) == []

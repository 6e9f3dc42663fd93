"""A folder with a valid project, and ways to break it."""

from collections.abc import Callable
from pathlib import Path

import pytest

VALID = """\
version: 1
name: shapes
architecture:
  family: yolov8-seg
  scale: n
dataset:
  path: .
  train: images/train
  val: images/val
  names: [circle, square]
hyperparameters:
  imgsz: 320
  epochs: 10
targets:
  - format: onnx
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a dataset's folders, nothing else."""
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "val").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Callable[..., Path]:
    """Writes ``project.yaml``: the valid one, with a part of its text replaced."""

    def _write(old: str = "", new: str = "") -> Path:
        assert old in VALID
        (folder / "project.yaml").write_text(VALID.replace(old, new, 1) if old else VALID, encoding="utf-8")
        return folder / "project.yaml"

    return _write

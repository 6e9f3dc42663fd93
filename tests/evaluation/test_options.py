"""Options of `segc val` that a model leaves without an effect."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segc.evaluation import project
from segc.spec.load import load_project

if TYPE_CHECKING:
    from segc.diagnostics import Diagnostic

PROJECT = """\
version: 1
name: x
architecture: {family: yolov8-seg, scale: n}
dataset: {path: ., train: images, val: images, names: [thing]}
"""


def test_options_without_effect_on_a_model_of_one_size_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "labels" / "a.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    path = tmp_path / "project.yaml"
    path.write_text(PROJECT)
    metadata = SimpleNamespace(dynamic=False, precision="fp32")
    monkeypatch.setattr(project, "artifact_session", lambda *_: SimpleNamespace(metadata=metadata))
    monkeypatch.setattr(project, "_size", lambda *_: (32, 32))
    monkeypatch.setattr(project, "evaluate_session", lambda *_, **__: None)

    def told(**options: Any) -> list[str | None]:
        said: list[Diagnostic] = []
        project.evaluate_project(load_project(path), tmp_path, artifact=path, warn=said.extend, **options)
        return [one.argument for one in said]

    assert told() == []
    assert told(rect=True, batch=4) == ["--rect", "--batch"]
    metadata.dynamic = True
    assert told(rect=True, batch=4) == []

"""``segc val`` from the command line."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from segc.architectures import build_graph
from segc.cli import run
from segc.inference.metadata import Metadata
from segc.network.initialise import initial_weights
from segc.spec.load import load_project
from segc.weights.resolve import own_metadata
from segc.weights.store import save_weights

PROJECT = """
version: 1
name: tiny
architecture:
  family: yolov8-seg
  scale: {depth: 0.1, width: 0.05, max_channels: 128}
dataset: {path: data, train: images/train, val: images/val, names: [dot, a longer name]}
hyperparameters: {imgsz: 64, device: cpu}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with untrained weights, two labelled validation images and one unlabelled training image."""
    for split, number in (("val", 2), ("train", 1)):
        for kind in ("images", "labels"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for i in range(number):
            cv2.imwrite(str(tmp_path / "data" / "images" / split / f"{i}.png"), np.full((40, 50, 3), 200, np.uint8))
            text = "1 0.1 0.1 0.9 0.1 0.5 0.9\n" if split == "val" else ""
            (tmp_path / "data" / "labels" / split / f"{i}.txt").write_text(text)
    path = tmp_path / "project.yaml"
    path.write_text(PROJECT)
    loaded = load_project(path)
    graph = build_graph(loaded.project.architecture, loaded.project.dataset.nc, (64, 64))
    weights = initial_weights(graph.parameters, 0)
    save_weights(loaded.build_dir / "weights" / "best.safetensors", weights, own_metadata(loaded, graph))
    return path


def test_it_prints_a_row_for_all_and_one_a_class_that_is_labelled(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["val", str(project), "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    how, _, header, everything, named, *best = captured.out.splitlines()
    assert how == "val, 64x64, fp32, onnxruntime on the CPU"
    assert header.split() == ["class", "images", "instances", *["P", "R", "mAP50-95", "mAP50"] * 2]
    assert everything.split()[:3] == ["all", "2", "2"]
    assert named.startswith("a longer name")
    assert len(header) == len(everything) == len(named)
    assert best in ([], [line for line in best if line.startswith("best confidence: box ")])
    assert captured.err.startswith("weights: ")


def test_what_ran_and_how_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(["val", str(project), "--device", "cpu", "--runtime", "torch", "--rect", "--mask-grid", "prototypes"]) == 0
    )
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "val, frames within 64x64, fp32, PyTorch on cpu, masks on the grid of the prototypes"


def test_an_artifact_brings_its_own_runtime(project: Path) -> None:
    assert run(["val", str(project), "--artifact", "a.onnx", "--runtime", "torch"]) == 2


def test_json_holds_the_metrics_and_how_they_were_taken(project: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "metrics.json"
    assert run(["val", str(project), "--json", str(target), "--mask-grid", "prototypes", "--batch", "2"]) == 0
    values = json.loads(target.read_text())
    assert values["split"] == "val"
    assert values["mask_grid"] == "prototypes"
    assert values["size"] == [64, 64]
    assert values["images"] == values["instances"] == 2
    assert 0 <= values["box"]["map"] <= 1
    assert [row["name"] for row in values["classes"]] == ["a longer name"]


def test_a_split_without_labelled_objects_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["val", str(project), "--split", "train"]) == 1
    assert "E001" in capsys.readouterr().err


def test_missing_weights_are_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project.parent / "build" / "weights" / "best.safetensors").unlink()
    assert run(["val", str(project)]) == 1
    assert "W008" in capsys.readouterr().err


def test_weights_and_artifact_exclude_each_other(project: Path) -> None:
    assert run(["val", str(project), "--weights", "a.safetensors", "--artifact", "b.onnx"]) == 2


class _Artifact:
    """An artifact of a fixed size and batch that finds nothing."""

    def __init__(self, names: list[str]) -> None:
        self.metadata = Metadata(tuple(names), (32, 96), batch=2)
        self.runtime = "a test"
        self.shapes: list[tuple[int, ...]] = []

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.shapes.append(images.shape)
        n = len(images)
        return {
            "boxes": np.zeros((n, 63, 4), np.float32),
            "scores": np.zeros((n, 63, 2), np.float32),
            "coefficients": np.zeros((n, 63, 32), np.float32),
            "prototypes": np.zeros((n, 32, 8, 24), np.float32),
        }


def _with_artifact(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> _Artifact:
    artifact = _Artifact(names)
    monkeypatch.setattr("segc.sessions.artifact.open_artifact", lambda _path, **_: artifact)
    return artifact


def test_an_artifact_is_run_at_its_own_size_and_batch(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = _with_artifact(monkeypatch, ["dot", "a longer name"])
    assert run(["val", str(project), "--artifact", "model.onnx"]) == 0
    assert artifact.shapes == [(2, 3, 32, 96)]
    assert "0.000" in capsys.readouterr().out


def test_an_artifact_with_other_classes_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _with_artifact(monkeypatch, ["cat", "dog"])
    assert run(["val", str(project), "--artifact", "model.onnx"]) == 1
    assert "E002" in capsys.readouterr().err

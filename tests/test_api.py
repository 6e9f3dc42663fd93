"""The Python API does what the commands do."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import segc
from segc import Project, SegcError
from segc.network.initialise import initial_weights
from segc.weights.resolve import own_metadata
from segc.weights.store import save_weights

SPEC = """\
version: 1
name: api
architecture: {family: yolov8-seg, scale: {depth: 0.1, width: 0.05, max_channels: 128}}
dataset: {path: data, train: images/train, val: images/val, names: [dot, bar]}
hyperparameters: {imgsz: 64, epochs: 1, batch: 2, workers: 0, device: cpu, conf: 0.0}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(tmp_path / "data" / "images" / split / f"{i}.png"), np.full((40, 50, 3), 200, np.uint8))
            (tmp_path / "data" / "labels" / split / f"{i}.txt").write_text("1 0.1 0.1 0.9 0.1 0.5 0.9\n")
    file = tmp_path / "project.yaml"
    file.write_text(SPEC)
    return file


@pytest.fixture
def project(path: Path) -> Project:
    """With untrained weights."""
    project = Project.load(path)
    graph = project.build().graph
    weights = initial_weights(graph.parameters, 0)
    save_weights(project.build_dir / "weights" / "best.safetensors", weights, own_metadata(project.loaded, graph))
    return project


def test_importing_segc_imports_nothing_heavy() -> None:
    program = (
        "import sys, segc\n"
        "assert 'segc.api' not in sys.modules\n"
        "from segc import Project\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'cv2', 'faster_coco_eval', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_names_that_are_not_there_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Projekt'"):
        _ = segc.Projekt  # type: ignore[attr-defined]


def test_a_project_takes_overrides_and_a_build_directory(path: Path, tmp_path: Path) -> None:
    project = Project.load(path, "hyperparameters.epochs=3", build_dir=tmp_path / "elsewhere")
    assert project.spec.hyperparameters.epochs == 3
    assert project.build().folder == tmp_path / "elsewhere"
    assert (tmp_path / "elsewhere" / "project.lock.json").exists()
    assert Project.load(str(path)).build_dir == path.parent / "build"


def test_faults_of_a_spec_are_raised_with_their_diagnostics(path: Path) -> None:
    with pytest.raises(SegcError) as caught:
        Project.load(path, "hyperparameters.epoch=3")
    assert caught.value.diagnostics[0].code == "S102"


def test_the_text_of_an_error_says_where_each_fault_is(path: Path, tmp_path: Path) -> None:
    with pytest.raises(SegcError) as caught:
        Project.load(tmp_path / "nix.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'nix.yaml'}: F001: ")
    path.write_text(SPEC + "name: twice\n")
    with pytest.raises(SegcError) as caught:
        Project.load(path)
    assert str(caught.value).startswith(f"{path}:6:1: Y003: key `name` is given twice")
    path.write_text(SPEC.replace("epochs: 1", "epochs: 0").replace("batch: 2", "batch: 0"))
    with pytest.raises(SegcError) as caught:
        Project.load(path, "name=")
    lines = str(caught.value).splitlines()
    assert len(lines) == len(caught.value.diagnostics) >= 2
    assert all(str(path) in line or "name=" in line for line in lines)


def test_training_leaves_weights_and_a_report(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    project = Project.load(path)
    outcome = project.train(quiet=True)
    assert outcome is not None
    assert outcome.best.is_file()
    assert (outcome.folder / "report.html").is_file()
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert project.train(name="other", report=False, quiet=True).folder.name == "other"
    assert not (project.build_dir / "runs" / "other" / "report.html").exists()


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_metrics_have_their_names(project: Project, runtime: segc.api.Runtime) -> None:
    metrics = project.evaluate(runtime=runtime)
    for part in (metrics.box, metrics.seg):
        assert 0 <= part.map <= part.map50 <= 1
        assert 0 <= part.map75 <= 1
        assert part.maps[0] is None
        assert part.maps[1] == pytest.approx(part.map)


def test_predictions_come_one_by_one(project: Project) -> None:
    found = project.predict(project.loaded.dataset_root / "images" / "val", max_det=3)
    first = next(found)
    assert isinstance(first, segc.Prediction)
    assert (Path(first.path).name, first.height, first.width, len(first)) == ("0.png", 40, 50, 3)
    assert len(list(found)) == 1


def test_a_run_is_named_in_place_of_the_one_that_is_chosen(project: Project) -> None:
    images = project.loaded.dataset_root / "images" / "val"
    for call in (project.evaluate, project.model, lambda run: project.predict(images, run=run)):
        with pytest.raises(SegcError, match=r"R001"):
            call(run="none")
    assert project.emit("onnx", run=None, untrained=True)[0].status == "verified"
    with pytest.raises(ValueError, match="weights and run exclude each other"):
        project.predict(images, weights="x.safetensors", run="train")
    with pytest.raises(ValueError, match="run and artifact exclude each other"):
        project.evaluate(artifact="onnx", run="train")


def test_an_artifact_is_opened_once_and_in_this_process_where_it_is_trusted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (emission,) = project.emit("onnx")
    assert emission.folder is not None
    image = project.loaded.dataset_root / "images/val/1.png"
    by_project = project.model(artifact="onnx")(image).to_json()
    strange, trusted = segc.load(emission.folder), segc.load(emission.folder, trusted=True)
    monkeypatch.chdir(project.loaded.path.parent)
    own = segc.load("onnx", conf=0.0)
    kinds = [type(model.session).__name__ for model in (strange, trusted, own)]
    assert kinds == ["IsolatedModel", "Model", "Model"]
    assert own(image).to_json() == trusted(image, conf=0.0).to_json() == by_project
    assert strange(image, conf=0.0).to_json() == by_project


def test_a_project_is_opened_by_its_file_or_its_folder(project: Project) -> None:
    image = project.loaded.dataset_root / "images/val/1.png"
    expected = project.model(runtime="onnx", max_det=2)(image).to_json()
    assert len(expected["detections"]) == 2
    for source in (project, project.loaded.path, str(project.loaded.path.parent)):
        assert segc.load(source, runtime="onnx", max_det=2)(image).to_json() == expected


def test_sources_that_are_not_there_are_an_error_at_once(project: Project) -> None:
    with pytest.raises(SegcError) as caught:
        project.predict("nowhere.jpg")
    assert caught.value.diagnostics[0].code == "I001"


def test_predicting_no_sources_is_an_error_before_a_model_is_opened(path: Path) -> None:
    with pytest.raises(SegcError, match=r"I001.*no sources"):
        Project.load(path).predict()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"split": "nix"}, "split is one of train, val, test, not 'nix'"),
        ({"mask_grid": "nix"}, "mask_grid is one of photograph, prototypes, not 'nix'"),
        ({"batch": 0}, "batch is a whole number from 1 up, not 0"),
        ({"rect": "a"}, "rect is one of None, True, False, not 'a'"),
        ({"runtime": "nix"}, "runtime is one of auto, torch, onnx, not 'nix'"),
        ({"runtime": "torch", "artifact": "onnx"}, "runtime is for weights: an artifact has its own"),
    ],
)
def test_how_a_model_is_to_be_evaluated_is_checked(path: Path, given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Project.load(path).evaluate(**given)


@pytest.mark.parametrize("limit", [0, -1, float("nan"), "1"])
def test_a_time_limit_is_a_time(path: Path, limit: Any) -> None:
    with pytest.raises(ValueError, match="time_limit is a number between 1 and 86400, not "):
        Project.load(path).emit("onnx", untrained=True, time_limit=limit)


def test_a_runtime_of_weights_is_refused_for_an_artifact(path: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not looked at")
    project = Project.load(path)
    for call in (
        lambda: segc.load(tmp_path / "m.onnx", runtime="torch"),
        lambda: project.model(artifact=tmp_path / "m.onnx", runtime="torch"),
        lambda: project.predict(path.parent / "data/images/val", artifact=tmp_path / "m.onnx", runtime="onnx"),
    ):
        with pytest.raises(ValueError, match="runtime is for weights: an artifact has its own"):
            call()
    with pytest.raises(ValueError, match="runtime is one of auto, torch, onnx, not 'nix'"):
        project.model(runtime="nix")


def test_an_artifact_is_emitted_and_evaluates_as_its_weights_do(project: Project) -> None:
    (emission,) = project.emit("onnx")
    assert emission.status == "verified"
    assert emission.folder is not None
    there, here = project.evaluate(artifact=emission.folder), project.evaluate(runtime="torch")
    assert there.box.map == pytest.approx(here.box.map, abs=1e-3)
    assert next(project.predict(project.loaded.dataset_root / "images/val/1.png", artifact=emission.folder)).width == 50


def test_warnings_reach_python_as_warnings(project: Project) -> None:
    renamed = Project.load(project.loaded.path, "dataset.names=[spot, bar]")
    with pytest.warns(UserWarning, match="W009"):
        renamed.evaluate()


def test_an_artifact_that_suppresses_by_itself_is_asked_only_for_what_it_has(path: Path) -> None:
    path.write_text(SPEC + "targets: [{format: coreml, nms: true}]\n")
    project = Project.load(path, "hyperparameters.conf=0.2")
    (emission,) = project.emit(untrained=True)
    assert emission.status == "unjudged", emission.diagnostics  # untrained, it detects nothing to compare
    images = project.loaded.dataset_root / "images" / "val"
    assert len(list(project.predict(images, artifact="coreml"))) == 2
    for asked in ({"conf": 0.1}, {"iou": 0.9}, {"max_det": 400}):
        with pytest.raises(SegcError, match=r"I005.*the model suppresses by itself"):
            project.predict(images, artifact="coreml", **asked)


def test_a_test_split_is_measured_where_the_project_names_one(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    from segc.cli import run

    with pytest.raises(SegcError, match=r"D001.*no images to test on"):
        project.evaluate(split="test")
    root = project.loaded.dataset_root
    for kind in ("images", "labels"):
        (root / kind / "test").mkdir()
    cv2.imwrite(str(root / "images" / "test" / "t.png"), np.full((40, 50, 3), 200, np.uint8))
    (root / "labels" / "test" / "t.txt").write_text("0 0.1 0.1 0.9 0.1 0.5 0.9\n")
    path = project.loaded.path
    path.write_text(SPEC.replace("val: images/val", "val: images/val, test: images/test"))
    metrics = Project.load(path).evaluate(split="test", runtime="onnx")
    assert (metrics.images, metrics.class_instances) == (1, (1, 0))
    assert run(["val", str(path), "--split", "test", "--runtime", "onnx"]) == 0
    assert capsys.readouterr().out.startswith("test, 64x64")
    path.write_text(SPEC.replace("val: images/val", "val: images/val, test: images/tst"))
    assert [one.code for one in Project.load(path).loaded.warnings] == ["X212"]


def test_the_test_split_of_a_data_file_is_taken(project: Project) -> None:
    path = project.loaded.path
    (path.parent / "data.yaml").write_text(
        "path: data\ntrain: images/train\nval: images/val\ntest: [images/val]\nnames: [dot, bar]\n"
    )
    path.write_text(re.sub(r"dataset: .*", "dataset: {data: data.yaml}", SPEC))
    assert Project.load(path).evaluate(split="test", runtime="onnx").images == 2


def test_options_of_val_without_an_effect_are_told(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    from segc.cli import run

    (emission,) = project.emit("onnx")
    artifact = ["--artifact", str(emission.folder)]
    assert run(["val", str(project.loaded.path), *artifact, "--batch", "4", "--rect"]) == 0
    said = capsys.readouterr().err
    assert said.count("has no effect: the model takes 1 images of one size") == 2
    assert run(["val", str(project.loaded.path), *artifact]) == 0
    assert "no effect" not in capsys.readouterr().err

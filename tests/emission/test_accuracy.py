"""What an artifact loses is measured as it ships, and what loses more than is accepted fails and says where."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segc.arrays import load_arrays, save_arrays
from segc.cli import run
from segc.data.labels import Instance
from segc.data.samples import Sample
from segc.emission import accuracy
from segc.emission.accuracy import Validation, covering, drop, rows, shortfalls, tables
from segc.emission.order import Order
from segc.emission.project import emit_project
from segc.spec.load import load_project
from segc.targets.contract import Accept
from segc.targets.registry import targets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segc.emission.order import Emission
    from segc.emission.reference import References
    from segc.emission.requests import EmitTask

    Change = Callable[[dict[str, np.ndarray]], None]

NAMES = ("circle", "owl")


def measured(box: Sequence[float | None], mask: Sequence[float | None]) -> dict[str, Any]:
    """What a worker measures: figures of all, of a circle, of an owl."""
    sides = {"box": box, "mask": mask}
    parts = {part: {"map50_95": all_, "map50": 1.0, "classes": each} for part, (all_, *each) in sides.items()}
    return {"objects": [3 if box[1] is not None else 0, 2 if box[2] is not None else 0], **parts}


FLOAT = measured((0.8, 0.9, 0.7), (0.6, 0.7, 0.5))
SPLIT = Validation([], 9)


@pytest.mark.parametrize(
    ("box", "mask", "accept", "passed", "lost"),
    [
        (0.79, 0.59, Accept(), True, []),
        (0.85, 0.6, Accept(), True, []),
        (0.789, 0.6, Accept(), False, ["box"]),
        (0.7, 0.5, Accept(), False, ["box", "mask"]),
        (0.7, 0.5, Accept(box_map_drop=0.2, mask_map_drop=0.2), True, []),
        (0.8, 0.599, Accept(mask_map_drop=0), False, ["mask"]),
        (0.1, 0.1, None, None, []),
    ],
)
def test_what_is_lost_is_held_against_what_is_accepted(
    box: float, mask: float, accept: Accept | None, passed: bool | None, lost: list[str]
) -> None:
    found = accuracy.record(measured((box, 0.9, 0.7), (mask, 0.7, 0.5)), FLOAT, accept, SPLIT)
    assert found["passed"] is passed
    assert [fault.split()[0] for fault in shortfalls(found)] == lost


def test_a_shortfall_names_both_figures_and_the_classes_that_lose_most() -> None:
    found = accuracy.record(measured((0.6, 0.9, 0.3), (0.6, 0.7, 0.5)), FLOAT, Accept(), SPLIT)
    (fault,) = shortfalls(found)
    assert fault == "box mAP50-95 0.600, the trained network's 0.800: 0.2000 lost, 0.01 accepted"
    assert [row.name for row in rows(found, NAMES)] == ["all", "circle", "owl"]
    text = "box all 0.600/0.800, owl 0.300/0.700, circle 0.900/0.900; mask all 0.600/0.600, owl 0.500/0.500"
    assert text in tables(found, NAMES)


def test_without_objects_nothing_is_judged() -> None:
    nothing = measured((None, None, None), (None, None, None))
    found = accuracy.record(nothing, nothing, Accept(), SPLIT)
    assert found["passed"] is None
    assert drop(found, "box") is None
    assert accuracy.summary(found) == ""
    assert len(list(rows(found, NAMES))) == 1


def sample(name: str, *classes: int) -> Sample:
    triangle = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    return Sample(Path(name), None, tuple(Instance(one, (triangle,)) for one in classes))


def test_few_photographs_cover_as_many_classes_as_can_be() -> None:
    samples = [sample("a"), sample("b", 0), sample("c", 0, 1), sample("d", 3), sample("e", 0, 1, 2), sample("f", 0)]
    assert [path.name for path in covering(samples, 1)] == ["d", "e"]
    assert len(covering(samples, 4)) == 4
    assert [path.name for path in covering(samples[:1], 3)] == ["a"]
    assert len(covering([sample(str(number), number) for number in range(80)], 3)) == accuracy.COVERING


def test_the_sample_is_the_same_every_time_and_its_digest_hangs_on_the_labels(project: Path, shapes: Path) -> None:
    loaded = load_project(project)
    few, again = accuracy.validation(loaded, 5), accuracy.validation(loaded, 5)
    assert [one.image for one in few.samples] == [one.image for one in again.samples]
    assert (len(few.samples), few.of) == (5, len(list((shapes / "images" / "train").iterdir())))
    assert few.digest() == again.digest()
    first = few.samples[0]
    assert (
        few.digest() != Validation([replace(first, instances=first.instances[1:]), *few.samples[1:]], few.of).digest()
    )


def _scale_a_prototype(weights: dict[str, np.ndarray]) -> None:
    """One channel that masks are made of three times as large; SiLU is nearly straight where it is large."""
    weights["model.22.proto.cv3.bn.weight"][5] *= 3
    weights["model.22.proto.cv3.bn.bias"][5] *= 3


def _answer_nothing(weights: dict[str, np.ndarray]) -> None:
    for level in range(3):
        weights[f"model.22.cv3.{level}.2.weight"][:] = 0
        weights[f"model.22.cv3.{level}.2.bias"][:] = -30


INT8 = {"format": "openvino", "int8": True, "keep_float": False}
"""A target that computes in integers, and mends nothing by itself."""


@pytest.fixture
def as_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX models that say of themselves that their weights have eight bits: they are judged as such, and quick."""
    onnx = targets()["onnx"]
    claimed = replace(onnx, settings=lambda options: {**onnx.settings(options), "precision": "weight-only-int8"})
    monkeypatch.setitem(targets(), "onnx", claimed)


def emit(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Change | None = None,
    settings: Sequence[str] = (),
    **options: Any,
) -> Emission:
    """Emit the project's model, ONNX if not said, with a defect planted in the weights that the emitter gets."""
    task = Order._emit_task

    def planted(self: Order, references: References) -> EmitTask:
        made = task(self, references)
        values = {name: value.copy() for name, value in load_arrays(Path(made.weights)).items()}
        change(values)
        save_arrays(self.work / "planted.safetensors", values)
        return replace(made, weights=str(self.work / "planted.safetensors"))

    if change is not None:
        monkeypatch.setattr(Order, "_emit_task", planted)
    text = json.dumps({"format": "onnx", "accept": {"images": 12}, **options})
    settings = (f"targets.0={text}", "calibration.number=8", *settings)
    (emission,) = emit_project(load_project(project, settings), project.parent / "build")
    return emission


def described(emission: Emission) -> dict[str, Any]:
    assert emission.folder is not None
    value: dict[str, Any] = json.loads((emission.folder / "artifact.json").read_bytes())
    return value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_scale_a_prototype, "prototypes, channel 5: "),
        (_answer_nothing, "scores, "),
    ],
)
def test_a_planted_defect_fails_in_int8_and_the_message_names_the_output(
    change: Change, said: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emission = emit(project, monkeypatch, change, **INT8)
    assert emission.status == "failed", emission
    assert emission.diagnostics[0].code == "T007"
    message = emission.diagnostics[0].message
    assert said in message
    assert "times what the network gives" in message.partition(said)[2]
    assert described(emission)["accuracy"]["images"] == 12


def test_int8_that_is_calibrated_on_black_images_fails_and_the_message_names_the_outputs(
    project: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for image in sorted((shapes / "images" / "train").iterdir())[:8]:
        cv2.imwrite(str(tmp_path / "images" / f"{image.stem}.png"), np.zeros((160, 160, 3), np.uint8))
        shutil.copy(shapes / "labels" / "train" / f"{image.stem}.txt", tmp_path / "labels")
    emission = emit(project, monkeypatch, settings=(f"dataset.train={tmp_path / 'images'}",), **INT8)
    assert emission.status == "failed", emission
    (fault,) = (one.message for one in emission.diagnostics if one.code == "T010")
    assert re.search(r"box mAP50-95 [\d.]+, the trained network's [\d.]+: [\d.]+ lost, 0\.01 accepted", fault)
    assert re.search(r"scores, \w+: [\d.]+ off on average \([\d.]+%\)", fault)


@pytest.mark.usefixtures("as_eight_bits")
def test_a_good_artifact_passes_and_both_tables_are_on_record(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emission = emit(project, monkeypatch)
    assert (emission.status, emission.diagnostics) == ("verified", ())
    found = described(emission)["accuracy"]
    assert found["passed"] is True
    assert found["accept"] == {"box_map_drop": 0.01, "images": 12, "mask_map_drop": 0.01}
    assert found["float"]["box"]["map50_95"] > 0.9
    assert found["artifact"]["box"]["map50_95"] == pytest.approx(found["float"]["box"]["map50_95"], abs=2e-3)
    assert len(found["artifact"]["mask"]["classes"]) == len(found["objects"]) == 6
    assert len(described(emission)["photographs"]) >= 3
    assert "box mAP 0.99" in emission.summary


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 2])
def test_accuracy_of_int8_is_measured_of_a_project_of_fewer_epochs_than_a_warm_up_has(
    epochs: int, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emission = emit(project, monkeypatch, settings=(f"hyperparameters.epochs={epochs}",), **INT8)
    assert (emission.status, emission.diagnostics) == ("verified", ())
    found = described(emission)["accuracy"]
    assert all(found[side][part]["map50_95"] > 0.5 for side in ("artifact", "float") for part in ("box", "mask"))


def test_a_float_artifact_is_measured_where_that_is_asked_for(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    emission = emit(project, monkeypatch, accept={"mask_map_drop": 0.001, "images": 7})
    assert emission.status == "verified"
    assert described(emission)["accuracy"]["images"] == 7
    assert any("a seeded sample: 7 of the 48 images" in note for note in emission.notes)
    # What cannot be lost is lost where the network itself is said to find more than there is.
    monkeypatch.setattr(accuracy, "drop", lambda *_: 0.5)
    assert run(["emit", str(project), "--force", "--set", "targets.0.accept={images: 7}"]) == 1
    said = capsys.readouterr()
    assert "T010]: onnx: box mAP50-95 " in said.err
    assert "0.5000 lost, 0.01 accepted" in said.err
    assert "mAP50-95  objects  box, network  box, artifact" in said.out


def test_a_model_that_suppresses_is_held_against_what_that_leaves_of_the_network(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = {"box_map_drop": 0.002, "mask_map_drop": 0.002, "images": 7}
    emission = emit(project, monkeypatch, accept=accept, nms=True, conf=0.6, max_det=2)
    assert (emission.status, emission.diagnostics) == ("verified", ())
    found = described(emission)["accuracy"]
    # Two of some five objects an image.
    assert 0.1 < found["float"]["box"]["map50_95"] < 0.7
    assert "mAP of both sides is of what the model leaves: conf 0.6, iou 0.7, max_det 2" in emission.notes


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("{mask_map_drop: 2}", "S104"),
        ("{mask_drop: 0.1}", "mask_map_drop"),
        ("{images: 0}", "S104"),
        ("never", "S10"),
    ],
)
def test_what_cannot_be_accepted_is_refused(
    value: str, text: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["emit", str(project), "--set", f"targets.0.accept={value}"]) == 1
    assert text in capsys.readouterr().err

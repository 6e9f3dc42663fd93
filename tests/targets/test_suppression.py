"""Models that suppress by themselves find what the host finds, as a set, on every runtime that can."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segc.architectures.yolov8_seg import SCALES
from segc.emission.verify import OUTPUTS, Case, compare
from segc.inference.filters import FilterError, Filters, choose_filters
from segc.inference.letterbox import letterbox, to_input
from segc.inference.metadata import Metadata, ModelError
from segc.inference.postprocess import CLASS_SHIFT, named_outputs
from segc.network.session import TorchSession
from segc.targets.registry import targets
from segc.targets.suppression import class_shifts, finished, suppressed, suppression_notes, with_thresholds
from segc.weights.checkpoint import read_checkpoint
from tests.targets.conftest import DEFAULTS, Trained, open_here, run_in_worker

if TYPE_CHECKING:
    from pathlib import Path

    Outputs = dict[str, np.ndarray]

MADE: list[tuple[str, dict[str, Any]]] = [
    ("onnx", {}),
    ("onnx", {"opset": 11, "masks": True}),
    ("onnx", {"half": True, "batch": 2, "agnostic": True}),
    ("onnx", {"layout": "fused", "dynamic": True, "conf": 0.001, "iou": 0.45, "max_det": 30}),
    ("openvino", {"masks": True}),
    ("openvino", {"dynamic": True, "conf": 0.001, "agnostic": True}),
    ("torchscript", {"masks": True, "conf": 0.001}),
    ("tensorrt", {"dynamic": True, "agnostic": True}),
    ("tensorrt", {"masks": True}),
    ("saved_model", {"masks": True}),
    ("graphdef", {"agnostic": True, "iou": 0.45}),
    ("tflite", {"masks": True}),
    ("tflite", {"half": True, "agnostic": True}),
    ("tfjs", {"masks": True, "conf": 0.001}),
    ("paddle", {"masks": True, "conf": 0.001}),
]
"""Target and options beside ``nms``."""

SIZE = (320, 320)


def thresholds(metadata: Metadata) -> dict[str, Any]:
    return {name: getattr(metadata, name) for name in ("conf", "iou", "max_det", "agnostic")}


@pytest.fixture(scope="module")
def expected(reference: TorchSession, photographs: np.ndarray) -> Outputs:
    """What PyTorch makes of two pictures, before anything is suppressed."""
    return reference.run(np.ascontiguousarray(photographs[:, :, : SIZE[0], : SIZE[1]]))


@pytest.mark.parametrize(("target", "options"), MADE, ids=str)
def test_a_model_finds_what_the_host_finds(
    target: str, options: dict[str, Any], trained: Trained, expected: Outputs, photographs: np.ndarray, tmp_path: Path
) -> None:
    model = tmp_path / "m" / trained.emit(target, tmp_path / "m", SIZE, nms=True, **options).model
    images = np.ascontiguousarray(photographs[:, :, : SIZE[0], : SIZE[1]])
    chosen = trained.request(target, tmp_path, SIZE, nms=True, **options).metadata
    ours, said = run_in_worker(target, model, images, chosen.batch)
    assert said["metadata"] == chosen.to_json()
    given = thresholds(chosen)
    sides = [{f"case.{name}": value for name, value in side.items()} for side in (expected, ours)]
    found = compare([Case("case", images)], *sides, chosen.precision, 2, given)
    assert found.passed, found.faults()
    assert found.detections.matched == found.detections.reference >= 20
    if "masks" in options:
        boxes, _, _, coefficients = suppressed(*(expected[name] for name in OUTPUTS[:3]), **given)
        wanted = finished(coefficients, expected["prototypes"], boxes, SIZE)
        assert ours["masks"].shape == wanted.shape
        assert ((ours["masks"] > 0) != wanted).sum(axis=(2, 3)).max() <= 2


def test_suppression_is_the_hosts_on_real_photographs(peer: Path, coco: Path, tmp_path: Path) -> None:
    tensors = read_checkpoint(peer / "overfit32_last.pt").tensors
    many = Trained(tensors, tuple(map(str, range(80))), SCALES["n"])
    torch = TorchSession(many.graph(SIZE), tensors, many.metadata(SIZE, dynamic=True))
    paths = sorted((coco / "images").rglob("*.jpg"))[:6]
    images = to_input([letterbox(np.asarray(cv2.imread(str(path))), SIZE)[0][:, :, ::-1] for path in paths])
    whole, chosen = torch.run(images), many.request("onnx", tmp_path, SIZE, nms=True).metadata
    model = open_here("onnx", many.model_here("onnx", tmp_path / "m", SIZE, nms=True), 0)
    ours = [model.run(image[None]) for image in images]
    case = [Case("case", images)]
    left = {f"case.{name}": np.concatenate([one[name] for one in ours]) for name in OUTPUTS}
    result = compare(case, {f"case.{n}": v for n, v in whole.items()}, left, "fp32", len(paths), thresholds(chosen))
    assert result.passed, result.faults()
    assert result.detections.matched == result.detections.artifact >= 15


def test_classes_that_are_moved_apart_never_overlap() -> None:
    shifts = class_shifts(700)
    apart = np.abs(shifts[:, None, :2] - shifts[None, :, :2]).max(axis=2)
    assert apart[~np.eye(700, dtype=bool)].min() == CLASS_SHIFT
    np.testing.assert_array_equal(shifts[:128], np.arange(128, dtype=np.float32)[:, None] * CLASS_SHIFT * np.ones(4))
    assert not class_shifts(700, agnostic=True).any()


@pytest.mark.parametrize(
    ("layout", "given", "most"),
    [("detections", {}, 300), ("masks", {}, 100), ("masks", {"max_det": 160}, 160), ("rows", {"conf": 0.0}, 300)],
)
def test_thresholds_are_the_projects_where_the_target_has_none(layout: str, given: dict[str, Any], most: int) -> None:
    metadata = Metadata(("a",), (64, 64), layout=layout, agnostic=False, **given)
    chosen = with_thresholds(metadata, DEFAULTS)
    assert (chosen.conf, chosen.iou, chosen.max_det) == (given.get("conf", DEFAULTS.conf), DEFAULTS.iou, most)
    assert with_thresholds(Metadata(("a",), (64, 64)), DEFAULTS) == Metadata(("a",), (64, 64))


def test_that_finished_masks_leave_fewer_detections_is_said() -> None:
    options = targets()["onnx"].options.model_validate({"format": "onnx", "nms": True, "masks": True})
    metadata = with_thresholds(Metadata(("a",), (64, 64), layout="masks"), DEFAULTS)
    assert "at most 100 detections an image, not the 300" in suppression_notes(options, metadata, DEFAULTS)[0]
    asked = options.model_copy(update={"max_det": 100})
    assert suppression_notes(asked, metadata, DEFAULTS) == ()
    assert suppression_notes(options, metadata, Filters(max_det=100)) == ()


def masks_metadata() -> Metadata:
    return Metadata(("a", "b"), (64, 96), layout="masks", conf=0.25, iou=0.7, max_det=3, agnostic=False)


def test_finished_masks_are_not_drawn_more_finely() -> None:
    with pytest.raises(FilterError, match="finished masks of its input's size"):
        choose_filters(masks_metadata(), {"retina": True}, DEFAULTS)
    assert not choose_filters(masks_metadata(), {}, DEFAULTS).retina


def test_what_was_suppressed_across_classes_may_be_asked_for_so() -> None:
    assert choose_filters(replace(masks_metadata(), agnostic=True), {"agnostic": True}, DEFAULTS).agnostic
    with pytest.raises(FilterError, match="class by class"):
        choose_filters(masks_metadata(), {"agnostic": True}, DEFAULTS)


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_finished_masks_of_another_size_are_no_models_of_these_metadata(last: bool) -> None:
    metadata = replace(masks_metadata(), channels="last" if last else "first")
    rows = {"boxes": np.zeros((1, 3, 4)), "scores": np.zeros((1, 3)), "classes": np.zeros((1, 3))}
    shape = (1, 64, 96, 3) if last else (1, 3, 64, 96)
    found = named_outputs({**rows, "masks": np.ones(shape, np.uint8)}, metadata, 1)
    assert list(found) == ["boxes", "scores", "masks"]
    assert found["masks"].shape == (1, 3, 64, 96)
    with pytest.raises(ModelError, match=r"masks \[1, 3, 64, 64\]"):
        named_outputs({**rows, "masks": np.ones((1, 64, 64, 3) if last else (1, 3, 64, 64))}, metadata, 1)

"""Metrics of predictions whose precision is known beforehand."""

import csv
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segc.data.labels import Instance
from segc.data.samples import Sample
from segc.diagnostics import SegcError
from segc.evaluation.coco import evaluate, evaluate_session
from segc.evaluation.comparison import MASK_GRIDS, MaskGrid
from segc.evaluation.curves import OperatingPoint
from segc.evaluation.frames import smallest_frame
from segc.evaluation.metrics import MAX_DETECTIONS, Metrics
from segc.inference.letterbox import letterbox_geometry
from segc.inference.masks import Mask
from segc.inference.metadata import Metadata
from segc.inference.results import Prediction

NAMES = ("square", "triangle", "unseen")
SIZE = (60, 80)
SQUARE = np.array([[10, 10], [30, 10], [30, 30], [10, 30]], np.float32)
FAR_SQUARE = SQUARE + np.float32([40, 20])
TRIANGLE = np.array([[40, 5], [60, 5], [50, 25]], np.float32)


def _sample(folder: Path, *objects: tuple[int, np.ndarray], name: str = "a") -> Sample:
    path = folder / f"{name}.png"
    cv2.imwrite(str(path), np.full((*SIZE, 3), 90, np.uint8))
    scale = np.float32([SIZE[1], SIZE[0]])
    return Sample(path, None, tuple(Instance(class_id, (polygon / scale,)) for class_id, polygon in objects))


def _prediction(*found: tuple[int, float, np.ndarray]) -> Prediction:
    masks = []
    for _, _, polygon in found:
        full = np.zeros(SIZE, np.uint8)
        cv2.fillPoly(full, [np.floor(polygon).astype(np.int32)], 1)
        masks.append(Mask(0, 0, full.astype(bool)).trimmed())
    boxes = [[*polygon.min(axis=0), *polygon.max(axis=0)] for _, _, polygon in found]
    return Prediction(
        path="",
        height=SIZE[0],
        width=SIZE[1],
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array([score for _, score, _ in found], np.float32),
        classes=np.array([class_id for class_id, _, _ in found], np.int64),
        names=NAMES,
        masks=tuple(masks),
    )


def _metrics(folder: Path, truth: Mapping[str, list[Any]], found: Mapping[str, list[Any]]) -> Metrics:
    samples = [_sample(folder, *objects, name=name) for name, objects in truth.items()]
    return evaluate(samples, lambda _, path: _prediction(*found[path.stem]), NAMES)


def test_the_truth_as_a_prediction_is_perfect(tmp_path: Path) -> None:
    metrics = _metrics(
        tmp_path,
        {"a": [(0, SQUARE), (1, TRIANGLE)], "b": [(0, FAR_SQUARE)], "c": []},
        {"a": [(0, 0.9, SQUARE), (1, 0.8, TRIANGLE)], "b": [(0, 0.7, FAR_SQUARE)], "c": []},
    )
    assert (metrics.box.map, metrics.box.map50, metrics.box.map75) == (1, 1, 1)
    # fillPoly and COCO's rasteriser differ by a row of pixels at an edge, so not all ten thresholds are met.
    assert (metrics.seg.map50, metrics.seg.map75) == (1, 1)
    assert metrics.box.maps == (1.0, 1.0, None)
    assert (metrics.images, metrics.instances) == (3, 3)
    assert metrics.class_images == (2, 1, 0)
    assert metrics.class_instances == (2, 1, 0)


def test_one_of_two_found_after_a_false_one_scores_by_hand(tmp_path: Path) -> None:
    # In order of score: false (precision 0), true (1 of 2, recall 1/2), nothing more. Of 101 recalls, the 51 up to 0.5
    # are reached, at precision 1/2.
    metrics = _metrics(
        tmp_path,
        {"a": [(0, SQUARE), (0, FAR_SQUARE)]},
        {"a": [(0, 0.9, TRIANGLE), (0, 0.8, SQUARE)]},
    )
    expected = 51 / 101 / 2
    assert metrics.box.map50 == pytest.approx(expected)
    assert metrics.box.map == pytest.approx(expected)
    assert metrics.seg.map50 == pytest.approx(expected)


def test_a_box_of_iou_two_thirds_counts_at_four_of_ten_thresholds(tmp_path: Path) -> None:
    taller = SQUARE * np.float32([1, 1])
    taller[2:, 1] += 10  # 20 x 30 around 20 x 20: IoU 2/3 is above 0.50, 0.55, 0.60 and 0.65
    metrics = _metrics(tmp_path, {"a": [(0, SQUARE)]}, {"a": [(0, 0.9, taller)]})
    assert metrics.box.map50 == pytest.approx(1)
    assert metrics.box.map75 == pytest.approx(0)
    assert metrics.box.map == pytest.approx(0.4)


def test_nothing_found_scores_nought(tmp_path: Path) -> None:
    metrics = _metrics(tmp_path, {"a": [(0, SQUARE)]}, {"a": []})
    assert (metrics.box.map, metrics.seg.map) == (0, 0)
    assert metrics.box.maps == (0.0, None, None)


def test_without_ground_truth_there_is_no_score(tmp_path: Path) -> None:
    metrics = _metrics(tmp_path, {"a": []}, {"a": [(0, 0.9, SQUARE)]})
    assert math.isnan(metrics.box.map)
    assert math.isnan(metrics.seg.map)
    assert metrics.instances == 0
    assert json.loads(json.dumps(metrics.to_json(), allow_nan=False))["box"]["map"] is None


def test_a_detection_of_a_class_that_no_image_has_changes_nothing(tmp_path: Path) -> None:
    truth = {"a": [(0, SQUARE)]}
    without = _metrics(tmp_path, truth, {"a": [(0, 0.9, SQUARE)]})
    with_it = _metrics(tmp_path, truth, {"a": [(0, 0.9, SQUARE), (2, 0.99, TRIANGLE)]})
    assert without == with_it


def test_a_false_detection_in_an_image_without_its_class_counts(tmp_path: Path) -> None:
    truth = {"a": [(0, SQUARE)], "b": [(1, TRIANGLE)]}
    metrics = _metrics(tmp_path, truth, {"a": [(0, 0.5, SQUARE)], "b": [(0, 0.9, SQUARE), (1, 0.9, TRIANGLE)]})
    assert metrics.box.maps50 == (pytest.approx(0.5), pytest.approx(1), None)
    assert metrics.seg.maps50 == (pytest.approx(0.5), pytest.approx(1), None)


def test_only_the_best_hundred_of_a_class_count(tmp_path: Path) -> None:
    false = [(0, 0.9, TRIANGLE)] * MAX_DETECTIONS
    truth = {"a": [(0, SQUARE)]}
    assert _metrics(tmp_path, truth, {"a": [*false, (0, 0.5, SQUARE)]}).box.map50 == 0
    assert _metrics(tmp_path, truth, {"a": [*false[1:], (0, 0.5, SQUARE)]}).box.map50 > 0


def test_json_has_a_row_for_each_class_that_was_labelled(tmp_path: Path) -> None:
    values = _metrics(tmp_path, {"a": [(1, TRIANGLE)]}, {"a": [(1, 0.9, TRIANGLE)]}).to_json()
    assert [row["name"] for row in values["classes"]] == ["triangle"]
    assert values["classes"][0]["box"].items() >= {"map": 1.0, "map50": 1.0, "f1": 1.0}.items()
    assert set(values["seg"]) == {"map", "map50", "map75", "precision", "recall", "f1", "confidence"}


def test_csv_has_the_figures_of_json_in_rows(tmp_path: Path) -> None:
    metrics = _metrics(tmp_path, {"a": [(1, TRIANGLE)]}, {"a": [(1, 0.9, TRIANGLE), (0, 0.6, SQUARE)]})
    rows = list(csv.DictReader(metrics.to_csv().splitlines()))
    assert [row["class"] for row in rows] == ["all", "triangle"]
    assert float(rows[1]["box_map50"]) == metrics.box.map50 == 1
    assert float(rows[0]["seg_confidence"]) == metrics.seg.curves.best.confidence


def _crowd(folder: Path) -> Sample:
    sample = _sample(folder, (0, FAR_SQUARE), (0, SQUARE))
    return Sample(sample.image, None, (sample.instances[0], replace(sample.instances[1], is_crowd=True)))


def test_a_detection_in_a_crowd_counts_neither_as_right_nor_as_wrong(tmp_path: Path) -> None:
    inside = SQUARE * 0.5 + 8  # half as wide, in the middle of the crowd region
    found = _prediction((0, 0.95, inside), (0, 0.9, inside), (0, 0.8, FAR_SQUARE))
    metrics = evaluate([_crowd(tmp_path)], lambda *_: found, NAMES)
    assert (metrics.box.map, metrics.seg.map50) == (1, 1)
    assert (metrics.instances, metrics.class_images[0]) == (1, 1)
    assert metrics.box.curves.best == OperatingPoint(pytest.approx(0.4, abs=0.01), 1, 1, 1)
    assert metrics.confusion.to_json()["predicted_by_true"] == [[1, 0], [0, 0]]


def test_a_crowd_alone_is_nothing_to_find(tmp_path: Path) -> None:
    sample = _crowd(tmp_path)
    metrics = evaluate([replace(sample, instances=sample.instances[1:])], lambda *_: _prediction(), NAMES)
    assert math.isnan(metrics.box.map)
    assert metrics.box.curves.best is None


class _Oracle:
    """A session that answers with one square where the image is bright: prototype 0 is 1 all over."""

    def __init__(self, nc: int = 3, **metadata: Any) -> None:
        self.metadata = Metadata(("a",), (64, 64), **metadata)
        self.runs: list[int] = []
        self.frames: list[tuple[int, int]] = []
        self._nc = nc

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        number, _, height, width = images.shape
        self.runs.append(number)
        self.frames.append((height, width))
        boxes = np.zeros((number, 4, 4), np.float32)
        scores = np.zeros((number, 4, self._nc), np.float32)
        for row, image in enumerate(images):
            bright = np.argwhere(image.min(axis=0) > 0.9)
            if len(bright):
                (top, left), (bottom, right) = bright.min(axis=0), bright.max(axis=0) + 1
                boxes[row, 0], scores[row, 0, 0] = (left, top, right, bottom), 0.9
        coefficients = np.zeros((number, 4, 32), np.float32)
        coefficients[..., 0] = 1
        prototypes = np.ones((number, 32, height // 4, width // 4), np.float32)
        return {"boxes": boxes, "scores": scores, "coefficients": coefficients, "prototypes": prototypes}


@pytest.fixture
def bright_squares(tmp_path: Path) -> list[Sample]:
    """Five photographs 128 x 64 with one white square each; in a frame of 64 x 64 they are half as large."""
    samples = []
    for number in range(5):
        picture = np.zeros((64, 128, 3), np.uint8)
        x, y = 16 * number, 16
        picture[y : y + 32, x : x + 32] = 255
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), picture)
        corners = np.float32([[x, y], [x + 32, y], [x + 32, y + 32], [x, y + 32]]) / np.float32([128, 64])
        samples.append(Sample(path, None, (Instance(0, (corners,)),)))
    return samples


@pytest.mark.parametrize("mask_grid", MASK_GRIDS)
def test_a_session_that_finds_everything_is_perfect(bright_squares: list[Sample], mask_grid: MaskGrid) -> None:
    metrics = evaluate_session(_Oracle(), bright_squares, NAMES, size=(64, 64), mask_grid=mask_grid)
    assert metrics.box.map == pytest.approx(1)
    assert metrics.seg.map == pytest.approx(1)


@pytest.mark.parametrize(
    ("metadata", "runs"),
    [
        ({"dynamic": True}, [2, 2, 1]),
        ({"dynamic": False, "batch": 3}, [3, 3]),
        ({"dynamic": False, "batch": 1}, [1, 1, 1, 1, 1]),
        ({}, [1, 1, 1, 1, 1]),
    ],
)
def test_a_session_gets_as_many_images_as_it_takes(
    bright_squares: list[Sample], metadata: dict[str, Any], runs: list[int]
) -> None:
    session = _Oracle(**metadata)
    metrics = evaluate_session(session, bright_squares, NAMES, size=(64, 64), batch=2)
    assert session.runs == runs
    assert metrics.box.map == pytest.approx(1)


def _frames(session: _Oracle, samples: list[Sample], **options: Any) -> Metrics:
    session.metadata = replace(session.metadata, dynamic=True)
    return evaluate_session(session, samples, NAMES, size=(64, 64), rect=True, **options)


@pytest.mark.parametrize("mask_grid", MASK_GRIDS)
def test_rectangular_frames_hold_the_photograph_at_the_same_scale(
    bright_squares: list[Sample], mask_grid: MaskGrid
) -> None:
    session = _Oracle()
    metrics = _frames(session, bright_squares, mask_grid=mask_grid, batch=2)
    assert session.runs == [2, 2, 1]
    assert set(session.frames) == {(32, 64)}
    assert metrics.box.map == metrics.seg.map == pytest.approx(1)


def test_batches_are_of_one_frame_size_and_lose_no_image(bright_squares: list[Sample]) -> None:
    for sample in bright_squares[1::2]:  # upright ones between the wide ones
        cv2.imwrite(str(sample.image), np.ascontiguousarray(cv2.imread(str(sample.image)).transpose(1, 0, 2)))
    turned = [
        replace(sample, instances=(replace(one, polygons=(one.polygons[0][:, ::-1],)),))
        for sample in bright_squares
        for one in sample.instances
    ]
    samples = [turned[i] if i % 2 else sample for i, sample in enumerate(bright_squares)]
    session = _Oracle()
    metrics = _frames(session, samples, batch=2)
    assert sorted(session.runs) == [1, 2, 2]
    assert set(session.frames) == {(32, 64), (64, 32)}
    assert (metrics.images, metrics.box.map) == (5, pytest.approx(1))


def test_a_model_of_a_fixed_size_gets_no_rectangular_frames(bright_squares: list[Sample]) -> None:
    session = _Oracle()
    evaluate_session(session, bright_squares, NAMES, size=(64, 64), rect=True)
    assert set(session.frames) == {(64, 64)}


@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)).map(lambda sides: (sides[0] * 32, sides[1] * 32)),
)
def test_the_smallest_frame_changes_no_scale(original: tuple[int, int], size: tuple[int, int]) -> None:
    frame = smallest_frame(original, size)
    assert all(side % 32 == 0 and 32 <= side <= most for side, most in zip(frame, size, strict=True))
    resized = letterbox_geometry(original, size).resized
    assert all(need <= side <= need + 32 for need, side in zip(resized, frame, strict=True))
    assert letterbox_geometry(original, frame).resized == resized


def _told(run: Callable[[Callable[[int, int], None]], object]) -> list[tuple[int, int]]:
    calls: list[tuple[int, int]] = []
    run(lambda done, total: calls.append((done, total)))
    return calls


def test_progress_counts_images(bright_squares: list[Sample]) -> None:
    expected = [(n, 5) for n in range(1, 6)]
    assert _told(lambda p: evaluate_session(_Oracle(), bright_squares, NAMES, size=(64, 64), progress=p)) == expected
    assert _told(lambda p: evaluate(bright_squares, lambda *_: _prediction(), NAMES, progress=p)) == expected


def test_no_images_give_no_score() -> None:
    assert evaluate_session(_Oracle(), [], NAMES, size=(64, 64)).images == 0


def test_a_model_with_other_classes_is_refused(bright_squares: list[Sample]) -> None:
    with pytest.raises(SegcError) as caught:
        evaluate_session(_Oracle(nc=5), bright_squares, NAMES, size=(64, 64))
    assert caught.value.diagnostics[0].code == "E002"


def test_an_unreadable_image_is_named(bright_squares: list[Sample]) -> None:
    bright_squares[3].image.write_bytes(b"not a picture")
    with pytest.raises(SegcError) as caught:
        evaluate_session(_Oracle(), bright_squares, NAMES, size=(64, 64))
    assert caught.value.diagnostics[0].code == "D002"
    assert caught.value.diagnostics[0].file == bright_squares[3].image


def test_evaluation_prints_nothing(bright_squares: list[Sample], capfd: pytest.CaptureFixture[str]) -> None:
    evaluate_session(_Oracle(), bright_squares, NAMES, size=(64, 64))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""

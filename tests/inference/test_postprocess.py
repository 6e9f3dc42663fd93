import time
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segc.inference import postprocess
from segc.inference.metadata import Metadata, ModelError
from segc.inference.postprocess import candidates, detections, named_outputs, suppress


def slow_overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def slow_suppression(boxes, scores, classes, iou, agnostic):
    kept = []
    for row in sorted(range(len(scores)), key=lambda row: (-scores[row], row)):
        rivals = [k for k in kept if agnostic or classes[k] == classes[row]]
        if all(slow_overlap(boxes[k].tolist(), boxes[row].tolist()) <= iou for k in rivals):
            kept.append(row)
    return kept


# Whole coordinates on a small grid: overlaps, ties and IoUs right at a threshold are common, and fp32 is exact.
grids = st.integers(0, 40).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int64, (n, 4), elements=st.integers(0, 8)),
        hnp.arrays(np.float32, n, elements=st.sampled_from([0.25, 0.5, 0.75, 1.0])),
        hnp.arrays(np.int64, n, elements=st.sampled_from([0, 1, 79, 1202])),
    )
)


@settings(max_examples=300, deadline=None)
@given(grids, st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans(), st.sampled_from([0, postprocess.MOST_PAIRED]))
def test_suppression_keeps_what_a_plain_loop_keeps(grid, iou, agnostic, most_paired):
    corners, scores, classes = grid
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1).astype(np.float32)
    with patch.object(postprocess, "MOST_PAIRED", most_paired):
        kept = suppress(boxes, scores, classes, iou, max_det=1000, agnostic=agnostic)
    assert kept.tolist() == slow_suppression(boxes, scores, classes, iou, agnostic)


def test_an_overlap_of_exactly_the_threshold_is_kept():
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 1]], np.float32)
    classes = np.zeros(2, np.int64)
    assert suppress(boxes, np.array([0.9, 0.8], np.float32), classes, 0.5).tolist() == [0, 1]
    assert suppress(boxes, np.array([0.9, 0.8], np.float32), classes, 0.49).tolist() == [0]


def test_boxes_outside_the_frame_and_beyond_the_class_shift_stay_apart():
    boxes = np.array([[-7680, -7680, 10, 10], [0, 0, 7690, 7690]], np.float32)
    assert suppress(boxes, np.array([0.9, 0.8], np.float32), np.array([1, 0]), 0.1).tolist() == [0, 1]


def test_rounding_in_high_classes_is_that_of_boxes_moved_apart_by_class():
    # Recorded: this pair, IoU 0.69975, became one detection of class 73 but would be two of class 0.
    boxes = np.array([[126.0, 130.0, 175.3, 180.0], [126.22414, 135.30592, 175.30025, 179.9863]], np.float32)
    moved = boxes + np.float32(73 * 7680)
    exact, rounded = slow_overlap(*boxes.tolist()), slow_overlap(*moved.tolist())
    assert exact != rounded
    between = (exact + rounded) / 2
    scores = np.array([0.9, 0.8], np.float32)
    assert len(suppress(boxes, scores, np.array([0, 0]), between)) == 1 + (exact <= between)
    assert len(suppress(boxes, scores, np.array([73, 73]), between)) == 1 + (rounded <= between)


def test_the_result_has_no_more_than_asked_for_and_is_the_best_of_them():
    boxes = np.array([[10 * i, 0, 10 * i + 5, 5] for i in range(50)], np.float32)
    scores = np.linspace(0.1, 0.9, 50, dtype=np.float32)
    assert suppress(boxes, scores, np.zeros(50, np.int64), 0.7, max_det=3).tolist() == [49, 48, 47]


def test_only_the_best_candidates_are_looked_at(monkeypatch):
    monkeypatch.setattr(postprocess, "MAX_CANDIDATES", 4)
    boxes = np.array([[10 * i, 0, 10 * i + 5, 5] for i in range(9)], np.float32)
    assert suppress(boxes, np.full(9, 0.5, np.float32), np.zeros(9, np.int64), 0.7).tolist() == [0, 1, 2, 3]


def test_thirty_thousand_candidates_take_well_under_a_second():
    rng = np.random.default_rng(0)
    centre = rng.random((8400, 2)) * 640
    half = rng.random((8400, 2)) * 50 + 2
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    scores = (rng.random((8400, 80)) ** 30).astype(np.float32)
    assert (scores > 0.001).sum() > 100_000
    start = time.perf_counter()
    found = detections(boxes, scores, conf=0.001, iou=0.7, max_det=300, multi_label=True)
    assert time.perf_counter() - start < 1.0
    assert len(found.scores) == 300


def test_an_anchor_stands_for_its_best_class_or_for_all_above_the_confidence():
    scores = np.array([[0.1, 0.6, 0.5], [0.2, 0.2, 0.2], [0.9, 0.0, 0.3]], np.float32)
    anchors, classes = candidates(scores, 0.25, multi_label=False)
    assert (anchors.tolist(), classes.tolist()) == ([0, 2], [1, 0])
    anchors, classes = candidates(scores, 0.25, multi_label=True)
    assert (anchors.tolist(), classes.tolist()) == ([0, 0, 2, 2], [1, 2, 0, 2])


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_score_equal_to_the_confidence_is_left_out(multi_label):
    scores = np.array([[0.25], [np.nextafter(np.float32(0.25), np.float32(1))]], np.float32)
    assert candidates(scores, 0.25, multi_label=multi_label)[0].tolist() == [1]


@pytest.mark.parametrize("multi_label", [False, True])
def test_nothing_found_gives_empty_arrays_of_the_right_shape(multi_label):
    found = detections(
        np.zeros((5, 4), np.float32),
        np.zeros((5, 3), np.float32),
        conf=0.5,
        iou=0.7,
        max_det=9,
        multi_label=multi_label,
    )
    assert found.boxes.shape == (0, 4)
    assert found.anchors.dtype == found.classes.dtype == np.int64
    assert found.scores.dtype == np.float32


def test_boxes_and_scores_that_are_no_numbers_are_left_out():
    boxes = np.array([[0, 0, np.nan, 1], [0, 0, np.inf, 1], [0, 0, 1, 1], [5, 5, 6, 6]], np.float32)
    scores = np.array([[0.9], [0.9], [0.8], [np.nan]], np.float32)
    found = detections(boxes, scores, conf=0.1, iou=0.7, max_det=9)
    assert found.anchors.tolist() == [2]


def test_scores_come_best_first_and_anchors_point_into_the_outputs():
    rng = np.random.default_rng(1)
    boxes = np.sort(rng.random((200, 2, 2)) * 300, axis=1).reshape(200, 4).astype(np.float32)
    scores = rng.random((200, 5)).astype(np.float32)
    found = detections(boxes, scores, conf=0.3, iou=0.5, max_det=300)
    assert (np.diff(found.scores) <= 0).all()
    assert (boxes[found.anchors] == found.boxes).all()
    assert (scores[found.anchors, found.classes] == found.scores).all()


def test_the_fused_layout_becomes_the_four_named_outputs():
    rng = np.random.default_rng(2)
    rows, prototypes = rng.random((2, 4 + 3 + 32, 7), np.float32), rng.random((2, 32, 4, 4), np.float32)
    metadata = Metadata(("a", "b", "c"), (16, 16), layout="fused")
    out = named_outputs({"output0": rows, "output1": prototypes}, metadata, 2)
    assert {name: value.shape for name, value in out.items()} == {
        "boxes": (2, 7, 4),
        "scores": (2, 7, 3),
        "coefficients": (2, 7, 32),
        "prototypes": (2, 32, 4, 4),
    }
    centre_x, width = rows[1, 0, 5], rows[1, 2, 5]
    assert out["boxes"][1, 5, 0] == centre_x - width / 2
    assert out["boxes"][1, 5, 2] == centre_x + width / 2
    assert (out["scores"][1, 5] == rows[1, 4:7, 5]).all()
    assert (out["coefficients"][1, 5] == rows[1, 7:, 5]).all()


def test_named_outputs_of_half_precision_become_single():
    metadata = Metadata(("a", "b"), (16, 16))
    shapes = {"boxes": (1, 7, 4), "scores": (1, 7, 2), "coefficients": (1, 7, 32), "prototypes": (1, 32, 4, 4)}
    half = {name: np.ones(shape, np.float16) for name, shape in shapes.items()}
    assert {value.dtype for value in named_outputs(half, metadata, 1).values()} == {np.dtype(np.float32)}
    with pytest.raises(ModelError, match="no output 'scores'"):
        named_outputs({"boxes": half["boxes"]}, metadata, 1)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("boxes", (1, 7, 5)), ("boxes", (1, 8, 4)), ("scores", (1, 7, 3)), ("scores", (2, 7, 2)), ("scores", (7,)),
     ("coefficients", (1, 7, 31)), ("prototypes", (1, 31, 4, 4)), ("prototypes", (1, 32, 4)), ("boxes", ())],
)  # fmt: skip
def test_outputs_of_other_shapes_than_the_metadata_say_are_refused(name, shape):
    shapes = {"boxes": (1, 7, 4), "scores": (1, 7, 2), "coefficients": (1, 7, 32), "prototypes": (1, 32, 4, 4)}
    outputs = {key: np.ones(value, np.float32) for key, value in {**shapes, name: shape}.items()}
    with pytest.raises(ModelError, match="other shapes than its metadata speak of"):
        named_outputs(outputs, Metadata(("a", "b"), (16, 16)), 1)

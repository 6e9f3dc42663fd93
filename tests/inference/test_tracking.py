"""Numbers stay with objects: assignment, the filter, and sequences whose identities are known."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from benchmarks import sequences
from segc.inference.draw import draw_prediction
from segc.inference.masks import Mask, common_area
from segc.inference.tracking import Tracker, Tracking, assignment, box_overlaps, mask_overlap


def detections(*boxes, scores=None, classes=None, masks=None):
    solid = [Mask(int(b[0]), int(b[1]), np.ones((int(b[3] - b[1]), int(b[2] - b[0])), np.bool_)) for b in boxes]
    count = len(boxes)
    return sequences.prediction(boxes, scores or [0.9] * count, classes or [0] * count, masks or solid)


def follow(frames, settings=None, conf=0.25, steps=None):
    tracker = Tracker(settings or Tracking())
    steps = steps or [1] * len(frames)
    return [tracker.update(frame, frame.scores > conf, step) for frame, step in zip(frames, steps, strict=True)]


def numbers(frames):
    return [frame.identities.tolist() for frame in frames]


def unnumbered(scene):
    return [replace(frame, identities=None) for frame in scene.frames]


def test_the_assignment_has_the_greatest_sum_that_any_has():
    rng = np.random.default_rng(0)
    for _ in range(60):
        rows, columns = rng.integers(1, 6, 2)
        weights = rng.random((rows, columns)) * (rng.random((rows, columns)) < 0.7)
        found = assignment(weights)
        wide = weights if rows <= columns else weights.T
        best = max(wide[range(len(wide)), list(p)].sum() for p in permutations(range(wide.shape[1]), len(wide)))
        assert len({r for r, _ in found}) == len({c for _, c in found}) == len(found) == min(rows, columns)
        assert sum(weights[pair] for pair in found) == pytest.approx(best)


def test_an_assignment_of_nothing_is_empty():
    assert assignment(np.zeros((0, 3))) == []
    assert assignment(np.zeros((3, 0))) == []


def test_overlaps_of_boxes_and_masks_are_those_of_their_pixels():
    boxes = np.array([[0, 0, 4, 4], [2, 2, 6, 6], [9, 9, 9, 9]], np.float32)
    assert box_overlaps(boxes, boxes)[0].tolist() == pytest.approx([1, 4 / 28, 0])
    one, other = Mask(0, 0, np.ones((4, 4), np.bool_)), Mask(2, 2, np.eye(4, dtype=np.bool_))
    assert common_area(one, other) == (one.full(6, 6) & other.full(6, 6)).sum() == 2
    assert mask_overlap(one, other) == 2 / 18
    assert common_area(one, other.moved(2, 0)) == 0
    assert mask_overlap(one, Mask(0, 0, np.zeros((0, 0), np.bool_))) is None


@pytest.mark.parametrize("make", sequences.SCENES)
def test_perfect_detections_keep_their_identities(make):
    scene = make()
    kept = sequences.measure(scene.frames, follow(unnumbered(scene)))
    assert kept.idf1 >= 0.95
    assert kept.hota >= 0.95


@pytest.mark.parametrize("make", sequences.SCENES)
def test_poor_detections_keep_most_of_their_identities(make):
    scene = make()
    kept = sequences.measure(scene.frames, follow(sequences.poor_detections(scene)))
    assert kept.idf1 >= 0.9


def test_the_measures_of_the_truth_are_one_and_those_of_one_number_for_all_are_not():
    scene = sequences.crossings()
    assert sequences.measure(scene.frames, scene.frames) == sequences.Kept(1.0, 1.0, 0)
    mixed = [replace(frame, identities=np.ones_like(frame.identities)) for frame in scene.frames]
    assert sequences.measure(scene.frames, mixed).idf1 < 0.5


def test_the_same_detections_give_the_same_numbers():
    found = sequences.poor_detections(sequences.crowd(frames=40))
    assert numbers(follow(found)) == numbers(follow(found))


def test_a_number_is_given_in_the_first_frame_and_later_at_the_second_sighting():
    box, late = (10, 10, 30, 30), (100, 100, 130, 130)
    assert numbers(follow([detections(box), detections(box, late), detections(box, late)])) == [[1], [1, 0], [1, 2]]


def test_what_is_seen_once_gets_no_number_and_costs_none():
    box, flash, late = (10, 10, 30, 30), (200, 200, 220, 220), (100, 100, 130, 130)
    frames = [detections(box), detections(box, flash), detections(box), detections(box, late), detections(box, late)]
    assert numbers(follow(frames)) == [[1], [1, 0], [1], [1, 0], [1, 2]]


def test_a_poor_detection_goes_on_with_a_track_and_starts_none():
    box, other = (10, 10, 40, 40), (200, 200, 240, 240)
    poor = detections(box, other, scores=[0.15, 0.15])
    found = follow([detections(box), poor, poor])
    assert numbers(found) == [[1], [1], [1]]
    assert [len(frame) for frame in found] == [1, 1, 1]


def test_what_was_lost_for_longer_than_is_kept_gets_a_new_number():
    box = (10, 10, 40, 40)
    empty = detections()
    for gap, expected in ((3, [1]), (6, [0])):
        found = follow([detections(box), detections(box), *[empty] * gap, detections(box)], Tracking(keep=4))
        assert numbers(found)[-1] == expected


def test_frames_that_were_left_out_count_for_motion():
    frames = [detections((10 + 6 * n, 50, 50 + 6 * n, 90)) for n in (0, 1, 2, 3, 4, 5, 13)]
    # Eight frames on, it is 48 pixels further, and does not overlap where it was.
    assert numbers(follow(frames, steps=[1, 1, 1, 1, 1, 1, 8]))[-1] == [1]
    assert numbers(follow(frames))[-1] == [0]


def test_masks_decide_where_boxes_are_the_same():
    # Two triangles that share a square: their boxes are one and the same in every frame.
    upper = np.triu(np.ones((40, 40), np.bool_))
    halves = [Mask(20, 20, upper), Mask(20, 20, ~upper)]
    box = (20, 20, 60, 60)
    frames = [detections(box, box, masks=halves), detections(box, box, masks=halves[::-1])]
    assert numbers(follow(frames)) == [[1, 2], [2, 1]]


def test_another_class_takes_a_track_over_only_where_there_is_nothing_better():
    box, near = (20, 20, 60, 60), (26, 20, 66, 60)
    first = detections(box)
    assert numbers(follow([first, detections(box, near, classes=[1, 0])]))[-1] == [0, 1]
    assert numbers(follow([first, detections(box, classes=[1])]))[-1] == [1]


def test_a_box_that_is_suddenly_small_does_not_slow_its_track_down():
    frames = [detections((20 + 4 * n, 50, 60 + 4 * n, 90)) for n in range(15)]
    hidden = [detections((20 + 4 * n, 50, 116, 90)) for n in range(15, 22)]
    back = detections((20 + 4 * 40, 50, 60 + 4 * 40, 90))
    assert numbers(follow([*frames, *hidden, *[detections()] * 18, back]))[-1] == [1]


def test_numbers_stand_in_records_and_pictures():
    box, late = (10, 10, 60, 60), (100, 100, 160, 160)
    plain = detections(box, late)
    found = follow([detections(box), plain])[-1]
    assert [row["track"] for row in found.to_json()["detections"]] == [1, None]
    assert "track" not in plain.to_json()["detections"][0]
    image = np.zeros((sequences.HEIGHT, sequences.WIDTH, 3), np.uint8)
    other = replace(found, identities=np.array([2, 0]))
    assert (draw_prediction(image, found) != draw_prediction(image, other)).any()


def test_three_hundred_objects_are_followed():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 300, (300, 2))
    boxes = [np.concatenate([corner + n, corner + n + 40], axis=1) for n in range(3)]
    found = follow([detections(*rows.tolist()) for rows in boxes])
    assert sum(a == b for a, b in zip(*numbers(found)[1:], strict=True)) > 270

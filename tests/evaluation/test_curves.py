"""Confidence curves and operating points of detections whose verdicts are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segc.evaluation.curves import CONFIDENCES, Curves, confidence_curves, verdicts


def _curves(*classes: tuple[list[float], list[bool]], objects: list[int]) -> Curves:
    judged = [(np.array(scores), np.array(right, bool)) for scores, right in classes]
    return confidence_curves(judged, np.array(objects), np.full((101, len(objects)), 0.5))


def _at(curves: Curves, name: str, confidence: float, class_id: int = 0) -> float:
    return float(getattr(curves, name)[class_id, round(confidence * 1000)])


def test_the_curves_count_what_is_kept() -> None:
    curves = _curves(([0.9, 0.8, 0.5], [True, False, True]), objects=[4])
    assert [_at(curves, "precision", c) for c in (0, 0.6, 0.85, 0.95)] == pytest.approx([2 / 3, 1 / 2, 1, 1])
    assert [_at(curves, "recall", c) for c in (0, 0.6, 0.85, 0.95)] == [0.5, 0.25, 0.25, 0]
    assert [_at(curves, "f1", c) for c in (0, 0.6, 0.85, 0.95)] == pytest.approx([4 / 7, 2 / 6, 2 / 5, 0])


def test_a_score_at_the_confidence_is_not_kept_as_in_prediction() -> None:
    curves = _curves(([0.5], [True]), objects=[1])
    assert (_at(curves, "recall", 0.499), _at(curves, "recall", 0.5)) == (1, 0)


def test_the_operating_point_is_the_middle_of_the_best_stretch() -> None:
    best = _curves(([0.8, 0.4], [True, False]), objects=[1]).best_of(0)
    assert best is not None
    assert best.confidence == pytest.approx(0.6, abs=0.0015)
    assert (best.precision, best.recall, best.f1) == (1, 1, 1)


def test_classes_without_objects_have_no_curves_and_no_say() -> None:
    curves = _curves(([0.8], [True]), ([0.9], [False]), objects=[1, 0])
    assert curves.best_of(1) is None
    assert np.isnan(curves.f1[1]).all()
    assert curves.known.tolist() == [0]
    assert curves.best == curves.best_of(0)


def test_each_object_is_found_once_by_the_best_detection() -> None:
    overlap = np.array([[0.6, 0.0], [0.9, 0.55], [0.8, 0.7], [0.5, 0.4]])
    right, counts = verdicts(overlap, np.array([False, False]))
    assert right.tolist() == [True, True, False, False]
    assert counts.all()


def test_a_crowd_takes_any_number_and_none_of_them_counts() -> None:
    overlap = np.array([[0.9, 1.0], [0.2, 0.9], [0.2, 0.9], [0.2, 0.4]])
    right, counts = verdicts(overlap, np.array([False, True]))
    assert right.tolist() == [True, False, False, False]
    assert counts.tolist() == [True, False, False, True]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=40), st.integers(1, 50))
def test_curves_are_what_counting_gives(found: list[tuple[float, bool]], extra: int) -> None:
    scores, right = [score for score, _ in found], [good for _, good in found]
    objects = sum(right) + extra
    curves = _curves((scores, right), objects=[objects])
    for index in (0, 137, 500, 999, 1000):
        kept = [good for score, good in found if score > CONFIDENCES[index]]
        assert curves.precision[0, index] == pytest.approx(sum(kept) / len(kept) if kept else 1)
        assert curves.recall[0, index] == pytest.approx(sum(kept) / objects)
        assert curves.f1[0, index] == pytest.approx(2 * sum(kept) / (len(kept) + objects))

"""The confusion matrix of boxes drawn by hand."""

import numpy as np

from segc.evaluation.confusion import Confusion

A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]


def _count(
    truth: list[tuple[int, list[int]]], found: list[tuple[int, list[int], float]], crowd: tuple[int, ...] = ()
) -> list[list[int]]:
    confusion = Confusion.empty(("cat", "dog"))
    confusion.add(
        np.array([c for c, _ in truth], np.int64),
        np.array([b for _, b in truth], np.float64).reshape(-1, 4),
        np.array([i in crowd for i in range(len(truth))], bool),
        np.array([c for c, _, _ in found], np.int64),
        np.array([b for _, b, _ in found], np.float32).reshape(-1, 4),
        np.array([s for _, _, s in found]),
    )
    return confusion.counts.tolist()


def test_right_wrong_false_and_missed_have_their_places() -> None:
    counts = _count([(0, A), (0, B), (1, C)], [(0, A, 0.9), (1, B, 0.8), (1, [60, 0, 70, 10], 0.7)])
    assert counts == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]


def test_the_larger_overlap_goes_first_whatever_the_score() -> None:
    counts = _count([(0, A)], [(1, [0, 0, 10, 7], 0.9), (0, A, 0.5)])
    assert counts == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_detections_of_little_confidence_are_none() -> None:
    assert _count([(0, A)], [(0, A, 0.25)]) == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_an_anchor_of_several_classes_counts_for_its_best() -> None:
    assert _count([(0, A)], [(0, A, 0.9), (1, A, 0.6)]) == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_a_crowd_counts_as_nothing_and_neither_do_detections_in_it() -> None:
    assert _count([(0, A)], [(0, [2, 2, 4, 4], 0.9), (1, B, 0.9)], crowd=(0,)) == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_an_image_without_anything_changes_nothing() -> None:
    assert not np.any(_count([], []))


def test_json_names_only_what_occurs() -> None:
    confusion = Confusion.empty(("cat", "dog"))
    confusion.counts[1, 2] = 3
    assert confusion.to_json()["labels"] == ["dog", "background"]
    assert confusion.to_json()["predicted_by_true"] == [[0, 3], [0, 0]]

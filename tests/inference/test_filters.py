"""What counts as a detection: classes that are asked for, and suppression across classes."""

import numpy as np
import pytest

from segc.inference.filters import ClassError, FilterError, Filters, choose_filters, class_numbers
from segc.inference.metadata import Metadata
from segc.inference.postprocess import detections

NAMES = ("person", "dog", "2")
BOXES = np.float32([[0, 0, 10, 10], [0, 0, 10, 9.5], [20, 20, 30, 30]])
SCORES = np.float32([[0.9, 0.1, 0.0], [0.3, 0.6, 0.0], [0.0, 0.2, 0.5]])
BOUNDS = {"conf": 0.15, "iou": 0.5}


def test_classes_are_named_or_numbered_and_a_name_that_is_a_number_is_a_name():
    assert class_numbers(["dog", "person", "dog"], NAMES) == (0, 1)
    assert class_numbers(["0", 1], NAMES) == (0, 1)
    assert class_numbers(["2"], ("2", "two", "three")) == (0,)


@pytest.mark.parametrize(("asked", "hint"), [("dgo", "did you mean dog"), ("7", "there are person, dog, 2")])
def test_a_class_that_is_not_there_is_told_with_those_that_are(asked, hint):
    with pytest.raises(ClassError, match=hint):
        class_numbers([asked], NAMES)


def test_only_asked_classes_are_found_and_an_anchor_of_another_does_not_become_one_of_them():
    found = detections(BOXES, SCORES, **BOUNDS, max_det=300, only=(1,))
    assert (found.anchors.tolist(), found.classes.tolist()) == ([1], [1])
    # What is left out takes no place among the best.
    assert detections(BOXES, SCORES, **BOUNDS, max_det=1, only=(2,)).anchors.tolist() == [2]


def test_classes_suppress_each_other_only_where_that_is_asked():
    assert detections(BOXES, SCORES, **BOUNDS, max_det=300).anchors.tolist() == [0, 1, 2]
    assert detections(BOXES, SCORES, **BOUNDS, max_det=300, agnostic=True).anchors.tolist() == [0, 2]


def test_what_is_not_asked_comes_from_the_defaults():
    metadata, defaults = Metadata(NAMES, (64, 64)), Filters(0.1, retina=False, classes=(2,))
    assert choose_filters(metadata, {"retina": None}, defaults) == defaults
    chosen = choose_filters(metadata, {"retina": True, "classes": ["dog"], "agnostic": True}, defaults)
    assert (chosen.retina, chosen.classes, chosen.agnostic) == (True, (1,), True)


def test_a_model_that_suppresses_class_by_class_cannot_do_so_across_them():
    metadata = Metadata(NAMES, (64, 64), layout="detections", conf=0.2, iou=0.7, max_det=30)
    with pytest.raises(FilterError, match="class by class"):
        choose_filters(metadata, {"agnostic": True}, Filters())

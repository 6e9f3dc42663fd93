"""What counts as a detection: classes that are asked for, and suppression across classes."""

import re
from dataclasses import replace

import numpy as np
import pytest

from segc.inference.filters import (
    ClassError,
    FilterError,
    Filters,
    Tiling,
    TilingError,
    Tracking,
    choose_filters,
    choose_tiling,
    class_numbers,
    search_filters,
)
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


def test_tiles_are_those_asked_for_else_the_defaults():
    project = Tiling(512, 0.1, whole=True)
    for given, default, expected in (
        ({}, None, None),
        ({}, project, project),
        ({"tile": 0}, project, None),
        ({"tile": 320}, None, Tiling(320)),
        ({"tile": 320}, project, Tiling(320, 0.1, whole=True)),
        ({"overlap": 0.4}, project, Tiling(512, 0.4, whole=True)),
        ({"tile_plus_whole": False}, project, Tiling(512, 0.1)),
    ):
        assert choose_tiling(given, default) == expected
        assert choose_filters(Metadata(("a",), (32, 32)), given, Filters(tiles=default)).tiles == expected


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"overlap": 0.3}, "an overlap of tiles"),
        ({"tile_plus_whole": True}, "the whole besides tiles"),
        ({"tile": 0, "overlap": 0.3}, "an overlap of tiles"),
    ],
)
def test_what_is_asked_of_tiles_that_are_not_there_is_an_error_in_words_for_options_and_arguments(given, what):
    with pytest.raises(TilingError, match=f"^{what} is asked for, .* tile gives their side, such as 640$") as caught:
        choose_tiling(given, None)
    assert "--" not in str(caught.value)


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("conf", (2, 25, -1, NAN, INFINITE, "a", {"dog": 0.5}, True, 1j), "a number between 0 and 1"),
        ("iou", (2, NAN, -0.1, np.float32("nan"), [0.5]), "a number between 0 and 1"),
        ("max_det", (0, -1, 1.5, NAN, "3", True, np.int64(0)), "a whole number from 1 up"),
        ("tile", (-1, 31, 8193, 640.0, NAN, False), "a whole number between 32 and 8192, or 0"),
        ("overlap", (0.95, -0.1, NAN, "0.2"), "a number between 0 and 0.9"),
        ("mask_memory", (0, -1, 0.5, NAN, INFINITE), "a whole number from 1 up"),
        ("retina", ("no", 1, np.int64(0), 1.0), "True or False"),
        ("agnostic", ("yes", 0), "True or False"),
        ("tile_plus_whole", ("no", 1), "True or False"),
        ("track", ("no", 1), "True or False"),
    ],
)
def test_a_value_that_cannot_be_asked_for_is_refused_with_what_can(name, values, words):
    for value in values:
        with pytest.raises(ValueError, match=re.escape(f"{name} is {words}, not ")):
            choose_filters(Metadata(NAMES, (64, 64)), {"tile": 64, name: value}, Filters())


def test_bounds_themselves_and_numbers_of_numpy_can_be_asked_for():
    given = {"conf": np.float64(0), "iou": 1, "max_det": np.int64(1), "retina": np.bool_(False), "overlap": 0.9}
    given |= {"tile": np.int32(32), "tile_plus_whole": True, "mask_memory": 1, "classes": np.array([1])}
    chosen = choose_filters(Metadata(NAMES, (64, 64)), given, Filters())
    expected = Filters(0.0, 1.0, 1, retina=False, classes=(1,), tiles=Tiling(32, 0.9, whole=True), mask_memory=1)
    assert chosen == expected
    assert [type(value) for value in (chosen.conf, chosen.iou, chosen.max_det, chosen.retina)] == [
        float,
        float,
        int,
        bool,
    ]


def test_one_class_needs_no_list_and_none_at_all_is_refused():
    metadata = Metadata(NAMES, (64, 64))
    for one in ("dog", 1, np.int64(1), np.str_("dog")):
        assert choose_filters(metadata, {"classes": one}, Filters()).classes == (1,)
    with pytest.raises(ClassError, match="no class is named"):
        choose_filters(metadata, {"classes": []}, Filters())
    with pytest.raises(ClassError, match=r"no class '1\.5'"):
        choose_filters(metadata, {"classes": 1.5}, Filters())


def test_following_asks_the_network_for_poorer_detections():
    by_class = {"a": 0.5, "default": 0.3}
    metadata = Metadata(("a",), (32, 32))
    plain = Filters(conf=0.3, by_class=by_class)
    assert search_filters(plain, metadata) is plain
    followed = choose_filters(metadata, {"track": True}, plain)
    assert followed.track == Tracking()
    assert search_filters(followed, metadata) == replace(followed, conf=0.1, by_class=None)
    suppressing = replace(metadata, layout="detections", conf=0.2, iou=0.7, max_det=300)
    assert search_filters(followed, suppressing).conf == 0.2
    assert search_filters(replace(followed, conf=0.05), metadata).conf == 0.05
    assert choose_filters(metadata, {"track": False}, followed).track is None


def test_thresholds_of_a_project_that_a_suppressing_model_does_not_follow_are_said(tmp_path):
    from segc.prediction import without_effect
    from segc.spec.load import load_project

    text = "version: 1\nname: a\narchitecture: {family: yolov8-seg, scale: n}\n"
    text += "dataset: {path: ., train: a, val: b, names: [cat]}\nhyperparameters: {imgsz: 64, conf: 0.4, iou: 0.7}\n"
    (tmp_path / "project.yaml").write_text(text)
    for split in "ab":
        (tmp_path / split).mkdir()
    loaded = load_project(tmp_path / "project.yaml")
    plain = Metadata(("cat",), (64, 64))
    own = replace(plain, layout="detections", conf=0.25, iou=0.7, max_det=100)
    (said,) = without_effect(own, {"conf": None}, loaded)
    assert (said.code, said.severity) == ("X224", "warning")
    assert said.message == "hyperparameters.conf has no effect: the model suppresses by itself, with 0.25"
    assert said.help is not None
    assert "--conf" in said.help
    # max_det is 300 where the project says nothing: nobody asked for it.
    assert not without_effect(own, {"conf": 0.4}, loaded)
    assert not without_effect(replace(own, conf=0.4), {}, loaded)
    assert not without_effect(plain, {}, loaded)
    assert not without_effect(own, {}, None)

"""Least scores by class."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.inference.masks import Mask
from segc.inference.postprocess import detections
from segc.inference.results import Prediction
from segc.inference.thresholds import above, thresholds
from segc.spec.load import check_text

NAMES = ("person", "dog", "cat")


def test_classes_have_their_own_least_score_or_the_default():
    assert thresholds(0.3, NAMES).tolist() == pytest.approx([0.3] * 3)
    assert thresholds({"dog": 0.4, "default": 0.1}, NAMES).tolist() == pytest.approx([0.1, 0.4, 0.1])
    assert thresholds({"dog": 0.4}, NAMES).tolist() == pytest.approx([0.25, 0.4, 0.25])


def predicted(boxes, scores, classes):
    return Prediction(
        path="",
        height=64,
        width=64,
        boxes=boxes,
        scores=scores,
        classes=classes,
        names=NAMES,
        masks=tuple(Mask(index, 0, np.ones((1, 1), bool)) for index in range(len(scores))),
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.floats(0.1, 0.9), min_size=3, max_size=3))
def test_sifting_after_suppression_keeps_what_each_class_alone_would(seed, least):
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 40, (30, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(5, 24, (30, 2))], axis=1).astype(np.float32)
    scores = np.zeros((30, 3), np.float32)
    classes = generator.integers(0, 3, 30)
    scores[np.arange(30), classes] = generator.random(30)
    settings_ = {"iou": 0.5, "max_det": 300}
    limits = np.array(least, np.float32)
    found = detections(boxes, scores, conf=float(limits.min()), **settings_)
    kept = above(predicted(found.boxes, found.scores, found.classes), dict(zip(NAMES, limits.tolist(), strict=True)))
    alone = [detections(boxes, scores * (np.arange(3) == i), conf=float(limits[i]), **settings_) for i in range(3)]
    expected = sorted((float(s), int(c)) for one in alone for s, c in zip(one.scores, one.classes, strict=True))
    assert sorted(zip(kept.scores.tolist(), kept.classes.tolist(), strict=True)) == expected
    assert len(kept.masks) == len(kept.boxes) == len(kept)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("{person: 2}", "S104"),
        ("{person: .nan}", "S104"),
        ("{person: true}", "S103"),
        ("{}", "S107"),
        ("high", "S103"),
        ("1.5", "S104"),
        ("{bird: 0.5}", "X215"),
    ],
)
def test_least_scores_that_mean_nothing_are_told(tmp_path, value, code):
    loaded, diagnostics = project(tmp_path, value)
    assert loaded is None
    assert {one.code for one in diagnostics if one.severity == "error"} == {code}


def project(folder: Path, conf: str):
    text = (
        "version: 1\nname: t\narchitecture: {family: yolov8-seg, scale: n}\n"
        f"dataset: {{train: t, val: v, names: {json.dumps(NAMES)}}}\nhyperparameters: {{conf: {conf}}}\n"
    )
    return check_text(text, folder / "project.yaml")


def test_least_scores_are_read_as_they_are_written(tmp_path):
    for conf, expected in (("0.4", 0.4), ("1", 1.0), ("{dog: 0.4, default: 0}", {"dog": 0.4, "default": 0.0})):
        loaded, _ = project(tmp_path, conf)
        assert loaded.project.hyperparameters.conf == expected


def test_scripts_carry_the_least_scores_of_classes():
    from segc.emission.script import render_files
    from segc.inference.filters import Filters
    from segc.inference.metadata import Metadata
    from segc.targets.registry import targets

    entry = targets()["onnx"]
    defaults = Filters(0.1, by_class={"it's a dog": 0.4, "default": 0.1})
    text = render_files(entry, entry.default_options(), "m.onnx", Metadata(("it's a dog",), (64, 64)), defaults)[
        "predict.py"
    ]
    compile(text, "predict.py", "exec")
    assert """by_class={"it's a dog": 0.4, 'default': 0.1})""" in text
    assert "def above(" in text


def test_a_score_that_is_asked_for_is_asked_of_every_class():
    from segc.inference.filters import Filters, choose_filters
    from segc.inference.metadata import Metadata

    metadata, defaults = Metadata(NAMES, (64, 64)), Filters(0.1, by_class={"dog": 0.4, "default": 0.1})
    assert choose_filters(metadata, {}, defaults).by_class == {"dog": 0.4, "default": 0.1}
    assert choose_filters(metadata, {"conf": 0.3}, defaults).by_class is None

"""Weights of classes: where they come from, and what they do to the loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.data.labels import Instance
from segc.data.samples import Sample
from segc.spec.load import check_text, load_project
from segc.training.balance import LEAST, MOST, class_weights, weights_line
from segc.training.loop import train
from segc.training.loss import class_loss
from segc.training.report import Report

TRIANGLE = np.array([[0, 0], [1, 0], [1, 1]], np.float32)


def samples(*counts: int) -> list[Sample]:
    instances = [Instance(index, (TRIANGLE,)) for index, count in enumerate(counts) for _ in range(count)]
    crowd = Instance(0, (TRIANGLE,), is_crowd=True)
    return [Sample(Path("a.png"), None, (*instances, crowd))]


def test_balanced_weights_let_classes_count_alike():
    weights = class_weights("balanced", ("a", "b", "c", "d"), samples(10, 40, 10, 0))
    assert weights.tolist() == [2.0, 0.5, 2.0, 1.0]


@given(st.lists(st.integers(0, 500), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_balanced_weights_have_the_mean_one_within_their_bounds(counts):
    weights = class_weights("balanced", tuple("abcde"[: len(counts)]), samples(*counts))
    assert LEAST <= weights.min() <= weights.max() <= MOST + 1e-5
    inside = [LEAST < weight < MOST for weight, count in zip(weights.tolist(), counts, strict=True) if count]
    if sum(counts) and all(inside):
        assert np.dot(weights, counts) / sum(counts) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ((0, 0, 9), "every class that has objects weighs 1 in the class loss"),
        ((10, 40, 0), "class weights from 0.625 (b) to 2.5 (a), in the class loss"),
    ],
)
def test_only_classes_that_have_objects_are_named_with_their_weights(counts, line):
    weights = class_weights("balanced", ("a", "b", "c"), samples(*counts))
    assert weights_line(weights, ("a", "b", "c"), samples(*counts)) == line


@pytest.mark.parametrize(
    ("dataset", "idle"),
    [
        ("names: [a, b]", False),
        ("names: [a, b], classes: [b]", True),
        ("names: [a, b], single_cls: true", True),
        ("names: [a]", True),
    ],
)
def test_balanced_weights_of_one_class_are_told_to_have_no_effect(tmp_path, dataset, idle):
    path = tmp_path / "project.yaml"
    path.write_text(
        "version: 1\nname: a\narchitecture: {family: yolov8-seg, scale: n}\n"
        f"dataset: {{path: data, train: images/train, val: images/val, {dataset}}}\n"
        "hyperparameters: {class_weights: balanced}\n"
    )
    assert ("X224" in [one.code for one in load_project(path).warnings]) == idle


def test_named_weights_are_taken_and_others_are_one():
    assert class_weights({"b": 2.5}, ("a", "b"), samples(3, 3)).tolist() == [1.0, 2.5]
    assert class_weights(None, ("a", "b"), samples(3, 3)) is None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_weight_is_the_factor_of_the_cross_entropy_of_an_object_with_its_class(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 6, 3, generator=generator) * 4
    image, anchor = (torch.rand(2, 6, generator=generator) < 0.5).nonzero().T
    classes = torch.randint(3, (len(image),), generator=generator)
    scores, weights = torch.rand(2, len(image), generator=generator)
    targets, factors = torch.zeros_like(logits), torch.ones_like(logits)
    targets[image, anchor, classes], factors[image, anchor, classes] = scores, weights
    wanted = F.binary_cross_entropy_with_logits(logits, targets, factors, reduction="sum")
    assert class_loss(logits, image, anchor, classes, scores, weights).item() == pytest.approx(wanted.item(), rel=1e-4)
    ones = torch.ones_like(weights)
    plain = class_loss(logits, image, anchor, classes, scores)
    assert class_loss(logits, image, anchor, classes, scores, ones).item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("value", "code", "column"),
    [
        ("equal", "S103", 34),
        ("{a: 0}", "S104", 38),
        ("{a: true}", "S104", 38),
        ("{a: heavy}", "S104", 38),
        ("{c: 2}", "X215", 38),
    ],
)
def test_weights_that_mean_nothing_are_told_at_their_place(tmp_path, value, code, column):
    text = (
        "version: 1\nname: t\narchitecture: {family: yolov8-seg, scale: n}\n"
        "dataset: {train: t, val: v, names: [a, b]}\n"
        f"hyperparameters: {{class_weights: {value}}}\n"
    )
    loaded, diagnostics = check_text(text, tmp_path / "project.yaml")
    assert loaded is None
    (found,) = [one for one in diagnostics if one.severity == "error"]
    assert (found.code, found.line, found.column) == (code, 5, column)


class Lines(Report):
    """What a training says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_a_training_says_how_classes_weigh(compiled):
    report = Lines()
    train(*compiled(epochs=1, class_weights="{disc: 3}"), report=report)
    assert "class weights from 1 (bar) to 3 (disc), in the class loss" in report.said

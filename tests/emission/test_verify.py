"""Verification passes what was trained, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from segc.emission.verify import OUTPUTS, TOLERANCES, Case, Matching, Parity, choose, compare

SIZE = (64, 64)
ANCHORS = 84
CASES = [Case("fixed", np.zeros((2, 3, *SIZE), np.float32))]


@pytest.fixture
def outputs() -> dict[str, np.ndarray]:
    """Two images with three clear objects each on an 64 x 64 input, two classes."""
    random = np.random.default_rng(0)
    boxes = np.tile(np.array([0, 0, 4, 4], np.float32), (2, ANCHORS, 1))
    scores = np.full((2, ANCHORS, 2), 1e-6, np.float32)
    for index, box in enumerate([(2, 2, 30, 30), (34, 2, 60, 28), (10, 34, 50, 62)]):
        boxes[:, index] = box
        scores[:, index, index % 2] = 0.9 - 0.1 * index
    coefficients = random.standard_normal((2, ANCHORS, 32)).astype(np.float32)
    prototypes = random.standard_normal((2, 32, 16, 16)).astype(np.float32)
    arrays = (boxes, scores, coefficients, prototypes)
    return {f"fixed.{name}": array for name, array in zip(OUTPUTS, arrays, strict=True)}


def parity(reference: dict[str, np.ndarray], **changed: np.ndarray) -> Parity:
    artifact = {**reference, **{f"fixed.{name}": array for name, array in changed.items()}}
    return compare(CASES, reference, artifact, "fp32", 2)


def test_equal_outputs_pass_and_every_detection_matches(outputs: dict[str, np.ndarray]) -> None:
    result = parity(outputs)
    assert result.passed
    assert result.detections == Matching(0.25, 6, 6, 6, 0, 1.0, 1.0, passed=True)
    assert result.summary() == "boxes 0.0e+00 px, scores 0.0e+00, 6/6 detections, 2 images"
    assert result.faults() == []


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_passes_up_to_its_tolerance_and_not_beyond(name: str, outputs: dict[str, np.ndarray]) -> None:
    limit = TOLERANCES["fp32"].of(name, SIZE)
    for factor, passes in ((0.5, True), (2.0, False)):
        changed = outputs[f"fixed.{name}"].copy()
        changed[0, 0, 0] += np.float32(limit * factor)
        result = parity(outputs, **{name: changed})
        assert result.passed is passes
        assert result.outputs[name].passed is passes


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_fail(value: float, outputs: dict[str, np.ndarray]) -> None:
    broken = outputs["fixed.prototypes"].copy()
    broken[0, 0, 0, 0] = value
    result = parity(outputs, prototypes=broken)
    assert not result.passed
    assert result.to_json()["outputs"]["prototypes"]["max_abs_error"] is None


def test_another_shape_fails(outputs: dict[str, np.ndarray]) -> None:
    result = parity(outputs, boxes=outputs["fixed.boxes"][:, 1:])
    assert not result.passed
    assert not result.outputs["boxes"].passed
    assert not result.detections.passed


def test_a_lost_detection_fails(outputs: dict[str, np.ndarray]) -> None:
    scores = outputs["fixed.scores"].copy()
    scores[1, 2] = 0
    found = parity(outputs, scores=scores).detections
    assert (found.reference, found.artifact, found.matched, found.passed) == (6, 5, 5, False)


def test_a_detection_of_another_class_does_not_match(outputs: dict[str, np.ndarray]) -> None:
    scores = outputs["fixed.scores"].copy()
    scores[1, 2] = scores[1, 2, ::-1]
    found = parity(outputs, scores=scores).detections
    assert (found.matched, found.passed) == (5, False)


def test_a_moved_box_does_not_match(outputs: dict[str, np.ndarray]) -> None:
    boxes = outputs["fixed.boxes"].copy()
    boxes[0, 0] += 3
    found = parity(outputs, boxes=boxes).detections
    assert (found.matched, found.passed) == (5, False)


def test_another_mask_does_not_match(outputs: dict[str, np.ndarray]) -> None:
    coefficients = outputs["fixed.coefficients"].copy()
    coefficients[0, 0] *= -1
    found = parity(outputs, coefficients=coefficients).detections
    assert (found.matched, found.passed) == (5, False)


def test_a_score_on_the_edge_of_the_confidence_is_excused(outputs: dict[str, np.ndarray]) -> None:
    theirs, ours = (outputs["fixed.scores"].copy() for _ in range(2))
    theirs[0, 2, 0], ours[0, 2, 0] = 0.250002, 0.249999
    result = compare(CASES, {**outputs, "fixed.scores": theirs}, {**outputs, "fixed.scores": ours}, "fp32", 2)
    found = result.detections
    assert (found.reference, found.artifact, found.matched, found.excused, found.passed) == (6, 5, 5, 1, True)


def test_without_detections_the_confidence_is_lowered_and_that_is_said(outputs: dict[str, np.ndarray]) -> None:
    faint = {**outputs, "fixed.scores": outputs["fixed.scores"] / 100}
    result = compare(CASES, faint, faint, "fp32", 2)
    assert result.detections.conf == 0.001
    assert result.detections.matched == 6
    assert "6/6 detections at conf 0.001" in result.summary()


def test_that_nothing_was_compared_is_said(outputs: dict[str, np.ndarray]) -> None:
    blank = {**outputs, "fixed.scores": outputs["fixed.scores"] * 0}
    result = compare(CASES, blank, blank, "fp32", 2)
    assert result.detections.matched == 0
    assert "no detections to compare" in result.summary()
    assert result.detections.box_iou is None


SUPPRESSION = {"conf": 0.25, "iou": 0.7, "max_det": 5, "agnostic": False}


@pytest.fixture
def left(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What an artifact gives that suppresses by itself: three detections an image, two empty rows."""
    rows = {"boxes": (2, 5, 4), "scores": (2, 5, 2), "coefficients": (2, 5, 32)}
    found = {name: np.zeros(shape, np.float32) for name, shape in rows.items()}
    for name, values in found.items():
        values[:, :3] = outputs[f"fixed.{name}"][:, :3]
    found["scores"][found["scores"] < 0.1] = 0
    return {f"fixed.{name}": values for name, values in found.items()} | {
        "fixed.prototypes": outputs["fixed.prototypes"]
    }


def suppressed(outputs: dict[str, np.ndarray], left: dict[str, np.ndarray], precision: str = "fp32") -> Parity:
    return compare(CASES, outputs, left, precision, 2, SUPPRESSION)


def test_detections_of_an_artifact_that_suppresses_match_what_is_left_of_the_network(
    outputs: dict[str, np.ndarray], left: dict[str, np.ndarray]
) -> None:
    result = suppressed(outputs, left)
    assert result.passed
    assert result.detections == Matching(0.25, 6, 6, 6, 0, 1.0, 1.0, passed=True)
    assert result.summary() == "boxes 0.0e+00 px, scores 0.0e+00, 6/6 detections, 2 images"


def test_detections_are_matched_in_whatever_order_they_stand(
    outputs: dict[str, np.ndarray], left: dict[str, np.ndarray]
) -> None:
    turned = {key: value if key.endswith("prototypes") else value[:, ::-1] for key, value in left.items()}
    assert suppressed(outputs, turned).passed


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_of_an_artifact_that_suppresses_passes_up_to_its_tolerance(
    name: str, outputs: dict[str, np.ndarray], left: dict[str, np.ndarray]
) -> None:
    limit = TOLERANCES["fp32"].of(name, SIZE)
    for factor, passes in ((0.5, True), (2.0, False)):
        changed = left[f"fixed.{name}"].copy()
        changed[0, 0, 0] += np.float32(limit * factor)
        result = suppressed(outputs, {**left, f"fixed.{name}": changed})
        assert (result.outputs[name].passed, result.passed) == (passes, passes)


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 2, 2]], ids=["one is lost", "one is there twice"])
def test_an_artifact_that_suppresses_too_much_or_too_little_fails(
    rows: list[int], outputs: dict[str, np.ndarray], left: dict[str, np.ndarray]
) -> None:
    changed = {key: value.copy() for key, value in left.items()}
    for name in ("boxes", "scores", "coefficients"):
        values = left[f"fixed.{name}"]
        changed[f"fixed.{name}"][:] = 0
        changed[f"fixed.{name}"][:, : len(rows)] = values[:, rows]
    found = suppressed(outputs, changed).detections
    assert (found.artifact, found.passed) == (2 * len(rows), False)


def test_an_artifact_that_suppresses_into_another_form_fails(
    outputs: dict[str, np.ndarray], left: dict[str, np.ndarray]
) -> None:
    result = suppressed(outputs, {**left, "fixed.boxes": left["fixed.boxes"][:, 1:]})
    assert not result.passed
    assert not result.outputs["boxes"].passed


def test_without_detections_of_an_artifact_that_suppresses_only_prototypes_are_told_of(
    outputs: dict[str, np.ndarray], left: dict[str, np.ndarray]
) -> None:
    blank = {**left, "fixed.scores": left["fixed.scores"] * 0}
    result = suppressed({**outputs, "fixed.scores": outputs["fixed.scores"] / 100}, blank)
    assert result.passed
    assert result.summary() == "prototypes 0.0e+00, no detections to compare, 2 images"


def test_the_last_of_a_full_list_of_detections_may_be_another_as_good(
    outputs: dict[str, np.ndarray], left: dict[str, np.ndarray]
) -> None:
    equal = outputs["fixed.scores"].copy()
    equal[:, 1, 1], equal[:, 2, 0] = 0.7, 0.7
    cut = {key: value if key.endswith("prototypes") else value[:, [0, 2]] for key, value in left.items()}
    cut["fixed.scores"][:, 1, 0] = 0.7
    found = compare(CASES, {**outputs, "fixed.scores": equal}, cut, "fp32", 2, {**SUPPRESSION, "max_det": 2}).detections
    assert (found.matched, found.excused, found.passed) == (2, 4, True)


def test_box_tolerance_grows_with_large_inputs_only() -> None:
    tolerance = TOLERANCES["fp32"]
    assert tolerance.of("boxes", (320, 640)) == tolerance.of("boxes", (32, 32)) == 1e-3
    assert tolerance.of("boxes", (640, 1280)) == 2e-3
    assert tolerance.of("scores", (1280, 1280)) == 1e-5


def test_the_same_photographs_are_chosen_every_time() -> None:
    paths = [Path(f"{index:03}.jpg") for index in range(100)]
    chosen = choose(paths)
    assert chosen == choose(paths) == sorted(chosen)
    assert len(chosen) == 3
    assert choose(paths[:2]) == paths[:2]


@pytest.mark.parametrize(
    ("precision", "output", "times", "always"), [("fp16", "scores", 2, 5e-3), ("fp32", "boxes", 4, 1e-3)]
)
def test_an_artifact_may_be_a_few_times_as_far_off_as_rounding_takes_the_network(
    outputs: dict[str, np.ndarray], precision: str, output: str, times: float, always: float
) -> None:
    key = f"fixed.{output}"
    plain = {**outputs, key: np.zeros_like(outputs[key])}  # where fp32 has steps for small differences

    def shifted(by: float) -> dict[str, np.ndarray]:
        return {**plain, key: plain[key] + np.float32(by)}

    def judged(by: float, rounding: float) -> bool:
        found = compare(CASES, plain, shifted(by), precision, 2, rounded=shifted(rounding))
        assert found.outputs[output].allowed == pytest.approx(max(always, times * rounding), rel=1e-3)
        return found.outputs[output].passed

    assert judged(0.99 * times * always, always)
    assert not judged(1.01 * times * always, always)
    # A network that rounding hardly moves is allowed what every network is.
    assert judged(0.99 * always, always / 50)
    assert not judged(1.01 * always, always / 50)


def test_a_fault_says_what_is_allowed(outputs: dict[str, np.ndarray]) -> None:
    found = parity(outputs, scores=outputs["fixed.scores"] + np.float32(0.01))
    assert found.faults() == ["scores differ by up to 0.01, where 1e-05 is allowed"]
    assert found.to_json()["outputs"]["scores"]["allowed"] == 1e-5


def test_a_result_says_what_was_compared_and_nothing_of_what_was_not() -> None:
    nothing = Matching(0.25, 0, 0, 0, 0, None, None, passed=True)
    assert Parity(3, {}, nothing).summary() == "no detections to compare, 3 images"

"""Eight bits pass, and what they do not explain is named: the output, its channel, and by how much it is off."""

from __future__ import annotations

import numpy as np
import pytest

from segc.emission.deviations import MOST_FACTOR, Deviation, deviations

NAMES = ("circle", "square", "star")
ANCHORS = 400


@pytest.fixture
def outputs() -> dict[str, np.ndarray]:
    """Two images with a few dozen sure anchors of each class."""
    random = np.random.default_rng(0)
    corners = random.uniform(0, 120, (2, ANCHORS, 2))
    boxes = np.concatenate([corners, corners + random.uniform(10, 40, (2, ANCHORS, 2))], axis=2)
    scores = random.uniform(0, 1, (2, ANCHORS, 3)) ** 4
    coefficients, prototypes = random.standard_normal((2, ANCHORS, 32)), random.standard_normal((2, 32, 40, 40))
    arrays = {"boxes": boxes, "scores": scores, "coefficients": coefficients, "prototypes": prototypes}
    return {f"fixed.{name}": value.astype(np.float32) for name, value in arrays.items()}


def eight_bits(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every output on 256 steps from its least to its largest value."""
    found = {}
    for name, value in outputs.items():
        step = (value.max() - value.min()) / 255
        found[name] = (np.rint(value / step) * step).astype(np.float32)
    return found


def found(reference: dict[str, np.ndarray], artifact: dict[str, np.ndarray]) -> dict[str, Deviation]:
    return {one.output: one for one in deviations(["fixed"], reference, artifact)}


def test_eight_bits_pass(outputs: dict[str, np.ndarray]) -> None:
    result = found(outputs, eight_bits(outputs))
    assert set(result) == set(MOST_FACTOR)
    assert all(one.passed for one in result.values())
    assert all(abs(one.factor - 1) < 0.02 for one in result.values())


@pytest.mark.parametrize(
    ("output", "channel", "called"),
    [
        ("boxes", 2, "boxes, x2: "),
        ("scores", 2, "scores, star: "),
        ("coefficients", 7, "coefficients, channel 7: "),
        ("prototypes", 31, "prototypes, channel 31: "),
    ],
)
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_channel_of_another_scale_is_named_with_its_factor(
    output: str, channel: int, called: str, factor: float, outputs: dict[str, np.ndarray]
) -> None:
    planted = eight_bits(outputs)
    place = (slice(None), channel) if output == "prototypes" else (..., channel)
    planted[f"fixed.{output}"][place] *= np.float32(factor)
    result = found(outputs, planted)
    assert [name for name, one in result.items() if not one.passed] == [output]
    assert result[output].channel == channel
    assert result[output].factor == pytest.approx(factor, rel=0.02)
    assert result[output].text(NAMES).startswith(called)
    assert f"{factor:.2f} times what the network gives (1 of " in result[output].text(NAMES)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_artifact_that_gives_nothing_fails_in_every_output(value: float, outputs: dict[str, np.ndarray]) -> None:
    blind = {name: np.full_like(array, value) for name, array in outputs.items()}
    for name, one in found(outputs, blind).items():
        assert one.wrong == one.compared == outputs[f"fixed.{name}"].shape[1 if name == "prototypes" else -1]
        assert (one.to_json()["factor"] is None) == np.isnan(value)


def test_a_channel_that_moves_little_may_be_off(outputs: dict[str, np.ndarray]) -> None:
    outputs["fixed.coefficients"][..., 3] *= 0.01
    flat = {name: array.copy() for name, array in outputs.items()}
    flat["fixed.coefficients"][..., 3] = 0
    assert found(outputs, flat)["coefficients"].passed


def test_a_class_that_hardly_shows_is_not_judged_by_its_factor(outputs: dict[str, np.ndarray]) -> None:
    outputs["fixed.scores"][..., 2] = 0.01
    outputs["fixed.scores"][0, :4, 2] = 0.5
    halved = {name: array.copy() for name, array in outputs.items()}
    halved["fixed.scores"][..., 2] /= 2
    assert found(outputs, halved)["scores"].passed


def test_without_anything_to_see_prototypes_are_compared(outputs: dict[str, np.ndarray]) -> None:
    outputs["fixed.scores"] *= 0.1
    assert set(found(outputs, outputs)) == {"prototypes"}

"""Scopes are ranked by the error that eight bits bring there, and the worst stay in float where that is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from segc.emission.sensitivity import MOST_KEPT, rank, steps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.targets.conftest import Trained

SIZE = (160, 160)


def strained(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of which one scope bears eight bits badly: a channel that it reads is a thousand times the others."""
    values = {name: value.copy() for name, value in weights.items()}
    values["model.22.cv2.0.0.bn.weight"][3] *= 1000
    values["model.22.cv2.0.0.bn.bias"][3] = 1000
    values["model.22.cv2.0.1.conv.weight"][:, 3] = 0
    return values


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_the_scope_that_bears_eight_bits_badly_comes_first(
    target: str, trained: Trained, photographs: np.ndarray
) -> None:
    from segc.network.observing import observe
    from segc.network.session import TorchSession
    from segc.targets.registry import targets

    graph, weights = trained.graph(SIZE), strained(trained.weights)
    images = np.ascontiguousarray(photographs[:, :, :160, :160])
    options = targets()[target].options.model_validate({"format": target, "int8": True})
    scheme = targets()[target].scheme(options)
    assert scheme is not None
    metadata = trained.metadata(SIZE)
    ranking = rank(
        graph,
        weights,
        observe(graph, weights, images),
        scheme,
        "min-max",
        lambda made, values: TorchSession(made, values, metadata).run(images),
    )
    worst = ranking[0]
    assert worst.scope in {"model.22.cv2.0.0", "model.22.cv2.0.1"}
    assert worst.error > 3 * ranking[2].error
    assert max(worst.outputs, key=worst.outputs.__getitem__) == "boxes"
    assert {"model.0", "model.22.cv4.2.2"} <= {one.scope for one in ranking}
    assert 0.5 < sum(one.arithmetic for one in ranking) <= 1
    first = next(one for one in ranking if one.scope == "model.0")
    assert first.bytes == 3 * weights["model.0.conv.weight"].size


def ranked(*shares: float) -> list[dict[str, Any]]:
    return [{"scope": f"s{number}", "arithmetic": share} for number, share in enumerate(shares)]


def test_one_scope_is_kept_then_two_then_four_within_a_share_of_the_arithmetic() -> None:
    tried = list(steps(ranked(0.1, 0.2, 0.05, 0.05, 0.01, 0.2)))
    assert [[one["scope"] for one in step] for step in tried] == [["s0"], ["s0", "s2"], ["s0", "s2", "s3", "s4"]]
    assert all(sum(one["arithmetic"] for one in step) <= MOST_KEPT for step in tried)
    assert [len(step) for step in steps(ranked(*[0.001] * 40))] == [1, 2, 4, 8]
    assert list(steps(ranked(0.5))) == []

"""The network computes what the reference implementation recorded, number by number."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segc.architectures.yolov8_seg import SCALES, build
from segc.graph.passes import fold_batch_norm
from segc.network.lower import SegmentationNetwork, load_weights, lower
from segc.weights.checkpoint import read_checkpoint

INPUTS = ("rand320", "photo320", "rect224x416")
RAW = {"box_logits": "boxes", "class_logits": "scores", "coefficients": "mask_coefficient"}


@pytest.fixture(scope="module")
def recorded(peer: Path) -> Any:
    return np.load(peer / "overfit32_expected.npz")


@pytest.fixture(scope="module")
def networks(peer: Path) -> dict[str, SegmentationNetwork]:
    graph = build(SCALES["n"], 80, (320, 320))
    weights = dict(read_checkpoint(peer / "overfit32_last.pt").tensors)
    found = {}
    for form, (shape, values) in {
        "unfused": (graph, weights),
        "fused": fold_batch_norm(graph, weights),
    }.items():
        found[form] = lower(shape).eval()
        load_weights(found[form], values)
    return found


def images(recorded: Any, which: str) -> torch.Tensor:
    if which == "photo320":
        return torch.from_numpy(recorded["in_photo320_u8_rgb_chw"]).float().reshape(1, 3, 320, 320) / 255
    return torch.from_numpy(recorded[f"in_{which}"]).float()


@pytest.mark.parametrize("which", INPUTS)
@pytest.mark.parametrize(("form", "pixels", "probability"), [("unfused", 1e-3, 1e-5), ("fused", 1e-3, 1e-5)])
def test_outputs_equal_the_recorded_ones(
    networks: dict[str, SegmentationNetwork], recorded: Any, which: str, form: str, pixels: float, probability: float
) -> None:
    with torch.no_grad():
        found = {name: value.numpy() for name, value in networks[form](images(recorded, which)).items()}
    expected = recorded[f"{form}_{which}_out"].transpose(0, 2, 1)
    centre, size = expected[..., 0:2], expected[..., 2:4]
    corners = np.concatenate([centre - size / 2, centre + size / 2], -1)
    assert np.abs(found["boxes"] - corners).max() < pixels
    assert np.abs(found["scores"] - expected[..., 4:84]).max() < probability
    assert np.abs(found["coefficients"] - expected[..., 84:]).max() < 1e-4
    assert np.abs(found["prototypes"] - recorded[f"{form}_{which}_proto"]).max() < 1e-4


@pytest.mark.parametrize("which", INPUTS[:2])
def test_the_head_before_decoding_equals_the_recorded_one(
    networks: dict[str, SegmentationNetwork], recorded: Any, which: str
) -> None:
    with torch.no_grad():
        found = networks["unfused"].raw(images(recorded, which))
    for ours, theirs in RAW.items():
        expected = recorded[f"unfused_{which}_raw_{theirs}"].transpose(0, 2, 1)
        assert np.abs(found[ours].numpy() - expected).max() < 1e-4

"""Weights without a project: what they say of themselves, and what of it is damaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from segc.diagnostics import SegcError
from segc.weights.alone import read_network
from segc.weights.store import load_weights, save_weights


def rewritten(source: Path, path: Path, **said: str | None) -> Path:
    """The weights with other metadata; None leaves a text out."""
    weights = load_weights(source)
    metadata = {key: text for key, text in {**weights.metadata, **said}.items() if text is not None}
    save_weights(path, weights.tensors, metadata)
    return path


def test_own_weights_say_all_that_is_needed(shapes_weights: Path) -> None:
    network = read_network(shapes_weights)
    assert network.metadata.imgsz == (160, 160)
    assert network.metadata.names[-1] == "crescent"
    assert network.weights.tensors.keys() == network.graph.parameters.keys()
    assert not network.weights.warnings


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"names": None}, "X205"),
        ({"scale": "{"}, "W002"),
        ({"scale": json.dumps({"depth": 1})}, "W002"),
        ({"family": "other"}, "W002"),
        ({"imgsz": "[100, 100]"}, "W002"),
        ({"imgsz": '"wide"'}, "W002"),
        ({"imgsz": "7"}, "W002"),
        ({"scale": '"n"'}, "W007"),
        ({"names": json.dumps(["a", "b"])}, "W007"),
    ],
)
def test_what_they_say_of_themselves_is_checked(
    shapes_weights: Path, tmp_path: Path, said: dict[str, str | None], code: str
) -> None:
    with pytest.raises(SegcError) as caught:
        read_network(rewritten(shapes_weights, tmp_path / "w.safetensors", **said))
    assert caught.value.diagnostics[0].code == code


def test_values_that_are_no_numbers_are_told(shapes_weights: Path, tmp_path: Path) -> None:
    weights = load_weights(shapes_weights)
    first = next(name for name, array in weights.tensors.items() if array.dtype == np.float32)
    tensors = {**weights.tensors, first: np.full_like(weights.tensors[first], np.nan)}
    save_weights(tmp_path / "w.safetensors", tensors, weights.metadata)
    (warning,) = read_network(tmp_path / "w.safetensors").weights.warnings
    assert warning.code == "W010"


def test_a_foreign_checkpoint_is_told_by_its_shapes(peer: Path) -> None:
    network = read_network(peer / "overfit32_last.pt")
    assert (network.metadata.family, network.metadata.imgsz, len(network.metadata.names)) == (
        "yolov8-seg",
        (640, 640),
        80,
    )

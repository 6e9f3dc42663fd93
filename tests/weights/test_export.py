"""Weights out again, as PyTorch and tools of the family load them."""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from segc.architectures import build_graph
from segc.commands.weights import command
from segc.diagnostics import SegcError
from segc.network.initialise import initial_weights
from segc.spec.architecture import Architecture, CustomScale
from segc.weights.checkpoint import read_checkpoint
from segc.weights.export import export_weights
from segc.weights.reading import lineage_of, read_source
from segc.weights.resolve import network_metadata
from segc.weights.store import save_weights


@pytest.mark.parametrize("layout", ["state-dict", "checkpoint"])
def test_the_recorded_checkpoint_goes_in_and_out_without_a_change(tmp_path: Path, peer: Path, layout: str) -> None:
    checkpoint = peer / "overfit32_last.pt"
    exported = export_weights(checkpoint, tmp_path / "out.pt", layout=layout, half=True)  # type: ignore[arg-type]
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    state = loaded if layout == "state-dict" else loaded["model"]
    original = read_checkpoint(checkpoint)
    assert isinstance(state, OrderedDict)
    assert exported.tensors == len(state) == 417
    assert set(state) == set(original.tensors)
    for name, tensor in state.items():
        # The recording holds fp16 and int64, as its makers' files do.
        assert tensor.dtype == (torch.int64 if name.endswith("num_batches_tracked") else torch.float16)
        assert np.array_equal(tensor.float().numpy(), original.tensors[name].astype(np.float32))
        assert tensor.shape == original.tensors[name].shape


def test_a_checkpoint_keeps_names_licence_and_descent(tmp_path: Path, peer: Path) -> None:
    export_weights(peer / "overfit32_last.pt", tmp_path / "out.pt", layout="checkpoint")
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert loaded["license"] == "AGPL-3.0"
    assert len(loaded["names"]) == 80
    again = read_source(tmp_path / "out.pt")
    assert again.names == read_checkpoint(peer / "overfit32_last.pt").names
    assert lineage_of(tmp_path / "out.pt") == lineage_of(peer / "overfit32_last.pt")


def test_a_network_of_a_custom_scale_goes_out_by_its_own_names(tmp_path: Path) -> None:
    scale = CustomScale(depth=0.33, width=0.125, max_channels=128)
    graph = build_graph(Architecture(family="yolov8-seg", scale=scale), 2, (64, 64))
    tensors = initial_weights(graph.parameters, 0)
    save_weights(tmp_path / "w.safetensors", tensors, network_metadata(graph, scale.model_dump(), ["a", "b"]))
    exported = export_weights(tmp_path / "w.safetensors", tmp_path / "w.pt")
    state = torch.load(tmp_path / "w.pt", weights_only=True)
    assert json.loads(exported.scale) == scale.model_dump()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        name: parameter.shape for name, parameter in graph.parameters.items()
    }
    read = read_source(tmp_path / "w.pt").tensors
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)


def test_what_cannot_be_written_so_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    graph = build_graph(Architecture(family="yolov8-seg", scale="n"), 2, (64, 64))
    tensors = initial_weights(graph.parameters, 0)
    tensors["model.0.conv.weight"][0] = 1e6
    save_weights(tmp_path / "w.safetensors", tensors, network_metadata(graph, "n", ["a", "b"]))
    with pytest.raises(SegcError, match=r"W010: fp16 cannot hold a value of model\.0\.conv\.weight"):
        export_weights(tmp_path / "w.safetensors", tmp_path / "w.pt", half=True)
    with pytest.raises(SegcError, match="does not end in"):
        export_weights(tmp_path / "w.safetensors", tmp_path / "w.onnx")
    (tmp_path / "w2.pt").symlink_to(tmp_path / "w.safetensors")
    with pytest.raises(SegcError, match="the file to read"):
        export_weights(tmp_path / "w.safetensors", tmp_path / "w2.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"w.safetensors", "w2.pt"}


def test_the_command_says_what_was_written_and_that_the_licence_goes_along(tmp_path: Path, peer: Path) -> None:
    arguments = ["export", str(peer / "overfit32_last.pt"), "-o", str(tmp_path / "out.pt")]
    shown = CliRunner().invoke(command, arguments, catch_exceptions=False).output
    assert "licences: AGPL-3.0; a state dict has no place for it" in shown
    assert "417 tensors of yolov8-seg, scale n" in shown

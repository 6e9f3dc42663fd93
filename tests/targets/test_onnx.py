"""The ONNX target computes what PyTorch computes, in every form it can have, and always the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch

from segc.graph.ops import OPERATORS
from segc.network.initialise import initial_weights
from segc.network.session import TorchSession
from segc.targets.base import OUTPUTS
from segc.targets.onnx import LOWERINGS, NEWEST_OPSET, OLDEST_OPSET, OnnxOptions, OnnxSession, lower
from segc.targets.verify import TOLERANCES
from tests.conformance.operators import RECIPES, build_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.targets.conftest import Trained

OPSETS = range(OLDEST_OPSET, NEWEST_OPSET + 1)


@pytest.fixture(scope="module")
def photographs(peer: Path) -> np.ndarray:
    """Two different inputs [2, 3, 320, 320] in 0..1."""
    recorded = np.load(peer / "overfit32_expected.npz")
    photo = recorded["in_photo320_u8_rgb_chw"].astype(np.float32) / 255
    return np.concatenate([photo.reshape(1, 3, 320, 320), recorded["in_rand320"]])


@pytest.fixture(scope="module")
def reference(trained: Trained) -> Iterator[TorchSession]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield TorchSession(trained.graph((320, 320)), trained.weights, {})
    torch.set_num_threads(before)


def agrees(session: OnnxSession, reference: TorchSession, images: np.ndarray) -> None:
    ours, theirs = session.run(images), reference.run(images)
    assert list(ours) == list(OUTPUTS)
    for name in OUTPUTS:
        assert ours[name].dtype == np.float32
        assert ours[name].shape == theirs[name].shape
        limit = TOLERANCES["fp32"].of(name, images.shape[2:])
        assert np.abs(ours[name] - theirs[name]).max() <= limit, name


def resized(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Repeated and cut to another size."""
    tiled = np.tile(images, (1, 1, -(-height // images.shape[2]), -(-width // images.shape[3])))
    return np.ascontiguousarray(tiled[:, :, :height, :width])


@pytest.mark.parametrize("layout", ["named", "fused"])
@pytest.mark.parametrize("size", [(320, 320), (640, 640), (224, 416)])
def test_a_model_of_fixed_size_agrees_with_torch(
    size: tuple[int, int],
    layout: str,
    trained: Trained,
    reference: TorchSession,
    photographs: np.ndarray,
    tmp_path: Path,
) -> None:
    session = OnnxSession(trained.onnx(tmp_path / "m.onnx", size, layout=layout), threads=1)
    agrees(session, reference, resized(photographs[:1], *size))


@pytest.mark.parametrize("layout", ["named", "fused"])
def test_a_dynamic_model_agrees_with_torch_at_every_size_and_batch(
    layout: str, trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    session = OnnxSession(trained.onnx(tmp_path / "m.onnx", (320, 320), layout=layout, dynamic=True), threads=1)
    for batch, height, width in [(1, 320, 320), (2, 224, 416), (2, 32, 64), (1, 640, 96), (1, 640, 640)]:
        agrees(session, reference, resized(photographs[:batch], height, width))


def test_a_model_of_a_larger_batch_agrees_with_torch(
    trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    agrees(OnnxSession(trained.onnx(tmp_path / "m.onnx", (320, 320), batch=2), threads=1), reference, photographs)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_agrees_with_torch(
    opset: int, dynamic: bool, trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    path = trained.onnx(tmp_path / "m.onnx", (96, 96), opset=opset, dynamic=dynamic, layout="fused")
    agrees(OnnxSession(path, threads=1), reference, resized(photographs[:1], 96, 96))
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import) <= 10


def test_the_fused_layout_is_what_existing_deployment_code_reads(trained: Trained, tmp_path: Path) -> None:
    import onnxruntime

    path = trained.onnx(tmp_path / "m.onnx", (224, 416), layout="fused")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    anchors = 28 * 52 + 14 * 26 + 7 * 13
    shapes = [(output.name, output.shape) for output in session.get_outputs()]
    assert shapes == [("output0", [1, 4 + 80 + 32, anchors]), ("output1", [1, 32, 56, 104])]
    kept = session.get_modelmeta().custom_metadata_map
    assert kept["imgsz"] == "[224, 416]"
    assert (kept["stride"], kept["batch"], kept["task"]) == ("32", "1", "segment")
    assert kept["names"].startswith("{0: 'person', 1: 'bicycle', ")
    images = np.random.default_rng(0).random((1, 3, 224, 416), np.float32)
    rows = session.run(["output0"], {"images": images})[0][0]
    boxes = OnnxSession(path, threads=1).run(images)["boxes"][0]
    np.testing.assert_allclose(rows[0], (boxes[:, 0] + boxes[:, 2]) / 2, atol=1e-4)
    np.testing.assert_allclose(rows[3], boxes[:, 3] - boxes[:, 1], atol=1e-4)


def test_the_recorded_outputs_are_met(trained: Trained, peer: Path, tmp_path: Path) -> None:
    recorded = np.load(peer / "overfit32_expected.npz")
    session = OnnxSession(trained.onnx(tmp_path / "m.onnx", (224, 416), batch=2), threads=1)
    ours = session.run(recorded["in_rect224x416"])
    rows = recorded["unfused_rect224x416_out"].transpose(0, 2, 1)
    corners = np.concatenate([rows[..., :2] - rows[..., 2:4] / 2, rows[..., :2] + rows[..., 2:4] / 2], axis=2)
    assert np.abs(ours["boxes"] - corners).max() <= 1e-3
    assert np.abs(ours["scores"] - rows[..., 4:84]).max() <= 1e-5


def test_the_same_input_gives_the_same_bytes_in_every_process(trained: Trained, tmp_path: Path) -> None:
    first = trained.onnx(tmp_path / "a.onnx", (64, 64)).read_bytes()
    assert trained.onnx(tmp_path / "b.onnx", (64, 64)).read_bytes() == first
    np.savez(tmp_path / "w.npz", **trained.weights)
    code = (
        "import sys, numpy as np, conftest as c\n"
        "names = tuple(open(sys.argv[1] + '/names').read().split('\\n'))\n"
        "t = c.Trained(dict(np.load(sys.argv[1] + '/w.npz')), names)\n"
        "from pathlib import Path; t.onnx(Path(sys.argv[1]) / 'c.onnx', (64, 64))\n"
    )
    (tmp_path / "names").write_text("\n".join(trained.names))
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True)
    assert (tmp_path / "c.onnx").read_bytes() == first


def test_nodes_and_weights_are_named_after_their_place_in_the_network(trained: Trained, tmp_path: Path) -> None:
    model = onnx.load(trained.onnx(tmp_path / "m.onnx", (64, 64)))
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert len(kinds) == len(model.graph.node)
    assert kinds["model.2.m.0.cv1.conv"] == "Conv"
    assert kinds["model.22.proto.upsample"] == "ConvTranspose"
    held = {entry.name for entry in model.graph.initializer}
    assert {"model.0.conv.weight", "model.0.conv.bias"} <= held
    read = {name for node in model.graph.node for name in node.input}
    assert held <= read
    assert "BatchNormalization" not in kinds.values()


def test_metadata_says_what_the_model_is(trained: Trained, tmp_path: Path) -> None:
    path = trained.onnx(tmp_path / "m.onnx", (64, 64))
    assert OnnxSession(path, threads=1).metadata == trained.metadata((64, 64))
    assert [entry.key for entry in onnx.load(path).metadata_props] == ["segc"]
    assert json.loads(onnx.load(path).metadata_props[0].value)["names"][0] == "person"


def test_every_operator_but_suppression_is_lowered() -> None:
    assert set(OPERATORS) - set(LOWERINGS) == {"nms"}


@pytest.mark.parametrize("opset", [11, 13, 18, 22])
@pytest.mark.parametrize("name", RECIPES)
def test_an_operator_means_what_it_means_in_torch_at_every_opset(name: str, opset: int) -> None:
    import onnxruntime

    graph = build_recipe(name, batch=2)
    weights = initial_weights(graph.parameters, 0)
    content = lower(graph, weights, OnnxOptions(format="onnx", opset=opset, batch=2), {})
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).standard_normal((2, 3, 11, 7)).astype(np.float32)
    (ours,) = session.run(None, {"images": images})
    (theirs,) = TorchSession(graph, weights, {}).run(images).values()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)

"""The ONNX target computes what PyTorch computes, in every form it can have, and always the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from segc.graph.builder import GraphBuilder
from segc.graph.ops import OPERATORS
from segc.inference.metadata import Metadata
from segc.network.initialise import initial_weights
from segc.network.session import TorchSession
from segc.targets.contract import EmitRequest
from segc.targets.onnx import NEWEST_OPSET, OLDEST_OPSET, TARGET, OnnxOptions
from segc.targets.onnx.lowering import LOWERINGS
from segc.targets.onnx.runtime import open_model
from segc.weights.checkpoint import read_checkpoint
from tests.conformance.operators import RECIPES, build_recipe
from tests.conformance.refusals import SUPPRESSION
from tests.targets.conftest import Trained, agrees

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segc.graph.ir import Graph

OPSETS = range(OLDEST_OPSET, NEWEST_OPSET + 1)


def written(graph: Graph, weights: Mapping[str, np.ndarray], folder: Path, **options: Any) -> bytes:
    """An ONNX model of any graph."""
    chosen = OnnxOptions(format="onnx", **options)
    metadata = Metadata(("a",), (32, 32), **TARGET.settings(chosen))
    emitted = TARGET.make(EmitRequest(graph, weights, chosen, metadata, "graph", folder))
    return (folder / emitted.model).read_bytes()


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
    session = open_model(trained.onnx(tmp_path / "m.onnx", size, layout=layout), threads=1)
    agrees(session, reference, photographs[:1, :, : size[0], : size[1]])


@pytest.mark.parametrize("layout", ["named", "fused"])
def test_a_dynamic_model_agrees_with_torch_at_every_size_and_batch(
    layout: str, trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    session = open_model(trained.onnx(tmp_path / "m.onnx", (320, 320), layout=layout, dynamic=True), threads=1)
    for batch, height, width in [(1, 320, 320), (2, 224, 416), (2, 32, 64), (1, 640, 96), (1, 640, 640)]:
        agrees(session, reference, photographs[:batch, :, :height, :width])


def test_a_model_of_a_larger_batch_agrees_with_torch(
    trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    agrees(
        open_model(trained.onnx(tmp_path / "m.onnx", (320, 320), batch=2), threads=1),
        reference,
        photographs[:, :, :320, :320],
    )


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_agrees_with_torch(
    opset: int, dynamic: bool, trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    path = trained.onnx(tmp_path / "m.onnx", (96, 96), opset=opset, dynamic=dynamic, layout="fused")
    agrees(open_model(path, threads=1), reference, photographs[:1, :, :96, :96])
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import) <= 10


@pytest.mark.parametrize("layout", ["named", "fused"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_half_precision_agrees_with_torch(
    dynamic: bool, layout: str, trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    path = trained.onnx(tmp_path / "m.onnx", (160, 160), half=True, dynamic=dynamic, layout=layout)
    session = open_model(path, threads=1)
    assert session.metadata.precision == "fp16"
    agrees(session, reference, photographs[:1, :, :160, :160], "fp16")
    if dynamic:
        agrees(session, reference, photographs[:, :, :96, :224], "fp16")
        agrees(session, reference, photographs[:1, :, :320, :320], "fp16")


@pytest.mark.parametrize("opset", OPSETS)
def test_half_precision_agrees_with_torch_at_every_opset(
    opset: int, trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    path = trained.onnx(tmp_path / "m.onnx", (96, 96), opset=opset, dynamic=True, half=True)
    agrees(open_model(path, threads=1), reference, photographs[:1, :, :96, :96], "fp16")


@pytest.mark.parametrize("dynamic", [False, True])
def test_half_precision_stops_at_the_decode_region(dynamic: bool, trained: Trained, tmp_path: Path) -> None:
    path = trained.onnx(tmp_path / "m.onnx", (64, 64), half=True, dynamic=dynamic)
    full = trained.onnx(tmp_path / "full.onnx", (64, 64), dynamic=dynamic)
    assert path.stat().st_size < 0.55 * full.stat().st_size
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {entry.name: entry.data_type for entry in model.graph.initializer}
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert {types[value.name] for value in [*model.graph.input, *model.graph.output]} == {single}
    nodes = {node.name: node for node in model.graph.node}
    regions = {node.name: node.region for node in trained.graph((64, 64)).nodes}
    for name, region in regions.items():
        if name in nodes and nodes[name].op_type not in {"Cast", "Range", "Shape"}:
            expected = single if region == "decode" else half
            assert {types[output] for output in nodes[name].output} == {expected}, name
    weights = {entry.name: entry.data_type for entry in model.graph.initializer if entry.name.endswith(".weight")}
    assert {data_type for name, data_type in weights.items() if ".dfl." not in name} == {half}
    borders = [name for name, node in nodes.items() if node.op_type == "Cast" and ".numbers" not in name]
    assert borders == ["images.half", "box_logits.float", "class_logits.float", "coefficients", "prototypes"]


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_simplified_model_is_the_same_with_fewer_constants(
    dynamic: bool, trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    plain = onnx.load(trained.onnx(tmp_path / "plain.onnx", (320, 320), dynamic=dynamic))
    path = trained.onnx(tmp_path / "m.onnx", (320, 320), dynamic=dynamic, simplify=True)
    agrees(open_model(path, threads=1), reference, photographs[:1, :, :320, :320])
    model = onnx.load(path)
    assert [node.name for node in model.graph.node] == [node.name for node in plain.graph.node]
    constants = [(c.data_type, tuple(c.dims), c.raw_data) for c in model.graph.initializer]
    assert len(set(constants)) == len(constants) < len(plain.graph.initializer)


def test_simplifying_computes_what_is_constant_and_drops_what_nothing_reads(tmp_path: Path) -> None:
    b = GraphBuilder("constants")
    x = b.input("images", (1, 3, 4, 4))
    values = []
    for name, value in (("left", 1.5), ("right", 2.0)):
        with b.scope(name):
            held = {"value": b.parameter("weight", (1, 3, 1, 1), "fixed", value)}
        values += b.node("constant", [], name, attributes={"shape": (1, 3, 1, 1)}, parameters=held)
    total = b.op("add", values, "total")
    b.op("sigmoid", [x], "unread")
    graph = b.build([b.op("add", [x, total], "sum", output="result")], {"raw_outputs": ("result",)})
    weights = initial_weights(graph.parameters, 0)
    models = [onnx.load_from_string(written(graph, weights, tmp_path, simplify=simplify)) for simplify in (False, True)]
    assert [[node.name for node in model.graph.node] for model in models] == [["total", "unread", "sum"], ["sum"]]
    (constant,) = models[1].graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(constant), np.full((1, 3, 1, 1), 3.5, np.float32))


def test_the_fused_layout_is_what_existing_deployment_code_reads(trained: Trained, tmp_path: Path) -> None:
    import onnxruntime

    path = trained.onnx(tmp_path / "m.onnx", (224, 416), layout="fused")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    anchors = 28 * 52 + 14 * 26 + 7 * 13
    shapes = [(output.name, output.shape) for output in session.get_outputs()]
    assert shapes == [("output0", [1, 4 + 6 + 32, anchors]), ("output1", [1, 32, 56, 104])]
    kept = session.get_modelmeta().custom_metadata_map
    assert kept["imgsz"] == "[224, 416]"
    assert (kept["stride"], kept["batch"], kept["task"]) == ("32", "1", "segment")
    assert kept["names"].startswith("{0: 'circle', 1: 'square', ")
    images = np.random.default_rng(0).random((1, 3, 224, 416), np.float32)
    rows = session.run(["output0"], {"images": images})[0][0]
    boxes = open_model(path, threads=1).run(images)["boxes"][0]
    np.testing.assert_allclose(rows[0], (boxes[:, 0] + boxes[:, 2]) / 2, atol=1e-4)
    np.testing.assert_allclose(rows[3], boxes[:, 3] - boxes[:, 1], atol=1e-4)


def test_the_recorded_outputs_are_met(peer: Path, tmp_path: Path) -> None:
    recorded = np.load(peer / "overfit32_expected.npz")
    checkpoint = read_checkpoint(peer / "overfit32_last.pt")
    assert checkpoint.names
    session = open_model(
        Trained(checkpoint.tensors, checkpoint.names).onnx(tmp_path / "m.onnx", (224, 416), batch=2), threads=1
    )
    ours = session.run(recorded["in_rect224x416"])
    rows = recorded["unfused_rect224x416_out"].transpose(0, 2, 1)
    corners = np.concatenate([rows[..., :2] - rows[..., 2:4] / 2, rows[..., :2] + rows[..., 2:4] / 2], axis=2)
    assert np.abs(ours["boxes"] - corners).max() <= 1e-3
    assert np.abs(ours["scores"] - rows[..., 4:84]).max() <= 1e-5


@pytest.mark.parametrize("reduced", [False, True])
def test_the_same_input_gives_the_same_bytes_in_every_process(reduced: bool, trained: Trained, tmp_path: Path) -> None:
    settings = {"half": True, "simplify": True, "dynamic": True} if reduced else {}
    first = trained.onnx(tmp_path / "a.onnx", (64, 64), **settings).read_bytes()
    assert trained.onnx(tmp_path / "b.onnx", (64, 64), **settings).read_bytes() == first
    np.savez(tmp_path / "w.npz", **trained.weights)
    code = (
        "import sys, numpy as np, conftest as c\n"
        "names = tuple(open(sys.argv[1] + '/names').read().split('\\n'))\n"
        "t = c.Trained(dict(np.load(sys.argv[1] + '/w.npz')), names, c.Scale(0.1, 0.125, 128))\n"
        "from pathlib import Path; t.onnx(Path(sys.argv[1]) / 'c.onnx', (64, 64), **eval(sys.argv[2]))\n"
    )
    (tmp_path / "names").write_text("\n".join(trained.names))
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code, str(tmp_path), repr(settings)], env=environment, check=True)
    assert (tmp_path / "c.onnx").read_bytes() == first


def test_nodes_and_weights_are_named_after_their_place_in_the_network(trained: Trained, tmp_path: Path) -> None:
    model = onnx.load(trained.onnx(tmp_path / "m.onnx", (64, 64)))
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert len(kinds) == len(model.graph.node)
    assert kinds["model.2.m.0.cv1.conv"] == "Conv"
    assert kinds["model.22.proto.cv2.conv.merged"] == "DepthToSpace"
    held = {entry.name for entry in model.graph.initializer}
    assert {"model.0.conv.weight", "model.0.conv.bias"} <= held
    read = {name for node in model.graph.node for name in node.input}
    assert held <= read
    assert "BatchNormalization" not in kinds.values()


def test_metadata_says_what_the_model_is(trained: Trained, tmp_path: Path) -> None:
    path = trained.onnx(tmp_path / "m.onnx", (64, 64))
    assert open_model(path, threads=1).metadata == trained.metadata((64, 64), segc_version="0")
    assert [entry.key for entry in onnx.load(path).metadata_props] == ["segc"]
    assert json.loads(onnx.load(path).metadata_props[0].value)["names"][0] == "circle"


def test_onnxruntime_tells_its_makers_nothing(tmp_path: Path) -> None:
    # Where it would, it leaves a number for this machine in the home folder.
    home = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    environment = {name: value for name, value in os.environ.items() if name not in {"CI", "ORT_DISABLE_TELEMETRY"}}
    code = "from segc.targets.onnx.runtime import import_onnxruntime; import_onnxruntime()"
    subprocess.run([sys.executable, "-c", code], env=environment | home, check=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_every_operator_is_lowered() -> None:
    assert set(OPERATORS) == set(LOWERINGS)


@pytest.mark.parametrize("opset", [11, 13, 18, 22])
@pytest.mark.parametrize("name", RECIPES)
def test_an_operator_means_what_it_means_in_torch_at_every_opset(name: str, opset: int, tmp_path: Path) -> None:
    import onnxruntime

    graph = build_recipe(name, batch=2)
    weights = initial_weights(graph.parameters, 0)
    content = written(graph, weights, tmp_path, opset=opset, batch=2)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).standard_normal((2, 3, 11, 7)).astype(np.float32)
    (ours,) = session.run(None, {"images": images})
    (theirs,) = TorchSession(graph, weights, Metadata(("a",), (32, 32))).run(images).values()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 22])
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in SUPPRESSION])
def test_an_operator_in_half_precision_is_close_to_torch(name: str, opset: int, tmp_path: Path) -> None:
    import onnxruntime

    graph = build_recipe(name)
    weights = initial_weights(graph.parameters, 0)
    content = written(graph, weights, tmp_path, opset=opset, half=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).random((1, 3, 11, 7), np.float32)
    (ours,) = session.run(None, {"images": images})
    (theirs,) = TorchSession(graph, weights, Metadata(("a",), (32, 32))).run(images).values()
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=5e-3)

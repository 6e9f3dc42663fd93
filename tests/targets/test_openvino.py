"""The OpenVINO target computes what PyTorch computes, says what it is, and always comes out the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from ruamel.yaml import YAML

from segc.emission.worker import Worker
from segc.graph.ops import OPERATORS
from segc.graph.passes.anchors import anchor_grid
from segc.inference.metadata import LARGEST_SIDE, LAYOUTS, Metadata, ModelError, metadata_text
from segc.targets.openvino import runtime
from segc.targets.openvino.lowering import LOWERINGS
from segc.targets.openvino.runtime import METADATA_PLACE, import_openvino
from tests.targets.conftest import agrees, contents, open_here, refusal
from tests.targets.standalone import ABSENT, Standalone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from segc.network.session import TorchSession
    from tests.targets.conftest import EmitTwice, Trained


@pytest.fixture(scope="module")
def model(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for small images."""
    return trained.model_here("openvino", tmp_path_factory.mktemp("openvino") / "small", (64, 96))


@pytest.mark.parametrize(("half", "precision"), [(False, "fp32"), (True, "fp16")])
@pytest.mark.parametrize("size", [(320, 320), (640, 640), (224, 416)])
def test_a_model_of_fixed_size_agrees_with_torch(
    size: tuple[int, int],
    half: bool,
    precision: str,
    trained: Trained,
    reference: TorchSession,
    photographs: np.ndarray,
    tmp_path: Path,
) -> None:
    session = open_here("openvino", trained.model_here("openvino", tmp_path / "m", size, half=half))
    assert session.metadata.precision == precision
    agrees(session, reference, photographs[:1, :, : size[0], : size[1]], precision)


@pytest.mark.parametrize(("half", "precision"), [(False, "fp32"), (True, "fp16")])
def test_a_dynamic_model_agrees_with_torch_at_every_size_and_batch(
    half: bool, precision: str, trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    model = trained.model_here("openvino", tmp_path / "m", (320, 320), dynamic=True, half=half)
    session = open_here("openvino", model)
    for batch, height, width in [(1, 320, 320), (2, 160, 224), (2, 32, 64), (1, 640, 96)]:
        agrees(session, reference, photographs[:batch, :, :height, :width], precision)


def test_every_operator_but_casts_is_lowered() -> None:
    # Casts come of half precision, which is OpenVINO's own affair.
    assert set(OPERATORS) - set(LOWERINGS) == {"cast"}


@pytest.mark.parametrize("options", [{}, {"half": True, "dynamic": True}], ids=["plain", "half and dynamic"])
def test_the_same_input_gives_the_same_bytes_in_every_process(options: dict[str, Any], emit_twice: EmitTwice) -> None:
    folder = "photos_openvino_model"
    names = [f"{folder}/{name}" for name in ("metadata.yaml", "photos.bin", "photos.xml")]
    assert sorted(emit_twice("openvino", **options)) == [*names, "predict.py"]


def test_emitting_twice_in_one_process_gives_the_same_bytes(trained: Trained, tmp_path: Path) -> None:
    first, second = (contents(trained.model_here("openvino", tmp_path / name, (64, 64), dynamic=True)) for name in "ab")
    assert first == second


def test_layers_weights_and_tensors_are_named_after_their_place_in_the_network(model: Path) -> None:
    layers = ET.parse(model / "photos.xml").getroot().findall("layers/layer")
    kinds = {layer.get("name"): layer.get("type") for layer in layers}
    assert len(kinds) == len(layers)
    assert kinds["model.0.conv.weight"] == "Const"
    assert kinds["model.2.m.0.cv1.conv.products"] == "Convolution"
    assert kinds["model.22.proto.cv2.conv.merged.products"] == "ConvolutionBackpropData"
    assert "BatchNormInference" not in kinds.values()
    results = [layer for layer in layers if layer.get("type") == "Result"]
    assert [layer.get("name") for layer in results] == [f"{name}.result" for name in LAYOUTS["named"]]


def test_half_precision_halves_the_weights_and_loses_nothing_of_the_decoding(
    trained: Trained, model: Path, tmp_path: Path
) -> None:
    half = trained.model_here("openvino", tmp_path / "half", (64, 96), half=True)
    sizes = [(folder / "photos.bin").stat().st_size for folder in (half, model)]
    assert sizes[0] < 0.51 * sizes[1]
    # What is stored of the decode region, fp16 can hold at any legal size.
    cells = LARGEST_SIDE // 8
    points, strides = anchor_grid([(1, cells)], [32])
    for values in (points, strides, np.arange(16, dtype=np.float32)):
        np.testing.assert_array_equal(values.astype(np.float16).astype(np.float32), values)
    layers = ET.parse(half / "photos.xml").getroot().findall("layers/layer")
    names = {node.name for node in trained.graph((64, 96)).nodes if node.region == "decode"}
    computed = [layer for layer in layers if layer.get("name") in names and layer.get("type") != "Const"]
    assert len(computed) >= 8
    assert {port.get("precision") for layer in computed for port in layer.findall("output/port")} == {"FP32"}


def test_metadata_stand_in_the_model_and_beside_it(trained: Trained, model: Path) -> None:
    session = open_here("openvino", model)
    assert session.metadata == trained.metadata((64, 96), segc_version="0")
    assert session.runtime == "OpenVINO on the CPU, in fp32"
    described = YAML(typ="safe").load(model / "metadata.yaml")
    assert described["names"] == dict(enumerate(trained.names))
    assert (described["stride"], described["task"], described["imgsz"]) == (32, "segment", [64, 96])


def test_names_in_any_script_survive(trained: Trained, tmp_path: Path) -> None:
    names = tuple(f'"{index}" <é&猫>' for index in range(6))
    path = trained._replace(names=names).model_here("openvino", tmp_path / "m", (64, 64))
    assert open_here("openvino", path).metadata.names == names
    assert YAML(typ="safe").load(path / "metadata.yaml")["names"][3] == names[3]


def test_the_precision_of_the_processor_is_asked_for(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = import_openvino()
    made: list[Any] = []

    class Core(openvino.Core):  # type: ignore[misc, name-defined]
        def compile_model(self, *arguments: Any) -> Any:
            made.append(super().compile_model(*arguments))
            return made[-1]

    monkeypatch.setattr(openvino, "Core", Core)
    runtime.open_model(model, threads=1)
    (compiled,) = made
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


DAMAGES = {
    "no topology": ("photos.xml", None, "0 .xml files in it"),
    "no weights": ("photos.bin", None, "the weights are gone: no photos.bin"),
    "empty topology": ("photos.xml", lambda _: b"", "photos.xml is not a network of OpenVINO"),
    "another file": ("photos.xml", lambda _: b"\x08\x0a" * 300, "photos.xml is not a network of OpenVINO"),
    "cut topology": ("photos.xml", lambda text: text[:5000], "OpenVINO cannot load it: "),
    "late cut of the topology": ("photos.xml", lambda text: text[:-300], "OpenVINO cannot load it: "),
    "empty weights": ("photos.bin", lambda _: b"", "OpenVINO cannot load it: "),
    "cut weights": ("photos.bin", lambda data: data[:-100], "OpenVINO cannot load it: "),
    "weights from beyond": (
        "photos.xml",
        lambda text: text.replace(b'offset="0"', b'offset="99999999999999"'),
        "OpenVINO cannot load it: ",
    ),
    "unknown layer": ("photos.xml", lambda text: text.replace(b'"Swish"', b'"Wish"'), "OpenVINO cannot load it: "),
    "of others": ("photos.xml", lambda text: text.replace(b"<segc value", b"<peer value"), "not a model of segc"),
}


def spoil(copy: Path, damage: str) -> None:
    name, change, _ = DAMAGES[damage]
    if change is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(change((copy / name).read_bytes()))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused_in_one_line(damage: str, copy: Path) -> None:
    spoil(copy, damage)
    assert DAMAGES[damage][2] in refusal(copy)


def of_two_images(openvino: Any) -> Any:
    """A model with an input too many."""
    ops = openvino.opset13
    images = [ops.parameter([1, 3, 32, 32], np.float32, name=name) for name in ("images", "more")]
    result = ops.add(*images)
    result.output(0).set_names({"boxes"})
    return openvino.Model([ops.result(result)], images, "two")


def of_one_output(openvino: Any) -> Any:
    """A model without most of what its metadata speak of."""
    ops = openvino.opset13
    images = ops.parameter([1, 3, 32, 32], np.float32, name="images")
    result = ops.sigmoid(images)
    result.output(0).set_names({"boxes"})
    return openvino.Model([ops.result(result)], [images], "one")


@pytest.mark.parametrize(
    ("build", "message"), [(of_two_images, "it has 2 inputs"), (of_one_output, "its outputs are 'boxes'")]
)
def test_a_model_of_another_form_is_refused(build: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    openvino = import_openvino()
    folder = tmp_path / "m_openvino_model"
    model = build(openvino)
    model.set_rt_info(metadata_text(Metadata(("a",), (32, 32))), METADATA_PLACE)
    openvino.save_model(model, folder / "m.xml")
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imgsz": [96, 64]}, "its input is [1, 3, 64, 96], and its metadata speak of [1, 3, 96, 64]"),
        ({"dynamic": True}, "its metadata speak of [None, 3, None, None]"),
        ({"layout": "fused"}, "its metadata speak of output0, output1"),
        ({"batch": 2}, "its metadata speak of [2, 3, 64, 96]"),
        ({"names": []}, "its metadata are damaged: names is not"),
    ],
)
def test_metadata_of_another_model_are_refused(change: dict[str, Any], message: str, copy: Path) -> None:
    openvino = import_openvino()
    model = openvino.Core().read_model(copy / "photos.xml")
    kept = json.loads(model.get_rt_info(METADATA_PLACE).astype(str))
    model.set_rt_info(json.dumps({**kept, **change}), METADATA_PLACE)
    changed = copy.with_name("changed_openvino_model")
    openvino.save_model(model, changed / "photos.xml")
    assert message in refusal(changed)


def test_images_of_another_size_are_refused_in_one_line(model: Path) -> None:
    with pytest.raises(ModelError, match=r"^OpenVINO cannot run it: .+$"):
        open_here("openvino", model).run(np.zeros((1, 3, 32, 32), np.float32))


WATCH = """
import socket
def tell(name):
    def told(*arguments, **_):
        if name == "getaddrinfo" or arguments[0].family != socket.AF_UNIX:
            with open({log!r}, "a") as file:
                file.write(f"{{name}} {{arguments[1:]}}\\n")
        raise OSError("there is no network")
    return told
socket.getaddrinfo = tell("getaddrinfo")
socket.socket.connect = tell("connect")
"""

CALL = """
import socket
try:
    socket.create_connection(("example.org", 80))
except OSError:
    pass
"""


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that calls into the network are written to, in processes with an empty home folder."""
    log = tmp_path / "network.txt"
    (tmp_path / "sitecustomize.py").write_text(WATCH.format(log=str(log)))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CI", raising=False)
    return log


def test_the_watch_is_awake(watch: Path, tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALL)
    with Worker("the caller", ["caller"]) as worker:
        worker.process.communicate(timeout=60)
    assert watch.read_text().startswith("getaddrinfo (80")


def test_nothing_is_sent_to_the_makers_of_openvino(watch: Path, trained: Trained, shapes: Path, tmp_path: Path) -> None:
    # Workers are told to import the package before they are told what to do.
    with Worker("the idler", ["openvino"]) as worker:
        worker.process.communicate(timeout=60)
        assert worker.process.returncode == 0
    made = trained.emit("openvino", tmp_path / "m", (64, 64))
    photograph = str(min((shapes / "images" / "train").iterdir()))
    model = str(tmp_path / "m" / made.model)
    output = ["-o", str(tmp_path / "out")]
    for command in ([str(tmp_path / "m" / "predict.py")], ["-m", "segc", "predict", "--artifact", model]):
        subprocess.run([sys.executable, *command, photograph, *output], check=True, capture_output=True)
    assert not watch.exists()
    assert not [*(tmp_path / "home").rglob("*")]


@pytest.fixture(scope="module")
def standalone(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Standalone:
    folder = tmp_path_factory.mktemp("standalone") / "openvino"
    trained.emit("openvino", folder, (160, 160))
    return Standalone(folder, (*ABSENT, "onnxruntime"))


def test_the_script_finds_what_segc_predict_finds(standalone: Standalone, shapes: Path, tmp_path: Path) -> None:
    photos = sorted((shapes / "images" / "train").iterdir())[:3]
    standalone.finds_what_segc_predict_finds(standalone.folder / "photos_openvino_model", photos, tmp_path)


@pytest.mark.parametrize("damage", ["no topology", "no weights", "another file", "cut weights", "of others"])
def test_the_script_refuses_a_damaged_model_in_one_line(damage: str, standalone: Standalone, copy: Path) -> None:
    spoil(copy, damage)
    done = standalone("predict.py", "--model", copy)
    assert done.returncode == 1
    assert str(copy) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr

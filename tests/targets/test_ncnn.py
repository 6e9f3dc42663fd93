"""The ncnn target computes what PyTorch computes, and gives ncnn nothing that it would stumble over."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segc.diagnostics import SegcError
from segc.graph.ops import OPERATORS
from segc.graph.passes import fixed_anchors, fold_batch_norm
from segc.network.initialise import initial_weights
from segc.targets.artifact import open_artifact
from segc.targets.base import OUTPUTS
from segc.targets.ncnn import FP16_OPTIONS, LOWERINGS, NcnnSession, lower
from segc.targets.ncnn_model import BIN, KINDS, PARAM, Layer, Model, check, parse_param, permutation_code, with_splits
from segc.targets.registry import targets
from segc.targets.script import c_string, render_scripts
from tests.conformance.operators import RECIPES, build_recipe
from tests.targets.conftest import DEFAULTS, agrees, refusal
from tests.targets.standalone import ABSENT, Standalone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from segc.network.session import TorchSession
    from tests.targets.conftest import EmitTwice, Trained


@pytest.fixture(scope="module")
def model(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.model_here("ncnn", tmp_path_factory.mktemp("ncnn") / "small", (64, 96))


@pytest.mark.parametrize(
    ("size", "half"), [((320, 320), False), ((640, 640), False), ((224, 416), False), ((640, 640), True)]
)
def test_a_model_agrees_with_torch(
    size: tuple[int, int],
    half: bool,
    trained: Trained,
    reference: TorchSession,
    photographs: np.ndarray,
    tmp_path: Path,
) -> None:
    session = NcnnSession(trained.model_here("ncnn", tmp_path / "m", size, half=half), threads=1)
    precision = "fp16" if half else "fp32"
    assert session.metadata == trained.metadata(size, precision=precision)
    agrees(session, reference, photographs[:1, :, : size[0], : size[1]], precision)


def test_images_are_run_one_after_another(model: Path) -> None:
    session = NcnnSession(model, threads=1)
    images = np.random.default_rng(0).random((2, 3, 64, 96), np.float32)
    both = session.run(images)
    for index in range(2):
        alone = session.run(images[index : index + 1])
        assert all(np.array_equal(both[name][index], alone[name][0]) for name in OUTPUTS)


def test_what_is_computed_in_fp16_by_default_is_switched_off(model: Path) -> None:
    import ncnn

    asked = NcnnSession(model, threads=1)._net.opt
    assert not any(getattr(asked, option) for option in FP16_OPTIONS)
    assert any(getattr(ncnn.Net().opt, option) for option in FP16_OPTIONS)
    assert asked.num_threads == 1


def test_every_operator_but_suppression_and_free_anchors_is_lowered() -> None:
    assert set(OPERATORS) - set(LOWERINGS) == {"nms", "anchor_points"}


def test_half_precision_halves_the_convolutions_and_leaves_biases_and_anchors(trained: Trained) -> None:
    graph, weights = fixed_anchors(*fold_batch_norm(trained.graph((64, 64)), trained.weights))
    full, half = (len(lower(graph, weights, half=half).weights) for half in (False, True))
    convolved = sum(weights[node.parameters["weight"]].size for node in graph.nodes if node.op.startswith("conv"))
    assert full - half == 2 * convolved


def test_a_weight_beyond_half_precision_is_refused_by_name() -> None:
    graph = build_recipe("conv2d 1x1")
    weights = {name: np.full(p.shape, 7e4, np.float32) for name, p in graph.parameters.items()}
    assert lower(graph, weights, half=False)
    with pytest.raises(SegcError, match=r"T008.*ncnn: part\.conv: a weight is beyond what fp16 holds"):
        lower(graph, weights, half=True)


@pytest.mark.parametrize("name", ["conv2d 1x1", "transpose to channels last", "concat of rows"])
def test_more_than_one_image_is_refused(name: str) -> None:
    graph = build_recipe(name, batch=2)
    with pytest.raises(SegcError, match=r"T008.*there is no batch axis"):
        lower(graph, initial_weights(graph.parameters, 0), half=False)


def test_a_repetition_that_ncnn_gets_wrong_is_refused() -> None:
    from segc.graph.builder import GraphBuilder

    b = GraphBuilder("far")
    x = b.input("images", (1, 3, 4, 8))
    y = b.op("resize_nearest", [x], "up", output="y", scale=(1, 41))
    with pytest.raises(SegcError, match=r"does not repeat pixels 41 times exactly"):
        lower(b.build([y], {}), {}, half=False)


@pytest.mark.parametrize("options", [{}, {"half": True}], ids=["full", "half"])
def test_the_same_input_gives_the_same_bytes_in_every_process(options: dict[str, Any], emit_twice: EmitTwice) -> None:
    made = emit_twice("ncnn", **options)
    folder = "photos_ncnn_model"
    names = {f"{folder}/{name}" for name in (PARAM, BIN, "metadata.json")}
    assert {name for name in made if name.startswith(folder)} == names


def test_layers_are_named_after_their_place_in_the_network(model: Path) -> None:
    lines = (model / PARAM).read_text().splitlines()
    assert lines[0] == "7767517"
    assert int(lines[1].split()[0]) == len(lines) - 2
    words = {line.split()[1]: line.split() for line in lines[2:]}
    assert words["images"] == ["Input", "images", "0", "1", "images", "0=96", "1=64", "2=3"]
    assert words["model.2.m.0.cv1.conv"][0] == "Convolution"
    assert words["model.22.proto.upsample"][0] == "Deconvolution"


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_written_is_read_back_with_the_shapes_of_the_graph(name: str) -> None:
    graph = build_recipe(name)
    graph, weights = fixed_anchors(graph, initial_weights(graph.parameters, 0))
    made = lower(graph, weights, half=False)
    again = Model(parse_param(made.param()), made.weights)
    assert again.param() == made.param()
    shapes = check(again)
    assert {layer.kind for layer in again.layers} <= set(KINDS)
    for tensor in graph.tensors.values():
        assert (1, *shapes[tensor.name]) == tensor.shape


def test_a_blob_that_several_read_is_copied_and_an_output_keeps_its_name() -> None:
    plain = [
        Layer("Input", "x", (), ("x",), {0: 4}),
        Layer("Sigmoid", "y", ("x",), ("y",)),
        Layer("BinaryOp", "z", ("y", "x"), ("z",), {0: 0}),
    ]
    layers = with_splits(plain, ("y", "z"))
    assert [(layer.kind, layer.inputs, layer.outputs) for layer in layers] == [
        ("Input", (), ("x",)),
        ("Split", ("x",), ("x.copy0", "x.copy1")),
        ("Sigmoid", ("x.copy0",), ("y.shared",)),
        ("Split", ("y.shared",), ("y.copy0", "y")),
        ("BinaryOp", ("y.copy0", "x.copy1"), ("z",)),
    ]
    assert set(check(Model(layers, b""))) >= {"y", "z"}


def test_orders_of_axes_have_ncnns_numbers() -> None:
    assert [permutation_code(p) for p in [(0, 1), (1, 0), (0, 2, 1), (1, 2, 0), (2, 1, 0)]] == [0, 1, 1, 3, 5]


def in_param(old: str, new: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        text = (folder / PARAM).read_text()
        assert old in text
        (folder / PARAM).write_text(text.replace(old, new, 1))

    return harm


def in_bin(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / BIN).write_bytes(change((folder / BIN).read_bytes())) and None


def in_metadata(**values: Any) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        path = folder / "metadata.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return harm


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


HARM: dict[str, tuple[Callable[[Path], None], str]] = {
    "no param": (without(PARAM), f"{PARAM} is not in it"),
    "no bin": (without(BIN), f"{BIN} is not in it"),
    "no metadata": (without("metadata.json"), "metadata.json is not in it"),
    "foreign metadata": (lambda f: (f / "metadata.json").write_text("{}") and None, "not a model of segc"),
    "no blobs": (in_metadata(blobs=None), "metadata.json names no blobs"),
    "other blobs": (in_metadata(blobs={"inputs": ["images"], "outputs": ["masks"]}), "are not there"),
    "an output on the way": (in_metadata(blobs={"inputs": ["images"], "outputs": ["model.0.bn"]}), "not there"),
    "bin cut": (in_bin(lambda b: b[:-4]), f"{BIN} ends within the weights of layer model.22.boxes.anchors.1"),
    "bin empty": (in_bin(lambda _: b"\0"), f"{BIN} ends within the weights of layer model.0.conv"),
    "bin longer": (in_bin(lambda b: b + b"\0\0\0\0"), "and the layers need"),
    "bin of another format": (in_bin(lambda b: b"\1\2\3\4" + b[4:]), "in no format that segc writes"),
    "param cut": (lambda f: (f / PARAM).write_bytes((f / PARAM).read_bytes()[:5000]), "damaged"),
    "param empty": (lambda f: (f / PARAM).write_bytes(b""), "the head is not that of an ncnn model"),
    "param binary": (lambda f: (f / PARAM).write_bytes(b"\xff\xfe\0" * 99), "damaged"),
    "a layer missing": (
        in_param(f"{'Swish':<16} {'model.0.act':<24} 1 1 model.0.bn model.0.act\n", ""),
        "layers with",
    ),
    "a blob missing": (in_param(" model.0.bn model.0.act", " model.0.nb model.0.act"), "no layer before it makes"),
    "a blob twice": (
        in_param(" model.0.bn model.0.act", " model.0.bn model.0.bn"),
        "blob model.0.bn is made twice",
    ),
    "a blob read twice": (
        in_param("1 1 model.1.bn model.1.act", "1 1 images model.1.act"),
        "which another layer reads",
    ),
    "a layer twice": (in_param(f"{'Swish':<16} model.1.act", f"{'Swish':<16} model.0.act"), "is there twice"),
    "an unknown layer": (in_param("Swish  ", "Hswish "), "is not among the layers that segc writes"),
    "an unknown setting": (in_param(" 5=1 6=", " 9=2 5=1 6="), "settings [9]"),
    "a setting twice": (in_param(" 5=1 6=", " 5=1 5=1 6="), "setting 5 stands twice"),
    "no setting": (in_param(" 5=1 6=", " 5=x 6="), "5=x is no setting"),
    "a larger kernel": (in_param(" 1=3 ", " 1=9 "), "weights for"),
    "fewer outputs": (in_param(" 0=16 1=3", " 0=8 1=3"), "weights for"),
    "a stride of nought": (in_param(" 3=2 ", " 3=0 "), "out of range"),
    "an endless stride": (in_param(" 3=2 ", " 3=99999 "), "out of range"),
    "pieces that do not fit": (in_param("-23300=2,16,16", "-23300=2,16,17"), "do not make up"),
    "no pieces": (in_param("-23300=2,16,16", "-23300=2,32,0"), "pieces of"),
    "a list of another length": (in_param("-23300=2,16,16", "-23300=3,16,16"), "a list of 3 has 2"),
    "an axis too far": (in_param(" model.2.concat 0=0\n", " model.2.concat 0=3\n"), "there is no axis 3"),
    "axes counted otherwise": (in_param(" 0=2 1=1\n", " 0=2 1=0\n"), "counted in another way"),
    "an operation of another kind": (in_param("0=2\n", "0=3\n"), "damaged"),
    "an impossible size": (in_param("0=96 1=64", "0=999999999 1=64"), "impossible shape"),
}


@pytest.mark.parametrize("kind", HARM)
def test_a_damaged_model_is_refused_before_ncnn_sees_it(kind: str, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ncnn

    harm, message = HARM[kind]
    harm(copy)
    monkeypatch.setattr(ncnn, "Net", lambda: pytest.fail("ncnn was given it"))
    assert message in refusal(copy)


@given(st.data())
def test_no_text_does_more_than_be_refused(data: st.DataObject) -> None:
    graph = build_recipe("concat of channels")
    text = lower(graph, {}, half=False).param()
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 9)))
    put = data.draw(st.text(st.sampled_from("0123456789=-,.e \nconvimages\x00é"), max_size=6))
    # Anything else that is raised fails.
    with suppress(ValueError):
        assert check(Model(parse_param(text[:start] + put + text[stop:]), b""))


def test_a_foreign_ncnn_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "other_ncnn_model"
    folder.mkdir()
    (folder / PARAM).write_text("7767517\n1 1\nInput in0 0 1 in0\n")
    (folder / BIN).write_bytes(b"")
    with pytest.raises(SegcError, match="not an ncnn model of segc"):
        open_artifact(folder, 1)


@pytest.fixture(scope="module")
def standalone(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Standalone:
    folder = tmp_path_factory.mktemp("standalone") / "ncnn"
    trained.emit("ncnn", folder, (320, 320))
    return Standalone(folder, [*ABSENT, "onnxruntime"])


def test_the_script_finds_what_segc_predict_finds(standalone: Standalone, coco: Path, tmp_path: Path) -> None:
    photos = sorted((coco / "images" / "train").iterdir())[:3]
    standalone.finds_what_segc_predict_finds(standalone.folder / "photos_ncnn_model", photos, tmp_path)


@pytest.mark.parametrize("kind", ["no param", "no bin", "no metadata", "foreign metadata", "bin empty", "param empty"])
def test_the_script_refuses_a_damaged_model(kind: str, standalone: Standalone, copy: Path) -> None:
    HARM[kind][0](copy)
    done = standalone("predict.py", "--model", copy)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"{copy}: ")
    assert "Traceback" not in done.stderr


def cmake(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def program(standalone: Standalone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ program, built with every warning an error; skipped where ncnn's or OpenCV's development files lack."""
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.14)\nproject(probe CXX)\n"
        "find_package(ncnn REQUIRED)\nfind_package(OpenCV REQUIRED COMPONENTS core imgproc imgcodecs)\n"
    )
    if cmake("-B", folder / "probe", "-S", folder).returncode:
        pytest.skip("CMake finds no C++ compiler, ncnn (set ncnn_DIR) or OpenCV")
    flags = "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"
    configured = cmake("-B", folder / "build", "-S", standalone.folder, flags)
    assert configured.returncode == 0, configured.stderr
    built = cmake("--build", folder / "build")
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "build" / "predict"


def run_program(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_the_program_finds_what_the_script_finds(
    program: Path, standalone: Standalone, coco: Path, tmp_path: Path
) -> None:
    photos = sorted((coco / "images" / "train").iterdir())[:6]
    assert standalone(*photos, "-o", tmp_path / "script", "--threads", 1).returncode == 0
    done = run_program(program, *photos, "-o", tmp_path / "program", "--threads", 1)
    assert done.returncode == 0, done.stderr
    ours, theirs = (json.loads((tmp_path / n / "predictions.json").read_bytes()) for n in ("program", "script"))
    assert sum(len(record["detections"]) for record in theirs) >= 10
    for mine, other in zip(ours, theirs, strict=True):
        assert [mine[key] for key in ("image", "height", "width")] == [
            other[key] for key in ("image", "height", "width")
        ]
        for found, wanted in zip(mine["detections"], other["detections"], strict=True):
            assert (found["class_id"], found["class"]) == (wanted["class_id"], wanted["class"])
            assert found["score"] == pytest.approx(wanted["score"], abs=1e-3)
            assert found["box"] == pytest.approx(wanted["box"], abs=0.5)
            assert abs(found["area"] - wanted["area"]) <= 0.01 * wanted["area"] + 2
            assert found["mask"]["size"] == wanted["mask"]["size"]
            assert sum(found["mask"]["counts"][1::2]) == found["area"]
            assert sum(found["mask"]["counts"]) == mine["height"] * mine["width"]
            assert len(found["polygons"]) == pytest.approx(len(wanted["polygons"]), abs=1)
    for photo in photos:
        assert (tmp_path / "program" / f"{photo.stem}.jpg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "no image is named"),
        (["a.jpg", "--conf", "2"], 2, "2 is not between 0 and 1"),
        (["a.jpg", "--retina", "1"], 2, "no such option: --retina"),
        (["a.jpg", "--iou"], 2, "a value is missing"),
        (["a.jpg", "--model", "nowhere"], 1, "nowhere: no model.ncnn.param in it"),
        (["nowhere.jpg"], 1, "nowhere.jpg: not an image"),
    ],
)
def test_the_program_answers_bad_input_in_words(
    arguments: list[str], status: int, message: str, program: Path, tmp_path: Path
) -> None:
    done = run_program(program, "-o", tmp_path / "out", *arguments)
    assert done.returncode == status
    assert message in done.stderr


def test_the_program_never_overwrites_a_photograph(program: Path, coco: Path, tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    shutil.copyfile(min((coco / "images" / "train").iterdir()), photo)
    before = photo.read_bytes()
    done = run_program(program, photo, "-o", tmp_path)
    assert done.returncode == 1
    assert "choose another folder" in done.stderr
    assert photo.read_bytes() == before


def test_class_names_of_any_kind_stand_in_the_program() -> None:
    metadata = {
        "names": ['say "cheese"', "back\\slash", "??/", "né", "line\nbreak"],
        "imgsz": [64, 96],
        "dynamic": False,
        "segc_version": "0",
    }
    text = render_scripts(targets()["ncnn"], "m_ncnn_model", metadata, DEFAULTS)["predict.cpp"]
    for line in (r'"say \042cheese\042",', r'"back\134slash",', r'"\077\077/",', r'"n\303\251",', r'"line\012break",'):
        assert f"    {line}\n" in text
    assert "HEIGHT = 64;\nconst int WIDTH = 96;" in text
    assert all(len(line) <= 120 and line == line.rstrip() for line in text.splitlines())


@given(st.text())
def test_a_literal_of_cpp_gives_back_its_text(text: str) -> None:
    literal = c_string(text)
    assert literal.isascii()
    assert literal[0] == literal[-1] == '"'
    assert not set('"?\n') & set(literal[1:-1])
    octal = literal[1:-1].encode().decode("unicode_escape")
    assert octal.encode("latin-1").decode() == text

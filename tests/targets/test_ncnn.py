"""The ncnn target computes what PyTorch computes, and gives ncnn nothing that it would stumble over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segc.diagnostics import SegcError
from segc.emission.script import c_string, render_files
from segc.graph.builder import GraphBuilder
from segc.graph.ops import OPERATORS
from segc.graph.passes import fixed_anchors
from segc.inference.metadata import LAYOUTS, Metadata
from segc.network.initialise import initial_weights
from segc.targets.contract import EmitRequest
from segc.targets.ncnn import TARGET, NcnnOptions
from segc.targets.ncnn.files import Layer, NcnnModel, permutation_code, with_splits
from segc.targets.ncnn.guard import KINDS, check_model, parse_param
from segc.targets.ncnn.lowering import LOWERINGS, lower
from segc.targets.ncnn.runtime import BIN, FP16_SWITCHES, PARAM, open_model
from tests.conformance.operators import RECIPES, build_recipe
from tests.conformance.refusals import SUPPRESSION
from tests.targets.conftest import DEFAULTS, agrees, open_here, refusal
from tests.targets.standalone import ABSENT, ROOT, Standalone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from segc.graph.ir import Graph
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
    session = open_here("ncnn", trained.model_here("ncnn", tmp_path / "m", size, half=half))
    precision = "fp16" if half else "fp32"
    assert session.metadata == trained.metadata(size, precision=precision, segc_version="0")
    agrees(session, reference, photographs[:1, :, : size[0], : size[1]], precision)


def test_images_are_run_one_after_another(model: Path) -> None:
    session = open_here("ncnn", model)
    images = np.random.default_rng(0).random((2, 3, 64, 96), np.float32)
    both = session.run(images)
    for index in range(2):
        alone = session.run(images[index : index + 1])
        assert all(np.array_equal(both[name][index], alone[name][0]) for name in LAYOUTS["named"])


def test_what_is_computed_in_fp16_by_default_is_switched_off(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ncnn

    made: list[Any] = []

    class Net(ncnn.Net):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    assert any(getattr(ncnn.Net().opt, switch) for switch in FP16_SWITCHES)
    monkeypatch.setattr(ncnn, "Net", Net)
    open_model(model, threads=1)
    (net,) = made
    assert not any(getattr(net.opt, switch) for switch in FP16_SWITCHES)
    assert net.opt.num_threads == 1


def test_every_operator_but_suppression_and_free_anchors_is_lowered() -> None:
    assert set(OPERATORS) - set(LOWERINGS) == {"finished_masks", "nms", "anchor_points", "cast"}


def emitted(graph: Graph, weights: Mapping[str, np.ndarray], folder: Path, *, half: bool) -> bytes:
    """The ``.bin`` of any graph."""
    folder.mkdir()
    options = NcnnOptions(format="ncnn", half=half)
    metadata = Metadata(("a",), (32, 32), **TARGET.settings(options))
    made = TARGET.make(EmitRequest(graph, weights, options, metadata, "graph", folder))
    return (folder / made.model / BIN).read_bytes()


def test_half_precision_halves_the_convolutions_and_leaves_biases_and_anchors(trained: Trained, tmp_path: Path) -> None:
    graph = trained.graph((64, 64))
    full, half = (len(emitted(graph, trained.weights, tmp_path / str(half), half=half)) for half in (False, True))
    convolutions = [node for node in graph.nodes if node.op.startswith("conv") and node.region != "decode"]
    convolved = sum(trained.weights[node.parameters["weight"]].size for node in convolutions)
    # Each is filled up to four bytes.
    assert 2 * convolved - 2 * len(convolutions) <= full - half <= 2 * convolved


def test_a_weight_beyond_half_precision_is_refused_by_name(tmp_path: Path) -> None:
    graph = build_recipe("conv2d 1x1")
    weights = {name: np.full(p.shape, 7e4, np.float32) for name, p in graph.parameters.items()}
    assert emitted(graph, weights, tmp_path / "full", half=False)
    with pytest.raises(SegcError, match=r"T008.*ncnn: part\.weight: a weight is beyond what fp16 holds") as caught:
        emitted(graph, weights, tmp_path / "half", half=True)
    assert caught.value.diagnostics[0].help == "set half to false"


@pytest.mark.parametrize("name", ["conv2d 1x1", "transpose to channels last", "concat of rows"])
def test_more_than_one_image_is_refused(name: str) -> None:
    graph = build_recipe(name, batch=2)
    with pytest.raises(SegcError, match=r"T008.*there is no batch axis"):
        lower(graph, initial_weights(graph.parameters, 0))


def test_a_repetition_that_ncnn_gets_wrong_is_refused() -> None:
    b = GraphBuilder("far")
    x = b.input("images", (1, 3, 4, 8))
    y = b.op("resize_nearest", [x], "up", output="y", scale=(1, 41))
    with pytest.raises(SegcError, match=r"does not repeat pixels 41 times exactly"):
        lower(b.build([y], {}), {})


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


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in SUPPRESSION])
def test_what_is_written_is_read_back_with_the_shapes_of_the_graph(name: str) -> None:
    graph = build_recipe(name)
    graph, weights = fixed_anchors(graph, initial_weights(graph.parameters, 0))
    made = lower(graph, weights)
    again = NcnnModel(parse_param(made.param()), made.weights)
    assert again.param() == made.param()
    shapes = check_model(again)
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
    assert set(check_model(NcnnModel(layers, b""))) >= {"y", "z"}


def test_orders_of_axes_have_ncnns_numbers() -> None:
    assert [permutation_code(p) for p in [(0, 1), (1, 0), (0, 2, 1), (1, 2, 0), (2, 1, 0)]] == [0, 1, 1, 3, 5]


def in_param(old: str, new: str) -> Callable[[Path], object]:
    def harm(folder: Path) -> None:
        text = (folder / PARAM).read_text()
        assert old in text
        (folder / PARAM).write_text(text.replace(old, new, 1))

    return harm


def in_bin(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / BIN).write_bytes(change((folder / BIN).read_bytes()))


def in_metadata(**values: Any) -> Callable[[Path], object]:
    def harm(folder: Path) -> None:
        path = folder / "metadata.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return harm


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def with_an_input(text: str) -> str:
    magic, counts, *layers = text.splitlines()
    layer_count, blobs = map(int, counts.split())
    return "\n".join([magic, f"{layer_count + 1} {blobs + 1}", *layers, "Input more 0 1 more 0=8", ""])


def file_in_its_place(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"")


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "no param": (without(PARAM), f"{PARAM} is not in it"),
    "no bin": (without(BIN), f"{BIN} is not in it"),
    "no metadata": (without("metadata.json"), "metadata.json is not in it"),
    "foreign metadata": (lambda f: (f / "metadata.json").write_text("{}"), "not a model of segc"),
    "no blobs": (in_metadata(blobs=None), "metadata.json names no blobs"),
    "a file for a model": (file_in_its_place, "metadata.json is not in it"),
    "another size": (in_metadata(imgsz=[96, 64]), "its input is [1, 3, 64, 96], and its metadata speak of"),
    "other outputs": (in_metadata(layout="fused"), "its metadata speak of output0, output1"),
    "unknown metadata": (in_metadata(colour="red"), "its metadata are damaged: nothing is called 'colour'"),
    "blobs that are no names": (in_metadata(blobs={"inputs": [1], "outputs": []}), "metadata.json names no blobs"),
    "other blobs": (in_metadata(blobs={"inputs": ["images"], "outputs": ["masks"]}), "are not there"),
    "an output on the way": (in_metadata(blobs={"inputs": ["images"], "outputs": ["model.0.bn"]}), "not there"),
    "bin cut": (in_bin(lambda b: b[:-4]), f"{BIN} ends within the weights of layer model.22.boxes.anchors.1"),
    "bin empty": (in_bin(lambda _: b"\0"), f"{BIN} ends within the weights of layer model.0.conv"),
    "bin longer": (in_bin(lambda b: b + b"\0\0\0\0"), "and the layers need"),
    "bin of another format": (in_bin(lambda b: b"\1\2\3\4" + b[4:]), "in no format that segc writes"),
    "param cut": (lambda f: (f / PARAM).write_bytes((f / PARAM).read_bytes()[:5000]), "damaged"),
    "param empty": (lambda f: (f / PARAM).write_bytes(b""), "the head is not that of an ncnn model"),
    "param binary": (lambda f: (f / PARAM).write_bytes(b"\xff\xfe\0" * 99), "damaged"),
    "a second input": (
        lambda f: (f / PARAM).write_text(with_an_input((f / PARAM).read_text())),
        "it has 2 inputs",
    ),
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
    "fewer outputs": (in_param(" 0=8 1=3", " 0=4 1=3"), "weights for"),
    "a stride of nought": (in_param(" 3=2 ", " 3=0 "), "out of range"),
    "an endless stride": (in_param(" 3=2 ", " 3=99999 "), "out of range"),
    "pieces that do not fit": (in_param("-23300=2,8,8", "-23300=2,8,9"), "do not make up"),
    "no pieces": (in_param("-23300=2,8,8", "-23300=2,16,0"), "pieces of"),
    "a list of another length": (in_param("-23300=2,8,8", "-23300=3,8,8"), "a list of 3 has 2"),
    "an axis too far": (in_param(" model.2.concat 0=0\n", " model.2.concat 0=3\n"), "there is no axis 3"),
    "axes counted otherwise": (in_param(" 0=2 1=1\n", " 0=2 1=0\n"), "counted in another way"),
    "an operation of another kind": (in_param("0=2\n", "0=3\n"), "damaged"),
    "floats said to be integers": (in_param(" 5=1 6=", " 5=1 8=2 6="), "in no format that segc writes"),
    "integers of another kind": (in_param(" 5=1 6=", " 5=1 8=1 6="), "integers of kind 1"),
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
    text = lower(graph, {}).param()
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 9)))
    put = data.draw(st.text(st.sampled_from("0123456789=-,.e \nconvimages\x00é"), max_size=6))
    # Anything else that is raised fails.
    with suppress(ValueError):
        assert check_model(NcnnModel(parse_param(text[:start] + put + text[stop:]), b""))


def test_a_foreign_ncnn_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "other_ncnn_model"
    folder.mkdir()
    (folder / PARAM).write_text("7767517\n1 1\nInput in0 0 1 in0\n")
    (folder / BIN).write_bytes(b"")
    assert "not an ncnn model of segc" in refusal(folder)


RUN = """\
import sys
from pathlib import Path
import numpy as np
from segc.inference.metadata import ModelError
from segc.targets.ncnn.runtime import open_model
try:
    model = open_model(Path(sys.argv[1]), 1)
    model.run(np.zeros((1, 3, *model.metadata.imgsz), np.float32))
except ModelError as error:
    print(error)
"""
"""What a script does, which has no guard."""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("bin cut", f"damaged: {BIN} is not what segc wrote"),
        ("bin empty", f"damaged: {BIN} is not what segc wrote"),
        ("param cut", f"damaged: {PARAM} is not what segc wrote"),
        ("an unknown layer", f"damaged: {PARAM} is not what segc wrote"),
        ("no bin", f"{BIN} is not in it"),
        ("another size", "its input is [1, 3, 64, 96], and its metadata speak of [1, 3, 96, 64]"),
        ("other blobs", "its outputs are 'masks'"),
        ("an output on the way", "its outputs are 'model.0.bn'"),
    ],
)
def test_what_is_damaged_is_refused_where_nothing_but_the_carried_text_looks(
    kind: str, message: str, copy: Path
) -> None:
    HARM[kind][0](copy)
    command = [sys.executable, "-c", RUN, str(copy)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert message in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_one_bit_of_a_weight_is_missed_by_no_one(copy: Path) -> None:
    in_bin(lambda b: b[:-1] + bytes([b[-1] ^ 1]))(copy)
    assert f"damaged: {BIN} is not what segc wrote" in refusal(copy)


def test_a_model_from_before_there_were_digests_still_opens(copy: Path) -> None:
    path = copy / "metadata.json"
    kept = json.loads(path.read_text())
    old = {key: kept[key] for key in ("names", "imgsz", "strides", "layout", "blobs")}
    path.write_text(json.dumps({**old, "precision": "fp32", "task": "segment"}))
    assert open_here("ncnn", copy).metadata == Metadata(tuple(kept["names"]), (64, 96))


@pytest.fixture(scope="module")
def standalone(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Standalone:
    folder = tmp_path_factory.mktemp("standalone") / "ncnn"
    trained.emit("ncnn", folder, (160, 160))
    return Standalone(folder, [*ABSENT, "onnxruntime"])


def test_the_script_finds_what_segc_predict_finds(standalone: Standalone, shapes: Path, tmp_path: Path) -> None:
    photos = sorted((shapes / "images" / "train").iterdir())[:3]
    standalone.finds_what_segc_predict_finds(standalone.folder / "photos_ncnn_model", photos, tmp_path)


@pytest.mark.parametrize("kind", ["no param", "no bin", "no metadata", "foreign metadata", "bin empty", "param empty"])
def test_the_script_refuses_a_damaged_model(kind: str, standalone: Standalone, copy: Path) -> None:
    HARM[kind][0](copy)
    done = standalone("predict.py", "--model", copy)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{copy}: ")


def cmake(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def program(standalone: Standalone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ program, built with every warning an error; skipped where ``.ci/ncnn`` has not been run."""
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


def pixels(mask: dict[str, Any]) -> np.ndarray:
    """A mask [height, width] from COCO's uncompressed run lengths."""
    counts = mask["counts"]
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(mask["size"][::-1]).T


def test_the_program_finds_what_the_script_finds(
    program: Path, standalone: Standalone, shapes: Path, tmp_path: Path
) -> None:
    photos = sorted((shapes / "images" / "train").iterdir())[:6]
    # The program takes masks from the frame.
    assert standalone(*photos, "-o", tmp_path / "script", "--threads", 1, "--no-retina").returncode == 0
    done = run_program(program, *photos, "-o", tmp_path / "program", "--threads", 1)
    assert done.returncode == 0, done.stderr
    ours, theirs = (json.loads((tmp_path / n / "predictions.json").read_bytes()) for n in ("program", "script"))
    assert sum(len(record["detections"]) for record in theirs) >= 10
    for mine, other in zip(ours, theirs, strict=True):
        size = (mine["height"], mine["width"])
        assert (mine["image"], *size) == tuple(other[key] for key in ("image", "height", "width"))
        for found, wanted in zip(mine["detections"], other["detections"], strict=True):
            assert (found["class_id"], found["class"]) == (wanted["class_id"], wanted["class"])
            assert found["score"] == pytest.approx(wanted["score"], abs=1e-4)
            assert found["box"] == pytest.approx(wanted["box"], abs=0.05)
            assert tuple(found["mask"]["size"]) == tuple(wanted["mask"]["size"]) == size
            masks = [pixels(one["mask"]) for one in (found, wanted)]
            assert [mask.sum() for mask in masks] == [found["area"], wanted["area"]]
            # Both compute in fp32, with other instructions: a pixel on the edge may fall to either side.
            assert (masks[0] != masks[1]).sum() <= 2 + 0.002 * wanted["area"]
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


def test_the_program_never_overwrites_a_photograph(program: Path, shapes: Path, tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    shutil.copyfile(min((shapes / "images" / "train").iterdir()), photo)
    before = photo.read_bytes()
    done = run_program(program, photo, "-o", tmp_path)
    assert done.returncode == 1
    assert "choose another folder" in done.stderr
    assert photo.read_bytes() == before


def test_the_program_never_overwrites_a_file_that_no_run_wrote(program: Path, shapes: Path, tmp_path: Path) -> None:
    photo = min((shapes / "images" / "train").iterdir())
    for name in (f"{photo.stem}.jpg", "predictions.json"):
        (tmp_path / name).write_text("mine")
        done = run_program(program, photo, "-o", tmp_path)
        assert done.returncode == 1
        assert f"{name} is there already, and no earlier run wrote it" in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()
    for _ in range(2):
        assert run_program(program, photo, "-o", tmp_path).returncode == 0


def test_class_names_of_any_kind_stand_in_the_program() -> None:
    names = ('say "cheese"', "back\\slash", "??/", "né")
    options = NcnnOptions(format="ncnn")
    text = render_files(TARGET, options, "m_ncnn_model", Metadata(names, (64, 96)), DEFAULTS)["predict.cpp"]
    for line in (r'"say \042cheese\042",', r'"back\134slash",', r'"\077\077/",', r'"n\303\251",'):
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

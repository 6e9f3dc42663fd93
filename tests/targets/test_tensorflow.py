"""TensorFlow's targets compute what PyTorch computes, say what they are, and let no foreign file near native code.

TensorFlow never enters this process: it does not bear other frameworks beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from segc.diagnostics import SegcError
from segc.targets.base import OUTPUTS
from segc.targets.registry import targets
from segc.targets.verify import TOLERANCES, Case, compare
from tests.targets.conftest import contents, run_in_worker

if TYPE_CHECKING:
    from tests.targets.conftest import Trained

ROOT = Path(__file__).parents[2]
SIZE = (320, 320)

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "saved_model": ("saved_model", {"keras": True}),
    "graphdef": ("graphdef", {}),
    "tflite": ("tflite", {}),
    "tflite half": ("tflite", {"half": True}),
    "tflite int8": ("tflite", {"int8": True}),
    "edgetpu": ("edgetpu", {}),
}
FLOATS = [name for name in FORMS if name not in {"tflite int8", "edgetpu"}]
INTEGERS = ["tflite int8", "edgetpu"]


class Made(NamedTuple):
    target: str
    model: Path
    notes: tuple[str, ...]
    deferred: bool


class Forms:
    """Artifacts of the trained network, each emitted when it is first asked for."""

    def __init__(self, trained: Trained, coco: Path, folder: Path) -> None:
        self._trained, self._folder = trained, folder
        self._photos = sorted((coco / "images" / "train").iterdir())[:8]
        self._made: dict[str, Made] = {}

    def emit(self, form: str, folder: Path) -> Made:
        target, options = FORMS[form]
        photos = self._photos if form in INTEGERS else ()
        made = self._trained.emit(target, folder, SIZE, calibration=photos, **options)
        return Made(target, folder / made.model, made.notes, made.deferred)

    def __getitem__(self, form: str) -> Made:
        if form not in self._made:
            self._made[form] = self.emit(form, self._folder / form.replace(" ", "_"))
        return self._made[form]


@pytest.fixture(scope="module")
def forms(trained: Trained, coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Forms:
    return Forms(trained, coco, tmp_path_factory.mktemp("forms"))


@pytest.fixture(scope="module")
def photographs(coco: Path) -> np.ndarray:
    from segc.targets.verify import cases

    (case,) = cases(sorted((coco / "images" / "train").iterdir())[:3], SIZE, dynamic=False)
    return case.images


@pytest.fixture(scope="module")
def expected(trained: Trained, photographs: np.ndarray) -> dict[str, np.ndarray]:
    from segc.network.session import TorchSession

    return TorchSession(trained.graph(SIZE), trained.weights, {}).run(photographs)


def in_tensorflow(code: str, *arguments: object) -> Any:
    """What a program prints as JSON in its last line, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("form", FORMS)
def test_an_artifact_gives_back_its_metadata_and_finds_what_torch_finds(
    form: str, forms: Forms, photographs: np.ndarray, expected: dict[str, np.ndarray], trained: Trained
) -> None:
    target, options = FORMS[form]
    ours, said = run_in_worker(target, forms[form].model, photographs)
    settings = targets()[target].settings(targets()[target].options.model_validate({"format": target, **options}))
    assert said["metadata"] == trained.metadata(SIZE, segc_version="0", **settings)
    assert list(ours) == sorted(OUTPUTS)
    named = [{f"fixed.{name}": value for name, value in side.items()} for side in (expected, ours)]
    parity = compare([Case("fixed", photographs)], *named, settings.get("precision", "fp32"), len(photographs))
    assert parity.passed, parity.faults()
    assert parity.detections.reference >= 5
    if form in FLOATS:
        assert parity.detections.matched == parity.detections.reference == parity.detections.artifact


@pytest.mark.parametrize("form", ["saved_model", "graphdef", "tflite"])
def test_the_same_input_gives_the_same_bytes_in_every_process(
    form: str, forms: Forms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = forms[form].model.parent
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    forms.emit(form, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(first)


def test_calibrated_models_are_the_same_bytes_in_every_process(forms: Forms) -> None:
    from segc.targets.litert import read_model

    # Both are the same full-integer model, and each was made in a process of its own.
    assert read_model(forms["tflite int8"].model)[0] == read_model(forms["edgetpu"].model)[0]


def test_the_network_needs_no_transpose_and_its_nodes_are_named_after_their_place(forms: Forms) -> None:
    code = (
        "import sys, json, tensorflow as tf\n"
        "d = tf.compat.v1.GraphDef(); d.ParseFromString(open(sys.argv[1], 'rb').read())\n"
        "print(json.dumps({n.name: n.op for n in d.node}))"
    )
    kinds = in_tensorflow(code, forms["graphdef"].model)
    assert "Transpose" not in kinds.values()
    assert list(kinds.values()).count("Conv2D") == 75
    assert kinds["model.2.m.0.cv1.conv/Conv2D"] == "Conv2D"
    assert [kinds[name] for name in OUTPUTS] == ["Identity"] * 4


def test_every_operation_that_is_lowered_is_one_that_may_be_read() -> None:
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1])\n"
        "from operators import RECIPES, build_recipe\n"
        "from segc.graph.ops import OPERATORS\n"
        "from segc.graph.passes import fold_batch_norm\n"
        "from segc.network.initialise import initial_weights\n"
        "from segc.targets.tensorflow import LOWERINGS, OPERATIONS, freeze\n"
        "made = set()\n"
        "for graph in map(build_recipe, RECIPES):\n"
        "    frozen = freeze(*fold_batch_norm(graph, initial_weights(graph.parameters, 0)))\n"
        "    made |= {node.op for node in frozen.definition.node}\n"
        "found = made - OPERATIONS, OPERATIONS - made, set(OPERATORS) - set(LOWERINGS)\n"
        "print(json.dumps([sorted(names) for names in found]))"
    )
    foreign, never, missing = in_tensorflow(code, ROOT / "tests" / "conformance")
    assert foreign == []
    assert never == ["Minimum", "Relu"]  # Of int8 only.
    assert missing == ["nms"]


def test_keras_loads_the_model_without_segc_and_it_computes_the_same(
    forms: Forms, photographs: np.ndarray, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = forms["saved_model"].model.with_name("photos.keras")
    np.save(tmp_path / "images.npy", photographs.transpose(0, 2, 3, 1))
    code = (
        "import sys; sys.modules['segc'] = None\n"
        "import json, keras, numpy as np\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "made = model(np.load(sys.argv[2]))\n"
        "np.savez(sys.argv[3], **{name: np.asarray(value) for name, value in made.items()})\n"
        "layer = keras.layers.TFSMLayer(sys.argv[4], call_endpoint='serving_default')\n"
        "same = [np.abs(layer(np.load(sys.argv[2])[:1])[k] - np.asarray(made[k])[:1]).max() for k in made]\n"
        "print(json.dumps([type(model).__name__, model.input_shape, max(map(float, same))]))"
    )
    kind, shape, difference = in_tensorflow(
        code, path, tmp_path / "images.npy", tmp_path / "made.npz", forms["saved_model"].model
    )
    assert (kind, shape) == ("Functional", [None, 320, 320, 3])
    assert difference < 1e-3
    made = np.load(tmp_path / "made.npz")
    for name in OUTPUTS:
        value = made[name].transpose(0, 3, 1, 2) if made[name].ndim == 4 else made[name]
        assert np.abs(value - expected[name]).max() <= TOLERANCES["fp32"].of(name, SIZE), name
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("segc.json"))["names"][0] == "person"


def test_a_saved_model_holds_one_signature_with_named_outputs_and_its_metadata(forms: Forms) -> None:
    made = forms["saved_model"]
    inside = sorted(str(path.relative_to(made.model)) for path in made.model.rglob("*") if path.is_file())
    assert inside == ["assets.extra/metadata.json", "saved_model.pb"]
    code = (
        "import sys, json, tensorflow as tf\n"
        "s = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "print(json.dumps({n: t.shape.as_list() for n, t in {**s.structured_input_signature[1], "
        "**s.structured_outputs}.items()}))"
    )
    assert in_tensorflow(code, made.model) == {
        "images": [1, 320, 320, 3],
        "boxes": [1, 2100, 4],
        "scores": [1, 2100, 80],
        "coefficients": [1, 2100, 32],
        "prototypes": [1, 80, 80, 32],
    }


# ---- eight-bit integers


@pytest.mark.parametrize("form", INTEGERS)
def test_everything_in_a_full_integer_model_is_an_integer(form: str, forms: Forms) -> None:
    from ai_edge_litert import schema_py_generated as schema

    from segc.targets.litert import read_model

    content, _ = read_model(forms[form].model)
    (graph,) = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs
    names = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    assert {names[tensor.type] for tensor in graph.tensors} <= {"INT8", "INT32"}


def test_a_pixel_goes_in_as_its_byte_minus_128_and_boxes_come_out_in_the_image(
    forms: Forms, photographs: np.ndarray
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    from segc.targets.litert import quantised, read_model

    content, _ = read_model(forms["tflite int8"].model)
    interpreter = Interpreter(model_content=content, num_threads=1)
    signature = interpreter.get_signature_runner("serving_default")
    details = signature.get_input_details()["images"]
    image = photographs[:1].transpose(0, 2, 3, 1)
    taken = quantised(image, details)
    assert taken.dtype == np.int8
    np.testing.assert_array_equal(taken.astype(int), np.rint(image * 255).astype(int) - 128)
    outputs = signature.get_output_details()
    assert set(outputs) == set(OUTPUTS)
    assert {value["dtype"] for value in outputs.values()} == {np.int8}
    scale, zero = outputs["boxes"]["quantization"]
    assert (scale, zero) == (pytest.approx(1 / 255, rel=0.03), -128)
    assert outputs["scores"]["quantization"] == (pytest.approx(1 / 256, rel=0.03), -128)
    # Every output has a scale of its own.
    assert len({value["quantization"][0] for value in outputs.values()}) == 4


def test_int8_without_images_to_calibrate_on_is_an_error(trained: Trained) -> None:
    from segc.targets.litert import convert

    with pytest.raises(ValueError, match="int8 needs images to calibrate on"):
        convert(trained.graph((64, 64)), trained.weights, "int8")


def test_an_int8_model_that_finds_nothing_fails(expected: dict[str, np.ndarray], photographs: np.ndarray) -> None:
    ours = {f"fixed.{name}": value for name, value in expected.items()}
    blind = {**ours, "fixed.scores": np.zeros_like(ours["fixed.scores"])}
    assert not compare([Case("fixed", photographs)], ours, blind, "int8", len(photographs)).passed


# ---- Edge TPU


def test_an_uncompiled_model_says_so_and_which_operators_the_chip_does_not_have(forms: Forms) -> None:
    made = forms["edgetpu"]
    assert made.deferred
    assert made.model.name == "photos_edgetpu.tflite"
    first, second = made.notes
    assert first.startswith("not compiled for the Edge TPU: edgetpu_compiler is not on PATH")
    assert "3 x SOFTMAX (only over one axis" in second
    _, said = run_in_worker("edgetpu", made.model, np.zeros((1, 3, *SIZE), np.float32))
    assert said["runtime"] == "LiteRT on the CPU; the model is not compiled for the Edge TPU"


FAKE = """\
#!/bin/sh
if [ "$1" = --version ]; then echo 'Edge TPU Compiler version 99.0'; exit 0; fi
[ "$1" = -o ] || exit 3
{body}
"""

COMPILES = """\
name=$(basename "$3" .tflite)
{ cat "$3"; printf edgetpu-custom-op; } > "$2/${name}_edgetpu.tflite"
echo "Number of operations that will run on Edge TPU: 270"
echo "Number of operations that will run on CPU: 30"
"""


def fake_compiler(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "edgetpu_compiler").write_text(FAKE.format(body=body))
    (folder / "edgetpu_compiler").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_compiler_is_run_where_it_is_on_the_path(
    forms: Forms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = forms["edgetpu"]
    fake_compiler(tmp_path / "bin", COMPILES, monkeypatch)
    made = forms.emit("edgetpu", tmp_path / "out")
    assert not made.deferred
    assert "compiled by edgetpu_compiler (270 operators on the Edge TPU, 30 operators on the CPU)" in made.notes[-1]
    assert "was not run here" in made.notes[-1]
    beside = made.model.with_name("photos.tflite")
    assert beside.read_bytes() == plain.model.read_bytes()
    image = np.full((1, 3, *SIZE), 0.5, np.float32)
    ours, said = run_in_worker("edgetpu", made.model, image)
    assert said["runtime"] == "LiteRT on the CPU, with the model as it was before it was compiled for the Edge TPU"
    theirs, _ = run_in_worker("tflite", beside, image)
    for name in OUTPUTS:
        np.testing.assert_array_equal(ours[name], theirs[name])
    beside.unlink()
    with pytest.raises(SegcError, match="compiled for the Edge TPU, and there is none here"):
        run_in_worker("edgetpu", made.model, image)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo 'Invalid model' >&2; exit 1", "edgetpu_compiler failed (exit status 1): Invalid model"),
        ("exit 0", "edgetpu_compiler failed (exit status 0): it said nothing"),
        ('cp "$3" "$2/photos_edgetpu.tflite"', "left every operator on the CPU"),
    ],
)
def test_a_compiler_that_fails_gives_its_reason(
    body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segc.targets.edgetpu import COMPILER, _compile

    fake_compiler(tmp_path / "bin", body, monkeypatch)
    with pytest.raises(SegcError) as caught:
        _compile(str(shutil.which(COMPILER)), b"model", "photos")
    assert message in caught.value.diagnostics[0].message


def test_the_compilers_version_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segc.targets.edgetpu import TARGET, _tools

    fake_compiler(tmp_path / "bin", "exit 1", monkeypatch)
    _tools.cache_clear()
    assert TARGET.tools() == {"edgetpu_compiler": "Edge TPU Compiler version 99.0"}
    assert TARGET.remarks() == ()
    monkeypatch.setenv("PATH", str(tmp_path))
    _tools.cache_clear()
    assert TARGET.tools() == {"edgetpu_compiler": None}
    assert "not compiled" in TARGET.remarks()[0]


# ---- damaged and foreign files


def spoiled(path: Path, change: str) -> None:
    content = bytearray(path.read_bytes())
    if change == "cut off":
        content = content[: len(content) // 2]
    elif change == "changed":
        content[len(content) // 3] ^= 0xFF
    elif change == "foreign":
        content = bytearray(b"not a model at all")
    elif change == "empty":
        content = bytearray()
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("change", ["cut off", "changed", "foreign", "empty"])
def test_a_spoiled_tflite_file_is_refused_before_native_code_sees_it(change: str, forms: Forms, tmp_path: Path) -> None:
    path = Path(shutil.copy(forms["tflite"].model, tmp_path))
    spoiled(path, change)
    with pytest.raises(SegcError) as caught:
        targets()["tflite"].session(path, 1)
    assert caught.value.diagnostics[0].code == "T006"


REFUSED = """\
import json, sys
from pathlib import Path
from segc.diagnostics import SegcError
from segc.targets.registry import targets
found = []
for target, path in json.loads(sys.argv[1]):
    try:
        targets()[target].session(Path(path), 1)
        found.append("opened")
    except SegcError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def test_a_spoiled_graph_is_refused(forms: Forms, tmp_path: Path) -> None:
    copies = []
    for form in ("saved_model", "graphdef"):
        for change in ("cut off", "foreign", "empty", "no metadata", "no model"):
            folder = tmp_path / f"{form} {change}"
            shutil.copytree(forms[form].model.parent, folder)
            model = folder / forms[form].model.name
            message = model / "saved_model.pb" if model.is_dir() else model
            if change == "no metadata":
                next(folder.rglob("metadata.json")).unlink()
            elif change == "no model":
                message.unlink()
            else:
                spoiled(message, change)
            copies.append((form, str(model)))
    for said in in_tensorflow(REFUSED, json.dumps(copies)):
        assert "T006" in said


def test_a_graph_that_would_write_a_file_is_not_run(forms: Forms, tmp_path: Path) -> None:
    code = (
        "import sys, json, tensorflow as tf\n"
        "from tensorflow.core.protobuf.saved_model_pb2 import SavedModel\n"
        "with tf.Graph().as_default() as g:\n"
        "    x = tf.compat.v1.placeholder(tf.float32, [1, 320, 320, 3], name='images')\n"
        "    with tf.control_dependencies([tf.io.write_file(sys.argv[2], 'here')]):\n"
        "        for name in ('boxes', 'scores', 'coefficients', 'prototypes'): tf.identity(x, name=name)\n"
        "d = g.as_graph_def()\n"
        "open(sys.argv[3], 'wb').write(d.SerializeToString())\n"
        "m = SavedModel(); m.ParseFromString(open(sys.argv[4], 'rb').read())\n"
        "m.meta_graphs[0].graph_def.CopyFrom(d); open(sys.argv[4], 'wb').write(m.SerializeToString())\n"
    )
    for form in ("saved_model", "graphdef"):
        shutil.copytree(forms[form].model.parent, tmp_path / form)
    model, graph = tmp_path / "saved_model" / "photos_saved_model", tmp_path / "graphdef" / "photos.pb"
    hostile = json.dumps([("saved_model", str(model)), ("graphdef", str(graph))])
    for said in in_tensorflow(code + REFUSED, hostile, tmp_path / "trace", graph, model / "saved_model.pb"):
        assert "it has the operation WriteFile" in said
    assert not (tmp_path / "trace").exists()


# ---- predict scripts


SCRIPTED = ["saved_model", "graphdef", "tflite", "tflite int8", "edgetpu"]


@pytest.mark.parametrize("form", SCRIPTED)
def test_the_script_finds_what_segc_predict_finds_without_segc_and_torch(
    form: str, forms: Forms, coco: Path, tmp_path: Path
) -> None:
    made, photos = forms[form], sorted((coco / "images" / "train").iterdir())[:3]
    for module in (
        "segc",
        "torch",
        "onnx",
        "pydantic",
        "click",
        *(["tensorflow"] if "lite" in made.model.name else []),
    ):
        (tmp_path / f"{module}.py").write_text(f"raise ImportError('{module} is not to be had here')")
    script = [sys.executable, "-P", made.model.with_name("predict.py"), *photos, "-o", tmp_path / "theirs"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(list(map(str, script)), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    command = ["predict", *photos, "--artifact", made.model, "-o", tmp_path / "ours", "--save-json"]
    ours = subprocess.run(
        [sys.executable, "-m", "segc", *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ours.returncode == 0, ours.stderr
    theirs = (tmp_path / "theirs" / "predictions.json").read_bytes()
    assert (tmp_path / "ours" / "predictions.json").read_bytes() == theirs
    assert sum(len(record["detections"]) for record in json.loads(theirs)) >= 5
    # A new user sees the results and nothing of the runtime's own.
    assert "tensorflow" not in ours.stderr.lower(), ours.stderr


@pytest.mark.parametrize("form", ["saved_model", "graphdef", "tflite"])
def test_the_script_names_a_model_that_is_not_one(form: str, forms: Forms, coco: Path, tmp_path: Path) -> None:
    made = forms[form]
    photo = next((coco / "images" / "train").iterdir())
    for name, message in (("nowhere", "no such model"), ("foreign", "not a model of segc")):
        model = tmp_path / name
        if name == "foreign":
            model.mkdir() if made.model.is_dir() else model.write_bytes(b"PK nothing")
        command = [made.model.with_name("predict.py"), photo, "-o", tmp_path / "out", "--model", model]
        done = subprocess.run(
            [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr

"""TFLite and Edge TPU models compute what PyTorch computes, and LiteRT sees no file that would lead it astray."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from segc.diagnostics import SegcError
from segc.emission.verify import OUTPUTS, Case, cases, compare
from segc.graph.passes import run_passes
from segc.network.initialise import initial_weights
from segc.sessions.artifact import open_artifact
from segc.targets.litert import float_passes
from segc.targets.litert.edgetpu import COMPILER, TARGET, _compile, _tools
from segc.targets.litert.flatbuffer import DamagedError
from segc.targets.litert.guard import OPERATORS, check_flatbuffer
from segc.targets.litert.lowering import lower
from segc.targets.litert.model import ALIGNMENT, KINDS, with_metadata
from segc.targets.litert.runtime import DIGEST, EDGETPU_SUFFIX, quantised, read_model
from tests.targets.conftest import contents, open_here, outputs_agree, refusal, run_in_worker
from tests.targets.forms import SIZE, Forms, spoiled
from tests.targets.standalone import ABSENT, Standalone, segc

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.targets.conftest import Trained

FLOATS = ["tflite", "tflite half"]
WEIGHTS = ["tflite int8 weights"]
INTEGERS = ["tflite int8", "edgetpu"]


@pytest.fixture(scope="module")
def forms(trained: Trained, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Forms:
    return Forms(trained, shapes, tmp_path_factory.mktemp("forms"))


@pytest.fixture(scope="module")
def photographs(forms: Forms) -> np.ndarray:
    (case,) = cases(forms.photos[:3], SIZE, dynamic=False)
    return case.images


@pytest.fixture(scope="module")
def expected(trained: Trained, photographs: np.ndarray) -> dict[str, np.ndarray]:
    from segc.network.session import TorchSession

    return TorchSession(trained.graph(SIZE), trained.weights, trained.metadata(SIZE)).run(photographs)


@pytest.mark.parametrize("form", [*FLOATS, *WEIGHTS, *INTEGERS])
def test_an_artifact_gives_back_its_metadata_and_finds_what_torch_finds(
    form: str, forms: Forms, photographs: np.ndarray, expected: dict[str, np.ndarray]
) -> None:
    ours, said = run_in_worker(form.partition(" ")[0], forms[form].model, photographs)
    assert said["metadata"] == forms.metadata(form).to_json()
    assert list(ours) == sorted(OUTPUTS)
    named = [{f"fixed.{name}": value for name, value in side.items()} for side in (expected, ours)]
    parity = compare([Case("fixed", photographs)], *named, forms.precision(form), len(photographs))
    assert parity.passed, parity.faults()
    assert parity.detections.reference >= 5
    if form in FLOATS:
        assert parity.detections.matched == parity.detections.reference == parity.detections.artifact
        outputs_agree(ours, expected, SIZE, forms.precision(form))


def test_the_same_input_gives_the_same_bytes_in_every_process(
    forms: Forms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = forms["tflite"].model.parent
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    forms.emit("tflite", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(first)


def test_calibrated_models_are_the_same_bytes_in_every_process(forms: Forms) -> None:
    # Both are the same model, and each was made in a process of its own.
    assert read_model(forms["tflite int8"].model)[0] == read_model(forms["edgetpu"].model)[0]


def operators(content: bytes) -> set[str]:
    """TFLite's names of what is in a flatbuffer."""
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    return {names[code.builtinCode] for code in schema.ModelT.InitFromPackedBuf(content, 0).operatorCodes}


def test_what_is_written_is_what_may_be_read_and_no_more() -> None:
    from tests.conformance.operators import RECIPES, build_recipe

    found: set[str] = set()
    for graph in map(build_recipe, RECIPES):
        weights = initial_weights(graph.parameters, 0)
        for half in (False, True):
            model = lower(*run_passes(float_passes(), graph, weights), half=half)
            check_flatbuffer(model)
            found |= operators(model)
    assert found | {"QUANTIZE"} == {*KINDS}, "a kind that nothing makes, or the other way round"
    # What the Edge TPU's compiler took over stands behind one.
    assert {name for name, _ in OPERATORS.values()} == {*KINDS, "CUSTOM"}


def test_every_constant_lies_where_the_schema_wants_it(forms: Forms) -> None:
    from ai_edge_litert import schema_py_generated as schema

    content, _ = read_model(forms["tflite int8"].model)
    model = schema.Model.GetRootAs(content, 0)
    held = [model.Buffers(index) for index in range(model.BuffersLength())]
    places = [one._tab.Vector(one._tab.Offset(4)) for one in held if not one.DataIsNone()]
    assert len(places) > 100
    assert not any(place % ALIGNMENT for place in places)


# ---- eight-bit integers


def flowing(form: str, forms: Forms) -> dict[str, str]:
    """What an int8 model computes: type of every tensor by its name."""
    from ai_edge_litert import schema_py_generated as schema

    content, _ = read_model(forms[form].model)
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = model.subgraphs
    names = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    return {one.name.decode(): names[one.type] for one in graph.tensors if not one.buffer}


@pytest.mark.parametrize("form", INTEGERS)
def test_feature_maps_are_integers_and_what_is_decoded_is_floats(form: str, forms: Forms) -> None:
    kinds = flowing(form, forms)
    floats = {name.split(".")[1] for name, kind in kinds.items() if kind == "FLOAT32" and name.startswith("model.")}
    assert floats == {"22"}, "the last module alone has floats"
    assert {kinds[name] for name in OUTPUTS} == {"FLOAT32"}
    assert kinds["images"] == "INT8"


def test_weights_alone_in_integers_are_a_quarter_of_the_file(forms: Forms) -> None:
    plain, whole = (forms[form].model.stat().st_size for form in ("tflite", *WEIGHTS))
    assert whole < 0.4 * plain


def test_a_pixel_goes_in_as_its_byte_minus_128_and_boxes_come_out_in_pixels(
    forms: Forms, photographs: np.ndarray
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    content, metadata = read_model(forms["tflite int8"].model)
    interpreter = Interpreter(model_content=content, num_threads=1)
    signature = interpreter.get_signature_runner("serving_default")
    details = signature.get_input_details()["images"]
    image = photographs[:1].transpose(0, 2, 3, 1)
    taken = quantised(image, details)
    assert taken.dtype == np.int8
    np.testing.assert_array_equal(taken.astype(int), np.rint(image * 255).astype(int) - 128)
    outputs = signature(images=taken)
    assert set(outputs) == set(OUTPUTS)
    assert {value.dtype.name for value in outputs.values()} == {"float32"}
    assert metadata.boxes == "pixels"
    assert outputs["boxes"].max() > 100


def test_int8_without_images_to_calibrate_on_is_an_error(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int8 needs images to calibrate on"):
        trained.emit_here("tflite", tmp_path, (64, 64), int8=True)


def test_an_int8_model_that_finds_nothing_fails(expected: dict[str, np.ndarray], photographs: np.ndarray) -> None:
    ours = {f"fixed.{name}": value for name, value in expected.items()}
    blind = {**ours, "fixed.scores": np.zeros_like(ours["fixed.scores"])}
    assert not compare([Case("fixed", photographs)], ours, blind, "int8", len(photographs)).passed


# ---- Edge TPU


def test_an_uncompiled_model_says_so_and_which_operators_the_chip_does_not_have(forms: Forms) -> None:
    made = forms["edgetpu"]
    assert made.deferred
    assert made.model.name == "photos_edgetpu.tflite"
    assert TARGET.suffix == EDGETPU_SUFFIX
    first, second = made.notes
    assert first.startswith("not compiled for the Edge TPU: edgetpu_compiler is not on PATH")
    assert "1 x SOFTMAX (only over one axis" in second
    assert TARGET.stand_in(made.model) is None
    model = open_here("edgetpu", made.model)
    assert model.runtime == "LiteRT on the CPU; the model is not compiled for the Edge TPU"


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


def test_what_was_compiled_is_evaluated_by_the_model_from_before_where_there_is_no_chip(
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
    # What evaluates it says that it is not what people deploy.
    assert TARGET.stand_in(made.model) == "segc.targets.litert.stand_in"
    image = np.full((1, 3, *SIZE), 0.5, np.float32)
    ours, said = run_in_worker("edgetpu", made.model, image)
    assert said["runtime"] == "LiteRT on the CPU, with the model as it was before it was compiled for the Edge TPU"
    theirs, _ = run_in_worker("tflite", beside, image)
    for name in OUTPUTS:
        np.testing.assert_array_equal(ours[name], theirs[name])
    # The script runs what it is given, or says what to do.
    script = Standalone(made.model.parent)
    done = script(forms.photos[0], "-o", tmp_path / "found")
    assert done.returncode == 1
    assert "libedgetpu.so.1 cannot be loaded" in done.stderr
    assert "take photos.tflite" in done.stderr
    assert script(forms.photos[0], "-o", tmp_path / "found", "--model", beside).returncode == 0
    # A model from before of something else does not stand for it.
    content, metadata = read_model(beside)
    beside.write_bytes(with_metadata(content, replace(metadata, spec_digest="another")))
    assert "their metadata differ" in refusal(made.model)
    spoiled(beside, "changed")
    assert "damaged" in refusal(made.model)
    beside.unlink()
    with pytest.raises(SegcError) as caught:
        open_artifact(made.model, 1)
    assert [(one.code, "cannot be loaded" in one.message) for one in caught.value.diagnostics] == [("R007", True)]


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
    fake_compiler(tmp_path / "bin", body, monkeypatch)
    with pytest.raises(SegcError) as caught:
        _compile(str(shutil.which(COMPILER)), b"model", "photos")
    assert message in caught.value.diagnostics[0].message


def test_the_compilers_version_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path / "bin", "exit 1", monkeypatch)
    _tools.cache_clear()
    assert TARGET.tools() == {"edgetpu_compiler": "Edge TPU Compiler version 99.0"}
    assert TARGET.remarks() == ()
    monkeypatch.setenv("PATH", str(tmp_path))
    _tools.cache_clear()
    assert TARGET.tools() == {"edgetpu_compiler": None}
    assert "not compiled" in TARGET.remarks()[0]


# ---- damaged and foreign files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("cut off", "there are no metadata at its end"),
        ("changed", "its digest is another"),
        ("foreign", "there are no metadata at its end"),
        ("empty", "there are no metadata at its end"),
    ],
)
def test_a_spoiled_file_is_refused_before_native_code_sees_it(
    change: str, message: str, forms: Forms, tmp_path: Path
) -> None:
    path = Path(shutil.copy(forms["tflite"].model, tmp_path))
    spoiled(path, change)
    assert message in refusal(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imgsz": (64, 64)}, "its input is [1, 160, 160, 3], and its metadata speak of [1, 64, 64, 3]"),
        ({"batch": 2}, "its metadata speak of [2, 160, 160, 3]"),
        ({"layout": "fused"}, "its metadata speak of output0, output1"),
    ],
)
def test_metadata_of_another_model_are_refused(
    change: dict[str, Any], message: str, forms: Forms, tmp_path: Path
) -> None:
    content, metadata = read_model(forms["tflite"].model)
    path = tmp_path / "photos.tflite"
    path.write_bytes(with_metadata(content, replace(metadata, **change)))
    assert message in refusal(path)


def test_metadata_longer_than_any_are_not_read(forms: Forms, tmp_path: Path) -> None:
    path = tmp_path / "photos.tflite"
    content = read_model(forms["tflite"].model)[0]
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", b" " * (1 << 25))
        archive.writestr(DIGEST, hashlib.sha256(content).hexdigest())
    assert "there are no metadata at its end" in refusal(path)


@pytest.fixture(scope="module")
def small(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A full flatbuffer of the network at a small size."""
    folder = tmp_path_factory.mktemp("small")
    return read_model(folder / "out" / trained.emit("tflite", folder / "out", (64, 64)).model)[0]


def packed(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _with_a_tensor_out_of_bounds(model: Any) -> None:
    model.subgraphs[0].operators[3].inputs = np.array([1 << 20, 0], np.int32)


def _with_a_buffer_out_of_bounds(model: Any) -> None:
    model.subgraphs[0].tensors[3].buffer = 1 << 20


def _with_a_short_constant(model: Any) -> None:
    buffer = next(b for b in model.buffers if b.data is not None and len(b.data) > 1000)
    buffer.data = buffer.data[:16]


def _with_an_endless_tensor(model: Any) -> None:
    model.subgraphs[0].tensors[0].shape = np.array([1 << 14, 1 << 14, 1 << 14, 3], np.int32)


def _with_a_negative_size(model: Any) -> None:
    model.subgraphs[0].tensors[0].shape = np.array([1, -64, 64, 3], np.int32)


def _with_an_operator_of_its_own(model: Any) -> None:
    model.operatorCodes[0].builtinCode, model.operatorCodes[0].customCode = 32, b"FlexWriteFile"
    model.operatorCodes[0].deprecatedBuiltinCode = 32


def _with_another_operator(model: Any) -> None:
    model.operatorCodes[0].builtinCode = 119  # While, of another graph of the file.


def _that_reads_what_is_not_made(model: Any) -> None:
    operators = model.subgraphs[0].operators
    operators[0], operators[-1] = operators[-1], operators[0]


def _with_missing_inputs(model: Any) -> None:
    code = next(i for i, code in enumerate(model.operatorCodes) if code.builtinCode == 3)
    operator = next(one for one in model.subgraphs[0].operators if one.opcodeIndex == code)
    operator.inputs = operator.inputs[:1]


def _with_two_graphs(model: Any) -> None:
    model.subgraphs.append(model.subgraphs[0])


def _without_signature(model: Any) -> None:
    model.signatureDefs = []


def _with_values_elsewhere(model: Any) -> None:
    model.buffers[1].offset, model.buffers[1].size = 1 << 40, 1 << 20


def _with_scales_of_other_channels(model: Any) -> None:
    from ai_edge_litert import schema_py_generated as schema

    tensor = model.subgraphs[0].tensors[0]
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = np.ones(7, np.float32), np.zeros(7, np.int64)


def _with_an_endless_scale(model: Any) -> None:
    _with_scales_of_other_channels(model)
    quantization = model.subgraphs[0].tensors[0].quantization
    quantization.scale, quantization.zeroPoint = np.float32([4e32]), np.int64([0])


HOSTILE: dict[str, tuple[Callable[[Any], None], str]] = {
    "a tensor out of bounds": (_with_a_tensor_out_of_bounds, "reads what is not made yet"),
    "a buffer out of bounds": (_with_a_buffer_out_of_bounds, "an index is wrong"),
    "a short constant": (_with_a_short_constant, "a constant has other values than its size"),
    "an endless tensor": (_with_an_endless_tensor, "it has a tensor of"),
    "a negative size": (_with_a_negative_size, "it has a tensor without a size"),
    "an operator of its own": (_with_an_operator_of_its_own, "it has the operator b'FlexWriteFile'"),
    "another operator": (_with_another_operator, "it has the operator 119"),
    "a wrong order": (_that_reads_what_is_not_made, "reads what is not made yet"),
    "missing inputs": (_with_missing_inputs, "inputs of CONV_2D are missing"),
    "two graphs": (_with_two_graphs, "it has several graphs"),
    "no signature": (_without_signature, "it has several signatures, or none"),
    "values elsewhere": (_with_values_elsewhere, "its Buffer has a field 1"),
    "scales of other channels": (_with_scales_of_other_channels, "a tensor's scales are not one a channel"),
    "an endless scale": (_with_an_endless_scale, "a tensor's scale is out of bounds"),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_a_hostile_model_with_a_digest_of_its_own_is_refused(
    change: str, small: bytes, forms: Forms, tmp_path: Path
) -> None:
    from ai_edge_litert import schema_py_generated as schema

    spoil, message = HOSTILE[change]
    model = schema.ModelT.InitFromPackedBuf(small, 0)
    check_flatbuffer(packed(model))
    spoil(model)
    path = tmp_path / "photos.tflite"
    path.write_bytes(with_metadata(packed(model), replace(forms.metadata("tflite"), imgsz=(64, 64))))
    assert f"not a model of segc: {message}"[:200] in refusal(path) or message in refusal(path)


def test_no_changed_byte_of_a_flatbuffer_ends_in_another_error(small: bytes) -> None:
    chance, refusals = random.Random(0), []
    for _ in range(150):
        changed = bytearray(small)
        for _ in range(chance.choice((1, 3, 10))):
            # Its tables lie at its ends; what is between are weights, which may be anything.
            place = chance.choice((chance.randrange(200), len(changed) - 1 - chance.randrange(60_000)))
            changed[place] ^= chance.randrange(1, 256)
        try:
            check_flatbuffer(bytes(changed))
        except DamagedError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert not any("\n" in message for message in refusals)


@pytest.mark.parametrize("length", [0, 3, 8, 40, 1000])
def test_a_flatbuffer_that_is_cut_off_is_refused(length: int, small: bytes) -> None:
    with pytest.raises(DamagedError):
        check_flatbuffer(small[:length])


# ---- predict scripts


@pytest.mark.parametrize("form", ["tflite", "tflite int8", "edgetpu"])
def test_the_script_finds_what_segc_predict_finds_without_segc_and_tensorflow(
    form: str, forms: Forms, tmp_path: Path
) -> None:
    model = forms[form].model
    script = Standalone(model.parent, (*ABSENT, "tensorflow"))
    script.finds_what_segc_predict_finds(model, forms.photos[:3], tmp_path)
    # A new user sees the results and nothing of the runtime's own.
    done = segc("predict", forms.photos[0], "--artifact", model, "-o", tmp_path / "again")
    assert "tensorflow" not in done.stderr.lower()


def test_the_script_names_a_model_that_is_not_one(forms: Forms, tmp_path: Path) -> None:
    script = Standalone(forms["tflite"].model.parent)
    (tmp_path / "foreign").write_bytes(b"PK nothing")
    for name, message in (("nowhere", "no such model"), ("foreign", "not a model of segc")):
        done = script(forms.photos[0], "-o", tmp_path / "out", "--model", tmp_path / name)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr

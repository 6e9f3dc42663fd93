"""Core ML packages come from strangers: a damaged one gives one clear error, whatever is wrong with it."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segc.diagnostics import SegcError
from segc.inference.metadata import Metadata, ModelError, metadata_text
from segc.targets.coreml import stand_in
from segc.targets.coreml.operations import OPERATIONS
from segc.targets.coreml.package import write_package
from segc.targets.coreml.program import Program, _protocol
from tests.targets.conftest import open_here

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.targets.conftest import Trained

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
IMAGE = np.zeros((1, 3, 32, 64), np.float32)


@pytest.fixture(scope="module")
def good(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coreml") / "artifact"
    return folder / trained.emit("coreml", folder, (32, 64), nms=True, half=True, int8=True).model


@pytest.fixture
def package(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "m.mlpackage")


def refusal(package: Path) -> str:
    with pytest.raises(ModelError) as caught:
        stand_in.open_model(package, 1).run(IMAGE)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def changed(package: Path, change: Callable[[Any], object]) -> Path:
    """The package with another model in it."""
    model = _protocol().Model()
    model.ParseFromString((package / MODEL).read_bytes())
    change(model)
    (package / MODEL).write_bytes(model.SerializeToString())
    return package


def block(model: Any) -> Any:
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def first(model: Any, kind: str) -> Any:
    return next(operation for operation in block(model).operations if operation.type == kind)


def constant(model: Any, name: str) -> Any:
    """The stated value of a constant."""
    found = next(operation for operation in block(model).operations if operation.outputs[0].name == name)
    return found.attributes["val"].immediateValue.tensor


def read_by(model: Any, kind: str, name: str) -> Any:
    return constant(model, first(model, kind).inputs[name].arguments[0].name)


def test_a_good_package_runs(package: Path) -> None:
    assert stand_in.open_model(package, 1).run(IMAGE)["boxes"].shape == (1, 300, 4)


def test_what_is_wrong_is_said_of_the_package(package: Path) -> None:
    (package / MODEL).unlink()
    with pytest.raises(SegcError) as caught:
        open_here("coreml", package)
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, diagnostic.file) == ("T006", package)
    assert (
        diagnostic.message == "damaged, or not a model of segc: model.mlmodel cannot be read: No such file or directory"
    )


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS])
def test_a_missing_file_is_named(name: str, package: Path) -> None:
    (package / name).unlink()
    assert f"{name.rpartition('/')[2]} cannot be read" in refusal(package)


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(name: str, share: float, package: Path) -> None:
    content = (package / name).read_bytes()
    (package / name).write_bytes(content[: int(len(content) * share)])
    refusal(package)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.mlpackage").write_bytes(b"x")
    refusal(tmp_path / "m.mlpackage")


@pytest.mark.parametrize("path", ["../../../secret", "/etc/hostname", "../../m2.mlpackage/x"])
def test_a_manifest_cannot_name_files_outside(path: str, package: Path) -> None:
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
    (package / "Manifest.json").write_text(json.dumps(manifest))
    assert "outside of the package" in refusal(package)


def test_a_link_cannot_lead_outside(package: Path, tmp_path: Path) -> None:
    outside = tmp_path / "weight.bin"
    (package / WEIGHTS).replace(outside)
    (package / WEIGHTS).symlink_to(outside)
    assert "outside of the package" in refusal(package)


@pytest.mark.parametrize("manifest", ["[]", "{}", "[" * 100_000, '{"rootModelIdentifier": {}, "itemInfoEntries": 1}'])
def test_a_manifest_of_another_form_is_refused(manifest: str, package: Path) -> None:
    (package / "Manifest.json").write_text(manifest)
    refusal(package)


def _of_another_type(model: Any) -> None:
    first(model, "silu").type = "gelu"


def _with_a_loop(model: Any) -> None:
    first(model, "silu").blocks.add()


def _out_of_order(model: Any) -> None:
    first(model, "silu").inputs["x"].arguments[0].name = "prototypes"


def _without_outputs(model: Any) -> None:
    block(model).outputs.append("nothing")


def _weights_elsewhere(model: Any) -> None:
    first(model, "const").attributes["val"].blobFileValue.fileName = "/etc/passwd"


def _weights_outside(model: Any) -> None:
    first(model, "constexpr_affine_dequantize").attributes[
        "quantized_data"
    ].blobFileValue.fileName = "@model_path/../../../x"


def _weights_beyond_the_end(model: Any) -> None:
    first(model, "constexpr_affine_dequantize").attributes["quantized_data"].blobFileValue.offset = 1 << 40


def _weights_at_another_place(model: Any) -> None:
    first(model, "constexpr_affine_dequantize").attributes["quantized_data"].blobFileValue.offset += 8


def _a_huge_result(model: Any) -> None:
    first(model, "conv").outputs[0].type.tensorType.dimensions[2].constant.size = 1 << 40


def _a_free_size(model: Any) -> None:
    first(model, "conv").outputs[0].type.tensorType.dimensions[2].unknown.variadic = True


def _another_shape(model: Any) -> None:
    first(model, "conv").outputs[0].type.tensorType.dimensions[2].constant.size += 1


def _a_stride_of_nought(model: Any) -> None:
    read_by(model, "conv", "strides").ints.values[0] = 0


def _a_huge_padding(model: Any) -> None:
    read_by(model, "max_pool", "pad").ints.values[0] = 1 << 30


def _a_negative_padding(model: Any) -> None:
    read_by(model, "conv", "pad").ints.values[0] = -1


def _another_padding(model: Any) -> None:
    read_by(model, "max_pool", "pad_type").strings.values[0] = "same"


def _no_groups(model: Any) -> None:
    read_by(model, "conv", "groups").ints.values[0] = 0


def _a_huge_scale(model: Any) -> None:
    read_by(model, "upsample_nearest_neighbor", "scale_factor_height").ints.values[0] = 8000


def _pieces_that_do_not_fit(model: Any) -> None:
    read_by(model, "split", "split_sizes").ints.values[0] = 1


def _an_axis_that_is_not_there(model: Any) -> None:
    read_by(model, "softmax", "axis").ints.values[0] = 9


def _another_kind_of_model(model: Any) -> None:
    model.neuralNetwork.SetInParent()


def _two_inputs(model: Any) -> None:
    function = model.mlProgram.functions["main"]
    function.inputs.add().CopyFrom(function.inputs[0])


CHANGES = (
    _of_another_type,
    _with_a_loop,
    _out_of_order,
    _without_outputs,
    _weights_elsewhere,
    _weights_outside,
    _weights_beyond_the_end,
    _weights_at_another_place,
    _a_huge_result,
    _a_free_size,
    _another_shape,
    _a_stride_of_nought,
    _a_huge_padding,
    _a_negative_padding,
    _another_padding,
    _no_groups,
    _a_huge_scale,
    _pieces_that_do_not_fit,
    _an_axis_that_is_not_there,
    _another_kind_of_model,
    _two_inputs,
)
"""What a stranger might do to a program."""


@pytest.mark.parametrize("change", CHANGES)
def test_a_program_that_does_not_hang_together_is_refused(change: Callable[[Any], None], package: Path) -> None:
    assert refusal(changed(package, change)).startswith("damaged, or not a model of segc: ")


def test_weights_whose_header_lies_are_refused(package: Path) -> None:
    content = bytearray((package / WEIGHTS).read_bytes())
    struct.pack_into("<Q", content, 64 + 16, 1 << 50)  # where the first value lies
    (package / WEIGHTS).write_bytes(content)
    assert "cut off" in refusal(package)


def test_a_model_of_others_is_refused(package: Path) -> None:
    for text in ("", "}", "[]", "{}"):
        changed(package, lambda model, text=text: model.description.metadata.userDefined.update({"segc": text}))
        assert refusal(package).startswith("not a model of segc")


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"imgsz": (64, 64)}, "its input is [1, 3, 32, 64], and its metadata speak of [1, 3, 64, 64]"),
        ({"batch": 2}, "its input is [1, 3, 32, 64], and its metadata speak of [2, 3, 32, 64]"),
        ({"channels": "last"}, "its input is [1, 3, 32, 64], and its metadata speak of [1, 32, 64, 3]"),
        ({"layout": "named", "conf": None, "iou": None, "max_det": None}, "its outputs are 'boxes, classes, "),
    ],
)
def test_metadata_of_another_model_are_seen_through(claim: dict[str, Any], message: str, package: Path) -> None:
    given: dict[str, Any] = {"layout": "detections", "conf": 0.5, "iou": 0.5, "max_det": 300, "imgsz": (32, 64)}
    text = metadata_text(Metadata(("a",), **{**given, **claim}))
    changed(package, lambda model: model.description.metadata.userDefined.update({"segc": text}))
    assert refusal(package).startswith(message)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_the_model_file_is_told_or_does_no_harm(data: st.DataObject, good: Path, tmp_path: Path) -> None:
    content = bytearray((good / MODEL).read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    package = tmp_path / "m.mlpackage"
    shutil.rmtree(package, ignore_errors=True)
    write_package(package, bytes(content), (good / WEIGHTS).read_bytes())
    try:
        outputs = stand_in.open_model(package, 1).raw(IMAGE)
    except ModelError:
        refusal(package)
    else:
        assert all(isinstance(value, np.ndarray) for value in outputs.values())


def test_reading_and_running_imports_neither_coremltools_nor_a_framework(good: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path; from segc.targets.coreml import stand_in\n"
        "stand_in.open_model(Path(sys.argv[1]), 1).run(np.zeros((1, 3, 32, 64), np.float32))\n"
        "assert 'coremltools.proto.MIL_pb2' in sys.modules\n"
        "sys.exit(str({'coremltools', 'tensorflow', 'torch', 'sympy', 'PIL'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(good)], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_values_are_let_go_when_nothing_reads_them_any_more(good: Path) -> None:
    program = Program(good)
    gone = {name for step in program._steps for name in step.last}
    made = {result.name for step in program._steps for result in step.results}
    assert made - gone >= set(program.outputs)
    assert not gone & set(program.outputs)
    unread = made - gone - set(program.outputs)
    assert len(unread) <= 2  # boxes and scores of the suppression, for which it has no use


@pytest.mark.parametrize("largest", [1 << 10, 1 << 14])
def test_a_convolution_is_the_same_however_few_rows_are_done_at_a_time(
    largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    x, weight = random.random((1, 6, 31, 17), np.float32), random.random((4, 3, 3, 2), np.float32)
    inputs = {"x": x, "weight": weight, "strides": [2, 1], "pad_type": "custom", "pad": [1, 1, 0, 1], "groups": 2}
    shapes = [(1, 4, 16, 17)]
    (whole,) = OPERATIONS["conv"](inputs, shapes)
    monkeypatch.setattr("segc.targets.coreml.operations.COLUMNS", largest)
    (parts,) = OPERATIONS["conv"](inputs, shapes)
    np.testing.assert_allclose(parts, whole, rtol=1e-6)

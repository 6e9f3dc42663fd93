"""The Core ML target: its saved program computes what PyTorch computes, in every form, and always the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from segc.arrays import save_arrays
from segc.emission.requests import EmitTask
from segc.emission.verify import OUTPUTS, Case, cases, compare
from segc.emission.worker import Worker
from segc.graph.builder import GraphBuilder
from segc.graph.ops import OPERATORS
from segc.graph.serial import write_graph
from segc.inference.metadata import Metadata, ModelError
from segc.inference.postprocess import named_outputs
from segc.targets.coreml import runtime
from segc.targets.coreml.lowering import LOWERINGS
from segc.targets.coreml.program import Program, read_model
from segc.targets.registry import targets
from segc.targets.suppression import suppressed
from tests.targets.conftest import DEFAULTS, open_here

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from segc.inference.model import Model
    from segc.network.session import TorchSession
    from tests.targets.conftest import EmitTwice, Trained

    Emit = Callable[..., Path]

SMALL = (160, 160)

THRESHOLDS = {"conf": DEFAULTS.conf, "iou": DEFAULTS.iou, "max_det": DEFAULTS.max_det, "agnostic": False}


@pytest.fixture(scope="module")
def emit(trained: Trained, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Emit:
    """Emits each form of the model once; gives the package."""

    @cache
    def emitted(size: tuple[int, int] = SMALL, **options: bool) -> Path:
        folder = tmp_path_factory.mktemp("coreml") / "artifact"
        photos = sorted((shapes / "images" / "train").iterdir())[:8] if "int8_activations" in options else ()
        return folder / trained.emit("coreml", folder, size, calibration=photos, **options).model

    return emitted


@pytest.fixture(scope="module")
def known(shapes: Path) -> Case:
    """Photographs that the network was trained on, so that it finds something."""
    (case,) = cases(sorted((shapes / "images" / "train").iterdir())[:4], SMALL, dynamic=False)
    return case


def by_case(case: Case, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{case.name}.{name}": value for name, value in outputs.items()}


def opened(package: Path) -> Model:
    return open_here("coreml", package)


def evaluated(package: Path, case: Case) -> dict[str, np.ndarray]:
    model = opened(package)
    runs = [model.run(image[None]) for image in case.images]
    return by_case(case, {name: np.concatenate([run[name] for run in runs]) for name in runs[0]})


@pytest.mark.parametrize("size", [SMALL, (224, 416)])
def test_a_model_agrees_with_torch(size: tuple[int, int], reference: TorchSession, emit: Emit, shapes: Path) -> None:
    (case,) = cases(sorted((shapes / "images" / "train").iterdir())[:2], size, dynamic=False)
    result = compare([case], by_case(case, reference.run(case.images)), evaluated(emit(size), case), "fp32", 2)
    assert result.passed, result.faults()
    assert result.detections.matched >= 2


@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("fp16", {"half": True}),
        ("weight-only-int8", {"int8": True}),
        ("weight-only-int8", {"half": True, "int8": True}),
        ("int8", {"int8_activations": True}),
        ("int8", {"half": True, "int8_activations": True}),
        ("fp32", {"nms": True}),
        ("fp32", {"nms": True, "masks": True, "max_det": 300}),
        ("fp16", {"nms": True, "half": True}),
        ("weight-only-int8", {"nms": True, "half": True, "int8": True}),
    ],
    ids=str,
)
def test_every_form_finds_what_torch_finds(
    precision: str, options: dict[str, bool], reference: TorchSession, emit: Emit, known: Case
) -> None:
    package = emit(**options)
    metadata = opened(package).metadata
    layout = "masks" if "masks" in options else "detections" if "nms" in options else "named"
    assert (metadata.precision, metadata.layout) == (precision, layout)
    given = THRESHOLDS if "nms" in options else None
    expected = by_case(known, reference.run(known.images))
    result = compare([known], expected, evaluated(package, known), precision, len(known.images), given)
    assert result.passed, result.faults()
    found = result.detections
    assert found.reference == found.artifact == found.matched >= 10
    assert (found.box_iou or 0) > 0.9


def test_pixels_reach_the_program_as_the_whole_numbers_they_are(emit: Emit, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(emit())
    seen: list[np.ndarray] = []
    monkeypatch.setattr(Program, "run", lambda _, image: seen.append(image))
    pixels = np.arange(256, dtype=np.float32)
    model.raw(pixels / np.float32(255))
    np.testing.assert_array_equal(seen[0], pixels)


def test_half_precision_leaves_the_decoding_alone(emit: Emit) -> None:
    steps = Program(emit(half=True))._steps
    kinds = {(step.kind, result.dtype.name) for step in steps for result in step.results}
    assert {kind for kind, dtype in kinds if dtype == "float16"} >= {"conv", "silu", "conv_transpose", "max_pool"}
    for kind in ("conv", "silu", "conv_transpose", "max_pool", "upsample_nearest_neighbor"):
        assert (kind, "float32") not in kinds
    for kind in ("softmax", "sigmoid", "reduce_sum", "sub"):
        assert (kind, "float16") not in kinds
    made = {result.name: result.dtype.name for step in steps for result in step.results}
    assert {made[name] for name in OUTPUTS} == {"float32"}


def test_every_convolution_reads_rounded_values_where_that_is_asked_for(emit: Emit) -> None:
    program = Program(emit(int8_activations=True))
    makers = {result.name: step for step in program._steps for result in step.results}

    def source(name: str) -> str:
        """What made a value that may have been moved since."""
        step = makers[name]
        moved = step.inputs.get("values", [step.inputs.get("x")])
        return (
            source(moved[0]) if step.kind in {"concat", "split", "max_pool", "upsample_nearest_neighbor"} else step.kind
        )

    read = [source(step.inputs["x"]) for step in program._steps if step.kind in {"conv", "conv_transpose"}]
    assert len(read) > 50
    assert set(read) == {"dequantize"}


def test_weights_take_the_bytes_of_their_precision(emit: Emit, trained: Trained) -> None:
    plain, half, int8 = (
        (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
        for package in (emit(), emit(half=True), emit(int8=True))
    )
    count = sum(value.size for value in trained.weights.values())
    assert 0.98 < plain / (4 * count) < 1.05
    assert 0.48 < half / plain < 0.55
    assert 0.24 < int8 / plain < 0.32


def test_the_same_input_gives_the_same_bytes_in_every_process(emit_twice: EmitTwice) -> None:
    made = emit_twice("coreml", (64, 96), nms=True, half=True, int8=True)
    assert len([name for name in made if name.startswith("photos.mlpackage/")]) == 3


APPLES_READER = """
import json, sys
from segc.targets.coreml.tools import coremltools as ct
model = ct.models.MLModel(sys.argv[1], skip_model_load=True)
spec = model.get_spec()
from coremltools.converters.mil.frontend.milproto.load import load
program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)
kinds = [operation.op_type for operation in program.functions["main"].operations]
(image,), outputs = spec.description.input, spec.description.output
told = {
    "version": spec.specificationVersion,
    "image": [image.name, image.type.imageType.width, image.type.imageType.height, image.type.imageType.colorSpace],
    "outputs": {o.name: [list(o.type.multiArrayType.shape), o.type.multiArrayType.dataType] for o in outputs},
    "described": all(f.shortDescription for f in (image, *outputs)),
    "about": [model.short_description, model.author],
    "user": dict(model.user_defined_metadata),
    "convolutions": kinds.count("conv") + kinds.count("conv_transpose"),
    "quantised": kinds.count("constexpr_affine_dequantize"),
    "loaded": sorted({"tensorflow", "torch", "sklearn"} & set(sys.modules)),
}
import torch
print(json.dumps(told))
"""


@pytest.mark.parametrize("options", [{}, {"nms": True, "half": True, "int8": True}], ids=str)
def test_apples_own_reader_takes_the_program_and_sees_what_it_is(
    options: dict[str, bool], emit: Emit, trained: Trained
) -> None:
    package = emit((224, 416), **options)
    command = [sys.executable, "-c", APPLES_READER, str(package)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert told["image"] == ["image", 416, 224, 20]
    assert told["version"] == (7 if options else 6)
    anchors, float32 = 28 * 52 + 14 * 26 + 7 * 13, 65568
    named = {"boxes": [1, anchors, 4], "scores": [1, anchors, 6], "coefficients": [1, anchors, 32]}
    left = {"boxes": [1, 300, 4], "scores": [1, 300], "classes": [1, 300], "coefficients": [1, 300, 32]}
    shapes = (left if options else named) | {"prototypes": [1, 32, 56, 104]}
    assert told["outputs"] == {name: [shape, float32] for name, shape in shapes.items()}
    assert told["described"]
    assert told["about"] == ["Instance segmentation, 6 classes, 416 x 224 pixels", "segc 0"]
    assert set(told["user"]) == {"segc", "names", "com.github.apple.coremltools.version"}
    assert json.loads(told["user"]["segc"])["names"] == list(trained.names)
    assert told["convolutions"] == 72
    assert told["quantised"] == (72 if options else 0)
    assert told["loaded"] == []


def test_every_operator_is_lowered() -> None:
    assert set(OPERATORS) - set(LOWERINGS) == {"anchor_points"}  # constants by then


VALUES, CLASSES = 12, 3
"""Values an anchor in the graph below: two corners, two sides, three classes, five coefficients."""


class Suppressing:
    """A program that takes boxes, scores and coefficients from its image's pixels and suppresses."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, conf: float, iou: float, max_det: int, images: np.ndarray) -> tuple[dict[str, Any], Any]:
        """The program's outputs for an image, and what the operator means."""
        b = GraphBuilder("boxes")
        rows = b.op("reshape", [b.input("images", images.shape)], "rows", shape=(0, -1, VALUES))
        sizes = (2, 2, CLASSES, 5)
        corner, sides, scores, coefficients = b.node(
            "split", [rows], "split", attributes={"axis": 2, "sizes": sizes},
            outputs=["corner", "sides", "scores", "coefficients"],
        )  # fmt: skip
        boxes = b.op("concat", [corner, b.op("add", [corner, sides], "far")], "corners", axis=2, output="boxes")
        prototypes = b.op("sigmoid", ["images"], "sigmoid", output="prototypes")
        names = (boxes, scores, coefficients, prototypes)
        folder = self._root / f"{conf}-{iou}-{max_det}"
        folder.mkdir()
        (folder / "graph.json").write_text(write_graph(b.build(names, {"raw_outputs": names})))
        save_arrays(folder / "weights.safetensors", {})
        size = images.shape[2], images.shape[3]
        metadata = Metadata(("a", "b", "c"), size, layout="detections", conf=conf, iou=iou, max_det=max_det)
        task = EmitTask(
            target="coreml",
            graph=str(folder / "graph.json"),
            weights=str(folder / "weights.safetensors"),
            options={"format": "coreml", "nms": True},
            metadata=metadata.to_json(),
            stem="boxes",
            folder=str(folder),
        )
        with Worker("the coreml emitter", threads=1) as worker:
            worker.start("emit", task, 300)
            model = opened(folder / worker.result()["model"])
        values = (images * np.float32(255) * np.float32(1 / 255)).reshape(1, -1, VALUES)
        near, extent, given, weights = np.split(values, np.cumsum(sizes)[:-1], axis=2)
        # So large that moving classes apart, which is done elsewhere, rounds nothing.
        boxes = np.concatenate([near, near + extent], 2) * np.float32(4096)
        wanted = list(suppressed(boxes, given, weights, conf=conf, iou=iou, max_det=max_det))
        wanted[0] = wanted[0] / np.float32(4096)
        return model.raw(images), dict(zip(("boxes", "scores", "classes", "coefficients"), wanted, strict=True))


@pytest.mark.parametrize(
    ("conf", "iou", "max_det", "least"),
    [(0.25, 0.5, 200, 20), (0.0, 0.3, 5, 5), (0.6, 0.01, 60, 3), (0.5, 0.99, 200, 100), (0.9999, 0.5, 3, 0)],
)
def test_suppression_in_the_program_is_what_the_operator_means(
    conf: float, iou: float, max_det: int, least: int, tmp_path: Path
) -> None:
    images = np.random.default_rng(3).random((1, 3, 32, 32), np.float32)
    ours, wanted = Suppressing(tmp_path)(conf, iou, max_det, images)
    assert np.count_nonzero(wanted["scores"]) >= least
    for name, values in wanted.items():
        np.testing.assert_allclose(ours[name], values, atol=1e-6)


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> type:
    """Core ML as its Python interface has it: a picture in, arrays by name out."""

    class MLModel:
        changes: Callable[[Any], object] | None = None
        units = ""

        def __init__(self, path: str, compute_units: str) -> None:
            MLModel.units = compute_units
            self._path, self._program = Path(path), Program(Path(path))
            self.user_defined_metadata = self._program.user_metadata

        def get_spec(self) -> Any:
            spec, _ = read_model(self._path)
            if MLModel.changes:
                MLModel.changes(spec.description)
            return spec

        def predict(self, given: dict[str, Any]) -> dict[str, np.ndarray]:
            ((name, picture),) = given.items()
            assert (name, picture.mode, picture.size) == ("image", "RGB", SMALL[::-1])
            return self._program.run(np.asarray(picture, np.float32).transpose(2, 0, 1)[None])

    fake = SimpleNamespace(
        models=SimpleNamespace(MLModel=MLModel), ComputeUnit={unit: unit for unit in runtime.UNITS.values()}
    )
    monkeypatch.setattr(runtime, "load_coremltools", lambda: fake)
    monkeypatch.setattr(runtime, "sys", SimpleNamespace(platform="darwin"))
    return MLModel


def test_on_a_mac_core_ml_itself_is_asked(emit: Emit, known: Case, apple: Any) -> None:
    package = emit()
    model, stand_in = runtime.open_model(package, 1), opened(package)
    assert model.metadata == stand_in.metadata
    assert (model.runtime, apple.units) == ("Core ML through coremltools, on ALL", "ALL")
    ours, theirs = model.run(known.images[:1]), stand_in.run(known.images[:1])
    for name in OUTPUTS:
        np.testing.assert_array_equal(ours[name], theirs[name])


def _smaller(description: Any) -> None:
    description.input[0].type.imageType.width = 64


def _with_another_output(description: Any) -> None:
    description.output[0].name = "more"


def _with_two_inputs(description: Any) -> None:
    description.input.add().CopyFrom(description.input[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_smaller, r"its input is \[1, 3, 160, 64\], and its metadata speak of \[1, 3, 160, 160\]"),
        (_with_another_output, "its outputs are '.*more"),
        (_with_two_inputs, "it has 2 inputs"),
    ],
)
def test_on_a_mac_a_model_of_another_form_than_its_metadata_say_is_refused(
    change: Callable[[Any], None], message: str, emit: Emit, apple: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apple, "changes", staticmethod(change))
    with pytest.raises(ModelError, match=message):
        runtime.open_model(emit(), 1)


def test_on_a_mac_what_core_ml_says_is_told_in_one_line(
    emit: Emit, apple: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("compiler error:\nmore")

    monkeypatch.setattr(apple, "predict", broken)
    model = runtime.open_model(emit(), 1)
    with pytest.raises(ModelError, match=r"^Core ML cannot run it: compiler error:$"):
        model.run(np.zeros((1, 3, *SMALL), np.float32))
    monkeypatch.setattr(apple, "__init__", broken)
    with pytest.raises(ModelError, match=r"^Core ML cannot load it: compiler error:$"):
        runtime.open_model(emit(), 1)
    with pytest.raises(ModelError, match="no such model"):
        runtime.open_model(tmp_path / "m.mlpackage", 1)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is here")
def test_elsewhere_the_runtime_says_where_it_runs(emit: Emit) -> None:
    with pytest.raises(ModelError, match=r"Core ML runs on macOS only: elsewhere `segc predict --artifact`"):
        runtime.open_model(emit(), 1)


def test_what_ran_is_said_and_no_more(emit: Emit) -> None:
    assert "Apple's runtime was not involved" in opened(emit()).runtime
    if sys.platform != "darwin":
        (remark,) = targets()["coreml"].remarks()
        assert "Apple's runtime is not involved" in remark


def test_named_outputs_of_detections_hold_one_class_a_row(emit: Emit, known: Case) -> None:
    model = opened(emit(nms=True))
    raw = model.raw(known.images[:1])
    named = named_outputs(raw, model.metadata, 1)
    count = int(np.count_nonzero(raw["scores"]))
    assert count >= 1
    assert (named["scores"] > 0).sum() == count
    np.testing.assert_array_equal(named["scores"][0, :count].argmax(axis=1), raw["classes"][0, :count])

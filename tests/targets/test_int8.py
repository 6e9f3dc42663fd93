"""int8 by the pass of our own: every runtime finds what PyTorch finds, and computes in integers where that is said."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from segc.diagnostics import SegcError
from segc.emission.verify import OUTPUTS, Case, compare
from segc.targets.registry import targets
from tests.targets.conftest import Trained, agrees, open_here

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segc.graph.passes.ranges import Observation
    from segc.network.session import TorchSession

SIZE = (160, 160)

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "onnx": ("onnx", {}),
    "onnx for tensorrt": ("onnx", {"deployment": "tensorrt"}),
    "onnx dynamic": ("onnx", {"dynamic": True}),
    "onnx simplified": ("onnx", {"simplify": True, "opset": 13}),
    "openvino": ("openvino", {}),
    "ncnn": ("ncnn", {}),
}


@pytest.fixture(scope="module")
def pictures(photographs: np.ndarray) -> np.ndarray:
    """Twelve of the pictures: [12, 3, 160, 160]."""
    rows = (photographs[0, :, top : top + 160] for top in (0, 160, 320))
    return np.concatenate([row.reshape(3, 160, 4, 160).transpose(2, 0, 1, 3) for row in rows])


@pytest.fixture(scope="module")
def observations(trained: Trained, pictures: np.ndarray) -> Mapping[str, Observation]:
    from segc.network.observing import observe

    return observe(trained.graph(SIZE), trained.weights, pictures)


def emitted(trained: Trained, form: str, folder: Path, seen: Mapping[str, Observation], **more: Any) -> Path:
    target, options = FORMS[form]
    request = trained.request(target, folder, SIZE, int8=True, **options, **more)
    return folder / targets()[target].make(replace(request, observations=seen)).model


@pytest.mark.parametrize("form", FORMS)
def test_the_runtime_finds_in_integers_what_pytorch_finds(
    form: str,
    trained: Trained,
    observations: Mapping[str, Observation],
    reference: TorchSession,
    pictures: np.ndarray,
    tmp_path: Path,
) -> None:
    model = open_here(FORMS[form][0], emitted(trained, form, tmp_path, observations))
    ours = [model.run(image[None]) for image in pictures]
    made = {f"fixed.{name}": np.concatenate([one[name] for one in ours]) for name in OUTPUTS}
    theirs = {f"fixed.{name}": value for name, value in reference.run(pictures).items()}
    parity = compare([Case("fixed", pictures)], theirs, made, "int8", len(pictures))
    assert parity.judged
    assert parity.passed, parity
    assert np.abs(made["fixed.scores"] - theirs["fixed.scores"]).max() > 1e-4, "it does not compute in integers"


@pytest.mark.parametrize("form", ["onnx", "openvino", "ncnn"])
def test_with_all_scopes_kept_in_float_nothing_is_rounded(
    form: str,
    trained: Trained,
    observations: Mapping[str, Observation],
    reference: TorchSession,
    pictures: np.ndarray,
    tmp_path: Path,
) -> None:
    model = emitted(trained, form, tmp_path, observations, keep_float=["model"])
    agrees(open_here(FORMS[form][0], model), reference, pictures[:1])


def test_every_integer_convolution_of_onnxruntime_stands_between_integers(
    trained: Trained, observations: Mapping[str, Observation], tmp_path: Path
) -> None:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    path = emitted(trained, "onnx", tmp_path, observations)
    onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    written = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert kinds["QLinearConv"] == written["Conv"]
    assert not {"Conv", "FusedConv"} & {*kinds}


def test_scales_of_whole_tensors_are_scalars_as_onnx_has_them(
    trained: Trained, observations: Mapping[str, Observation], tmp_path: Path
) -> None:
    # onnxruntime before 1.32 loads no other ones.
    graph = onnx.load(emitted(trained, "onnx", tmp_path, observations)).graph
    ranks = {one.name: len(one.dims) for one in graph.initializer}
    rounded = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert rounded
    assert {ranks[name] for node in rounded for name in node.input[1:]} == {0}


def test_a_scope_that_holds_nothing_in_integers_is_an_error(
    trained: Trained, observations: Mapping[str, Observation], tmp_path: Path
) -> None:
    with pytest.raises(SegcError) as error:
        emitted(trained, "onnx", tmp_path, observations, keep_float=["model.33", "model.0"])
    (problem,) = error.value.diagnostics
    assert (problem.code, "`model.33`" in problem.message) == ("T014", True)


def test_weights_alone_in_integers_are_a_quarter_of_the_file(trained: Trained, tmp_path: Path) -> None:
    sizes = []
    for name, options in (("floats", {}), ("integers", {"int8_weights": True})):
        model = trained.model_here("openvino", tmp_path / name, SIZE, **options)
        sizes.append(next(model.glob("*.bin")).stat().st_size)
    assert sizes[1] < 0.4 * sizes[0]

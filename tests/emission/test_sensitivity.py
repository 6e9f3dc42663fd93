"""Scopes are ranked by the error that eight bits bring there, and the worst stay in float where that is needed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from segc.cli import run
from segc.emission.sensitivity import MOST_KEPT, rank, steps, too_large
from segc.spec.load import load_project

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.targets.conftest import Trained

SIZE = (160, 160)


def strained(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of which one scope bears eight bits badly: a channel that it reads is a thousand times the others."""
    values = {name: value.copy() for name, value in weights.items()}
    values["model.22.cv2.0.0.bn.weight"][3] *= 1000
    values["model.22.cv2.0.0.bn.bias"][3] = 1000
    values["model.22.cv2.0.1.conv.weight"][:, 3] = 0
    return values


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_the_scope_that_bears_eight_bits_badly_comes_first(
    target: str, trained: Trained, photographs: np.ndarray
) -> None:
    from segc.network.observing import observe
    from segc.network.session import TorchSession
    from segc.targets.registry import targets

    graph, weights = trained.graph(SIZE), strained(trained.weights)
    images = np.ascontiguousarray(photographs[:, :, :160, :160])
    options = targets()[target].options.model_validate({"format": target, "int8": True})
    scheme = targets()[target].scheme(options)
    assert scheme is not None
    metadata = trained.metadata(SIZE)
    ranking = rank(
        graph,
        weights,
        observe(graph, weights, images),
        scheme,
        "min-max",
        lambda made, values: TorchSession(made, values, metadata).run(images),
    )
    worst = ranking[0]
    assert worst.scope in {"model.22.cv2.0.0", "model.22.cv2.0.1"}
    assert worst.error > 3 * ranking[2].error
    assert max(worst.outputs, key=worst.outputs.__getitem__) == "boxes"
    assert {"model.0", "model.22.proto.cv2"} <= {one.scope for one in ranking}
    assert 0.5 < sum(one.arithmetic for one in ranking) <= 1
    first = next(one for one in ranking if one.scope == "model.0")
    assert first.bytes == 3 * weights["model.0.conv.weight"].size


def ranked(*shares: float) -> list[dict[str, Any]]:
    return [{"scope": f"s{n}", "arithmetic": share, "error": 1 / (n + 1)} for n, share in enumerate(shares)]


def test_one_scope_is_kept_then_two_then_four_within_a_share_of_the_arithmetic() -> None:
    tried = list(steps(ranked(0.2, 0.4, 0.1, 0.1, 0.02, 0.4)))
    assert [[one["scope"] for one in step] for step in tried] == [["s0"], ["s0", "s2"], ["s0", "s2", "s3", "s4"]]
    assert all(sum(one["arithmetic"] for one in step) <= MOST_KEPT for step in tried)
    assert [len(step) for step in steps(ranked(*[0.001] * 40))] == [1, 2, 4, 8]
    assert list(steps(ranked(0.6))) == []
    assert too_large(ranked(0.2, 0.4, 0.1, 0.1, 0.02, 0.4), tried[-1]) == ["s1"]


@pytest.mark.slow
def test_where_int8_loses_too_much_the_worst_scopes_stay_in_float_and_that_is_said(
    project: Path, shapes_weights: Path, tmp_path: Path
) -> None:
    from segc.emission.project import emit_project, rank_project
    from segc.weights.store import load_weights, save_weights

    known = load_weights(shapes_weights)
    save_weights(tmp_path / "strained.safetensors", strained(known.tensors), known.metadata)
    asked = "{format: openvino, int8: true, accept: {images: 16}}"
    loaded = load_project(project, (f"targets.0={asked}", "calibration={method: min-max}"))
    build, weights = tmp_path / "build", tmp_path / "strained.safetensors"
    (emission,) = emit_project(loaded, build, weights=weights)
    assert emission.status == "verified", emission
    assert emission.folder is not None
    described = json.loads((emission.folder / "artifact.json").read_bytes())
    assert described["options"]["keep_float"] == "auto"
    assert described["accuracy"]["passed"] is True
    first, *more = described["kept_float"]["tried"]
    assert first["scopes"] == []
    assert more[0]["scopes"][0] in {"model.22.cv2.0.0", "model.22.cv2.0.1"}
    assert more[-1]["box_map50_95"] > first["box_map50_95"] + 0.01
    (told,) = (note for note in emission.notes if note.startswith("kept in float"))
    assert f"{more[-1]['scopes'][0]}" in told
    assert any("ms an image in place of" in note for note in emission.notes)
    assert not any("ms an image" in note for note in described["notes"])
    (ranking,) = rank_project(loaded, build, weights=weights).values()
    assert ranking == described["kept_float"]["ranking"]
    kept = json.loads((build / "sensitivity" / "openvino-int8.json").read_bytes())
    assert kept["scopes"] == ranking


@pytest.mark.parametrize("asked", ["{format: onnx}", "{format: tflite, int8_weights: true}"])
def test_what_segc_does_not_round_is_not_ranked(asked: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["emit", str(project), "--sensitivity", "--set", f"targets.0={asked}"]) == 1
    said = capsys.readouterr().err
    assert "X210" in said
    assert "they are for onnx, openvino, tensorrt, coreml, tflite, edgetpu, ncnn with `int8: true`" in said
    assert not list(project.parent.glob("build/sensitivity/*"))


@pytest.mark.parametrize("value", ["auto", "false", "[model.22.*]"])
def test_scopes_are_kept_by_name_or_as_is_needed_or_never(value: str, project: Path) -> None:
    (options,) = load_project(
        project, (f"targets.0={{format: onnx, int8: true, keep_float: {value}}}",)
    ).project.targets
    assert getattr(options, "kept", None) == (("model.22.*",) if value.startswith("[") else ())


@pytest.mark.parametrize("value", ["true", "none", "[1]"])
def test_another_word_is_refused(value: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", str(project), "--set", f"targets.0={{format: onnx, int8: true, keep_float: {value}}}"]) == 1
    assert "keep_float" in capsys.readouterr().out

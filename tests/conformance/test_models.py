"""Every target, option and scale: what is legal is emitted and verified, what is not is refused in words."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import pytest

from segc.diagnostics import SegcError
from segc.emission.project import emit_project
from segc.spec.load import load_project
from segc.targets.contract import TargetOptions
from segc.targets.registry import refusals, targets
from segc.targets.suppression import SuppressionOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Settings = dict[str, Any]

REFUSED: dict[str, list[tuple[Settings, str]]] = {
    "torchscript": [({"half": True, "optimize": True}, "leave one of the two out")],
    "onnx": [
        ({"dynamic": True, "batch": 3}, "a dynamic model takes every batch size"),
        ({"nms": True, "masks": True, "layout": "fused"}, "masks go with named"),
        ({"nms": True, "masks": True, "dynamic": True}, "finished masks of a free size take unbounded memory"),
        ({"nms": True, "masks": True, "max_det": 5000}, "5000 finished masks at 96x160 take 307 MB a run: max_det of"),
        ({"half": True, "int8": True}, "half and int8 exclude each other"),
        ({"int8": True, "opset": 12}, "opset 13 is the first"),
        ({"deployment": "tensorrt", "int8": False}, "only int8 models differ by where they run"),
        ({"nms": True, "deployment": "tensorrt"}, "only int8 models differ by where they run"),
    ],
    "openvino": [
        ({"nms": True, "masks": True, "dynamic": True}, "finished masks of a free size take unbounded"),
        ({"half": True, "int8": True}, "half and int8 exclude each other"),
        ({"int8_weights": True, "int8": True}, "int8 says how weights are stored"),
        ({"int8_weights": True, "half": True}, "half says how weights are stored"),
    ],
    "coreml": [({"nms": True, "int8_activations": True}, "nms and int8_activations exclude each other")],
    "tensorrt": [
        ({"half": True, "int8": True}, "half and int8 exclude each other"),
        ({"nms": True, "masks": True, "dynamic": True}, "finished masks of a free size take unbounded"),
    ],
    "saved_model": [({"nms": True, "keras": True}, "Keras's layers do not suppress")],
    "tflite": [
        ({"half": True, "int8": True}, "half and int8 exclude each other"),
        ({"int8_weights": True, "int8": True}, "int8 says how weights are stored"),
        ({"int8_weights": True, "half": True}, "half says how weights are stored"),
    ],
    "ncnn": [({"half": True, "int8": True}, "half and int8 exclude each other")],
}
"""By target: settings that cannot go together, and a part of what is said of them."""

ELSEWHERE: dict[str, list[tuple[Settings, str]]] = {
    "torchscript": [({"optimize": True}, "has no XNNPACK")],
}
"""Likewise, legal settings that the packages tested here cannot carry out."""

EXTREMES: dict[str, list[Settings]] = {
    "onnx": [{"opset": 11}, {"opset": 22}, {"batch": 3}, {"batch": 3, "layout": "fused"}],
}
"""Settings that are numbers, at their ends."""

SIZE = "[96, 160]"
"""Neither square nor a size that anything was trained at."""

SMALL = "{depth: 0.1, width: 0.125, max_channels: 128}"
"""The scale of the trained network that the tests ship with."""


def choices(annotation: Any) -> tuple[Any, ...]:
    """All values of a setting that has few; empty for one that has many."""
    if annotation is bool:
        return (False, True)
    return get_args(annotation) if get_origin(annotation) is Literal else ()


SUPPRESSION: list[Settings] = [{"nms": True}, {"nms": True, "agnostic": True}, {"nms": True, "masks": True}]
"""Where a target suppresses in the graph: how."""

ALONE: list[Settings] = [{"conf": 0.0}, {"iou": 0.5}, {"max_det": 9}, {"agnostic": True}, {"masks": True}]
"""Settings that say nothing without it."""


def combinations(target: str) -> Iterator[Settings]:
    """Every combination of the settings that have few values; with suppression in the graph, each of them by itself."""
    model = targets()[target].options
    shared = SuppressionOptions.model_fields if issubclass(model, SuppressionOptions) else TargetOptions.model_fields
    few = {name: choices(field.annotation) for name, field in model.model_fields.items() if name not in shared}
    few = {name: values for name, values in few.items() if values}
    for values in product(*few.values()):
        yield dict(zip(few, values, strict=True))
    if issubclass(model, SuppressionOptions):
        own = [{}, *({name: value} for name, values in few.items() for value in values[1:])]
        yield from ({**way, **setting} for way in SUPPRESSION for setting in own)


def options(target: str, settings: Settings) -> TargetOptions:
    return targets()[target].options.model_validate({"format": target, **settings})


def said_of(table: dict[str, list[tuple[Settings, str]]], target: str, settings: Settings) -> str | None:
    """What a table says of a combination: of the first settings there that it contains."""
    return next((text for part, text in table.get(target, []) if part.items() <= settings.items()), None)


@pytest.mark.parametrize("target", targets())
def test_a_combination_is_refused_where_the_table_says_so_and_nowhere_else(target: str) -> None:
    for settings in [*combinations(target), *EXTREMES.get(target, []), *(part for part, _ in REFUSED.get(target, []))]:
        wanted = said_of(REFUSED, target, settings)
        messages = [message for _, message in refusals(options(target, settings), (96, 160))]
        assert bool(messages) == (wanted is not None), settings
        if wanted is not None:
            assert any(wanted in message for message in messages), settings


@pytest.mark.parametrize("settings", ALONE, ids=str)
@pytest.mark.parametrize("target", [n for n, t in targets().items() if issubclass(t.options, SuppressionOptions)])
def test_what_says_something_of_suppression_goes_with_it(target: str, settings: Settings) -> None:
    ((path, message),) = refusals(options(target, settings), (96, 160))
    assert path == tuple(settings)
    assert "add nms: true, or leave it out" in message


def rounds() -> list[list[tuple[str, Settings]]]:
    """All legal combinations, in rounds that have each target once at most."""
    by_target = {
        target: [
            settings
            for settings in [*combinations(target), *EXTREMES.get(target, [])]
            if said_of(REFUSED, target, settings) is None
        ]
        for target in targets()
    }
    longest = max(map(len, by_target.values()))
    return [
        [(target, found[number]) for target, found in by_target.items() if number < len(found)]
        for number in range(longest)
    ]


PROJECT = """\
version: 1
name: photos
architecture: {{family: yolov8-seg, scale: {scale}, weights: '{weights}'}}
dataset: {{data: '{shapes}/data.yaml', train: images/train, val: images/train, path: '{shapes}'}}
hyperparameters: {{imgsz: {size}}}
targets: [{targets}]
"""


def flow(settings: Settings) -> str:
    """Settings in YAML."""
    return "{" + ", ".join(f"{name}: {str(value).lower()}" for name, value in settings.items()) + "}"


def emit(folder: Path, wanted: list[tuple[str, Settings]], **values: object) -> list[str]:
    """What went wrong with each of the targets, emitted together."""
    path = folder / "project.yaml"
    # Networks that were never trained at this size, or at all: what counts is that values agree.
    entries = ", ".join(flow({"format": target, "accept": False, **settings}) for target, settings in wanted)
    path.write_text(PROJECT.format(targets=entries, **values))
    done = emit_project(load_project(path), folder / "build")
    return [f"{e.target}: {d.message}" for e in done for d in e.diagnostics]


def present(wanted: list[tuple[str, Settings]]) -> list[tuple[str, Settings]]:
    """Those of the targets that this machine can emit and run."""
    return [
        (name, s)
        for name, s in wanted
        if not (targets()[name].environment(options(name, s)) or targets()[name].run_environment())
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(rounds())))
def test_every_legal_combination_is_emitted_and_verified(
    number: int, shapes: Path, shapes_weights: Path, tmp_path: Path
) -> None:
    wanted = present(rounds()[number])
    values = {"scale": SMALL, "weights": shapes_weights, "shapes": shapes, "size": SIZE}
    expected = [text for target, settings in wanted if (text := said_of(ELSEWHERE, target, settings))]
    problems = emit(tmp_path, wanted, **values)
    assert len(problems) == len(expected), problems
    for problem, text in zip(problems, expected, strict=True):
        assert text in problem


def conditioned_weights(scale: str, path: Path, shapes: Path) -> None:
    """Seeded weights whose batch norms know the network's own activations on photographs.

    Without that, random values grow or vanish from layer to layer, and no comparison of them says anything. And the
    batch norms put activations where SiLU is nearly straight: where it bends, a random network this deep magnifies
    rounding, that of scale x more than a hundredfold.
    """
    import torch

    from segc.architectures.yolov8_seg import SCALES, build
    from segc.emission.verify import cases
    from segc.network.initialise import initial_weights
    from segc.network.lower import load_weights, lower, to_numpy
    from segc.weights.resolve import network_metadata
    from segc.weights.store import save_weights

    graph = build(SCALES[scale], 6, (96, 160))
    network = lower(graph)
    load_weights(network, initial_weights(graph.parameters, 0))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.constant_(module.weight, 0.5)
            torch.nn.init.constant_(module.bias, 2.0)
    (case,) = cases(sorted((shapes / "images" / "train").iterdir())[:8], (96, 160), dynamic=False)
    with torch.no_grad():
        network.train()(torch.from_numpy(case.images))
    save_weights(path, to_numpy(network), network_metadata(graph, scale, None))


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["s", "m", "l", "x"])
def test_every_scale_is_emitted_and_verified(scale: str, shapes: Path, tmp_path: Path) -> None:
    conditioned_weights(scale, tmp_path / "w.safetensors", shapes)
    wanted = present([(target, {}) for target in targets()])
    values = {"scale": scale, "weights": tmp_path / "w.safetensors", "shapes": shapes, "size": SIZE}
    assert emit(tmp_path, wanted, **values) == []


@pytest.mark.parametrize("target", targets())
def test_options_that_a_target_does_not_have_cannot_be_given(target: str) -> None:
    with pytest.raises(ValueError, match="extra_forbidden"):
        options(target, {"telepathy": True})


def test_a_refusal_is_told_with_its_place(shapes: Path, shapes_weights: Path, tmp_path: Path) -> None:
    values = {"scale": SMALL, "weights": shapes_weights, "shapes": shapes, "size": SIZE}
    with pytest.raises(SegcError, match="X210: onnx: a dynamic model takes every batch size"):
        emit(tmp_path, [("onnx", {"dynamic": True, "batch": 2})], **values)

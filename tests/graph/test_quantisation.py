"""The passes for eight-bit integers change where values are joined and scaled, not what comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from segc.architectures.yolov8_seg import SCALES, build
from segc.graph.passes import fixed_anchors, fold_batch_norm
from segc.graph.passes.quantisation import levels_apart, normalized_boxes
from segc.graph.serial import check
from segc.inference.metadata import Metadata
from segc.network.initialise import initial_weights
from segc.targets.onnx import OnnxOptions
from segc.targets.onnx.lowering import lower

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segc.graph.ir import Graph

SIZES = [(64, 64), (96, 160)]


def run(graph: Graph, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime

    check(graph)
    assert set(weights) == set(graph.parameters)
    content = lower(graph, weights, OnnxOptions(format="onnx"), Metadata(("a",), (32, 32)))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).random(graph.tensors["images"].shape, np.float32)
    return dict(zip(graph.outputs, session.run(list(graph.outputs), {"images": images}), strict=True))


def fixed(size: tuple[int, int]) -> tuple[Graph, dict[str, np.ndarray]]:
    graph = build(SCALES["n"], 3, size)
    return fixed_anchors(*fold_batch_norm(graph, initial_weights(graph.parameters, 0)))


@pytest.mark.parametrize("size", SIZES)
def test_joining_the_levels_last_changes_no_value(size: tuple[int, int]) -> None:
    plain = fixed(size)
    apart = levels_apart(*plain)
    ours, theirs = run(*apart), run(*plain)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


def test_every_level_is_decoded_by_itself_and_joined_where_it_leaves() -> None:
    graph, _ = levels_apart(*fixed((64, 64)))
    decoding = [node for node in graph.nodes if node.region == "decode"]
    assert sum(node.op == "softmax" for node in decoding) == 3
    assert sum(node.op == "sigmoid" for node in decoding) == 3
    joins = [node.outputs[0] for node in graph.nodes if node.op == "concat" and node.attributes["axis"] == 1]
    assert {"boxes", "scores", "coefficients"} <= set(joins)
    assert not {"box_logits", "class_logits"} & set(joins)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_normalised_boxes_are_the_boxes_over_the_size_of_the_image(size: tuple[int, int], apart: bool) -> None:
    plain = fixed(size)
    graph, weights = normalized_boxes(*(levels_apart(*plain) if apart else plain))
    ours, theirs = run(graph, weights), run(*plain)
    height, width = size
    np.testing.assert_allclose(ours["boxes"] * [width, height, width, height], theirs["boxes"], atol=1e-4)
    for name in ("scores", "coefficients", "prototypes"):
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_only_the_distances_are_multiplied_when_the_model_runs() -> None:
    graph, _ = normalized_boxes(*levels_apart(*fixed((64, 64))))
    corners = graph.metadata["corners"]
    assert len(corners) == 6
    assert {node.op for node in graph.nodes if node.outputs[0] in corners} == {"add", "sub"}
    later = graph.nodes[[node.outputs[0] for node in graph.nodes].index(corners[-1]) :]
    assert "mul" not in {node.op for node in later if node.region == "decode"}


def test_a_graph_without_boxes_stays_as_it_is() -> None:
    from tests.conformance.operators import build_recipe

    graph = build_recipe("conv2d 1x1")
    weights = initial_weights(graph.parameters, 0)
    assert normalized_boxes(graph, weights) == (graph, weights)

"""What a graph that suppresses by itself means is what happens to the outputs of one that does not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segc.architectures.yolov8_seg import SCALES, build
from segc.graph.ir import Graph
from segc.graph.passes import append_suppression, fold_batch_norm, training_form
from segc.graph.passes.suppression import suppression
from segc.graph.serial import check, read_graph, write_graph
from segc.inference.postprocess import detections
from segc.network.initialise import initial_weights


@pytest.fixture(scope="module")
def graph() -> Graph:
    return build(SCALES["n"], 3, (64, 96), 2)


def test_suppression_stands_behind_the_decode(graph: Graph) -> None:
    suppressed = append_suppression(graph, conf=0.25, iou=0.7, max_det=20)
    check(suppressed)
    shapes = {name: suppressed.tensors[name].shape for name in suppressed.outputs}
    assert shapes == {
        "boxes": (2, 20, 4),
        "scores": (2, 20),
        "classes": (2, 20),
        "coefficients": (2, 20, 32),
        "prototypes": (2, 32, 16, 24),
    }
    assert suppressed.nodes[-1].attributes == {"conf": 0.25, "iou": 0.7, "max_det": 20}
    assert suppressed.nodes[-1].region == "decode"
    assert suppressed.tensors["boxes.anchors"].shape == graph.tensors["boxes"].shape
    assert read_graph(write_graph(suppressed)).nodes == suppressed.nodes


def test_the_rest_of_the_graph_stays_as_it_was(graph: Graph) -> None:
    suppressed = append_suppression(graph, conf=0.25, iou=0.7, max_det=20)
    assert [node.name for node in suppressed.nodes[:-1]] == [node.name for node in graph.nodes]
    assert suppressed.parameters == graph.parameters
    check(fold_batch_norm(suppressed, initial_weights(graph.parameters, 0))[0])
    assert training_form(suppressed).outputs == ("box_logits", "class_logits", "coefficients.anchors", "prototypes")


@given(
    seed=st.integers(0, 2**32 - 1),
    anchors=st.integers(1, 60),
    nc=st.integers(1, 4),
    conf=st.sampled_from([0.0, 0.3, 0.9]),
    iou=st.sampled_from([0.05, 0.5, 0.95]),
    max_det=st.integers(1, 40),
)
def test_it_leaves_what_prediction_leaves(
    seed: int, anchors: int, nc: int, conf: float, iou: float, max_det: int
) -> None:
    random = np.random.default_rng(seed)
    # Whole pixels: moving classes apart, as prediction does, then rounds nothing.
    corners = random.integers(0, 60, (2, anchors, 2))
    boxes = np.concatenate([corners, corners + random.integers(1, 40, (2, anchors, 2))], axis=2).astype(np.float32)
    scores = random.random((2, anchors, nc), np.float32)
    coefficients = random.random((2, anchors, 5), np.float32)
    found = suppression(boxes, scores, coefficients, conf=conf, iou=iou, max_det=max_det)
    assert [result.shape for result in found] == [(2, max_det, 4), (2, max_det), (2, max_det), (2, max_det, 5)]
    for image in range(2):
        wanted = detections(boxes[image], scores[image], conf=conf, iou=iou, max_det=max_det)
        count = len(wanted.anchors)
        rows = [result[image] for result in found]
        expected = (wanted.boxes, wanted.scores, wanted.classes, coefficients[image, wanted.anchors])
        for row, value in zip(rows, expected, strict=True):
            np.testing.assert_array_equal(row[:count], value)
            assert not row[count:].any()

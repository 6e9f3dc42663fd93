"""What a graph that suppresses by itself means is what happens to the outputs of one that does not."""

import pytest

from segc.architectures.yolov8_seg import SCALES, build
from segc.graph.ir import Graph
from segc.graph.passes import append_suppression, fold_batch_norm, half_precision, training_form
from segc.graph.serial import check, read_graph, write_graph
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
    assert suppressed.nodes[-1].attributes == {"conf": 0.25, "iou": 0.7, "max_det": 20, "agnostic": False}
    assert suppressed.nodes[-1].region == "decode"
    assert suppressed.tensors["boxes.anchors"].shape == graph.tensors["boxes"].shape
    assert read_graph(write_graph(suppressed)).nodes == suppressed.nodes


def test_the_rest_of_the_graph_stays_as_it_was(graph: Graph) -> None:
    suppressed = append_suppression(graph, conf=0.25, iou=0.7, max_det=20)
    assert [node.name for node in suppressed.nodes[:-1]] == [node.name for node in graph.nodes]
    assert suppressed.parameters == graph.parameters
    check(fold_batch_norm(suppressed, initial_weights(graph.parameters, 0))[0])
    assert training_form(suppressed).outputs == ("box_logits", "class_logits", "coefficients.anchors", "prototypes")


def test_masks_take_the_place_of_what_they_are_made_of(graph: Graph) -> None:
    finished = append_suppression(graph, conf=0.25, iou=0.7, max_det=20, masks="uint8")
    check(finished)
    assert finished.outputs == ("boxes", "scores", "classes", "masks")
    masks = finished.tensors["masks"]
    assert (masks.shape, masks.dtype) == ((2, 20, 64, 96), "uint8")
    assert read_graph(write_graph(finished)).tensors["masks"] == masks


def test_half_precision_leaves_suppression_and_masks_what_they_are(graph: Graph) -> None:
    finished = append_suppression(graph, conf=0.25, iou=0.7, max_det=20, masks="uint8")
    halved, _ = half_precision(finished, initial_weights(graph.parameters, 0))
    check(halved)
    assert [halved.tensors[name].dtype for name in halved.outputs] == ["float32", "float32", "float32", "uint8"]

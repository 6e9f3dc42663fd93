"""Suppression in the graph: the pass that appends the operator ``nms``, and what it means, in numpy.

Artifacts that suppress by themselves are compared with the latter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from segc.graph.ir import Graph, Node, Tensor
from segc.graph.ops import OPERATORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]


def suppression(
    boxes: Array, scores: Array, coefficients: Array, *, conf: float, iou: float, max_det: int
) -> tuple[Array, Array, Array, Array]:
    """Class-aware non-maximum suppression.

    Args:
        boxes: [N, A, 4] (x1, y1, x2, y2).
        scores: [N, A, nc] in 0..1; an anchor stands for its best class, the first of equal ones.
        coefficients: [N, A, K].
        conf: scores at or below it are left out.
        iou: boxes of one class that overlap a better one more than this are left out.
        max_det: at most so many detections an image.

    Returns:
        Boxes [N, max_det, 4], scores [N, max_det], classes [N, max_det] and coefficients [N, max_det, K] of
        detections, best first, zero where there are none.
    """
    import numpy as np

    count = len(boxes)
    results = tuple(np.zeros((count, max_det, *rest), np.float32) for rest in ((4,), (), (), (coefficients.shape[2],)))
    for image in range(count):
        best, classes = scores[image].max(axis=1), scores[image].argmax(axis=1)
        order = np.argsort(-best, kind="stable")
        waiting = order[best[order] > np.float32(conf)]
        kept: list[int] = []
        while waiting.size and len(kept) < max_det:
            first, rest = int(waiting[0]), waiting[1:]
            kept.append(first)
            gone = _overlap(boxes[image, first], boxes[image, rest]) > np.float32(iou)
            waiting = rest[~(gone & (classes[rest] == classes[first]))]
        for result, values in zip(results, (boxes[image], best, classes, coefficients[image]), strict=True):
            result[image, : len(kept)] = values[kept]
    return results[0], results[1], results[2], results[3]


def _overlap(box: Array, boxes: Array) -> Array:
    """Intersection over union of a box with others [n, 4]; nought where both are empty."""
    import numpy as np

    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = np.maximum(sides, 0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - common
    found: Array = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return found


def append_suppression(graph: Graph, conf: float, iou: float, max_det: int) -> Graph:
    """Let the graph suppress overlapping boxes by itself: ``nms`` after the decode.

    Args:
        graph: in inference form, with outputs ``boxes``, ``scores``, ``coefficients`` and ``prototypes``.
        conf: scores at or below it are left out.
        iou: boxes of one class that overlap a better one more than this are left out.
        max_det: at most so many detections an image.

    Returns:
        The graph with outputs ``boxes`` [N, max_det, 4], ``scores`` [N, max_det], ``classes`` [N, max_det] and
        ``coefficients`` [N, max_det, 32] of detections, and ``prototypes``. What the first three outputs were is
        called ``boxes.anchors`` and so on.
    """
    read = ("boxes", "scores", "coefficients")
    made = ("boxes", "scores", "classes", "coefficients")
    renamed = _renamed(graph, {name: f"{name}.anchors" for name in read})
    attributes = {"conf": conf, "iou": iou, "max_det": max_det}
    inputs = tuple(f"{name}.anchors" for name in read)
    node = Node("suppression", "nms", inputs, made, attributes, scope="suppression", region="decode")
    shapes = OPERATORS["nms"].infer(node, renamed.tensors, renamed.parameters)
    tensors = {name: Tensor(name, shape) for name, shape in zip(made, shapes, strict=True)}
    return replace(
        renamed,
        nodes=(*renamed.nodes, node),
        tensors={**renamed.tensors, **tensors},
        outputs=(*made, "prototypes"),
    )


def _renamed(graph: Graph, names: Mapping[str, str]) -> Graph:
    """The graph with other names for some of its tensors."""

    def new(tensors: Iterable[str]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in tensors)

    tensors = [replace(tensor, name=names.get(tensor.name, tensor.name)) for tensor in graph.tensors.values()]
    return replace(
        graph,
        nodes=tuple(replace(node, inputs=new(node.inputs), outputs=new(node.outputs)) for node in graph.nodes),
        tensors={tensor.name: tensor for tensor in tensors},
        outputs=new(graph.outputs),
        metadata={**graph.metadata, "raw_outputs": new(graph.metadata["raw_outputs"])},
    )

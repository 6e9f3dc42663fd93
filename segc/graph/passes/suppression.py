"""Suppression in the graph: the pass that appends the operators ``nms`` and ``finished_masks``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from segc.graph.ir import Graph, Node, Tensor
from segc.graph.ops import OPERATORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from segc.graph.ir import Dtype


def append_suppression(
    graph: Graph, conf: float, iou: float, max_det: int, *, agnostic: bool = False, masks: Dtype | None = None
) -> Graph:
    """Let the graph suppress overlapping boxes by itself: ``nms`` after the decode.

    Args:
        graph: in inference form, with outputs ``boxes``, ``scores``, ``coefficients`` and ``prototypes``.
        conf: scores at or below it are left out.
        iou: boxes that overlap a better one more than this are left out.
        max_det: at most so many detections an image.
        agnostic: whatever the classes of the two; else they are of one class.
        masks: let it also work out each detection's mask, in this type.

    Returns:
        The graph with outputs ``boxes`` [N, max_det, 4], ``scores`` [N, max_det], ``classes`` [N, max_det] and
        ``coefficients`` [N, max_det, 32] of detections, and ``prototypes``; with ``masks`` in place of the last two
        ``masks`` [N, max_det, H, W]. What the first three outputs were is called ``boxes.anchors`` and so on.
    """
    read = ("boxes", "scores", "coefficients")
    made = ("boxes", "scores", "classes", "coefficients")
    renamed = _renamed(graph, {name: f"{name}.anchors" for name in read})
    inputs = tuple(f"{name}.anchors" for name in read)
    attributes = {"conf": conf, "iou": iou, "max_det": max_det, "agnostic": agnostic}
    node = Node("suppression", "nms", inputs, made, attributes, scope="suppression", region="decode")
    suppressed = replace(_with(renamed, node), outputs=(*made, "prototypes"))
    if masks is None:
        return suppressed
    (image,) = graph.inputs
    sides = zip(graph.tensors[image].shape[2:], graph.tensors["prototypes"].shape[2:], strict=True)
    settings = {"scale": tuple(side // cells for side, cells in sides), "dtype": masks}
    read = ("coefficients", "prototypes", "boxes")
    node = Node("masks.finished", "finished_masks", read, ("masks",), settings, scope="masks", region="decode")
    return replace(_with(suppressed, node, masks), outputs=("boxes", "scores", "classes", "masks"))


def _with(graph: Graph, node: Node, dtype: Dtype = "float32") -> Graph:
    """The graph with a node behind all others."""
    shapes = OPERATORS[node.op].infer(node, graph.tensors, graph.parameters)
    made = {name: Tensor(name, shape, dtype) for name, shape in zip(node.outputs, shapes, strict=True)}
    return replace(graph, nodes=(*graph.nodes, node), tensors={**graph.tensors, **made})


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

"""Passes: a graph (and its weights) in, a graph (and weights) out."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from segc.graph.anchors import anchor_grid
from segc.graph.ir import Graph, Node, Parameter, Tensor
from segc.graph.ops import OPERATORS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def training_form(graph: Graph) -> Graph:
    """The graph without its decode region: what the loss reads, named in ``metadata["raw_outputs"]``."""
    nodes = tuple(node for node in graph.nodes if node.region != "decode")
    return _pruned(replace(graph, nodes=nodes, outputs=tuple(graph.metadata["raw_outputs"])))


def fused_form(graph: Graph) -> Graph:
    """The graph with every batch norm that directly follows a convolution folded into it (shapes and names only).

    The convolution keeps its weight's name and gains ``<name>.bias``; the values come from :func:`fold_batch_norm`.
    """
    pairs = _foldable(graph)
    norms = {norm.name for norm in pairs.values()}
    parameters = dict(graph.parameters)
    nodes = []
    for node in graph.nodes:
        if node.name in norms:
            continue
        if norm := pairs.get(node.name):
            bias = Parameter(f"{node.name}.bias", (graph.parameters[node.parameters["weight"]].shape[0],), "bias")
            parameters[bias.name] = bias
            nodes.append(replace(node, outputs=norm.outputs, parameters={**node.parameters, "bias": bias.name}))
        else:
            nodes.append(node)
    return _pruned(replace(graph, nodes=tuple(nodes), parameters=parameters))


def fold_batch_norm(
    graph: Graph, weights: Mapping[str, "NDArray[np.generic]"]
) -> tuple[Graph, dict[str, "NDArray[np.generic]"]]:
    """Fold every batch norm that directly follows a convolution into the convolution.

    Args:
        graph: a graph in inference or training form.
        weights: parameter name to value, in the PyTorch layout.

    Returns:
        The smaller graph and the values of its parameters; computed in float64, stored in float32.
    """
    import numpy as np

    fused = fused_form(graph)
    values: dict[str, NDArray[np.generic]] = dict(weights)
    nodes = {node.name: node for node in graph.nodes}
    for name, norm in _foldable(graph).items():
        scale, shift, mean, variance = (
            weights[norm.parameters[role]].astype(np.float64)
            for role in ("weight", "bias", "running_mean", "running_var")
        )
        gain = scale / np.sqrt(variance + norm.attributes["epsilon"])
        convolution = nodes[name]
        weight = weights[convolution.parameters["weight"]].astype(np.float64)
        bias = weights[convolution.parameters["bias"]].astype(np.float64) if "bias" in convolution.parameters else 0.0
        values[convolution.parameters["weight"]] = (weight * gain[:, None, None, None]).astype(np.float32)
        values[f"{name}.bias"] = (shift + (bias - mean) * gain).astype(np.float32)
    return fused, {name: values[name] for name in fused.parameters}


def fixed_anchors(
    graph: Graph, weights: Mapping[str, "NDArray[np.generic]"]
) -> tuple[Graph, dict[str, "NDArray[np.generic]"]]:
    """Put constants in the place of every ``anchor_points``: the graph is then one of its nominal size only.

    Args:
        graph: any graph.
        weights: parameter name to value.

    Returns:
        The graph, and its weights with the values of the new constants, named as the tensors that they make.
    """
    values = dict(weights)
    parameters = dict(graph.parameters)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op != "anchor_points":
            nodes.append(node)
            continue
        sizes = [graph.tensors[name].shape[2:] for name in node.inputs]
        for name, value in zip(node.outputs, anchor_grid(sizes, node.attributes["strides"]), strict=True):
            values[name] = value
            parameters[name] = Parameter(name, value.shape, "fixed")
            nodes.append(
                Node(name, "constant", (), (name,), {"shape": value.shape}, {"value": name}, node.scope, node.region)
            )
    fixed = _pruned(replace(graph, nodes=tuple(nodes), parameters=parameters))
    return fixed, {name: values[name] for name in fixed.parameters}


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


def _foldable(graph: Graph) -> dict[str, Node]:
    """Convolution's name to the batch norm that is the only reader of its result."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for tensor in node.inputs:
            readers.setdefault(tensor, []).append(node)
    pairs = {}
    for node in graph.nodes:
        if node.op == "conv2d" and node.outputs[0] not in graph.outputs:
            following = readers.get(node.outputs[0], [])
            if len(following) == 1 and following[0].op == "batch_norm":
                pairs[node.name] = following[0]
    return pairs


def _pruned(graph: Graph) -> Graph:
    """The graph without the tensors and parameters that no node mentions any more."""
    tensors = {*graph.inputs, *(name for node in graph.nodes for name in (*node.inputs, *node.outputs))}
    parameters = {name for node in graph.nodes for name in node.parameters.values()}
    return replace(
        graph,
        tensors={name: tensor for name, tensor in graph.tensors.items() if name in tensors},
        parameters={name: parameter for name, parameter in graph.parameters.items() if name in parameters},
    )

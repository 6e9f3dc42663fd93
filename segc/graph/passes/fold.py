"""Folding of batch norms into convolutions, and the form that training reads."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from segc.graph.ir import Graph, Node, Parameter, pruned

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def training_form(graph: Graph) -> Graph:
    """The graph without its decode region: what the loss reads, named in ``metadata["raw_outputs"]``."""
    nodes = tuple(node for node in graph.nodes if node.region != "decode")
    return pruned(replace(graph, nodes=nodes, outputs=tuple(graph.metadata["raw_outputs"])))


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
    return pruned(replace(graph, nodes=tuple(nodes), parameters=parameters))


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

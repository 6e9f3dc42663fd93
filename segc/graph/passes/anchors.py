"""Where anchors stand: the values of the operator ``anchor_points`` for sizes that are known, and the pass for them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from segc.graph.ir import Graph, Node, Parameter, pruned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray


def anchor_grid(
    sizes: Sequence[Sequence[int]], strides: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cell centres [1, A, 2] (x, y) in cells and strides [1, A, 1] in pixels of feature maps (height, width)."""
    import numpy as np

    points, steps = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        rows, columns = np.mgrid[:height, :width].astype(np.float32) + np.float32(0.5)
        points.append(np.stack([columns, rows], axis=-1).reshape(1, -1, 2))
        steps.append(np.full((1, height * width, 1), stride, np.float32))
    return np.concatenate(points, axis=1), np.concatenate(steps, axis=1)


def fixed_anchors(
    graph: Graph, weights: Mapping[str, NDArray[np.generic]]
) -> tuple[Graph, dict[str, NDArray[np.generic]]]:
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
    fixed = pruned(replace(graph, nodes=tuple(nodes), parameters=parameters))
    return fixed, {name: values[name] for name in fixed.parameters}

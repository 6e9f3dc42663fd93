"""Convolutions that are less work as one: a transposed one and the plain one after it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from segc.graph.ir import Graph, Node, Parameter, Tensor, pruned

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    Weights = Mapping[str, NDArray[np.generic]]


def shared_padding(transposed: Node, plain: Node, parameters: Mapping[str, Parameter]) -> tuple[int, ...] | None:
    """The padding of the transposed convolution that two convolutions are together.

    Args:
        transposed: any node that ``plain`` alone reads.
        plain: a ``conv2d``.
        parameters: of their graph.

    Returns:
        None where they are not one, or would be more work as one.
    """
    ones = (*plain.attributes["stride"], *plain.attributes["dilation"], plain.attributes["groups"])
    if transposed.op != "conv_transpose2d" or transposed.attributes["groups"] != 1 or any(one != 1 for one in ones):
        return None
    channels, between, *first = parameters[transposed.parameters["weight"]].shape
    out, _, *second = parameters[plain.parameters["weight"]].shape
    padded = any((*transposed.attributes["padding"], *transposed.attributes["output_padding"]))
    if padded or tuple(first) != transposed.attributes["stride"]:
        return None
    padding = tuple(k - 1 - p for k, p in zip(second, plain.attributes["padding"], strict=True))
    apart = channels * between * prod(first) + between * out * prod(second) * prod(first)
    together = channels * out * prod(a + b - 1 for a, b in zip(first, second, strict=True))
    return None if min(padding) < 0 or together >= apart else padding


def merge_transposed(graph: Graph, weights: Weights) -> tuple[Graph, dict[str, NDArray[np.generic]]]:
    """Make one transposed convolution of each that a plain one follows, where that is less work.

    Both are linear, so together they are one whose weight is the first one's convolved with the second one's. What the
    second one makes of the first one's bias differs at the border alone; it is a convolution of a constant, which
    runtimes work out when they open a model. So the graph is one of its nominal size only.

    Args:
        graph: in inference form with batch norms folded, in fp32.
        weights: parameter name to value.

    Returns:
        The graph, and its weights; those that are merged computed in float64, stored in float32.
    """
    draft = _Draft(graph, weights)
    readers = Counter(name for node in graph.nodes for name in node.inputs) + Counter(graph.outputs)
    makers = {name: node for node in graph.nodes for name in node.outputs if readers[name] == 1}
    gone: set[str] = set()
    for node in graph.nodes:
        first = makers.get(node.inputs[0]) if node.op == "conv2d" else None
        padding = shared_padding(first, node, graph.parameters) if first else None
        if first is not None and padding is not None:
            gone.add(first.name)
            draft.merge(first, node, padding)
        else:
            draft.nodes.append(node)
    nodes = tuple(node for node in draft.nodes if node.name not in gone)
    made = pruned(replace(graph, nodes=nodes, tensors=draft.tensors, parameters=draft.parameters))
    return made, {name: draft.weights[name] for name in made.parameters}


class _Draft:
    """A graph in the making."""

    def __init__(self, graph: Graph, weights: Weights) -> None:
        self.nodes: list[Node] = []
        self.tensors = dict(graph.tensors)
        self.parameters = dict(graph.parameters)
        self.weights = dict(weights)

    def merge(self, transposed: Node, plain: Node, padding: tuple[int, ...]) -> None:
        """One convolution for the two, and one for the first one's bias where it has one."""
        import numpy as np

        first, second = (self.weights[node.parameters["weight"]].astype(np.float64) for node in (transposed, plain))
        (rows, columns), (height, width) = first.shape[2:], second.shape[2:]
        weight = np.zeros((len(first), len(second), rows + height - 1, columns + width - 1))
        for row, column in np.ndindex(height, width):
            top, left = height - 1 - row, width - 1 - column
            part = np.einsum("ibyx,ob->ioyx", first, second[:, :, row, column])
            weight[:, :, top : top + rows, left : left + columns] += part
        made, name = plain.outputs[0], f"{plain.name}.merged"
        held = {"weight": self._hold(f"{name}.weight", weight)}
        if "bias" in plain.parameters:
            held["bias"] = self._hold(f"{name}.bias", self.weights[plain.parameters["bias"]])
        attributes = {**transposed.attributes, "padding": padding}
        whole = Node(name, transposed.op, transposed.inputs, (made,), attributes, held, plain.scope)
        bias = transposed.parameters.get("bias")
        if bias is None:
            self.nodes.append(whole)
            return
        constant = np.einsum("obyx,b->oyx", second, self.weights[bias].astype(np.float64))[:, None]
        ones, shift = f"{plain.name}.ones", f"{plain.name}.shift"
        size = (1, 1, *self.tensors[transposed.outputs[0]].shape[2:])
        for tensor, shape in (
            (ones, size),
            (shift, (1, *self.tensors[made].shape[1:])),
            (name, self.tensors[made].shape),
        ):
            self.tensors[tensor] = Tensor(tensor, shape)
        value = {"value": self._hold(f"{ones}.weight", np.ones(size))}
        weights = {"weight": self._hold(f"{shift}.weight", constant)}
        self.nodes += [
            Node(ones, "constant", (), (ones,), {"shape": size}, value, plain.scope),
            Node(shift, "conv2d", (ones,), (shift,), plain.attributes, weights, plain.scope),
            replace(whole, outputs=(name,)),
            Node(plain.name, "add", (name, shift), (made,), scope=plain.scope),
        ]

    def _hold(self, name: str, value: NDArray[np.generic]) -> str:
        """A parameter of this value, in fp32."""
        self.parameters[name] = Parameter(name, value.shape, "fixed")
        self.weights[name] = value.astype("float32")
        return name

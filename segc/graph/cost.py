"""What a graph costs: parameters, FLOPs and memory, counted from the operator table."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from segc.graph.ir import Graph
from segc.graph.ops import OPERATORS

_BYTES = 4  # float32
_NOT_COUNTED = {"statistic", "counter"}


@dataclass(frozen=True, slots=True)
class Cost:
    """Totals of a graph at its nominal size and batch.

    Attributes:
        parameters: trained and fixed values; running statistics are not counted.
        flops: a multiply-add counts as two.
        peak_activation_bytes: the most that tensors hold at once when run node by node in float32.
    """

    parameters: int
    flops: int
    peak_activation_bytes: int


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Totals of one layer, the nodes whose scope starts with ``model.<index>``."""

    index: int
    scope: str
    nodes: int
    parameters: int
    flops: int
    output_shape: tuple[int, ...]


def cost(graph: Graph) -> Cost:
    """Totals of the whole graph."""
    return Cost(
        parameters=sum(p.size for p in graph.parameters.values() if p.role not in _NOT_COUNTED),
        flops=sum(OPERATORS[node.op].flops(node, graph.tensors, graph.parameters) for node in graph.nodes),
        peak_activation_bytes=_peak_activation_bytes(graph),
    )


def layer_costs(graph: Graph) -> Iterator[LayerCost]:
    """Totals layer by layer, in the order of the architecture's numbering."""
    layers: dict[str, list[int]] = {}
    for position, node in enumerate(graph.nodes):
        layers.setdefault(".".join(node.scope.split(".")[:2]), []).append(position)
    for index, (scope, positions) in enumerate(layers.items()):
        nodes = [graph.nodes[position] for position in positions]
        names = {name for node in nodes for name in node.parameters.values()}
        yield LayerCost(
            index,
            scope,
            len(nodes),
            sum(graph.parameters[n].size for n in names if graph.parameters[n].role not in _NOT_COUNTED),
            sum(OPERATORS[node.op].flops(node, graph.tensors, graph.parameters) for node in nodes),
            graph.tensors[nodes[-1].outputs[0]].shape,
        )


def _peak_activation_bytes(graph: Graph) -> int:
    last_use = {name: position for position, node in enumerate(graph.nodes) for name in node.inputs}
    last_use.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
    size = {name: _BYTES * prod(tensor.shape) for name, tensor in graph.tensors.items()}
    held = sum(size[name] for name in graph.inputs)
    peak = held
    for position, node in enumerate(graph.nodes):
        held += sum(size[name] for name in node.outputs)
        peak = max(peak, held)
        held -= sum(size[name] for name in {*node.inputs, *node.outputs} if last_use.get(name, position) == position)
    return peak

"""int8: where the values of a graph are rounded to 256 steps, and its weights kept in eight bits.

One pass for all targets that are told so; each writes ``fake_quantize`` and integer weights in the terms of its format.
What is rounded are feature maps, [N, C, H, W]. The rest, from the flattened logits on, is pixels and probabilities and
stays as it is: measured, that alone decides between no loss and one of seven points of box mAP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fnmatch import translate
from functools import lru_cache, reduce
from typing import TYPE_CHECKING

import numpy as np

from segc.graph.ir import Graph, Node, Parameter, pruned
from segc.graph.passes.ranges import Grid, Observation, chosen_grid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from segc.graph.passes.ranges import Method

    Weights = Mapping[str, NDArray[np.generic]]

GATE = ".gate"
"""What follows the name of a ``silu`` in that of its sigmoid."""

CONVOLUTIONS = frozenset({"conv2d", "conv_transpose2d"})

MOVING = frozenset({"split", "max_pool2d", "resize_nearest"})
"""Operators whose results are values of their input, on its grid."""

MOST_STEPS = 2**30
"""Of a bias, half of what 32 bits hold."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """What a runtime wants rounded.

    Attributes:
        signed: values are -128..127 with nought at 0, instead of 0..255 with nought anywhere.
        throughout: all feature maps are rounded that an operator of ``operators`` reads or makes, where the runtime
            has each of them on integers. Otherwise only what convolutions read, where the maps come from: the runtime
            puts activations and sums into the convolution before.
        operators: that compute in integers.
        weight_bits: of weights, 8 or 7. Processors without instructions of their own for it (VNNI, or ARM's dot
            product) add pairs of products in 16 bits, which those of 8 bits can exceed: sums are then cut off without
            a word, and with 7 bits they never are.
        gate_step: of what sigmoids give, which lies in 0..1.
    """

    signed: bool
    throughout: bool
    operators: frozenset[str]
    weight_bits: int
    gate_step: float = 1 / 255


def kept_in_float(name: str, patterns: Iterable[str]) -> bool:
    """Whether a node's name lies in one of the scopes: ``model.22`` has all below it, ``*`` and ``?`` stand for any."""
    return _scopes(tuple(patterns)).match(name) is not None


@lru_cache(maxsize=8)
def _scopes(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """What a name in one of the scopes is like; nothing is like none of them."""
    return re.compile("|".join(translate(one) for pattern in patterns for one in (pattern, f"{pattern}.*")) or r"(?!)")


def silu_apart(graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    """Every ``silu`` as what it is, ``x * sigmoid(x)``, for formats that have it no other way."""
    nodes: list[Node] = []
    tensors = dict(graph.tensors)
    for node in graph.nodes:
        if node.op != "silu":
            nodes.append(node)
            continue
        (made,), gate = node.outputs, f"{node.name}{GATE}"
        tensors[gate] = replace(tensors[made], name=gate)
        nodes.append(replace(node, name=gate, op="sigmoid", outputs=(gate,)))
        nodes.append(replace(node, op="mul", inputs=(*node.inputs, gate)))
    return replace(graph, nodes=tuple(nodes), tensors=tensors), weights


def quantise(
    graph: Graph,
    weights: Weights,
    observations: Mapping[str, Observation],
    scheme: Scheme,
    method: Method = "mse",
    keep_float: Sequence[str] = (),
) -> tuple[Graph, dict[str, NDArray[np.generic]]]:
    """Round feature maps and weights to eight bits.

    Args:
        graph: inference form with batch norms folded, after all passes that replace operators.
        weights: parameter name to value.
        observations: of every feature map that is rounded, by its name; see :func:`observed_tensors`.
        scheme: of the runtime.
        method: how the grid of a map follows from its values.
        keep_float: scopes, or names of nodes, that compute in float, with ``*`` and ``?``: ``model.22.proto``,
            ``model.*.cv2``.

    Returns:
        The graph with ``fake_quantize`` after what makes a rounded map, and its weights: those of convolutions int8
        with a ``scale`` an output channel.
    """
    whole = [node for node in computing(graph, scheme) if not kept_in_float(node.name, keep_float)]
    rounded = _throughout(graph, whole) if scheme.throughout else _read_by_convolutions(graph, whole)
    grids = {
        name: chosen for group in rounded for name, chosen in _grids(graph, group, observations, scheme, method).items()
    }
    placed = _with_grids(graph, {node.name for node in whole}, grids)
    return integer_weights(placed, weights, (node.name for node in whole), scheme.weight_bits)


def computing(graph: Graph, scheme: Scheme) -> list[Node]:
    """The nodes that compute in integers: neither a transposed convolution in groups does, nor what reads constants."""
    constants = {name for node in graph.nodes if node.op == "constant" for name in node.outputs}
    return [
        node
        for node in graph.nodes
        if node.op in scheme.operators
        and node.region != "decode"
        and all(_is_map(graph, name) and name not in constants for name in (*node.inputs, *node.outputs))
        and not (node.op == "conv_transpose2d" and node.attributes["groups"] != 1)
    ]


def observed_tensors(graph: Graph) -> list[str]:
    """Names of the feature maps of a graph with batch norms folded that :func:`quantise` may ask for."""
    return [
        name
        for node in graph.nodes
        for name in node.outputs
        if node.region != "decode" and node.op != "constant" and len(graph.tensors[name].shape) == 4
    ]


def all_integer_weights(graph: Graph, weights: Weights) -> tuple[Graph, dict[str, NDArray[np.generic]]]:
    """Keep the weights of every convolution in int8; what is computed stays in fp32."""
    return integer_weights(graph, weights, (node.name for node in graph.nodes))


def integer_weights(
    graph: Graph, weights: Weights, names: Iterable[str], bits: int = 8
) -> tuple[Graph, dict[str, NDArray[np.generic]]]:
    """Keep the weights of convolutions in int8, evenly to both sides of nought, with a scale an output channel.

    Args:
        graph: any.
        weights: parameter name to value.
        names: of nodes whose weights are kept so, as far as they are convolutions.
        bits: 8 for -127..127, 7 for -63..63.
    """
    chosen, limit = set(names), 2 ** (bits - 1) - 1
    least = _least_steps(graph, weights)
    values = dict(weights)
    parameters = dict(graph.parameters)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op not in CONVOLUTIONS or node.name not in chosen:
            nodes.append(node)
            continue
        name, axis = node.parameters["weight"], channel_axis(node)
        scale = f"{name}.scale"
        nodes.append(replace(node, parameters={**node.parameters, "scale": scale}))
        if scale in values:
            continue
        weight = np.asarray(weights[name], np.float32)
        others = tuple(other for other in range(4) if other != axis)
        steps = np.abs(weight).max(axis=others, keepdims=True) / limit
        steps[steps == 0] = 1
        if name in least:
            steps = np.maximum(steps, least[name].reshape(steps.shape)).astype(np.float32)
        values[name] = np.clip(np.rint(weight / steps), -limit, limit).astype(np.int8)
        values[scale] = steps.reshape(-1).astype(np.float32)
        parameters[scale] = Parameter(scale, values[scale].shape, "fixed")
    return replace(graph, nodes=tuple(nodes), parameters=parameters), values


def _least_steps(graph: Graph, weights: Weights) -> dict[str, NDArray[np.float64]]:
    """By the name of a weight: the shortest steps, an output channel each, with which biases fit into 32 bits.

    Biases count the steps of the products; several convolutions may share a weight, each with a bias of its own.
    """
    read = {node.outputs[0]: node.attributes["scale"] for node in graph.nodes if node.op == "fake_quantize"}
    least: dict[str, NDArray[np.float64]] = {}
    for node in graph.nodes:
        bias = node.parameters.get("bias")
        if node.op in CONVOLUTIONS and bias and node.inputs[0] in read:
            name = node.parameters["weight"]
            own = np.abs(np.asarray(weights[bias], np.float64)) / (read[node.inputs[0]] * MOST_STEPS)
            least[name] = np.maximum(least.get(name, own), own)
    return least


def float_weights(graph: Graph, weights: Weights) -> tuple[Graph, dict[str, NDArray[np.generic]]]:
    """What integer weights stand for, in fp32, for what computes in float: the inverse of :func:`integer_weights`."""
    values = dict(weights)
    nodes: list[Node] = []
    for node in graph.nodes:
        scale = node.parameters.get("scale")
        if scale is not None:
            name = node.parameters["weight"]
            values[name] = weights[name].astype(np.float32) * along_channels(node, weights[scale])
        held = {role: name for role, name in node.parameters.items() if role != "scale"}
        nodes.append(replace(node, parameters=held))
    made = pruned(replace(graph, nodes=tuple(nodes)))
    return made, {name: values[name] for name in made.parameters}


def channel_axis(node: Node) -> int:
    """The axis of a convolution's weights along which its output channels lie."""
    return 1 if node.op == "conv_transpose2d" else 0


def along_channels(node: Node, scale: NDArray[np.generic]) -> NDArray[np.float32]:
    """A convolution's scales in a form that broadcasts with its weights."""
    return scale.astype(np.float32).reshape((1, -1, 1, 1) if channel_axis(node) else (-1, 1, 1, 1))


def _is_map(graph: Graph, name: str) -> bool:
    return len(graph.tensors[name].shape) == 4


class _Groups:
    """Tensors that share a grid, as sets that merge."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def find(self, name: str) -> str:
        while (parent := self._parents.setdefault(name, name)) != name:
            name = parent
        return name

    def join(self, names: Sequence[str]) -> None:
        for name in names[1:]:
            self._parents[self.find(name)] = self.find(names[0])

    def of(self, names: Iterable[str]) -> list[list[str]]:
        """Names, those together that share a grid, in their order."""
        found: dict[str, list[str]] = {}
        for name in dict.fromkeys(names):
            found.setdefault(self.find(name), []).append(name)
        return list(found.values())


def _throughout(graph: Graph, whole: Sequence[Node]) -> list[list[str]]:
    """All maps that an operator on integers reads or makes, but for what leaves the graph."""
    groups = _Groups()
    for node in whole:
        if node.op in MOVING:
            groups.join([*node.inputs, *node.outputs])
    names = (name for node in whole for name in (*node.inputs, *node.outputs))
    return groups.of(name for name in names if name not in graph.outputs)


def _read_by_convolutions(graph: Graph, whole: Sequence[Node]) -> list[list[str]]:
    """What makes the maps that convolutions on integers read, followed back through all that only moves values."""
    groups = _Groups()
    makers = {name: node for node in graph.nodes for name in node.outputs}
    for node in graph.nodes:
        if node.op in MOVING or (node.op == "concat" and _is_map(graph, node.outputs[0])):
            groups.join([*node.inputs, *node.outputs])
    sources: dict[str, None] = {}
    waiting = [name for node in whole for name in node.inputs]
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        maker = makers.get(name)
        if maker is not None and maker.op in {*MOVING, "concat"}:
            waiting += [one for one in maker.inputs if one not in seen]
            seen.update(maker.inputs)
        else:
            sources[name] = None
    order = {name: place for place, name in enumerate(graph.tensors)}
    return groups.of(sorted(sources, key=order.__getitem__))


def _grids(
    graph: Graph, group: Sequence[str], observations: Mapping[str, Observation], scheme: Scheme, method: Method
) -> dict[str, Grid]:
    """The grid of maps that share one."""
    if any(name in graph.inputs or name.endswith(GATE) for name in group):
        # Images and sigmoids lie in 0..1, whatever was seen; so a step of an image is that of its bytes.
        step = 1 / 255 if any(name in graph.inputs for name in group) else scheme.gate_step
        chosen = Grid(1 / 127, 0, -128, 127) if scheme.signed else Grid(float(np.float32(step)), 0, 0, 255)
    else:
        # Of what only moves values, the source has them all.
        seen = [observations[name] for name in group if name in observations]
        if not seen:
            raise ValueError(f"no values of {group[0]} were observed")
        chosen = chosen_grid(reduce(Observation.joined, seen), method, signed=scheme.signed)
    return dict.fromkeys(group, chosen)


def _with_grids(graph: Graph, whole: set[str], grids: Mapping[str, Grid]) -> Graph:
    """The graph with ``fake_quantize`` where a map has a grid.

    Operators on integers read what comes of it, and what only moves or adds values does; others read the map itself.
    """
    tensors = dict(graph.tensors)
    nodes: list[Node] = []
    names: dict[str, str] = {}

    def place(name: str, scope: str) -> None:
        if name in grids:
            one, rounded = grids[name], f"{name}.rounded"
            tensors[rounded] = replace(tensors[name], name=rounded)
            attributes = {"scale": one.scale, "zero": one.zero, "low": one.low, "high": one.high}
            nodes.append(Node(rounded, "fake_quantize", (name,), (rounded,), attributes, scope=scope))
            names[name] = rounded

    for name in graph.inputs:
        place(name, "")
    for node in graph.nodes:
        reads = node.name in whole or node.op in {*MOVING, "concat", "add", "flatten_spatial"}
        nodes.append(replace(node, inputs=tuple(names.get(name, name) for name in node.inputs)) if reads else node)
        for name in node.outputs:
            place(name, node.scope)
    return replace(graph, nodes=tuple(nodes), tensors=tensors)

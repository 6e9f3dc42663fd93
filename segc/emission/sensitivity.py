"""Which scopes of a network bear eight bits badly: each is rounded by itself, and the outputs say what that costs.

The network runs in PyTorch on a few of the images that it is calibrated on, with one scope in eight bits and all others
in float, scope by scope, as the target's own scheme has it. What is told is the error of the outputs where the network
finds something, as a share of their size: noise over signal. So errors of boxes, scores and masks compare.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node
    from segc.graph.passes.integers import Scheme
    from segc.graph.passes.ranges import Method, Observation

    Weights = Mapping[str, NDArray[np.generic]]
    Run = Callable[[Graph, Weights], Mapping[str, NDArray[np.float32]]]

IMAGES = 8
"""Images that the errors are taken on."""

MOST_KEPT = 0.5
"""The share of the arithmetic that ``keep_float: auto`` may leave in float: beyond it, little is left of int8."""

MOST_STEPS = 4
"""Times that ``keep_float: auto`` tries: 1, 2, 4, … of the worst scopes."""


@dataclass(frozen=True, slots=True)
class ScopeError:
    """What rounding one scope to eight bits does to the outputs.

    Attributes:
        scope: of the network.
        error: root mean square of the outputs' errors below.
        outputs: error of each output, as a share of its size.
        arithmetic: share of the network's multiply-adds that the scope computes, 0..1.
        bytes: that its weights take more in fp32 than in int8.
    """

    scope: str
    error: float
    outputs: Mapping[str, float]
    arithmetic: float
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """As JSON values, numbers to four digits."""
        values = {**asdict(self), "outputs": {name: _rounded(value) for name, value in self.outputs.items()}}
        return {**values, "error": _rounded(self.error), "arithmetic": _rounded(self.arithmetic)}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def rank(
    graph: Graph,
    weights: Weights,
    observations: Mapping[str, Observation],
    scheme: Scheme,
    method: Method,
    run: Run,
) -> list[ScopeError]:
    """Scopes by the error that they bring, the worst first.

    Args:
        graph: in inference form, batch norms unfolded.
        weights: parameter name to value.
        observations: of the feature maps.
        scheme: of the target.
        method: how a map's steps follow from what was observed.
        run: the outputs of a graph with weights on the images.
    """
    from segc.emission.deviations import distances
    from segc.graph.passes import fold_batch_norm
    from segc.graph.passes.integers import computing, float_weights, quantise, silu_apart

    plain = fold_batch_norm(graph, weights)
    folded, values = silu_apart(*plain) if "sigmoid" in scheme.operators else plain
    nodes = computing(folded, scheme)
    reference = _named(run(folded, values))
    whole = sum(_arithmetic(folded, folded.nodes))
    found = []
    for scope in dict.fromkeys(node.scope for node in nodes if node.parameters):
        others = [node.name for node in nodes if node.scope != scope]
        rounded = float_weights(*quantise(folded, values, observations, scheme, method, others))
        outputs = distances(("",), reference, _named(run(*rounded)))
        own = [node for node in nodes if node.scope == scope]
        held = {name for node in own if "weight" in node.parameters for name in (node.parameters["weight"],)}
        found.append(
            ScopeError(
                scope,
                math.sqrt(sum(value**2 for value in outputs.values()) / len(outputs)),
                outputs,
                sum(_arithmetic(folded, own)) / whole,
                3 * sum(folded.parameters[name].size for name in held),
            )
        )
    return sorted(found, key=lambda one: (-one.error, one.scope))


def _named(outputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Outputs of a case without a name."""
    return {f".{name}": value for name, value in outputs.items()}


def _arithmetic(graph: Graph, nodes: Sequence[Node]) -> Iterator[int]:
    from segc.graph.ops import OPERATORS

    for node in nodes:
        yield OPERATORS[node.op].flops(node, graph.tensors, graph.parameters)


def steps(ranking: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """What ``keep_float: auto`` keeps in float, step by step: the worst scope, two, four, … up to ``MOST_KEPT``.

    Args:
        ranking: of :func:`rank`, as JSON values.
    """
    affordable, _ = _divided(ranking)
    for step in range(MOST_STEPS):
        if len(affordable) < 2**step:
            return
        yield affordable[: 2**step]


def too_large(ranking: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]]) -> list[str]:
    """Scopes that bring larger errors than some that were kept, and compute too much to be kept with those before."""
    _, left = _divided(ranking)
    least = min((one["error"] for one in kept), default=0.0)
    return [one["scope"] for one in left if one["error"] > least]


def _divided(ranking: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """What may be kept in float, the worst first, and what computes too much for that."""
    affordable: list[Mapping[str, Any]] = []
    left: list[Mapping[str, Any]] = []
    for one in ranking:
        fits = sum(kept["arithmetic"] for kept in (*affordable, one)) <= MOST_KEPT
        (affordable if fits else left).append(one)
    return affordable, left

"""Passes: a graph and its weights in, a graph and weights out. A target names those that it wants, in their order."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from segc.graph.ir import Graph
from segc.graph.passes.anchors import fixed_anchors
from segc.graph.passes.fold import fold_batch_norm, fused_form, training_form
from segc.graph.passes.half import half_precision, half_rounded, half_stored
from segc.graph.passes.merge import merge_transposed
from segc.graph.passes.suppression import append_suppression

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Pass",
    "append_suppression",
    "fixed_anchors",
    "fold_batch_norm",
    "fused_form",
    "half_precision",
    "half_rounded",
    "half_stored",
    "merge_transposed",
    "run_passes",
    "training_form",
]

Weights = Mapping[str, "NDArray[Any]"]
Pass = Callable[[Graph, Weights], tuple[Graph, Weights]]
"""Takes a graph and a value for each of its parameters, gives both."""


def run_passes(passes: Iterable[Pass], graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    """The graph and weights that come of passes, one after another."""
    for apply in passes:
        graph, weights = apply(graph, weights)
    return graph, weights

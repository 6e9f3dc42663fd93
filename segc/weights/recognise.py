"""Which network weights belong to, from the shapes alone."""

from collections.abc import Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from segc.architectures import FAMILIES, build_graph, parts_of
from segc.diagnostics import SegcError, fail
from segc.graph.ir import Graph
from segc.spec.architecture import Architecture
from segc.weights.names import aligned
from segc.weights.transfer import class_count

_NOMINAL_SIZE = (640, 640)
_LEAST_SHARE = 0.25
"""A bare backbone is about half of the parameters; chance agreement of two scales stays well below this."""


def recognise(
    tensors: Mapping[str, NDArray[np.generic]], nc: int | None = None, file: Path | None = None
) -> tuple[Architecture, Graph]:
    """The family and scale whose parameters agree best with the names and shapes of weights.

    Args:
        tensors: arrays by state-dict name.
        nc: number of classes where the class branch is not among them.
        file: where they come from, for the error.

    Returns:
        The architecture, and its graph at 640 x 640 with as many classes as the weights have. Names with a prefix of
        their own are read without it, see :mod:`segc.weights.names`.

    Raises:
        SegcError: W011 where no scale of any family has a quarter of its parameters among them, or the number of
            classes is not known.
    """
    tensors, _ = aligned(tensors, _all_names())
    classes = class_count(tensors) or nc
    if classes is None:
        raise fail(
            "W011",
            "the weights do not tell the number of classes",
            file=file,
            help="name the project they are for: --project project.yaml",
        )
    candidates = _candidates()
    graphs = [build_graph(candidate, classes, _NOMINAL_SIZE) for candidate in candidates]
    shares = [_share(tensors, graph) for graph in graphs]
    best = max(range(len(shares)), key=shares.__getitem__)
    if shares[best] < _LEAST_SHARE:
        raise fail(
            "W011",
            f"the names and shapes are not those of {' or '.join(FAMILIES)}, at any scale",
            file=file,
            help="for a custom scale, name the project they are for: --project project.yaml",
        )
    return candidates[best], graphs[best]


def refuse_other_scale(tensors: Mapping[str, NDArray[np.generic]], graph: Graph, file: Path) -> None:
    """Refuse weights whose tensors outside of the head have other shapes than the network's: another width or depth.

    What fits of them would do so by chance.

    Raises:
        SegcError: W007, with the scale that they are of where that can be told.
    """
    tensors, _ = aligned(tensors, graph.parameters)
    head = parts_of(graph)["head"]
    other = next(
        (
            (name, array.shape, parameter.shape)
            for name, parameter in graph.parameters.items()
            if (array := tensors.get(name)) is not None
            and not name.startswith(head)
            and prod(array.shape) != prod(parameter.shape)
        ),
        None,
    )
    if other is None:
        return
    try:
        told, _ = recognise(tensors, 1, file)
        what = f"weights of {told.family}, scale {told.scale}"
        way_out = f"write `scale: {told.scale}`, or start from weights of the project's own scale"
    except SegcError:
        what = "weights of a network of another width or depth"
        way_out = "architecture.scale must be that of the weights"
    name, there, here = other
    raise fail("W007", f"{what}: {name} is {list(there)} there, {list(here)} here", file=file, help=way_out)


def _candidates() -> list[Architecture]:
    """Every scale of every family."""
    return [
        Architecture(family=family, scale=scale, weights=None)
        for family in get_args(Architecture.model_fields["family"].annotation)
        for scale in FAMILIES[family].SCALES
    ]


@cache
def _all_names() -> frozenset[str]:
    """Names of the parameters of every scale of every family."""
    graphs = (build_graph(candidate, 1, _NOMINAL_SIZE) for candidate in _candidates())
    return frozenset(name for graph in graphs for name in graph.parameters)


def _share(tensors: Mapping[str, NDArray[np.generic]], graph: Graph) -> float:
    fitting = sum(
        1
        for name, parameter in graph.parameters.items()
        if parameter.shape and name in tensors and tensors[name].shape == parameter.shape
    )
    return fitting / sum(1 for parameter in graph.parameters.values() if parameter.shape)

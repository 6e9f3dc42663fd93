"""Which network weights belong to, from the shapes alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from segc.architectures import FAMILIES, build_graph
from segc.diagnostics import fail
from segc.graph.ir import Graph
from segc.spec.architecture import Architecture
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
        The architecture, and its graph at 640 x 640 with as many classes as the weights have.

    Raises:
        SegcError: W011 where no scale of any family has a quarter of its parameters among them, or the number of
            classes is not known.
    """
    classes = class_count(tensors) or nc
    if classes is None:
        raise fail(
            "W011",
            "the weights do not tell the number of classes",
            file=file,
            help="name the project they are for: --project project.yaml",
        )
    candidates = [
        Architecture(family=family, scale=scale, weights=None)
        for family in get_args(Architecture.model_fields["family"].annotation)
        for scale in FAMILIES[family].SCALES
    ]
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


def _share(tensors: Mapping[str, NDArray[np.generic]], graph: Graph) -> float:
    fitting = sum(
        1
        for name, parameter in graph.parameters.items()
        if parameter.shape and name in tensors and tensors[name].shape == parameter.shape
    )
    return fitting / sum(1 for parameter in graph.parameters.values() if parameter.shape)

"""What values the feature maps of a network take on photographs, as calibration for int8 wants to know."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from segc.graph.passes import fold_batch_norm
from segc.graph.passes.integers import observed_tensors
from segc.graph.passes.ranges import BINS, Observation, reach_of
from segc.inference.metadata import Metadata
from segc.network.session import TorchSession

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from segc.graph.ir import Graph

SAMPLE = 1 << 16
"""Values of a map of one image that are counted; the smallest and the largest are looked for among all."""


def observe(
    graph: Graph, weights: Mapping[str, NDArray[np.generic]], images: Iterable[NDArray[np.float32]]
) -> dict[str, Observation]:
    """Run the network on images one by one and look at every feature map.

    Args:
        graph: in inference form, batch norms unfolded.
        weights: a value for every parameter of the graph.
        images: [3, H, W] each, as the network sees them.

    Returns:
        What was seen by the names of the tensors, batch norms folded.
    """
    folded, values = fold_batch_norm(graph, weights)
    names = observed_tensors(folded)
    height, width = graph.metadata["size"]
    session = TorchSession(replace(folded, outputs=tuple(names)), values, Metadata(("a",), (height, width)))
    found: dict[str, Observation] = {}
    with torch.inference_mode():
        for image in images:
            batch = torch.from_numpy(image[None]).to(memory_format=torch.channels_last)
            for name, value in session.network(batch).items():
                seen = _observation(value)
                found[name] = found[name].joined(seen) if name in found else seen
    return found


def _observation(value: torch.Tensor) -> Observation:
    low, high = (float(end) for end in torch.aminmax(value))
    reach = reach_of(low, high)
    flat = value.flatten()
    # An odd step meets every column and every channel.
    sample = flat[:: flat.numel() // SAMPLE | 1].numpy()
    bins = np.minimum(((sample + np.float32(reach)) * np.float32(BINS / (2 * reach))).astype(np.int64), BINS - 1)
    return Observation(low, high, reach, np.bincount(bins, minlength=BINS))

"""Running trained weights in PyTorch, in the way that artifacts are run in their own runtimes."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from segc.graph.ir import Graph
from segc.graph.passes import fold_batch_norm, half_precision
from segc.inference.metadata import Metadata
from segc.network.device import exact_arithmetic
from segc.network.lower import load_weights, lower


class TorchSession:
    """A session (see ``segc.sessions``) on graph and weights.

    Args:
        graph: in inference form, batch norms unfolded.
        weights: a value for every parameter of the graph.
        metadata: what an artifact of this model would say of itself.
        device: a torch device.
        fused: fold batch norms first: faster, and up to 1e-3 pixels away from the network as it was trained.
        half: compute in fp16, all but the decode region.
        double: compute in fp64.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, NDArray[np.generic]],
        metadata: Metadata,
        device: str = "cpu",
        *,
        fused: bool = False,
        half: bool = False,
        double: bool = False,
    ) -> None:
        if fused:
            graph, weights = fold_batch_norm(graph, weights)
        if half:
            graph, weights = half_precision(graph, weights)
        self.metadata = replace(metadata, precision="fp16" if half else metadata.precision)
        self.runtime = f"PyTorch on {device}"
        self.device = torch.device(device)
        exact_arithmetic()
        self.network = lower(graph)
        load_weights(self.network, weights, typed=half)
        # Convolutions on the CPU are a sixth faster with the channels last.
        self.network.eval().to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._type = torch.float64 if double else torch.float32
        if double:
            self.network.double()

    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Images [N, 3, H, W] (RGB in 0..1) to boxes, scores, coefficients and prototypes in float32."""
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(images))
            batch = batch.to(self.device, self._type, memory_format=torch.channels_last)
            outputs = self.network(batch)
            return {name: value.float().cpu().contiguous().numpy() for name, value in outputs.items()}

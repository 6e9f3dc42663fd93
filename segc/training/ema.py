"""The moving average of the weights, which is what gets validated and kept."""

from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from segc.inference.metadata import Metadata
from segc.network.lower import SegmentationNetwork
from segc.plan import averaging_decay


class MovingAverage:
    """Exponential moving average of a network's weights and statistics.

    The decay builds up with the updates, ``decay · (1 - e^(-updates / tau))``, so that the start is soon forgotten.

    Args:
        network: the network that is trained, where it will stay.
        average: another one of the same graph; it takes the first one's values, place and memory layout.
        decay: the decay in the end.
        tau: updates over which it builds up.

    Attributes:
        network: the averaged network, in evaluation mode.
        updates: updates so far.
    """

    def __init__(self, network: SegmentationNetwork, average: SegmentationNetwork, *, decay: float, tau: float) -> None:
        self.network = average.eval().requires_grad_(requires_grad=False)
        self.decay, self.tau, self.updates = decay, tau, 0
        ours, theirs = average.state_dict(), network.state_dict()
        floating = [name for name, value in ours.items() if value.is_floating_point()]
        counters = [name for name in ours if name not in set(floating)]
        # State-dict values share their memory with the networks, so these lists stay current.
        self._averages, self._sources = [ours[n] for n in floating], [theirs[n] for n in floating]
        self._counters = [(ours[n], theirs[n]) for n in counters]

        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Start again, from the network's present values."""
        self.updates = 0
        torch._foreach_copy_(self._averages, self._sources)
        for ours, theirs in self._counters:
            ours.copy_(theirs)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's present weights."""
        self.updates += 1
        decay = averaging_decay(self.decay, self.tau, self.updates)
        torch._foreach_lerp_(self._averages, self._sources, 1 - decay)
        for ours, theirs in self._counters:
            ours.copy_(theirs)


class NetworkSession:
    """A session (see ``segc.sessions``) on a network as it is now, for validation during training.

    Args:
        network: in evaluation mode.
        metadata: what its weights say about themselves.
        device: where the network is.
    """

    def __init__(self, network: SegmentationNetwork, metadata: Metadata, device: torch.device) -> None:
        self.metadata = replace(metadata, dynamic=True)
        self.runtime = f"PyTorch on {device}"
        self._network, self._device = network, device

    @torch.no_grad()
    def run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Images [N, 3, H, W] (RGB in 0..1) to boxes, scores, coefficients and prototypes in float32."""
        x = torch.from_numpy(images).to(self._device, memory_format=torch.channels_last)
        outputs: dict[str, Tensor] = self._network(x)
        return {name: value.float().cpu().numpy() for name, value in outputs.items()}

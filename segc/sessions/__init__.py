"""Models ready to run: trained weights in PyTorch or onnxruntime, or an artifact in its own runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from segc.inference.metadata import Metadata


class Session(Protocol):
    """A model ready to run, whatever runs it: ``segc.inference.model.Model`` is one."""

    @property
    def metadata(self) -> Metadata:
        """What it says about itself."""
        ...

    @property
    def runtime(self) -> str:
        """What runs it, for people: "onnxruntime on the CPU"."""
        ...

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """Run on float32 [N, 3, H, W] RGB images in 0..1; see ``segc.inference.model.Model.run``."""
        ...

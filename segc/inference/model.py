"""A model that is open: what it says about itself, and the function that runs it, whatever runtime is behind it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import Metadata
from segc.inference.postprocess import model_input, named_outputs

Raw = Callable[[npt.NDArray[np.float32]], Mapping[str, npt.NDArray[Any]]]
"""Runs a model as its file has it: images in 0..1, channels where the metadata say, to the outputs by name."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model on its runtime.

    Attributes:
        metadata: what it says about itself.
        runtime: what runs it, for people.
        raw: runs it as it is.
    """

    metadata: Metadata
    runtime: str
    raw: Raw

    def run(self, images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Run on float32 [N, 3, H, W] RGB images in 0..1.

        Returns:
            float32 ``boxes`` [N, A, 4] (xyxy, pixels of the input), ``scores`` [N, A, nc] in 0..1,
            ``coefficients`` [N, A, K], ``prototypes`` [N, K, H/4, W/4], whatever the layout in the file.

        Raises:
            ModelError: where the outputs are not those that the metadata speak of.
        """
        return named_outputs(self.raw(model_input(images, self.metadata)), self.metadata, len(images))


def first_line(error: BaseException) -> str:
    """What a runtime's error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def last_line(error: BaseException) -> str:
    """Likewise, of an error whose first lines are places in the runtime's sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__

"""A model that is open: what it says about itself, and the function that runs it, whatever runtime is behind it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import Metadata, ModelError
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

    def run(self, images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """Run on float32 [N, 3, H, W] RGB images in 0..1.

        Returns:
            float32 ``boxes`` [N, A, 4] (xyxy, pixels of the input), ``scores`` [N, A, nc] in 0..1,
            ``coefficients`` [N, A, K], ``prototypes`` [N, K, H/4, W/4], whatever the layout in the file. Of a model
            that finishes masks by itself: boxes and scores of A detections, and ``masks`` [N, A, H, W] of any type, 0
            where they are not.

        Raises:
            ModelError: where the outputs are not those that the metadata speak of.
        """
        return named_outputs(self.raw(model_input(images, self.metadata)), self.metadata, len(images))


class DeviceError(ModelError):
    """A device that was asked for and is not here, or that the runtime does not know."""


def asked_device(asked: str | None, devices: Sequence[str], runtime: str) -> str:
    """The device to run on, of those that a runtime knows, in small letters.

    Args:
        asked: what was asked for; None where nothing was, which gives the first of ``devices``, as does ``auto`` where
            it is not among them.
        devices: what the runtime knows.
        runtime: its name, for people.

    Raises:
        DeviceError: where the runtime does not know it.
    """
    chosen = devices[0] if asked is None else asked.lower()
    if chosen == "auto" and chosen not in devices:
        return devices[0]
    if chosen not in devices:
        raise DeviceError(f"{runtime} knows no device {chosen[:60]!r}, but {', '.join(devices)}")
    return chosen


def first_line(error: BaseException) -> str:
    """What a runtime's error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def last_line(error: BaseException) -> str:
    """Likewise, of an error whose first lines are places in the runtime's sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__

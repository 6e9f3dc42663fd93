"""Core ML programs where there is no Core ML: the saved program is evaluated."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import METADATA_KEY, check_form, parse_metadata
from segc.inference.model import Model, asked_device
from segc.targets.coreml.program import Program


def open_model(path: Path, threads: int, device: str | None = None) -> Model:  # noqa: ARG001 - numpy has chosen them
    """Read a package.

    Raises:
        ModelError: where it is damaged, not a model, or not one of segc.
    """
    asked_device(device, ("cpu",), "segc's evaluator")
    program = Program(path)
    metadata = parse_metadata(program.user_metadata.get(METADATA_KEY))
    check_form(metadata, [program.input_shape], program.outputs)

    def raw(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        # Whole numbers again, exactly, where the images were pixels: k / 255 * 255 is k in float32 for all of 0..255.
        return program.run(images * np.float32(255))

    return Model(metadata, "segc's evaluator of the saved Core ML program (Apple's runtime was not involved)", raw)

"""Core ML programs in Core ML itself, on macOS."""

import logging
import os
import platform
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import METADATA_KEY, ModelError, check_form, parse_metadata
from segc.inference.model import DeviceError, Model, asked_device, first_line

_FRAMEWORKS = ("executorch", "libsvm", "scipy", "sklearn", "tensorflow", "torch", "xgboost")
"""What coremltools imports where it finds it."""


def load_coremltools() -> Any:
    """The package coremltools without the frameworks that it converts from, whose import takes 10 to 20 seconds.

    Nothing is said of what is missing where Apple's frameworks are not, and there are no bars of progress.
    """
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    hidden = [name for name in _FRAMEWORKS if name not in sys.modules]
    # Python's own way to say that a module cannot be imported.
    cast("dict[str, None]", sys.modules).update(dict.fromkeys(hidden))
    try:
        with patch.dict(os.environ, {"TQDM_DISABLE": "1"}):
            return import_module("coremltools")
    finally:
        for name in hidden:
            del sys.modules[name]


UNITS = {"auto": "ALL", "cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "npu": "CPU_AND_NE"}
"""Core ML's own names of what a model may run on; it chooses for each operator, and takes the CPU beside the other."""

DEVICES = tuple(UNITS)
"""Where it can run."""


def open_model(path: Path, threads: int, device: str | None = None) -> Model:  # noqa: ARG001 - all are opened alike
    """Load a package into Core ML, which chooses threads by itself, and among processors where it is left the choice.

    Args:
        path: the package, a folder.
        threads: mean nothing to it.
        device: one of ``DEVICES``; ``auto`` if None.

    Raises:
        DeviceError: where the device is not here.
        ModelError: where it is not there, not a model, or not one of segc, or where there is no Core ML.
    """
    # str, since type checkers would take what follows for dead on other systems.
    if str(sys.platform) != "darwin":
        raise ModelError("Core ML runs on macOS only: elsewhere `segc predict --artifact` evaluates the model")
    chosen = asked_device(device, DEVICES, "Core ML")
    if chosen == "npu" and platform.machine() != "arm64":
        raise DeviceError("this Mac has no Neural Engine")
    if not path.is_dir():
        raise ModelError("no such model")
    from PIL import Image

    tools = load_coremltools()
    try:
        package = tools.models.MLModel(str(path), compute_units=tools.ComputeUnit[UNITS[chosen]])
        kept = package.user_defined_metadata.get(METADATA_KEY)
        description = package.get_spec().description
    except Exception as error:  # noqa: BLE001 - Core ML's errors have no common base but this
        raise ModelError(f"Core ML cannot load it: {first_line(error)}") from None
    metadata = parse_metadata(kept)
    pictures = [(source.name, source.type.imageType) for source in description.input]
    shapes = [[1, 3, picture.height, picture.width] for _, picture in pictures]
    check_form(metadata, shapes, [output.name for output in description.output])
    name = pictures[0][0]

    def raw(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        # The model wants the pixels of a picture; it divides by 255 itself.
        frames = np.rint(images * np.float32(255)).astype(np.uint8).transpose(0, 2, 3, 1)
        try:
            answers = [package.predict({name: Image.fromarray(np.ascontiguousarray(frame))}) for frame in frames]
            return {key: np.concatenate([answer[key] for answer in answers]) for key in answers[0]}
        except Exception as error:  # noqa: BLE001 - likewise
            raise ModelError(f"Core ML cannot run it: {first_line(error)}") from None

    return Model(metadata, f"Core ML through coremltools, on {UNITS[chosen]}", raw)

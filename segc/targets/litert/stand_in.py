"""What evaluates a model for the Edge TPU where there is no such chip: LiteRT on the CPU, with the model from before.

That is kept beside the compiled one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from segc.inference.metadata import ModelError
from segc.targets.litert import guard, runtime

if TYPE_CHECKING:
    from pathlib import Path

    from segc.inference.model import Model


def model_before(path: Path) -> Path:
    """Where the model lies that a compiled one was made from."""
    return path.with_name(f"{path.name.removesuffix(runtime.EDGETPU_SUFFIX)}.tflite")


def is_wanted(path: Path) -> bool:
    """Whether a model is compiled, there is no chip here, and the model from before is beside it."""
    try:
        compiled = runtime.COMPILED in runtime.read_model(path)[0]
    except ModelError:
        return False
    return compiled and model_before(path).is_file() and runtime.find_delegate(runtime.EDGETPU_LIBRARY) is None


def open_model(path: Path, threads: int, device: str | None = None) -> Model:
    """Load the model from before a model was compiled; for the arguments see the runtime.

    Raises:
        DeviceError: where it is asked for on the chip, which is not here.
        ModelError: where that cannot be run, or is another model.
        SegcError: T006 where it is none of segc.
    """
    before = model_before(path)
    guard.check(before)
    model = runtime.open_model(before, threads, device)
    if model.metadata != runtime.read_model(path)[1]:
        raise ModelError(f"it was not made from {before.name} beside it: their metadata differ")
    text = "LiteRT on the CPU, with the model as it was before it was compiled for the Edge TPU"
    return replace(model, runtime=text)

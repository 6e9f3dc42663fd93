"""The ONNX model that an engine is to be built from: what can be run of a build kit where no engine can."""

from dataclasses import replace
from pathlib import Path

from segc.inference.model import Model
from segc.targets.onnx import runtime


def open_model(path: Path, threads: int, device: str | None = None) -> Model:
    """See ``segc.targets.onnx.runtime``.

    Raises:
        DeviceError: where the device is not here.
        ModelError: where it is not a model of segc.
    """
    model = runtime.open_model(path, threads, device)
    return replace(model, runtime=f"the ONNX model of the build kit, {model.runtime}; no engine was run")

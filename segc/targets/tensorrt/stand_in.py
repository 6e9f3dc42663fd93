"""The ONNX model that an engine is to be built from: what can be run of a build kit where no engine can."""

from dataclasses import replace
from pathlib import Path

from segc.inference.model import Model
from segc.targets.onnx import runtime


def open_model(path: Path, threads: int) -> Model:
    """See ``segc.targets.onnx.runtime``.

    Raises:
        ModelError: where it is not a model of segc.
    """
    model = runtime.open_model(path, threads)
    return replace(model, runtime="the ONNX model of the build kit on onnxruntime; no engine was run")

"""ONNX models in onnxruntime."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import METADATA_KEY, ModelError, check_form, parse_metadata
from segc.inference.model import DeviceError, Model, asked_device, first_line

PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu tensorrt"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "directml": ("DmlExecutionProvider", "onnxruntime-directml"),
}
"""Onnxruntime's own names of what it runs on, and the packages that bring it."""

DEVICES = (*PROVIDERS, "auto")
"""Where it can run."""

PREFERRED = ("cuda", "directml", "cpu")
"""What ``auto`` takes the first of that is here. The others are asked for by name: TensorRT builds an engine
first, for minutes, and Core ML and OpenVINO may compute in fp16."""

PROVIDER_OPTIONS = {"cuda": {"use_tf32": "0"}}
"""What says fp32 computes in fp32."""


def import_onnxruntime() -> Any:
    """The package, kept from telling its makers that it was imported, and what it is given to run."""
    # It would also leave files in the home folder and the temporary one; it asks as soon as it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def open_model(path: Path, threads: int, device: str | None = None) -> Model:
    """Load a model into onnxruntime.

    Args:
        path: the file.
        threads: within an operator; 0 leaves onnxruntime the choice.
        device: one of ``DEVICES``; ``cpu`` if None.

    Raises:
        DeviceError: where that is not here.
        ModelError: where the model is not there, not a model, or not one of segc.
    """
    asked = asked_device(device, DEVICES, "onnxruntime")
    onnxruntime = import_onnxruntime()
    if not path.is_file():
        raise ModelError("no such model")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    # Threads that keep their processors busy while they wait take them from the reading of the next images.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = 3
    chosen = available_provider(asked, onnxruntime.get_available_providers())
    name = PROVIDERS[chosen][0]
    providers: list[Any] = [name]
    if chosen != "cpu":
        # What a provider does not have runs on the CPU.
        providers = [(name, PROVIDER_OPTIONS.get(chosen, {})), PROVIDERS["cpu"][0]]
        # Asked of its users by DirectML: https://onnxruntime.ai/docs/execution-providers/DirectML-ExecutionProvider.html
        settings.enable_mem_pattern = chosen != "directml"
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=providers)
        kept = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base but this
        raise ModelError(f"onnxruntime cannot load it: {first_line(error)}") from None
    place = "the CPU" if chosen == "cpu" else f"{name}{started(session, name)}"
    metadata = parse_metadata(kept)
    inputs, names = session.get_inputs(), [output.name for output in session.get_outputs()]
    check_form(metadata, [tensor.shape for tensor in inputs], names)
    source = inputs[0].name

    def raw(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        try:
            return dict(zip(names, session.run(names, {source: images}), strict=True))
        except Exception as error:  # noqa: BLE001 - likewise
            raise ModelError(f"onnxruntime cannot run it: {first_line(error)}") from None

    return Model(metadata, f"onnxruntime on {place}", raw)


def available_provider(asked: str, there: Sequence[str]) -> str:
    """The key of ``PROVIDERS`` to run on, given the names of those that this onnxruntime has.

    Raises:
        DeviceError: where it does not have what was asked for.
    """
    if asked == "auto":
        return next(kind for kind in PREFERRED if PROVIDERS[kind][0] in there)
    name, packages = PROVIDERS[asked]
    if name not in there:
        system = {"coreml": " on macOS", "directml": " on Windows"}.get(asked, "")
        raise DeviceError(f"this onnxruntime has no {name}: in its place, pip install {packages}{system}")
    return asked


def started(session: Any, name: str) -> str:
    """How much of a model a provider does not run, for people; onnxruntime goes to the CPU without a word.

    Raises:
        DeviceError: where it does not run at all.
    """
    if session.get_providers()[0] != name:
        raise DeviceError(f"{name} does not start on this machine: its driver or libraries are missing")
    # From onnxruntime 1.24 on.
    assigned: list[Any] = getattr(session, "get_provider_graph_assignment_info", list)()
    elsewhere = sum(len(part.get_nodes()) for part in assigned if part.ep_name != name)
    if elsewhere and all(part.ep_name != name for part in assigned):
        raise DeviceError(f"{name} takes no operator of this model: all would run on the CPU")
    return f", {elsewhere} operators on the CPU" if elsewhere else ""

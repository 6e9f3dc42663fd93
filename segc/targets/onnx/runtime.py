"""ONNX models in onnxruntime."""

import contextlib
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
"""What ``auto`` takes the first of that starts here. The others are asked for by name: TensorRT builds an engine
first, for minutes, and Core ML and OpenVINO may compute in fp16."""

NVIDIA = ("cuda", "tensorrt")
"""What needs the libraries of CUDA."""

WARNING, FATAL = 2, 4
"""Of onnxruntime's log: from where on it writes, unless told otherwise, and its highest level."""

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
    session, place = open_session(onnxruntime, path, threads, asked)
    try:
        kept = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base but this
        raise ModelError(f"onnxruntime cannot read its metadata: {first_line(error)}") from None
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


def open_session(onnxruntime: Any, path: Path, threads: int, asked: str) -> tuple[Any, str]:
    """A model on the first of its providers that starts, and which one this is, for people.

    Raises:
        DeviceError: where none does.
        ModelError: where onnxruntime does not take the model.
    """
    passed = ""
    for provider in available_providers(asked, onnxruntime.get_available_providers()):
        session = start(onnxruntime, path, threads, provider)
        name = PROVIDERS[provider][0]
        if provider == "cpu":
            return session, f"the CPU{passed}"
        try:
            return session, f"{name}{started(session, name)}{passed}"
        except DeviceError as error:
            if asked != "auto":
                raise
            passed = f", as {error}"
    raise DeviceError("this onnxruntime has none of its providers")


def start(onnxruntime: Any, path: Path, threads: int, provider: str) -> Any:
    """A model, loaded to run on a provider, or on the CPU where that does not start.

    Raises:
        ModelError: where onnxruntime does not take it.
    """
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    # Threads that keep their processors busy while they wait take them from the reading of the next images.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = 3
    name = PROVIDERS[provider][0]
    providers: list[Any] = [name]
    if provider != "cpu":
        # What a provider does not have runs on the CPU.
        providers = [(name, PROVIDER_OPTIONS.get(provider, {})), PROVIDERS["cpu"][0]]
        # Asked of its users by DirectML: https://onnxruntime.ai/docs/execution-providers/DirectML-ExecutionProvider.html
        settings.enable_mem_pattern = provider != "directml"
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider in NVIDIA:
        load_libraries(onnxruntime)
    # That a provider does not start is told by us.
    onnxruntime.set_default_logger_severity(FATAL)
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=providers)
    except Exception as error:  # noqa: BLE001 - as where a model is opened
        raise ModelError(f"onnxruntime cannot load it: {first_line(error)}") from None
    finally:
        onnxruntime.set_default_logger_severity(WARNING)


def load_libraries(onnxruntime: Any) -> None:
    """Have the libraries of CUDA found that pip installed; those of the system are found anyway."""
    if preload := getattr(onnxruntime, "preload_dlls", None):  # from onnxruntime 1.21 on
        with contextlib.redirect_stdout(None):  # it prints what it does not find
            preload()


def available_providers(asked: str, there: Sequence[str]) -> list[str]:
    """The keys of ``PROVIDERS`` to try, given the names of those that this onnxruntime has.

    Raises:
        DeviceError: where it does not have what was asked for.
    """
    if asked == "auto":
        return [kind for kind in PREFERRED if PROVIDERS[kind][0] in there]
    name, packages = PROVIDERS[asked]
    if name not in there:
        system = {"coreml": " on macOS", "directml": " on Windows"}.get(asked, "")
        raise DeviceError(f"this onnxruntime has no {name}: in its place, pip install {packages}{system}")
    return [asked]


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

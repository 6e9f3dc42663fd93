"""OpenVINO models in OpenVINO."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import METADATA_KEY, ModelError, check_form, parse_metadata
from segc.inference.model import DeviceError, Model, asked_device, last_line

METADATA_PLACE = ["model_info", METADATA_KEY]
"""Where the metadata stand in the .xml, below ``rt_info``."""

LONGEST_TOPOLOGY = 1 << 26
"""Most bytes of an .xml that are read; scale x takes half a million."""

PRECISION_HINT = "f32"
"""What the processor computes in, so that it finds what was trained. Faster where the processor can: "bf16" (boxes move
by several pixels), or "f16"; OpenVINO takes bf16 by itself where nothing is said."""


PLUGINS = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU", "auto": "AUTO"}
"""OpenVINO's own names of devices; AUTO chooses, of what is there."""

DEVICES = tuple(PLUGINS)
"""Where it can run."""

DRIVERS = {"gpu": "Intel's compute runtime for GPUs", "npu": "Intel's driver for the NPU"}
"""What OpenVINO needs beside itself."""


def import_openvino() -> Any:
    """The package, kept from telling its makers that it was imported."""
    # The package that does the telling would also leave files in the home folder.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def open_model(path: Path, threads: int, device: str | None = None) -> Model:
    """Load a model's folder into OpenVINO.

    Args:
        path: the folder.
        threads: of a run on the CPU; 0 leaves OpenVINO the choice.
        device: one of ``DEVICES``; ``cpu`` if None.

    Raises:
        DeviceError: where that is not here.
        ModelError: where the model is not there, not a model, or not one of segc.
    """
    chosen = asked_device(device, DEVICES, "OpenVINO")
    topology = find_topology(path)
    core = import_openvino().Core()
    check_plugin(chosen, core)
    try:
        model = core.read_model(topology)
        kept = model.get_rt_info(METADATA_PLACE).astype(str) if model.has_rt_info(METADATA_PLACE) else None
        shapes = [[-1 if side.is_dynamic else side.get_length() for side in one.partial_shape] for one in model.inputs]
        names = [output.get_any_name() for output in model.outputs]
    except Exception as error:  # noqa: BLE001 - most are RuntimeErrors, and nothing says that all are
        raise ModelError(f"OpenVINO cannot load it: {last_line(error)}") from None
    metadata = parse_metadata(kept)
    check_form(metadata, shapes, names)
    try:
        compiled = core.compile_model(model, PLUGINS[chosen], compile_settings(chosen, threads))
        places = ["the CPU" if place == "CPU" else place for place in compiled.get_property("EXECUTION_DEVICES")]
    except Exception as error:  # noqa: BLE001 - likewise
        raise ModelError(f"OpenVINO cannot load it: {last_line(error)}") from None

    def raw(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        try:
            values = compiled([images])
        except Exception as error:  # noqa: BLE001 - likewise
            raise ModelError(f"OpenVINO cannot run it: {last_line(error)}") from None
        return {name: values[name] for name in names}

    computed = "fp16" if chosen == "npu" else "fp32"
    if metadata.precision == "int8":
        computed = f"int8 and {computed}"
    return Model(metadata, f"OpenVINO on {', '.join(places)}, in {computed}", raw)


def check_plugin(chosen: str, core: Any) -> None:
    """See that a device is there: without it, what OpenVINO says is of its own insides.

    Raises:
        DeviceError: where it is not.
    """
    if chosen not in DRIVERS:
        return
    there = core.available_devices
    if not any(name.partition(".")[0] == PLUGINS[chosen] for name in there):
        text = f"OpenVINO finds no {PLUGINS[chosen]} here, only {', '.join(there)}"
        raise DeviceError(f"{text}: where there is one, {DRIVERS[chosen]} is missing")


def compile_settings(chosen: str, threads: int) -> dict[str, Any]:
    """What OpenVINO is told beside the model; 0 threads leave it the choice."""
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if chosen != "npu":  # which computes in fp16 and nothing else
        settings["INFERENCE_PRECISION_HINT"] = PRECISION_HINT
    if chosen == "auto":
        # Otherwise it would begin on the CPU and move on later, whatever was said of where it runs.
        settings["ENABLE_STARTUP_FALLBACK"] = False
    if threads and chosen in {"cpu", "auto"}:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def find_topology(path: Path) -> Path:
    """The .xml of a model's folder, whose .bin lies beside it.

    Raises:
        ModelError: where there is none, several, one without weights, or one that describes no network.
    """
    if not path.is_dir():
        raise ModelError("no such model: it is a folder with an .xml and its .bin")
    found = sorted(path.glob("*.xml"))
    if len(found) != 1 or not found[0].is_file():
        raise ModelError(f"not an OpenVINO model: {len(found)} .xml files in it")
    (topology,) = found
    if not topology.with_suffix(".bin").is_file():
        raise ModelError(f"the weights are gone: no {topology.stem}.bin beside {topology.name}")
    with topology.open("rb") as file:
        start = file.read(256)
    # What is no such file OpenVINO would try to read as a model of every other framework.
    if b"<net " not in start or topology.stat().st_size > LONGEST_TOPOLOGY:
        raise ModelError(f"{topology.name} is not a network of OpenVINO")
    return topology

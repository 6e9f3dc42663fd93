"""TensorRT engines on the first NVIDIA GPU."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import LONGEST_METADATA, ModelError, check_form, parse_metadata
from segc.inference.model import Model, asked_device, first_line
from segc.targets.tensorrt.engine import Engine, Gpu, load_tensorrt


def split_header(content: bytes) -> tuple[bytes, bytes]:
    """The metadata, as JSON text, and the engine in a file: 4 bytes say how long the metadata in front are.

    Raises:
        ModelError: where the file does not begin like one.
    """
    length = int.from_bytes(content[:4], "little")
    if len(content) < 4 or not 2 <= length <= min(LONGEST_METADATA, len(content) - 4) or content[4:5] != b"{":
        raise ModelError("not an engine with metadata in front")
    return content[4 : 4 + length], content[4 + length :]


DEVICES = ("cuda",)
"""Where it can run."""


def open_model(path: Path, threads: int, device: str | None = None) -> Model:  # noqa: ARG001 - all are opened alike
    """Load an engine onto the GPU. TensorRT runs what is in it: open only what comes from people you trust.

    Args:
        path: the file.
        threads: mean nothing to it.
        device: ``cuda``.

    Raises:
        ModelError: where it is not there, not an engine of segc, or cannot run here.
    """
    asked_device(device, DEVICES, "TensorRT")
    if not path.is_file():
        raise ModelError("no such engine: python build_engine.py builds it, on the machine with the GPU")
    try:
        text, content = split_header(path.read_bytes())
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror}") from None
    metadata = parse_metadata(text)
    try:
        gpu, trt = Gpu(), load_tensorrt()
        engine = Engine(trt, gpu, content)
    except Exception as error:  # noqa: BLE001 - beside those of the engine's own kind TensorRT's, which have no base
        raise ModelError(first_line(error)) from None
    check_form(metadata, list(engine.inputs.values()), engine.outputs)

    def raw(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        try:
            return engine.run(images)
        except Exception as error:  # noqa: BLE001 - likewise
            raise ModelError(first_line(error)) from None

    return Model(metadata, f"TensorRT {trt.__version__} on {gpu.name}", raw)

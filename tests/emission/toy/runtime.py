"""Compressed ONNX models in onnxruntime."""

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import METADATA_KEY, ModelError, check_form, parse_metadata
from segc.inference.model import Model, asked_device, first_line

DEVICES = ("cpu",)


def open_model(path: Path, threads: int, device: str | None = None) -> Model:
    """Load a model into onnxruntime.

    Raises:
        ModelError: where it is not there or not a model.
    """
    asked_device(device, DEVICES, "onnxruntime")
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    try:
        content = gzip.decompress(path.read_bytes())
        session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime and gzip have no common base but this
        raise ModelError(f"not a compressed model: {first_line(error)}") from None
    metadata = parse_metadata(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY))
    names = [output.name for output in session.get_outputs()]
    check_form(metadata, [tensor.shape for tensor in session.get_inputs()], names)

    def raw(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        return dict(zip(names, session.run(names, {"images": images}), strict=True))

    return Model(metadata, "onnxruntime on the CPU, after gzip", raw)

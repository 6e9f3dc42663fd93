"""ONNX models in onnxruntime, on the CPU."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import METADATA_KEY, ModelError, check_form, parse_metadata
from segc.inference.model import Model, first_line


def open_model(path: Path, threads: int) -> Model:
    """Load a model into onnxruntime.

    Args:
        path: the file.
        threads: within an operator; 0 leaves onnxruntime the choice.

    Raises:
        ModelError: where it is not there, not a model, or not one of segc.
    """
    import onnxruntime

    if not path.is_file():
        raise ModelError("no such model")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    # Threads that keep their processors busy while they wait take them from the reading of the next images.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        kept = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base but this
        raise ModelError(f"onnxruntime cannot load it: {first_line(error)}") from None
    metadata = parse_metadata(kept)
    inputs, names = session.get_inputs(), [output.name for output in session.get_outputs()]
    check_form(metadata, [tensor.shape for tensor in inputs], names)
    source = inputs[0].name

    def raw(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        try:
            return dict(zip(names, session.run(names, {source: images}), strict=True))
        except Exception as error:  # noqa: BLE001 - likewise
            raise ModelError(f"onnxruntime cannot run it: {first_line(error)}") from None

    return Model(metadata, "onnxruntime on the CPU", raw)

"""SavedModels in TensorFlow, on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import ModelError, check_form, parse_metadata
from segc.inference.model import Model, asked_device, first_line
from segc.targets.sidecar import read_sidecar
from segc.targets.tensorflow.operations import check_operations, check_tensors, read_message, start_tensorflow

MESSAGE, EXTRA = "saved_model.pb", "assets.extra"
"""What is in a SavedModel of segc: the graph, and a folder that the format leaves to its users."""

SIGNATURE = "serving_default"


DEVICES = ("cpu",)
"""Where it can run."""


def open_model(path: Path, threads: int, device: str | None = None) -> Model:
    """Load a SavedModel into TensorFlow, to call it by its signature.

    Args:
        path: the folder.
        threads: within an operator; 0 leaves TensorFlow the choice.
        device: ``cpu``.

    Raises:
        ModelError: where it is not there, not a model, or not one of segc.
    """
    asked_device(device, DEVICES, "TensorFlow")
    if not path.is_dir():
        raise ModelError("no such model")
    if not (path / EXTRA).is_dir():
        raise ModelError(f"not a model of segc: there is no {EXTRA} in it")
    metadata = parse_metadata(read_sidecar(path / EXTRA))
    tf = start_tensorflow(threads)
    _check_saved_model(path)
    try:
        model = tf.saved_model.load(str(path))
        signature = model.signatures[SIGNATURE]
        inputs = signature.structured_input_signature[1]
        outputs = signature.structured_outputs
    except Exception as error:  # noqa: BLE001 - TensorFlow's errors have no common base but this
        raise ModelError(f"TensorFlow cannot load it: {first_line(error)}") from None
    check_tensors(signature.graph.get_operations())
    check_form(metadata, [tensor.shape.as_list() for tensor in inputs.values()], outputs)
    (source,) = inputs

    def raw(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        try:
            # A signature does not outlive its model, so that is what is held.
            values: dict[str, Any] = model.signatures[SIGNATURE](**{source: tf.constant(images)})
            return {name: value.numpy() for name, value in values.items()}
        except Exception as error:  # noqa: BLE001 - likewise
            raise ModelError(f"TensorFlow cannot run it: {first_line(error)}") from None

    return Model(metadata, "TensorFlow on the CPU", raw)


def _check_saved_model(path: Path) -> None:
    """See that TensorFlow will load nothing but one plain graph, which is looked at here.

    Raises:
        ModelError: otherwise.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    # TensorFlow would take a graph, or values of variables, from other files of its own too.
    if others := {one.name for one in path.iterdir() if not one.name.startswith(".")} - {MESSAGE, EXTRA}:
        raise ModelError(f"not a model of segc: there is {min(others)!r:.60} in it")
    message = SavedModel()
    read_message(message, path / MESSAGE)
    if len(message.meta_graphs) != 1:
        raise ModelError(f"not a model of segc: it has {len(message.meta_graphs)} graphs")
    (graph,) = message.meta_graphs
    check_operations(graph.graph_def)
    has = {field.name for field, _ in graph.ListFields()}
    if beyond := has - {"meta_info_def", "graph_def", "signature_def"}:
        raise ModelError(f"not a model of segc: beside its graph it has {min(beyond)}")
    if set(graph.signature_def) != {SIGNATURE}:
        raise ModelError(f"not a model of segc: its signatures are {sorted(graph.signature_def)!r:.60}")

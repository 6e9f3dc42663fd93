"""Frozen graphs of TensorFlow in a session of TensorFlow's, on the CPU."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import ModelError, check_form, parse_metadata
from segc.inference.model import Model, asked_device, first_line
from segc.targets.sidecar import read_sidecar
from segc.targets.tensorflow.operations import check_operations, check_tensors, read_message, start_tensorflow

DEVICES = ("cpu",)
"""Where it can run."""


def open_model(path: Path, threads: int, device: str | None = None) -> Model:
    """Load a frozen graph into TensorFlow, and what stands in metadata.json beside it.

    Args:
        path: the file.
        threads: within an operator; 0 leaves TensorFlow the choice.
        device: ``cpu``.

    Raises:
        ModelError: where it is not there, not a model, or not one of segc.
    """
    asked_device(device, DEVICES, "TensorFlow")
    if not path.is_file():
        raise ModelError("no such model")
    metadata = parse_metadata(read_sidecar(path.parent))
    tf = start_tensorflow(threads)
    graph, definition = tf.Graph(), tf.compat.v1.GraphDef()
    read_message(definition, path)
    check_operations(definition)
    try:
        with graph.as_default():
            tf.import_graph_def(definition, name="")
        session = tf.compat.v1.Session(graph=graph)
    except Exception as error:  # noqa: BLE001 - TensorFlow's errors have no common base but this
        raise ModelError(f"TensorFlow cannot load it: {first_line(error)}") from None
    operations = graph.get_operations()
    check_tensors(operations)
    inputs = [op.outputs[0] for op in operations if op.type == "Placeholder"]
    # The outputs are what nothing else reads; there is nothing else of this kind in a graph of segc.
    made = [op for op in operations if op.type != "Placeholder"]
    outputs = {op.name: op.outputs[0] for op in made if not any(tensor.consumers() for tensor in op.outputs)}
    check_form(metadata, [tensor.shape.as_list() for tensor in inputs], outputs)

    def raw(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        try:
            return dict(session.run(outputs, {inputs[0]: images}))
        except Exception as error:  # noqa: BLE001 - likewise
            raise ModelError(f"TensorFlow cannot run it: {first_line(error)}") from None

    return Model(metadata, "TensorFlow on the CPU", raw)

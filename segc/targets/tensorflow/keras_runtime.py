"""Keras's own models on TensorFlow, on the CPU."""

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segc.archives import BROKEN, read_entry
from segc.inference.metadata import LONGEST_METADATA, ModelError, check_form, parse_metadata
from segc.inference.model import Model, asked_device, first_line
from segc.targets.tensorflow.operations import LARGEST_MESSAGE, start_tensorflow

KERAS_METADATA, KERAS_LAYERS = "segc.json", "config.json"
"""Members of a model's archive: what segc says about it, which Keras leaves alone, and what Keras builds it of."""

KERAS_CLASSES = frozenset(
    {"Activation", "Add", "BatchNormalization", "Concatenate", "Conv2D", "Conv2DTranspose", "DTypePolicy", "Functional",
     "GlorotUniform", "InputLayer", "MaxPooling2D", "Multiply", "Ones", "Permute", "Reshape", "Softmax", "Split",
     "Subtract", "Sum", "Transpose", "UpSampling2D", "ZeroPadding2D", "Zeros", "__keras_tensor__", "__numpy__"}
)  # fmt: skip
"""Classes of which segc's models are made, by the names that Keras keeps them under."""


def start_keras(threads: int) -> Any:
    """Keras on TensorFlow, see `start_tensorflow`.

    Raises:
        ModelError: where this process has it on something else already.
    """
    start_tensorflow(threads)
    # Keras decides when it is imported, by this and by a file in the home directory.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    if keras.config.backend() != "tensorflow":
        raise ModelError(f"Keras runs on {keras.config.backend()} in this process, and is needed on TensorFlow")
    return keras


DEVICES = ("cpu",)
"""Where it can run."""


def open_model(path: Path, threads: int, device: str | None = None) -> Model:
    """Load a ``.keras`` file.

    Args:
        path: the file.
        threads: within an operator; 0 leaves TensorFlow the choice.
        device: ``cpu``.

    Raises:
        ModelError: where it is not there, not a model, or not one of segc.
    """
    asked_device(device, DEVICES, "Keras on TensorFlow")
    if not path.is_file() or path.stat().st_size > LARGEST_MESSAGE:
        raise ModelError("no such model")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [archive.getinfo(name) for name in (KERAS_METADATA, KERAS_LAYERS)]
            if max(entry.file_size for entry in entries) > LONGEST_METADATA:
                raise OverflowError("longer than any that is written")
            kept, layers = (read_entry(archive, entry) for entry in entries)
            built_of = set(_classes(json.loads(layers)))
    except (OSError, RecursionError, *BROKEN):
        raise ModelError("not a model of segc, or damaged: it is no archive with metadata") from None
    metadata = parse_metadata(kept)
    if foreign := built_of - KERAS_CLASSES:
        raise ModelError(f"not a model of segc: it is made of {min(foreign)!r:.60}")
    keras = start_keras(threads)
    try:
        model = keras.models.load_model(path, compile=False)
        inputs, outputs = [tuple(tensor.shape) for tensor in model.inputs], model.output_names
        named = set(model.output) if isinstance(model.output, dict) else set(outputs)
    except Exception as error:  # noqa: BLE001 - Keras's errors have no common base but this
        raise ModelError(f"Keras cannot load it: {first_line(error)}") from None
    # The batch is free, whatever the metadata say.
    check_form(metadata, [(metadata.batch, *shape[1:]) for shape in inputs], named)

    def raw(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        try:
            return {name: np.asarray(value) for name, value in model(images, training=False).items()}
        except Exception as error:  # noqa: BLE001 - likewise
            raise ModelError(f"Keras cannot run it: {first_line(error)}") from None

    return Model(metadata, "Keras on TensorFlow, on the CPU", raw)


def _classes(value: Any) -> Iterator[str]:
    """Names of the classes in a configuration, however deep."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if "class_name" in one:
                yield str(one["class_name"])
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)

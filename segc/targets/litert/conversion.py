"""Conversion of a graph to a TFLite model, and the archive behind it that says what it is: see ``runtime``."""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import TYPE_CHECKING, Any

from segc.inference.metadata import SIDECAR, metadata_text
from segc.targets.litert.runtime import DIGEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from segc.graph.ir import Graph
    from segc.inference.metadata import Metadata

    Array = NDArray[Any]


def convert(graph: Graph, weights: Mapping[str, Array], precision: str, calibration: Array | None = None) -> bytes:
    """A flatbuffer with the signature ``serving_default``: ``images`` [N, H, W, 3] to the outputs by name.

    Args:
        graph: inference form, after the passes of ``precision``.
        weights: a value for every parameter of the graph.
        precision: ``fp32``; ``fp16``: weights stored in half precision, arithmetic in fp32; ``int8``: all values and
            arithmetic, input and outputs included, boxes in 0..1 of the image.
        calibration: for ``int8``, images [n, 3, H, W] in 0..1.

    Returns:
        The same bytes for the same arguments and package versions.

    Raises:
        SegcError: T008 where TensorFlow does not have an operator.
        ValueError: where there are no images to calibrate on.
    """
    if precision == "int8" and calibration is None:
        raise ValueError("int8 needs images to calibrate on")
    from segc.targets.tensorflow.lowering import concrete_function
    from segc.targets.tensorflow.operations import start_tensorflow

    tf = start_tensorflow(0)
    function = concrete_function(graph, weights, graph.metadata.get("corners", ()))
    # The module has nothing in it, but makes the converter write a signature, and with it the outputs' names.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    if precision == "fp16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    elif precision == "int8" and calibration is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: _samples(calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    content: bytes = converter.convert()
    return content


def _samples(images: Array) -> Iterator[list[Array]]:
    """Images one by one, channels last."""
    import numpy as np

    for index, image in enumerate(images):
        sample = np.ascontiguousarray(image.transpose(1, 2, 0)[None], np.float32)
        if not index:
            # Black and white are there whatever the images are, so that the input's step is 1/255 of full intensity
            # and its zero -128: quantised, a pixel is its byte minus 128.
            sample[0, 0, 0], sample[0, 0, -1] = 0, 1
        yield [sample]


def with_metadata(model: bytes, metadata: Metadata) -> bytes:
    """A flatbuffer with the archive behind it that says what it is; the same bytes for the same arguments."""
    content = io.BytesIO()
    content.write(model)
    members = {SIDECAR: metadata_text(metadata), DIGEST: hashlib.sha256(model).hexdigest()}
    with zipfile.ZipFile(content, "a") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return content.getvalue()

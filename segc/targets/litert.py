"""What TFLite and Edge TPU share: conversion of a graph, a file that says what it is, and the session that runs it.

A ``.tflite`` file is a flatbuffer, which ends where it says. Behind it stands a zip archive, as TFLite's own metadata
have it for associated files (https://ai.google.dev/edge/litert/models/metadata): readers of the flatbuffer do not see
it, and everyone can read it with a zip program.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from segc.archives import BROKEN, read_entry
from segc.diagnostics import fail
from segc.targets.base import Requirement
from segc.targets.session import LONGEST_METADATA, SIDECAR, ArtifactSession, metadata_text, parse_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from segc.graph.ir import Graph

    Array = NDArray[Any]

DIGEST = "model.sha256"
"""Member of the archive: SHA-256 of the bytes before it, in hexadecimal digits."""

LARGEST = 1 << 31
"""Most bytes of a model: a flatbuffer's offsets reach no further."""

RUNTIME = Requirement("ai-edge-litert", "ai_edge_litert", "2.0")


def convert(graph: Graph, weights: Mapping[str, Array], precision: str, calibration: Array | None = None) -> bytes:
    """A flatbuffer with the signature ``serving_default``: ``images`` [N, H, W, 3] to the outputs by name.

    Args:
        graph: inference form of fixed size, batch norms unfolded.
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
    from segc.graph.passes import fixed_anchors, fold_batch_norm
    from segc.graph.quantisation import levels_apart, normalized_boxes
    from segc.targets.tensorflow import concrete_function, import_tensorflow

    tf = import_tensorflow()
    graph, weights = fixed_anchors(*fold_batch_norm(graph, weights))
    if precision == "int8":
        graph, weights = normalized_boxes(*levels_apart(graph, weights))
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


def with_metadata(model: bytes, metadata: Mapping[str, Any]) -> bytes:
    """A flatbuffer with the archive behind it that says what it is; the same bytes for the same arguments."""
    content = io.BytesIO()
    content.write(model)
    members = {SIDECAR: metadata_text(metadata), DIGEST: hashlib.sha256(model).hexdigest()}
    with zipfile.ZipFile(content, "a") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return content.getvalue()


def read_model(path: Path) -> tuple[bytes, dict[str, Any]]:
    """A flatbuffer as segc wrote it, and its metadata.

    Raises:
        SegcError: T006 where the file is not by segc, or damaged. LiteRT does not look: it would crash.
    """
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise fail("T006", "not a TFLite model", file=path)
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.getinfo(name) for name in (SIDECAR, DIGEST)}
            if any(member.file_size > LONGEST_METADATA for member in members.values()):
                raise fail("T006", "damaged: its metadata are too long", file=path)
            text, digest = (read_entry(archive, member) for member in members.values())
        model = content[: min(member.header_offset for member in members.values())]
    except BROKEN:
        raise fail("T006", "not a model of segc, or cut off: there are no metadata at its end", file=path) from None
    metadata = parse_metadata(text, path)
    if hashlib.sha256(model).hexdigest().encode() != digest:
        raise fail("T006", "damaged: its digest is another", file=path, help="emit it again, or copy it again")
    return model, metadata


@contextmanager
def quiet() -> Iterator[None]:
    """Keep off what native code writes to standard error: LiteRT announces its own parts there."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class LiteRtSession(ArtifactSession):
    """A model of segc on LiteRT's interpreter.

    Args:
        path: the model, for messages.
        model: the flatbuffer.
        metadata: what it says about itself.
        threads: 0 leaves LiteRT the choice.
        delegates: of LiteRT, to run parts of the model elsewhere.
        runtime: what then runs it.
    """

    def __init__(
        self,
        path: Path,
        model: bytes,
        metadata: dict[str, Any],
        threads: int = 0,
        *,
        delegates: tuple[Any, ...] = (),
        runtime: str = "LiteRT on the CPU",
    ) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.metadata, self.runtime = metadata, runtime
        try:
            with quiet():
                interpreter = Interpreter(
                    model_content=model, num_threads=threads or None, experimental_delegates=list(delegates)
                )
                interpreter.allocate_tensors()
                self._run = interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            text = f"LiteRT cannot load it: {str(error).splitlines()[0][:200]}"
            raise fail("T006", text, file=path, help="emit it again, or copy it again") from None
        [(self._input, self._details)] = self._run.get_input_details().items()
        self._outputs = self._run.get_output_details()

    def raw(self, images: NDArray[np.float32]) -> dict[str, Array]:
        """See :meth:`segc.targets.session.ArtifactSession.raw`. Integers are taken and given as what they stand for."""
        made = self._run(**{self._input: quantised(images, self._details)})
        return {name: dequantised(value, self._outputs[name]) for name, value in made.items()}


def quantised(values: Array, details: Mapping[str, Any]) -> Array:
    """Real numbers as a tensor with LiteRT's ``details`` has them: themselves, or the nearest of its integers."""
    import numpy as np

    kind = details["dtype"]
    if np.issubdtype(kind, np.floating):
        return values.astype(kind)
    scale, zero = details["quantization"]
    limits = np.iinfo(kind)
    result: Array = np.clip(np.rint(values / scale) + zero, limits.min, limits.max).astype(kind)
    return result


def dequantised(values: Array, details: Mapping[str, Any]) -> Array:
    """What a tensor's values stand for, in fp32."""
    import numpy as np

    if np.issubdtype(values.dtype, np.floating):
        return values.astype(np.float32)
    scale, zero = details["quantization"]
    result: Array = (values.astype(np.float32) - zero) * np.float32(scale)
    return result

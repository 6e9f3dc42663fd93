"""TFLite models in LiteRT: on the CPU, and on an Edge TPU where they were compiled for it.

A ``.tflite`` file is a flatbuffer, which ends where it says. Behind it stands a zip archive, as TFLite's own metadata
have it for associated files (https://ai.google.dev/edge/litert/models/metadata): readers of the flatbuffer do not see
it, and everyone can read it with a zip program.
"""

import ctypes
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segc.archives import BROKEN, read_entry
from segc.inference.metadata import LONGEST_METADATA, SIDECAR, Metadata, ModelError, check_form, parse_metadata
from segc.inference.model import Model, first_line

DIGEST = "model.sha256"
"""Member of the archive: SHA-256 of the bytes before it, in hexadecimal digits."""

LARGEST_FLATBUFFER = 1 << 31
"""Most bytes of a model: a flatbuffer's offsets reach no further."""

COMPILED = b"edgetpu-custom-op"
"""The operator that stands for what Edge TPU's compiler took over."""

EDGETPU_LIBRARY, EDGETPU_SUFFIX = "libedgetpu.so.1", "_edgetpu.tflite"


def open_model(path: Path, threads: int) -> Model:
    """Load a model into LiteRT.

    Args:
        path: the file.
        threads: of the CPU; 0 leaves LiteRT the choice.

    Raises:
        ModelError: where it is not there, not a model, not one of segc, or one for a chip that is not here.
    """
    content, metadata = read_model(path)
    runtime, chip = "LiteRT on the CPU", None
    if COMPILED in content:
        runtime, chip = "LiteRT and an Edge TPU", find_edgetpu()
        if chip is None:
            before = f"{path.name.removesuffix(EDGETPU_SUFFIX)}.tflite"
            text = "it is compiled for the Edge TPU, and there is none here, or its library is not installed: "
            raise ModelError(f"{text}take {before}, the model from before, which runs on the CPU")
    elif path.name.endswith(EDGETPU_SUFFIX):
        runtime = "LiteRT on the CPU; the model is not compiled for the Edge TPU"
    from ai_edge_litert.interpreter import Interpreter

    delegates = [] if chip is None else [chip]
    try:
        with native_silence():
            interpreter = Interpreter(
                model_content=content, num_threads=threads or None, experimental_delegates=delegates
            )
            interpreter.allocate_tensors()
            signature = interpreter.get_signature_runner()
            inputs, outputs = signature.get_input_details(), signature.get_output_details()
    except Exception as error:  # noqa: BLE001 - LiteRT's errors have no common base but this
        raise ModelError(f"LiteRT cannot load it: {first_line(error)}") from None
    check_form(metadata, [details["shape"].tolist() for details in inputs.values()], outputs)
    [(source, taken)] = inputs.items()

    def raw(images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        if images.shape != tuple(taken["shape"]):
            raise ModelError(f"it takes images of {taken['shape'].tolist()}, not {list(images.shape)}")
        try:
            made = signature(**{source: quantised(images, taken)})
        except Exception as error:  # noqa: BLE001 - likewise
            raise ModelError(f"LiteRT cannot run it: {first_line(error)}") from None
        return {name: dequantised(value, outputs[name]) for name, value in made.items()}

    return Model(metadata, runtime, raw)


def read_model(path: Path) -> tuple[bytes, Metadata]:
    """A flatbuffer as segc wrote it, and what it says about itself in the archive behind it.

    Raises:
        ModelError: where the file is not by segc, or damaged. LiteRT does not look: it would crash.
    """
    if not path.is_file():
        raise ModelError("no such model")
    if path.stat().st_size > LARGEST_FLATBUFFER:
        raise ModelError("not a TFLite model: it is too large")
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [archive.getinfo(name) for name in (SIDECAR, DIGEST)]
            if max(member.file_size for member in members) > LONGEST_METADATA:
                raise OverflowError("longer than any that is written")
            text, digest = (read_entry(archive, member) for member in members)
        model = content[: min(member.header_offset for member in members)]
    except BROKEN:
        raise ModelError("not a model of segc, or cut off: there are no metadata at its end") from None
    metadata = parse_metadata(text)
    if hashlib.sha256(model).hexdigest().encode() != digest:
        raise ModelError("damaged: its digest is another")
    return model, metadata


def find_edgetpu() -> Any:
    """What LiteRT needs to run a model on an Edge TPU; None where there is no chip, or not its library."""
    from ai_edge_litert.interpreter import load_delegate

    try:
        # LiteRT's own class complains of a library that is not there once more, when it is thrown away.
        ctypes.CDLL(EDGETPU_LIBRARY)
        with native_silence():
            return load_delegate(EDGETPU_LIBRARY)
    except (ValueError, OSError):
        return None


@contextmanager
def native_silence() -> Iterator[None]:
    """Keep off what native code writes to standard error: LiteRT announces its own parts there."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def quantised(values: npt.NDArray[np.float32], details: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Real numbers as a tensor with LiteRT's ``details`` has them: themselves, or the nearest of its integers."""
    kind = details["dtype"]
    if np.issubdtype(kind, np.floating):
        return values.astype(kind)
    scale, zero = details["quantization"]
    limits = np.iinfo(kind)
    result: npt.NDArray[Any] = np.clip(np.rint(values / scale) + zero, limits.min, limits.max).astype(kind)
    return result


def dequantised(values: npt.NDArray[Any], details: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """What a tensor's values stand for, in fp32."""
    if np.issubdtype(values.dtype, np.floating):
        return values.astype(np.float32)
    scale, zero = details["quantization"]
    result: npt.NDArray[np.float32] = (values.astype(np.float32) - zero) * np.float32(scale)
    return result

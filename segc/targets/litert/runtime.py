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
from segc.inference.model import DeviceError, Model, asked_device, first_line

DIGEST = "model.sha256"
"""Member of the archive: SHA-256 of the bytes before it, in hexadecimal digits."""

LARGEST_FLATBUFFER = 1 << 31
"""Most bytes of a model: a flatbuffer's offsets reach no further."""

COMPILED = b"edgetpu-custom-op"
"""The operator that stands for what Edge TPU's compiler took over."""

EDGETPU_LIBRARY, EDGETPU_SUFFIX = "libedgetpu.so.1", "_edgetpu.tflite"

CPU, XNNPACK = "LiteRT on the CPU", "LiteRT on the CPU, by XNNPACK"

DELEGATED = "DELEGATE"
"""The operator that stands, in a model that is loaded, for what a delegate took over."""

DEVICES = ("auto", "cpu", "xnnpack", "edgetpu")
"""Where it can run, beside delegates by their libraries: ``auto`` is the chip that the model is compiled for, if any;
``xnnpack`` is the CPU, and an error where LiteRT's fast kernels take nothing of the model."""

LIBRARIES = (".so", ".dll", ".dylib")
"""Ends of the names of libraries that bring a delegate, LiteRT's word for what runs parts of a model elsewhere."""


def open_model(path: Path, threads: int, device: str | None = None) -> Model:
    """Load a model into LiteRT.

    Args:
        path: the file.
        threads: of the CPU; 0 leaves LiteRT the choice.
        device: one of ``DEVICES``, or the library of a delegate; ``auto`` if None.

    Raises:
        DeviceError: where that is not here, or takes nothing of the model.
        ModelError: where the model is not there, not a model, or not one of segc.
    """
    content, metadata = read_model(path)
    runtime, library = choose_delegate(device, path, compiled=COMPILED in content)
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    external = library not in {None, EDGETPU_LIBRARY}
    # A delegate alone, without XNNPACK, which would take what that leaves: nobody could tell who did.
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if external else OpResolverType.AUTO
    delegates = [] if library is None else [find_delegate(library)]
    if delegates == [None]:
        text = f"{library} cannot be loaded: it is not installed, or what it drives is not here"
        raise DeviceError(text + way_out(path))
    try:
        with native_silence():
            interpreter = Interpreter(
                model_content=content,
                num_threads=threads or None,
                experimental_delegates=delegates,
                experimental_op_resolver_type=kernels,
            )
            interpreter.allocate_tensors()
            signature = interpreter.get_signature_runner()
            inputs, outputs = signature.get_input_details(), signature.get_output_details()
            delegated = any(one["op_name"] == DELEGATED for one in interpreter._get_ops_details())  # noqa: SLF001 - no other way
    except Exception as error:  # noqa: BLE001 - LiteRT's errors have no common base but this
        raise ModelError(f"LiteRT cannot load it: {first_line(error)}") from None
    if (external or runtime == XNNPACK) and not delegated:
        raise DeviceError(f"{device} takes no operator of this model: all would run in LiteRT's own kernels")
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


def choose_delegate(device: str | None, path: Path, *, compiled: bool) -> tuple[str, str | None]:
    """What runs a model, for people, and the library of the delegate that it takes.

    Args:
        device: as asked for, see `open_model`.
        path: of the model.
        compiled: it is made for the Edge TPU.

    Raises:
        DeviceError: where the two do not go together.
    """
    if device is not None and device.endswith(LIBRARIES):
        asked, place = device, f"LiteRT and {Path(device).name}"
    else:
        asked, place = asked_device(device, DEVICES, "LiteRT"), CPU
    if compiled and asked not in {"auto", "edgetpu"}:
        raise DeviceError(f"it is compiled for the Edge TPU{way_out(path)}")
    if asked == "edgetpu" and not compiled:
        raise DeviceError("it is not compiled for the Edge TPU: --target edgetpu emits one that is")
    if compiled:
        return "LiteRT and an Edge TPU", EDGETPU_LIBRARY
    if place != CPU:
        return place, asked
    if asked == "xnnpack":
        return XNNPACK, None
    return f"{CPU}; the model is not compiled for the Edge TPU" if path.name.endswith(EDGETPU_SUFFIX) else CPU, None


def way_out(path: Path) -> str:
    """What to do about a model that cannot run here; nothing where there is no other beside it."""
    if not path.name.endswith(EDGETPU_SUFFIX):
        return ""
    return f": take {path.name.removesuffix(EDGETPU_SUFFIX)}.tflite, the model from before, which runs on the CPU"


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


def find_delegate(library: str) -> Any:
    """What LiteRT needs to run a model by a delegate; None where there is no such library, or not what it drives."""
    from ai_edge_litert.interpreter import load_delegate

    try:
        # LiteRT's own class complains of a library that is not there once more, when it is thrown away.
        ctypes.CDLL(library)
        with native_silence():
            return load_delegate(library)
    except (ValueError, OSError, AttributeError):
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
    scale, zero = details["quantization"]
    if not scale:
        return values.astype(np.float32)
    result: npt.NDArray[np.float32] = (values.astype(np.float32) - zero) * np.float32(scale)
    return result

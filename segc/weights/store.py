"""The project's own weights files: safetensors, the same bytes for the same content, bounded when read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.diagnostics import Diagnostic, fail
from segc.files import write_atomic
from segc.spec.weights import MAX_FILE_BYTES

MAX_HEADER_BYTES = 16 * 2**20
"""The header lists names and shapes: 100 bytes a tensor."""

_READ_AS: dict[str, tuple[str, type[np.generic]]] = {
    "F16": ("<f2", np.float32),
    "BF16": ("<u2", np.float32),
    "F32": ("<f4", np.float32),
    "F64": ("<f8", np.float32),
    "I32": ("<i4", np.int64),
    "I64": ("<i8", np.int64),
}
"""Number formats of a file: how they lie there, and what they are read as."""

_WRITABLE = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.int64))


@dataclass(frozen=True)
class Weights:
    """Arrays under their state-dict names, and what the file says about them.

    Attributes:
        tensors: float32 and int64 arrays in the PyTorch layout.
        metadata: texts; files of segc have ``names`` (a JSON list), ``task``, ``family``, ``scale`` (JSON), ``nc``,
            ``imgsz`` (JSON, [height, width]), ``spec_digest``, ``segc_version``.
        warnings: what the user should hear about them, such as class names that differ from the project's.
    """

    tensors: dict[str, NDArray[np.generic]]
    metadata: dict[str, str]
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def names(self) -> tuple[str, ...] | None:
        """Class names by index, where the metadata has a well-formed list of them."""
        return parse_names(self.metadata.get("names"))


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it lies in a file: ``dtype`` is the safetensors name of its number format, such as ``F16``."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def parse_names(text: str | None) -> tuple[str, ...] | None:
    """Class names from the JSON list in a file's metadata, or None where there is no such list."""
    try:
        value = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    usable = isinstance(value, list) and value and all(isinstance(name, str) for name in value)
    return tuple(value) if usable else None


def save_weights(path: Path, tensors: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all; equal content gives equal bytes, whatever the order of its parts.

    Args:
        path: the file; folders above it are made.
        tensors: float32, float16 or int64 arrays by name.
        metadata: texts by key.

    Raises:
        TypeError: for another number format, or metadata that is not text.
        OSError: where it cannot be written.
    """
    from safetensors.numpy import save

    for name, array in tensors.items():
        if array.dtype not in _WRITABLE:
            raise TypeError(f"{name}: {array.dtype} has no place in a weights file")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise TypeError("metadata values must be text")
    data = save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)})
    write_atomic(path, _with_metadata(data, metadata))


def _with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """Put the metadata into a safetensors file in the order of its keys, which the library leaves to chance."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    header |= sorted(json.loads(data[8:end]).items())
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def load_weights(path: Path) -> Weights:
    """Read a safetensors file: floating formats as float32, integer ones as int64.

    Raises:
        SegcError: F001 where it is not there, W001 where it is no safetensors file, W002 where it is damaged, W004
            where it is beyond a bound, W005 for a tensor in a number format that weights are not kept in.
        OSError: where it cannot be opened.
    """
    data, metadata = _read(path)
    return Weights({name: _array(path, name, entry) for name, entry in data}, metadata)


def describe_weights(path: Path) -> tuple[tuple[StoredTensor, ...], dict[str, str]]:
    """The tensors of a safetensors file as they lie there, by name, and its metadata.

    Raises:
        SegcError: as :func:`load_weights`, except W005.
    """
    data, metadata = _read(path)
    stored = (StoredTensor(name, str(entry["dtype"]), tuple(entry["shape"])) for name, entry in data)
    return tuple(sorted(stored, key=lambda tensor: tensor.name)), metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors.

    Raises:
        SegcError: as :func:`load_weights`.
        OSError: where it cannot be opened.
    """
    _check_bounds(path)
    with path.open("rb") as file:
        text = file.read(int.from_bytes(file.read(8), "little"))
    try:
        found = json.loads(text).get("__metadata__") or {}
        return {key: value for key, value in found.items() if isinstance(value, str)}
    except (ValueError, AttributeError, RecursionError) as error:
        raise fail("W002", "the safetensors file's header is broken", file=path, help="copy it again") from error


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins so is a safetensors file: the length of its header, and a brace.

    Any text or other binary file read as a length gives an enormous one.
    """
    return len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_FILE_BYTES


def _read(path: Path) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, str]]:
    from safetensors import SafetensorError, deserialize

    _check_bounds(path)
    data = path.read_bytes()
    try:
        entries = deserialize(data)  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError, OverflowError) as error:
        raise fail(
            "W002",
            f"the safetensors file is broken or cut off: {str(error)[:200]}",
            file=path,
            help="copy or download it again",
        ) from error
    # The library has checked this very text: JSON, nested no deeper than a shape.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return sorted(entries), header.get("__metadata__") or {}


def _check_bounds(path: Path) -> None:
    if not path.exists():
        raise fail("F001", f"no such file: {path}", file=path)
    if not path.is_file():
        raise fail("W001", "a weights file is a file, this is not", file=path)
    size = path.stat().st_size
    if not size:
        raise fail("W001", "the file is empty", file=path)
    if size > MAX_FILE_BYTES:
        raise fail("W004", f"refused: a file of {size} bytes, over {MAX_FILE_BYTES}", file=path)
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    if not is_safetensors(head):
        raise fail(
            "W001",
            "not a safetensors file",
            file=path,
            help="segc reads .safetensors, and the .pt or .pth files of PyTorch 1.6 and newer",
        )
    if length > MAX_HEADER_BYTES:
        raise fail("W004", f"refused: a header of {length} bytes, over {MAX_HEADER_BYTES}", file=path)


def _array(path: Path, name: str, entry: Mapping[str, Any]) -> NDArray[np.generic]:
    stored = str(entry["dtype"])
    if stored not in _READ_AS:
        raise fail(
            "W005",
            f"tensor {name} holds {stored} numbers, which weights are not kept in",
            file=path,
            help=f"weights are {', '.join(_READ_AS)}",
        )
    code, target = _READ_AS[stored]
    try:
        raw = np.frombuffer(entry["data"], code).reshape(entry["shape"])
    except ValueError as error:
        shape = str(entry["shape"])
        text = f"tensor {name} cannot have the shape {shape[:60]}{'…' * (len(shape) > 60)} ({error})"
        raise fail("W002", text, file=path) from None
    return widen_bfloat16(raw) if stored == "BF16" else raw.astype(target)


def widen_bfloat16(bits: NDArray[np.generic]) -> NDArray[np.generic]:
    """float32 values of bfloat16 bit patterns (uint16): a bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32, order="C") << np.uint32(16)).view(np.float32)

"""A saved Core ML program, read from its package and evaluated operation by operation: no macOS, no coremltools.

An ``.mlpackage`` is a folder: ``Manifest.json`` names the model file, a protobuf message that holds the program in
the intermediate language MIL, and beside it lie large values in ``weights/weight.bin``. The messages are those of
https://apple.github.io/coremltools/mlmodel/Format/MIL.html; what precedes a value in ``weight.bin`` is described in
coremltools' MILBlob storage format. Packages come from strangers: every place and size in them is checked.
"""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from math import prod
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from segc.inference.metadata import ModelError
from segc.targets.coreml.operations import OPERATIONS, room
from segc.targets.coreml.package import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[Any]

_LONGEST_MANIFEST = 1 << 20
_LONGEST_MODEL = 1 << 26
_MOST_OPERATIONS = 50_000

_TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.bool_),
    10: np.dtype(np.float16),
    11: np.dtype(np.float32),
    21: np.dtype(np.int8),
    23: np.dtype(np.int32),
}
"""Data types of MIL that segc writes, by their number; 2 are texts."""

_TEXT = 2
_WEIGHTS = "@model_path/"
_BLOB = struct.Struct("<IIQQ")
_BLOB_SENTINEL = 0xDEADBEEF
_BLOB_TYPES = {1: np.dtype(np.float16), 2: np.dtype(np.float32), 4: np.dtype(np.int8)}
"""Number of a type in ``weight.bin``."""

_DAMAGE = (ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError, MemoryError, RecursionError)
"""What comes of reading or running a program that does not hang together."""


@dataclass(frozen=True, slots=True)
class _Result:
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Step:
    """An operation of a program.

    Attributes:
        kind: key of ``OPERATIONS``.
        inputs: input to names of values; a list where the input is one.
        results: what it makes.
        last: names of values that nothing reads afterwards.
    """

    kind: str
    inputs: Mapping[str, str | list[str]]
    results: Sequence[_Result]
    last: Sequence[str]


class Program:
    """A program in memory.

    Args:
        path: the ``.mlpackage``.

    Attributes:
        user_metadata: what the model's author added, by key.
        input_shape: of its one input, an image: [1, 3, H, W].
        outputs: names of its outputs.

    Raises:
        ModelError: where the package is damaged, or holds something that segc does not write.
    """

    def __init__(self, path: Path) -> None:
        try:
            model, folder = read_model(path)
            self.user_metadata = dict(model.description.metadata.userDefined)
            function = model.mlProgram.functions["main"]
            if function.opset not in function.block_specializations or len(function.inputs) != 1:
                raise ValueError("it has no program of one input")
            block = function.block_specializations[function.opset]
            source = _typed(function.inputs[0])
            self.input_shape = source.shape
            self.outputs = list(block.outputs)
            self._source = source.name
            self._constants: dict[str, Any] = {}
            self._steps = list(self._read_steps(block, _Values(path, folder)))
        except _DAMAGE as error:
            raise _damaged(f"{error}") from None

    def _read_steps(self, block: Any, values: _Values) -> Iterator[_Step]:
        if len(block.operations) > _MOST_OPERATIONS:
            raise ValueError(f"{len(block.operations)} operations")
        known = {self._source}
        last_reader: dict[str, int] = {}
        operations: list[tuple[str, dict[str, str | list[str]], list[_Result]]] = []
        for operation in block.operations:
            if operation.type in {"const", "constexpr_affine_dequantize"}:
                (output,) = operation.outputs
                self._constants[output.name] = _constant(operation, values)
                known.add(output.name)
                continue
            if operation.type not in OPERATIONS or operation.blocks:
                raise ValueError(f"an operation of type {operation.type}")
            inputs = {name: _names(name, argument) for name, argument in operation.inputs.items()}
            for name in _flat(inputs.values()):
                if name not in known:
                    raise ValueError(f"{operation.type} reads {name}, which nothing makes before")
                last_reader[name] = len(operations)
            results = [_typed(output) for output in operation.outputs]
            known.update(result.name for result in results)
            operations.append((operation.type, inputs, results))
        if missing := [name for name in self.outputs if name not in known]:
            raise ValueError(f"nothing makes its outputs {missing}")
        kept = {*self.outputs, *self._constants}
        for index, (kind, inputs, results) in enumerate(operations):
            last = {name for name in _flat(inputs.values()) if last_reader[name] == index and name not in kept}
            yield _Step(kind, inputs, results, sorted(last))

    def run(self, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Evaluate it.

        Args:
            image: float32 of ``input_shape``, pixel values 0..255.

        Returns:
            The outputs by name.

        Raises:
            ModelError: where an operation does not fit what it reads.
        """
        values: dict[str, Any] = {**self._constants, self._source: image}
        with np.errstate(all="ignore"):
            for step in self._steps:
                try:
                    self._evaluate(step, values)
                except _DAMAGE as error:
                    raise _damaged(f"{step.results[0].name}, of type {step.kind}: {error}") from None
        return {name: values[name] for name in self.outputs}

    @staticmethod
    def _evaluate(step: _Step, values: dict[str, Any]) -> None:
        inputs = {
            name: [values[one] for one in given] if isinstance(given, list) else values[given]
            for name, given in step.inputs.items()
        }
        made = OPERATIONS[step.kind](inputs, [result.shape for result in step.results])
        for result, value in zip(step.results, made, strict=True):
            if value.shape != result.shape:
                raise ValueError(f"its shape is {value.shape}, not {result.shape}")
            values[result.name] = _stored(value, result.dtype)
        for name in step.last:
            del values[name]


def _damaged(what: str) -> ModelError:
    reason = what.splitlines()[0][:200] if what else "it does not hang together"
    return ModelError(f"damaged, or not a model of segc: {reason}")


def _stored(value: Array, dtype: np.dtype[Any]) -> Array:
    """A value as its type stores it. Half precision is kept in float32: rounded to 16 bits, ready to compute with."""
    if dtype == np.float16:
        return value.astype(np.float16).astype(np.float32)
    return value.astype(dtype, copy=False)


def read_model(package: Path) -> tuple[Any, Path]:
    """The model's message, and the folder that its file lies in.

    Raises:
        ValueError: where it has none, or one that is no program.
    """
    manifest = json.loads(_read(package, package / MANIFEST, _LONGEST_MANIFEST))
    item = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
    file = package / "Data" / item["path"]
    model = _protocol().Model()
    content = _read(package, file, _LONGEST_MODEL)
    try:
        model.ParseFromString(content)
    except Exception:  # noqa: BLE001 - protobuf's own error, whose module differs between its versions
        raise ValueError("its model file is not a message of Core ML") from None
    if model.WhichOneof("Type") != "mlProgram" or "main" not in model.mlProgram.functions:
        raise ValueError("it holds no program")
    return model, file.parent


def _read(package: Path, file: Path, most: int | None = None) -> bytes:
    """A file's bytes, if it lies in the package and is not too long."""
    if not file.resolve().is_relative_to(package.resolve()):
        raise ValueError("it names a file outside of the package")
    try:
        if most is not None and file.stat().st_size > most:
            raise ValueError(f"{file.name} is larger than {most} bytes")
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file.name} cannot be read: {error.strerror}") from None


def _protocol() -> Any:
    """The messages of coremltools without the package around them, whose import takes seconds."""
    if "coremltools" in sys.modules:
        return import_module("coremltools.proto.Model_pb2")
    spec = find_spec("coremltools")
    if spec is None or spec.submodule_search_locations is None:
        raise ValueError("coremltools is not there to read it")
    package = ModuleType("coremltools")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["coremltools"] = package
    try:
        return import_module("coremltools.proto.Model_pb2")
    finally:
        del sys.modules["coremltools"]


class _Values:
    """The values that a program states, in its messages or in files beside it."""

    def __init__(self, package: Path, folder: Path) -> None:
        self._package, self._folder = package, folder
        self._files: dict[str, bytes] = {}

    def read(self, value: Any) -> Any:
        """A text, or an array in the type that it has in the program."""
        tensor = value.type.tensorType
        if tensor.dataType == _TEXT:
            (text,) = value.immediateValue.tensor.strings.values
            return text
        dtype, shape = _TYPES[tensor.dataType], _shape(tensor)
        if value.WhichOneof("value") == "blobFileValue":
            found = self._blob(value.blobFileValue.fileName, value.blobFileValue.offset, dtype, prod(shape))
        else:
            found = _immediate(value.immediateValue.tensor, dtype)
        return found.reshape(shape)

    def _blob(self, name: str, offset: int, dtype: np.dtype[Any], count: int) -> Array:
        """A value in a file: a header says where it lies."""
        if not name.startswith(_WEIGHTS):
            raise ValueError(f"values in {name}")
        if name not in self._files:
            self._files[name] = _read(self._package, self._folder / name.removeprefix(_WEIGHTS))
        content = self._files[name]
        if offset + _BLOB.size > len(content):
            raise ValueError(f"{name.removeprefix(_WEIGHTS)} is cut off")
        sentinel, kind, size, start = _BLOB.unpack_from(content, offset)
        if sentinel != _BLOB_SENTINEL or _BLOB_TYPES.get(kind) != dtype or size != count * dtype.itemsize:
            raise ValueError(f"no {count} values at {offset} of {name.removeprefix(_WEIGHTS)}")
        if start + size > len(content):
            raise ValueError(f"{name.removeprefix(_WEIGHTS)} is cut off")
        return np.frombuffer(content, dtype, count, start)


def _immediate(tensor: Any, dtype: np.dtype[Any]) -> Array:
    """Values in a message: as bytes where it has no field of their type."""
    kind = tensor.WhichOneof("value")
    if kind == "bytes":
        return np.frombuffer(tensor.bytes.values, dtype)
    return np.array(getattr(tensor, kind).values, dtype)


def _constant(operation: Any, values: _Values) -> Any:
    """The value of a constant; floating point in float32."""
    if operation.type == "const":
        value = values.read(operation.attributes["val"])
    else:
        given = {name: values.read(operation.attributes[name]) for name in operation.attributes if name != "name"}
        axis, stored = int(given["axis"]), given["quantized_data"].astype(np.float32)
        form = [-1 if index == axis else 1 for index in range(stored.ndim)]
        zero, scale = (np.asarray(given[name], np.float32) for name in ("zero_point", "scale"))
        value = (stored - (zero.reshape(form) if zero.ndim else zero)) * (scale.reshape(form) if scale.ndim else scale)
        value = _stored(value, given["scale"].dtype)
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float16 else value


def _typed(output: Any) -> _Result:
    tensor = output.type.tensorType
    return _Result(output.name, _TYPES[tensor.dataType], _shape(tensor))


def _shape(tensor: Any) -> tuple[int, ...]:
    if any(dimension.WhichOneof("dimension") != "constant" for dimension in tensor.dimensions):
        raise ValueError("a value of free size")
    return room([dimension.constant.size for dimension in tensor.dimensions])


def _names(name: str, argument: Any) -> str | list[str]:
    """Names of the values that an input reads; a list for the one input that takes several."""
    found: list[str] = [binding.name for binding in argument.arguments]
    if name == "values":
        return found
    (only,) = found
    return only


def _flat(inputs: Any) -> Iterator[str]:
    for given in inputs:
        yield from given if isinstance(given, list) else [given]

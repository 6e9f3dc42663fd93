"""A TFLite model in the making: tensors, constants and operators, the flatbuffer of them, and what is kept behind it.

By the schema at https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs, whose classes
come with LiteRT.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from segc.inference.metadata import SIDECAR, metadata_text
from segc.targets.litert.runtime import DIGEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from segc.inference.metadata import Metadata

    Array = NDArray[Any]

IDENTIFIER, VERSION, SIGNATURE = b"TFL3", 3, "serving_default"

ALIGNMENT = 16
"""Bytes that a constant's place is a multiple of, as the schema asks for."""

TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "bool": 6, "int8": 9}
"""TFLite's numbers of the types that are written."""


class Kind(NamedTuple):
    """An operator of TFLite.

    Attributes:
        options: name of the table of its settings; empty where it has none.
        version: the first of its versions that has all that segc asks of it on floats.
        whole: likewise on int8.
    """

    options: str
    version: int
    whole: int


KINDS = {
    "ADD": Kind("AddOptions", 1, 2),
    "ARG_MAX": Kind("ArgMaxOptions", 1, 2),
    "CAST": Kind("CastOptions", 1, 1),
    "CONCATENATION": Kind("ConcatenationOptions", 1, 2),
    "CONV_2D": Kind("Conv2DOptions", 2, 3),
    "DEQUANTIZE": Kind("DequantizeOptions", 5, 5),
    "FULLY_CONNECTED": Kind("FullyConnectedOptions", 1, 4),
    "GATHER": Kind("GatherOptions", 1, 2),
    "GREATER": Kind("GreaterOptions", 1, 2),
    "GREATER_EQUAL": Kind("GreaterEqualOptions", 1, 2),
    "LESS": Kind("LessOptions", 1, 2),
    "LOGICAL_AND": Kind("LogicalAndOptions", 1, 1),
    "LOGISTIC": Kind("", 1, 2),
    "MAX_POOL_2D": Kind("Pool2DOptions", 1, 2),
    "MIRROR_PAD": Kind("MirrorPadOptions", 1, 2),
    "MUL": Kind("MulOptions", 1, 2),
    "NON_MAX_SUPPRESSION_V4": Kind("NonMaxSuppressionV4Options", 1, 1),
    "PAD": Kind("PadOptions", 1, 2),
    "QUANTIZE": Kind("QuantizeOptions", 1, 2),
    "REDUCE_MAX": Kind("ReducerOptions", 1, 2),
    "RESHAPE": Kind("ReshapeOptions", 1, 1),
    "RESIZE_BILINEAR": Kind("ResizeBilinearOptions", 3, 3),
    "RESIZE_NEAREST_NEIGHBOR": Kind("ResizeNearestNeighborOptions", 1, 2),
    "SLICE": Kind("SliceOptions", 1, 2),
    "SOFTMAX": Kind("SoftmaxOptions", 1, 2),
    "SPLIT": Kind("SplitOptions", 1, 2),
    "SPLIT_V": Kind("SplitVOptions", 1, 2),
    "SUB": Kind("SubOptions", 1, 2),
    "SUM": Kind("ReducerOptions", 1, 2),
    "TRANSPOSE": Kind("TransposeOptions", 1, 2),
    "TRANSPOSE_CONV": Kind("TransposeConvOptions", 3, 3),
}
"""By TFLite's names. Versions are those at .../tflite/tools/versioning/op_version.cc of the same repository."""


class Steps(NamedTuple):
    """What a tensor of integers stands for: ``(q - zero) * scale``, a scale for all or for each index of an axis."""

    scale: tuple[float, ...]
    zero: int = 0
    axis: int = 0


class TfliteModel:
    """One subgraph in the making; tensors are known by their index.

    Attributes:
        shapes: of all tensors.
        steps: what those of integers stand for; None of floats.
    """

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated

        self._schema: Any = schema_py_generated
        self.shapes: list[tuple[int, ...]] = []
        self.steps: list[Steps | None] = []
        self._tensors: list[Any] = []
        # The first buffer is empty, by convention: what is computed lies in it.
        self._data: list[Array | None] = [None]
        self._operators: list[Any] = []
        self._codes: dict[tuple[str, int], int] = {}
        self._known: dict[tuple[object, ...], int] = {}

    def tensor(self, name: str, shape: Sequence[int], dtype: str = "float32", steps: Steps | None = None) -> int:
        """A tensor that is computed, or goes in."""
        return self._tensor(name, shape, dtype, steps, 0)

    def constant(self, name: str, value: Array, steps: Steps | None = None) -> int:
        """A constant; one that is there already is not written again."""
        key = (value.dtype.name, value.shape, value.tobytes(), steps)
        if key not in self._known:
            self._data.append(value)
            self._known[key] = self._tensor(name, value.shape, value.dtype.name, steps, len(self._data) - 1)
        return self._known[key]

    def _tensor(self, name: str, shape: Sequence[int], dtype: str, steps: Steps | None, buffer: int) -> int:
        made = self._schema.TensorT(shape=np.array(shape, np.int32), type=TYPES[dtype], buffer=buffer, name=name)
        if steps is not None:
            zeros = np.full(len(steps.scale), steps.zero, np.int64)
            made.quantization = self._schema.QuantizationParametersT(
                scale=np.array(steps.scale, np.float32), zeroPoint=zeros, quantizedDimension=steps.axis
            )
        self._tensors.append(made)
        self.shapes.append(tuple(shape))
        self.steps.append(steps)
        return len(self._tensors) - 1

    def operator(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any) -> None:
        """An operator, by TFLite's name, with its settings."""
        row = KINDS[kind]
        version = row.version if self.steps[inputs[0]] is None else row.whole
        made = self._schema.OperatorT(
            opcodeIndex=self._codes.setdefault((kind, version), len(self._codes)),
            inputs=np.array(inputs, np.int32),
            outputs=np.array(outputs, np.int32),
        )
        if row.options:
            made.builtinOptionsType = getattr(self._schema.BuiltinOptions, row.options)
            made.builtinOptions = getattr(self._schema, f"{row.options}T")(**options)
        self._operators.append(made)

    def finish(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> bytes:
        """The flatbuffer, with a signature of these names."""
        import flatbuffers

        schema = self._schema
        graph = schema.SubGraphT(
            tensors=self._tensors,
            inputs=np.array([*inputs.values()], np.int32),
            outputs=np.array([*outputs.values()], np.int32),
            operators=self._operators,
            name="main",
        )
        signature = schema.SignatureDefT(
            inputs=[schema.TensorMapT(name, index) for name, index in inputs.items()],
            outputs=[schema.TensorMapT(name, index) for name, index in outputs.items()],
            signatureKey=SIGNATURE,
        )
        numbers = [(getattr(schema.BuiltinOperator, kind), version) for kind, version in self._codes]
        model = schema.ModelT(
            version=VERSION,
            operatorCodes=[schema.OperatorCodeT(code, None, version, code) for code, version in numbers],
            subgraphs=[graph],
            description="segc",
            buffers=[_Buffer(schema, value) for value in self._data],
            signatureDefs=[signature],
        )
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())


class _Buffer:
    """A constant's bytes; the schema's own class does not see to their alignment."""

    def __init__(self, schema: Any, value: Array | None) -> None:
        self._schema, self._value = schema, value

    def Pack(self, builder: Any) -> Any:  # noqa: N802 - what the schema's classes call it
        """Write it."""
        data = None
        if self._value is not None:
            builder.Prep(ALIGNMENT, self._value.nbytes)
            data = builder.CreateByteVector(self._value.tobytes())
        self._schema.BufferStart(builder)
        if data is not None:
            self._schema.BufferAddData(builder, data)
        return self._schema.BufferEnd(builder)


def with_metadata(model: bytes, metadata: Metadata) -> bytes:
    """A flatbuffer with the archive behind it that says what it is, see ``runtime``; the same bytes for the same."""
    content = io.BytesIO()
    content.write(model)
    members = {SIDECAR: metadata_text(metadata), DIGEST: hashlib.sha256(model).hexdigest()}
    with zipfile.ZipFile(content, "a") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return content.getvalue()

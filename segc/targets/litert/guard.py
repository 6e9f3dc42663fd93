"""TFLite models of strangers, looked at before LiteRT reads them: it takes every offset and index as it comes.

The digest in the archive says that a file is whole, not whose it is.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from segc.diagnostics import fail
from segc.inference.metadata import ModelError
from segc.targets.litert.flatbuffer import DamagedError, FlatBuffer
from segc.targets.litert.runtime import COMPILED, read_model

if TYPE_CHECKING:
    from pathlib import Path

IDENTIFIER, VERSION = b"TFL3", 3

CUSTOM = 32

OPERATORS: dict[int, tuple[str, range]] = {
    0: ("ADD", range(2, 3)),
    2: ("CONCATENATION", range(1, 1 << 16)),
    3: ("CONV_2D", range(2, 4)),
    6: ("DEQUANTIZE", range(1, 2)),
    9: ("FULLY_CONNECTED", range(2, 4)),
    14: ("LOGISTIC", range(1, 2)),
    17: ("MAX_POOL_2D", range(1, 2)),
    18: ("MUL", range(2, 3)),
    22: ("RESHAPE", range(1, 3)),
    23: ("RESIZE_BILINEAR", range(2, 3)),
    25: ("SOFTMAX", range(1, 2)),
    34: ("PAD", range(2, 3)),
    36: ("GATHER", range(2, 3)),
    39: ("TRANSPOSE", range(2, 3)),
    41: ("SUB", range(2, 3)),
    49: ("SPLIT", range(2, 3)),
    53: ("CAST", range(1, 2)),
    56: ("ARG_MAX", range(2, 3)),
    58: ("LESS", range(2, 3)),
    61: ("GREATER", range(2, 3)),
    62: ("GREATER_EQUAL", range(2, 3)),
    65: ("SLICE", range(3, 4)),
    67: ("TRANSPOSE_CONV", range(3, 5)),
    74: ("SUM", range(2, 3)),
    82: ("REDUCE_MAX", range(2, 3)),
    86: ("LOGICAL_AND", range(2, 3)),
    97: ("RESIZE_NEAREST_NEIGHBOR", range(2, 3)),
    100: ("MIRROR_PAD", range(2, 3)),
    102: ("SPLIT_V", range(3, 4)),
    114: ("QUANTIZE", range(1, 2)),
    120: ("NON_MAX_SUPPRESSION_V4", range(5, 6)),
    CUSTOM: ("CUSTOM", range(1, 1 << 16)),
}
"""Operators of the models that segc writes by TFLite's numbers: name, and how many inputs."""

TYPES = {0: 4, 1: 2, 2: 4, 3: 1, 6: 1, 9: 1}
"""Types of tensors, by TFLite's numbers, with their bytes: float32, float16, int32, uint8, bool, int8."""

ZEROS = {3: range(256), 9: range(-128, 128)}
"""By type of integers: what zero may be; 0 of the others."""

SCALES = (2.0**-60, 2.0**20)
"""Between these lies a step of any tensor's integers."""

CONVOLUTIONS = {3: (0, 1), 67: (2, 1)}
"""Where an operator's image and its filters are among its inputs."""

MOST_ENLARGED = 256
"""Below this lies what a convolution's sums are multiplied with, image and filters over result.

LiteRT's kernels for the CPU are written for that; one that is far beyond spoils its memory.
"""

MOST_VALUES = 1 << 29
"""Most values of a tensor."""


def check(path: Path) -> None:
    """Look at a model before LiteRT does.

    Raises:
        SegcError: T006 where it is damaged, or not one that segc writes.
    """
    try:
        content, _ = read_model(path)
        check_flatbuffer(content)
    except DamagedError as error:
        raise fail("T006", f"not a model of segc: {error}", file=path) from None
    except ModelError as error:
        raise fail("T006", str(error), file=path) from None


def check_flatbuffer(content: bytes) -> None:
    """See that a flatbuffer is a TFLite model of the kind that segc writes, and that nothing in it leads out of it.

    Raises:
        DamagedError: where it is not.
    """
    model = FlatBuffer(content, IDENTIFIER).root()
    _require(model.get("version") == VERSION, "its version is another")
    codes = [_code(code) for code in model.get("operator_codes", ())]
    buffers = [buffer.get("data", b"") for buffer in model.get("buffers", ())]
    _require(len(model.get("subgraphs", ())) == 1, "it has several graphs, or none")
    (graph,) = model["subgraphs"]
    tensors = graph.get("tensors", [])
    for tensor in tensors:
        _check_tensor(tensor, buffers)
    _check_order(graph, codes, [len(buffers[tensor.get("buffer", 0)]) > 0 for tensor in tensors])
    _check_convolutions(graph, codes)
    _require(all(entry.get("buffer", 0) < len(buffers) for entry in model.get("metadata", ())), "an index is wrong")
    _require(all(0 <= index < len(buffers) for index in model.get("metadata_buffer", ())), "an index is wrong")
    _check_signature(model, graph)


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise DamagedError(text)


def _code(code: dict[str, Any]) -> int:
    """The number of an operator; small ones stand in a field of their own, for old readers."""
    number = max(int(code.get("code", 0)), int(code.get("deprecated_code", 0)))
    _require(number in OPERATORS, f"it has the operator {number}")
    custom = bytes(code.get("custom_code", b""))
    _require(custom == (COMPILED if number == CUSTOM else b""), f"it has the operator {custom[:60]!r}")
    return number


def _check_tensor(tensor: dict[str, Any], buffers: list[bytes]) -> None:
    kind, shape = tensor.get("type", 0), tensor.get("shape", ())
    _require(kind in TYPES, f"it has a tensor of type {kind}")
    _require(len(shape) <= 8 and all(0 < length <= MOST_VALUES for length in shape), "it has a tensor without a size")
    size = prod(shape)
    _require(size <= MOST_VALUES, f"it has a tensor of {size} values")
    _require(tensor.get("buffer", 0) < len(buffers), "an index is wrong")
    held = len(buffers[tensor.get("buffer", 0)])
    _require(held in {0, size * TYPES[kind]}, "a constant has other values than its size")
    quantization = tensor.get("quantization", {})
    scales, zeros = quantization.get("scale", ()), quantization.get("zero_point", ())
    along = quantization.get("dimension", 0)
    wanted = shape[along] if len(scales) > 1 and 0 <= along < len(shape) else 1
    _require(len(scales) in {0, wanted} and len(zeros) in {0, len(scales)}, "a tensor's scales are not one a channel")
    _require(all(SCALES[0] < scale < SCALES[1] for scale in scales), "a tensor's scale is out of bounds")
    _require(all(zero in ZEROS.get(kind, range(1)) for zero in zeros), "a tensor's zero is out of bounds")


def _check_order(graph: dict[str, Any], codes: list[int], constant: list[bool]) -> None:
    """See that operators read what is there already, and that each value is made once."""
    inputs, outputs = graph.get("inputs", ()), graph.get("outputs", ())
    _require(all(0 <= index < len(constant) for index in (*inputs, *outputs)), "an index is wrong")
    _require(not any(constant[index] for index in inputs), "an input is a constant")
    made = {index for index, known in enumerate(constant) if known} | set(inputs)
    for operator in graph.get("operators", ()):
        _require(operator.get("opcode", 0) < len(codes), "an index is wrong")
        name, number = OPERATORS[codes[operator.get("opcode", 0)]]
        # -1 stands for what may be left out.
        read = [index for index in operator.get("inputs", ()) if index != -1]
        _require(
            len(operator.get("inputs", ())) in number and len(read) >= number.start, f"inputs of {name} are missing"
        )
        _require(made.issuperset(read), f"{name} reads what is not made yet")
        written = operator.get("outputs", ())
        _require(len(set(written)) == len(written) > 0, f"{name} makes nothing, or the same twice")
        _require(
            all(0 <= index < len(constant) and index not in made for index in written), f"{name} makes what is there"
        )
        made.update(written)
    _require(made.issuperset(outputs), "an output is not made")


def _check_convolutions(graph: dict[str, Any], codes: list[int]) -> None:
    """See that the scales around each convolution of integers go together."""

    def scales(index: int) -> tuple[float, ...]:
        found: tuple[float, ...] = graph["tensors"][index].get("quantization", {}).get("scale", ())
        return found

    for operator in graph.get("operators", ()):
        code = codes[operator.get("opcode", 0)]
        if code in CONVOLUTIONS:
            image, filters = (scales(operator["inputs"][place]) for place in CONVOLUTIONS[code])
            result = scales(operator["outputs"][0])
            if image and filters and result:
                most = max(image) * max(filters) / min(result)
                _require(most < MOST_ENLARGED, "a convolution's scales do not go together")


def _check_signature(model: dict[str, Any], graph: dict[str, Any]) -> None:
    """See that there is one signature, of the graph's own inputs and outputs."""
    _require(len(model.get("signatures", ())) == 1, "it has several signatures, or none")
    (signature,) = model["signatures"]
    _require(signature.get("subgraph", 0) == 0, "an index is wrong")
    for side in ("inputs", "outputs"):
        named = [entry.get("tensor", 0) for entry in signature.get(side, ())]
        _require(sorted(named) == sorted(graph.get(side, ())), f"its signature has other {side} than its graph")
        names = [bytes(entry.get("name", b"")) for entry in signature.get(side, ())]
        _require(all(names) and len(set(names)) == len(names), f"its {side} have no names")

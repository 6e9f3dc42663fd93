"""The files of an ncnn model: ``model.ncnn.param``, a text of layers, and ``model.ncnn.bin``, their weights in a row.

The formats are described in ncnn's wiki ("param and model file structure", "operators"), the layers' settings by
number. A blob has no batch axis here: shapes are those of the graph without their first length, (channels, height,
width) or (anchors, values).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from segc.graph.ir import Shape

MAGIC = "7767517"

FP32_TAG, FP16_TAG, INT8_TAG = 0, 0x01306B47, 0x000D4B38
"""What stands before a weight in ``.bin``."""

WIDTHS = {FP32_TAG: 4, FP16_TAG: 2, INT8_TAG: 1}
"""Bytes of a value behind each."""

INT8 = 2
"""Setting 8 of a convolution that computes in int8: its weights have a scale a channel, what it reads has one."""

LONGEST_NAME = 255
"""Characters that ncnn's reader has room for."""

LARGEST_BLOB, LARGEST_STEP = 1 << 28, 1 << 12
"""Most values of a blob; most pixels of a kernel, stride, padding or dilation."""

BINARY = {"add": 0, "sub": 1, "mul": 2}
"""Operator of the graph to the operation of ncnn's BinaryOp."""

AXES = {4: (2, 11, 1, 0), 3: (2, 1, 0), 2: (1, 0), 1: (0,)}
"""Settings that hold the lengths of a blob, outermost first, by the number of its axes."""

Value = int | tuple[int, ...] | float


@dataclass(frozen=True, slots=True)
class Layer:
    """A line of ``.param``.

    Attributes:
        kind: ncnn's name of the operator.
        name: unique.
        inputs: names of blobs.
        outputs: names of blobs.
        settings: value by number; ncnn has defaults for those that are left out.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: Mapping[int, Value] = field(default_factory=dict)

    def integer(self, number: int, default: int = 0) -> int:
        """A setting that is a whole number.

        Raises:
            ValueError: where it is something else.
        """
        value = self.settings.get(number, default)
        if not isinstance(value, int):
            raise ValueError(f"layer {self.name}: setting {number} is no whole number")  # noqa: TRY004 - text from a file
        return value

    def integers(self, number: int) -> tuple[int, ...]:
        """A setting that is a list of whole numbers.

        Raises:
            ValueError: where it is something else.
        """
        value = self.settings.get(number)
        if not isinstance(value, tuple):
            raise ValueError(f"layer {self.name}: setting {number} is no list")  # noqa: TRY004 - text from a file
        return value

    def pair(self, vertical: int, horizontal: int, default: int, least: int) -> tuple[int, int]:
        """Pixels (vertical, horizontal); the vertical one is the horizontal one where it is left out.

        Raises:
            ValueError: where they are less than ``least``, or beyond reason.
        """
        across = self.integer(horizontal, default)
        down = self.integer(vertical, across)
        if not (least <= across <= LARGEST_STEP and least <= down <= LARGEST_STEP):
            raise ValueError(f"layer {self.name}: ({down}, {across}) is out of range")
        return down, across

    def text(self) -> str:
        """The line, as ncnn's own tools align it."""
        numbers = [str(len(self.inputs)), str(len(self.outputs))]
        settings = [_setting(number, value) for number, value in self.settings.items()]
        return " ".join([f"{self.kind:<16} {self.name:<24}", *numbers, *self.inputs, *self.outputs, *settings])


def _setting(number: int, value: Value) -> str:
    if isinstance(value, tuple):
        return f"{-23300 - number}={','.join(map(str, (len(value), *value)))}"
    return f"{number}={value:.9e}" if isinstance(value, float) else f"{number}={value}"


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of ``.bin``: so many values, behind one of these tags that says their format, or plain fp32."""

    count: int
    tags: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NcnnModel:
    """A model's layers in the order in which they can run, and its weights."""

    layers: tuple[Layer, ...]
    weights: bytes

    def param(self) -> str:
        """The text of ``.param``."""
        blobs = sum(len(layer.outputs) for layer in self.layers)
        lines = [MAGIC, f"{len(self.layers)} {blobs}", *(layer.text() for layer in self.layers)]
        return "".join(f"{line}\n" for line in lines)


def tagged(values: NDArray[Any]) -> bytes:
    """A weight as it stands in ``.bin``: in its own precision, filled up to four bytes."""
    tag, kind = {"float16": (FP16_TAG, "<f2"), "int8": (INT8_TAG, "i1")}.get(values.dtype.name, (FP32_TAG, "<f4"))
    content = values.astype(kind).tobytes()
    return struct.pack("<I", tag) + content + b"\0" * (-len(content) % 4)


def plain(values: NDArray[Any]) -> bytes:
    """A bias or a constant as it stands in ``.bin``: fp32."""
    return values.astype("<f4").tobytes()


def permutation_code(axes: Sequence[int]) -> int:
    """The number that ncnn gives an order of axes: its place among all orders of so many."""
    return list(permutations(range(len(axes)))).index(tuple(axes))


def blob_settings(shape: Shape) -> dict[int, Value]:
    """The settings that hold a blob's lengths."""
    return dict(sorted(zip(AXES[len(shape)], shape, strict=True)))


def with_splits(layers: Iterable[Layer], outputs: Sequence[str]) -> tuple[Layer, ...]:
    """The same layers, with every blob read once: what several read is copied by a Split first.

    Args:
        layers: in order; blobs may have several readers.
        outputs: blobs that the program reads; they keep their names.
    """
    layers = tuple(layers)
    readers: dict[str, int] = {}
    for name in (*outputs, *(name for layer in layers for name in layer.inputs)):
        readers[name] = readers.get(name, 0) + 1
    free: dict[str, list[str]] = {}
    result = []
    for layer in layers:
        inputs = tuple(free[name].pop(0) if name in free else name for name in layer.inputs)
        shared = [name for name in layer.outputs if readers.get(name, 0) > 1]
        source = {name: f"{name}.shared" for name in shared if name in outputs}
        result.append(replace(layer, inputs=inputs, outputs=tuple(source.get(name, name) for name in layer.outputs)))
        for name in shared:
            kept = [name] if name in outputs else []
            free[name] = [f"{name}.copy{index}" for index in range(readers[name] - len(kept))]
            result.append(Layer("Split", f"{name}.split", (source.get(name, name),), (*free[name], *kept)))
    return tuple(result)

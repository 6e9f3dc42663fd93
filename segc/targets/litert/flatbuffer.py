"""Flatbuffers of strangers, read with every offset and length looked at.

The form is described at https://flatbuffers.dev/internals/, TFLite's tables at
https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs.
"""

from __future__ import annotations

import struct
from typing import Any

SCALARS = {"i8": "<b", "u8": "<B", "bool": "<B", "i32": "<i", "u32": "<I", "f32": "<f", "i64": "<q", "u64": "<Q"}

MODEL: dict[str, dict[int, tuple[str, str]]] = {
    "Model": {
        0: ("version", "u32"),
        1: ("operator_codes", "[OperatorCode]"),
        2: ("subgraphs", "[SubGraph]"),
        3: ("description", "string"),
        4: ("buffers", "[Buffer]"),
        5: ("metadata_buffer", "[i32]"),
        6: ("metadata", "[Metadata]"),
        7: ("signatures", "[Signature]"),
    },
    "OperatorCode": {
        0: ("deprecated_code", "i8"),
        1: ("custom_code", "string"),
        2: ("version", "i32"),
        3: ("code", "i32"),
    },
    "SubGraph": {
        0: ("tensors", "[Tensor]"),
        1: ("inputs", "[i32]"),
        2: ("outputs", "[i32]"),
        3: ("operators", "[Operator]"),
        4: ("name", "string"),
        5: ("debug", "i32"),
    },
    "Tensor": {
        0: ("shape", "[i32]"),
        1: ("type", "i8"),
        2: ("buffer", "u32"),
        3: ("name", "string"),
        4: ("quantization", "Quantization"),
        8: ("has_rank", "bool"),
    },
    "Quantization": {
        0: ("min", "[f32]"),
        1: ("max", "[f32]"),
        2: ("scale", "[f32]"),
        3: ("zero_point", "[i64]"),
        6: ("dimension", "i32"),
    },
    "Operator": {
        0: ("opcode", "u32"),
        1: ("inputs", "[i32]"),
        2: ("outputs", "[i32]"),
        3: ("options_type", "u8"),
        4: ("options", "Options"),
        5: ("custom_options", "bytes"),
        6: ("custom_options_format", "i8"),
        13: ("debug", "i32"),
    },
    "Buffer": {0: ("data", "bytes")},
    "Metadata": {0: ("name", "string"), 1: ("buffer", "u32")},
    "Signature": {
        0: ("inputs", "[TensorMap]"),
        1: ("outputs", "[TensorMap]"),
        2: ("key", "string"),
        4: ("subgraph", "u32"),
    },
    "TensorMap": {0: ("name", "string"), 1: ("tensor", "u32")},
    "Reshape": {0: ("new_shape", "[i32]")},
}
"""Fields of TFLite's tables by their numbers, those that segc's models have: name and type. ``Options`` stands for the
table of an operator's settings: numbers of up to four bytes each, but for ``Reshape``.
"""

RESHAPE_OPTIONS = 17
"""``options_type`` of ``Reshape``."""

MOST_TABLES = 1 << 20
"""Most tables in a model; that of the largest network has ten thousand."""


class DamagedError(ValueError):
    """A flatbuffer that is none; the message says what is wrong with it."""


class FlatBuffer:
    """The bytes of a flatbuffer.

    Args:
        content: all of it.
        identifier: four bytes that stand behind the first offset.
    """

    def __init__(self, content: bytes, identifier: bytes) -> None:
        self._content, self._tables = content, 0
        if content[4:8] != identifier:
            raise DamagedError("it is no flatbuffer of this kind")

    def root(self) -> dict[str, Any]:
        """All of the model, as dictionaries of the fields that are there, lists, numbers and bytes.

        Raises:
            DamagedError: where an offset leads out of it, or a field is none of segc's models.
        """
        return self._table("Model", self._forward(0))

    def _number(self, kind: str, at: int) -> Any:
        form = SCALARS[kind]
        size = struct.calcsize(form)
        if at < 0 or at + size > len(self._content) or at % size:
            raise DamagedError("an offset leads out of it")
        return struct.unpack_from(form, self._content, at)[0]

    def _forward(self, at: int) -> int:
        """Where the offset at a place leads."""
        return int(at + self._number("u32", at))

    def _fields(self, at: int) -> dict[int, int]:
        """Number and place of each field of a table, and under -1 where the table ends."""
        self._tables += 1
        if self._tables > MOST_TABLES:
            raise DamagedError(f"it has more than {MOST_TABLES} tables")
        rows = at - self._number("i32", at)
        if rows < 0 or rows % 2 or rows + 4 > len(self._content):
            raise DamagedError("an offset leads out of it")
        length, size = struct.unpack_from("<HH", self._content, rows)
        if length < 4 or length % 2 or rows + length > len(self._content) or at + size > len(self._content):
            raise DamagedError("a table is cut off")
        offsets = struct.unpack_from(f"<{(length - 4) // 2}H", self._content, rows + 4)
        if any(offset and not 4 <= offset < size for offset in offsets):
            raise DamagedError("a field is outside of its table")
        return {-1: at + size, **{number: at + offset for number, offset in enumerate(offsets) if offset}}

    def _table(self, name: str, at: int) -> dict[str, Any]:
        fields = self._fields(at)
        end = fields.pop(-1)
        found: dict[str, Any] = {}
        for number, place in fields.items():
            if number not in MODEL[name]:
                raise DamagedError(f"its {name} has a field {number}")
            key, kind = MODEL[name][number]
            if place + struct.calcsize(SCALARS.get(kind, "<I")) > end:
                raise DamagedError("a field is outside of its table")
            if kind == "Options":
                kind = "Reshape" if found.get("options_type") == RESHAPE_OPTIONS else kind
            found[key] = self._value(kind, place)
        return found

    def _value(self, kind: str, at: int) -> Any:
        if kind in SCALARS:
            return self._number(kind, at)
        place = self._forward(at)
        if kind == "Options":
            return self._options(place)
        if kind in MODEL:
            return self._table(kind, place)
        length, start = self._number("u32", place), place + 4
        if kind in {"string", "bytes"}:
            if start + length + (kind == "string") > len(self._content):
                raise DamagedError("a text or its bytes are cut off")
            return memoryview(self._content)[start : start + length]
        inner = kind[1:-1]
        size = struct.calcsize(SCALARS.get(inner, "<I"))
        if start + length * size > len(self._content) or (length and start % size):
            raise DamagedError("a list is cut off")
        if inner in SCALARS:
            return struct.unpack_from(f"<{length}{SCALARS[inner][1]}", self._content, start)
        return [self._table(inner, self._forward(start + index * 4)) for index in range(length)]

    def _options(self, at: int) -> None:
        """Settings of an operator, of which only the places are looked at."""
        for place in self._fields(at).values():
            if place + 4 > len(self._content):
                raise DamagedError("a field is outside of its table")

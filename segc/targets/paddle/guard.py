"""Paddle programs of strangers, looked at before Paddle reads them.

A program may hold operators that print, load and save files or call back into Python, and Paddle runs them all; of a
file of parameters that is too short it makes up what is missing. The digests beside the metadata say that files are
whole, not whose they are. So only a program of the operators that segc writes is let through, in the form in which
Paddle writes it (its intermediate representation as JSON), with a file of just the parameters that the program names.
"""

from __future__ import annotations

import json
import struct
from math import isfinite, prod
from typing import TYPE_CHECKING, Any

from segc.diagnostics import fail
from segc.inference.metadata import ModelError
from segc.targets.paddle.runtime import PARAMETERS, PROGRAM, describe_paddle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

LONGEST_PROGRAM = 1 << 24
"""Most bytes of a program; scale x takes a quarter of a million."""

LONGEST_TEXT = 255
"""Most characters of a name, and of any other text in a program."""

MOST_VALUES = 1 << 28
"""Most values of a tensor."""

PARAMETER = "p"
"""What a program calls a parameter, in the place of an operator."""

_DIALECT = "1."
_BUILTIN = ("0.combine", "0.split")
OPERATORS = frozenset(
    {
        PARAMETER,
        *_BUILTIN,
        *(
            f"{_DIALECT}{name}"
            for name in (
                *("add", "argmax", "assign_value_", "batch_norm_", "cast", "concat", "conv2d", "conv2d_transpose"),
                *("data", "depthwise_conv2d", "fetch", "full", "full_int_array", "gather", "greater_equal"),
                *("greater_than", "less_than", "logical_and", "matmul", "max", "multiclass_nms3", "multiply"),
                *("pool2d", "repeat_interleave", "reshape", "sigmoid", "silu", "slice", "softmax", "split"),
                *("split_with_num", "subtract", "sum", "transpose"),
            )
        ),
    }
)
"""The operators that segc writes, by their names in a program."""

SUPPRESSION, ABSENT = f"{_DIALECT}multiclass_nms3", 0
"""The operator that has an input which is left out, its third, and what stands in that one's place."""

_VALUES = {
    "0.a_bool": bool,
    "0.a_f32": float,
    "0.a_f64": float,
    "0.a_i32": int,
    "0.a_i64": int,
    "0.a_str": str,
    "1.a_dtype": str,
}
"""Kinds of attributes that are one value, and their type in JSON."""

_RANGES = {
    **dict.fromkeys(("strides", "dilations", "groups", "repeats"), (1, 4096)),
    **dict.fromkeys(("paddings", "output_padding"), (0, 4096)),
    **dict.fromkeys(("axis", "perm"), (-8, 8)),
}
"""Least and most of attributes that are counts or places, by their names."""

_ELEMENTS = frozenset({"0.t_bool", "0.t_f32", "0.t_i32", "0.t_i64", "0.t_ui8"})

_LARGEST_NUMBER = (-(1 << 31), 1 << 31)


def check(path: Path) -> None:
    """Look at a model's folder.

    Raises:
        SegcError: T006 where it is not what segc writes.
    """
    try:
        describe_paddle(path)
        shapes = check_program(read_program(path / PROGRAM))
        check_parameters((path / PARAMETERS).read_bytes(), shapes)
    except ModelError as error:
        raise fail("T006", str(error), file=path, help="emit it again, or copy it again") from None


def read_program(path: Path) -> Any:
    """The JSON of a program.

    Raises:
        ModelError: where it is none.
    """
    try:
        if path.stat().st_size <= LONGEST_PROGRAM:
            return json.loads(path.read_bytes(), object_pairs_hook=_object)
    except (ValueError, RecursionError):
        pass
    raise ModelError(f"damaged: {PROGRAM} is no program of Paddle")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which every key stands once: of two, another reader may take the other one."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def check_program(program: Any) -> dict[str, tuple[int, ...]]:
    """See that a program is of the form and the operators that segc writes.

    Returns:
        Shapes of its parameters by their names.

    Raises:
        ModelError: where it is not.
    """
    made: set[int] = set()
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        for operator in _operators(program):
            _check_operator(operator, made, shapes)
    except (KeyError, TypeError, IndexError, OverflowError):
        raise ModelError(f"damaged: {PROGRAM} is not of the form in which segc writes programs") from None
    return shapes


def _operators(program: Any) -> Any:
    """The operators of a program's only block; KeyError and the like where it is of another form."""
    regions = program["program"]["regions"]
    blocks = regions[0]["blocks"]
    if program["base_code"]["magic"] != "pir" or [len(regions), len(blocks), len(blocks[0]["args"])] != [1, 1, 0]:
        raise TypeError("not one block without arguments")
    return blocks[0]["ops"]


def _check_operator(operator: Any, made: set[int], shapes: dict[str, tuple[int, ...]]) -> None:
    """Check an operator, and note what it makes; KeyError and the like where it is of another form."""
    kind = operator["#"]
    if kind not in OPERATORS:
        raise ModelError(f"refused: {kind!r:.60} is not among the operators that segc writes")
    if kind == PARAMETER:
        allowed, results = {"#", "A", "DA", "O", "OA", "QA"}, [operator["O"]]
        name, shape = operator["A"][3], _shapes(operator["O"]["TT"])[0]
        if type(name) is not str or len(name) > LONGEST_TEXT or name in shapes:
            raise ModelError(f"damaged: a parameter is named {name!r:.60}")
        shapes[name] = shape
    else:
        allowed, results = {"#", "A", "I", "O", "OA"}, operator["O"]
        for attribute in (*operator["A"], *operator["OA"]):
            _check_attribute(attribute["N"], attribute["AT"])
        read = [value["%"] for value in operator["I"]]
        if kind == SUPPRESSION and read[2:] == [ABSENT]:
            read = read[:2]
        if missing := set(read) - made:
            raise ModelError(f"damaged: {kind} reads value {min(missing)}, which nothing before it makes")
    if unknown := set(operator) - allowed:
        raise ModelError(f"refused: {kind} has {min(unknown)!r:.60}, which segc does not write")
    for result in results:
        _shapes(result["TT"])
        if result["%"] in made:
            raise ModelError(f"damaged: value {result['%']} is made twice")
        made.add(result["%"])


def _shapes(kind: Any) -> list[tuple[int, ...]]:
    """Shapes of the tensors of a type: one, or those of a list."""
    if kind["#"] == "0.t_vec":
        return [shape for one in kind["D"] for shape in _shapes(one)]
    if kind["#"] != "0.t_dtensor" or kind["D"][0]["#"] not in _ELEMENTS:
        raise ModelError(f"refused: segc writes no values of type {kind['#']!r:.60}")
    lengths = tuple(kind["D"][1])
    # What a batch norm would reserve for training is of length -1.
    if any(type(length) is not int or length < -1 for length in lengths) or abs(prod(lengths)) > MOST_VALUES:
        raise ModelError(f"damaged: a tensor has the impossible shape {list(lengths)!r:.60}")
    return [lengths]


def _check_attribute(name: str, value: Any) -> None:
    """Check an attribute: a list, or one value of a known type within its range."""
    kind, content = value["#"], value["D"]
    if kind == "0.a_array":
        for element in content:
            _check_attribute(name, element)
    elif kind in {"1.a_intarray", "1.a_place"}:
        _check_values(name, content)
    elif kind not in _VALUES or not isinstance(content, _VALUES[kind] if _VALUES[kind] is not float else float | int):
        raise ModelError(f"refused: segc writes no attribute {name!r:.60} of type {kind!r:.60}")
    else:
        _check_values(name, [content])


def _check_values(name: str, values: Iterable[Any]) -> None:
    least, most = _RANGES.get(name, _LARGEST_NUMBER)
    for value in values:
        fits = len(value) <= LONGEST_TEXT if isinstance(value, str) else isfinite(value) and least <= value <= most
        if not fits:
            raise ModelError(f"damaged: {name!r:.60} is {value!r:.60}")


_HEAD = struct.Struct("<IQIi")
"""Before each parameter: version, levels of detail, version of the tensor, bytes of its description."""

_FLOAT32 = 5


def check_parameters(data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """See that a ``.pdiparams`` holds just the parameters that a program names, each whole.

    Args:
        data: the file.
        shapes: of the parameters by their names; they are stored in the order of these, without them.

    Raises:
        ModelError: where it does not.
    """
    at = 0
    for name in sorted(shapes):
        try:
            version, levels, tensor, length = _HEAD.unpack_from(data, at)
            described = _described(data[at + _HEAD.size : at + _HEAD.size + min(length, LONGEST_TEXT)])
        except (struct.error, ValueError, IndexError):
            raise ModelError(f"damaged: {PARAMETERS} ends before {name!r:.60}, or within it") from None
        if (version, levels, tensor) != (0, 0, 0) or described != (_FLOAT32, *shapes[name]):
            raise ModelError(f"damaged: {PARAMETERS} has something else in the place of {name!r:.60}")
        at += _HEAD.size + length + 4 * prod(shapes[name])
    if at != len(data):
        raise ModelError(f"damaged: {PARAMETERS} has {len(data)} bytes, and the parameters take {at}")


def _described(message: bytes) -> tuple[int, ...]:
    """Type and lengths in a tensor's description, a protocol buffer; ValueError where it holds anything else."""
    fields: dict[int, list[int]] = {0x08: [], 0x10: []}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        if tag not in fields:
            raise ValueError("another field")
        fields[tag].append(value)
    return (*fields[0x08], *fields[0x10])


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of a protocol buffer, and where the next one begins."""
    value = 0
    for shift in range(0, 63, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("longer than any number")

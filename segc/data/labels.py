"""YOLO label files: one text file an image, one row an object, ``class x1 y1 x2 y2 …``, normalised to the image.

A row of five numbers is a box: ``class centre_x centre_y width height``.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.data.polygons import is_flat
from segc.diagnostics import LINE_BREAK, Diagnostic

OVERSHOOT = 0.01
"""Coordinates this far outside 0..1 are rounding of the labelling tool and are clipped; farther ones are errors."""

LARGEST_FILE = 16 << 20
"""Bytes of a label file; the fullest images of public datasets take a hundredth."""

MOST_FAULTS = 100
"""Faults of a label file that are kept; of a file of another kind the rows behind them are counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One labelled object.

    Attributes:
        class_id: index into the class names.
        polygons: its parts, each [K, 2] float32, x and y in 0..1 of the image; K is at least 3.
        is_box: the label was a box, and the polygon is its four corners.
        is_crowd: a region with many objects of the class that are not told apart. It is not trained on, and
            predictions inside it count neither as right nor as wrong.
        origin: how its file names it: the line of a text, the id of a COCO annotation, the place of a shape.
    """

    class_id: int
    polygons: tuple[NDArray[np.float32], ...]
    is_box: bool = False
    is_crowd: bool = False
    origin: int | str | None = None


class _Fault(Exception):  # noqa: N818 - it never leaves this module
    """What is wrong with a row: code, message, what to do, and which of its fields is meant."""

    def __init__(self, code: str, message: str, advice: str | None = None, field: int = 0) -> None:
        super().__init__(message)
        self.code, self.message, self.advice, self.field = code, message, advice, field


def parse_labels(text: str, path: Path, nc: int) -> tuple[tuple[Instance, ...], tuple[Diagnostic, ...]]:
    """The objects of a label file's text, and everything that is wrong or odd about it. Empty lines are skipped.

    An object that stands there twice counts once, one without any area not at all; both are warnings.

    Args:
        text: content of the file; empty for an image without objects.
        path: the file, for the diagnostics.
        nc: number of classes.
    """
    instances: list[Instance] = []
    found: list[Diagnostic] = []
    first: dict[tuple[Any, ...], int] = {}
    faults = 0
    rows = _rows(text)
    # Python takes underlines between digits, and digits of other scripts, for numbers, too.
    plain = text.isascii() and "_" not in text
    for line, row in enumerate(rows, 1):
        if not row.strip():
            continue
        if faults == MOST_FAULTS:
            left = sum(bool(other.strip()) for other in rows[line - 1 :])
            text = f"{MOST_FAULTS} faults already: the {left} rows from here on are not looked at"
            found.append(Diagnostic("D003", text, file=path, line=line, column=1, help="is this a label file?"))
            break
        try:
            instance = _instance(row.split(), nc, line, plain=plain)
        except _Fault as fault:
            faults += 1
            column, length = _field_place(row, fault.field)
            found.append(
                Diagnostic(
                    fault.code,
                    fault.message,
                    file=path,
                    line=line,
                    column=column,
                    length=length,
                    help=fault.advice,
                )
            )
            continue
        before = first.setdefault(identity_of(instance), line)
        if odd := oddity(instance, None if before == line else f"line {before}"):
            found.append(Diagnostic(*odd, "warning", file=path, line=line, column=1, length=len(row)))
        else:
            instances.append(instance)
    return tuple(instances), tuple(found)


def _rows(text: str) -> list[str]:
    """The lines of a text, which for ASCII are found without an expression over it, ten times as fast."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if text.isascii() else LINE_BREAK.split(text)


def identity_of(instance: Instance) -> tuple[Any, ...]:
    """What two objects have in common that are the same one."""
    return (instance.class_id, instance.is_box, instance.is_crowd, *(part.tobytes() for part in instance.polygons))


def oddity(instance: Instance, twin: str | None) -> tuple[str, str] | None:
    """Code and message where an object that can be read is left out.

    Args:
        instance: the object.
        twin: where the same object stands before, if anywhere.
    """
    if twin is not None:
        return "D014", f"the same object stands in {twin}: this one is left out"
    if all(is_flat(part) for part in instance.polygons):
        kind = "box" if instance.is_box else "polygon"
        return "D015", f"the {kind} has no area: the object is left out"
    return None


def _field_place(row: str, field: int) -> tuple[int, int]:
    """Column, from 1, and length of a field of a row."""
    spans = [match.span() for match in re.finditer(r"\S+", row)]
    start, end = spans[min(field, len(spans) - 1)]
    return start + 1, end - start


def _instance(fields: Sequence[str], nc: int, line: int, *, plain: bool) -> Instance:
    values = _numbers(fields, plain=plain)
    return Instance(_class_id(float(values[0]), nc), (_polygon(values[1:]),), len(values) == 5, origin=line)


def _numbers(fields: Sequence[str], *, plain: bool) -> NDArray[np.float64]:
    """The numbers of a row, of which there are millions: only where one is wrong they are looked at one by one.

    Args:
        fields: the row's.
        plain: none of them has a character that Python takes for a part of a number and other programs do not.
    """
    if plain:
        with suppress(ValueError):
            values = np.array(list(map(float, fields)))
            if isfinite(values.sum()):  # so all of them are; of a sum that is too large they may be
                return values
    for index, field in enumerate(fields):
        try:
            value = float(field) if field.isascii() and "_" not in field else None
        except ValueError:
            value = None
        if value is None:
            advice = "a row is `class x1 y1 x2 y2 …` or `class x y width height`"
            raise _Fault("D003", f"`{field[:40]}` is not a number", advice, index)
        if not isfinite(value):
            raise _Fault("D003", f"{field[:40]} is not a finite number", None, index)
    return np.array(list(map(float, fields)))


def _class_id(value: float, nc: int) -> int:
    if not value.is_integer():
        raise _Fault("D003", f"the class, first in the row, is {value:g}, not a whole number")
    if not 0 <= value < nc:
        range_text = f"from 0 to {nc - 1}" if nc > 1 else "0"
        raise _Fault(
            "D005",
            f"class {value:.0f} is out of range: the project's classes are numbered {range_text}",
            "check dataset.names",
        )
    return int(value)


_IN_FRACTIONS = "coordinates are fractions of the image's width and height, between 0 and 1"


def _polygon(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """The polygon [K, 2] of the numbers after the class."""
    if len(numbers) == 4:
        return _box(*numbers.tolist())
    if len(numbers) < 6 or len(numbers) % 2:
        advice = "a box has 4; a polygon has 2 a point and at least 3 points"
        raise _Fault("D003", f"{len(numbers)} numbers follow the class", advice, len(numbers))
    least, most = numbers.min(), numbers.max()
    if least < -OVERSHOOT or most > 1 + OVERSHOOT:
        outside = np.flatnonzero((numbers < -OVERSHOOT) | (numbers > 1 + OVERSHOOT))
        text = f"coordinates run from {least:g} to {most:g}"
        raise _Fault("D004", text, _IN_FRACTIONS, int(outside[0]) + 1)
    inside = numbers if least >= 0 and most <= 1 else np.clip(numbers, 0, 1)
    return inside.reshape(-1, 2).astype(np.float32)


def _box(x: float, y: float, width: float, height: float) -> NDArray[np.float32]:
    """The corners [4, 2] of a box."""
    if min(width, height) < 0:
        raise _Fault("D004", "the width or height of a box is negative", None, 3 if width < 0 else 4)
    for index, (axis, centre, side) in enumerate((("x", x, width), ("y", y, height))):
        low, high = centre - side / 2, centre + side / 2
        if low < -OVERSHOOT or high > 1 + OVERSHOOT:
            text = f"the box reaches in {axis} from {low:g} to {high:g}"
            advice = f"a row of four is `class x y width height`; {_IN_FRACTIONS}"
            raise _Fault("D004", text, advice, index + 1)
    left, right, top, bottom = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)
    return np.clip(corners, 0, 1).astype(np.float32)


def read_labels(path: Path, nc: int) -> tuple[tuple[Instance, ...], tuple[Diagnostic, ...]]:
    """The objects of a label file, and everything that is wrong with it; a file that is not text has no objects.

    Raises:
        OSError: where the file cannot be read.
    """
    if path.stat().st_size > LARGEST_FILE:
        text = f"the label file is larger than {LARGEST_FILE >> 20} MiB"
        return (), (Diagnostic("D003", text, file=path, help="is this a label file?"),)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return (), (Diagnostic("D003", "the label file is not text", file=path),)
    return parse_labels(text, path, nc)

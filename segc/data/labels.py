"""YOLO label files: one text file an image, one row an object, ``class x1 y1 x2 y2 …``, normalised to the image.

A row of five numbers is a box: ``class centre_x centre_y width height``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segc.diagnostics import LINE_BREAK, Diagnostic

OVERSHOOT = 0.01
"""Coordinates this far outside 0..1 are rounding of the labelling tool and are clipped; farther ones are errors."""


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One labelled object.

    Attributes:
        class_id: index into the class names.
        polygons: its parts, each [K, 2] float32, x and y in 0..1 of the image; K is at least 3.
        is_box: the label was a box, and the polygon is its four corners.
        is_crowd: a region with many objects of the class that are not told apart. It is not trained on, and
            predictions inside it count neither as right nor as wrong.
    """

    class_id: int
    polygons: tuple[NDArray[np.float32], ...]
    is_box: bool = False
    is_crowd: bool = False


class _Fault(Exception):  # noqa: N818 - it never leaves this module
    """What is wrong with a row: code, message, and what to do."""

    def __init__(self, code: str, message: str, advice: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.advice = code, message, advice


def parse_labels(text: str, path: Path, nc: int) -> tuple[tuple[Instance, ...], tuple[Diagnostic, ...]]:
    """The objects of a label file's text, and everything that is wrong with it. Empty lines are skipped.

    Args:
        text: content of the file; empty for an image without objects.
        path: the file, for the diagnostics.
        nc: number of classes.
    """
    instances: list[Instance] = []
    found: list[Diagnostic] = []
    for line, row in enumerate(LINE_BREAK.split(text), 1):
        if not row.strip():
            continue
        try:
            class_id, *numbers = _numbers(row.split())
            instances.append(Instance(_class_id(class_id, nc), (_polygon(numbers),), len(numbers) == 4))
        except _Fault as fault:
            found.append(Diagnostic(fault.code, fault.message, file=path, line=line, column=1, help=fault.advice))
    return tuple(instances), tuple(found)


def _numbers(fields: Sequence[str]) -> list[float]:
    values = []
    for field in fields:
        try:
            values.append(float(field))
        except ValueError:
            advice = "a row is `class x1 y1 x2 y2 …` or `class x y width height`"
            raise _Fault("D003", f"`{field[:40]}` is not a number", advice) from None
        if not isfinite(values[-1]):
            raise _Fault("D003", f"{field[:40]} is not a finite number")
    return values


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


def _polygon(numbers: Sequence[float]) -> NDArray[np.float32]:
    """The polygon [K, 2] of the numbers after the class."""
    if len(numbers) == 4:
        if min(numbers[2:]) < 0:
            raise _Fault("D004", "the width or height of a box is negative")
        points = _box_corners(*numbers)
    elif len(numbers) < 6 or len(numbers) % 2:
        advice = "a box has 4; a polygon has 2 a point and at least 3 points"
        raise _Fault("D003", f"{len(numbers)} numbers follow the class", advice)
    else:
        points = np.array(numbers, np.float64).reshape(-1, 2)
    low, high = float(points.min()), float(points.max())
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        advice = "they are fractions of the image's width and height, between 0 and 1"
        raise _Fault("D004", f"coordinates run from {low:g} to {high:g}", advice)
    return np.clip(points, 0, 1).astype(np.float32)


def _box_corners(x: float, y: float, width: float, height: float) -> NDArray[np.float64]:
    left, right, top, bottom = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def read_labels(path: Path, nc: int) -> tuple[tuple[Instance, ...], tuple[Diagnostic, ...]]:
    """The objects of a label file, and everything that is wrong with it; a file that is not text has no objects.

    Raises:
        OSError: where the file cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return (), (Diagnostic("D003", "the label file is not text", file=path),)
    return parse_labels(text, path, nc)

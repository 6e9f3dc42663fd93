"""What readers of labels share: objects of one image, their faults, and shapes as polygons in 0..1."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import acos, ceil, cos, pi, sin
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.data.labels import OVERSHOOT, Instance, identity_of, oddity
from segc.diagnostics import Diagnostic, SegcError, fail

MOST_BYTES = 2**29
"""Largest label file that is read."""

MOST_PIXELS = 2**28
"""Most pixels of an image that labels can be for: masks are decoded at its size."""

MOST_OBJECTS = 65_535
"""Most objects of one image."""

Polygon = NDArray[np.float32]
Points = NDArray[np.float64]

Advice = str | None


class Fault(Exception):  # noqa: N818 - readers turn it into a diagnostic
    """What is wrong with an entry: code, message, what to do, and the place in the entry."""

    def __init__(self, code: str, message: str, advice: Advice = None, at: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.advice, self.at = code, message, advice, at


@dataclass(slots=True, eq=False)
class ImageLabels:
    """What the labels of one image say.

    Attributes:
        label: the file that they are in; None where there is none, for an image of background.
        size: (height, width) that the image must have, where the labels say so.
        instances: the objects.
        faults: everything that is wrong, as errors, and what is there but is no object, as warnings.
    """

    label: Path | None = None
    size: tuple[int, int] | None = None
    instances: list[Instance] = field(default_factory=list)
    faults: list[Diagnostic] = field(default_factory=list)

    def note(self, fault: Fault, line: int | None = None) -> None:
        """Note what is wrong with an entry."""
        text = f"{fault.at}: {fault.message}" if fault.at else fault.message
        self.faults.append(Diagnostic(fault.code, text, file=self.label, line=line, help=fault.advice))

    def leave_out(self, what: str, at: str, line: int | None = None) -> None:
        """Note something that is no object, and is left out."""
        text = f"{at}: {what}, left out: it has no area"
        self.faults.append(Diagnostic("D030", text, "warning", file=self.label, line=line))

    def warn(self, code: str, message: str, shape: "Shape") -> None:
        """Note what is odd about a shape."""
        text = f"{shape.at}: {message}"
        self.faults.append(Diagnostic(code, text, "warning", file=self.label, line=shape.line))


Reader = Callable[[Path, Sequence[str]], ImageLabels]
"""Gives the labels of an image file, for a project's class names."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """One drawn shape, a part of an object.

    Attributes:
        name: what it is called.
        polygons: its outlines in 0..1.
        group: shapes of one name and one group are parts of one object; None where it stands alone.
        is_box: it is an upright rectangle and nothing else is known of the object.
        is_crowd: it is a region of many objects.
        at: its place in the file.
        line: its line in the file, where that is known.
    """

    name: str
    polygons: tuple[Polygon, ...]
    group: int | str | None
    is_box: bool
    is_crowd: bool
    at: str
    line: int | None = None


def gather(shapes: Iterable[Shape], names: Sequence[str], into: ImageLabels) -> None:
    """Objects of the shapes, in the order of their first parts.

    Those of no class, those that are there twice and those without any area are left out with a warning.
    """
    grouped: dict[tuple[Any, ...], list[Shape]] = {}
    for place, shape in enumerate(shapes):
        key = (place,) if shape.group is None else (shape.name, shape.group)
        grouped.setdefault(key, []).append(shape)
    first: dict[tuple[Any, ...], str] = {}
    for parts in grouped.values():
        head = parts[0]
        class_id = class_of(head.name, names)
        if class_id is None:
            into.warn("D021", f"objects that are called {shown(head.name)} are left out: it is no class", head)
            continue
        polygons = tuple(polygon for part in parts for polygon in part.polygons)
        crowd = any(part.is_crowd for part in parts)
        instance = Instance(class_id, polygons, len(parts) == 1 and head.is_box, crowd, origin=head.at)
        before = first.setdefault(identity_of(instance), head.at)
        if odd := oddity(instance, None if before == head.at else before):
            into.warn(*odd, head)
        else:
            into.instances.append(instance)


def class_of(name: str, names: Sequence[str]) -> int | None:
    """The number of the class of that name, or None; case and blanks around it do not matter."""
    if name in names:
        return names.index(name)
    alike = [index for index, one in enumerate(names) if _plain(one) == _plain(name)]
    return alike[0] if len(alike) == 1 else None


def _plain(name: str) -> str:
    return name.strip().casefold()


def shown(value: Any) -> str:
    """A value in a message, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:39]}…"


def fractions(points: NDArray[np.floating[Any]], size: tuple[int, int], at: str = "") -> Polygon:
    """Points in pixels as fractions of an image of (height, width); those a little outside are clipped.

    Raises:
        Fault: D003 for less than three points, D004 where they leave the image.
    """
    if len(points) < 3:
        raise Fault("D003", f"{len(points)} points are no polygon", "a polygon has at least 3 points", at)
    whole = np.array([size[1], size[0]], np.float64)
    room = OVERSHOOT * whole + 1
    if (points < -room).any() or (points > whole + room).any():
        (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
        text = f"x from {x0:g} to {x1:g}, y from {y0:g} to {y1:g} leave the image of {size[1]} x {size[0]} pixels"
        raise Fault("D004", text, "labels may be those of another image, or of another size of it", at)
    return np.clip(points / whole, 0, 1).astype(np.float32)


def rectangle(first: Sequence[float], second: Sequence[float]) -> Points:
    """The corners [4, 2] of a rectangle between two of them."""
    (x0, x1), (y0, y1) = sorted((first[0], second[0])), sorted((first[1], second[1]))
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Points:
    """A polygon [K, 2] that stays within a quarter of a pixel of an ellipse."""
    largest = max(radius_x, radius_y, 1.0)
    count = min(max(16, ceil(pi / acos(1 - 0.25 / largest))), 4096)
    angles = [2 * pi * step / count for step in range(count)]
    return np.array([[x + radius_x * cos(one), y + radius_y * sin(one)] for one in angles], np.float64)


def turned(points: Points, degrees: float) -> Points:
    """Points turned clockwise, as the eye sees it, round the middle of their bounds."""
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    angle = degrees * pi / 180
    matrix = np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])
    return np.asarray((points - middle) @ matrix + middle, np.float64)


def image_size(height: Any, width: Any) -> tuple[int, int]:
    """The size of an image in pixels; a whole number that is written as a fraction is one.

    Raises:
        Fault: D003 where these are no such numbers, or no image can be as large.
    """
    sides = []
    for name, value in (("height", height), ("width", width)):
        side = int(value) if isinstance(value, float) and value.is_integer() else value
        if type(side) is not int or side < 1:
            raise Fault("D003", f"the image's {name} is {shown(value)}, no number of pixels")
        sides.append(side)
    if sides[0] * sides[1] > MOST_PIXELS:
        raise Fault("D003", f"an image of {sides[0]} x {sides[1]} pixels cannot be (height x width)")
    return sides[0], sides[1]


def read_json(path: Path) -> Mapping[str, Any]:
    """The object that a JSON file holds.

    Raises:
        SegcError: D003 where it holds none, is too large or is no JSON.
        OSError: where it cannot be read.
    """
    if path.stat().st_size > MOST_BYTES:
        raise fail("D003", f"the label file is larger than {MOST_BYTES >> 20} MiB", file=path)
    try:
        document = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise SegcError(
            Diagnostic("D003", f"not JSON: {error.msg}", file=path, line=error.lineno, column=error.colno)
        ) from None
    except (ValueError, RecursionError) as error:
        raise fail("D003", f"not JSON that labels can be read from: {error}", file=path) from None
    if not isinstance(document, dict):
        raise fail("D003", "the file holds no JSON object", file=path)
    return document

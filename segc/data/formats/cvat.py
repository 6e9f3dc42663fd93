"""CVAT XML 1.1 for images: one file with the shapes of all images of a split.

Polygons, boxes, ellipses and masks are objects; shapes of one label and one ``group_id`` of an image are parts of one.
Lines, points, cuboids, skeletons and tags are left out with a warning. An attribute ``is_crowd`` makes a region of many
objects of a shape.
"""

from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segc.data.contours import mask_of, outlines
from segc.data.formats.common import (
    Fault,
    ImageLabels,
    Points,
    Polygon,
    Shape,
    ellipse,
    fractions,
    gather,
    image_size,
    rectangle,
    shown,
    turned,
)
from segc.data.formats.paths import inside
from segc.data.formats.xml import Element, elements
from segc.diagnostics import Diagnostic, SegcError

AREALESS = frozenset({"polyline", "points", "cuboid", "skeleton", "tag"})
"""Elements of an image that are no object with an area."""

CROWD = "is_crowd"
"""The attribute by which a region of many objects is known."""


def images_in(file: Path) -> Iterator[Element]:
    """The images of a file.

    Raises:
        SegcError: D003 where it is no CVAT XML, or one of a video, while it is gone through.
        OSError: where it cannot be read.
    """
    for element in elements(file, "annotations"):
        if element.tag == "track":
            text = "this is CVAT's format for video, whose tracks belong to no image"
            advice = "export the task as `CVAT for images 1.1`"
            raise SegcError(Diagnostic("D003", text, file=file, line=element.line, help=advice))
        if element.tag == "image":
            yield element


def image_path(element: Element, folders: Sequence[Path]) -> Path:
    """The file of an image.

    Raises:
        Fault: D003 where its name leaves the folder, D007 where it is not there.
    """
    name = element.attributes.get("name")
    if name is None:
        raise Fault("D003", "`name` is missing")
    return inside(name, folders)


def read(element: Element, file: Path, names: Sequence[str]) -> ImageLabels:
    """The labels of an image of the file; all that is wrong with them is in ``faults``."""
    found = ImageLabels(file)
    try:
        found.size = image_size(_number(element, "height"), _number(element, "width"))
    except Fault as fault:
        found.note(fault, element.line)
        return found
    shapes = []
    for child in element.children:
        at = f"{child.tag} of {shown(element.attributes.get('name'))}"
        if child.tag in AREALESS:
            found.leave_out(f"labelled {shown(child.attributes.get('label'))}", at, child.line)
            continue
        try:
            shapes.append(_shape(child, at, found.size))
        except Fault as fault:
            fault.at = at
            found.note(fault, child.line)
    gather(shapes, names, found)
    return found


def labels_in(file: Path) -> tuple[str, ...]:
    """The names of a file's labels: those that the task declares, in its order, then others that are used."""
    found: dict[str, None] = {}
    for element in elements(file, "annotations"):
        if element.tag == "meta":
            found |= dict.fromkeys(_declared(element))
        elif element.tag == "image":
            used = (one for one in element.children if one.tag not in AREALESS and "label" in one.attributes)
            found |= dict.fromkeys(one.attributes["label"] for one in used)
    return tuple(found)


def _declared(element: Element) -> Iterator[str]:
    for child in element.children:
        if child.tag == "label" and (name := child.text_of("name")):
            yield name
        yield from _declared(child)


def _shape(element: Element, at: str, size: tuple[int, int]) -> Shape:
    draw = _KINDS.get(element.tag)
    if draw is None:
        raise Fault("D003", f"`{element.tag}` is no kind of shape that segc knows", f"it knows {', '.join(_KINDS)}")
    name = element.attributes.get("label")
    if name is None:
        raise Fault("D003", "`label` is missing")
    group = element.attributes.get("group_id")
    crowd = next((one.text for one in element.children if one.attributes.get("name") == CROWD), "")
    rotated = _number(element, "rotation", "0") % 360
    return Shape(
        name=name,
        polygons=draw(element, size),
        group=None if group in {None, "0", ""} else group,
        is_box=element.tag == "box" and not rotated,
        is_crowd=crowd.strip().casefold() in {"true", "1"},
        at=at,
        line=element.line,
    )


def _number(element: Element, name: str, default: str | None = None) -> float:
    text = element.attributes.get(name, default)
    try:
        value = float("" if text is None else text)
    except ValueError:
        raise Fault("D003", f"`{name}` is {shown(text)}, no number") from None
    if not isfinite(value) or abs(value) > 1e9:
        raise Fault("D003", f"`{name}` is {text}, no coordinate")
    return value


def _polygon(element: Element, size: tuple[int, int]) -> tuple[Polygon, ...]:
    text = element.attributes.get("points", "")
    try:
        points = [[float(side) for side in point.split(",")] for point in text.split(";") if point.strip()]
        values = np.array(points, np.float64).reshape(-1, 2)
    except ValueError:
        raise Fault("D003", f"{shown(text)} are no points x,y;x,y;…") from None
    if any(len(point) != 2 for point in points) or not np.isfinite(values).all():
        raise Fault("D003", f"{shown(text)} are no points x,y;x,y;…")
    return (fractions(values, size),)


def _box(element: Element, size: tuple[int, int]) -> tuple[Polygon, ...]:
    left, top, right, bottom = (_number(element, name) for name in ("xtl", "ytl", "xbr", "ybr"))
    return (fractions(_turned(rectangle((left, top), (right, bottom)), element, size), size),)


def _ellipse(element: Element, size: tuple[int, int]) -> tuple[Polygon, ...]:
    x, y, radius_x, radius_y = (_number(element, name) for name in ("cx", "cy", "rx", "ry"))
    if min(radius_x, radius_y) < 0:
        raise Fault("D003", "a radius is negative")
    fractions(np.array([[x, y]] * 3), size)  # the middle must lie in the image, the outline may go over its edge
    outline = ellipse(x, y, min(radius_x, 1e6), min(radius_y, 1e6))
    return (fractions(np.clip(_turned(outline, element, None), 0, [size[1], size[0]]), size),)


def _turned(points: Points, element: Element, size: tuple[int, int] | None) -> Points:
    """The points turned as the element says; a turned box may go over the edge of the image."""
    degrees = _number(element, "rotation", "0")
    if not degrees:
        return points
    moved = turned(points, degrees)
    return moved if size is None else np.asarray(np.clip(moved, 0, [size[1], size[0]]), np.float64)


def _mask(element: Element, size: tuple[int, int]) -> tuple[Polygon, ...]:
    """Run lengths along the rows of a rectangle, background first."""
    left, top, width, height = (int(_number(element, name)) for name in ("left", "top", "width", "height"))
    if min(left, top) < 0 or not (0 < width <= size[1] - left and 0 < height <= size[0] - top):
        raise Fault("D004", f"a mask of {height} x {width} pixels at {left}, {top} leaves the image (height x width)")
    text = element.attributes.get("rle", "")
    try:
        runs = np.array([int(run) for run in text.split(",")], np.int64)
    except (ValueError, OverflowError):
        raise Fault("D003", f"{shown(text)} are no run lengths") from None
    pieces = outlines(_filled(runs, height, width))
    if not pieces:
        raise Fault("D003", "the mask is empty", "take it out")
    return tuple(fractions(piece + np.array([left, top], np.float32), size) for piece in pieces)


def _filled(runs: NDArray[np.int64], height: int, width: int) -> NDArray[np.bool_]:
    try:
        # COCO's run lengths go down the columns: rows are columns of the mask turned over.
        return mask_of(runs, width, height).T
    except ValueError as error:
        raise Fault("D003", str(error)) from None


_KINDS = {"polygon": _polygon, "box": _box, "ellipse": _ellipse, "mask": _mask}

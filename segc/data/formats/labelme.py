"""LabelMe: one JSON file an image, with the same name beside it.

Polygons, rectangles, circles and masks are objects; shapes of one label and one ``group_id`` are parts of one. Points
and lines have no area and are left out with a warning. A flag ``crowd`` makes a region of many objects of a shape.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from math import hypot, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from segc.data.contours import outlines
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
    read_json,
    rectangle,
    shown,
)
from segc.data.formats.png import read_png
from segc.diagnostics import SegcError

AREALESS = frozenset({"point", "points", "line", "linestrip"})
"""Kinds of shapes that enclose nothing."""

CROWD = "crowd"
"""The flag by which segc knows, and writes, a region of many objects."""


def label_file(image: Path) -> Path:
    """Where the labels of an image are."""
    return image.with_suffix(".json")


def read(image: Path, names: Sequence[str]) -> ImageLabels:
    """The labels of an image; all that is wrong with them is in ``faults``.

    Raises:
        OSError: where the label file cannot be read.
    """
    path = label_file(image)
    if not path.is_file():
        return ImageLabels()
    found = ImageLabels(path)
    try:
        document = read_json(path)
    except SegcError as error:
        found.faults += error.diagnostics
        return found
    entries = document.get("shapes")
    try:
        found.size = image_size(document.get("imageHeight"), document.get("imageWidth"))
        if not isinstance(entries, list):
            found.note(Fault("D003", f"{shown(entries)} is no list of shapes", "LabelMe writes one", "/shapes"))
            return found
    except Fault as fault:
        found.note(fault)
        return found
    shapes = []
    for place, entry in enumerate(entries):
        try:
            shape = _shape(entry, f"/shapes/{place}", found.size)
        except Fault as fault:
            fault.at = f"/shapes/{place}{fault.at}"
            found.note(fault)
            continue
        if shape is None:
            found.leave_out(f"a {entry['shape_type']} named {shown(entry.get('label'))}", f"/shapes/{place}")
        else:
            shapes.append(shape)
    gather(shapes, names, found)
    return found


def labels_in(image: Path) -> set[str]:
    """The names of all shapes of an image.

    Raises:
        SegcError: where the label file is none.
    """
    path = label_file(image)
    entries = read_json(path).get("shapes") if path.is_file() else None
    known = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    named = (one for one in known if isinstance(one.get("label"), str))
    return {one["label"] for one in named if str(one.get("shape_type")) not in AREALESS}


def _shape(entry: Any, at: str, size: tuple[int, int]) -> Shape | None:
    """A shape, or None for one without an area."""
    if not isinstance(entry, dict):
        raise Fault("D003", f"{shown(entry)} is no object")
    kind = entry.get("shape_type") or "polygon"  # early files have none
    known_kind = kind if isinstance(kind, str) else ""
    if known_kind in AREALESS:
        return None
    if not isinstance(entry.get("label"), str):
        raise Fault("D003", f"{shown(entry.get('label'))} is no name", at="/label")
    draw = _KINDS.get(known_kind)
    if draw is None:
        known = ", ".join(sorted(_KINDS))
        raise Fault("D003", f"{shown(kind)} is no kind of shape that segc knows", f"it knows {known}", "/shape_type")
    polygons = draw(entry, _points(entry), size)
    group = entry.get("group_id")
    flags = entry.get("flags")
    return Shape(
        name=entry["label"],
        polygons=polygons,
        group=group if isinstance(group, int | str) and not isinstance(group, bool) else None,
        is_box=kind == "rectangle",
        is_crowd=isinstance(flags, dict) and flags.get(CROWD) is True,
        at=at,
    )


def _points(entry: Mapping[str, Any]) -> Points:
    points = entry.get("points")
    if not isinstance(points, list):
        raise Fault("D003", f"{shown(points)} is no list of points", at="/points")
    for place, point in enumerate(points):
        sound = isinstance(point, list) and len(point) == 2 and all(type(one) in {int, float} for one in point)
        if not sound or not all(abs(one) < 1e300 and isfinite(one) for one in point):
            raise Fault("D003", f"{shown(point)} is no point", at=f"/points/{place}")
    return np.array(points, np.float64).reshape(-1, 2)


def _polygon(_: Mapping[str, Any], points: Points, size: tuple[int, int]) -> tuple[Polygon, ...]:
    return (fractions(points, size, "/points"),)


def _two(points: Points, kind: str) -> Points:
    if len(points) != 2:
        raise Fault("D003", f"a {kind} has 2 points, not {len(points)}", at="/points")
    return points


def _rectangle(_: Mapping[str, Any], points: Points, size: tuple[int, int]) -> tuple[Polygon, ...]:
    # Version 5 has two corners, some other tools write all four.
    if len(points) == 4:
        return (fractions(points, size, "/points"),)
    first, second = _two(points, "rectangle").tolist()
    return (fractions(rectangle(first, second), size, "/points"),)


def _circle(_: Mapping[str, Any], points: Points, size: tuple[int, int]) -> tuple[Polygon, ...]:
    (x, y), (edge_x, edge_y) = _two(points, "circle").tolist()
    radius = hypot(edge_x - x, edge_y - y)
    # A circle may be drawn over the edge of the image; only its middle must lie there.
    fractions(np.array([[x, y]] * 3), size, "/points")
    outline = np.clip(ellipse(x, y, min(radius, 1e6), min(radius, 1e6)), 0, [size[1], size[0]])
    return (fractions(outline, size, "/points"),)


def _mask(entry: Mapping[str, Any], points: Points, size: tuple[int, int]) -> tuple[Polygon, ...]:
    """A mask: a PNG in base64, whose first pixel is the first point."""
    data = entry.get("mask")
    if not isinstance(data, str):
        raise Fault("D003", f"{shown(data)} is no PNG in base64", at="/mask")
    try:
        mask = read_png(base64.b64decode(data, validate=True), "the mask") != 0
    except (binascii.Error, ValueError) as error:
        raise Fault("D003", str(error), at="/mask") from None
    if not len(points):
        raise Fault("D003", "a mask needs the corners of its rectangle", at="/points")
    pieces = outlines(mask)
    if not pieces:
        raise Fault("D003", "the mask is empty", "take the shape out", "/mask")
    corner = np.floor(points.min(axis=0))
    return tuple(fractions(piece + corner, size, "/mask") for piece in pieces)


_KINDS = {
    "polygon": _polygon,
    "rectangle": _rectangle,
    "circle": _circle,
    "mask": _mask,
}

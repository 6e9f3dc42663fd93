"""Geometry of training images: where pictures come to lie in the network's frame, and their polygons with them.

Coordinates are x and y in pixels, with 0 at the outer edge of the first pixel, so that pixel 0 has its centre at 0.5.
Matrices are homographies [3, 3] that take column vectors (x, y, 1). Pictures are placed on an endless plane whose
origin is the middle of what is looked at; a view takes the plane to the frame.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, cos, radians, sin, tan
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.data.polygons import area
from segc.data.scene import Parts
from segc.inference.metadata import PADDING_GREY

if TYPE_CHECKING:
    from segc.spec.hyperparameters import Augment

Matrix = NDArray[np.float64]

LEAST_SIDE = 2.0
"""Objects that come out narrower or lower than this many pixels are left out."""

LEAST_VISIBLE = 0.05
"""Objects of which less than this share of the area stays in the frame are left out."""

_LEAST_DEPTH = 0.2
"""Perspective may bring the plane's points in the frame this near to the eye, 1 being the middle of the picture: with
0 the horizon would lie in the frame."""

_AHEAD = np.array([0, 0, 1e-6])
_FRACTION_BITS = 8
_BACKWARDS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


def shift(x: float, y: float) -> Matrix:
    """A translation."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def stretch(x: float, y: float) -> Matrix:
    """A scaling of both axes."""
    return np.diag([x, y, 1.0])


def random_view(augment: "Augment", size: tuple[int, int], generator: np.random.Generator) -> Matrix:
    """The view of a frame of (height, width), turned, scaled, sheared, shifted and tilted at random.

    Always as many numbers are drawn, so one setting does not move another's. Without any of these settings the plane
    is seen straight on, its origin in the middle of the frame.
    """
    turn, zoom, shear_x, shear_y, move_x, move_y, *tilt = generator.uniform(-1, 1, 8).tolist()
    height, width = size
    angle, factor = radians(turn * augment.degrees), 1 + zoom * augment.scale
    turned = np.array(
        [
            [factor * cos(angle), -factor * sin(angle), 0],
            [factor * sin(angle), factor * cos(angle), 0],
            [0, 0, 1],
        ]
    )
    sheared = np.eye(3)
    sheared[0, 1], sheared[1, 0] = tan(radians(shear_x * augment.shear)), tan(radians(shear_y * augment.shear))
    moved = shift(width * (0.5 + move_x * augment.translate), height * (0.5 + move_y * augment.translate))
    flat = moved @ sheared @ turned
    tilted = np.eye(3)
    tilted[2, :2] = _bounded_tilt(np.array(tilt) * augment.perspective, flat, size)
    return np.asarray(flat @ tilted, np.float64)


def _bounded_tilt(tilt: NDArray[np.float64], flat: Matrix, size: tuple[int, int]) -> NDArray[np.float64]:
    """The tilt, reduced where the horizon would come too near to the frame."""
    if not tilt.any():
        return tilt
    corners = np.linalg.inv(flat) @ np.c_[_rectangle(*size), np.ones(4)].T
    nearness = float((tilt @ corners[:2]).max())
    return np.asarray(tilt * min(1, (1 - _LEAST_DEPTH) / nearness) if nearness > 0 else tilt, np.float64)


def _rectangle(height: float, width: float) -> NDArray[np.float64]:
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)


def mosaic_places(
    sizes: Sequence[tuple[int, int]], frame: tuple[int, int], generator: np.random.Generator
) -> tuple[Matrix, ...]:
    """Where four pictures of (height, width) lie on the plane: round a point within half a frame of its origin.

    The method is that of mosaic in arXiv 2004.10934.
    """
    x, y = (generator.uniform(-0.5, 0.5, 2) * (frame[1], frame[0])).tolist()
    return tuple(
        shift(x - width * (corner % 2 == 0), y - height * (corner < 2)) for corner, (height, width) in enumerate(sizes)
    )


def centred(size: tuple[int, int], frame: tuple[int, int]) -> Matrix:
    """Where a single picture of (height, width) lies on the plane: as the letterbox puts it into the frame."""
    # An odd remainder goes to the right and to the bottom.
    top, left = (round((whole - side) / 2 - 0.1) for whole, side in zip(frame, size, strict=True))
    return shift(left - frame[1] / 2, top - frame[0] / 2)


def paint(canvas: NDArray[np.uint8], image: NDArray[np.uint8], matrix: Matrix) -> None:
    """Draw an image [h, w, 3], bilinear, on a canvas [H, W, 3] where a matrix takes it, right at its final size.

    Pixels of the canvas belong to the image where it covers their centres; only they are worked out.
    """
    if _is_whole_shift(matrix):
        _copy(canvas, image, int(matrix[0, 2]), int(matrix[1, 2]))
    elif matrix[0, 1] or matrix[1, 0] or matrix[2, 0] or matrix[2, 1]:
        _paint_any(canvas, image, matrix)
    else:
        _paint_upright(canvas, image, matrix)


def _paint_upright(canvas: NDArray[np.uint8], image: NDArray[np.uint8], matrix: Matrix) -> None:
    """Draw an image that is only stretched and shifted: what it covers is a rectangle of the canvas."""
    (wide, _, x), (_, high, y) = matrix[:2].tolist()
    x0, x1 = max(ceil(x - 0.5), 0), min(ceil(x + wide * image.shape[1] - 0.5), canvas.shape[1])
    y0, y1 = max(ceil(y - 0.5), 0), min(ceil(y + high * image.shape[0] - 0.5), canvas.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    back = np.array([[1 / wide, 0, (x0 + 0.5 - x) / wide - 0.5], [0, 1 / high, (y0 + 0.5 - y) / high - 0.5]])
    cv2.warpAffine(
        image, back, (x1 - x0, y1 - y0), dst=canvas[y0:y1, x0:x1], flags=_BACKWARDS, borderMode=cv2.BORDER_REPLICATE
    )


def _paint_any(canvas: NDArray[np.uint8], image: NDArray[np.uint8], matrix: Matrix) -> None:
    outline = project(clip(_rectangle(*image.shape[:2]), frame_lines(matrix, canvas.shape[:2])), matrix)
    if len(outline) < 3:
        return
    (x0, y0), (x1, y1) = np.ceil(outline.min(axis=0) - 0.5), np.ceil(outline.max(axis=0) - 0.5)
    area = canvas[int(y0) : int(y1), int(x0) : int(x1)]
    if not area.size:
        return
    back = shift(-0.5, -0.5) @ np.linalg.inv(matrix) @ shift(x0 + 0.5, y0 + 0.5)
    drawn = cv2.warpPerspective(
        image, back, (area.shape[1], area.shape[0]), flags=_BACKWARDS, borderMode=cv2.BORDER_REPLICATE
    )
    inside = np.zeros(area.shape[:2], np.uint8)
    corners = np.round((outline - (x0 + 0.5, y0 + 0.5)) * 2**_FRACTION_BITS).astype(np.int32)
    cv2.fillConvexPoly(inside, corners, 1, shift=_FRACTION_BITS)
    cv2.copyTo(drawn, inside, area)


def _is_whole_shift(matrix: Matrix) -> bool:
    return np.array_equal(matrix, shift(round(matrix[0, 2]), round(matrix[1, 2])))


def _copy(canvas: NDArray[np.uint8], image: NDArray[np.uint8], x: int, y: int) -> None:
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + image.shape[1], canvas.shape[1]), min(y + image.shape[0], canvas.shape[0])
    if x0 < x1 and y0 < y1:
        canvas[y0:y1, x0:x1] = image[y0 - y : y1 - y, x0 - x : x1 - x]


def blank(size: tuple[int, int]) -> NDArray[np.uint8]:
    """A canvas of (height, width) in the grey of the letterbox."""
    return np.full((*size, 3), PADDING_GREY, np.uint8)


def frame_lines(matrix: Matrix, size: tuple[int, int]) -> NDArray[np.float64]:
    """The frame's four sides, and what is in front of the eye, as lines [5, 3] before a matrix is applied.

    A point (x, y) comes to lie in the frame of (height, width) where all ``a x + b y + c`` are at least 0.
    """
    height, width = size
    x, y, depth = matrix
    return np.array([x, width * depth - x, y, height * depth - y, depth - _AHEAD])


def clip(points: NDArray[Any], lines: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """What of a polygon [K, 2] lies on the inner sides of lines, by the method of Sutherland and Hodgman (CACM 1974).

    A concave polygon that falls apart is still one, its pieces joined along the lines.
    """
    points = np.asarray(points, np.float64)
    for a, b, c in lines:
        distance = points @ (a, b) + c
        inside = distance >= 0
        if inside.all():
            continue
        if not inside.any():
            return np.zeros((0, 2))
        after = np.arange(1, len(points) + 1)
        after[-1] = 0
        crossing = np.flatnonzero(inside != inside[after])
        beyond = after[crossing]
        step = distance[crossing] / (distance[crossing] - distance[beyond])
        both, kept = np.empty((len(points), 2, 2)), np.zeros((len(points), 2), bool)
        both[:, 0], kept[:, 0] = points, inside
        both[crossing, 1] = points[crossing] + step[:, None] * (points[beyond] - points[crossing])
        kept[crossing, 1] = True
        points = both[kept]
    return points


def project(points: NDArray[Any], matrix: Matrix) -> NDArray[np.float64]:
    """Points [K, 2] where a matrix takes them."""
    moved = points @ matrix[:2, :2].T + matrix[:2, 2]
    if matrix[2, 0] or matrix[2, 1]:
        with np.errstate(all="ignore"):  # points beside or behind the eye come to lie nowhere
            moved = moved / (points @ matrix[2, :2] + matrix[2, 2])[:, None]
    return np.asarray(moved, np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """The polygons of several objects, all points in one array.

    Attributes:
        points: [P, 2], the points of all polygons.
        starts: [Q], where the points of each polygon begin.
        parts: the polygons of each object, as views of ``points``.
        areas: the area of each object, parts added up.
    """

    points: NDArray[np.float32]
    starts: NDArray[np.int64]
    parts: tuple[Parts, ...]
    areas: tuple[float, ...]


def shapes(objects: Sequence[Parts]) -> Shapes:
    """The polygons of objects in one array."""
    parts = [part for one in objects for part in one]
    if not parts:
        return Shapes(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), (), ())
    points = np.concatenate(parts, dtype=np.float32)
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    views = iter(np.split(points, starts[1:]))
    grouped = tuple(tuple(next(views) for _ in one) for one in objects)
    return Shapes(points, starts, grouped, tuple(sum(area(part) for part in one) for one in grouped))


def project_objects(
    objects: Shapes, matrix: Matrix, size: tuple[int, int], *, prune: bool
) -> tuple[list[int], list[Parts]]:
    """The objects that a matrix leaves in a frame, with the polygons of what is visible of them.

    Args:
        objects: polygons of each object.
        matrix: takes them to pixels of the frame.
        size: (height, width) of the frame.
        prune: leave out objects that became too small to learn from: of which less than ``LEAST_VISIBLE`` of the area
            stays, or whose visible part is less than ``LEAST_SIDE`` pixels wide or high.

    Returns:
        The places of those objects among all, and their polygons.
    """
    if not objects.parts:
        return [], []
    lines = frame_lines(matrix, size)
    points, starts = objects.points, objects.starts
    distances = points @ lines[:, :2].T + lines[:, 2]
    # Beyond one of the lines with all points, or beyond none with any; most polygons are either.
    gone = np.any(np.maximum.reduceat(distances, starts) < 0, axis=1).tolist()
    nearest = np.minimum.reduceat(distances, starts)
    whole = np.all(nearest >= 0, axis=1).tolist()
    moved = project(points, matrix).astype(np.float32)
    bounds = [*starts.tolist(), len(points)]
    kept, visible = [], []
    number = 0
    for index, one in enumerate(objects.parts):
        places = range(number, number := number + len(one))
        if all(whole[place] for place in places):
            pieces, share = [moved[bounds[place] : bounds[place + 1]] for place in places], 1.0
        elif all(gone[place] for place in places):
            continue
        else:
            clipped = [clip(part, lines[nearest[p] < 0]) for part, p in zip(one, places, strict=True) if not gone[p]]
            left = [piece for piece in clipped if len(piece) > 2]
            total = objects.areas[index]
            share = sum(area(piece) for piece in left) / total if total else 1.0
            pieces = [project(piece, matrix).astype(np.float32) for piece in left]
        if pieces and not (prune and (share < LEAST_VISIBLE or least_side(pieces) < LEAST_SIDE)):
            kept.append(index)
            visible.append(tuple(pieces))
    return kept, visible


def least_side(pieces: Sequence[NDArray[Any]]) -> float:
    """The shorter side of the box round polygons."""
    points = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return float((points.max(axis=0) - points.min(axis=0)).min())

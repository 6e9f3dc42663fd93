"""Masks: coefficients times prototypes, interpolated in the box's region only, kept as that region's bitmap.

The method is YOLACT's (arXiv 1904.02689) in the order that this network family is run in: product, bilinear
interpolation to the size asked for, crop to the box, threshold at logit 0. A pixel belongs to a box where
x1 <= x < x2 and y1 <= y < y2 for its index (x, y).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from segc.inference.letterbox import Letterbox, boxes_to_image

STRIP_PIXELS = 1 << 20
"""Pixels interpolated at a time; bounds the working memory on large photographs to some 12 MB."""


class Mask:
    """A mask stored as the bitmap of the region that holds it; it never changes.

    Args:
        x: column of the bitmap's left edge in the image.
        y: row of the bitmap's top edge in the image.
        bitmap: [rows, columns] bool; may be empty. It is not copied.

    Attributes:
        x: column of the bitmap's left edge in the image.
        y: row of the bitmap's top edge in the image.
        shape: (rows, columns) of the bitmap.
    """

    __slots__ = ("_held", "shape", "x", "y")

    def __init__(self, x: int, y: int, bitmap: npt.NDArray[np.bool_]) -> None:
        self.x, self.y = x, y
        self.shape: tuple[int, int] = (bitmap.shape[0], bitmap.shape[1])
        self._held: npt.NDArray[Any] = bitmap.view()
        self._held.setflags(write=False)

    @property
    def bitmap(self) -> npt.NDArray[np.bool_]:
        """[rows, columns] bool, read-only; of a mask that is packed made anew each time."""
        if self._held.dtype == np.bool_:
            return self._held
        return self._rows(0, self.shape[0])

    @property
    def pixels(self) -> int:
        """Pixels of the bitmap."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes that the bitmap takes."""
        return self._held.nbytes

    @property
    def area(self) -> int:
        """Pixels in the mask."""
        if self._held.dtype == np.bool_:
            return int(np.count_nonzero(self._held))
        return int(np.bitwise_count(self._held).sum(dtype=np.int64))

    def packed(self) -> "Mask":
        """The same mask in an eighth of the memory, a bit a pixel; its bitmap is then made anew each time."""
        if self._held.dtype != np.bool_:
            return self
        return Mask.of_bits(self.x, self.y, np.packbits(self._held, axis=1), self.shape[1])

    @classmethod
    def of_bits(cls, x: int, y: int, bits: npt.NDArray[np.uint8], columns: int) -> "Mask":
        """A packed mask from the bits [rows, columns / 8] uint8 of its rows, the first pixel the highest bit."""
        mask = cls(x, y, np.zeros((0, 0), np.bool_))
        mask.shape, mask._held = (len(bits), columns), bits.view()
        mask._held.setflags(write=False)
        return mask

    def _rows(self, first: int, last: int) -> npt.NDArray[np.bool_]:
        """Rows of the bitmap, the last one excluded."""
        held = self._held[first:last]
        if held.dtype == np.bool_:
            return held
        return np.unpackbits(held, axis=1, count=self.shape[1]).view(np.bool_)

    def region(self, x1: int, y1: int, x2: int, y2: int) -> npt.NDArray[np.bool_]:
        """The bitmap where the image's columns x1 to x2 and rows y1 to y2 cover it, both ends excluded."""
        rows = self._rows(max(y1 - self.y, 0), max(y2 - self.y, 0))
        return rows[:, max(x1 - self.x, 0) : max(x2 - self.x, 0)]

    def within(self, x1: int, y1: int, x2: int, y2: int) -> npt.NDArray[np.bool_]:
        """The mask on the image's columns x1 to x2 of rows y1 to y2, ends excluded, [y2 - y1, x2 - x1] bool."""
        canvas = np.zeros((y2 - y1, x2 - x1), np.bool_)
        part = self.region(x1, y1, x2, y2)
        top, left = max(self.y - y1, 0), max(self.x - x1, 0)
        inside = canvas[top : top + part.shape[0], left : left + part.shape[1]]
        inside[:] = part[: inside.shape[0], : inside.shape[1]]
        return canvas

    def moved(self, x: int, y: int) -> "Mask":
        """The same mask so many pixels further right and down."""
        if self._held.dtype == np.bool_:
            return Mask(self.x + x, self.y + y, self._held)
        return Mask.of_bits(self.x + x, self.y + y, self._held, self.shape[1])

    def full(self, height: int, width: int) -> npt.NDArray[np.bool_]:
        """The mask on a whole image, [height, width] bool. The region must lie inside it."""
        canvas = np.zeros((height, width), np.bool_)
        rows, columns = self.shape
        canvas[self.y : self.y + rows, self.x : self.x + columns] = self.bitmap
        return canvas

    def trimmed(self) -> "Mask":
        """The same mask in the smallest region that holds it, as a copy."""
        if not self.pixels:
            return _empty_mask()
        bitmap = self.bitmap
        left, top, columns, rows = cv2.boundingRect(bitmap.view(np.uint8))
        if not rows:
            return _empty_mask()
        return Mask(self.x + left, self.y + top, bitmap[top : top + rows, left : left + columns].copy())

    def run_lengths(self, height: int, width: int) -> list[int]:
        """COCO's uncompressed run-length encoding on an image [height, width].

        Lengths of alternating runs of background and mask, background first (perhaps 0), down the columns from left
        to right; they add up to height · width.
        """
        rows, columns = self.shape
        if not rows:
            return [height * width]
        bitmap = self.bitmap
        # Pixels that differ from the one above, then the heads and feet of columns: the turns, once sorted.
        inner = np.flatnonzero(bitmap[1:] != bitmap[:-1])
        head, foot = np.flatnonzero(bitmap[0]), np.flatnonzero(bitmap[-1])
        column = np.concatenate([inner % columns, head, foot])
        row = np.concatenate([inner // columns + 1, np.zeros_like(head), np.full_like(foot, rows)])
        turns = np.sort((column + self.x) * height + row + self.y)
        # Starts and ends alternate. A run that ends where the next one starts, at a column's foot and the head of the
        # next column, is one run.
        joined = np.flatnonzero(turns[1:] == turns[:-1])
        turns = np.delete(turns, np.concatenate([joined, joined + 1]))
        lengths = np.diff(turns, prepend=0, append=height * width)
        runs: list[int] = lengths.tolist()
        return runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs

    def polygons(self) -> list[npt.NDArray[np.int32]]:
        """Outer outlines, largest first: each int32 [k, 2] of pixel indices (x, y), k at least 1.

        ``cv2.fillPoly`` fills them to the same pixels. Holes are left out; the run lengths keep them.
        """
        if not self.pixels:
            return []
        found, _ = cv2.findContours(
            self.bitmap.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(self.x, self.y)
        )
        outlines = [np.asarray(outline, np.int32).reshape(-1, 2) for outline in found]
        # Ties by place, top first, so that the order is the same everywhere.
        return sorted(outlines, key=lambda outline: (-cv2.contourArea(outline), outline[0, 1], outline[0, 0]))

    def cut_polygons(self) -> list[npt.NDArray[np.int32]]:
        """Outlines as of ``polygons``, each with the holes in it: it goes to a hole, round it, and back the same way.

        ``cv2.fillPoly`` fills them to the mask, parts inside of holes included.
        """
        if not self.pixels:
            return []
        found, tree = cv2.findContours(
            self.bitmap.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(self.x, self.y)
        )
        parents = [] if tree is None else tree[0, :, 3].tolist()
        if max(parents, default=-1) < 0:
            return self.polygons()
        rings = [np.asarray(ring, np.int32).reshape(-1, 2) for ring in found]
        pieces = [
            (
                ring,
                _straight(
                    _with_holes(ring, [hole for hole, above in zip(rings, parents, strict=True) if above == index])
                ),
            )
            for index, (ring, parent) in enumerate(zip(rings, parents, strict=True))
            if parent < 0
        ]
        pieces.sort(key=lambda piece: (-cv2.contourArea(piece[0]), piece[0][0, 1], piece[0][0, 0]))
        return [outline for _, outline in pieces]


def united(masks: Sequence[Mask]) -> Mask:
    """What is in any of the masks, packed where there are several."""
    masks = [mask for mask in masks if mask.pixels] or list(masks[:1])
    if len(masks) == 1:
        return masks[0]
    x1, y1 = min(mask.x for mask in masks), min(mask.y for mask in masks)
    x2 = max(mask.x + mask.shape[1] for mask in masks)
    y2 = max(mask.y + mask.shape[0] for mask in masks)
    step = max(1, STRIP_PIXELS // (x2 - x1))
    bands = []
    for top in range(y1, y2, step):
        band = np.zeros((min(step, y2 - top), x2 - x1), np.bool_)
        for mask in masks:
            part = mask.region(x1, top, x2, top + len(band))
            first, left = max(mask.y - top, 0), mask.x - x1
            if part.size:
                band[first : first + part.shape[0], left : left + part.shape[1]] |= part
        bands.append(np.packbits(band, axis=1))
    return Mask.of_bits(x1, y1, np.concatenate(bands), x2 - x1)


def common_area(one: Mask, other: Mask) -> int:
    """Pixels that are in both masks."""
    x1, y1 = max(one.x, other.x), max(one.y, other.y)
    x2, y2 = (
        min(one.x + one.shape[1], other.x + other.shape[1]),
        min(one.y + one.shape[0], other.y + other.shape[0]),
    )
    if x1 >= x2 or y1 >= y2:
        return 0
    return int(np.count_nonzero(one.region(x1, y1, x2, y2) & other.region(x1, y1, x2, y2)))


class SampleAxis(NamedTuple):
    """Linear interpolation along one axis: pixel i is lower[i] · rest[i] + upper[i] · fraction[i].

    Attributes:
        lower: int64, cells that the pixels read, not falling.
        upper: int64, the cells after those, or the same ones at the edge.
        fraction: float32 in 0..1.
        rest: float32, what the fraction lacks to 1.
    """

    lower: npt.NDArray[np.int64]
    upper: npt.NDArray[np.int64]
    fraction: npt.NDArray[np.float32]
    rest: npt.NDArray[np.float32]

    def part(self, start: int, stop: int, first: int) -> "SampleAxis":
        """The axis for the pixels from ``start`` to ``stop`` only, cells counted from ``first``."""
        pixels = slice(start, stop)
        return SampleAxis(
            self.lower[pixels] - first, self.upper[pixels] - first, self.fraction[pixels], self.rest[pixels]
        )


def sample_axis(pixels: int, scale: float, offset: float, cells: int) -> SampleAxis:
    """Where a row of pixels reads a row of cells: centres at halves, edges clamped.

    Args:
        pixels: length of the row that is made.
        scale: cells a pixel.
        offset: between the origins, in cells: the point p, in pixels, lies at p · scale + offset, in cells.
        cells: length of the row that is read.
    """
    position = np.clip((np.arange(pixels) + 0.5) * scale + (offset - 0.5), 0, cells - 1)
    lower = position.astype(np.int64)
    fraction = (position - lower).astype(np.float32)
    return SampleAxis(lower, np.minimum(lower + 1, cells - 1), fraction, 1 - fraction)


def bilinear_positive(grid: npt.NDArray[np.float32], ys: SampleAxis, xs: SampleAxis) -> npt.NDArray[np.bool_]:
    """Where the bilinear interpolation of ``grid`` [h, w] is above 0, [len(ys), len(xs)]."""
    wide = grid.take(xs.lower, 1)
    wide *= xs.rest
    right = grid.take(xs.upper, 1)
    right *= xs.fraction
    wide += right
    result = np.empty((ys.lower.size, xs.lower.size), np.bool_)
    rows = max(1, STRIP_PIXELS // max(1, xs.lower.size))
    for first in range(0, ys.lower.size, rows):
        strip = slice(first, first + rows)
        value = wide.take(ys.lower[strip], 0)
        value *= ys.rest[strip, None]
        below = wide.take(ys.upper[strip], 0)
        below *= ys.fraction[strip, None]
        value += below
        np.greater(value, 0, out=result[strip])
    return result


def _empty_mask() -> Mask:
    return Mask(0, 0, np.zeros((0, 0), np.bool_))


def _span(low: float, high: float, limit: int) -> tuple[int, int]:
    """The indices i below ``limit`` with low <= i < high, as start and stop."""
    return min(max(math.ceil(low), 0), limit), min(max(math.ceil(high), 0), limit)


_MANY = 16
"""Detections from which on it pays to put the prototypes in order for them, a quarter of a millisecond at 640 px."""


def _places(prototypes: npt.NDArray[np.float32], number: int) -> npt.NDArray[np.float32]:
    """Prototypes [32, h, w] as [h, w, 32], in this order in memory where many detections read them."""
    if number < _MANY:
        return prototypes.transpose(1, 2, 0)
    count, rows, columns = prototypes.shape
    return np.asarray(cv2.transpose(prototypes.reshape(count, -1)), np.float32).reshape(rows, columns, count)


def _box_mask(
    coefficients: npt.NDArray[np.float32],
    places: npt.NDArray[np.float32],
    box: npt.NDArray[np.float32],
    ys: SampleAxis,
    xs: SampleAxis,
) -> Mask:
    """One detection's mask on the image whose rows and columns read the places [h, w, 32] by ``ys`` and ``xs``."""
    x0, x1 = _span(float(box[0]), float(box[2]), xs.lower.size)
    y0, y1 = _span(float(box[1]), float(box[3]), ys.lower.size)
    if x0 >= x1 or y0 >= y1:
        return _empty_mask()
    left, right = int(xs.lower[x0]), int(xs.upper[x1 - 1]) + 1
    top, bottom = int(ys.lower[y0]), int(ys.upper[y1 - 1]) + 1
    grid = places[top:bottom, left:right] @ coefficients
    return Mask(x0, y0, bilinear_positive(grid, ys.part(y0, y1, top), xs.part(x0, x1, left)))


def frame_masks(
    coefficients: npt.NDArray[np.float32],
    prototypes: npt.NDArray[np.float32],
    boxes: npt.NDArray[np.float32],
    size: tuple[int, int],
) -> list[Mask]:
    """Masks on the letterboxed frame.

    Args:
        coefficients: [n, 32].
        prototypes: [32, h, w], covering the frame.
        boxes: [n, 4] (x1, y1, x2, y2) in pixels of the frame.
        size: (height, width) of the frame.
    """
    cells = prototypes.shape[1:]
    ys, xs = (sample_axis(side, cell / side, 0.0, cell) for side, cell in zip(size, cells, strict=True))
    places = _places(prototypes, len(boxes))
    return [_box_mask(row, places, box, ys, xs) for row, box in zip(coefficients, boxes, strict=True)]


def masks_to_image(masks: Sequence[Mask], geometry: Letterbox) -> list[Mask]:
    """Masks of the frame on the photograph: interpolated bilinearly, cut at one half, without the padding."""
    ys = sample_axis(geometry.original[0], geometry.ratio_y, geometry.top, geometry.size[0])
    xs = sample_axis(geometry.original[1], geometry.ratio_x, geometry.left, geometry.size[1])
    return [_read_mask(mask, ys, xs) for mask in masks]


def _read_mask(mask: Mask, ys: SampleAxis, xs: SampleAxis) -> Mask:
    rows, columns = mask.shape
    # The pixels that read any cell of the region.
    x0, x1 = int(xs.upper.searchsorted(mask.x)), int(xs.lower.searchsorted(mask.x + columns))
    y0, y1 = int(ys.upper.searchsorted(mask.y)), int(ys.lower.searchsorted(mask.y + rows))
    if x0 >= x1 or y0 >= y1 or not mask.pixels:
        return _empty_mask()
    # A border of background around the region stands for all that lies beyond it.
    grid = np.full((rows + 2, columns + 2), -0.5, np.float32)
    grid[1:-1, 1:-1] += mask.bitmap
    ys, xs = ys.part(y0, y1, mask.y - 1), xs.part(x0, x1, mask.x - 1)
    return Mask(x0, y0, bilinear_positive(grid, ys, xs)).trimmed()


def image_masks(
    coefficients: npt.NDArray[np.float32],
    prototypes: npt.NDArray[np.float32],
    boxes: npt.NDArray[np.float32],
    geometry: Letterbox,
    *,
    retina: bool = False,
) -> list[Mask]:
    """Masks on the photograph.

    Args:
        coefficients: [n, 32].
        prototypes: [32, h, w], covering the frame.
        boxes: [n, 4] (x1, y1, x2, y2) in pixels of the frame.
        geometry: where the photograph lies in the frame.
        retina: interpolate the logits at the photograph's pixels instead of thresholding on the frame and scaling that
            mask: smoother outlines.
    """
    if not retina:
        return masks_to_image(frame_masks(coefficients, prototypes, boxes, geometry.size), geometry)
    rows, columns = prototypes.shape[1:]
    cell_y, cell_x = rows / geometry.size[0], columns / geometry.size[1]
    ys = sample_axis(geometry.original[0], geometry.ratio_y * cell_y, geometry.top * cell_y, rows)
    xs = sample_axis(geometry.original[1], geometry.ratio_x * cell_x, geometry.left * cell_x, columns)
    places = _places(prototypes, len(boxes))
    return [
        _box_mask(row, places, box, ys, xs).trimmed()
        for row, box in zip(coefficients, boxes_to_image(boxes, geometry), strict=True)
    ]


def detection_masks(
    outputs: Mapping[str, npt.NDArray[Any]],
    rows: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.float32],
    geometry: Letterbox,
    *,
    retina: bool = False,
) -> list[Mask]:
    """Masks on the photograph from one image's named outputs.

    Args:
        outputs: without the batch axis, see `named_outputs`; with ``masks`` [A, H, W], or what masks are made of.
        rows: [n], of the outputs.
        boxes: [n, 4] (x1, y1, x2, y2) in pixels of the frame.
        geometry: where the photograph lies in the frame.
        retina: see `image_masks`; finished masks are as they are.
    """
    if "masks" not in outputs:
        return image_masks(outputs["coefficients"][rows], outputs["prototypes"], boxes, geometry, retina=retina)
    return masks_to_image(
        [cut_mask(outputs["masks"][row], box) for row, box in zip(rows, boxes, strict=True)], geometry
    )


def cut_mask(finished: npt.NDArray[Any], box: npt.NDArray[np.float32]) -> Mask:
    """The part of a finished mask [H, W] that its box (x1, y1, x2, y2) encloses; beyond it there is nothing."""
    x0, x1 = _span(float(box[0]), float(box[2]), finished.shape[1])
    y0, y1 = _span(float(box[1]), float(box[3]), finished.shape[0])
    return Mask(x0, y0, finished[y0:y1, x0:x1] > 0) if x0 < x1 and y0 < y1 else _empty_mask()


def affordable(boxes: npt.NDArray[np.float32], most: int) -> int:
    """How many detections, best first, have masks of ``most`` bytes in all, by their boxes [n, 4] in pixels."""
    areas = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(axis=1)
    return int(np.searchsorted(np.cumsum(areas), most, side="right"))


def join_polygons(polygons: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
    """One outline [k, 2] through all of ``polygons``, for label formats that have room for one.

    Each further polygon is tied in by a bridge of no width between two vertices that lie close together.
    """
    outline = polygons[0]
    for polygon in polygons[1:]:
        # Not the closest pair of all, which would take their product of steps, but the closest to one another.
        here = _nearest(outline, polygon[0])
        there = _nearest(polygon, outline[here])
        here = _nearest(outline, polygon[there])
        tour = np.roll(polygon, -there, axis=0)
        outline = np.concatenate([outline[: here + 1], tour, tour[:1], outline[here:]])
    return outline


def _with_holes(outline: npt.NDArray[np.int32], holes: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
    """One outline [k, 2] round a part and its holes, all of them lines from pixel to pixel."""
    # From the top of a hole the way leads upwards through the part, to its outline or a hole that is joined already.
    for hole in sorted(holes, key=lambda ring: int(ring[:, 1].min())):
        start = int(np.argmin(hole[:, 1]))
        x, y = hole[start]
        above = np.flatnonzero((outline[:, 0] == x) & (outline[:, 1] <= y))
        meet = int(above[np.argmax(outline[above, 1])])
        tour = np.roll(hole, -start, axis=0)
        outline = np.concatenate([outline[: meet + 1], tour, tour[:1], outline[meet:]])
    return outline


def _straight(outline: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """An outline [k, 2] without the points that it goes straight through."""
    before, after = outline - np.roll(outline, 1, axis=0), np.roll(outline, -1, axis=0) - outline
    turns = (np.sign(before) != np.sign(after)).any(axis=1)
    return np.asarray(outline[turns | (len(outline) == 1)], np.int32)


def _nearest(points: npt.NDArray[np.int32], point: npt.NDArray[np.int32]) -> int:
    across, down = (points[:, axis] - float(point[axis]) for axis in (0, 1))
    return int(np.argmin(across * across + down * down))

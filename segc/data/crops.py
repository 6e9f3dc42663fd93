"""Training images cut into the tiles that predictions are made on: where the crops lie, and what is on each of them."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segc.compute import processors
from segc.data.exif import FIRST_TRANSPOSED, exif_orientation
from segc.data.geometry import LEAST_VISIBLE, clip
from segc.data.labels import Instance
from segc.data.polygons import area
from segc.data.samples import MOST_BYTES, Sample, is_taken_as_stored, read_image, read_sample
from segc.diagnostics import SegcError
from segc.inference.filters import Tiling
from segc.inference.image_headers import image_header_size
from segc.inference.regions import tiff_picture
from segc.inference.tiles import DecodedPicture, Picture, Tile, tile_grid

_SAID_BY_HEADER = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
"""First bytes of files whose header says all about their size: JPEG and PNG, turned by EXIF alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """The training images of a project with tiles.

    Attributes:
        samples: crops, image by image and row by row, and images that are no larger than a tile as they are.
        tiling: the tiles.
        images: that there were.
        cut: of them cut into several.
        parts: of objects, on all crops together.
        left_out: parts that are too small to be learned from.
    """

    samples: tuple[Sample, ...]
    tiling: Tiling
    images: int
    cut: int
    parts: int
    left_out: int

    def summary(self) -> str:
        """What was done, in a line."""
        tiling = self.tiling
        whole = ", and of the whole images besides," if tiling.whole else ""
        text = (
            f"tiles of {tiling.size} pixels, overlap {tiling.overlap:g}:{whole} {len(self.samples)} crops of "
            f"{self.images} images, {self.cut} of which are larger than a tile; {self.parts} objects and parts of them"
        )
        least = f"less than {LEAST_VISIBLE:.0%} of the object and of the crop"
        return f"{text}, {self.left_out} parts left out ({least})" if self.left_out else text


def crops_of(samples: Sequence[Sample], tiling: Tiling) -> Crops:
    """Cut images with their objects as ``segc.inference.tiles.tile_grid`` cuts them for predictions.

    Of an object every crop has what lies on it. A part is left out where it is less than ``LEAST_VISIBLE`` of the
    object's area, and of the crop's: what fills a good share of a crop is there to be learned, however large the object
    is. An image that cannot be read stays as it is: who reads it tells what is wrong with it.

    Args:
        samples: whole images.
        tiling: the tiles.
    """
    found: list[Sample] = []
    cut = parts = left_out = 0
    with ThreadPoolExecutor(processors()) as readers:
        for sample, size in zip(samples, readers.map(_sample_size, samples), strict=True):
            tiles = [] if size is None else tile_grid(*size, tiling)
            if size is None or len(tiles) < 2:
                found.append(sample)
                parts += sum(not one.is_crowd for one in sample.instances)
                continue
            cut += 1
            outlines = _Outlines(sample.instances, size)
            for tile in tiles:
                instances, less = outlines.on(tile)
                region = None if tile.is_whole else (tile.x1, tile.y1, tile.x2, tile.y2)
                found.append(replace(sample, instances=instances, size=size, region=region))
                parts += sum(not one.is_crowd for one in instances)
                left_out += less
    return Crops(tuple(found), tiling, len(samples), cut, parts, left_out)


def crop_count(images: Iterable[Path], tiling: Tiling) -> int:
    """How many crops :func:`crops_of` makes of images, without their labels."""
    with ThreadPoolExecutor(processors()) as readers:
        sizes = readers.map(_upright_size, images)
        return sum(1 if found is None else len(tile_grid(*found[0], tiling)) for found in sizes)


def crop_source(sample: Sample) -> Picture:
    """The whole image that a crop is cut from, read in parts where its file allows it, as its labels are for it.

    Raises:
        SegcError: as ``segc.data.samples.read_sample``.
    """
    try:
        picture = tiff_picture(sample.image, sample.image.name)
    except OSError:  # told by who reads it whole
        picture = None
    if picture is None:
        return DecodedPicture(read_sample(replace(sample, region=None)))
    is_taken_as_stored(sample, picture.size, 1, None)
    return picture


def _sample_size(sample: Sample) -> tuple[int, int] | None:
    """(height, width) of the picture that an image's labels are for; None where it cannot be read."""
    found = _upright_size(sample.image)
    if found is None:
        return None
    try:
        stored = is_taken_as_stored(sample, *found, None)
    except SegcError:
        return None
    return found[0][::-1] if stored else found[0]


def _upright_size(path: Path) -> tuple[tuple[int, int], int] | None:
    """(height, width) of an image as it is decoded, and its EXIF orientation; None where it cannot be read."""
    try:
        if (tiff := tiff_picture(path, path.name)) is not None:
            return tiff.size, 1
        if path.stat().st_size > MOST_BYTES:
            return None
        data = path.read_bytes()
        orientation = exif_orientation(data)
        if data.startswith(_SAID_BY_HEADER):
            size = image_header_size(data)
            turned = orientation >= FIRST_TRANSPOSED
            return None if size is None else (size[::-1] if turned else size, orientation)
        return read_image(path).shape[:2], orientation
    except (OSError, SegcError):
        return None


class _Outlines:
    """The objects of an image in its pixels.

    Args:
        instances: the objects.
        size: (height, width) of the image.
    """

    def __init__(self, instances: Sequence[Instance], size: tuple[int, int]) -> None:
        self._instances = instances
        scale = np.array([size[1], size[0]], np.float64)
        self._parts = [[part.astype(np.float64) * scale for part in one.polygons] for one in instances]
        points = [np.concatenate(parts) for parts in self._parts]
        self._boxes = np.array([[*one.min(axis=0), *one.max(axis=0)] for one in points]).reshape(-1, 4)
        self._areas = [sum(map(area, parts)) for parts in self._parts]

    def on(self, tile: Tile) -> tuple[tuple[Instance, ...], int]:
        """What a tile shows of the objects, in shares of its sides, and how many parts are left out."""
        low, high = np.array([tile.x1, tile.y1], np.float64), np.array([tile.x2, tile.y2], np.float64)
        starts, ends = self._boxes[:, :2], self._boxes[:, 2:]
        touching = np.asarray(np.logical_and(starts < high, ends > low).all(axis=1))
        inside = np.asarray(np.logical_and(starts >= low, ends <= high).all(axis=1))
        most = float((high - low).prod())
        found, left_out = [], 0
        for index in np.flatnonzero(touching).tolist():
            parts = self._parts[index] if inside[index] else _clipped(self._parts[index], low, high)
            instance = self._instances[index]
            if not inside[index] and not instance.is_crowd:
                visible = sum(map(area, parts))
                if visible < LEAST_VISIBLE * min(self._areas[index], most):
                    left_out += visible > 0
                    continue
            if parts:
                polygons = tuple(((part - low) / (high - low)).clip(0, 1).astype(np.float32) for part in parts)
                found.append(replace(instance, polygons=polygons))
        return tuple(found), left_out


def _clipped(
    parts: Sequence[NDArray[np.float64]], low: NDArray[np.float64], high: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """What of polygons [K, 2] lies between two corners (x, y); pieces without an area are left out."""
    sides = [np.array(side) for side in ((1, 0, -low[0]), (-1, 0, high[0]), (0, 1, -low[1]), (0, -1, high[1]))]
    clipped = [clip(part, sides) for part in parts]
    return [part for part in clipped if len(part) > 2 and area(part) > 0]

"""What a training image is made of on its way to the network, and the boxes and masks of its objects."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Parts = tuple[NDArray[np.float32], ...]
"""Polygons of one object, each [K, 2], x and y in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """An image in the network's frame with its objects.

    Attributes:
        image: [h, w, 3] uint8, RGB.
        classes: class index of each object.
        objects: polygons of each object in pixels of ``image``.
    """

    image: NDArray[np.uint8]
    classes: tuple[int, ...]
    objects: tuple[Parts, ...]


def boxes_of(objects: Sequence[Parts], height: int, width: int) -> NDArray[np.float32]:
    """The boxes [n, 4] (x1, y1, x2, y2 in pixels) around polygons, as far as they lie in the frame."""
    boxes = np.zeros((len(objects), 4), np.float32)
    for box, parts in zip(boxes, objects, strict=True):
        points = np.concatenate(parts)
        box[:2], box[2:] = points.min(axis=0), points.max(axis=0)
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32))


def object_masks(objects: Sequence[Parts], height: int, width: int, ratio: int) -> NDArray[np.uint8]:
    """One mask an object on a grid ``ratio`` times coarser than the frame.

    Objects are drawn at full resolution and a cell belongs to the mask where they cover at least half of it. An object
    that covers no cell so far has the cells that it covers most.

    Returns:
        [n, height / ratio, width / ratio], 0 or 1.
    """
    rows, columns = height // ratio, width // ratio
    masks = np.zeros((len(objects), rows, columns), np.uint8)
    far = np.array([width, height], np.float32)
    for mask, parts in zip(masks, objects, strict=True):
        # What was cut off at the far sides of the frame ends in its last pixels, not beyond them.
        pixels = [(np.floor(part) - (part == far)).astype(np.int32) for part in parts]
        corners = pixels[0] if len(pixels) == 1 else np.concatenate(pixels)
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        # Only whole cells around the object are drawn.
        x0, y0 = min(max(left // ratio, 0), columns - 1), min(max(top // ratio, 0), rows - 1)
        x1, y1 = min(max(right // ratio, x0) + 1, columns), min(max(bottom // ratio, y0) + 1, rows)
        drawn = np.zeros(((y1 - y0) * ratio, (x1 - x0) * ratio), np.uint8)
        for part in pixels:
            cv2.fillPoly(drawn, [part], 255, offset=(-x0 * ratio, -y0 * ratio))
        cover = cv2.resize(drawn, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
        most = int(cover.max())
        if most:
            mask[y0:y1, x0:x1] = cover >= min(most, 128)
    return masks


def index_map(masks: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Masks [n, h, w] as one map [h, w] of 1 + the object's index, 0 for background; smaller objects lie on top."""
    result = np.zeros(masks.shape[1:], np.int32)
    areas = masks.sum(axis=(1, 2), dtype=np.int64)
    for index in np.argsort(-areas, kind="stable"):
        result[masks[index] != 0] = index + 1
    return result

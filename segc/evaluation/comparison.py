"""What a model found on an image beside what is labelled there, on one of two grids; see ``segc.evaluation.coco``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segc.data.labels import Instance
from segc.data.scene import Parts, index_map, object_masks
from segc.evaluation.metrics import Objects
from segc.evaluation.rle import Rle, compress, encode_mask, encode_polygons
from segc.inference.letterbox import Letterbox, boxes_to_image
from segc.inference.masks import Mask, detection_masks, frame_masks
from segc.inference.postprocess import Detections
from segc.inference.results import Prediction

MaskGrid = Literal["photograph", "prototypes"]
MASK_GRIDS: tuple[MaskGrid, ...] = get_args(MaskGrid)

Outputs = Mapping[str, NDArray[np.float32]]
Comparison = tuple[tuple[int, int], Objects, Objects]
"""The grid (height, width), what is labelled, and what was found."""


def compare_prediction(instances: Sequence[Instance], found: Prediction) -> Comparison:
    """A finished prediction beside the labels, on the photograph."""
    grid = (found.height, found.width)
    needed = _matchable(found.classes, instances)
    masks = _codes([mask if use else None for mask, use in zip(found.masks, needed, strict=True)], grid)
    return grid, _truth_on_photograph(instances, grid), Objects(found.classes, found.boxes, masks, found.scores)


def _matchable(classes: NDArray[np.int64], instances: Sequence[Instance]) -> NDArray[np.bool_]:
    """Which detections may match an object: those of a class that the image has."""
    return np.isin(classes, [instance.class_id for instance in instances])


def _codes(masks: Sequence[Mask | None], grid: tuple[int, int]) -> list[Rle]:
    """Run-length codes of masks on a grid; an empty one for None."""
    height, width = grid
    empty = [height * width]
    return compress([mask.run_lengths(height, width) if mask else empty for mask in masks], height, width)


def _truth(objects: Sequence[Parts], instances: Sequence[Instance], masks: Sequence[Rle]) -> Objects:
    """Labelled objects, with boxes drawn round their polygons in pixels of the photograph."""
    boxes = [(*points.min(axis=0), *points.max(axis=0)) for points in map(np.concatenate, objects)]
    classes = np.array([instance.class_id for instance in instances], np.int64)
    crowd = np.array([instance.is_crowd for instance in instances], np.bool_)
    return Objects(classes, np.array(boxes, np.float64).reshape(-1, 4), masks, crowd=crowd)


def _scaled(instances: Sequence[Instance], size: tuple[int, int]) -> list[Parts]:
    """Polygons of objects in pixels of an image of (height, width)."""
    scale = np.array([size[1], size[0]], np.float32)
    return [tuple(polygon * scale for polygon in instance.polygons) for instance in instances]


def _truth_on_photograph(instances: Sequence[Instance], original: tuple[int, int]) -> Objects:
    objects = _scaled(instances, original)
    return _truth(objects, instances, [encode_polygons(parts, *original) for parts in objects])


def _found(
    instances: Sequence[Instance],
    found: Detections,
    geometry: Letterbox,
    grid: tuple[int, int],
    masks_of: Callable[[NDArray[np.int64]], Sequence[Mask]],
) -> Objects:
    """Detections with boxes on the photograph, and with the masks that can matter; ``masks_of`` works those out."""
    rows = np.flatnonzero(_matchable(found.classes, instances))
    masks: list[Mask | None] = [None] * len(found.scores)
    for row, mask in zip(rows, masks_of(rows), strict=True):
        masks[row] = mask
    return Objects(found.classes, boxes_to_image(found.boxes, geometry), _codes(masks, grid), found.scores)


def _on_photograph(
    instances: Sequence[Instance], found: Detections, outputs: Outputs, geometry: Letterbox
) -> Comparison:
    def masks(rows: NDArray[np.int64]) -> Sequence[Mask]:
        return detection_masks(outputs, found.anchors[rows], found.boxes[rows], geometry, retina=True)

    truth = _truth_on_photograph(instances, geometry.original)
    return geometry.original, truth, _found(instances, found, geometry, geometry.original, masks)


def _on_prototypes(
    instances: Sequence[Instance], found: Detections, outputs: Outputs, geometry: Letterbox
) -> Comparison:
    prototypes = outputs["prototypes"]
    height, width = prototypes.shape[1:]
    ratio = geometry.size[0] // height

    def masks(rows: NDArray[np.int64]) -> Sequence[Mask]:
        coefficients = outputs["coefficients"][found.anchors[rows]]
        return frame_masks(coefficients, prototypes, found.boxes[rows] / ratio, (height, width))

    shift = np.array([geometry.left, geometry.top], np.float32)
    framed = [tuple(part + shift for part in parts) for parts in _scaled(instances, geometry.resized)]
    masks_drawn = object_masks(framed, *geometry.size, ratio)
    objects = np.flatnonzero([not instance.is_crowd for instance in instances])
    owner = index_map(masks_drawn[objects])
    for place, index in enumerate(objects):  # crowd regions hide nothing
        masks_drawn[index] = owner == 1 + place
    visible = [encode_mask(mask != 0) for mask in masks_drawn]
    truth = _truth(_scaled(instances, geometry.original), instances, visible)
    return (height, width), truth, _found(instances, found, geometry, (height, width), masks)


COMPARISONS: dict[MaskGrid, Callable[[Sequence[Instance], Detections, Outputs, Letterbox], Comparison]] = {
    "photograph": _on_photograph,
    "prototypes": _on_prototypes,
}
"""By grid: from the labels of an image, its detections, the network's outputs and the letterbox to the comparison."""

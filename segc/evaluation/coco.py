"""Evaluating a model on a split: every image through the network, then average precision by the COCO protocol.

Boxes are always compared in pixels of the photograph. Masks are compared on one of two grids:

``photograph`` (the default): predicted masks as users get them, at the photograph's resolution, against the labels'
polygons drawn there by COCO's rasteriser. These are the figures that other projects' COCO results compare with.

``prototypes``: the network's own mask grid, a quarter of its input size, against the masks that training works towards:
polygons drawn on the letterboxed frame and scaled down, smaller objects hiding what is below them. A coarse grid
forgives outlines that are a pixel or two off, so mask AP at high IoU comes out higher. The reference
implementation of this network family reports such figures when it validates; they are here to compare with it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segc.data.dataset import Sample, read_image
from segc.data.labels import Instance
from segc.data.scene import Parts, index_map, object_masks
from segc.diagnostics import fail
from segc.evaluation.metrics import MAX_DETECTIONS, Evaluation, Metrics, MetricSet, Objects
from segc.evaluation.rle import Rle, compress, encode_mask, encode_polygons
from segc.inference.letterbox import Letterbox, boxes_to_image, letterbox, to_input
from segc.inference.masks import Mask, frame_masks, image_masks
from segc.inference.postprocess import Detections, detections
from segc.inference.results import Prediction

if TYPE_CHECKING:
    from segc.targets.base import Session

__all__ = [
    "MASK_GRIDS",
    "MAX_DETECTIONS",
    "MaskGrid",
    "MetricSet",
    "Metrics",
    "Progress",
    "evaluate",
    "evaluate_session",
]

MaskGrid = Literal["photograph", "prototypes"]
MASK_GRIDS: tuple[MaskGrid, ...] = get_args(MaskGrid)

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""

Frame = tuple[NDArray[np.uint8], Letterbox]


def evaluate(
    samples: Sequence[Sample],
    predict: Callable[[NDArray[np.uint8], Path], Prediction],
    names: Sequence[str],
    *,
    progress: Progress | None = None,
) -> Metrics:
    """Metrics of anything that predicts, one image at a time, with masks compared on the photograph.

    Args:
        samples: images and their objects.
        predict: from an image [h, w, 3] BGR and its path to what was found on it. For figures that compare with
            published ones, it keeps all detections down to a score of 0.001.
        names: class names.
        progress: called after every image.

    Raises:
        SegcError: D002 where an image cannot be read.
    """
    evaluation = Evaluation(names)
    for done, sample in enumerate(samples, 1):
        found = predict(read_image(sample.image), sample.image)
        grid = (found.height, found.width)
        needed = _matchable(found.classes, sample.instances)
        masks = _codes([mask if use else None for mask, use in zip(found.masks, needed, strict=True)], grid)
        evaluation.add(
            grid,
            _truth_on_photograph(sample.instances, grid),
            Objects(found.classes, found.boxes, masks, found.scores),
        )
        if progress is not None:
            progress(done, len(samples))
    return evaluation.metrics()


def evaluate_session(
    session: "Session",
    samples: Sequence[Sample],
    names: Sequence[str],
    *,
    size: tuple[int, int],
    iou: float = 0.7,
    max_det: int = 300,
    conf: float = 0.001,
    batch: int = 1,
    mask_grid: MaskGrid = "photograph",
    progress: Progress | None = None,
    together: Callable[[Evaluation], Evaluation] | None = None,
) -> Metrics:
    """Metrics of a network or an artifact on a split.

    The next images are read while the network runs. A detection's mask is only worked out where the image has an object
    of its class: elsewhere the detection counts as false whatever its mask.

    Args:
        session: runs the model. Where its ``metadata`` does not say ``dynamic``, it gets exactly its metadata's
            ``batch`` of images a run (1 where that says nothing), the last run filled up.
        samples: images and their objects.
        names: class names, as many as the model has.
        size: input (height, width) in pixels; images are letterboxed into it.
        iou: threshold of the non-maximum suppression, an anchor standing for each of its classes.
        max_det: detections an image.
        conf: detections with a score at or below it are left out.
        batch: images a run of a dynamic session.
        mask_grid: where masks are compared; see the module.
        progress: called after every image.
        together: adds what other processes found on their images, where several share a split.

    Raises:
        SegcError: D002 where an image cannot be read; E002 where the model has another number of classes.
    """
    dynamic = bool(session.metadata.get("dynamic"))
    number = batch if dynamic else int(session.metadata.get("batch", 1))
    evaluation = Evaluation(names)
    done = 0
    for chunk, frames in _letterboxed(samples, size, number):
        inputs = [frame[:, :, ::-1] for frame, _ in frames]
        if not dynamic:
            inputs += [inputs[-1]] * (number - len(inputs))
        outputs = session.run(to_input(inputs))
        classes = outputs["scores"].shape[2]
        if classes != len(names):
            raise fail("E002", f"the model has {classes} classes, the dataset {len(names)}")
        for row, (sample, (_, geometry)) in enumerate(zip(chunk, frames, strict=True)):
            one = {name: value[row] for name, value in outputs.items()}
            found = detections(one["boxes"], one["scores"], conf=conf, iou=iou, max_det=max_det, multi_label=True)
            evaluation.add(*_COMPARISONS[mask_grid](sample.instances, found, one, geometry))
            done += 1
            if progress is not None:
                progress(done, len(samples))
    return (evaluation if together is None else together(evaluation)).metrics()


def _letterboxed(
    samples: Sequence[Sample], size: tuple[int, int], number: int
) -> Iterator[tuple[Sequence[Sample], list[Frame]]]:
    """Samples in groups with their letterboxed images, the next group being read while the caller works on one."""

    def read(group: Sequence[Sample]) -> list[Frame]:
        return [letterbox(read_image(sample.image), size) for sample in group]

    ahead: deque[tuple[Sequence[Sample], Future[list[Frame]]]] = deque()
    with ThreadPoolExecutor(1) as reader:
        for start in range(0, len(samples), number):
            group = samples[start : start + number]
            ahead.append((group, reader.submit(read, group)))
            if len(ahead) == 2:
                ready, frames = ahead.popleft()
                yield ready, frames.result()
        for ready, frames in ahead:
            yield ready, frames.result()


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
    return Objects(classes, np.array(boxes, np.float64).reshape(-1, 4), masks)


def _scaled(instances: Sequence[Instance], size: tuple[int, int]) -> list[Parts]:
    """Polygons of objects in pixels of an image of (height, width)."""
    scale = np.array([size[1], size[0]], np.float32)
    return [tuple(polygon * scale for polygon in instance.polygons) for instance in instances]


def _truth_on_photograph(instances: Sequence[Instance], original: tuple[int, int]) -> Objects:
    objects = _scaled(instances, original)
    return _truth(objects, instances, [encode_polygons(parts, *original) for parts in objects])


Outputs = Mapping[str, NDArray[np.float32]]
Comparison = tuple[tuple[int, int], Objects, Objects]


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
        coefficients = outputs["coefficients"][found.anchors[rows]]
        return image_masks(coefficients, outputs["prototypes"], found.boxes[rows], geometry)

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
    owner = index_map(object_masks(framed, *geometry.size, ratio))
    visible = [encode_mask(owner == 1 + index) for index in range(len(instances))]
    truth = _truth(_scaled(instances, geometry.original), instances, visible)
    return (height, width), truth, _found(instances, found, geometry, (height, width), masks)


_COMPARISONS: dict[MaskGrid, Callable[[Sequence[Instance], Detections, Outputs, Letterbox], Comparison]] = {
    "photograph": _on_photograph,
    "prototypes": _on_prototypes,
}

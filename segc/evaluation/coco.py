"""Evaluating a model on a split: every image through the network, then average precision by the COCO protocol.

Boxes are always compared in pixels of the photograph. Masks are compared on one of two grids:

``photograph`` (the default): predicted masks as users get them, at the photograph's resolution, against the labels'
polygons drawn there by COCO's rasteriser. These are the figures that other projects' COCO results compare with.

``prototypes``: the network's own mask grid, a quarter of its input size, against the masks that training works towards:
polygons drawn on the letterboxed frame and scaled down, smaller objects hiding what is below them. A coarse grid
forgives outlines that are a pixel or two off, so mask AP at high IoU comes out higher. The reference
implementation of this network family reports such figures when it validates; they are here to compare with it.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
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
from segc.spec.base import LARGEST_STRIDE

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

_MOST_WAITING = 4
"""Batches of frames that wait for others of their size."""


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
    rect: bool = False,
    iou: float = 0.7,
    max_det: int = 300,
    conf: float = 0.001,
    batch: int = 1,
    mask_grid: MaskGrid = "photograph",
    progress: Progress | None = None,
    together: Callable[[Evaluation], Evaluation] | None = None,
) -> Metrics:
    """Metrics of a network or an artifact on a split.

    While the network runs on a batch, the next one is read and the detections of the one before are compared. A
    detection's mask is only worked out where the image has an object of its class: elsewhere the detection counts as
    false whatever its mask.

    Args:
        session: runs the model. Where its ``metadata`` does not say ``dynamic``, it gets exactly its metadata's
            ``batch`` of images a run (1 where that says nothing), the last run filled up.
        samples: images and their objects.
        names: class names, as many as the model has.
        size: input (height, width) in pixels; images are letterboxed into it.
        rect: with a dynamic session, letterbox each image into the smallest frame within ``size`` that holds it, sides
            multiples of 32: the picture is of the same scale, with less padding to compute. Batches are then made of
            frames of one size.
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
    compare = _COMPARISONS[mask_grid]
    evaluation = Evaluation(names)

    def judge(group: Sequence[Read], outputs: Outputs) -> list[Comparison]:
        found = [
            detections(boxes, scores, conf=conf, iou=iou, max_det=max_det, multi_label=True)
            for boxes, scores, _ in zip(outputs["boxes"], outputs["scores"], group, strict=False)
        ]
        return [
            compare(item.sample.instances, one, {name: value[row] for name, value in outputs.items()}, item.geometry)
            for row, (item, one) in enumerate(zip(group, found, strict=True))
        ]

    done = 0
    judging: deque[Future[list[Comparison]]] = deque()

    def finish(most_left: int) -> None:
        nonlocal done
        while len(judging) > most_left:
            for comparison in judging.popleft().result():
                evaluation.add(*comparison)
                done += 1
                if progress is not None:
                    progress(done, len(samples))

    with ThreadPoolExecutor(1) as judges, closing(_batches(samples, size, number, rect=rect and dynamic)) as batches:
        for group in batches:
            images = np.concatenate([item.image for item in group])
            if not dynamic and len(group) < number:
                images = np.concatenate([images, images[-1:].repeat(number - len(group), axis=0)])
            outputs = session.run(images)
            classes = outputs["scores"].shape[2]
            if classes != len(names):
                raise fail("E002", f"the model has {classes} classes, the dataset {len(names)}")
            judging.append(judges.submit(judge, group, outputs))
            finish(1)
        finish(0)
    return (evaluation if together is None else together(evaluation)).metrics()


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A sample ready for the network: its ``image`` is [1, 3, H, W] in 0..1."""

    sample: Sample
    image: NDArray[np.float32]
    geometry: Letterbox


def _batches(samples: Sequence[Sample], size: tuple[int, int], number: int, *, rect: bool) -> Generator[list[Read]]:
    """Groups of ``number`` samples with frames of one size, read ahead by a thread; the last ones may be smaller.

    Where sizes differ, groups fill side by side, and the fullest goes when too much waits.
    """

    def read(sample: Sample) -> Read:
        image = read_image(sample.image)
        frame = smallest_frame((image.shape[0], image.shape[1]), size) if rect else size
        framed, geometry = letterbox(image, frame)
        return Read(sample, to_input(framed[:, :, ::-1]), geometry)

    ahead: deque[Future[Read]] = deque()
    waiting: dict[tuple[int, int], list[Read]] = {}
    left = iter(samples)
    with ThreadPoolExecutor(1) as reader:
        try:
            ahead.extend(reader.submit(read, sample) for sample in islice(left, number + 1))
            while ahead:
                item = ahead.popleft().result()
                ahead.extend(reader.submit(read, sample) for sample in islice(left, 1))
                waiting.setdefault(item.geometry.size, []).append(item)
                fullest = max(waiting, key=lambda frame: len(waiting[frame]))
                if len(waiting[fullest]) == number or sum(map(len, waiting.values())) >= _MOST_WAITING * number:
                    yield waiting.pop(fullest)
            yield from waiting.values()
        finally:
            for future in ahead:
                future.cancel()


def smallest_frame(original: tuple[int, int], size: tuple[int, int], stride: int = LARGEST_STRIDE) -> tuple[int, int]:
    """The smallest frame within ``size`` that holds a photograph scaled as in a frame of that size.

    Args:
        original: (height, width) of the photograph.
        size: (height, width) of the full frame.
        stride: what the sides are multiples of.
    """
    ratio = min(size[0] / original[0], size[1] / original[1])
    # The exact sides, before they are rounded to pixels: a frame that is short of them by a fraction would shrink both.
    height, width = (max(1, math.ceil(side * ratio / stride - 1e-9)) * stride for side in original)
    return height, width


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
    masks_drawn = object_masks(framed, *geometry.size, ratio)
    objects = np.flatnonzero([not instance.is_crowd for instance in instances])
    owner = index_map(masks_drawn[objects])
    for place, index in enumerate(objects):  # crowd regions hide nothing
        masks_drawn[index] = owner == 1 + place
    visible = [encode_mask(mask != 0) for mask in masks_drawn]
    truth = _truth(_scaled(instances, geometry.original), instances, visible)
    return (height, width), truth, _found(instances, found, geometry, (height, width), masks)


_COMPARISONS: dict[MaskGrid, Callable[[Sequence[Instance], Detections, Outputs, Letterbox], Comparison]] = {
    "photograph": _on_photograph,
    "prototypes": _on_prototypes,
}

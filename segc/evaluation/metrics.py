"""Average precision by the COCO protocol (https://cocodataset.org/#detection-eval), computed by faster-coco-eval.

For each class and each of ten IoU thresholds (0.50 to 0.95), detections are matched to objects greedily in order of
score; precision, made monotonous, is read at 101 recalls and averaged. The best ``MAX_DETECTIONS`` of each class in an
image count, as in every published COCO figure. An image may hand over more of all classes together (``max_det``, 300 by
default): that keeps the rarer classes of a crowded picture in the count, and is usual for this network family.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segc.evaluation.rle import Rle

MAX_DETECTIONS = 100
"""Detections of one class that count in one image, the best first (COCO's ``maxDets``)."""

_RECALLS = 101
Task = Literal["bbox", "segm"]


@dataclass(frozen=True, slots=True)
class MetricSet:
    """Average precisions, each 0..1. Means go over the classes that the ground truth has; NaN where it has none.

    Attributes:
        map: mean over classes and the ten IoU thresholds 0.50, 0.55, …, 0.95.
        map50: mean over classes at IoU 0.50.
        map75: mean over classes at IoU 0.75.
        maps: the ten thresholds' mean of each class, in the order of the names; None for a class without ground truth.
        maps50: likewise at IoU 0.50.
    """

    map: float
    map50: float
    map75: float
    maps: tuple[float | None, ...]
    maps50: tuple[float | None, ...]

    def to_json(self) -> dict[str, Any]:
        """Values for JSON; None stands for NaN."""
        means = {name: getattr(self, name) for name in ("map", "map50", "map75")}
        known = {name: None if math.isnan(value) else value for name, value in means.items()}
        return {**known, "maps": list(self.maps), "maps50": list(self.maps50)}


@dataclass(frozen=True, slots=True)
class Metrics:
    """What an evaluation found.

    Attributes:
        names: class names.
        images: images evaluated.
        class_images: images that show each class.
        class_instances: objects of each class.
        box: average precisions of the boxes.
        seg: average precisions of the masks.
    """

    names: tuple[str, ...]
    images: int
    class_images: tuple[int, ...]
    class_instances: tuple[int, ...]
    box: MetricSet
    seg: MetricSet

    @property
    def instances(self) -> int:
        """Objects in the ground truth."""
        return sum(self.class_instances)

    def to_json(self) -> dict[str, Any]:
        """Values for JSON, with one row a class that the ground truth has."""
        classes = [
            {
                "name": name,
                "images": self.class_images[i],
                "instances": self.class_instances[i],
                **{
                    part: {"map": metrics.maps[i], "map50": metrics.maps50[i]}
                    for part, metrics in (("box", self.box), ("seg", self.seg))
                },
            }
            for i, name in enumerate(self.names)
            if self.class_instances[i]
        ]
        means = {
            part: {key: value for key, value in metrics.to_json().items() if not key.startswith("maps")}
            for part, metrics in (("box", self.box), ("seg", self.seg))
        }
        return {"images": self.images, "instances": self.instances, **means, "classes": classes}


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """The objects of one image: what it shows, or what was found.

    Attributes:
        classes: [n] int64, indices into the names.
        boxes: [n, 4] (x1, y1, x2, y2) in pixels of the photograph.
        masks: n run-length codes, all on the grid of that image's evaluation.
        scores: [n] in 0..1; empty for ground truth.
    """

    classes: NDArray[np.int64]
    boxes: NDArray[np.floating[Any]]
    masks: Sequence[Rle]
    scores: NDArray[np.floating[Any]] = field(default_factory=lambda: np.zeros(0))


class Evaluation:
    """Collects ground truth and detections image by image, keeping masks as run-length codes only.

    Args:
        names: class names; classes are numbers into them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._images: list[dict[str, Any]] = []
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def add(self, grid: tuple[int, int], truth: Objects, found: Objects) -> None:
        """Add one image, whose masks lie on a grid of (height, width)."""
        image = len(self._images) + 1
        self._images.append({"id": image, "height": grid[0], "width": grid[1]})
        for class_id, box, mask in zip(truth.classes, truth.boxes, truth.masks, strict=True):
            self._truth.append(self._annotation(image, len(self._truth) + 1, class_id, box, mask))
        for class_id, box, mask, score in zip(found.classes, found.boxes, found.masks, found.scores, strict=True):
            annotation = self._annotation(image, len(self._found) + 1, class_id, box, mask)
            self._found.append({**annotation, "score": float(score)})

    def extend(self, other: "Evaluation") -> None:
        """Add the images of another evaluation, of the same classes."""
        images = len(self._images)
        more = (other._images, other._truth, other._found)  # noqa: SLF001 - of the same class
        self._images += [{**row, "id": row["id"] + images} for row in more[0]]
        for ours, theirs in ((self._truth, more[1]), (self._found, more[2])):
            known = len(ours)
            ours += [{**row, "id": row["id"] + known, "image_id": row["image_id"] + images} for row in theirs]

    @staticmethod
    def _annotation(
        image: int, number: int, class_id: np.int64, box: NDArray[np.floating[Any]], mask: Rle
    ) -> dict[str, Any]:
        x1, y1, x2, y2 = (float(v) for v in box)
        # The area only matters for COCO's small/medium/large ranges, which are not asked for.
        return {
            "id": number,
            "image_id": image,
            "category_id": int(class_id),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "segmentation": mask,
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
        }

    def metrics(self) -> Metrics:
        """Average precisions over everything that was added."""
        pairs = {(row["category_id"], row["image_id"]) for row in self._truth}
        every = range(len(self.names))
        instances = np.bincount([row["category_id"] for row in self._truth], minlength=len(self.names))
        shown = np.bincount([class_id for class_id, _ in pairs], minlength=len(self.names))
        return Metrics(
            names=self.names,
            images=len(self._images),
            class_images=tuple(int(shown[i]) for i in every),
            class_instances=tuple(int(instances[i]) for i in every),
            box=self._metric_set("bbox"),
            seg=self._metric_set("segm"),
        )

    def _metric_set(self, task: Task) -> MetricSet:
        precision = self._precision(task)
        present = precision[0, 0] >= 0  # the protocol marks a class without ground truth by -1
        curves = precision.mean(axis=1)
        every = [float(v) if known else None for v, known in zip(curves.mean(axis=0), present, strict=True)]
        at50 = [float(v) if known else None for v, known in zip(curves[0], present, strict=True)]
        if not present.any():
            return MetricSet(math.nan, math.nan, math.nan, tuple(every), tuple(at50))
        means = curves[:, present].mean(axis=1)
        return MetricSet(float(means.mean()), float(means[0]), float(means[5]), tuple(every), tuple(at50))

    def _precision(self, task: Task) -> NDArray[np.float64]:
        """Precision [10 IoU thresholds, 101 recalls, classes]; -1 for a class without ground truth."""
        if not self._truth:
            return np.full((10, _RECALLS, len(self.names)), -1.0)
        from faster_coco_eval import COCO, COCOeval_faster

        categories = [{"id": i, "name": name} for i, name in enumerate(self.names)]
        truth, found = (
            COCO({"images": self._images, "annotations": rows, "categories": categories})
            for rows in (self._truth, self._found)
        )
        evaluator = COCOeval_faster(truth, found, task)
        evaluator.params.areaRng = [[0, 1e10]]
        evaluator.params.areaRngLbl = ["all"]
        evaluator.params.maxDets = [MAX_DETECTIONS]
        evaluator.evaluate()
        evaluator.accumulate()
        precision: NDArray[np.float64] = np.asarray(evaluator.eval["precision"])[..., 0, 0]
        return precision

"""Average precision by the COCO protocol (https://cocodataset.org/#detection-eval), computed by faster-coco-eval.

For each class and each of ten IoU thresholds (0.50 to 0.95), detections are matched to objects greedily in order of
score; precision, made monotonous, is read at 101 recalls and averaged. The best ``MAX_DETECTIONS`` of each class in an
image count, as in every published COCO figure. An image may hand over more of all classes together (``max_det``, 300 by
default): that keeps the rarer classes of a crowded picture in the count, and is usual for this network family.

Crowd regions (COCO's ``iscrowd``) are no objects to find: a detection that lies in one, and matches no object, counts
neither as right nor as wrong.
"""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segc.evaluation.confusion import Confusion
from segc.evaluation.curves import Curves, OperatingPoint, confidence_curves, verdicts
from segc.evaluation.rle import Rle

MAX_DETECTIONS = 100
"""Detections of one class that count in one image, the best first (COCO's ``maxDets``)."""

_RECALLS = 101
Task = Literal["bbox", "segm"]
Overlaps = Mapping[tuple[int, int], Any]


@dataclass(frozen=True, slots=True)
class MetricSet:
    """Average precisions, each 0..1. Means go over the classes that the ground truth has; NaN where it has none.

    Attributes:
        map: mean over classes and the ten IoU thresholds 0.50, 0.55, …, 0.95.
        map50: mean over classes at IoU 0.50.
        map75: mean over classes at IoU 0.75.
        maps: the ten thresholds' mean of each class, in the order of the names; None for a class without ground truth.
        maps50: likewise at IoU 0.50.
        curves: precision, recall and F1 at IoU 0.50 over the confidence, and where they are best.
    """

    map: float
    map50: float
    map75: float
    maps: tuple[float | None, ...]
    maps50: tuple[float | None, ...]
    curves: Curves = field(repr=False, compare=False)

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
        class_instances: objects of each class; crowd regions are none.
        box: average precisions of the boxes.
        seg: average precisions of the masks.
        confusion: which classes are taken for which, by boxes.
    """

    names: tuple[str, ...]
    images: int
    class_images: tuple[int, ...]
    class_instances: tuple[int, ...]
    box: MetricSet
    seg: MetricSet
    confusion: Confusion = field(repr=False, compare=False)

    @property
    def instances(self) -> int:
        """Objects in the ground truth."""
        return sum(self.class_instances)

    @property
    def parts(self) -> tuple[tuple[str, MetricSet], ...]:
        """The two sets by the names that they have in files."""
        return ("box", self.box), ("seg", self.seg)

    def to_json(self) -> dict[str, Any]:
        """Values for JSON, with one row a class that the ground truth has.

        ``precision``, ``recall`` and ``f1`` are those at ``confidence``: of a class where its own F1 is highest, of
        ``box`` and ``seg`` where the mean F1 of all classes is.
        """
        classes = [
            {
                "name": name,
                "images": self.class_images[i],
                "instances": self.class_instances[i],
                **{
                    part: {"map": metrics.maps[i], "map50": metrics.maps50[i], **_point(metrics.curves.best_of(i))}
                    for part, metrics in self.parts
                },
            }
            for i, name in enumerate(self.names)
            if self.class_instances[i]
        ]
        means = {
            part: {
                **{key: value for key, value in metrics.to_json().items() if not key.startswith("maps")},
                **_point(metrics.curves.best),
            }
            for part, metrics in self.parts
        }
        return {
            "images": self.images,
            "instances": self.instances,
            **means,
            "classes": classes,
            "confusion": self.confusion.to_json(),
        }

    def to_csv(self) -> str:
        """A table with a row for all classes together and one for each class that the ground truth has."""
        values = self.to_json()
        everything = {"name": "all", **{key: values[key] for key in ("images", "instances", "box", "seg")}}
        rows = [
            {
                "class": row["name"],
                "images": row["images"],
                "instances": row["instances"],
                **{f"{part}_{key}": row[part].get(key) for part in ("box", "seg") for key in _CSV_FIGURES},
            }
            for row in (everything, *values["classes"])
        ]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


_CSV_FIGURES = ("map", "map50", "precision", "recall", "f1", "confidence")


def _point(best: OperatingPoint | None) -> dict[str, float | None]:
    """An operating point as JSON values; None where there is nothing to find."""
    return {name: getattr(best, name, None) for name in ("precision", "recall", "f1", "confidence")}


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """The objects of one image: what it shows, or what was found.

    Attributes:
        classes: [n] int64, indices into the names.
        boxes: [n, 4] (x1, y1, x2, y2) in pixels of the photograph.
        masks: n run-length codes, all on the grid of that image's evaluation.
        scores: [n] in 0..1; empty for ground truth.
        crowd: [n], which rows of the ground truth are crowd regions; empty for detections.
    """

    classes: NDArray[np.int64]
    boxes: NDArray[np.floating[Any]]
    masks: Sequence[Rle]
    scores: NDArray[np.floating[Any]] = field(default_factory=lambda: np.zeros(0))
    crowd: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))


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
        self._confusion = Confusion.empty(self.names)

    def add(self, grid: tuple[int, int], truth: Objects, found: Objects) -> None:
        """Add one image, whose masks lie on a grid of (height, width)."""
        image = len(self._images) + 1
        self._images.append({"id": image, "height": grid[0], "width": grid[1]})
        for class_id, box, mask, crowd in zip(truth.classes, truth.boxes, truth.masks, truth.crowd, strict=True):
            self._truth.append(self._annotation(image, len(self._truth) + 1, class_id, box, mask, crowd=bool(crowd)))
        for class_id, box, mask, score in zip(found.classes, found.boxes, found.masks, found.scores, strict=True):
            annotation = self._annotation(image, len(self._found) + 1, class_id, box, mask)
            self._found.append({**annotation, "score": float(score)})
        self._confusion.add(truth.classes, truth.boxes, truth.crowd, found.classes, found.boxes, found.scores)

    def extend(self, other: "Evaluation") -> None:
        """Add the images of another evaluation, of the same classes."""
        images = len(self._images)
        self._images += [{**row, "id": row["id"] + images} for row in other._images]  # noqa: SLF001
        for ours, theirs in ((self._truth, other._truth), (self._found, other._found)):  # noqa: SLF001
            known = len(ours)
            ours += [{**row, "id": row["id"] + known, "image_id": row["image_id"] + images} for row in theirs]
        self._confusion.counts[:] += other._confusion.counts  # noqa: SLF001

    @staticmethod
    def _annotation(
        image: int, number: int, class_id: np.int64, box: NDArray[np.floating[Any]], mask: Rle, *, crowd: bool = False
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
            "iscrowd": int(crowd),
        }

    def metrics(self) -> Metrics:
        """Average precisions over everything that was added."""
        objects = [row for row in self._truth if not row["iscrowd"]]
        pairs = {(row["category_id"], row["image_id"]) for row in objects}
        instances = np.bincount([row["category_id"] for row in objects], minlength=len(self.names))
        shown = np.bincount([class_id for class_id, _ in pairs], minlength=len(self.names))
        return Metrics(
            names=self.names,
            images=len(self._images),
            class_images=tuple(shown.tolist()),
            class_instances=tuple(instances.tolist()),
            box=self._metric_set("bbox", instances),
            seg=self._metric_set("segm", instances),
            confusion=self._confusion,
        )

    def _metric_set(self, task: Task, instances: NDArray[np.int64]) -> MetricSet:
        precision, overlaps = self._evaluated(task)
        present = precision[0, 0] >= 0  # the protocol marks a class without ground truth by -1
        means = precision.mean(axis=1)
        every = [float(v) if known else None for v, known in zip(means.mean(axis=0), present, strict=True)]
        at50 = [float(v) if known else None for v, known in zip(means[0], present, strict=True)]
        curves = confidence_curves(self._judged(overlaps), instances, precision[0])
        if not present.any():
            return MetricSet(math.nan, math.nan, math.nan, tuple(every), tuple(at50), curves)
        overall = means[:, present].mean(axis=1)
        return MetricSet(float(overall.mean()), float(overall[0]), float(overall[5]), tuple(every), tuple(at50), curves)

    def _evaluated(self, task: Task) -> tuple[NDArray[np.float64], Overlaps]:
        """Precision [10 IoU thresholds, 101 recalls, classes], -1 for a class without ground truth; and the overlaps.

        The overlaps are those of each (image, class) that has both detections, best first, and ground truth.
        """
        if not self._truth:
            return np.full((10, _RECALLS, len(self.names)), -1.0), {}
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
        return precision, evaluator.ious

    def _judged(self, overlaps: Overlaps) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
        """For each class the scores of its detections, those in crowds left out, and which of them are right."""
        scores: dict[tuple[int, int], list[float]] = defaultdict(list)
        crowds: dict[tuple[int, int], list[bool]] = defaultdict(list)
        for row in self._found:
            scores[row["image_id"], row["category_id"]].append(row["score"])
        for row in self._truth:
            crowds[row["image_id"], row["category_id"]].append(bool(row["iscrowd"]))
        judged: list[list[tuple[NDArray[np.float64], NDArray[np.bool_]]]] = [[] for _ in self.names]
        for (image, class_id), values in scores.items():
            best = -np.sort(-np.array(values), kind="stable")[:MAX_DETECTIONS]
            crowd = np.array(crowds.get((image, class_id), ()), np.bool_)
            overlap = np.reshape(overlaps.get((image, class_id), ()) if crowd.size else (), (len(best), len(crowd)))
            right, counts = verdicts(overlap, crowd)
            judged[class_id].append((best[counts], right[counts]))
        return [
            (np.concatenate([s for s, _ in rows]), np.concatenate([r for _, r in rows])) if rows else _NOTHING
            for rows in judged
        ]


_NOTHING = np.zeros(0), np.zeros(0, np.bool_)

"""The confusion matrix of detection: which classes are taken for which, and for background.

Boxes are matched whatever their class: pairs of a detection and an object are taken in the order of their overlap, each
detection and each object once, down to an IoU of 0.45. Detections count with a score above 0.25, and of several classes
of one anchor the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.25
IOU = 0.45

Boxes = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Confusion:
    """Counts of pairs.

    Attributes:
        names: class names.
        counts: [classes + 1, classes + 1] int64, row: predicted, column: true; the last of each is the background. In
            the last column stand detections without an object, in the last row objects without a detection.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, names: Sequence[str]) -> Self:
        """Nothing counted yet."""
        return cls(tuple(names), np.zeros((len(names) + 1, len(names) + 1), np.int64))

    def add(
        self,
        true_classes: NDArray[np.int64],
        true_boxes: Boxes,
        crowd: NDArray[np.bool_],
        classes: NDArray[np.int64],
        boxes: Boxes,
        scores: NDArray[np.floating[Any]],
    ) -> None:
        """Count one image.

        Args:
            true_classes: [m] of the objects and crowd regions.
            true_boxes: [m, 4] (x1, y1, x2, y2), in the same pixels as ``boxes``.
            crowd: [m], which of those are crowd regions: they count as nothing, and neither do detections in them.
            classes: [n] of the detections.
            boxes: [n, 4].
            scores: [n], best first.
        """
        chosen = np.flatnonzero(scores > CONFIDENCE)
        # An anchor that stands for several classes has the same box each time, the best first.
        chosen = chosen[np.sort(np.unique(boxes[chosen], axis=0, return_index=True)[1])]
        found, found_boxes = classes[chosen], boxes[chosen]
        objects, object_boxes = true_classes[~crowd], true_boxes[~crowd]
        overlap = _overlap(found_boxes, object_boxes)
        background = len(self.names)
        loose_found, loose_objects = np.ones(len(found), np.bool_), np.ones(len(objects), np.bool_)
        for flat in np.argsort(-overlap, axis=None, kind="stable"):
            row, column = divmod(int(flat), overlap.shape[1])
            if overlap[row, column] < IOU:
                break
            if loose_found[row] and loose_objects[column]:
                self.counts[found[row], objects[column]] += 1
                loose_found[row] = loose_objects[column] = False
        inside = _overlap(found_boxes, true_boxes[crowd], of_first=True)
        false = found[loose_found & (inside.max(axis=1, initial=0.0) < IOU)]
        self.counts[:, background] += np.bincount(false, minlength=background + 1)
        self.counts[background] += np.bincount(objects[loose_objects], minlength=background + 1)

    def to_json(self) -> dict[str, Any]:
        """The counts with what they mean, leaving out classes that were neither there nor predicted."""
        rows = self.shown()
        labels = [*self.names, "background"]
        return {
            "confidence": CONFIDENCE,
            "iou": IOU,
            "labels": [labels[i] for i in rows],
            "predicted_by_true": self.counts[np.ix_(rows, rows)].tolist(),
        }

    def shown(self) -> list[int]:
        """Indices of the classes that occur, and of the background."""
        occurs = self.counts.sum(axis=0) + self.counts.sum(axis=1) > 0
        return [*np.flatnonzero(occurs[:-1]).tolist(), len(self.names)]


def _overlap(one: Boxes, other: Boxes, *, of_first: bool = False) -> NDArray[np.float64]:
    """IoU [n, m] of boxes [n, 4] with boxes [m, 4], or the part of each of the first that lies in each other one."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), np.float64) for boxes in (one, other)]
    whole = np.broadcast_to(areas[0][:, None], common.shape) if of_first else areas[0][:, None] + areas[1] - common
    overlap: NDArray[np.float64] = np.divide(common, whole, out=np.zeros(common.shape, np.float64), where=whole > 0)
    return overlap

"""Precision, recall and F1 over the confidence at which detections are kept, and where the F1 is best.

Detections and objects are matched at IoU 0.50 as in the COCO protocol. A detection is kept where its score is above the
confidence, as in prediction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IOU = 0.5
"""Least overlap of a detection with the object that it is right about."""

CONFIDENCES = np.linspace(0, 1, 1001)
"""Where the curves are read."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What becomes of precision, recall and F1 at one confidence, all 0..1."""

    confidence: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """Curves of every class, in the order of the names. A class without ground truth has NaN all along.

    Attributes:
        precision: [classes, 1001] over ``CONFIDENCES``; 1 where nothing is kept, and so nothing false.
        recall: likewise.
        f1: likewise, ``2 TP / (2 TP + FP + FN)``.
        precision_at_recall: [classes, 101] precision over recalls 0, 0.01, …, 1, made monotonous: the curve whose mean
            is the average precision at IoU 0.50.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    precision_at_recall: NDArray[np.float64]

    @property
    def known(self) -> NDArray[np.int64]:
        """Indices of the classes with ground truth."""
        return np.flatnonzero(~np.isnan(self.f1[:, 0])) if len(self.f1) else np.zeros(0, np.int64)

    def mean(self, name: str) -> NDArray[np.float64]:
        """The mean of one of the attributes over the classes with ground truth; NaN where there are none."""
        rows: NDArray[np.float64] = getattr(self, name)
        chosen = rows[self.known]
        return chosen.mean(axis=0) if len(chosen) else np.full(rows.shape[1], np.nan)

    @property
    def best(self) -> OperatingPoint | None:
        """Where the mean F1 of the classes is highest; None without ground truth, or where nothing is found at all."""
        return _best(self.mean("precision"), self.mean("recall"), self.mean("f1"))

    def best_of(self, class_id: int) -> OperatingPoint | None:
        """Where a class's F1 is highest; None where it has no ground truth, or none of it is found."""
        return _best(self.precision[class_id], self.recall[class_id], self.f1[class_id])


def _best(
    precision: NDArray[np.float64], recall: NDArray[np.float64], f1: NDArray[np.float64]
) -> OperatingPoint | None:
    """The middle of the stretch where F1 is highest: the confidence that is farthest from doing worse."""
    if np.isnan(f1[0]) or not f1.any():
        return None
    first = int(f1.argmax())
    worse = np.flatnonzero(f1[first:] < f1[first] - 1e-9)
    index = first + (int(worse[0]) - 1 if worse.size else len(f1) - 1 - first) // 2
    return OperatingPoint(
        *(round(float(v), 6) for v in (CONFIDENCES[index], precision[index], recall[index], f1[index]))
    )


def verdicts(overlap: NDArray[np.floating], crowd: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Match the detections of one class in one image, each in its turn with the best object that is left.

    Args:
        overlap: [n, m] IoU of n detections, best score first, with m objects; with a crowd region the part of the
            detection that lies in it.
        crowd: [m], which of those are crowd regions.

    Returns:
        Which detections are right, and which count at all: all but those that are only in a crowd. Both [n].
    """
    right = np.zeros(len(overlap), np.bool_)
    free = ~crowd
    for row, values in enumerate(overlap):
        left = np.where(free, values, -1.0)
        best = int(left.argmax()) if left.size else 0
        if left.size and left[best] >= IOU:
            right[row], free[best] = True, False
    in_crowd = (overlap[:, crowd] >= IOU).any(axis=1) if crowd.any() else np.zeros(len(overlap), np.bool_)
    return right, right | ~in_crowd


def confidence_curves(
    judged: Sequence[tuple[NDArray[np.floating], NDArray[np.bool_]]],
    instances: NDArray[np.int64],
    precision_at_recall: NDArray[np.float64],
) -> Curves:
    """The curves of all classes.

    Args:
        judged: of each class the scores of its detections in the whole split, and which of them are right.
        instances: [classes], objects of each class.
        precision_at_recall: [101, classes], from the COCO protocol at IoU 0.50.
    """
    known = instances > 0
    kept, true = np.zeros((len(judged), len(CONFIDENCES))), np.zeros((len(judged), len(CONFIDENCES)))
    for row, (scores, right) in enumerate(judged):
        for counts, chosen in ((kept[row], scores), (true[row], scores[right])):
            counts[:] = len(chosen) - np.searchsorted(np.sort(chosen), CONFIDENCES, side="right")
    objects = np.maximum(instances, 1)[:, None]
    precision = np.divide(true, kept, out=np.ones_like(true), where=kept > 0)
    values = precision, true / objects, 2 * true / (kept + objects), precision_at_recall.T.copy()
    for rows in values:
        rows[~known] = np.nan
    return Curves(*values)

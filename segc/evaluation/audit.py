"""Labels held against a trained network: where they contradict each other, one of them is wrong.

The network has seen many labels; what it says with confidence against one of them is worth a look. That idea is
confident learning's (Northcutt, Jiang and Chuang, arXiv 1911.00068), here with one network and objects in place of
images.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from segc.data.contours import fill
from segc.data.dataset import read_split
from segc.data.labels import Instance
from segc.data.samples import Sample, Split, read_sample
from segc.diagnostics import Findings, SegcError
from segc.evaluation.coco import Progress
from segc.inference.filters import Filters
from segc.inference.masks import Mask
from segc.inference.predict import predict_image
from segc.inference.results import Prediction
from segc.sessions.choose import Runtime, Warn, weights_session

if TYPE_CHECKING:
    from segc.spec.load import LoadedProject

Kind = Literal["missing", "class", "outline"]

SAME = 0.5
"""A label and a prediction whose masks have at least this IoU are of the same thing."""

APART = 0.3
"""A prediction is of something that is not labelled where its IoU with every label is below this."""

GOOD_OUTLINE = 0.8
"""From this IoU on outlines agree."""

INSIDE_CROWD = 0.5
"""A prediction with this share of its mask inside a crowd region belongs to it."""

LEAST_SCORE = 0.05
"""Predictions with a lower score are not looked at."""


@dataclass(frozen=True, slots=True, eq=False)
class Suspicion:
    """A contradiction.

    Attributes:
        sample: the image.
        kind: ``missing``: an object that no label has; ``class``: a label of another class; ``outline``: a label with
            another outline.
        weight: how strong it is, in 0..1: the confidence of the network, less what speaks for the label.
        label: the label; None where it is missing.
        found: the mask that the network sees, in pixels of the image.
        found_class: its class.
        score: its score.
        iou: IoU of the masks of both, or with the nearest label where that is missing.
    """

    sample: Sample
    kind: Kind
    weight: float
    label: Instance | None
    found: Mask
    found_class: int
    score: float
    iou: float

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Values for JSON."""
        label = self.label
        rows, columns = self.found.shape
        return {
            "image": str(self.sample.image),
            "labels": None if self.sample.label is None else str(self.sample.label),
            "kind": self.kind,
            "weight": round(self.weight, 4),
            "object": None if label is None else label.origin,
            "class": None if label is None else names[label.class_id],
            "found": names[self.found_class],
            "score": round(self.score, 4),
            "iou": round(self.iou, 4),
            "box": [self.found.x, self.found.y, self.found.x + columns, self.found.y + rows],
        }


@dataclass(slots=True)
class Audit:
    """What an audit found.

    Attributes:
        names: the names of the classes.
        suspicions: the strongest contradictions, strongest first.
        counts: number of all of them, by kind.
        images: number of images that were looked at.
        objects: number of labels that were looked at.
        skipped: images that could not be read.
        circumstances: what ran, in a line.
    """

    names: tuple[str, ...]
    suspicions: list[Suspicion] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    images: int = 0
    objects: int = 0
    skipped: Findings = field(default_factory=Findings)
    circumstances: str = ""

    def to_json(self) -> dict[str, Any]:
        """Values for JSON."""
        kinds: tuple[Kind, ...] = ("missing", "class", "outline")
        return {
            "version": 1,
            "images": self.images,
            "objects": self.objects,
            "skipped": self.skipped.counts.total(),
            "counts": {kind: self.counts[kind] for kind in kinds},
            "suspicions": [one.to_json(self.names) for one in self.suspicions],
        }


def audit_project(
    loaded: "LoadedProject",
    build_dir: Path,
    splits: Sequence[Split],
    *,
    weights: Path | None = None,
    conf: float = 0.5,
    most: int = 200,
    runtime: Runtime = "auto",
    progress: Progress | None = None,
    warn: Warn = lambda _: None,
) -> Audit:
    """Hold the labels of some splits against trained weights.

    Args:
        loaded: the project.
        build_dir: where its trained weights are.
        splits: whose labels.
        weights: a file to use instead.
        conf: only what the network sees with at least this score counts against a label.
        most: contradictions that are kept, the strongest.
        runtime: what runs the weights.
        progress: called after every image.
        warn: told what there is to say about the weights.

    Raises:
        SegcError: all that is wrong with the labels; else as ``segc.sessions.choose.weights_session``.
    """
    project = loaded.project
    samples = [sample for split in splits for sample in read_split(loaded, split)]
    session = weights_session(loaded, build_dir, weights, runtime=runtime, warn=warn)
    done = Audit(project.dataset.class_names, circumstances=f"{', '.join(splits)}, {session.runtime}")
    strongest: list[tuple[float, int, Suspicion]] = []
    metadata = replace(session.metadata, imgsz=project.hyperparameters.size, names=done.names)
    chosen = project.hyperparameters
    # Masks of the network's frame will do to be compared with outlines.
    filters = Filters(LEAST_SCORE, chosen.iou, chosen.max_det, retina=False)
    number = 0
    for place, sample in enumerate(samples, 1):
        try:
            image = read_sample(sample)
        except SegcError as error:
            done.skipped.extend(error.diagnostics)
            continue
        found = predict_image(image, session.run, metadata, filters)
        done.images += 1
        done.objects += len(sample.instances)
        for one in contradictions(sample, found, conf):
            done.counts[one.kind] += 1
            number += 1
            add = heapq.heappush if len(strongest) < most else heapq.heappushpop
            add(strongest, (one.weight, -number, one))
        if progress is not None:
            progress(place, len(samples))
    done.suspicions = [one for _, _, one in sorted(strongest, key=lambda item: item[:2], reverse=True)]
    return done


def contradictions(sample: Sample, prediction: Prediction, conf: float) -> Iterator[Suspicion]:
    """Where the labels of an image and what a network sees on it contradict each other.

    Args:
        sample: the image with its labels.
        prediction: what the network sees, from low scores on.
        conf: the least score that counts against a label.
    """
    size = prediction.height, prediction.width
    labels = [one for one in sample.instances if not one.is_crowd]
    overlaps = _overlaps(labels, prediction, size)
    scores, classes = prediction.scores, prediction.classes
    explained = np.zeros(len(prediction), np.bool_)
    for row, label in enumerate(labels):
        near = overlaps[row] >= SAME
        own = near & (classes == label.class_id)
        explained |= near
        for_it = float(scores[own].max(initial=0.0))
        against = np.flatnonzero(near & ~own)
        strongest = int(against[scores[against].argmax()]) if against.size else -1
        if strongest >= 0 and scores[strongest] >= conf and scores[strongest] > for_it:
            weight = float(scores[strongest]) * (1 - for_it)
            yield _suspicion(sample, "class", weight, label, prediction, strongest, float(overlaps[row, strongest]))
        elif not label.is_box:  # a box says nothing about an outline
            yield from _poor_outline(sample, label, row, overlaps, prediction, conf)
    nearest = overlaps.max(axis=0, initial=0.0)
    lonely = (scores >= conf) & ~explained & (nearest < APART)
    for column in np.flatnonzero(lonely & ~_inside_crowds(sample, prediction, size)).tolist():
        weight = float(scores[column] * (1 - nearest[column]))
        yield _suspicion(sample, "missing", weight, None, prediction, column, float(nearest[column]))


def _poor_outline(
    sample: Sample,
    label: Instance,
    row: int,
    overlaps: NDArray[np.float64],
    prediction: Prediction,
    conf: float,
) -> Iterator[Suspicion]:
    """The prediction of a label's class that is nearest to it, where its outline is another one."""
    sure = np.flatnonzero((prediction.classes == label.class_id) & (prediction.scores >= conf))
    if not sure.size:
        return
    column = int(sure[overlaps[row, sure].argmax()])
    iou = float(overlaps[row, column])
    # It must be this label's prediction, not that of a neighbour which it only touches.
    if APART <= iou < GOOD_OUTLINE and overlaps[:, column].argmax() == row:
        weight = float(prediction.scores[column]) * (1 - iou)
        yield _suspicion(sample, "outline", weight, label, prediction, column, iou)


def _suspicion(
    sample: Sample, kind: Kind, weight: float, label: Instance | None, found: Prediction, column: int, iou: float
) -> Suspicion:
    score, class_id = float(found.scores[column]), int(found.classes[column])
    return Suspicion(sample, kind, weight, label, found.masks[column], class_id, score, iou)


def _overlaps(labels: Sequence[Instance], prediction: Prediction, size: tuple[int, int]) -> NDArray[np.float64]:
    """IoU [labels, predictions] of masks, or of boxes for labels that are only boxes."""
    table = np.zeros((len(labels), len(prediction)))
    areas = np.array([mask.area for mask in prediction.masks], np.float64)
    for row, label in enumerate(labels):
        if label.is_box:
            table[row] = _box_overlaps(label, prediction, size)
            continue
        drawn = _mask_of(label, size)
        area = int(drawn.sum())
        common = np.array([_common(drawn, mask) for mask in prediction.masks], np.float64)
        table[row] = common / np.maximum(area + areas - common, 1)
    return table


def _mask_of(label: Instance, size: tuple[int, int]) -> NDArray[np.bool_]:
    return fill([polygon * np.array([size[1], size[0]], np.float64) for polygon in label.polygons], *size)


def _common(drawn: NDArray[np.bool_], mask: Mask) -> int:
    """Pixels that a mask of the whole image and one of a region have in common."""
    rows, columns = mask.shape
    return int(np.count_nonzero(drawn[mask.y : mask.y + rows, mask.x : mask.x + columns] & mask.bitmap))


def _box_overlaps(label: Instance, prediction: Prediction, size: tuple[int, int]) -> NDArray[np.float64]:
    points = label.polygons[0] * np.array([size[1], size[0]], np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    boxes = prediction.boxes.astype(np.float64)
    sides = np.maximum(np.minimum(high, boxes[:, 2:]) - np.maximum(low, boxes[:, :2]), 0)
    common = sides.prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(common / np.maximum((high - low).prod() + areas - common, 1e-9))


def _inside_crowds(sample: Sample, prediction: Prediction, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which predictions belong to a crowd region."""
    inside = np.zeros(len(prediction), np.bool_)
    for crowd in (one for one in sample.instances if one.is_crowd):
        drawn = _mask_of(crowd, size)
        common = np.array([_common(drawn, mask) for mask in prediction.masks], np.float64)
        areas = np.array([max(1, mask.area) for mask in prediction.masks], np.float64)
        inside |= common / areas >= INSIDE_CROWD
    return inside

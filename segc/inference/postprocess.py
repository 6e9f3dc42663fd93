"""From the network's outputs to detections: candidates above a confidence, then non-maximum suppression."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segc.inference.metadata import LAYOUTS, Metadata, ModelError

MAX_CANDIDATES = 30_000
"""Candidates that suppression looks at, best first: a bound on time where nearly every anchor passes the confidence."""

MOST_PAIRED = 320
"""Candidates up to which suppression compares each with each at once; with more, only with those that are kept."""

CLASS_SHIFT = 7680.0
"""Pixels by which the boxes of one class are moved from those of the class before; see `suppress`."""

SHIFTED_CLASSES = 128
"""Classes after which that starts over."""


@dataclass(frozen=True, slots=True)
class Detections:
    """What is left of one image's anchors, best score first.

    Attributes:
        anchors: [n] int64, rows of the network's outputs.
        boxes: [n, 4] float32 (x1, y1, x2, y2) in pixels of the frame, not clipped to it.
        scores: [n] float32 in 0..1.
        classes: [n] int64.
    """

    anchors: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]


def model_input(images: npt.NDArray[np.float32], metadata: Metadata) -> npt.NDArray[np.float32]:
    """Images [N, 3, H, W] in the order of axes that the model wants: [N, H, W, 3] where its channels come last."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1) if metadata.channels == "last" else images)


def named_outputs(
    outputs: Mapping[str, npt.NDArray[Any]], metadata: Metadata, images: int
) -> dict[str, npt.NDArray[Any]]:
    """The named outputs, whichever form they have in the model: the four in fp32, or boxes, scores and masks.

    Args:
        outputs: by name, with the batch axis. Layout ``named``: ``boxes`` [N, A, 4] (x1, y1, x2, y2), ``scores``
            [N, A, nc], ``coefficients`` [N, A, K], ``prototypes`` [N, K, H/4, W/4]. Layout ``fused``: ``output0``
            [N, 4 + nc + K, A] with boxes as centre, width and height, and ``output1``, the prototypes. Layout
            ``detections``, of a model that suppresses by itself: as ``named``, but A is the most detections there can
            be, ``scores`` is [N, A], with 0 where there is none, and ``classes`` [N, A] goes with it. Layout ``rows``:
            these as ``output0`` [N, A, 6 + K] of boxes, score, class and coefficients, and ``output1``, the prototypes.
            Layout ``masks``: as ``detections``, but instead of coefficients and prototypes ``masks`` [N, A, H, W],
            0 where a mask is not.
        metadata: the model's.
        images: how many there were.

    Raises:
        ModelError: where an output is missing, or of another shape than the metadata say.
    """
    nc = len(metadata.names)
    finished = metadata.layout == "masks"
    try:
        named = _UNPACKED.get(metadata.layout, _as_they_are)(outputs, nc)
        if metadata.suppresses:
            named["scores"] = spread_scores(named["scores"], named["classes"], nc)
        if metadata.channels == "last":
            spatial = "masks" if finished else "prototypes"
            named[spatial] = named[spatial].transpose(0, 3, 1, 2)
        if metadata.boxes == "normalized":
            height, width = metadata.imgsz
            named["boxes"] = named["boxes"] * np.array([width, height, width, height], np.float32)
        wanted = LAYOUTS["named"][: 2 if finished else 4]
        found: dict[str, npt.NDArray[Any]] = {name: np.ascontiguousarray(named[name], np.float32) for name in wanted}
        if finished:
            # It may be the largest array of all, and is only read here and there: it stays where and what it is.
            found["masks"] = named["masks"]
    except KeyError as error:
        raise ModelError(f"it has no output {error}") from None
    except (ValueError, IndexError):
        raise ModelError("its outputs have other shapes than its metadata speak of") from None
    boxes, scores, *rest = found.values()
    anchors = boxes.shape[1:2]
    stated = [boxes.shape[2:] == (4,), scores.shape == (images, *anchors, nc), rest[0].shape[1:2] == anchors]
    if finished:
        stated.append(rest[0].shape[2:] == metadata.imgsz)
    else:
        coefficients, prototypes = rest
        stated += [prototypes.ndim == 4, prototypes.shape[1:2] == coefficients.shape[2:]]
    if not all(stated) or any(len(array) != images for array in found.values()):
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items())
        raise ModelError(f"its outputs have other shapes than its metadata speak of: {shapes}")
    return found


def _unfused(outputs: Mapping[str, npt.NDArray[Any]], nc: int) -> dict[str, npt.NDArray[Any]]:
    """The named outputs from those of the fused layout."""
    rows = np.asarray(outputs["output0"], np.float32).transpose(0, 2, 1)
    centre, half = rows[..., :2], rows[..., 2:4] / 2
    return {
        "boxes": np.concatenate([centre - half, centre + half], axis=2),
        "scores": rows[..., 4 : 4 + nc],
        "coefficients": rows[..., 4 + nc :],
        "prototypes": outputs["output1"],
    }


def _from_rows(outputs: Mapping[str, npt.NDArray[Any]], _nc: int) -> dict[str, npt.NDArray[Any]]:
    """The outputs of the layout ``detections`` from those of the layout ``rows``."""
    rows = outputs["output0"]
    parts = {"boxes": rows[..., :4], "scores": rows[..., 4], "classes": rows[..., 5], "coefficients": rows[..., 6:]}
    return {**parts, "prototypes": outputs["output1"]}


def _as_they_are(outputs: Mapping[str, npt.NDArray[Any]], _nc: int) -> dict[str, npt.NDArray[Any]]:
    return dict(outputs)


_UNPACKED: Mapping[str, Callable[[Mapping[str, npt.NDArray[Any]], int], dict[str, npt.NDArray[Any]]]] = {
    "fused": _unfused,
    "rows": _from_rows,
}
"""By layout: from a model's outputs to its parts by name, where they do not stand apart already."""


def spread_scores(scores: npt.NDArray[Any], classes: npt.NDArray[Any], nc: int) -> npt.NDArray[np.float32]:
    """Scores [N, K] of one class each as scores [N, K, nc] of all classes, 0 for the others."""
    return np.asarray(scores[..., None] * (classes[..., None] == np.arange(nc)), np.float32)


def candidates(
    scores: npt.NDArray[np.float32], conf: float, *, multi_label: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Anchors and their classes with a score above ``conf``, in anchor order.

    Args:
        scores: [A, nc] in 0..1.
        conf: a candidate's score is greater than this.
        multi_label: every class above ``conf`` (for evaluation) instead of each anchor's best class.
    """
    best = scores.max(axis=1, initial=0.0)
    anchors = np.flatnonzero(best > conf)
    passed = scores[anchors]
    if not multi_label:
        return anchors, passed.argmax(axis=1) if anchors.size else anchors
    rows, classes = np.nonzero(passed > conf)
    return anchors[rows], classes


def _overlap(
    box: npt.NDArray[np.float32],
    area: np.float32 | npt.NDArray[np.float32],
    boxes: npt.NDArray[np.float32],
    areas: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Intersection over union of a box [4] with the columns of ``boxes`` [4, n]; nought where both are empty.

    Of boxes [4, k, 1] with areas [k, 1], a row each.
    """
    width = np.minimum(box[2], boxes[2]) - np.maximum(box[0], boxes[0])
    height = np.minimum(box[3], boxes[3]) - np.maximum(box[1], boxes[1])
    common = np.maximum(width, 0, out=width) * np.maximum(height, 0, out=height)
    union = area + areas - common
    overlap: npt.NDArray[np.float32] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlap


def suppress(
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int64],
    iou: float,
    *,
    max_det: int = 300,
    agnostic: bool = False,
) -> npt.NDArray[np.int64]:
    """Greedy non-maximum suppression: a box goes where its IoU with a kept, better one of its class is above ``iou``.

    Of equal scores the earlier row is the better one, so the result depends on nothing but the input.

    The usual way to keep classes apart is to move them apart in fp32, by class · 7680 pixels. Here only boxes of one
    class are compared at all, but the move stays for its rounding, up to 1/32 pixel in high classes: it decides pairs
    whose IoU is the threshold but for that, and so it belongs to giving the detections that others get from this
    network (one of the 896 recorded ones hangs on it). It starts over after `SHIFTED_CLASSES`, so that it grows no
    further.

    Args:
        boxes: [n, 4] (x1, y1, x2, y2) in pixels.
        scores: [n].
        classes: [n].
        iou: threshold in 0..1.
        max_det: stop after so many kept boxes.
        agnostic: let boxes of different classes suppress each other.

    Returns:
        Kept rows, best score first.
    """
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    group = np.zeros_like(order) if agnostic else classes[order]
    shift = (group % SHIFTED_CLASSES).astype(np.float32) * np.float32(CLASS_SHIFT)
    moved = np.asarray(boxes[order] + shift[:, None], np.float32)
    suppressed_by = (_suppressed_of_all if order.size <= MOST_PAIRED else _suppressed_of_class)(moved, group, iou)
    alive = np.ones(order.size, np.bool_)
    kept: list[int] = []
    for rank in range(order.size):
        if not alive[rank]:
            continue
        kept.append(rank)
        if len(kept) == max_det:
            break
        alive[suppressed_by(rank)] = False
    return order[kept]


def _suppressed_of_all(
    boxes: npt.NDArray[np.float32], group: npt.NDArray[np.int64], iou: float
) -> Callable[[int], npt.NDArray[Any]]:
    """From a box to those of its group that it suppresses, all compared with all: for few of them."""
    corners = np.ascontiguousarray(boxes.T)
    areas = (corners[2] - corners[0]) * (corners[3] - corners[1])
    too_much = _overlap(corners[:, :, None], areas[:, None], corners[:, None], areas) > np.float32(iou)
    too_much &= group[:, None] == group
    return too_much.__getitem__


def _suppressed_of_class(
    boxes: npt.NDArray[np.float32], group: npt.NDArray[np.int64], iou: float
) -> Callable[[int], npt.NDArray[Any]]:
    """From a box to those of its group behind it that it suppresses, compared when it is asked for."""
    # Class by class, best first within each, so that what a box may suppress lies in one stretch behind it.
    ranks = np.argsort(group, kind="stable")
    places = np.argsort(ranks)
    ends = np.searchsorted(group[ranks], group, side="right")
    corners = np.ascontiguousarray(boxes[ranks].T)
    areas = (corners[2] - corners[0]) * (corners[3] - corners[1])

    def suppressed(rank: int) -> npt.NDArray[np.int64]:
        place, rest = places[rank], slice(places[rank] + 1, ends[rank])
        overlap = _overlap(corners[:, place], areas[place], corners[:, rest], areas[rest])
        found: npt.NDArray[np.int64] = ranks[rest][overlap > np.float32(iou)]
        return found

    return suppressed


def detections(
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    *,
    conf: float,
    iou: float,
    max_det: int,
    multi_label: bool = False,
    only: Sequence[int] | None = None,
    agnostic: bool = False,
) -> Detections:
    """Detections of one image.

    Args:
        boxes: [A, 4] (x1, y1, x2, y2) in pixels of the frame.
        scores: [A, nc] in 0..1.
        conf: scores at or below it are left out.
        iou: boxes of one class that overlap a better one more than this are left out.
        max_det: at most so many, the best.
        multi_label: an anchor may stand for several classes (evaluation) instead of its best one (prediction).
        only: numbers of the classes that count; None for all. An anchor whose best class is another is left out.
        agnostic: suppress across classes.
    """
    anchors, classes = candidates(scores, conf, multi_label=multi_label)
    # A half-precision artifact may overflow; a box that is no box must not reach geometry.
    usable = np.isfinite(boxes[anchors]).all(axis=1)
    if only is not None:
        usable &= np.isin(classes, only)
    anchors, classes = anchors[usable], classes[usable]
    found, score = boxes[anchors], scores[anchors, classes]
    kept = suppress(found, score, classes, iou, max_det=max_det, agnostic=agnostic)
    return Detections(anchors[kept], found[kept], score[kept], classes[kept])

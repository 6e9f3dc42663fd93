"""Suppression in the graph: the options that targets share, what they come to, and what the operators mean in numpy."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from segc.inference.metadata import MOST_DETECTIONS, Metadata
from segc.targets.contract import Refusal, TargetOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from segc.graph.ir import Dtype, Graph
    from segc.graph.passes import Pass, Weights
    from segc.inference.filters import Filters

    Array = NDArray[np.float32]

SUPPRESSION = ("nms", "conf", "iou", "max_det", "agnostic", "masks")
"""Names of the options below."""

MOST_FINISHED = 100
"""Detections with finished masks where nothing else is asked for: each takes a mask of the whole input."""

MOST_MASK_VALUES = 1 << 26
"""Most pixels of all finished masks of a run: 268 MB of logits on their way."""

LONGEST_SIDE = 6720
"""Longest side in pixels of an input whose classes stay apart when they are moved apart, `CLASS_SHIFT` from one to the
next: boxes reach up to 480 pixels, 15 cells of the widest stride, beyond it on either side."""


class SuppressionOptions(TargetOptions):
    """Options of a target that can suppress in the graph."""

    nms: bool = Field(
        default=False,
        description="Suppress overlapping boxes in the model: boxes [N, max_det, 4], scores and classes [N, max_det], "
        "coefficients [N, max_det, 32] and prototypes; best first, a score of 0 where there is none.",
    )
    conf: float | None = Field(
        None,
        ge=0,
        le=1,
        description="With nms: scores at or below it are left out; that of the hyperparameters if not given, the least "
        "one where they have several.",
    )
    iou: float | None = Field(
        None,
        ge=0,
        le=1,
        description="With nms: boxes that overlap a better one of their class more than this are left out; that of the "
        "hyperparameters if not given.",
    )
    max_det: int | None = Field(
        None,
        ge=1,
        le=MOST_DETECTIONS,
        description="With nms: most detections an image; that of the hyperparameters if not given, with masks at most "
        f"{MOST_FINISHED}.",
    )
    agnostic: bool = Field(default=False, description="With nms: a box is left out for a better one of whatever class.")
    masks: bool = Field(
        default=False,
        description="With nms: finished masks of the input's size in place of coefficients and prototypes, 1 where "
        "they are and 0 elsewhere: [N, max_det, H, W], or [N, H, W, max_det] where prototypes have channels last.",
    )


def suppression_refusals(
    options: SuppressionOptions, size: tuple[int, int], *, batch: int = 1, dynamic: bool = False
) -> Iterator[Refusal]:
    """What cannot be had of suppression in any format.

    Args:
        options: of the target.
        size: input (height, width) in pixels.
        batch: images a run.
        dynamic: whether the size is free.
    """
    if not options.nms:
        for name in SUPPRESSION[1:]:
            if getattr(options, name) not in {None, False} or isinstance(getattr(options, name), float):
                yield (name,), "it says something of suppression in the model: add nms: true, or leave it out"
        return
    if max(size) > LONGEST_SIDE:
        yield ("nms",), f"sides of more than {LONGEST_SIDE} pixels do not keep classes apart: leave it to the host"
    if not options.masks:
        return
    if dynamic:
        yield ("masks",), "finished masks of a free size take unbounded memory: leave masks or dynamic out"
    pixels = batch * size[0] * size[1]
    most = options.max_det or MOST_FINISHED
    if most * pixels > MOST_MASK_VALUES:
        asked, limit = (f"{values * 4 / 1e6:.0f} MB" for values in (most * pixels, MOST_MASK_VALUES))
        room = f"max_det of at most {MOST_MASK_VALUES // pixels} stays within {limit}"
        yield ("max_det",), f"{most} finished masks at {size[0]}x{size[1]} take {asked} a run: {room}"


def suppression_passes(options: SuppressionOptions, metadata: Metadata, masks: Dtype = "uint8") -> tuple[Pass, ...]:
    """The pass that lets a graph suppress, where that is asked for; behind it stand those for half precision.

    Args:
        options: of the target.
        metadata: the model's, with all thresholds.
        masks: type of finished masks.
    """
    return (partial(_suppress, metadata, masks if options.masks else None),) if options.nms else ()


def _suppress(metadata: Metadata, masks: Dtype | None, graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    from segc.graph.passes import append_suppression

    conf, iou, most = metadata.conf, metadata.iou, metadata.max_det
    if conf is None or iou is None or most is None:
        raise ValueError("a model that suppresses has thresholds")
    return append_suppression(graph, conf, iou, most, agnostic=bool(metadata.agnostic), masks=masks), weights


def suppression_settings(options: SuppressionOptions) -> dict[str, Any]:
    """Fields of the metadata of a model that suppresses; none of one that does not."""
    if not options.nms:
        return {}
    given = {name: getattr(options, name) for name in ("conf", "iou", "max_det", "agnostic")}
    return {"layout": "masks" if options.masks else "detections", **given}


def with_thresholds(metadata: Metadata, defaults: Filters) -> Metadata:
    """The metadata of a model that suppresses, with a project's thresholds where its options have none."""
    if not metadata.suppresses:
        return metadata
    most = min(defaults.max_det, MOST_FINISHED) if metadata.layout == "masks" else defaults.max_det
    chosen: dict[str, Any] = {"conf": defaults.conf, "iou": defaults.iou, "max_det": most}
    return replace(metadata, **{name: value for name, value in chosen.items() if getattr(metadata, name) is None})


def suppression_notes(options: TargetOptions, metadata: Metadata, defaults: Filters) -> tuple[str, ...]:
    """What a model's suppression does otherwise than a project asks, without being told to."""
    given = isinstance(options, SuppressionOptions) and options.max_det is not None
    if given or metadata.max_det is None or metadata.max_det >= defaults.max_det:
        return ()
    asked = f"not the {defaults.max_det} of the hyperparameters"
    return (f"masks: at most {metadata.max_det} detections an image, {asked}; max_det in the target says otherwise",)


def class_shifts(classes: int, *, agnostic: bool = False) -> Array:
    """By how much the boxes of each class are moved [classes, 4], so that those of different classes never overlap.

    To suppress within classes, a graph suppresses all boxes at once, moved as ``segc.inference.postprocess.suppress``
    moves them, rounding and all. That starts over after so many classes, of which it only compares one at a time; here
    each further round goes to rows below.
    """
    import numpy as np

    from segc.inference.postprocess import CLASS_SHIFT, SHIFTED_CLASSES

    index = np.arange(classes)
    x, y = index % SHIFTED_CLASSES, index % SHIFTED_CLASSES + index // SHIFTED_CLASSES
    shifts = np.stack([x, y, x, y], axis=1) * np.float32(0 if agnostic else CLASS_SHIFT)
    return np.asarray(shifts, np.float32)


def first_beyond(iou: float) -> float:
    """The threshold, of fp32, for what suppresses from a threshold on, where beyond ``iou`` below 1 is meant."""
    import numpy as np

    return float(np.nextafter(np.float32(iou), np.float32(1)))


def boxes_apart(count: int) -> Array:
    """Boxes [count, 4] of which none meets another: in the place of all boxes where nothing is to be suppressed."""
    import numpy as np

    left = np.arange(count) * 2
    return np.stack([left, 0 * left, left + 1, 0 * left + 1], axis=1).astype(np.float32)


def suppressed(
    boxes: Array, scores: Array, coefficients: Array, *, conf: float, iou: float, max_det: int, agnostic: bool = False
) -> tuple[Array, Array, Array, Array]:
    """What the operator ``nms`` means: that which is done to the outputs of a model without it.

    Args:
        boxes: [N, A, 4] (x1, y1, x2, y2).
        scores: [N, A, nc] in 0..1.
        coefficients: [N, A, K].
        conf: scores at or below it are left out.
        iou: boxes that overlap a better one more than this are left out.
        max_det: at most so many detections an image.
        agnostic: whatever the classes of the two.

    Returns:
        Boxes [N, max_det, 4], scores [N, max_det], classes [N, max_det] and coefficients [N, max_det, K] of
        detections, best first, zero where there are none.
    """
    import numpy as np

    from segc.inference.postprocess import detections

    count = len(boxes)
    results = tuple(np.zeros((count, max_det, *rest), np.float32) for rest in ((4,), (), (), (coefficients.shape[2],)))
    for image in range(count):
        found = detections(boxes[image], scores[image], conf=conf, iou=iou, max_det=max_det, agnostic=agnostic)
        values = (found.boxes, found.scores, found.classes, coefficients[image, found.anchors])
        for result, value in zip(results, values, strict=True):
            result[image, : len(value)] = value
    return results[0], results[1], results[2], results[3]


def suppressed_outputs(outputs: Mapping[str, Array], suppression: Mapping[str, Any]) -> dict[str, Array]:
    """What is left of a network's outputs, in the form that a model that suppresses by itself gives it in.

    Args:
        outputs: ``boxes`` [N, A, 4], ``scores`` [N, A, nc], ``coefficients`` [N, A, K], ``prototypes`` [N, K, h, w].
        suppression: ``conf``, ``iou``, ``max_det`` and ``agnostic`` as :func:`suppressed` takes them.

    Returns:
        The same outputs with max_det rows in place of A, scores of 0 where there is no detection.
    """
    from segc.inference.postprocess import spread_scores

    boxes, scores, coefficients = (outputs[name] for name in ("boxes", "scores", "coefficients"))
    kept, best, classes, rows = suppressed(boxes, scores, coefficients, **suppression)
    spread = spread_scores(best, classes, scores.shape[2])
    return {"boxes": kept, "scores": spread, "coefficients": rows, "prototypes": outputs["prototypes"]}


def finished(coefficients: Array, prototypes: Array, boxes: Array, size: tuple[int, int]) -> NDArray[np.bool_]:
    """What the operator ``finished_masks`` means: [N, D, height, width].

    Args:
        coefficients: [N, D, K].
        prototypes: [N, K, h, w].
        boxes: [N, D, 4] (x1, y1, x2, y2) in pixels of the masks.
        size: (height, width) of the masks.
    """
    import numpy as np

    from segc.inference.masks import frame_masks

    images = zip(coefficients, prototypes, boxes, strict=True)
    return np.array([[mask.full(*size) for mask in frame_masks(*image, size)] for image in images], np.bool_)

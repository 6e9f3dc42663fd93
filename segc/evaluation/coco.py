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
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segc.data.samples import Sample, read_sample
from segc.diagnostics import fail
from segc.evaluation.comparison import COMPARISONS, Comparison, MaskGrid, Outputs, compare_prediction
from segc.evaluation.frames import Frame, frame_batches
from segc.evaluation.metrics import Evaluation, Metrics
from segc.inference.postprocess import detections
from segc.inference.results import Prediction

if TYPE_CHECKING:
    from segc.sessions import Session

LEAST_SCORE = 0.001
"""Detections with a score at or below it do not count."""

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""


def evaluate(
    samples: Sequence[Sample],
    predict: Callable[[NDArray[np.uint8], Path], Prediction],
    names: Sequence[str],
    *,
    progress: Progress | None = None,
    together: Callable[[Evaluation], Evaluation] | None = None,
) -> Metrics:
    """Metrics of anything that predicts, one image at a time, with masks compared on the photograph.

    Args:
        samples: images and their objects.
        predict: from an image [h, w, 3] BGR and its path to what was found on it. For figures that compare with
            published ones, it keeps all detections down to a score of 0.001.
        names: class names.
        progress: called after every image.
        together: adds what other processes found on their images, where several share a split.

    Raises:
        SegcError: D002 where an image cannot be read.
    """
    evaluation = Evaluation(names)
    for done, sample in enumerate(samples, 1):
        found = predict(read_sample(sample), sample.image)
        evaluation.add(*compare_prediction(sample.instances, found))
        if progress is not None:
            progress(done, len(samples))
    return (evaluation if together is None else together(evaluation)).metrics()


def evaluate_session(
    session: "Session",
    samples: Sequence[Sample],
    names: Sequence[str],
    *,
    size: tuple[int, int],
    rect: bool = False,
    iou: float = 0.7,
    max_det: int = 300,
    conf: float = LEAST_SCORE,
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
    dynamic = session.metadata.dynamic
    number = batch if dynamic else session.metadata.batch
    evaluation = Evaluation(names)
    judge = _Judge(conf, iou, max_det, mask_grid)
    judging: deque[Future[list[Comparison]]] = deque()
    done = 0

    def finish(most_left: int) -> None:
        nonlocal done
        while len(judging) > most_left:
            for comparison in judging.popleft().result():
                evaluation.add(*comparison)
                done += 1
                if progress is not None:
                    progress(done, len(samples))

    groups = frame_batches(samples, size, number, rect=rect and dynamic)
    with ThreadPoolExecutor(1) as judges, closing(groups) as batches:
        for group in batches:
            outputs = _run(session, group, 0 if dynamic else number)
            classes = outputs["scores"].shape[2]
            if classes != len(names):
                raise fail("E002", f"the model has {classes} classes, the dataset {len(names)}")
            judging.append(judges.submit(judge, group, outputs))
            finish(1)
        finish(0)
    return (evaluation if together is None else together(evaluation)).metrics()


def _run(session: "Session", group: Sequence[Frame], fill: int) -> Outputs:
    """The outputs for a group of frames, filled up to so many where the model takes no fewer."""
    images = np.concatenate([frame.image for frame in group])
    if len(group) < fill:
        images = np.concatenate([images, images[-1:].repeat(fill - len(group), axis=0)])
    return session.run(images)


@dataclass(frozen=True, slots=True)
class _Judge:
    """From the network's outputs to what was found beside what is labelled."""

    conf: float
    iou: float
    max_det: int
    mask_grid: MaskGrid

    def __call__(self, group: Sequence[Frame], outputs: Outputs) -> list[Comparison]:
        rows = ({name: value[row] for name, value in outputs.items()} for row in range(len(group)))
        return [self._one(frame, row) for frame, row in zip(group, rows, strict=True)]

    def _one(self, frame: Frame, outputs: Outputs) -> Comparison:
        found = detections(
            outputs["boxes"], outputs["scores"], conf=self.conf, iou=self.iou, max_det=self.max_det, multi_label=True
        )
        return COMPARISONS[self.mask_grid](frame.sample.instances, found, outputs, frame.geometry)

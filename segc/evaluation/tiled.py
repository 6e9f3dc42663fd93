"""Measuring a network on images that it sees in tiles."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segc.data.samples import Sample
from segc.evaluation.coco import LEAST_SCORE, Progress, evaluate
from segc.evaluation.metrics import Evaluation, Metrics
from segc.inference.filters import Filters, Tiling
from segc.inference.predict import predict_tiled
from segc.inference.results import Prediction
from segc.inference.tiles import DecodedPicture

if TYPE_CHECKING:
    from segc.sessions import Session
    from segc.spec.hyperparameters import Hyperparameters


def evaluate_tiled(
    session: "Session",
    samples: Sequence[Sample],
    names: Sequence[str],
    tiling: Tiling,
    hyper: "Hyperparameters",
    size: tuple[int, int],
    *,
    progress: Progress | None = None,
    together: Callable[[Evaluation], Evaluation] | None = None,
) -> Metrics:
    """Metrics of what is found on the tiles of images, put together; ``max_det`` is the most detections of a tile.

    Args:
        session: runs the model.
        samples: whole images and their objects.
        names: class names, as many as the model has.
        tiling: the tiles.
        hyper: ``iou`` and ``max_det`` of it apply.
        size: input (height, width) in pixels; tiles are letterboxed into it.
        progress: called after every image.
        together: see ``segc.evaluation.coco.evaluate_session``.

    Raises:
        SegcError: D002 where an image cannot be read.
    """
    least = max(LEAST_SCORE, session.metadata.conf or 0.0)
    filters = Filters(conf=least, iou=hyper.iou, max_det=hyper.max_det)
    metadata = replace(session.metadata, imgsz=size)

    def predict(image: NDArray[np.uint8], path: Path) -> Prediction:
        picture = DecodedPicture(image)
        return predict_tiled(picture, session.run, metadata, filters, tiling, multi_label=True, path=path.name)

    return evaluate(samples, predict, names, progress=progress, together=together)

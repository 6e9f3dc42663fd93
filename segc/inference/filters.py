"""What counts as a detection: what is asked for, and what a model that suppresses by itself has left out already."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segc.inference.metadata import Metadata


class FilterError(ValueError):
    """A filter asks for what the model has left out already."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What counts as a detection, and how finely its mask is drawn.

    Attributes:
        conf: scores at or below it are left out.
        iou: boxes of one class that overlap a better one more than this are left out.
        max_det: at most so many detections an image.
        retina: masks interpolated at the photograph's resolution.
    """

    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300
    retina: bool = False


def choose_filters(
    metadata: Metadata,
    given: Mapping[str, Any],
    defaults: Filters,
    *,
    retina: bool = False,
) -> Filters:
    """What was asked for; where nothing was, what a model that suppresses by itself has, else the defaults.

    Args:
        metadata: the model's.
        given: ``conf``, ``iou`` and ``max_det`` as asked for; None or absent where nothing was said.
        defaults: for what nothing says.
        retina: as asked for.

    Raises:
        FilterError: where such a model has left out what is asked for.
    """
    conf, iou, max_det = (
        next(v for v in (given.get(name), getattr(metadata, name), getattr(defaults, name)) if v is not None)
        for name in ("conf", "iou", "max_det")
    )
    if problem := beyond_suppression(metadata, conf=conf, iou=iou, max_det=max_det):
        raise FilterError(problem)
    return Filters(conf, iou, max_det, retina)


def beyond_suppression(metadata: Metadata, *, conf: float, iou: float, max_det: int) -> str | None:
    """What a model that suppresses by itself has left out already of what is asked for; None where it has all."""
    if metadata.conf is None or metadata.iou is None or metadata.max_det is None:
        return None
    for name, low, high, own in (
        ("conf", conf, metadata.conf, metadata.conf),
        ("iou", metadata.iou, iou, metadata.iou),
        ("max_det", metadata.max_det, max_det, metadata.max_det),
    ):
        if low < high:
            return f"the model suppresses by itself, with {name} {own:g}: what that leaves out is gone"
    return None

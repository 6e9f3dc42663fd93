"""The page of an audit, ``templates/report/audit.html.j2``: labels beside what the network sees."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segc.data.contours import fill
from segc.data.samples import read_sample
from segc.diagnostics import SegcError
from segc.evaluation.audit import Audit, Suspicion
from segc.reports import pictures
from segc.reports.template import render

_SIDE = 300
_LEAST_WINDOW = 120
_MARGIN = 0.5
"""What is shown around an object, as a share of its size, on each side."""

_MOST_PICTURES = 80
_TITLES = {"missing": "no label here", "class": "another class", "outline": "another outline"}


@dataclass(frozen=True, slots=True)
class Pair:
    """A contradiction: what the label says and what the network sees, as pictures."""

    label: str
    found: str
    title: str
    caption: str


def audit_page(heading: str, audit: Audit) -> str:
    """The HTML page of an audit.

    Args:
        heading: what stands above it.
        audit: what was found.
    """
    shown = audit.suspicions[:_MOST_PICTURES]
    return render(
        "audit.html.j2",
        heading=heading,
        circumstances=audit.circumstances,
        tiles=[
            ("images", f"{audit.images:,}"),
            ("labels", f"{audit.objects:,}"),
            *((_TITLES[kind], f"{audit.counts[kind]:,}") for kind in _TITLES),
        ],
        pairs=[pair for one in shown if (pair := _pair(one, audit.names)) is not None],
        more=audit.counts.total() - len(shown),
    )


def _pair(one: Suspicion, names: tuple[str, ...]) -> Pair | None:
    try:
        image = read_sample(one.sample)
    except SegcError:  # it was read before: somebody took it away
        return None
    height, width = image.shape[:2]
    found = one.found.full(height, width)
    label = np.zeros((height, width), np.bool_)
    if one.label is not None:
        label = fill([part * np.array([width, height], np.float64) for part in one.label.polygons], height, width)
    rows, columns = _window(found | label)
    cut = pictures.fit(np.ascontiguousarray(image[rows, columns]), _SIDE)
    named = "" if one.label is None else names[one.label.class_id]
    left = cut if one.label is None else _drawn(cut, label[rows, columns], one.label.class_id, named)
    right = _drawn(cut, found[rows, columns], one.found_class, f"{names[one.found_class]} {one.score:.2f}")
    where = "" if one.label is None or one.label.origin is None else f", {_origin(one.label.origin)}"
    text = {
        "missing": f"the network sees {names[one.found_class]}",
        "class": f"labelled {named}, the network sees {names[one.found_class]}",
        "outline": f"{named}: IoU {one.iou:.2f}",
    }[one.kind]
    path = one.sample.image  # with its folder: splits may have images of one name
    caption = f"{path.parent.name}/{path.name}{where}; weight {one.weight:.2f}"
    return Pair(pictures.data_uri(left), pictures.data_uri(right), f"{_TITLES[one.kind]}: {text}", caption)


def _origin(origin: int | str) -> str:
    return f"object {origin}" if isinstance(origin, int) else origin


def _window(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The part of an image with a mask and what is around it."""
    slices = []
    for axis, side in ((1, mask.shape[0]), (0, mask.shape[1])):
        there = np.flatnonzero(mask.any(axis=axis))
        low, high = (int(there[0]), int(there[-1]) + 1) if there.size else (0, side)
        room = max(round((high - low) * _MARGIN), (_LEAST_WINDOW - (high - low)) // 2, 0)
        slices.append(slice(max(0, low - room), min(side, high + room)))
    return slices[0], slices[1]


def _drawn(cut: pictures.Image, mask: NDArray[np.bool_], class_id: int, text: str) -> pictures.Image:
    size = cut.shape[1], cut.shape[0]
    small = np.asarray(cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST)).astype(np.bool_)
    rows, columns = np.flatnonzero(small.any(axis=1)), np.flatnonzero(small.any(axis=0))
    if not rows.size:
        return cut
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return pictures.draw(cut, [pictures.Drawn(class_id, text, box, small)])

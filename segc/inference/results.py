"""What was found on one photograph, and how it is written: JSON records and YOLO label rows."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from segc.inference.masks import Mask, join_polygons


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Detections on one photograph, best score first.

    Attributes:
        path: the source as it was named.
        height: of the photograph in pixels.
        width: of the photograph in pixels.
        boxes: [n, 4] float32 (x1, y1, x2, y2) in pixels of the photograph, inside it.
        scores: [n] float32 in 0..1.
        classes: [n] int64.
        names: the model's classes.
        masks: n masks on the photograph.
        left_out: detections below these whose masks would take more memory than a photograph's may.
        identities: [n] int64 where objects are followed from frame to frame, 0 for one that has no number (yet); None
            where they are not.
    """

    path: str
    height: int
    width: int
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    names: tuple[str, ...]
    masks: tuple[Mask, ...]
    left_out: int = 0
    identities: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, rows: npt.NDArray[Any] | slice) -> "Prediction":
        """The detections of these rows alone, in their order; everything that goes with them comes along."""
        chosen = np.arange(len(self))[rows]
        return replace(
            self,
            boxes=self.boxes[chosen],
            scores=self.scores[chosen],
            classes=self.classes[chosen],
            masks=tuple(self.masks[row] for row in chosen),
            identities=None if self.identities is None else self.identities[chosen],
        )

    def counts(self) -> dict[str, int]:
        """Detections by class name, in class order."""
        present, number = np.unique(self.classes, return_counts=True)
        return {self.names[int(index)]: int(count) for index, count in zip(present, number, strict=True)}

    def summary(self) -> str:
        """What was found, for a line: "2 dog, 1 cat" or "nothing", and how many were left out, if any."""
        found = ", ".join(f"{number} {name}" for name, number in self.counts().items()) or "nothing"
        if not self.left_out:
            return found
        more = f"{self.left_out} more left out, as all masks of one photograph would take too much memory"
        return f"{found} ({more}: --mask-memory allows more, --conf leaves fewer)"

    def to_json(self) -> dict[str, Any]:
        """The prediction as JSON values.

        ``image``, ``height``, ``width``, ``left_out`` where it is not 0, and ``detections``, a list, best score first,
        of objects with ``class_id``, ``class``, ``score`` (five decimals), ``box`` [x1, y1, x2, y2] in pixels (two
        decimals), ``area`` in pixels, ``polygons``: the outer outlines, largest first, each a flat list x, y, x, y, …
        of pixel indices, and ``mask``: the exact mask, holes and all, as COCO's uncompressed run lengths,
        ``{"size": [height, width], "counts": […]}``. Where objects are followed, each has ``track`` as well: its
        number, or null where it has none.
        """
        return {**self.head(), "detections": list(self.records())}

    def head(self) -> dict[str, Any]:
        """What `to_json` gives beside the detections."""
        left_out = {"left_out": self.left_out} if self.left_out else {}
        return {"image": self.path, "height": self.height, "width": self.width, **left_out}

    def records(self) -> Iterator[dict[str, Any]]:
        """The detections that `to_json` gives, one by one: there may be a hundred thousand on a large picture."""
        for track, class_id, score, box, mask in zip(
            self._tracks(), self.classes, self.scores, self.boxes, self.masks, strict=True
        ):
            yield {
                **track,
                "class_id": int(class_id),
                "class": self.names[int(class_id)],
                "score": round(float(score), 5),
                "box": [round(float(side), 2) for side in box],
                "area": mask.area,
                "polygons": [polygon.ravel().tolist() for polygon in mask.polygons()],
                "mask": {"size": [self.height, self.width], "counts": mask.run_lengths(self.height, self.width)},
            }

    def _tracks(self) -> Iterable[dict[str, int | None]]:
        if self.identities is None:
            return ({} for _ in range(len(self)))
        return ({"track": int(identity) or None} for identity in self.identities)

    def label_rows(self) -> list[str]:
        """Rows of a YOLO label file: ``class x1 y1 x2 y2 …``, pixel centres divided by the image's width and height.

        Filling a row's polygon on the pixels gives the mask back, holes and all, but for the bridges between the parts
        of a mask in several. A detection without a mask becomes a box row, ``class x-centre y-centre width height``.
        """
        return [
            _label_row(int(class_id), box, mask, self.height, self.width)
            for class_id, box, mask in zip(self.classes, self.boxes, self.masks, strict=True)
        ]


def _label_row(class_id: int, box: npt.NDArray[np.float32], mask: Mask, height: int, width: int) -> str:
    polygons = mask.cut_polygons()
    if polygons:
        outline = join_polygons(polygons)
        values = ((_with_area(outline) + 0.5) / (width, height)).ravel()
    else:
        x1, y1, x2, y2 = (float(side) for side in box)
        values = np.array([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height])
    return " ".join([str(class_id), *(f"{value:.6f}".rstrip("0").rstrip(".") for value in values)])


def _with_area(outline: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An outline [n, 2] as a polygon that encloses something: a point or a line, which do not, become thin.

    They go along themselves on one side and back on the other, less than half a pixel away, so that filling them gives
    the same pixels. What has no area would be no object to whoever reads it.
    """
    points = outline.astype(np.float64)
    following = np.roll(points, -1, axis=0)
    if (points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]).sum():
        return points
    # Neither along a row, a column nor a diagonal, which lines of pixels follow.
    aside = np.array([0.2, -0.1])
    there = np.concatenate([points, points + np.array([0.1, 0.2])]) if len(points) < 2 else points
    return np.concatenate([there + aside, there[::-1] - aside])


def label_text(prediction: Prediction) -> str:
    """A YOLO label file, one row a detection; empty where nothing was found."""
    return "".join(f"{row}\n" for row in prediction.label_rows())


def json_record(head: Mapping[str, Any], found: Iterable[Mapping[str, Any]]) -> str:
    """What ``Prediction.to_json`` gives, and more, as JSON text, a line a detection; the same everywhere.

    Args:
        head: all but the detections.
        found: the detections.
    """
    text = json.dumps(head, ensure_ascii=False, allow_nan=False)[:-1]
    rows = ",\n  ".join(map(json_text, found))
    return f'{text}, "detections": [\n  {rows}\n]}}' if rows else f'{text}, "detections": []}}'


def json_line(head: Mapping[str, Any], found: Iterable[Mapping[str, Any]]) -> str:
    """The same on one line."""
    return f'{json_text(head)[:-1]},"detections":[{",".join(map(json_text, found))}]}}'


def json_text(value: Mapping[str, Any]) -> str:
    """JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

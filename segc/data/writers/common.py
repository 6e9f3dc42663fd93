"""What writers of labels share: an image with its objects to be written, and what does not come through."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segc.data.contours import fill
from segc.data.labels import Instance

LEAST_IOU = 0.99
"""An object comes through where what is read again has at least this IoU with what was written."""


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """An image to be written.

    Attributes:
        split: the split that it belongs to.
        name: what it is called there, relative to the folder of the split's images.
        size: (height, width) in pixels.
        instances: its objects.
    """

    split: str
    name: PurePosixPath
    size: tuple[int, int]
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class Loss:
    """An object that does not come through as it is.

    Attributes:
        image: the image's name.
        origin: how the file that it was read from names it.
        kind: ``left out``, ``changed``: it is there with another mask, or ``joined``: its parts are one line now.
        why: what the format cannot do.
        iou: that of the old and the new mask, where it was measured.
    """

    image: str
    origin: int | str | None
    kind: Literal["left out", "changed", "joined"]
    why: str
    iou: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Values for JSON."""
        iou = {} if self.iou is None else {"iou": round(self.iou, 4)}
        return {"image": self.image, "object": self.origin, "kind": self.kind, "why": self.why, **iou}


class Writer(Protocol):
    """Writes one dataset."""

    def image_path(self, item: Item) -> Path:
        """Where the picture of an image belongs."""

    def add(self, item: Item) -> list[Loss]:
        """Write the labels of an image; what does not come through is told."""

    def finish(self) -> dict[str, Any]:
        """Write what stands once for all; gives the ``dataset`` section of a spec that reads it."""


def pixels(instance: Instance, size: tuple[int, int]) -> list[NDArray[np.float64]]:
    """The polygons of an object in pixels of an image of (height, width).

    Fractions are float32: what was a whole number of pixels, or a 100th of one, is one again.
    """
    scale = np.array([size[1], size[0]], np.float64)
    return [np.round(polygon.astype(np.float64) * scale, 3) for polygon in instance.polygons]


def mask_of(instance: Instance, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of an object on an image of (height, width)."""
    return fill(pixels(instance, size), *size)


def mask_iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """The IoU of two masks [h, w]; 1 where both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def box_of(points: Sequence[NDArray[np.float64]]) -> tuple[float, float, float, float]:
    """The box (x1, y1, x2, y2) round polygons."""
    every = np.concatenate(list(points))
    (x1, y1), (x2, y2) = every.min(axis=0).tolist(), every.max(axis=0).tolist()
    return x1, y1, x2, y2


def put(path: Path, content: bytes | str) -> None:
    """Write a file of the dataset; the whole of it appears at once in the end, see ``segc.files.atomic_directory``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def left_out(item: Item, instance: Instance, why: str) -> Loss:
    """An object that the format has no way to say."""
    return Loss(str(item.name), instance.origin, "left out", why)


NO_CROWDS = "the format has no regions of many objects"

"""YOLO: a text file an image, a row an object, and a ``data.yaml``."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.data.contours import outlines
from segc.data.labels import Instance
from segc.data.writers.common import LEAST_IOU, NO_CROWDS, Item, Loss, left_out, mask_iou, mask_of, put
from segc.inference.masks import join_polygons


class YoloWriter:
    """Writes ``images/<split>``, ``labels/<split>`` and ``data.yaml``.

    An object of several parts becomes one line through all of them; there and back it goes the same way, so that it
    encloses nothing more. Parts that lie over each other are outlined anew first, for a line that goes round a place
    twice leaves it out. Holes are in the line of their outline already. Fractions are written with all digits that
    they have.
    """

    def __init__(self, root: Path, names: tuple[str, ...]) -> None:
        self.root, self.names = root, names
        self.splits: dict[str, None] = {}

    def image_path(self, item: Item) -> Path:
        """Where the picture of an image belongs."""
        return self.root / "images" / item.split / item.name

    def add(self, item: Item) -> list[Loss]:
        """Write the labels of an image; crowd regions are left out."""
        self.splits[item.split] = None
        lost: list[Loss] = []
        rows = []
        for instance in item.instances:
            if instance.is_crowd:
                lost.append(left_out(item, instance, NO_CROWDS))
                continue
            if len(instance.polygons) > 1:
                why = f"{len(instance.polygons)} parts are one line now, with a way of no width between them"
                lost.append(Loss(str(item.name), instance.origin, "joined", why))
            rows.append(f"{instance.class_id} {_numbers(instance, item.size)}\n")
        put(self.root / "labels" / item.split / item.name.with_suffix(".txt"), "".join(rows))
        return lost

    def finish(self) -> dict[str, Any]:
        """Write ``data.yaml``."""
        names = "".join(f"  {index}: {_quoted(name)}\n" for index, name in enumerate(self.names))
        folders = {split: f"images/{split}" for split in self.splits}
        splits = "".join(f"{split}: {folder}\n" for split, folder in folders.items())
        put(self.root / "data.yaml", f"path: .\n{splits}names:\n{names}")
        return {"format": "yolo", **folders, "names": list(self.names)}


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _numbers(instance: Instance, size: tuple[int, int]) -> str:
    if instance.is_box:
        points = instance.polygons[0].astype(np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
        return " ".join(f"{value:.9g}" for value in (*((low + high) / 2), *(high - low)))
    return " ".join(_outline(instance, size).astype(np.float32).ravel().astype(str))


def _outline(instance: Instance, size: tuple[int, int]) -> NDArray[Any]:
    """One line [K, 2] that encloses what the parts of an object do together."""
    joined: NDArray[Any] = join_polygons(instance.polygons)  # type: ignore[arg-type]  # takes any kind of numbers
    if len(instance.polygons) == 1:
        return joined
    whole = mask_of(instance, size)
    if mask_iou(whole, mask_of(replace(instance, polygons=(joined,)), size)) >= LEAST_IOU:
        return joined
    return np.asarray(join_polygons(outlines(whole)) / np.array([size[1], size[0]]))  # type: ignore[arg-type]

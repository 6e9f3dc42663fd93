"""YOLO: a text file an image, a row an object, and a ``data.yaml``."""

from pathlib import Path
from typing import Any

import numpy as np

from segc.data.labels import Instance
from segc.data.writers.common import NO_CROWDS, Item, Loss, left_out, put
from segc.inference.masks import join_polygons


class YoloWriter:
    """Writes ``images/<split>``, ``labels/<split>`` and ``data.yaml``.

    An object of several parts becomes one line through all of them; there and back it goes the same way, so that it
    encloses nothing more. Holes are in the line of their outline already. Fractions are written with all digits that
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
            rows.append(f"{instance.class_id} {_numbers(instance)}\n")
        put(self.root / "labels" / item.split / item.name.with_suffix(".txt"), "".join(rows))
        return lost

    def finish(self) -> dict[str, Any]:
        """Write ``data.yaml``."""
        names = "".join(f"  {index}: {_quoted(name)}\n" for index, name in enumerate(self.names))
        splits = "".join(f"{split}: images/{split}\n" for split in self.splits)
        put(self.root / "data.yaml", f"path: .\n{splits}names:\n{names}")
        return {"format": "yolo", "data": "data.yaml"}


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _numbers(instance: Instance) -> str:
    if instance.is_box:
        points = instance.polygons[0].astype(np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
        return " ".join(f"{value:.9g}" for value in (*((low + high) / 2), *(high - low)))
    outline: Any = join_polygons(instance.polygons)  # type: ignore[arg-type]  # takes any kind of numbers
    return " ".join(outline.astype(np.float32).ravel().astype(str))

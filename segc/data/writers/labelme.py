"""LabelMe: a JSON file beside every image."""

from pathlib import Path
from typing import Any

from segc.data.formats.labelme import CROWD, label_file
from segc.data.labels import Instance
from segc.data.writers.common import Item, Loss, box_of, pixels, put
from segc.files import canonical_json

_VERSION = "5.5.0"
"""Version of LabelMe whose files these are like."""


class LabelmeWriter:
    """Writes pictures and JSON files into ``<split>``. Everything comes through.

    Parts of an object have a ``group_id`` in common; crowd regions have the flag ``crowd``.
    """

    def __init__(self, root: Path, names: tuple[str, ...]) -> None:
        self.root, self.names = root, names
        self.splits: dict[str, None] = {}

    def image_path(self, item: Item) -> Path:
        """Where the picture of an image belongs."""
        return self.root / item.split / item.name

    def add(self, item: Item) -> list[Loss]:
        """Write the labels of an image."""
        self.splits[item.split] = None
        image = self.image_path(item)
        shapes = [
            shape
            for number, instance in enumerate(item.instances, 1)
            for shape in _shapes(instance, self.names[instance.class_id], number, item.size)
        ]
        content: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": image.name,
            "imageData": None,
            "imageHeight": item.size[0],
            "imageWidth": item.size[1],
        }
        put(label_file(image), canonical_json(content))
        return []

    def finish(self) -> dict[str, Any]:
        """Nothing stands once for all."""
        return {"format": "labelme", **{split: split for split in self.splits}, "names": list(self.names)}


def _shapes(instance: Instance, name: str, number: int, size: tuple[int, int]) -> list[dict[str, Any]]:
    polygons = pixels(instance, size)
    x1, y1, x2, y2 = box_of(polygons)
    drawn = [[[x1, y1], [x2, y2]]] if instance.is_box else [polygon.tolist() for polygon in polygons]
    return [
        {
            "label": name,
            "points": points,
            "group_id": number if len(drawn) > 1 else None,
            "shape_type": "rectangle" if instance.is_box else "polygon",
            "flags": {CROWD: True} if instance.is_crowd else {},
        }
        for points in drawn
    ]

"""COCO instances JSON: one file a split."""

import json
from pathlib import Path
from typing import Any

from segc.data.labels import Instance
from segc.data.polygons import area
from segc.data.writers.common import Item, Loss, box_of, mask_of, pixels, put
from segc.inference.masks import Mask


class CocoWriter:
    """Writes ``images/<split>`` and ``annotations/instances_<split>.json``. Everything comes through.

    Categories are numbered from 1, in the order of the classes. Crowd regions are run-length codes, as in COCO; a box
    has no segmentation.
    """

    def __init__(self, root: Path, names: tuple[str, ...]) -> None:
        self.root, self.names = root, names
        # As texts, which take a fraction of the memory that the objects would.
        self.images: dict[str, list[str]] = {}
        self.annotations: dict[str, list[str]] = {}

    def image_path(self, item: Item) -> Path:
        """Where the picture of an image belongs."""
        return self.root / "images" / item.split / item.name

    def add(self, item: Item) -> list[Loss]:
        """Take in the labels of an image."""
        images = self.images.setdefault(item.split, [])
        annotations = self.annotations.setdefault(item.split, [])
        image_id = len(images) + 1
        entry = {"id": image_id, "file_name": str(item.name), "height": item.size[0], "width": item.size[1]}
        images.append(json.dumps(entry))
        for instance in item.instances:
            head = {"id": len(annotations) + 1, "image_id": image_id, "category_id": instance.class_id + 1}
            annotations.append(json.dumps({**head, **_shape(instance, item.size)}))
        return []

    def finish(self) -> dict[str, Any]:
        """Write the annotation files."""
        categories = [json.dumps({"id": index, "name": name}) for index, name in enumerate(self.names, 1)]
        separator = ",\n"
        files = {}
        for split, images in self.images.items():
            files[split] = f"annotations/instances_{split}.json"
            parts = {"images": images, "categories": categories, "annotations": self.annotations[split]}
            lists = [f'"{key}": [\n{separator.join(entries)}\n]' for key, entries in parts.items()]
            put(self.root / files[split], f"{{{separator.join(lists)}}}\n")
        folders = {split: f"images/{split}" for split in files}
        return {"format": "coco", "annotations": files, **folders, "names": list(self.names)}


def _shape(instance: Instance, size: tuple[int, int]) -> dict[str, Any]:
    polygons = pixels(instance, size)
    x1, y1, x2, y2 = box_of(polygons)
    box = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
    if instance.is_crowd:
        mask = mask_of(instance, size)
        code = {"size": list(size), "counts": Mask(0, 0, mask).run_lengths(*size)}
        return {"segmentation": code, "bbox": box, "area": int(mask.sum()), "iscrowd": 1}
    drawn = [] if instance.is_box else [polygon.ravel().tolist() for polygon in polygons]
    total = round(sum(area(polygon) for polygon in polygons), 3)
    return {"segmentation": drawn, "bbox": box, "area": total, "iscrowd": 0}

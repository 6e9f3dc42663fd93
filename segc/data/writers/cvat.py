"""CVAT XML 1.1 for images: one file a split."""

from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from segc.data.formats.cvat import CROWD
from segc.data.labels import Instance
from segc.data.writers.common import Item, Loss, box_of, pixels, put


class CvatWriter:
    """Writes ``images/<split>`` and ``annotations/<split>.xml``. Everything comes through.

    Parts of an object have a ``group_id`` in common; crowd regions have the attribute ``is_crowd``.
    """

    def __init__(self, root: Path, names: tuple[str, ...]) -> None:
        self.root, self.names = root, names
        self.images: dict[str, list[str]] = {}

    def image_path(self, item: Item) -> Path:
        """Where the picture of an image belongs."""
        return self.root / "images" / item.split / item.name

    def add(self, item: Item) -> list[Loss]:
        """Take in the labels of an image."""
        images = self.images.setdefault(item.split, [])
        size = f'width="{item.size[1]}" height="{item.size[0]}"'
        lines = [f'  <image id="{len(images)}" name={quoteattr(str(item.name))} {size}>']
        for number, instance in enumerate(item.instances, 1):
            lines += _shapes(instance, self.names[instance.class_id], number, item.size)
        images.append("\n".join([*lines, "  </image>\n"]))
        return []

    def finish(self) -> dict[str, Any]:
        """Write the annotation files."""
        labels = "".join(
            f"        <label><name>{escape(name)}</name><attributes><attribute><name>{CROWD}</name>"
            "<mutable>False</mutable><input_type>checkbox</input_type><default_value>false</default_value>"
            "<values>false</values></attribute></attributes></label>\n"
            for name in self.names
        )
        head = (
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
            f"  <meta>\n    <task>\n      <labels>\n{labels}      </labels>\n    </task>\n  </meta>\n"
        )
        files = {}
        for split, images in self.images.items():
            files[split] = f"annotations/{split}.xml"
            put(self.root / files[split], f"{head}{''.join(images)}</annotations>\n")
        folders = {split: f"images/{split}" for split in files}
        return {"format": "cvat", "annotations": files, **folders, "names": list(self.names)}


def _shapes(instance: Instance, name: str, number: int, size: tuple[int, int]) -> list[str]:
    polygons = pixels(instance, size)
    group = f' group_id="{number}"' if len(polygons) > 1 else ""
    crowd = str(instance.is_crowd).lower()
    inner = f'<attribute name="{CROWD}">{crowd}</attribute>'
    common = f'label={quoteattr(name)} source="manual" occluded="0"'
    if instance.is_box:
        sides = zip(("xtl", "ytl", "xbr", "ybr"), box_of(polygons), strict=True)
        places = " ".join(f'{side}="{value:g}"' for side, value in sides)
        return [f'    <box {common} {places} z_order="0">{inner}</box>']
    return [
        f'    <polygon {common} points="{_points(polygon.tolist())}" z_order="0"{group}>{inner}</polygon>'
        for polygon in polygons
    ]


def _points(points: list[list[float]]) -> str:
    return ";".join(f"{x:.10g},{y:.10g}" for x, y in points)

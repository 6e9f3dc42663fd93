"""Pascal VOC with instances."""

from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from segc.data.formats.png import indexed_png, voc_palette
from segc.data.formats.voc import CLASSES, IMAGES, LISTS, OBJECTS, RECORDS, VOID
from segc.data.labels import Instance
from segc.data.writers.common import LEAST_IOU, Item, Loss, box_of, left_out, mask_of, pixels, put
from segc.diagnostics import fail


class VocWriter:
    """Writes ``JPEGImages``, ``Annotations``, ``SegmentationObject``, ``SegmentationClass`` and lists in ``ImageSets``.

    A pixel has one object only: of several the smallest is drawn. Crowd regions become void, boxes masks.

    Raises:
        SegcError: D034 where there are more classes than its pixels can tell.
    """

    def __init__(self, root: Path, names: tuple[str, ...]) -> None:
        self.root, self.names = root, names
        self.lists: dict[str, list[str]] = {}
        if len(names) >= VOID:
            text = f"VOC has {VOID - 1} classes at most, here are {len(names)}"
            raise fail("D034", text, help="masks, coco, cvat and labelme have room for more")
        for name in names:
            if ":" in name or name == "background":
                text = f"class `{name}` cannot stand in labelmap.txt"
                raise fail("D034", text, help="give it another name in dataset.names")

    def image_path(self, item: Item) -> Path:
        """Where the picture of an image belongs."""
        return self.root / IMAGES / f"{_stem(item)}{item.name.suffix}"

    def add(self, item: Item) -> list[Loss]:
        """Write the labels of an image."""
        self.lists.setdefault(item.split, []).append(_stem(item))
        objects, classes = np.zeros(item.size, np.uint8), np.zeros(item.size, np.uint8)
        drawn, lost = self._chosen(item)
        for instance in item.instances:
            if instance.is_crowd:
                mask = mask_of(instance, item.size)
                objects[mask], classes[mask] = VOID, VOID
        for number, (instance, mask) in sorted(enumerate(drawn, 1), key=lambda one: -int(one[1][1].sum())):
            objects[mask], classes[mask] = number, instance.class_id + 1
        for number, (instance, mask) in enumerate(drawn, 1):
            lost += _difference(item, instance, mask, objects == number)
        put(self.root / OBJECTS / f"{_stem(item)}.png", indexed_png(objects))
        put(self.root / CLASSES / f"{_stem(item)}.png", indexed_png(classes))
        put(self.root / RECORDS / f"{_stem(item)}.xml", self._record(item, [one for one, _ in drawn]))
        return lost

    def _chosen(self, item: Item) -> tuple[list[tuple[Instance, NDArray[np.bool_]]], list[Loss]]:
        """The objects that there is a number for, with their masks."""
        drawn: list[tuple[Instance, NDArray[np.bool_]]] = []
        lost: list[Loss] = []
        for instance in item.instances:
            mask = mask_of(instance, item.size)
            if instance.is_crowd:
                lost.append(left_out(item, instance, "regions of many objects are void"))
            elif not mask.any():
                lost.append(left_out(item, instance, "it covers the middle of no pixel"))
            elif len(drawn) == VOID - 1:
                lost.append(left_out(item, instance, f"an image has at most {VOID - 1} objects"))
            else:
                drawn.append((instance, mask))
        return drawn, lost

    def _record(self, item: Item, instances: list[Instance]) -> str:
        objects = []
        for instance in instances:
            x1, y1, x2, y2 = box_of(pixels(instance, item.size))
            # VOC counts pixels from 1, and the last one belongs to the box.
            box = zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2), strict=True)
            sides = "".join(f"<{name}>{value:.10g}</{name}>" for name, value in box)
            objects.append(
                f"  <object><name>{escape(self.names[instance.class_id])}</name><truncated>0</truncated>"
                f"<difficult>0</difficult><bndbox>{sides}</bndbox></object>\n"
            )
        name = escape(self.image_path(item).name)
        return (
            f"<annotation>\n  <filename>{name}</filename>\n  <size><width>{item.size[1]}</width>"
            f"<height>{item.size[0]}</height><depth>3</depth></size>\n  <segmented>1</segmented>\n"
            f"{''.join(objects)}</annotation>\n"
        )

    def finish(self) -> dict[str, Any]:
        """Write the lists of images and the map of labels."""
        for split, stems in self.lists.items():
            put(self.root / LISTS / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
        colours = voc_palette().tolist()
        rows = [
            f"{name}:{','.join(map(str, colours[number]))}::\n"
            for number, name in enumerate(("background", *self.names))
        ]
        put(self.root / "labelmap.txt", "".join(rows))
        folders = {split: f"{LISTS}/{split}.txt" for split in self.lists}
        return {"format": "voc", **folders, "names": list(self.names)}


def _stem(item: Item) -> str:
    return "__".join(item.name.with_suffix("").parts)


def _difference(item: Item, instance: Instance, mask: NDArray[np.bool_], left: NDArray[np.bool_]) -> list[Loss]:
    """What became of a mask of which others may have taken pixels."""
    iou = float(left.sum() / mask.sum())
    if not iou:
        return [left_out(item, instance, "other objects hide it, and a pixel has one object")]
    if iou < LEAST_IOU:
        return [Loss(str(item.name), instance.origin, "changed", "a pixel has one object only", iou)]
    return [Loss(str(item.name), instance.origin, "changed", "a box is a mask now")] if instance.is_box else []

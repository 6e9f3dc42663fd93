"""Masks as PNG: a folder an image, a file an object."""

from pathlib import Path
from typing import Any

import numpy as np

from segc.data.writers.common import NO_CROWDS, Item, Loss, left_out, mask_of, put
from segc.diagnostics import fail
from segc.inference.output import encode_picture

_NO_FILE_NAME = frozenset('/\\:*?"<>|')


class MaskWriter:
    """Writes ``images/<split>`` and ``masks/<split>/<image>/0001_<class>.png``.

    Objects may lie on each other and have holes and parts; crowd regions are left out, boxes become masks.

    Raises:
        SegcError: D034 where the name of a class cannot be part of a file's name.
    """

    def __init__(self, root: Path, names: tuple[str, ...]) -> None:
        self.root, self.names = root, names
        self.splits: dict[str, None] = {}
        for name in names:
            if _NO_FILE_NAME & set(name) or name != name.strip(" ."):
                text = f"class `{name}` cannot be part of a file's name, which tells the class of a mask"
                raise fail("D034", text, help="give it another name in dataset.names")

    def image_path(self, item: Item) -> Path:
        """Where the picture of an image belongs."""
        return self.root / "images" / item.split / item.name

    def add(self, item: Item) -> list[Loss]:
        """Write the masks of an image."""
        self.splits[item.split] = None
        lost: list[Loss] = []
        folder = self.root / "masks" / item.split / item.name.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        for number, instance in enumerate(item.instances, 1):
            mask = mask_of(instance, item.size)
            if instance.is_crowd:
                lost.append(left_out(item, instance, NO_CROWDS))
            elif not mask.any():
                lost.append(left_out(item, instance, "it covers the middle of no pixel"))
            else:
                if instance.is_box:
                    lost.append(Loss(str(item.name), instance.origin, "changed", "a box is a mask now"))
                picture = encode_picture(mask.astype(np.uint8) * np.uint8(255), ".png")
                put(folder / f"{number:04}_{self.names[instance.class_id]}.png", picture)
        return lost

    def finish(self) -> dict[str, Any]:
        """Nothing stands once for all."""
        folders = {split: f"images/{split}" for split in self.splits}
        return {"format": "masks", **folders, "names": list(self.names)}

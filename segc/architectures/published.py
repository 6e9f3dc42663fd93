"""Weights that the makers of a family have published: a row a file, which a project starts from by its name.

A row says only what its source says. Where no digest is published, what the first download gave is held fast in the
project's lock; where only its beginning is (as some file names end in it), the beginning is checked.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published file.

    Attributes:
        name: what a project calls it.
        address: where it lies; the last part is the file's name.
        family: the architecture's family.
        scale: its scale.
        classes: number of classes that it knows.
        data: what it was trained and measured on.
        side: image side in pixels at which it was measured.
        licence: SPDX name of the licence that its makers state.
        box_ap: published AP (IoU 0.50 to 0.95) of boxes, in percent.
        mask_ap: likewise of masks.
        source: where these figures stand.
        size: bytes, where published.
        sha256: hex digits of the digest, whole or its beginning, as far as published; empty where it is not.
    """

    name: str
    address: str
    family: str
    scale: str
    classes: int
    data: str
    side: int
    licence: str
    box_ap: float
    mask_ap: float
    source: str
    size: int | None = None
    sha256: str = ""

    @property
    def file_name(self) -> str:
        """The file's name."""
        return self.address.rpartition("/")[2]


_YOLOV8_AP = {"n": (36.7, 30.5), "s": (44.6, 36.8), "m": (49.9, 40.8), "l": (52.3, 42.6), "x": (53.4, 43.4)}

_ROWS = [
    Published(
        name=f"yolov8{scale}-seg",
        address=f"https://github.com/ultralytics/assets/releases/download/v8.1.0/yolov8{scale}-seg.pt",
        family="yolov8-seg",
        scale=scale,
        classes=80,
        data="COCO val2017",
        side=640,
        licence="AGPL-3.0",
        box_ap=box,
        mask_ap=mask,
        source="https://docs.ultralytics.com/models/yolov8/",
    )
    for scale, (box, mask) in _YOLOV8_AP.items()
]

PUBLISHED = {row.name: row for row in _ROWS}
"""Rows by name."""

BY_ADDRESS = {row.address: row for row in _ROWS}
"""Rows by the address of their file."""

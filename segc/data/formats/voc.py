"""Pascal VOC with instances: ``JPEGImages``, ``SegmentationObject``, and what the objects are.

The pixels of an object have its number in ``SegmentationObject/x.png``; 0 is background, and 255, or white where the
file has colours, belongs to no object. Object n is of the class that the n-th object of ``Annotations/x.xml`` has;
where there is no such file, of the class that its pixels have in ``SegmentationClass/x.png``: by the lines of
``labelmap.txt`` (``name:r,g,b::``) where there is one, else class n of the project is number n + 1, as in VOC.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segc.data.formats.common import Fault, ImageLabels, Shape, gather
from segc.data.formats.masks import index_masks
from segc.data.formats.png import read_png_file, voc_palette
from segc.data.formats.xml import Element, elements
from segc.data.listing import is_image_name
from segc.diagnostics import SegcError
from segc.inference.kinds import IMAGE_SUFFIXES

IMAGES, OBJECTS, CLASSES, RECORDS, LISTS = (
    "JPEGImages",
    "SegmentationObject",
    "SegmentationClass",
    "Annotations",
    "ImageSets/Segmentation",
)
"""The folders of a VOC dataset."""

VOID = 255
"""The number of pixels that belong to no object: outlines, and what is not labelled."""

_WHITE = 0xFFFFFF
_VOID_COLOUR = 0xE0E0C0
"""Colours that stand for the same where a PNG has colours."""


def root_of(image: Path) -> Path:
    """The folder of the dataset that an image belongs to: above ``JPEGImages``, or above its own folder."""
    parts = image.parts
    place = max((index for index, part in enumerate(parts[:-1]) if part == IMAGES), default=len(parts) - 2)
    return Path(*parts[:place])


def object_file(image: Path) -> Path:
    """Where the objects of an image are."""
    return root_of(image) / OBJECTS / f"{image.stem}.png"


def read(image: Path, names: Sequence[str]) -> ImageLabels:
    """The labels of an image; all that is wrong with them is in ``faults``.

    Raises:
        OSError: where a label file cannot be read.
    """
    path = object_file(image)
    if not path.is_file():
        return ImageLabels()
    found = ImageLabels(path)
    try:
        values = read_png_file(path)
    except ValueError as error:
        found.note(Fault("D003", str(error)))
        return found
    found.size = values.shape[0], values.shape[1]
    coloured = values.max() > VOID
    void = (values == _WHITE) | (values == _VOID_COLOUR) if coloured else values == VOID
    try:
        objects = index_masks(np.where(void, np.uint32(0), values))
        classes = _classes(image, names, found)
    except Fault as fault:
        found.note(fault)
        return found
    shapes = []
    for number, polygons, pixels in objects:
        at = f"object {number}"
        try:
            shapes.append(Shape(classes.name(number, pixels), polygons, None, is_box=False, is_crowd=False, at=at))
        except Fault as fault:
            fault.at = at
            found.note(fault)
    gather(shapes, names, found)
    return found


def labels_in(image: Path) -> set[str]:
    """The names of the objects of an image's record.

    Raises:
        SegcError: where the record is malformed.
    """
    path = root_of(image) / RECORDS / f"{image.stem}.xml"
    return {name for one in _objects(path) if (name := one.text_of("name"))} if path.is_file() else set()


def labelmap(root: Path) -> dict[int, str]:
    """The names by colour (``red · 65536 + …``) that ``labelmap.txt`` gives, without background; empty without it.

    Raises:
        Fault: D003 for a malformed line.
    """
    path = root / "labelmap.txt"
    if not path.is_file():
        return {}
    found = {}
    for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            red, green, blue = (int(part) for part in rest.split(":")[0].split(","))
        except ValueError:
            raise Fault("D003", f"line {number} of labelmap.txt is not name:red,green,blue::") from None
        if (red, green, blue) != (0, 0, 0):
            found[red << 16 | green << 8 | blue] = name
    return found


def _objects(path: Path) -> list[Element]:
    return [one for one in elements(path, "annotation") if one.tag == "object"]


class _Record:
    """Names by the order of the objects in ``Annotations``."""

    def __init__(self, listed: Sequence[Element]) -> None:
        self.listed = listed

    def name(self, number: int, _: NDArray[np.int64]) -> str:
        if not number <= len(self.listed):
            text = f"the record in {RECORDS} has {len(self.listed)} objects only"
            raise Fault("D003", text, f"take the record away where {CLASSES} tells the classes")
        name = self.listed[number - 1].text_of("name")
        if not name:
            raise Fault("D003", f"the object in {RECORDS} has no name")
        return name


class _Pixels:
    """Names by what the pixels are in ``SegmentationClass``."""

    def __init__(self, values: NDArray[np.uint32], by_value: dict[int, str]) -> None:
        self.values, self.by_value = values.ravel(), by_value

    def name(self, _: int, pixels: NDArray[np.int64]) -> str:
        present, counts = np.unique(self.values[pixels], return_counts=True)
        value = int(present[counts.argmax()])
        if value not in self.by_value:
            raise Fault("D005", f"its pixels have {value} in {CLASSES}, which is no class of the project")
        return self.by_value[value]


def _classes(image: Path, names: Sequence[str], labels: ImageLabels) -> _Record | _Pixels:
    root = root_of(image)
    record = root / RECORDS / f"{image.stem}.xml"
    coloured = labelmap(root)
    pixels = root / CLASSES / f"{image.stem}.png"
    # A tool that writes a labelmap numbers objects as it likes; in VOC itself the record is what counts.
    if record.is_file() and not (coloured and pixels.is_file()):
        try:
            return _Record(_objects(record))
        except SegcError as error:
            labels.faults += error.diagnostics
            raise Fault("D003", f"the classes of its objects are unknown: {record.name} is malformed") from None
    if not pixels.is_file():
        raise Fault("D006", f"what its objects are is neither in {RECORDS} nor in {CLASSES}")
    try:
        values = read_png_file(pixels)
    except ValueError as error:
        raise Fault("D003", f"{CLASSES}: {error}") from None
    if values.shape != labels.size:
        raise Fault("D003", f"{CLASSES}/{pixels.name} is of another size: {values.shape[0]} x {values.shape[1]}")
    if not coloured:
        return _Pixels(values, {index + 1: name for index, name in enumerate(names)})
    palette = voc_palette().astype(np.uint32)
    by_index = {int(red << 16 | green << 8 | blue): index for index, (red, green, blue) in enumerate(palette)}
    # The same file may have colours, or the indices of VOC's colours.
    indexed = {by_index[colour]: name for colour, name in coloured.items() if colour in by_index}
    return _Pixels(values, indexed | coloured)


def images_by_stem(root: Path) -> dict[str, Path]:
    """The images of a dataset by what lists of ``ImageSets`` call them: their names without the ending.

    Raises:
        OSError: where the folder cannot be read.
    """
    folder = root / IMAGES
    if not folder.is_dir():
        return {}
    found = sorted(path for path in folder.iterdir() if is_image_name(path) and path.is_file())
    # Of images that differ in their endings alone the ending that stands first in the table counts.
    order = {suffix: place for place, suffix in enumerate(IMAGE_SUFFIXES)}
    found.sort(key=lambda path: order[path.suffix.lower()], reverse=True)
    return {path.stem: path for path in found}

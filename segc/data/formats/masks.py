"""Masks as PNG: one file with a number for every object, or a folder with a file for every object.

The masks of ``…/images/a/b.jpg`` are ``…/masks/a/b.png`` or the files in ``…/masks/a/b/`` (the last ``images`` counts);
where its folder has no other image, the files in ``…/masks/`` belong to it too.

In one file 0 is background. With one class every other number is an object of it; with several, number ``1000 · c + n``
is object n, from 1 to 999, of class c, counted from 0. In a file of its own an object is all that is not black. Its
class is what stands behind a number of four digits or more, as segc writes it (``0003_person.png``); else the one whose
name begins or ends the file's name (``person_3.png``, ``3_person.png``), the longest of several that are parts of each
other; or it is the name of its folder.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segc.data.contours import outlines
from segc.data.formats.common import MOST_OBJECTS, Fault, ImageLabels, Polygon, Shape, fractions, gather, shown
from segc.data.formats.png import read_png_file
from segc.diagnostics import Diagnostic

PER_CLASS = 1000
"""Numbers of objects that a class has in a file with several classes."""

_LEVEL = 128
"""Where a mask has more than two values its outlines are smoothed; from here on a pixel belongs to the object."""

WRITTEN = re.compile(r"\d{4,}_(.+)", re.DOTALL)
"""The name of a file that segc wrote for an object: its number in the image, and its class."""

Numbered = tuple[int, tuple[Polygon, ...], NDArray[np.int64]]
"""An object: its number, its outlines in 0..1, and its pixels as places in the flattened image."""


def mask_place(image: Path) -> Path:
    """Where the masks of an image are: a folder by this name, or a file with ``.png`` behind it."""
    parts = list(image.with_suffix("").parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "masks"
            break
    else:
        parts.insert(len(parts) - 1, "masks")
    return Path(*parts)


def mask_files(image: Path) -> tuple[Path | None, tuple[Path, ...]]:
    """The file with all objects of an image, and the files with one each; the first where there are both."""
    place = mask_place(image)
    single = place.with_name(f"{place.name}.png")
    if single.is_file():
        return single, ()
    folder = place
    if not folder.is_dir() and image.parent.name == "images" and _is_alone(image):
        folder = place.parent
    if not folder.is_dir():
        return None, ()
    files = (path for path in folder.rglob("*.png") if not path.name.startswith(".") and path.is_file())
    return None, tuple(sorted(files))


def _is_alone(image: Path) -> bool:
    return sum(not path.name.startswith(".") for path in image.parent.iterdir()) == 1


def read(image: Path, names: Sequence[str]) -> ImageLabels:
    """The labels of an image; all that is wrong with them is in ``faults``.

    Raises:
        OSError: where a mask cannot be read.
    """
    single, files = mask_files(image)
    if single is not None:
        return _indexed(single, names)
    found = ImageLabels(files[0].parent if files else None)
    shapes = []
    for path in files:
        try:
            shapes.append(_alone(path, names, found))
        except Fault as fault:
            fault.at = str(path.relative_to(path.parents[1]))
            found.note(fault)
    gather(shapes, names, found)
    return found


def labels_in(image: Path) -> set[str]:
    """What the files of an image's objects are called, without numbers: names that classes may have."""
    _, files = mask_files(image)
    return {name for path in files if (name := re.sub(r"^\d+[-_ ]*|[-_ ]*\d+$", "", path.stem))}


def _indexed(path: Path, names: Sequence[str]) -> ImageLabels:
    found = ImageLabels(path)
    try:
        values = read_png_file(path)
        found.size = values.shape[0], values.shape[1]
        objects = list(index_masks(values))
    except ValueError as error:
        found.note(Fault("D003", str(error)))
        return found
    except Fault as fault:
        found.note(fault)
        return found
    beyond = sum(number >= PER_CLASS for number, _, _ in objects)
    if len(names) == 1 and beyond:
        text = f"{beyond} objects have numbers from {PER_CLASS} on, as with several classes: all are `{names[0]}` here"
        advice = f"where they are {PER_CLASS} · class + n, name the classes: dataset.names, or --names"
        found.faults.append(Diagnostic("D005", text, "warning", file=path, help=advice))
    shapes = []
    for number, polygons, _ in objects:
        class_id = number // PER_CLASS if len(names) > 1 else 0
        if class_id >= len(names):
            text = f"its class would be {class_id}, and the project's are numbered from 0 to {len(names) - 1}"
            found.note(
                Fault("D005", text, f"with several classes a number is {PER_CLASS} · class + n", f"object {number}")
            )
            continue
        shapes.append(Shape(names[class_id], polygons, None, is_box=False, is_crowd=False, at=f"object {number}"))
    gather(shapes, names, found)
    return found


def _alone(path: Path, names: Sequence[str], labels: ImageLabels) -> Shape:
    """The object of a file of its own."""
    try:
        values = read_png_file(path)
    except ValueError as error:
        raise Fault("D003", str(error)) from None
    size = values.shape[0], values.shape[1]
    if labels.size is None:
        labels.size = size
    if size != labels.size:
        before = f"{labels.size[0]} x {labels.size[1]}"
        raise Fault("D003", f"the mask is {size[0]} x {size[1]} pixels (height x width), those before {before}")
    if values.max() > 0xFFFF:  # a colour: as bright as its brightest channel
        values = np.maximum(np.maximum(values >> 16, values >> 8 & 255), values & 255)
    two_values = not ((values != 0) & (values != values.max())).any()
    pieces = outlines(values != 0 if two_values else values >= _LEVEL)
    if not pieces:
        raise Fault("D003", "the mask is empty", "take it out")
    name = _class_name(path, names)
    polygons = tuple(fractions(piece.astype(np.float64), size) for piece in pieces)
    return Shape(name, polygons, None, is_box=False, is_crowd=False, at=path.name)


def _class_name(path: Path, names: Sequence[str]) -> str:
    """The class that a file's name, or that of its folder, tells.

    Raises:
        Fault: D005 where it tells none, or two.
    """
    if len(names) == 1:
        return names[0]
    written = WRITTEN.fullmatch(path.stem)
    if written and written[1] in names:
        return written[1]
    stem = path.stem.casefold()
    fitting = [name for name in names if _begins_or_ends(path.stem, name)] or [
        name for name in names if _begins_or_ends(stem, name.casefold())
    ]
    if fitting:
        return _the_one(path, fitting)
    if path.parent.name in names:
        return path.parent.name
    raise Fault(
        "D005", f"no class of the project is in {shown(path.name)}", "call it person_1.png, for a class `person`"
    )


def _the_one(path: Path, fitting: Sequence[str]) -> str:
    """The longest of the classes that a file's name tells, where the others are parts of its name."""
    longest = max(fitting, key=len)
    whole = longest.casefold()
    for other in fitting:
        part = other.casefold()
        if other != longest and (part == whole or part not in whole):
            text = f"{shown(path.name)} tells two classes, `{longest}` and `{other}`"
            raise Fault("D005", text, "a number of four digits tells that the rest is the class: 0001_person.png")
    return longest


def _begins_or_ends(stem: str, name: str) -> bool:
    """Whether a name stands at an end of a stem, with no letter beside it, nor a digit beside one of its own."""
    before = r"[^a-zA-Z\d]" if name[:1].isdigit() else "[^a-zA-Z]"
    behind = r"[^a-zA-Z\d]" if name[-1:].isdigit() else "[^a-zA-Z]"
    pattern = rf"{re.escape(name)}({behind}.*)?|.*{before}{re.escape(name)}"
    return re.fullmatch(pattern, stem, re.DOTALL) is not None


def index_masks(values: NDArray[np.uint32]) -> Iterator[Numbered]:
    """The objects of a map [h, w] of numbers, by number; 0 is none.

    Raises:
        Fault: D003 where there are more than an image can have, as in a photograph that is no mask.
    """
    height, width = values.shape
    flat = values.ravel()
    places = np.flatnonzero(flat)
    order = places[np.argsort(flat[places], kind="stable")]
    numbers, starts = np.unique(flat[order], return_index=True)
    if len(numbers) > MOST_OBJECTS:
        raise Fault("D003", f"{len(numbers)} different values are no mask of objects")
    for number, pixels in zip(numbers.tolist(), np.split(order, starts[1:]), strict=len(numbers) > 0):
        rows, columns = np.divmod(pixels, width)
        top, left = int(rows.min()), int(columns.min())
        cut = np.zeros((int(rows.max()) - top + 1, int(columns.max()) - left + 1), np.bool_)
        cut[rows - top, columns - left] = True
        corner = np.array([left, top], np.float64)
        yield number, tuple(fractions(piece + corner, (height, width)) for piece in outlines(cut)), pixels

"""COCO instances JSON, read as it is: images, categories, and annotations with polygons, run-length codes or boxes.

Faults are named by their JSON pointers (RFC 6901), as ``/annotations/12/segmentation``.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.data.contours import mask_of, outlines, run_lengths
from segc.data.dataset import LabelFaultsError, Sample
from segc.data.labels import OVERSHOOT, Instance
from segc.diagnostics import Diagnostic, SegcError, fail

MOST_BYTES = 2**31
"""Largest annotation file that is read."""

MOST_PIXELS = 2**28
"""Most pixels of an image that annotations can be for: masks are decoded at its size."""


_FARTHEST = 1e300
"""No coordinate is as large; beyond are infinity and whole numbers that no float can hold."""


class _Fault(Exception):  # noqa: N818 - it never leaves this module
    """What is wrong with an entry: code, message, what to do, and the pointer from the entry on."""

    def __init__(self, code: str, message: str, advice: str | None = None, at: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.advice, self.at = code, message, advice, at


@dataclass
class _Faults:
    """Everything that is wrong with a file."""

    file: Path
    found: list[Diagnostic] = field(default_factory=list)

    @contextmanager
    def entry(self, pointer: str) -> Iterator[None]:
        """Note the fault of an entry, and go on after it."""
        try:
            yield
        except _Fault as fault:
            self.note(pointer, fault)

    def note(self, pointer: str, fault: _Fault) -> None:
        """Note what is wrong with an entry."""
        text = f"{pointer}{fault.at}: {fault.message}"
        self.found.append(Diagnostic(fault.code, text, file=self.file, help=fault.advice))

    def settle(self) -> None:
        """Raise all that was found."""
        if self.found:
            raise LabelFaultsError(self.found)


@dataclass
class _Image:
    """An image of the file."""

    path: Path
    height: int
    width: int
    instances: list[Instance] = field(default_factory=list)


def read_annotations(file: Path, folders: Sequence[Path], names: Sequence[str]) -> tuple[Sample, ...]:
    """All images that an annotation file lists, with their objects, sorted by path.

    A category belongs to the class of its name. Where no category has the name of a class and there are as many of
    one as of the other, they belong together in the order of the categories' ids. A category without a class may be
    there as long as no object is of it. An annotation without a segmentation stands for its box.

    Args:
        file: the JSON file.
        folders: where its images are; of several, the first that has one counts.
        names: the project's classes.

    Raises:
        SegcError: D001 where it lists no images, D003 for whatever is malformed, D004 for coordinates outside of the
            image, D005 for objects of no class, D006 where there are no annotations, D007 for images that are not
            there. All faults of images and categories are told at once, else all of annotations.
        OSError: where the file cannot be read.
    """
    document = _document(file)
    faults = _Faults(file)
    images = _images(document, folders, faults)
    classes = _classes(document, names, faults)
    faults.settle()  # annotations of what is not known would be faults as well
    annotations = _entries(document, "annotations", faults)
    seen: set[Any] = set()
    for place, entry in enumerate(annotations):
        with faults.entry(f"/annotations/{place}"):
            image, instance = _annotation(entry, images, classes, seen)
            image.instances.append(instance)
    faults.settle()
    if not annotations:
        raise fail("D006", "there are no annotations", file=file)
    samples = [Sample(one.path, file, tuple(one.instances), (one.height, one.width)) for one in images.values()]
    return tuple(sorted(samples, key=lambda sample: sample.image))


def annotated_images(file: Path, folders: Sequence[Path]) -> tuple[Path, ...]:
    """The images that an annotation file lists, sorted by path; see :func:`read_annotations`.

    Raises:
        SegcError: all that is wrong with its list of images.
        OSError: where the file cannot be read.
    """
    faults = _Faults(file)
    images = _images(_document(file), folders, faults)
    faults.settle()
    return tuple(sorted(one.path for one in images.values()))


def _document(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise fail("F001", f"no such annotation file: {file}", file=file, help="check dataset.annotations")
    if file.stat().st_size > MOST_BYTES:
        raise fail("D003", f"the annotation file is larger than {MOST_BYTES >> 30} GiB", file=file)
    try:
        document = json.loads(file.read_bytes(), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise SegcError(
            Diagnostic("D003", f"not JSON: {error.msg}", file=file, line=error.lineno, column=error.colno)
        ) from None
    except (ValueError, RecursionError) as error:
        raise fail("D003", f"not JSON that annotations can be read from: {error}", file=file) from None
    if not isinstance(document, dict):
        raise fail("D003", "not COCO annotations: the file holds no object with images and annotations", file=file)
    return document


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _entries(document: Mapping[str, Any], key: str, faults: _Faults) -> Sequence[Any]:
    value = document.get(key)
    if isinstance(value, list):
        return value
    faults.note(f"/{key}", _Fault("D003", "not a list" if key in document else "missing"))
    return ()


def _get(entry: Any, key: str, kind: type | tuple[type, ...], what: str) -> Any:
    """A value of an entry, which must have it in this type."""
    if not isinstance(entry, dict):
        raise _Fault("D003", f"{_shown(entry)} is no object")
    if key not in entry:
        raise _Fault("D003", f"`{key}` is missing")
    value = entry[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _Fault("D003", f"{_shown(value)} is not {what}", at=f"/{key}")
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"


_Id = (int, str)


def _images(document: Mapping[str, Any], folders: Sequence[Path], faults: _Faults) -> dict[Any, _Image]:
    images: dict[Any, _Image] = {}
    paths: set[Path] = set()
    entries = _entries(document, "images", faults)
    for place, entry in enumerate(entries):
        with faults.entry(f"/images/{place}"):
            number = _get(entry, "id", _Id, "an id")
            if number in images:
                raise _Fault("D003", f"image {_shown(number)} is there already", at="/id")
            height, width = (_get(entry, side, int, "a number of pixels") for side in ("height", "width"))
            if min(height, width) < 1 or height * width > MOST_PIXELS:
                raise _Fault("D003", f"an image of {height} x {width} pixels cannot be (height x width)")
            path = _path(_get(entry, "file_name", str, "a file name"), folders)
            if path in paths:
                raise _Fault("D003", f"{path} is there already", at="/file_name")
            paths.add(path)
            images[number] = _Image(path, height, width)
    if not entries and not faults.found:
        raise fail("D001", "the annotation file lists no images", file=faults.file)
    return images


def _path(name: str, folders: Sequence[Path]) -> Path:
    """The image of that name, which stays in its folder."""
    relative = PurePosixPath(name.replace("\\", "/"))
    leaves = relative.is_absolute() or PureWindowsPath(name).drive or ".." in relative.parts or "\0" in name
    if leaves or not relative.parts:
        raise _Fault("D003", f"{_shown(name)} is no file name inside the folder of the images", at="/file_name")
    path = next((folder / relative for folder in folders if (folder / relative).is_file()), None)
    if path is None:
        where = ", ".join(str(folder) for folder in folders)
        raise _Fault("D007", f"there is no image {_shown(name)} in {where}", at="/file_name")
    return path


def _classes(document: Mapping[str, Any], names: Sequence[str], faults: _Faults) -> dict[Any, int | str]:
    """Class numbers by category id; the category's name instead where it is of no class."""
    categories: dict[Any, str] = {}
    for place, entry in enumerate(_entries(document, "categories", faults)):
        with faults.entry(f"/categories/{place}"):
            number = _get(entry, "id", int, "a whole number")
            if number in categories:
                raise _Fault("D003", f"category {number} is there already", at="/id")
            categories[number] = _get(entry, "name", str, "a name")
    by_name = {name: index for index, name in enumerate(names)}
    if len(categories) == len(names) and not any(name in by_name for name in categories.values()):
        return {number: index for index, number in enumerate(sorted(categories))}
    return {number: by_name.get(name, name) for number, name in categories.items()}


def _annotation(
    entry: Any, images: Mapping[Any, _Image], classes: Mapping[Any, int | str], seen: set[Any]
) -> tuple[_Image, Instance]:
    """An annotation's image and what it says is on it."""
    number = _get(entry, "image_id", _Id, "an id")
    if number not in images:
        raise _Fault("D003", f"there is no image {_shown(number)}", at="/image_id")
    if "id" in entry:
        own = _get(entry, "id", _Id, "an id")
        if own in seen:
            raise _Fault("D003", f"annotation {_shown(own)} is there already", at="/id")
        seen.add(own)
    image = images[number]
    polygons, is_box = _shape(entry, image)
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise _Fault("D003", f"{_shown(crowd)} is neither 0 nor 1", at="/iscrowd")
    return image, Instance(_class(entry, classes), polygons, is_box, bool(crowd))


def _class(entry: Any, classes: Mapping[Any, int | str]) -> int:
    category = _get(entry, "category_id", int, "a whole number")
    found = classes.get(category)
    if isinstance(found, int):
        return found
    text = f"there is no category {category}" if found is None else f"category {found!r} is no class of the project"
    raise _Fault("D005", text, None if found is None else "add it to dataset.names", at="/category_id")


def _shape(entry: Any, image: _Image) -> tuple[tuple[NDArray[np.float32], ...], bool]:
    """The polygons of an annotation in 0..1 of its image, and whether they are only a box."""
    drawn = entry.get("segmentation")
    if isinstance(drawn, dict):
        return _decoded(drawn, image), False
    if drawn is not None and not isinstance(drawn, list):
        raise _Fault("D003", f"{_shown(drawn)} is neither polygons nor a run-length code", at="/segmentation")
    if drawn:
        parts = [_polygon(part, image, f"/segmentation/{place}") for place, part in enumerate(drawn)]
        return tuple(parts), False
    box = _numbers(_get(entry, "bbox", list, "a list"), "/bbox")
    if len(box) != 4 or box[2:].min() < 0:
        raise _Fault("D003", f"{_shown(entry['bbox'])} is no box [x, y, width, height]", at="/bbox")
    x, y, width, height = box.tolist()
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return (_fractions(np.array(corners).reshape(-1, 2), image, "/bbox"),), True


def _numbers(values: Sequence[Any], at: str) -> NDArray[np.float64]:
    """Coordinates, of which there are millions in a file: only where one is wrong they are looked at one by one."""
    if set(map(type, values)) <= {int, float}:
        try:
            numbers = np.array(values, np.float64)
        except OverflowError:
            numbers = np.array([np.inf])
        if np.isfinite(numbers).all():
            return numbers
    place = next(i for i, one in enumerate(values) if type(one) not in {int, float} or not abs(one) < _FARTHEST)
    raise _Fault("D003", f"{_shown(values[place])} is no coordinate", at=f"{at}/{place}")


def _polygon(part: Any, image: _Image, at: str) -> NDArray[np.float32]:
    if not isinstance(part, list):
        raise _Fault("D003", f"{_shown(part)} is no list of coordinates", at=at)
    if len(part) < 6 or len(part) % 2:
        advice = "a polygon has 2 numbers a point and at least 3 points"
        raise _Fault("D003", f"{len(part)} numbers are no polygon", advice, at)
    return _fractions(_numbers(part, at).reshape(-1, 2), image, at)


def _fractions(points: NDArray[np.float64], image: _Image, at: str) -> NDArray[np.float32]:
    """Points in pixels as fractions of the image. Those a little outside are rounding and are clipped."""
    size = np.array([image.width, image.height], np.float64)
    room = 1 + OVERSHOOT * size
    if (points < -room).any() or (points > size + room).any():
        (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
        text = (
            f"x from {x0:g} to {x1:g}, y from {y0:g} to {y1:g} leave the image of {image.width} x {image.height} pixels"
        )
        raise _Fault("D004", text, at=at)
    return np.clip(points / size, 0, 1).astype(np.float32)


def _decoded(code: Mapping[str, Any], image: _Image) -> tuple[NDArray[np.float32], ...]:
    """The outlines of a run-length code."""
    if code.get("size") != [image.height, image.width]:
        text = f"{_shown(code.get('size'))} is not [height, width] of the image, [{image.height}, {image.width}]"
        raise _Fault("D003", text, at="/segmentation/size")
    counts = code.get("counts")
    try:
        if isinstance(counts, str):
            runs = run_lengths(counts)
        elif isinstance(counts, list) and all(type(count) is int for count in counts):
            runs = np.array(counts, np.int64)
        else:
            raise _Fault("D003", f"{_shown(counts)} is neither text nor whole numbers", at="/segmentation/counts")
        pieces = outlines(mask_of(runs, image.height, image.width))
    except (ValueError, OverflowError) as error:
        raise _Fault("D003", str(error), at="/segmentation/counts") from None
    if not pieces:
        raise _Fault("D003", "the mask is empty", "take the annotation out", at="/segmentation")
    size = np.array([image.width, image.height], np.float32)
    return tuple(piece / size for piece in pieces)

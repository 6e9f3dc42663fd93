"""COCO instances JSON, read as it is: images, categories, and annotations with polygons, run-length codes or boxes.

A file is gone through twice, an entry at a time: first for its images and categories, which may stand behind the
annotations, then for the annotations. What is kept of it are the objects, so it may be of any size.

Faults are named by their JSON pointers (RFC 6901), as ``/annotations/12/segmentation``.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segc.data.contours import mask_of, outlines, run_lengths
from segc.data.formats.paths import as_written
from segc.data.labels import OVERSHOOT, Instance, identity_of, oddity
from segc.data.samples import MOST_BYTES as LARGEST_IMAGE
from segc.data.samples import LabelFaultsError, Sample, left_out
from segc.diagnostics import Diagnostic, Findings, SegcError, fail
from segc.files import is_file
from segc.json_stream import Elements, JsonError, NoObjectError, members
from segc.spec.categories import CategoriesError, read_categories
from segc.spec.paths import missing_path_help

MOST_PIXELS = 2**28
"""Most pixels of an image that annotations can be for: masks are decoded at its size."""

MOST_BELIEVED = 2**22
"""Most pixels of an image whose size is believed before a mask is decoded at it; of larger ones the file is asked."""


_FARTHEST = 1e300
"""No coordinate is as large; beyond are infinity and whole numbers that no float can hold."""


class EntryError(Exception):
    """What is wrong with an entry: code, message, what to do, and the pointer from the entry on."""

    def __init__(self, code: str, message: str, advice: str | None = None, at: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.advice, self.at = code, message, advice, at


@dataclass
class _Faults:
    """What is wrong with a file: its faults, and what is said of entries that are left out.

    Attributes:
        file: the file.
        noted: takes in warnings.
        skip: leave out entries that are wrong.
        found: faults.
    """

    file: Path
    noted: Findings
    skip: bool
    found: Findings = field(default_factory=Findings)

    @contextmanager
    def entry(self, pointer: str, *, needed: bool = False) -> Iterator[None]:
        """Note the fault of an entry, and go on after it; one that is needed cannot be left out."""
        try:
            yield
        except EntryError as fault:
            self.note(pointer, fault, skip=self.skip and not needed)

    def note(self, pointer: str, fault: EntryError, *, skip: bool = False) -> None:
        """Note what is wrong with an entry."""
        text = f"{pointer}{fault.at}: {fault.message}"
        diagnostic = Diagnostic(fault.code, text, file=self.file, help=fault.advice)
        if skip:
            self.noted.add(left_out(diagnostic))
        else:
            self.found.add(diagnostic)

    def odd(self, code: str, pointer: str, message: str, count: int = 1) -> None:
        """Note what is odd about an entry."""
        text = f"{pointer}: {message}" if pointer else message
        self.noted.add(Diagnostic(code, text, "warning", file=self.file, count=count))

    def settle(self) -> None:
        """Raise all that was found."""
        if self.found:
            raise LabelFaultsError(self.found)


@dataclass(slots=True)
class _Image:
    """An image of the file.

    Attributes:
        path: its file.
        height: its height in pixels.
        width: its width in pixels.
        faulty: an annotation of it was wrong.
        instances: its objects so far.
        seen: places of annotations by 64-bit hashes of what they say, which take a fraction of the memory.
    """

    path: Path
    height: int
    width: int
    believed: bool = False
    faulty: bool = False
    instances: list[Instance] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)


def read_annotations(
    file: Path, folders: Sequence[Path], names: Sequence[str], found: Findings | None = None, *, skip: bool = False
) -> tuple[Sample, ...]:
    """All images that an annotation file lists, with their objects, sorted by path.

    A category belongs to the class of its name; letter case and blanks do not matter. Objects of categories that are
    no class are left out. An annotation without a segmentation stands for its box. Numbers that are whole are whole
    numbers, be they written as 128.0 or an id as text.

    Args:
        file: the JSON file.
        folders: where its images are; of several, the first that has one counts.
        names: the project's classes.
        found: takes in, as warnings, what is left out or odd.
        skip: leave out images and annotations that are wrong.

    Raises:
        SegcError: D001 where it lists no images, D003 for whatever is malformed, D004 for coordinates outside of the
            image, D005 for objects of no category, D006 where there are no annotations, D007 for images that are not
            there, D023 where categories contradict the classes. All faults of images and categories are told at
            once, else all of annotations.
        OSError: where the file cannot be read.
    """
    faults = _Faults(file, Findings() if found is None else found, skip)
    images, categories, used = _Images(folders, faults), [], _Used()
    for key, place, entry in _entries(file, _LISTS, faults):
        if key == "images":
            images.add(place, entry)
        elif key == "categories":
            categories.append(entry)
        else:
            used.add(entry)
    images.settle()
    classes = _classes(categories, names, used, faults)
    faults.settle()  # annotations of what is not known would be faults as well
    others: Counter[str] = Counter()
    for _, place, entry in _entries(file, ("annotations",), faults):
        image, sound = None, False
        with faults.entry(f"/annotations/{place}"):
            image = images.of(entry_id(entry, "image_id"))
            if image is not None:
                target = _class(entry, classes)
                if isinstance(target, str):
                    others[target] += 1
                else:
                    _take(image, _instance(entry, image, target), place, faults)
            sound = True
        if image is not None and not sound:
            image.faulty = True
    faults.settle()
    if not used.annotations:
        raise fail("D006", "there are no annotations", file=file)
    if others:
        shown = ", ".join(f"{count} x {name}" for name, count in others.most_common(_MOST_NAMES))
        more = ", …" if len(others) > _MOST_NAMES else ""
        text = f"objects of categories that are no class are left out: {shown}{more}"
        faults.odd("D021", "", text, sum(others.values()))
    samples = [
        Sample(one.path, file, tuple(one.instances), (one.height, one.width), faulty=one.faulty)
        for one in images.known()
    ]
    return tuple(sorted(samples, key=lambda sample: sample.image))


def annotated_images(
    file: Path, folders: Sequence[Path], found: Findings | None = None, *, skip: bool = False
) -> tuple[Path, ...]:
    """The images that an annotation file lists, sorted by path; see :func:`read_annotations`.

    Raises:
        SegcError: all that is wrong with its list of images.
        OSError: where the file cannot be read.
    """
    faults = _Faults(file, Findings() if found is None else found, skip)
    images = _Images(folders, faults)
    for _, place, entry in _entries(file, ("images",), faults):
        images.add(place, entry)
    images.settle()
    faults.settle()
    return tuple(sorted(one.path for one in images.known()))


def categories_of(file: Path) -> tuple[str, ...]:
    """The names of a file's categories, in the order of their ids.

    Raises:
        SegcError: D003 where it is no annotation file, X205 where its categories tell no names.
        OSError: where the file cannot be read.
    """
    try:
        return tuple(read_categories(file).values())
    except CategoriesError as error:
        faults = _Faults(file, Findings(), skip=False)
        for _ in _entries(file, ("images",), faults):
            break  # what else it may be is told here
        faults.settle()
        way_out = "a COCO file lists categories, each with its id and name; --names gives names in their place"
        raise fail("X205", f"it does not tell the names of its classes: {error}", file=file, help=way_out) from None


_MOST_NAMES = 12
"""Names of categories or classes that a message lists."""


_LISTS = ("images", "annotations", "categories")


def _entries(file: Path, wanted: Sequence[str], faults: _Faults) -> Iterator[tuple[str, int, Any]]:
    """The entries of the lists that are wanted, as they stand in the file: the list's key, the place in it, the entry.

    Lists that are not there are noted.

    Raises:
        SegcError: F001 where there is no such file, D003 where it is no JSON with such lists.
    """
    if not file.is_file():
        raise fail("F001", f"no such annotation file: {file}", file=file, help=missing_path_help(file))
    there: set[str] = set()
    with _located(file):
        for key, value in members(file):
            if key in wanted and key in there:
                raise fail("D003", f"`{key}` stands in the file twice", file=file, help="make one list of them")
            there.add(key)
            if key in wanted and isinstance(value, Elements):
                yield from ((key, place, entry) for place, entry in enumerate(value))
            elif key in wanted:
                faults.note(f"/{key}", EntryError("D003", "not a list"))
    if "shapes" in there and "images" not in there:
        text = "not COCO annotations: this is a LabelMe file, of one image"
        raise fail("D003", text, file=file, help="take the folder in place of the file, with `format: labelme`")
    for key in wanted:
        if key not in there:
            faults.note(f"/{key}", EntryError("D003", "missing"))


@contextmanager
def _located(file: Path) -> Iterator[None]:
    """Say of a file that is no JSON, or no object, where and what it is."""
    try:
        # NaN and Infinity are no JSON, but Python writes them: where they matter they are found with their place.
        yield
    except NoObjectError as error:
        text = "holds a list" if error.is_list else "holds no object with images and annotations"
        advice = "results of a model are no annotations: the file has to list `images` and `categories`, too"
        help_text = advice if error.is_list else None
        raise fail("D003", f"not COCO annotations: the file {text}", file=file, help=help_text) from None
    except JsonError as error:
        fault = Diagnostic("D003", f"not JSON: {error}", file=file, line=error.line, column=error.column)
        raise SegcError(fault) from None


@dataclass
class _Used:
    """What is to be known of annotations before they are read.

    Attributes:
        annotations: their number.
        categories: ids of the categories that they name.
    """

    annotations: int = 0
    categories: set[Any] = field(default_factory=set)

    def add(self, entry: Any) -> None:
        """Take in an annotation, of any form."""
        self.annotations += 1
        with suppress(EntryError):
            self.categories.add(entry_id(entry, "category_id"))


def _get(entry: Any, key: str, kind: type | tuple[type, ...], what: str) -> Any:
    """A value of an entry, which must have it in this type."""
    if not isinstance(entry, dict):
        raise EntryError("D003", f"{_shown(entry)} is no object")
    if key not in entry:
        raise EntryError("D003", f"`{key}` is missing")
    value = entry[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise EntryError("D003", f"{_shown(value)} is not {what}", at=f"/{key}")
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _whole(entry: Any, key: str, what: str) -> int:
    """A whole number of an entry, which may be written as 128.0."""
    value = _get(entry, key, (int, float), what)
    if isinstance(value, float):
        if not value.is_integer():
            raise EntryError("D003", f"{_shown(value)} is not {what}", at=f"/{key}")
        return int(value)
    return int(value)


def entry_id(entry: Any, key: str) -> int | str:
    """An id: 7, "7" and 7.0 are the same one.

    Raises:
        EntryError: D003 where it is none.
    """
    value = _get(entry, key, (int, str, float), "an id")
    if isinstance(value, str):
        return int(value) if re.fullmatch("0|-?[1-9][0-9]{0,17}", value) else value
    return _whole(entry, key, "an id")


class _Images:
    """The images of the file, by id.

    Args:
        folders: where they are.
        faults: takes in what is wrong with them.
    """

    def __init__(self, folders: Sequence[Path], faults: _Faults) -> None:
        self._folders, self._faults = folders, faults
        self._images: dict[Any, _Image | None] = {}
        self._paths: set[Path] = set()
        self._number = 0

    def add(self, place: int, entry: Any) -> None:
        """Take in an entry of the list of images; one that is wrong is noted, and left out."""
        self._number += 1
        with self._faults.entry(f"/images/{place}"):
            number = entry_id(entry, "id")
            if number in self._images:
                raise EntryError("D003", f"image {_shown(number)} is there already", at="/id")
            self._images[number] = None
            height, width = (_whole(entry, side, "a number of pixels") for side in ("height", "width"))
            if min(height, width) < 1 or height * width > MOST_PIXELS:
                raise EntryError("D003", f"an image of {height} x {width} pixels cannot be (height x width)")
            path, note = image_place(_get(entry, "file_name", str, "a file name"), self._folders)
            if note:
                self._faults.odd("X222", f"/images/{place}/file_name", note)
            if path in self._paths:
                raise EntryError("D003", f"{path} is there already", at="/file_name")
            self._paths.add(path)
            self._images[number] = _Image(path, height, width)

    def settle(self) -> None:
        """Refuse a file without an image.

        Raises:
            SegcError: D001.
        """
        faults = self._faults
        if not self._number and not faults.found:
            raise fail("D001", "the annotation file lists no images", file=faults.file)
        if self._number and not self._paths and not faults.found:
            raise SegcError(
                (Diagnostic("D001", "not one of the listed images can be used", file=faults.file), *faults.noted)
            )

    def known(self) -> Iterator[_Image]:
        """Those that were not left out."""
        return (image for image in self._images.values() if image is not None)

    def of(self, number: int | str) -> _Image | None:
        """The image of an id; None where it was left out."""
        if number not in self._images:
            raise EntryError("D003", f"there is no image {_shown(number)}", at="/image_id")
        return self._images[number]


def image_place(name: str, folders: Sequence[Path]) -> tuple[Path, str | None]:
    """The image of that name, which stays in its folder, and how the name was read where not as it is written.

    Raises:
        EntryError: D003 where it leaves the folder, D007 where it is in none.
    """
    if written := as_written(name, folders):
        return written, None
    relative = PurePosixPath(name.replace("\\", "/"))
    if relative.is_absolute():
        inside = (relative.relative_to(one.as_posix()) for one in folders if relative.is_relative_to(one.as_posix()))
        relative = next(inside, relative)
    leaves = relative.is_absolute() or PureWindowsPath(name).drive or ".." in relative.parts or "\0" in name
    if leaves or not relative.parts:
        raise EntryError("D003", f"{_shown(name)} is no file name inside the folder of the images", at="/file_name")
    for start in range(len(relative.parts)):
        rest = PurePosixPath(*relative.parts[start:])
        path = next((folder / rest for folder in folders if is_file(folder / rest)), None)
        if path is not None:
            return path, f"{_shown(name)} is read as {_shown(str(rest))}, which is there" if start else None
    where = ", ".join(str(folder) for folder in folders)
    raise EntryError("D007", f"there is no image {_shown(name)} in {where}", at="/file_name")


def _classes(entries: Sequence[Any], names: Sequence[str], used: _Used, faults: _Faults) -> dict[Any, int | str]:
    """Class numbers by category id; the category's name instead where it is of no class."""
    categories: dict[Any, str] = {}
    first: dict[str, Any] = {}
    before = len(faults.found.counts)
    for place, entry in enumerate(entries):
        # Without a category its objects would go without a word.
        with faults.entry(f"/categories/{place}", needed=True):
            number, name = entry_id(entry, "id"), _get(entry, "name", str, "a name").strip()
            if number in categories:
                raise EntryError("D003", f"category {_shown(number)} is there already", at="/id")
            if name in first:
                text = f"categories {_shown(first[name])} and {_shown(number)} have one name, `{name}`"
                raise EntryError("D023", text, "merge them, or rename one", at="/name")
            categories[number] = name
            first[name] = number
    found = match_names(categories, names)
    if len(faults.found.counts) == before:
        _refuse_contradiction(found, names, used, faults)
    return found


def match_names(categories: Mapping[Any, str], names: Sequence[str]) -> dict[Any, int | str]:
    """The number of the class of that name for each category, else its name.

    The very name comes first; then letter case, blanks and how words are joined do not matter.
    """
    exact = {name.strip(): index for index, name in enumerate(names)}
    loose: dict[str, int] = {}
    for index, name in enumerate(names):
        loose.setdefault(_loosely(name), index)
    return {number: exact.get(name.strip(), loose.get(_loosely(name), name)) for number, name in categories.items()}


def _loosely(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip()).casefold()


def _refuse_contradiction(found: Mapping[Any, int | str], names: Sequence[str], used: _Used, faults: _Faults) -> None:
    """Note where classes have no category while objects are of categories that have no class: one may be the other."""
    taken = [target for target in found.values() if isinstance(target, int)]
    twice = [names[target] for target, count in Counter(taken).items() if count > 1]
    if twice:
        text = f"several categories have the name of class `{twice[0]}`"
        faults.note("/categories", EntryError("D023", text, "write the names in dataset.names as the file has them"))
        return
    lacking = [name for index, name in enumerate(names) if index not in taken]
    nameless = {number: name for number, name in found.items() if isinstance(name, str)}
    if lacking and any(number in used.categories for number in nameless):
        text = f"no category is called {_listed(lacking)}; categories without a class are {_listed(nameless.values())}"
        advice = "write dataset.names as the file has them; names that are left out leave out their objects"
        faults.note("/categories", EntryError("D023", text, advice))


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(f"`{name}`" for name in shown[:_MOST_NAMES]) + (", …" if len(shown) > _MOST_NAMES else "")


def _take(image: _Image, instance: Instance, place: int, faults: _Faults) -> None:
    """Add an object to its image, unless it is there already or has no area."""
    before = image.seen.setdefault(hash(identity_of(instance)), place)
    if odd := oddity(instance, None if before == place else f"/annotations/{before}"):
        faults.odd(odd[0], f"/annotations/{place}", odd[1])
    else:
        image.instances.append(instance)


def _instance(entry: Any, image: _Image, class_id: int) -> Instance:
    """What an annotation says is on its image."""
    polygons, is_box = _shape(entry, image)
    crowd = entry.get("iscrowd") or 0
    if crowd not in (0, 1):
        raise EntryError("D003", f"{_shown(crowd)} is neither 0 nor 1", at="/iscrowd")
    return Instance(class_id, polygons, is_box, bool(crowd), entry.get("id"))


def _class(entry: Any, classes: Mapping[Any, int | str]) -> int | str:
    """The class of an annotation; the name of its category where that is none."""
    category = entry_id(entry, "category_id")
    if category not in classes:
        raise EntryError("D005", f"there is no category {_shown(category)}", at="/category_id")
    return classes[category]


def _shape(entry: Any, image: _Image) -> tuple[tuple[NDArray[np.float32], ...], bool]:
    """The polygons of an annotation in 0..1 of its image, and whether they are only a box."""
    drawn = entry.get("segmentation")
    if isinstance(drawn, dict):
        return _decoded(drawn, image), False
    if drawn is not None and not isinstance(drawn, list):
        raise EntryError("D003", f"{_shown(drawn)} is neither polygons nor a run-length code", at="/segmentation")
    if drawn:
        if all(type(one) in {int, float} for one in drawn):
            text = "the polygons of an object are a list of lists, these are bare numbers"
            raise EntryError("D003", text, "put another pair of brackets round them", "/segmentation")
        parts = [_polygon(part, image, f"/segmentation/{place}") for place, part in enumerate(drawn)]
        return tuple(parts), False
    if "bbox" not in entry:
        raise EntryError("D003", "there is neither a `segmentation` nor a `bbox`")
    box = _numbers(_get(entry, "bbox", list, "a list"), "/bbox")
    if len(box) != 4 or box[2:].min() < 0:
        raise EntryError("D003", f"{_shown(entry['bbox'])} is no box [x, y, width, height]", at="/bbox")
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
    raise EntryError("D003", f"{_shown(values[place])} is no coordinate", at=f"{at}/{place}")


def _polygon(part: Any, image: _Image, at: str) -> NDArray[np.float32]:
    if not isinstance(part, list):
        raise EntryError("D003", f"{_shown(part)} is no list of coordinates", at=at)
    if any(isinstance(one, list | dict) for one in part):
        advice = "write the coordinates in turn: [x, y, x, y, …]"
        raise EntryError("D003", f"{_shown(part[0])} is a point of its own", advice, at)
    if len(part) < 6 or len(part) % 2:
        advice = "a polygon has 2 numbers a point and at least 3 points"
        raise EntryError("D003", f"{len(part)} numbers are no polygon", advice, at)
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
        raise EntryError("D004", text, at=at)
    return np.clip(points / size, 0, 1).astype(np.float32)


def _see_size(image: _Image) -> None:
    """See that a picture is as large as its masks: a kilobyte of runs can claim gigabytes of pixels."""
    from segc.inference.image_headers import image_header_size

    try:
        size = image_header_size(image.path.read_bytes()) if image.path.stat().st_size <= LARGEST_IMAGE else None
    except OSError:
        size = None  # told when it is read
    if size is not None and size[0] * size[1] < image.height * image.width:
        text = f"{image.path.name} is {size[0]} x {size[1]} pixels (height x width), its labels are for "
        raise EntryError("D008", f"{text}{image.height} x {image.width}", at="/segmentation/size")
    image.believed = True


def _decoded(code: Mapping[str, Any], image: _Image) -> tuple[NDArray[np.float32], ...]:
    """The outlines of a run-length code."""
    if code.get("size") != [image.height, image.width]:
        text = f"{_shown(code.get('size'))} is not [height, width] of the image, [{image.height}, {image.width}]"
        raise EntryError("D003", text, at="/segmentation/size")
    if not image.believed and image.height * image.width > MOST_BELIEVED:
        _see_size(image)
    counts = code.get("counts")
    try:
        if isinstance(counts, str):
            runs = run_lengths(counts)
        elif isinstance(counts, list) and all(type(count) is int for count in counts):
            runs = np.array(counts, np.int64)
        else:
            raise EntryError("D003", f"{_shown(counts)} is neither text nor whole numbers", at="/segmentation/counts")
        pieces = outlines(mask_of(runs, image.height, image.width))
    except (ValueError, OverflowError) as error:
        raise EntryError("D003", str(error), at="/segmentation/counts") from None
    if not pieces:
        raise EntryError("D003", "the mask is empty", "take the annotation out", at="/segmentation")
    size = np.array([image.width, image.height], np.float32)
    return tuple(piece / size for piece in pieces)

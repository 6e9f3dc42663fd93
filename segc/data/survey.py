"""A dataset gone through once, every image and every outline: what it holds, what is wrong, and what is there twice.

Images are read by several threads, some hundred at a time; what is kept of each is some hundred bytes, so the memory
does not grow with what the images and labels hold.
"""

import hashlib
import heapq
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segc.compute import processors
from segc.data.formats.splits import IMAGE_BY_IMAGE, labels_of
from segc.data.likeness import near_twins
from segc.data.looks import Key, Look, LookCache, digest_of, file_key, look_at
from segc.data.polygons import extents
from segc.data.samples import Sample, Split, is_taken_as_stored
from segc.diagnostics import Diagnostic, Findings, SegcError, Severity

if TYPE_CHECKING:
    from segc.spec.load import LoadedProject

_AT_ONCE = 256
"""Images that are read before the facts about them are put together."""

SMALL, MEDIUM = 32**2, 96**2
"""Areas in pixels up to which COCO calls an object small, and medium."""

GRID = 32
"""Cells along each side of the pictures of where objects are and how large."""

KEPT_A_CLASS = 2
"""Images of every class that are kept for being looked at."""

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Contents:
    """What one split holds.

    Attributes:
        images: number of images.
        unlabelled: number of them without labels of any kind, of background.
        empty: number of them without objects, unlabelled ones among them, those with faulty labels not.
        objects: number of objects, without crowd regions.
        crowds: number of crowd regions.
        boxes: number of objects that are only boxes.
        in_parts: number of objects of several parts.
        class_objects: [nc], objects of every class.
        class_images: [nc], images with objects of every class.
        an_image: number of images by their number of objects.
        sizes: number of images by (height, width).
        areas: number of objects that are small, medium and large, as COCO calls them.
        centres: [GRID, GRID], how many boxes have their centre there, in shares of the image, first row at the top.
        sides: [GRID, GRID], how many boxes have that height (row) and width.
    """

    images: int
    unlabelled: int
    empty: int
    objects: int
    crowds: int
    boxes: int
    in_parts: int
    class_objects: NDArray[np.int64]
    class_images: NDArray[np.int64]
    an_image: Counter[int]
    sizes: Counter[tuple[int, int]]
    areas: Counter[str]
    centres: NDArray[np.int64]
    sides: NDArray[np.int64]

    @classmethod
    def none(cls, nc: int) -> "Contents":
        """Of no image, with ``nc`` classes."""
        objects, images = np.zeros((2, nc), np.int64)
        centres, sides = np.zeros((2, GRID, GRID), np.int64)
        return cls(0, 0, 0, 0, 0, 0, 0, objects, images, Counter(), Counter(), Counter(), centres, sides)

    def add(self, sample: Sample, shape: tuple[int, int] | None) -> None:
        """Count an image of (height, width); None where it could not be decoded."""
        learned = [one for one in sample.instances if not one.is_crowd]
        self.images += 1
        self.unlabelled += sample.label is None
        self.empty += not sample.instances and not sample.faulty
        self.objects += len(learned)
        self.crowds += len(sample.instances) - len(learned)
        self.boxes += sum(one.is_box for one in learned)
        self.in_parts += sum(len(one.polygons) > 1 for one in learned)
        self.an_image[len(learned)] += 1
        if shape:
            self.sizes[shape] += 1
        for class_id in {one.class_id for one in learned}:
            self.class_images[class_id] += 1
        for one in learned:
            self.class_objects[one.class_id] += 1

    def measure(self, images: Sequence[tuple[Sample, tuple[int, int] | None]]) -> None:
        """Count where the objects of images are and how large, many at a time, which costs a fraction."""
        learned = [(one.polygons, shape) for sample, shape in images for one in sample.instances if not one.is_crowd]
        boxes, areas = extents([polygons for polygons, _ in learned])
        low, high = boxes[:, :2], boxes[:, 2:]
        for counts, shares in ((self.centres, (low + high) / 2), (self.sides, high - low)):
            column, row = np.clip(shares * GRID, 0, GRID - 1).astype(np.int64).T
            np.add.at(counts, (row, column), 1)
        pixels = areas * [shape[0] * shape[1] if shape else np.nan for _, shape in learned]
        kinds = np.searchsorted((SMALL, MEDIUM), pixels[np.isfinite(pixels)], side="right")
        self.areas.update(("small", "medium", "large")[kind] for kind in kinds.tolist())

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Values for JSON."""
        counts = ("images", "unlabelled", "empty", "objects", "crowds", "boxes", "in_parts")
        return {
            **{name: int(getattr(self, name)) for name in counts},
            "classes": {
                name: {"objects": int(self.class_objects[i]), "images": int(self.class_images[i])}
                for i, name in enumerate(names)
            },
            "objects_an_image": {str(number): count for number, count in sorted(self.an_image.items())},
            "sizes": [[*size, count] for size, count in self.sizes.most_common()],
            "areas": {name: self.areas[name] for name in ("small", "medium", "large")},
        }


@dataclass(slots=True)
class Survey:
    """What a dataset holds.

    Attributes:
        names: the names of the classes.
        contents: by split.
        faults: what stops a training.
        remarks: what is odd.
        kept: some images of every class, by split, to be looked at.
        paths: all images, in the order they were gone through.
        twins: places of images that are the same as an earlier one, or nearly so, with the place of that one.
        cached: images that had been looked at before.
    """

    names: tuple[str, ...]
    contents: dict[Split, Contents] = field(default_factory=dict)
    faults: Findings = field(default_factory=Findings)
    remarks: Findings = field(default_factory=Findings)
    kept: dict[Split, list[Sample]] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    twins: dict[int, int] = field(default_factory=dict)
    cached: int = 0

    def to_json(self) -> dict[str, Any]:
        """Values for JSON."""
        from segc.diagnostics import to_dict

        return {
            "version": 1,
            "splits": {split: contents.to_json(self.names) for split, contents in self.contents.items()},
            "faults": dict(sorted(self.faults.counts.items())),
            "remarks": dict(sorted(self.remarks.counts.items())),
            "diagnostics": [to_dict(one) for one in (*self.faults, *self.remarks)],
        }


class Draw:
    """Some images, drawn by lot while a dataset is gone through: the same ones every time.

    Args:
        count: how many.
        seed: another one draws other images.
        class_id: only images with an object of this class.
    """

    def __init__(self, count: int, seed: int, class_id: int | None = None) -> None:
        self.count, self.seed, self.class_id = count, seed, class_id
        self._place = 0
        self._lots: list[tuple[int, int, Sample]] = []

    def visit(self, sample: Sample) -> None:
        """Draw a lot for an image, and keep it where that is among the best."""
        place, self._place = self._place, self._place + 1
        if self.class_id is None or any(one.class_id == self.class_id for one in sample.instances):
            name = f"{self.seed}:{sample.image}".encode("utf-8", "surrogateescape")
            lot = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest())
            add = heapq.heappush if len(self._lots) < self.count else heapq.heappushpop
            add(self._lots, (-lot, place, sample))

    def drawn(self, done: Survey) -> list[tuple[Split, Sample]]:
        """The images with their splits, in their order."""
        ends = np.cumsum([one.images for one in done.contents.values()])
        splits = list(done.contents)
        chosen = sorted(self._lots, key=lambda one: one[1])
        return [(splits[int(np.searchsorted(ends, place, side="right"))], sample) for _, place, sample in chosen]


class _Seen:
    """Images as far as they are needed to find those that are there twice: some hundred bytes each."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.splits = array("B")
        self.digests: list[bytes] = []
        self.marks: list[bytes] = []

    def add(self, path: Path, split: int, look: Look) -> None:
        """Take in an image."""
        self.paths.append(os.fspath(path))
        self.splits.append(split)
        self.digests.append(look.digest)
        self.marks.append(look.mark)


def survey(
    loaded: "LoadedProject",
    splits: Sequence[Split],
    *,
    progress: Progress = lambda *_: None,
    visit: Callable[[Sample], None] = lambda _: None,
    cache: LookCache | None = None,
) -> Survey:
    """Go through every image and every label of some splits; faults are gathered, not raised.

    All classes are counted, also those that ``dataset.classes`` leaves out of training.

    Args:
        loaded: the dataset.
        splits: which of its splits.
        progress: called with the images done and the number of all in the split.
        visit: called with every image, in the order of ``paths``.
        cache: facts about images; the user's where not given.

    Raises:
        OSError: where a folder cannot be read.
    """
    dataset = loaded.project.dataset
    done = Survey(dataset.names)
    seen = _Seen(done.paths)
    looks = cache or LookCache()
    try:
        with ThreadPoolExecutor(processors()) as pool:
            for number, split in enumerate(splits):
                contents = done.contents[split] = Contents.none(len(dataset.names))
                kept = done.kept[split] = []
                total, samples = _samples(loaded, split, done)
                while part := list(islice(samples, _AT_ONCE)):
                    fitted = []
                    for sample, look in zip(part, _looks([one.image for one in part], looks, pool, done), strict=True):
                        shape = _fit(sample, look, done)
                        _check_outlines(sample, looks, done)
                        if shape and _shows_more(sample, contents):
                            kept.append(sample)
                        contents.add(sample, shape)
                        fitted.append((sample, shape))
                        visit(sample)
                        seen.add(sample.image, number, look)
                    contents.measure(fitted)
                    progress(contents.images, total)
    finally:
        looks.close()
    place = loaded.path if loaded.path.is_file() else loaded.dataset_root  # a dataset may have no project
    for split, contents in done.contents.items():
        _note_lacking(split, contents, place, done)
    _note_twins(seen, splits, done)
    return done


def _shows_more(sample: Sample, contents: Contents) -> bool:
    """Whether an image has a class of which few images are kept."""
    return any(contents.class_images[one.class_id] < KEPT_A_CLASS for one in sample.instances if not one.is_crowd)


def _samples(loaded: "LoadedProject", split: Split, done: Survey) -> tuple[int, Iterator[Sample]]:
    """Number of images of a split, and these with their labels, read as they are asked for where the format allows."""
    from segc.data.check import listed_part, sound_part

    dataset = loaded.project.dataset
    if dataset.format not in IMAGE_BY_IMAGE:
        whole = sound_part(loaded, split, done.faults, done.remarks)
        return len(whole), iter(whole)
    images = listed_part(loaded, split, done.faults, done.remarks)
    return len(images), _read(images, dataset.format, dataset.names, done)


def _read(images: Sequence[Path], form: str, names: Sequence[str], done: Survey) -> Iterator[Sample]:
    bare = 0
    for image, labels in labels_of(images, form, names):
        for one in labels.faults:
            (done.faults if one.severity == "error" else done.remarks).add(one)
        bare += labels.label is None
        faulty = any(one.severity == "error" for one in labels.faults)
        yield Sample(image, labels.label, tuple(labels.instances), labels.size, faulty=faulty)
    if images and bare == len(images):
        text = f"none of the {len(images)} images has labels in the format {form}"
        done.faults.add(Diagnostic("D006", text, file=images[0]))


def _looks(images: Sequence[Path], cache: LookCache, pool: ThreadPoolExecutor, done: Survey) -> list[Look]:
    """Facts of images, from the cache where they are there."""
    keys = [file_key(image) for image in images]
    known = cache.known([key for key in keys if key is not None])
    fresh = [(image, key) for image, key in zip(images, keys, strict=True) if key is None or key not in known]
    done.cached += len(images) - len(fresh)
    found = dict(zip((image for image, _ in fresh), _look_closer(fresh, cache, pool, done), strict=True))
    cache.keep((key, found[image]) for image, key in fresh if key is not None)
    return [found.get(image) or known[key] for image, key in zip(images, keys, strict=True)]  # type: ignore[index]


def _look_closer(
    fresh: Sequence[tuple[Path, Key | None]], cache: LookCache, pool: ThreadPoolExecutor, done: Survey
) -> list[Look]:
    """Facts of files that the cache does not know by their names: it may know their content."""
    known = [cache.of_content(digest) if digest else None for digest in pool.map(_digest, (path for path, _ in fresh))]
    done.cached += sum(look is not None for look in known)
    decoded = pool.map(look_at, (path for (path, _), look in zip(fresh, known, strict=True) if look is None))
    return [look or next(decoded) for look in known]


def _digest(path: Path) -> bytes:
    try:
        return digest_of(path)
    except OSError:
        return b""  # looking closer says why


def _fit(sample: Sample, look: Look, done: Survey) -> tuple[int, int] | None:
    """Size of an image as its labels take it; None where it has faults, which are noted."""
    if look.fault:
        done.faults.add(Diagnostic("D002", look.fault, file=sample.image))
        return None
    shape = look.height, look.width
    try:
        stored = is_taken_as_stored(sample, shape, look.orientation, done.remarks)
    except SegcError as error:
        done.faults.extend(error.diagnostics)
        return None
    return shape[::-1] if stored else shape


def _check_outlines(sample: Sample, looks: LookCache, done: Survey) -> None:
    drawn = [one for one in sample.instances if not one.is_box]
    if not drawn:
        return
    for one, crosses in zip(drawn, looks.crossing([one.polygons for one in drawn]).tolist(), strict=True):
        if crosses:
            at = one.origin if isinstance(one.origin, int) and sample.label and sample.label.suffix == ".txt" else None
            named = "" if at is not None or one.origin is None else f" of {one.origin}"
            text = f"the outline{named} crosses itself: where it goes round twice is not part of the object"
            done.remarks.add(Diagnostic("D031", text, "warning", file=sample.label or sample.image, line=at))


def _note_lacking(split: Split, contents: Contents, file: Path, done: Survey) -> None:
    """Note a split without objects, an error where it is to be trained on, and classes without any."""
    if not contents.images:
        return  # why is among the faults
    if not contents.objects:
        text = f"none of the {contents.images} images of dataset.{split} has an object"
        severity: Severity = "error" if split == "train" else "warning"
        (done.faults if split == "train" else done.remarks).add(Diagnostic("D017", text, severity, file=file))
    elif lacking := [name for name, count in zip(done.names, contents.class_objects, strict=True) if not count]:
        shown = ", ".join(lacking[:_MOST_NAMES]) + (", …" if len(lacking) > _MOST_NAMES else "")
        text = f"{len(lacking)} of {len(done.names)} classes have no object in dataset.{split}: {shown}"
        done.remarks.add(Diagnostic("D018", text, "warning", file=file, count=len(lacking)))


_MOST_NAMES = 12


def _note_twins(seen: _Seen, splits: Sequence[Split], done: Survey) -> None:
    """Note images that are there twice, or nearly so."""
    first: dict[bytes, int] = {}
    same = {}
    for place, digest in enumerate(seen.digests):
        if digest and (before := first.setdefault(digest, place)) != place:
            same[place] = before
    # Of pictures with the same bytes one is enough to be held against others.
    near = near_twins([b"" if place in same else mark for place, mark in enumerate(seen.marks)])
    for kind, pairs in (("the same image as", same), ("nearly the same image as", near)):
        for later, earlier in sorted(pairs.items()):
            split, other = splits[seen.splits[later]], splits[seen.splits[earlier]]
            text = f"{kind} `{seen.paths[earlier]}`"
            path = Path(seen.paths[later])
            if split != other:
                done.remarks.add(Diagnostic("D033", f"{text}, of dataset.{other}", "warning", file=path, help=_LEAK))
            else:
                done.remarks.add(Diagnostic("D019" if pairs is same else "D032", text, "warning", file=path))
            done.twins[later] = earlier


_LEAK = "metrics on images that were trained on say little; `segc data split` keeps likes together"

"""Folders of datasets as they are found: their splits, and for Pascal VOC and masks what their classes are called."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import unescape
from itertools import islice
from pathlib import Path
from typing import Literal

from segc.inference.kinds import IMAGE_SUFFIXES

ACCOUNT = "conversion.json"
"""The account of a conversion, in the folder that it made."""

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "train2017", "training"),
    "val": ("val", "valid", "validation", "val2017"),
    "test": ("test", "test2017", "testing"),
}
"""What folders and files of the splits are called."""

_MOST_READ = 20_000
_MOST_SHOWN = 5
_LARGEST_RECORD = 1 << 20
_LARGEST_ACCOUNT = 1 << 28
_IMAGES, _MASKS = "images", "masks"
_LISTS = "ImageSets/Segmentation"
_OBJECT = re.compile(r"<object>.*?<name>([^<]{1,200})</name>", re.DOTALL)


@dataclass(frozen=True)
class Splits:
    """What the folders or lists of a dataset are for.

    Attributes:
        train: what to train on, relative to the dataset's folder.
        val: what to validate on; None where there is nothing for that.
        test: what to test on; None where there is nothing for that.
        left: what has images, or may have, and is in none of these.
    """

    train: str
    val: str | None = None
    test: str | None = None
    left: tuple[str, ...] = ()

    @property
    def left_out(self) -> str | None:
        """What is said of that which is left out; None where nothing is."""
        if not self.left:
            return None
        more = f" and {len(self.left) - _MOST_SHOWN} more" if len(self.left) > _MOST_SHOWN else ""
        return f"left out, for it is neither train, val nor test: {', '.join(self.left[:_MOST_SHOWN])}{more}"


def folder_splits(folder: Path, place: str) -> Splits | None:
    """The splits of a dataset that has a folder for each; None where there is none to train on.

    Args:
        folder: the dataset's.
        place: where the images of a split are in it, with ``{}`` for its name: ``images/{}``, ``{}/images`` or ``{}``.

    Raises:
        OSError: where a folder cannot be read.
    """
    found = {
        split: next((entry for name in names if (folder / (entry := place.format(name))).is_dir()), None)
        for split, names in SPLIT_NAMES.items()
    }
    if found["train"] is None:
        return None
    above = folder / place.partition("{}")[0]
    taken = {(folder / entry).relative_to(above).parts[0] for entry in found.values() if entry}
    others = (path for path in sorted(above.iterdir()) if path.name not in taken and not path.name.startswith("."))
    left = tuple(path.relative_to(folder).as_posix() for path in others if _has_images(path))
    return Splits(found["train"], found["val"], found["test"], left)


def _has_images(path: Path) -> bool:
    inside = path.rglob("*") if path.is_dir() else (path,)
    return any(one.suffix.lower() in IMAGE_SUFFIXES for one in inside)


def list_splits(folder: Path) -> Splits | None:
    """The splits of Pascal VOC by the lists that are there; None where there are none."""
    names = ("train", "val", "test", "trainval")
    lists = {name: f"{_LISTS}/{name}.txt" for name in names if (folder / _LISTS / f"{name}.txt").is_file()}
    if not lists:
        return None
    train = lists.get("train") or lists.get("trainval") or next(iter(lists.values()))
    val, test = (None if lists.get(name) == train else lists.get(name) for name in ("val", "test"))
    return Splits(train, val, test)


@dataclass(frozen=True)
class Layout:
    """What a folder holds.

    Attributes:
        format: of its labels.
        splits: what its images are for.
        names: of the classes; empty where nothing tells them.
        notes: what was guessed, in lines.
    """

    format: Literal["voc", "masks"]
    splits: Splits
    names: tuple[str, ...]
    notes: list[str] = field(default_factory=list)


def layout_of(folder: Path) -> Layout | None:
    """The layout of a folder, if it is one of these.

    Raises:
        OSError: where it cannot be read.
    """
    if (folder / "JPEGImages").is_dir():
        return _voc(folder)
    if (folder / _IMAGES).is_dir() and (folder / _MASKS).is_dir() and not (folder / "labels").is_dir():
        return _masks(folder)
    return None


def recorded_names(folder: Path, form: str) -> tuple[str, ...]:
    """The classes of a folder that a conversion made, in their order, by its account; empty where there is none."""
    file = folder / ACCOUNT
    try:
        section = json.loads(file.read_bytes() if file.stat().st_size <= _LARGEST_ACCOUNT else b"")["dataset"]
        names = section["names"] if section["format"] == form else ()
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ()  # another program's file, or none: the labels tell
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _voc(folder: Path) -> Layout:
    """Of ``JPEGImages``: with the lists of ``ImageSets`` as splits, and names of labelmap.txt, else of the records."""
    splits = list_splits(folder) or folder_splits(folder, "JPEGImages/{}") or Splits("JPEGImages")
    names = tuple(dict.fromkeys(_labelmap_names(folder / "labelmap.txt")))
    if names:
        return Layout("voc", splits, names)
    records = islice(sorted(folder.glob("Annotations/*.xml")), _MOST_READ)
    found = {unescape(name).strip() for file in records for name in _OBJECT.findall(_head(file))}
    return Layout("voc", splits, tuple(sorted(found)))


def _labelmap_names(file: Path) -> Iterator[str]:
    if not file.is_file():
        return
    for line in file.read_text("utf-8-sig", errors="replace").splitlines():
        name, _, colour = line.partition(":")
        if name.strip() and not line.startswith("#") and not re.match(r"\s*0\s*,\s*0\s*,\s*0\s*(:|$)", colour):
            yield name.strip()


def _head(file: Path) -> str:
    with file.open("rb") as record:
        return record.read(_LARGEST_RECORD).decode("utf-8", errors="replace")


def _masks(folder: Path) -> Layout:
    """Of ``images`` and ``masks``: the names are those of files of one object each."""
    splits = folder_splits(folder, f"{_IMAGES}/{{}}") or Splits(_IMAGES)
    if names := recorded_names(folder, "masks"):
        return Layout("masks", splits, names)
    if names := tuple(sorted(_object_names(folder))):
        note = f"names: {len(names)}, what the files of masks are called, numbers at either end left out"
        return Layout("masks", splits, names, [note])
    note = "names: one class, for the masks name none; where their numbers are 1000 · class + object, write the names"
    return Layout("masks", splits, ("object",), [note])


def _object_names(folder: Path) -> set[str]:
    """What files of one object are called, without their numbers: files in a folder that is named as an image is."""
    images = {path.relative_to(folder / _IMAGES).with_suffix("") for path in (folder / _IMAGES).rglob("*.*")}
    files = (path.relative_to(folder / _MASKS) for path in (folder / _MASKS).rglob("*.png"))
    alone = (path.stem for path in islice(files, _MOST_READ) if not images.isdisjoint(path.parents))
    return {name for stem in alone if (name := re.sub(r"^\d+[-_ ]*|[-_ ]*\d+$", "", stem))}

"""Folders of Pascal VOC and of masks as a new project finds them: their splits, and what their classes are called."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import unescape
from itertools import islice
from pathlib import Path
from typing import Literal

_MOST_READ = 20_000
_LARGEST_RECORD = 1 << 20
_IMAGES, _MASKS = "images", "masks"
_LISTS = "ImageSets/Segmentation"
_OBJECT = re.compile(r"<object>.*?<name>([^<]{1,200})</name>", re.DOTALL)


@dataclass(frozen=True)
class Layout:
    """What a folder holds.

    Attributes:
        format: of its labels.
        train: what to train on, relative to the folder.
        val: what to validate on; None where there is nothing for that.
        names: of the classes; empty where nothing tells them.
        notes: what was guessed, in lines.
    """

    format: Literal["voc", "masks"]
    train: str
    val: str | None
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


def _voc(folder: Path) -> Layout:
    """Of ``JPEGImages``: with the lists of ``ImageSets`` as splits, and names of labelmap.txt, else of the records."""
    lists = {
        split: f"{_LISTS}/{split}.txt" for split in ("train", "val") if (folder / _LISTS / f"{split}.txt").is_file()
    }
    train = lists.get("train", "JPEGImages")
    names = tuple(dict.fromkeys(_labelmap_names(folder / "labelmap.txt")))
    if names:
        return Layout("voc", train, lists.get("val"), names)
    records = islice(sorted(folder.glob("Annotations/*.xml")), _MOST_READ)
    found = {unescape(name).strip() for file in records for name in _OBJECT.findall(_head(file))}
    return Layout("voc", train, lists.get("val"), tuple(sorted(found)))


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
    train, val = (_split(folder, names) for names in (("train", "training"), ("val", "valid", "validation")))
    names = tuple(sorted(_object_names(folder)))
    if names:
        return Layout("masks", train or _IMAGES, val if train else None, names)
    note = "names: one class, for the masks name none; where their numbers are 1000 · class + object, write the names"
    return Layout("masks", train or _IMAGES, val if train else None, ("object",), [note])


def _split(folder: Path, names: Iterable[str]) -> str | None:
    return next((f"{_IMAGES}/{name}" for name in names if (folder / _IMAGES / name).is_dir()), None)


def _object_names(folder: Path) -> set[str]:
    """What files of one object are called, without their numbers: files in a folder that is named as an image is."""
    images = {path.relative_to(folder / _IMAGES).with_suffix("") for path in (folder / _IMAGES).rglob("*.*")}
    files = (path.relative_to(folder / _MASKS) for path in (folder / _MASKS).rglob("*.png"))
    alone = (path.stem for path in islice(files, _MOST_READ) if not images.isdisjoint(path.parents))
    return {name for stem in alone if (name := re.sub(r"^\d+[-_ ]*|[-_ ]*\d+$", "", stem))}

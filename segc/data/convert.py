"""Datasets from one format to another, with an account of what the other one cannot carry."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal
from unicodedata import category

from segc.data.dataset import read_split
from segc.data.exif import exif_orientation, upright_points
from segc.data.labels import Instance
from segc.data.opening import Format
from segc.data.samples import Sample, Split, is_taken_as_stored, read_image
from segc.data.writers.common import Item, Loss, Writer
from segc.diagnostics import Diagnostic, Findings, SegcError, fail, place
from segc.files import atomic_directory, canonical_json
from segc.inference.image_headers import image_header_size
from segc.spec.layouts import ACCOUNT

if TYPE_CHECKING:
    from segc.spec.load import LoadedProject

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Conversion:
    """What a conversion did.

    Attributes:
        source: format that was read.
        target: format that was written.
        images: number of images.
        objects: number of objects that were read.
        losses: objects that did not come through as they were.
        unread: what the labels have beside objects, and is not read.
        renamed: new names of images by their files, where a name was taken already, or no text file can say it.
        turned: images whose labels were for the picture as it is stored, and are for the upright one now.
        dataset: the ``dataset`` section of a spec that reads what was written, relative to its folder.
    """

    source: str
    target: str
    images: int = 0
    objects: int = 0
    losses: list[Loss] = field(default_factory=list)
    unread: list[Diagnostic] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    turned: list[str] = field(default_factory=list)
    dataset: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Number of objects by what became of them: ``carried``, ``joined``, ``changed`` and ``left out``."""
        kinds = Counter(loss.kind for loss in self.losses)
        carried = self.objects - sum(kinds.values())
        return {"carried": carried, **{kind: kinds[kind] for kind in ("joined", "changed", "left out")}}

    @property
    def renumbered(self) -> bool:
        """Whether images, categories and annotations had numbers before, and have others now."""
        return self.source == self.target == "coco"

    def to_json(self) -> dict[str, Any]:
        """Values for JSON."""
        return {
            "version": 1,
            "from": self.source,
            "to": self.target,
            "images": self.images,
            "objects": self.objects,
            "counts": self.counts,
            "losses": [loss.to_json() for loss in self.losses],
            "unread": [{"code": one.code, "place": place(one), "message": one.message} for one in self.unread],
            "renamed": self.renamed,
            "turned": self.turned,
            "renumbered": self.renumbered,
            "dataset": self.dataset,
        }


class _All(Findings):
    """Findings of which every single one is kept: an account is complete."""

    def __init__(self) -> None:
        self.every: list[Diagnostic] = []
        super().__init__()

    def add(self, diagnostic: Diagnostic) -> None:
        """Take one in."""
        self.every.append(diagnostic)
        super().add(diagnostic)


def convert(
    loaded: "LoadedProject",
    splits: Sequence[Split],
    form: Format,
    folder: Path,
    *,
    pictures: Literal["copy", "link"] = "copy",
    progress: Progress | None = None,
) -> Conversion:
    """Write a dataset in another format, pictures and all, into a new folder; it appears whole or not at all.

    Args:
        loaded: the dataset.
        splits: what of it.
        form: the format.
        folder: where it goes; must not be there, or be empty.
        pictures: copy the files of images, or make links to them.
        progress: called after every image.

    Raises:
        SegcError: F005 where the folder holds something; D034 where the format cannot take this dataset at all; D008
            where an image is not of the size that its labels are for; else all that is wrong with the labels.
        OSError: where a file cannot be read or written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise fail("F005", f"{folder} is there already", file=folder, help="name a new folder; nothing is overwritten")
    done = Conversion(loaded.project.dataset.format, form)
    found = _All()
    # Boxes are boxes here, whatever training makes of them.
    dataset = loaded.project.dataset.model_copy(update={"boxes": "mask"})
    loaded = replace(loaded, project=loaded.project.model_copy(update={"dataset": dataset}))
    read = {split: read_split(loaded, split, found) for split in splits}
    total = sum(len(samples) for samples in read.values())
    names = {split: _names([sample.image for sample in samples], done) for split, samples in read.items()}
    with atomic_directory(folder) as partial:
        writer = _writer(form, partial, loaded.project.dataset.class_names)
        for split, samples in read.items():
            for sample, name in zip(samples, names[split], strict=True):
                item = _item(split, name, sample, found, done)
                copy = writer.image_path(item)
                if copy.exists() or copy.is_symlink():
                    text = f"two images would be {copy.relative_to(partial)}"
                    raise fail("D034", text, file=sample.image, help="rename one of them, and its labels")
                _picture(sample.image, copy, pictures)
                done.losses += writer.add(item)
                done.images += 1
                done.objects += len(sample.instances)
                if progress is not None:
                    progress(done.images, total)
        done.dataset = writer.finish()
        done.unread = found.every
        (partial / ACCOUNT).write_text(canonical_json(done.to_json()), "utf-8")
    return done


def _writer(form: Format, root: Path, names: tuple[str, ...]) -> Writer:
    from segc.data.writers.coco import CocoWriter
    from segc.data.writers.cvat import CvatWriter
    from segc.data.writers.labelme import LabelmeWriter
    from segc.data.writers.masks import MaskWriter
    from segc.data.writers.voc import VocWriter
    from segc.data.writers.yolo import YoloWriter

    writers: dict[Format, Callable[[Path, tuple[str, ...]], Writer]] = {
        "yolo": YoloWriter,
        "coco": CocoWriter,
        "labelme": LabelmeWriter,
        "cvat": CvatWriter,
        "voc": VocWriter,
        "masks": MaskWriter,
    }
    return writers[form](root, names)


def _item(split: Split, name: PurePosixPath, sample: Sample, found: Findings, done: Conversion) -> Item:
    """An image to be written, with labels for the upright picture: formats without a size know no other.

    Raises:
        SegcError: D002 where the image cannot be read and is to be, D008 where it is not of its labels' size.
    """
    try:
        shape, orientation = _shape(sample)
    except OSError as error:
        raise SegcError(Diagnostic("D002", error.strerror or str(error), file=sample.image)) from None
    if not is_taken_as_stored(sample, shape, orientation, found):
        return Item(split, name, shape, sample.instances)
    done.turned.append(str(name))
    return Item(split, name, shape, tuple(_upright(one, orientation) for one in sample.instances))


def _shape(sample: Sample) -> tuple[tuple[int, int], int]:
    """Size (height, width) of an image upright, and its EXIF orientation; it is decoded only where that is needed."""
    data = sample.image.read_bytes()
    orientation = exif_orientation(data)
    if sample.size is not None and orientation == 1:
        # A picture that cannot be decoded is none of a conversion's business while its labels tell the size.
        return image_header_size(data) or sample.size, 1
    height, width = read_image(sample.image).shape[:2]
    return (height, width), orientation


def _upright(instance: Instance, orientation: int) -> Instance:
    return replace(instance, polygons=tuple(upright_points(one, orientation) for one in instance.polygons))


def _picture(source: Path, copy: Path, how: Literal["copy", "link"]) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    if how == "link":
        copy.symlink_to(source.absolute())
    else:
        shutil.copyfile(source, copy)


_NOT_IN_TEXT = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Kinds of characters that no list or label file can name: control characters, line ends, bytes that are no text."""


def _names(images: Sequence[Path], done: Conversion) -> list[PurePosixPath]:
    """Names of images below the folder that all have in common; no two alike without their suffix."""
    if not images:
        return []
    above = Path(os.path.commonpath([str(image.parent) for image in images]))
    taken: set[str] = set()
    names = []
    for image in images:
        before = image.relative_to(above).as_posix()
        name = own = PurePosixPath("".join("_" if category(one) in _NOT_IN_TEXT else one for one in before))
        number = 1
        while str(name.with_suffix("")).casefold() in taken:
            number += 1
            name = own.with_name(f"{own.stem}-{number}{own.suffix}")
        taken.add(str(name.with_suffix("")).casefold())
        if str(name) != before:
            done.renamed[str(image)] = str(name)
        names.append(name)
    return names

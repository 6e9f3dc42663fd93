"""The splits of a dataset in one of the formats of this folder: their images, and their labels."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.compute import processors
from segc.data.formats.common import Fault, ImageLabels, Reader
from segc.data.lists import Listed, read_lines
from segc.diagnostics import Diagnostic, Findings, fail

if TYPE_CHECKING:
    from segc.data.formats.xml import Element
    from segc.data.samples import Sample

IMAGE_BY_IMAGE = ("yolo", "labelme", "voc", "masks")
"""Formats whose labels are in files of their own for every image."""

_DECODED = ("voc", "masks")
"""Those of them whose labels are pictures, which several threads read at once; text would only hold them up."""

_AT_ONCE = 256
"""Images whose labels are read ahead: what is kept in memory does not grow with the dataset."""


def reader_of(form: str) -> Any:
    """The module that reads a format."""
    return import_module(f"segc.data.formats.{form}")


def labels_of(images: Sequence[Path], form: str, names: Sequence[str]) -> Iterator[tuple[Path, ImageLabels]]:
    """The labels of images one after another.

    Raises:
        OSError: where a label file cannot be read.
    """
    read: Reader = reader_of(form).read
    if form not in _DECODED:
        yield from ((image, read(image, names)) for image in images)
        return
    with ThreadPoolExecutor(processors()) as readers:
        for start in range(0, len(images), _AT_ONCE):
            part = images[start : start + _AT_ONCE]
            yield from zip(part, readers.map(lambda image: read(image, names), part), strict=True)


def read_images(
    images: Sequence[Path], form: str, names: Sequence[str], found: Findings, *, skip: bool = False
) -> tuple["Sample", ...]:
    """Samples of images whose labels are in files of their own.

    Args:
        images: the images.
        form: the format.
        names: the project's classes.
        found: takes in, as warnings, what is left out or odd.
        skip: leave out labels that are wrong, and images whose label file cannot be read at all.

    Raises:
        SegcError: D006 where not one image has labels, and all faults of the labels.
        OSError: where a label file cannot be read.
    """
    samples = _samples(labels_of(images, form, names), [], found, skip=skip)
    if images and all(sample.label is None for sample in samples):
        raise fail(
            "D006",
            f"none of the {len(images)} images has labels in the format {form}",
            file=images[0],
            help=f"the labels of this one would be in {_label_places(form)(images[0])[0]}",
        )
    return samples


def _samples(
    read: Iterator[tuple[Path, ImageLabels]], lost: list[Diagnostic], found: Findings, *, skip: bool
) -> tuple["Sample", ...]:
    """Samples of labels, in their order.

    Args:
        read: the images with their labels.
        lost: faults of images that have no labels for that, filled while these are read.
        found: takes in warnings.
        skip: faults are warnings, and what they are about is left out.
    """
    from segc.data.samples import LabelFaultsError, Sample, left_out

    samples: list[Sample] = []
    wrong = Findings()
    for image, labels in read:
        errors = [fault for fault in labels.faults if fault.severity == "error"]
        found.extend(fault for fault in labels.faults if fault.severity == "warning")
        if skip:
            found.extend(left_out(fault) for fault in errors)
        else:
            wrong.extend(errors)
        if not (skip and errors and labels.size is None):
            samples.append(Sample(image, labels.label, tuple(labels.instances), labels.size, faulty=bool(errors)))
    (found if skip else wrong).extend(left_out(fault) if skip else fault for fault in lost)
    if wrong:
        raise LabelFaultsError(wrong)
    return tuple(samples)


def _label_places(form: str) -> Callable[[Path], tuple[Path, ...]]:
    """Where the labels of an image are, or would be."""
    from segc.data.formats import labelme, masks, voc

    def of_masks(image: Path) -> tuple[Path, ...]:
        single, files = masks.mask_files(image)
        return (single,) if single else files or (Path(f"{masks.mask_place(image)}.png"),)

    places: dict[str, Callable[[Path], tuple[Path, ...]]] = {
        "labelme": lambda image: (labelme.label_file(image),),
        "voc": lambda image: (voc.object_file(image),),
        "masks": of_masks,
    }
    return places[form]


def note_unused_labels(
    form: str, folders: Sequence[Path], images: Sequence[Path], unread: Sequence[Path], found: Findings
) -> None:
    """Hold label files against images, and note those that belong to none, and files of other kinds.

    Args:
        form: the format.
        folders: those of the images.
        images: all images of the split.
        unread: files beside them that are none.
        found: takes in what is noted.

    Raises:
        OSError: where a folder cannot be read.
    """
    from segc.data.formats.masks import mask_place
    from segc.data.listing import NOT_LABELS, walk

    places = _label_places(form)
    claimed = {path for image in images for path in places(image)}
    files = list(unread)
    if form == "masks":
        for folder in dict.fromkeys(mask_place(folder / "any").parent for folder in folders):
            if folder.is_dir() and not any(folder.is_relative_to(walked) for walked in folders):
                files += walk(folder, found.add)
    ending = {"labelme": ".json", "masks": ".png"}.get(form)
    for path in files:
        if path in claimed or path.name.lower() in NOT_LABELS:
            continue
        if path.suffix.lower() == ending:
            found.add(Diagnostic("D009", "no image belongs to this label file", "warning", file=path))
        else:
            kind = path.suffix.lower() or "no ending"
            found.add(Diagnostic("D010", f"files of this kind are not read ({kind})", "warning", file=path))


def read_cvat(
    file: Path, folders: Sequence[Path], names: Sequence[str], found: Findings, *, skip: bool = False
) -> tuple["Sample", ...]:
    """Samples of all images that a CVAT file lists, sorted by path; arguments as of :func:`read_images`.

    Raises:
        SegcError: D001 where it lists no images, D003 where it is no CVAT XML; all faults of the labels.
        OSError: where it cannot be read.
    """
    from segc.data.formats import cvat

    lost: list[Diagnostic] = []
    read = ((path, cvat.read(element, file, names)) for element, path in _located(file, folders, lost))
    samples = _samples(read, lost, found, skip=skip)
    if not samples:
        raise fail("D001", "the annotation file lists no images", file=file)
    return tuple(sorted(samples, key=lambda sample: sample.image))


def _located(file: Path, folders: Sequence[Path], lost: list[Diagnostic]) -> Iterator[tuple["Element", Path]]:
    """The images of a CVAT file with their paths; those that cannot be found are noted."""
    from segc.data.formats import cvat

    if not file.is_file():
        raise fail("F001", f"no such annotation file: {file}", file=file, help="check dataset.annotations")
    lines: dict[Path, int] = {}
    for element in cvat.images_in(file):
        try:
            path = cvat.image_path(element, folders)
        except Fault as fault:
            lost.append(Diagnostic(fault.code, fault.message, file=file, line=element.line, help=fault.advice))
            continue
        if path in lines:
            text = f"{path} is there already, in line {lines[path]}"
            lost.append(Diagnostic("D003", text, file=file, line=element.line))
        else:
            lines[path] = element.line
            yield element, path


def annotated_in_cvat(file: Path, folders: Sequence[Path], found: Findings, *, skip: bool = False) -> tuple[Path, ...]:
    """The images that a CVAT file lists, sorted; see :func:`read_cvat`.

    Raises:
        SegcError: all that is wrong with its list of images.
        OSError: where it cannot be read.
    """
    lost: list[Diagnostic] = []
    read = ((path, ImageLabels(file)) for _, path in _located(file, folders, lost))
    return tuple(sorted(sample.image for sample in _samples(read, lost, found, skip=skip)))


def take_voc_list(file: Path, root: Path, listed: Listed) -> None:
    """Take in the images that a list of ``ImageSets`` names by their stems.

    Args:
        file: the text file.
        root: the folder of the dataset.
        listed: takes them in.

    Raises:
        SegcError: D001 where it is no text.
        OSError: where it cannot be read.
    """
    from segc.data.formats.voc import IMAGES, images_by_stem

    images = images_by_stem(root)
    lines = read_lines(file)
    for (number, _), name in zip(lines, _voc_names([line for _, line in lines], images), strict=True):
        listed.add(file, number, name, images.get(name), f" in {root / IMAGES}")


def _voc_names(lines: Sequence[str], images: Mapping[str, Path]) -> list[str]:
    """The names of images that the lines of a list mean.

    A line is a name, which may have blanks in it. VOC's lists of one class have a second column, on every line:
    whether the class is there.
    """
    whole = [line if line in images else line.strip() for line in lines]
    columns = [match[1] for line in whole if (match := _FLAGGED.fullmatch(line))]
    return columns if len(columns) == len(whole) and images.keys().isdisjoint(whole) else whole


_FLAGGED = re.compile(r"(\S.*?)\s+[-+]?\d+")

"""A split of the dataset: which images belong to it, their labels, and how an image is read."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from segc.data.labels import Instance, read_labels
from segc.diagnostics import Diagnostic, SegcError, fail

if TYPE_CHECKING:
    from segc.spec.dataset import Dataset
    from segc.spec.load import LoadedProject

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Endings, in lower case, by which images are known in a folder."""

MOST_BYTES = 2**29
"""Largest image file that is read."""

MOST_DIAGNOSTICS = 50
"""Faults of a dataset that are shown; the rest is counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image and its objects.

    Attributes:
        image: its file.
        label: its label file, or None for an image without one: background only.
        instances: the labelled objects, in the order of the file.
        size: (height, width) that the image must have for its labels to fit; None where they fit any.
    """

    image: Path
    label: Path | None
    instances: tuple[Instance, ...]
    size: tuple[int, int] | None = None


Split = Literal["train", "val"]


def list_images(loaded: "LoadedProject", split: Split) -> tuple[Path, ...]:
    """All images of a split, sorted by path, each once; neither images nor label files are opened.

    An entry of the split is a folder, searched with its subfolders; a ``.txt`` list with an image a line, relative to
    the list or to the dataset's folder; or an image. With COCO annotations it is a folder that the names in the
    annotation file start from.

    Raises:
        SegcError: F001 for an entry that is not there, D001 where there are no images, D007 for a listed image that
            is not there; D003 for a malformed annotation file.
    """
    return _LISTINGS[loaded.project.dataset.format](loaded, split)


def read_split(loaded: "LoadedProject", split: Split) -> tuple[Sample, ...]:
    """All images of a split with their labels, sorted by path.

    The YOLO labels of ``…/images/a/b.jpg`` are in ``…/labels/a/b.txt`` (the last ``images`` counts); those of an image
    below no such folder stand beside it. An image without a label file is background. COCO annotations are read as
    :func:`segc.data.coco.read_annotations` says. Objects that ``dataset.classes`` does not name are left out; with
    ``dataset.single_cls`` all others are of class 0.

    Raises:
        SegcError: as :func:`list_images`, and D006 where there are no labels at all, and all faults of the labels.
    """
    dataset = loaded.project.dataset
    return tuple(_chosen(sample, dataset) for sample in _READERS[dataset.format](loaded, split))


def _chosen(sample: Sample, dataset: "Dataset") -> Sample:
    """A sample with the objects that the dataset asks for."""
    if dataset.classes is None and not dataset.single_cls:
        return sample
    chosen = dataset.chosen_classes
    kept = (one for one in sample.instances if one.class_id in chosen)
    return replace(sample, instances=tuple(replace(one, class_id=0) if dataset.single_cls else one for one in kept))


def _entries(loaded: "LoadedProject", split: Split) -> tuple[str, ...]:
    entries: str | tuple[str, ...] = getattr(loaded.project.dataset, split)
    return (entries,) if isinstance(entries, str) else entries


def _yolo_images(loaded: "LoadedProject", split: Split) -> tuple[Path, ...]:
    entries = _entries(loaded, split)
    images = sorted({image for entry in entries for image in _images(loaded.dataset_root / entry, loaded)})
    if not images:
        raise fail(
            "D001",
            f"no images found in dataset.{split}: {', '.join(entries)}",
            file=loaded.dataset_root,
            help=f"images end in {', '.join(sorted(IMAGE_SUFFIXES))}",
        )
    return tuple(images)


def _yolo_samples(loaded: "LoadedProject", split: Split) -> tuple[Sample, ...]:
    return read_samples(list_images(loaded, split), len(loaded.project.dataset.names))


def _coco_source(loaded: "LoadedProject", split: Split) -> tuple[Path, tuple[Path, ...]]:
    """The annotation file of a split, and the folders of its images."""
    folders = tuple(loaded.dataset_root / entry for entry in _entries(loaded, split))
    for folder in folders:
        if not folder.is_dir():
            raise fail("F001", f"no such folder of images: {folder}", file=loaded.path, help="check dataset.path")
    return loaded.dataset_root / getattr(loaded.project.dataset.annotations, split), folders


def _coco_images(loaded: "LoadedProject", split: Split) -> tuple[Path, ...]:
    from segc.data.coco import annotated_images

    return annotated_images(*_coco_source(loaded, split))


def _coco_samples(loaded: "LoadedProject", split: Split) -> tuple[Sample, ...]:
    from segc.data.coco import read_annotations

    return read_annotations(*_coco_source(loaded, split), loaded.project.dataset.names)


_LISTINGS: dict[str, Callable[["LoadedProject", Split], tuple[Path, ...]]] = {
    "yolo": _yolo_images,
    "coco": _coco_images,
}
_READERS: dict[str, Callable[["LoadedProject", Split], tuple[Sample, ...]]] = {
    "yolo": _yolo_samples,
    "coco": _coco_samples,
}


def read_samples(images: Sequence[Path], nc: int) -> tuple[Sample, ...]:
    """The images with their labels, in the given order; see :func:`read_split`.

    Raises:
        SegcError: D006 where not one image has a label file, and all faults of the label files.
    """
    samples: list[Sample] = []
    found: list[Diagnostic] = []
    for image in images:
        label = label_path(image)
        present = label.is_file()
        instances, faults = read_labels(label, nc) if present else ((), ())
        found.extend(faults)
        samples.append(Sample(image, label if present else None, instances))
    if found:
        raise LabelFaultsError(found)
    if images and all(sample.label is None for sample in samples):
        raise fail(
            "D006",
            f"none of the {len(images)} images has a label file",
            file=images[0],
            help=f"the labels of this one would be in {label_path(images[0])}",
        )
    return tuple(samples)


class LabelFaultsError(SegcError):
    """Everything that is wrong with labels: the first faults, and the number of the others.

    Attributes:
        counts: number of faults by code, of all of them.
    """

    def __init__(self, found: Sequence[Diagnostic]) -> None:
        self.counts = Counter(one.code for one in found)
        super().__init__(_bounded(found))


def _bounded(found: Sequence[Diagnostic]) -> Iterable[Diagnostic]:
    yield from found[:MOST_DIAGNOSTICS]
    if len(found) > MOST_DIAGNOSTICS:
        yield Diagnostic("D003", f"{len(found) - MOST_DIAGNOSTICS} more labels are wrong")


def _images(entry: Path, loaded: "LoadedProject") -> list[Path]:
    if entry.is_dir():
        return [path for path in entry.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if not entry.is_file():
        raise fail("F001", f"no such folder or image list: {entry}", file=loaded.path, help="check dataset.path")
    if entry.suffix.lower() in IMAGE_SUFFIXES:
        return [entry]
    return _listed(entry, loaded.dataset_root)


def _listed(entry: Path, root: Path) -> list[Path]:
    """The images that a list names."""
    try:
        lines = entry.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise fail("D001", "neither an image nor a text file that lists images", file=entry) from None
    images: list[Path] = []
    found: list[Diagnostic] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        candidates = (entry.parent / line.strip(), root / line.strip())
        image = next((path for path in candidates if path.is_file()), None)
        if image is None:
            found.append(Diagnostic("D007", f"no such image: {line.strip()}", file=entry, line=number))
        else:
            images.append(image)
    if found:
        raise LabelFaultsError(found)
    return images


def label_path(image: Path) -> Path:
    """Where the labels of an image are; see :func:`read_split`."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image as [h, w, 3] in BGR order, turned upright where its EXIF data says so: the one that prediction sees.

    Raises:
        SegcError: D002 where it is not an image, is cut off, or is too large.
        OSError: where the file cannot be read.
    """
    from segc.inference.sources import ImageError, decode_image

    if path.stat().st_size > MOST_BYTES:
        raise fail("D002", f"image file is larger than {MOST_BYTES >> 20} MiB", file=path)
    try:
        return decode_image(path.read_bytes(), path.name)
    except ImageError as error:
        raise fail("D002", str(error), file=path, help="repair it, or take it and its label file out") from None


def read_sample(sample: Sample) -> NDArray[np.uint8]:
    """The image of a sample, as :func:`read_image` gives it.

    Raises:
        SegcError: D002 where it cannot be read, D008 where it is not of the size that its labels are for.
    """
    try:
        image = read_image(sample.image)
    except OSError as error:
        raise fail("D002", error.strerror or str(error), file=sample.image) from None
    if sample.size is not None and image.shape[:2] != sample.size:
        raise fail(
            "D008",
            f"the image is {image.shape[0]} x {image.shape[1]} pixels (height x width), its labels are for "
            f"{sample.size[0]} x {sample.size[1]}",
            file=sample.image,
            help=f"the labels are in {sample.label}",
        )
    return image


def rasterise(polygons: Sequence[NDArray[np.float32]], height: int, width: int) -> NDArray[np.bool_]:
    """The union of polygons as a mask.

    Args:
        polygons: each [K, 2], x and y in pixels; 0 is the outer edge of the first pixel.
        height: height of the mask.
        width: width of the mask.

    Returns:
        [height, width]; a pixel that the outline runs through belongs to the mask.
    """
    import cv2

    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.floor(polygon).astype(np.int32)], 1)
    return mask.astype(np.bool_)

"""A split of the dataset: which images belong to it, their labels, and how an image is read."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from segc.data.exif import FIRST_TRANSPOSED, as_stored, exif_orientation
from segc.data.labels import Instance, read_labels
from segc.data.listing import folder_images, is_image_name, note_unused
from segc.diagnostics import MOST_EXAMPLES, Diagnostic, Findings, SegcError, fail
from segc.inference.kinds import IMAGE_SUFFIXES
from segc.spec.paths import missing_path_help

if TYPE_CHECKING:
    from segc.spec.dataset import Dataset
    from segc.spec.load import LoadedProject

MOST_BYTES = 2**29
"""Largest image file that is read."""


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
SPLITS: tuple[Split, ...] = ("train", "val")


def list_images(loaded: "LoadedProject", split: Split, found: Findings | None = None) -> tuple[Path, ...]:
    """All images of a split, sorted by path, each once; neither images nor label files are opened.

    An entry of the split is a folder, searched with its subfolders as :mod:`segc.data.listing` says; a ``.txt`` list
    with an image a line, relative to the list or to the dataset's folder; or an image. With COCO annotations it is a
    folder that the names in the annotation file start from.

    Args:
        loaded: the project.
        split: which one.
        found: takes in, as warnings, what its folders hold and nobody uses.

    Raises:
        SegcError: F001 for an entry that is not there, D001 where there are no images, D007 for a listed image that
            is not there; D003 for a malformed annotation file.
        OSError: where a folder cannot be read.
    """
    return _LISTINGS[loaded.project.dataset.format](loaded, split, Findings() if found is None else found)


def read_split(loaded: "LoadedProject", split: Split, found: Findings | None = None) -> tuple[Sample, ...]:
    """All images of a split with their labels, sorted by path.

    The YOLO labels of ``…/images/a/b.jpg`` are in ``…/labels/a/b.txt`` (the last ``images`` counts); those of an image
    below no such folder stand beside it. An image without a label file is background. COCO annotations are read as
    :func:`segc.data.coco.read_annotations` says. Objects that ``dataset.classes`` does not name are left out; with
    ``dataset.single_cls`` all others are of class 0. With ``dataset.corrupt: skip`` labels that are wrong are left
    out. What becomes of boxes is ``dataset.boxes``.

    Args:
        loaded: the project.
        split: which one.
        found: takes in, as warnings, what is left out or odd.

    Raises:
        SegcError: as :func:`list_images`, D006 where there are no labels at all, D016 where there are boxes and may
            not be, and all faults of the labels.
        OSError: where a folder or a label file cannot be read.
    """
    dataset = loaded.project.dataset
    noted = Findings() if found is None else found
    samples = tuple(_chosen(sample, dataset) for sample in _READERS[dataset.format](loaded, split, noted))
    return _settle_boxes(samples, dataset, split, noted)


def require_objects(loaded: "LoadedProject", samples: Sequence[Sample]) -> None:
    """Refuse to train where there is nothing to learn.

    Raises:
        SegcError: D017 where no sample of the training split has an object.
    """
    if any(not one.is_crowd for sample in samples for one in sample.instances):
        return
    dataset = loaded.project.dataset
    ways_out = {
        "dataset.classes leaves out all there are": dataset.classes is not None,
        "dataset.boxes leaves out all there are": dataset.boxes == "ignore",
        "their label files have no row that counts": dataset.format == "yolo",
    }
    raise fail(
        "D017",
        f"none of the {len(samples)} images of dataset.train has an object",
        file=loaded.path,
        help=next((text for text, applies in ways_out.items() if applies), None),
    )


def _chosen(sample: Sample, dataset: "Dataset") -> Sample:
    """A sample with the objects that the dataset asks for."""
    if dataset.classes is None and not dataset.single_cls:
        return sample
    chosen = dataset.chosen_classes
    kept = (one for one in sample.instances if one.class_id in chosen)
    return replace(sample, instances=tuple(replace(one, class_id=0) if dataset.single_cls else one for one in kept))


def _settle_boxes(samples: tuple[Sample, ...], dataset: "Dataset", split: Split, found: Findings) -> tuple[Sample, ...]:
    """Do with objects that are only boxes what the dataset asks for."""
    boxed = [sample for sample in samples if any(one.is_box for one in sample.instances)]
    if not boxed or dataset.boxes == "mask":
        return samples
    objects = [one for sample in samples for one in sample.instances]
    boxes = sum(one.is_box for one in objects)
    text = f"{boxes} of {len(objects)} objects of dataset.{split} are boxes, which are no masks"
    places = [sample.label or sample.image for sample in boxed[:MOST_EXAMPLES]]
    head, *others = (Diagnostic("D016", text, "warning", file=place, count=boxes) for place in places)
    head = replace(head, examples=tuple(replace(one, message="a box", count=1) for one in others))
    choice = "choose: `boxes: mask` takes them so, `ignore` leaves them out of training and metrics"
    if dataset.boxes == "error":
        raise SegcError(replace(head, severity="error", help=choice))
    if dataset.boxes == "ignore":
        found.add(replace(head, message=f"{text}: they are left out"))
        return tuple(replace(sample, instances=tuple(map(_as_ignored, sample.instances))) for sample in samples)
    found.add(replace(head, message=f"{text}: their rectangles are taken for masks", help=choice))
    return samples


def _as_ignored(instance: Instance) -> Instance:
    return replace(instance, is_crowd=True) if instance.is_box else instance


def _yolo_images(loaded: "LoadedProject", split: Split, found: Findings) -> tuple[Path, ...]:
    images: set[Path] = set()
    unread: list[Path] = []
    folders: list[Path] = []
    for entry in loaded.split_paths(split):
        if entry.is_dir():
            inside = folder_images(entry, found.add)
            folders.append(entry)
            images.update(inside.images)
            unread += inside.unread
        else:
            images.update(_images(entry, loaded))
    note_unused(folders, sorted(images), unread, label_path, found.add)
    if not images:
        raise SegcError(
            (
                Diagnostic(
                    "D001",
                    f"no images found in dataset.{split}: {', '.join(map(str, loaded.split_paths(split)))}",
                    file=loaded.dataset_root,
                    help=f"images end in {', '.join(IMAGE_SUFFIXES)}",
                ),
                *found,
            )
        )
    return tuple(sorted(images))


def _yolo_samples(loaded: "LoadedProject", split: Split, found: Findings) -> tuple[Sample, ...]:
    dataset = loaded.project.dataset
    return read_samples(list_images(loaded, split, found), len(dataset.names), found, skip=dataset.corrupt == "skip")


def _coco_source(loaded: "LoadedProject", split: Split) -> tuple[Path, tuple[Path, ...]]:
    """The annotation file of a split, and the folders of its images."""
    folders = loaded.split_paths(split)
    for folder in folders:
        if not folder.is_dir():
            raise fail("F001", f"no such folder of images: {folder}", file=loaded.path, help=missing_path_help(folder))
    return loaded.annotations_path(split), folders


def _coco_images(loaded: "LoadedProject", split: Split, found: Findings) -> tuple[Path, ...]:
    from segc.data.coco import annotated_images

    source = _coco_source(loaded, split)
    images = annotated_images(*source, found, skip=loaded.project.dataset.corrupt == "skip")
    _note_unlisted(loaded, split, images, found)
    return images


def _coco_samples(loaded: "LoadedProject", split: Split, found: Findings) -> tuple[Sample, ...]:
    from segc.data.coco import read_annotations

    dataset = loaded.project.dataset
    source = _coco_source(loaded, split)
    samples = read_annotations(*source, dataset.names, found, skip=dataset.corrupt == "skip")
    _note_unlisted(loaded, split, [sample.image for sample in samples], found)
    return samples


def _note_unlisted(loaded: "LoadedProject", split: Split, images: Iterable[Path], found: Findings) -> None:
    """Note images in the folders of a split that its annotation file does not list, unless another split's may."""
    others = loaded.split_paths("val" if split == "train" else "train")
    listed = set(images)
    for folder in loaded.split_paths(split):
        if not any(folder.is_relative_to(other) or other.is_relative_to(folder) for other in others):
            text = "the annotation file does not list this image"
            inside = folder_images(folder, found.add).images
            found.extend(Diagnostic("D022", text, "warning", file=path) for path in inside if path not in listed)


_LISTINGS: dict[str, Callable[["LoadedProject", Split, Findings], tuple[Path, ...]]] = {
    "yolo": _yolo_images,
    "coco": _coco_images,
}
_READERS: dict[str, Callable[["LoadedProject", Split, Findings], tuple[Sample, ...]]] = {
    "yolo": _yolo_samples,
    "coco": _coco_samples,
}


def read_samples(
    images: Sequence[Path], nc: int, found: Findings | None = None, *, skip: bool = False
) -> tuple[Sample, ...]:
    """The images with their labels, in the given order; see :func:`read_split`.

    Args:
        images: the images.
        nc: number of classes.
        found: takes in, as warnings, what is left out or odd.
        skip: leave out labels that are wrong, and images whose label file cannot be read at all.

    Raises:
        SegcError: D006 where not one image has a label file, and all faults of the label files.
        OSError: where a label file cannot be read.
    """
    noted = Findings() if found is None else found
    samples: list[Sample] = []
    wrong = Findings()
    for image in images:
        label = label_path(image)
        present = label.is_file()
        instances, faults = read_labels(label, nc) if present else ((), ())
        errors = [fault for fault in faults if fault.severity == "error"]
        noted.extend(fault for fault in faults if fault.severity == "warning")
        if skip:
            noted.extend(left_out(fault) for fault in errors)
        else:
            wrong.extend(errors)
        if not (skip and any(fault.line is None for fault in errors)):
            samples.append(Sample(image, label if present else None, instances))
    if wrong:
        raise LabelFaultsError(wrong)
    if images and all(sample.label is None for sample in samples):
        raise fail(
            "D006",
            f"none of the {len(images)} images has a label file",
            file=images[0],
            help=f"the labels of this one would be in {label_path(images[0])}",
        )
    return tuple(samples)


def left_out(fault: Diagnostic) -> Diagnostic:
    """What is said of a fault that is passed over."""
    return replace(fault, severity="warning", message=f"{_LEFT_OUT}{fault.message}")


_LEFT_OUT = "left out: "


def is_left_out(found: Diagnostic) -> bool:
    """Whether a finding is a fault that was passed over."""
    return found.severity == "warning" and found.message.startswith(_LEFT_OUT)


class LabelFaultsError(SegcError):
    """Everything that is wrong with labels, a kind at a time.

    Attributes:
        counts: number of faults by code, of all of them.
    """

    def __init__(self, found: Findings) -> None:
        self.counts = found.counts
        super().__init__(found)


def _images(entry: Path, loaded: "LoadedProject") -> list[Path]:
    if not entry.is_file():
        text = f"no such folder or image list: {entry}"
        raise fail("F001", text, file=loaded.path, help=missing_path_help(entry))
    return [entry] if is_image_name(entry) else _listed(entry, loaded.dataset_root)


def _listed(entry: Path, root: Path) -> list[Path]:
    """The images that a list names."""
    try:
        lines = entry.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise fail("D001", "neither an image nor a text file that lists images", file=entry) from None
    images: list[Path] = []
    found = Findings()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        candidates = (entry.parent / line.strip(), root / line.strip())
        image = next((path for path in candidates if path.is_file()), None)
        if image is None:
            found.add(Diagnostic("D007", f"no such image: `{line.strip()}`", file=entry, line=number))
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
    return _decoded(path, _image_bytes(path))


def _image_bytes(path: Path) -> bytes:
    if path.stat().st_size > MOST_BYTES:
        raise fail("D002", f"image file is larger than {MOST_BYTES >> 20} MiB", file=path)
    return path.read_bytes()


def _decoded(path: Path, data: bytes) -> NDArray[np.uint8]:
    from segc.inference.sources import ImageError, decode_image

    try:
        return decode_image(data, path.name)
    except ImageError as error:
        raise fail("D002", str(error), file=path, help="repair it, or take it and its label file out") from None


def read_sample(sample: Sample, found: Findings | None = None) -> NDArray[np.uint8]:
    """The image of a sample, upright, unless its labels are for the picture as it is stored.

    Where labels say for what size they are, and only the picture without the turn that its EXIF data asks for has it,
    that one is taken: many labelling tools do not look at EXIF.

    Args:
        sample: the image.
        found: takes in, as warnings, what is odd about it.

    Raises:
        SegcError: D002 where it cannot be read, D008 where it is not of the size that its labels are for.
    """
    try:
        data = _image_bytes(sample.image)
    except OSError as error:
        raise fail("D002", error.strerror or str(error), file=sample.image) from None
    image = _decoded(sample.image, data)
    if sample.size is None:
        return image
    shape = (image.shape[0], image.shape[1])
    turned = exif_orientation(data)
    if shape == sample.size:
        if turned != 1 and found is not None and (turned < FIRST_TRANSPOSED or shape[0] == shape[1]):
            text = (
                "its size does not tell whether its labels are for the picture upright or as stored: upright is taken"
            )
            help_ = f"EXIF orientation {turned}; look at it with its labels"
            found.add(Diagnostic("D020", text, "warning", file=sample.image, help=help_))
        return image
    if turned >= FIRST_TRANSPOSED and shape[::-1] == sample.size:
        if found is not None:
            text = f"EXIF orientation {turned} turns the picture, its labels are for the stored one: read as stored"
            found.add(Diagnostic("D020", text, "warning", file=sample.image))
        return as_stored(image, turned)
    raise fail(
        "D008",
        f"the image is {shape[0]} x {shape[1]} pixels (height x width), its labels are for "
        f"{sample.size[0]} x {sample.size[1]}",
        file=sample.image,
        help=f"the labels are in {sample.label}"
        + ("; height and width are the other way round" if shape[::-1] == sample.size else ""),
    )


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

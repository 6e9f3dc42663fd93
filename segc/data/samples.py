"""Images with their objects: what is labelled on one, how it is read, and the label file that belongs to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segc.data.exif import FIRST_TRANSPOSED, as_stored, exif_orientation
from segc.data.labels import Instance, read_labels
from segc.diagnostics import Diagnostic, Findings, SegcError, fail

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
        region: the columns x1 to x2 of rows y1 to y2 of the image, ends excluded, that count, as (x1, y1, x2, y2);
            ``instances`` are then in shares of it. None for the whole image.
        faulty: labels of it were wrong and are not among ``instances``: without any it is not known to be background.
    """

    image: Path
    label: Path | None
    instances: tuple[Instance, ...]
    size: tuple[int, int] | None = None
    region: tuple[int, int, int, int] | None = None
    faulty: bool = False


Split = Literal["train", "val", "test"]


SPLITS: tuple[Split, ...] = ("train", "val")
"""Those that every project has."""


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
            samples.append(Sample(image, label if present else None, instances, faulty=bool(errors)))
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
    """The image of a sample, or its region of it, upright, unless its labels are for the picture as it is stored.

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
    except FileNotFoundError:
        advice = "bring it back, with the others of its folder: is the disk still there that it was on?"
        raise fail("D002", "the image was there before and is gone", file=sample.image, help=advice) from None
    except OSError as error:
        raise fail("D002", error.strerror or str(error), file=sample.image) from None
    image = _decoded(sample.image, data)
    orientation = exif_orientation(data)
    stored = is_taken_as_stored(sample, (image.shape[0], image.shape[1]), orientation, found)
    whole = as_stored(image, orientation) if stored else image
    if sample.region is None:
        return whole
    x1, y1, x2, y2 = sample.region
    return whole[y1:y2, x1:x2]


def is_taken_as_stored(sample: Sample, shape: tuple[int, int], orientation: int, found: Findings | None) -> bool:
    """Whether the labels of an image are for the picture as it is stored, without the turn of its EXIF data.

    Args:
        sample: the image.
        shape: (height, width) of the picture upright.
        orientation: what its EXIF data asks for.
        found: takes in, as warnings, what is odd about it.

    Raises:
        SegcError: D008 where the labels are for neither.
    """
    if sample.size is None:
        return False
    if shape == sample.size:
        if orientation != 1 and found is not None and (orientation < FIRST_TRANSPOSED or shape[0] == shape[1]):
            text = (
                "its size does not tell whether its labels are for the picture upright or as stored: upright is taken"
            )
            help_ = f"EXIF orientation {orientation}; look at it with its labels"
            found.add(Diagnostic("D020", text, "warning", file=sample.image, help=help_))
        return False
    if orientation >= FIRST_TRANSPOSED and shape[::-1] == sample.size:
        if found is not None:
            text = (
                f"EXIF orientation {orientation} turns the picture, its labels are for the stored one: read as stored"
            )
            found.add(Diagnostic("D020", text, "warning", file=sample.image))
        return True
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

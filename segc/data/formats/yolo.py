"""YOLO label files, image by image, in the way of the other formats of this folder."""

from collections.abc import Sequence
from pathlib import Path

from segc.data.formats.common import ImageLabels
from segc.data.labels import read_labels


def read(image: Path, names: Sequence[str]) -> ImageLabels:
    """The labels of an image; all that is wrong with them is in ``faults``.

    Raises:
        OSError: where the label file cannot be read.
    """
    from segc.data.samples import label_path

    path = label_path(image)
    if not path.is_file():
        return ImageLabels()
    instances, faults = read_labels(path, len(names))
    return ImageLabels(path, None, list(instances), list(faults))

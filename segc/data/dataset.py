"""A split of the dataset: which images belong to it, their labels, and how an image is read."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segc.data.labels import Instance
from segc.data.listing import folder_images, is_image_name, note_unused
from segc.data.lists import Listed, plain, read_lines
from segc.data.samples import Sample, Split, label_path, read_samples
from segc.diagnostics import MOST_EXAMPLES, Diagnostic, Findings, SegcError, fail
from segc.files import is_file
from segc.inference.kinds import IMAGE_SUFFIXES
from segc.spec.paths import missing_path_help

if TYPE_CHECKING:
    from segc.spec.dataset import Dataset
    from segc.spec.load import LoadedProject


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
    _require_split(loaded, split)
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
    _require_split(loaded, split)
    dataset = loaded.project.dataset
    noted = Findings() if found is None else found
    samples = tuple(_chosen(sample, dataset) for sample in _READERS[dataset.format](loaded, split, noted))
    return _settle_boxes(samples, dataset, split, noted)


def _require_split(loaded: "LoadedProject", split: Split) -> None:
    """Refuse a split that the project does not have.

    Raises:
        SegcError: D001.
    """
    if getattr(loaded.project.dataset, split) is None:
        way_out = f"for example `{split}: images/{split}` under `dataset`"
        raise fail("D001", f"the project names no images to {split} on", file=loaded.path, help=way_out)


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
    images, folders, unread = _split_images(loaded, split, found)
    note_unused(folders, images, unread, label_path, found.add)
    return _required(images, loaded, split, found)


def _split_images(
    loaded: "LoadedProject", split: Split, found: Findings
) -> tuple[tuple[Path, ...], list[Path], list[Path]]:
    """The images of a split, sorted; the folders that it names, and the files in them that are no images."""
    images: set[Path] = set()
    unread: list[Path] = []
    folders: list[Path] = []
    listed = Listed(found, skip=loaded.project.dataset.corrupt == "skip")
    take_list = _take_stems if loaded.project.dataset.format == "voc" else _take_paths
    for entry in loaded.split_paths(split):
        if entry.is_dir():
            inside = folder_images(entry, found.add)
            folders.append(entry)
            images.update(inside.images)
            unread += inside.unread
        elif not entry.is_file():
            text = f"no such folder or image list: {entry}"
            raise fail("F001", text, file=loaded.path, help=missing_path_help(entry))
        elif is_image_name(entry):
            images.add(plain(entry))
        else:
            take_list(entry, loaded.dataset_root, listed)
    return tuple(sorted(images.union(listed.images()))), folders, unread


def _take_stems(entry: Path, root: Path, listed: Listed) -> None:
    """The images of a list of VOC."""
    from segc.data.formats.splits import take_voc_list

    take_voc_list(entry, root, listed)


def _take_paths(entry: Path, root: Path, listed: Listed) -> None:
    """The images of a list of paths, which start from its own folder or from that of the dataset."""
    for number, line in read_lines(entry):
        # A name may begin or end with a blank; more often that is only written so.
        candidates = (folder / name for name in dict.fromkeys((line, line.strip())) for folder in (entry.parent, root))
        image = next((path for path in candidates if is_file(path)), None)
        listed.add(entry, number, line.strip(), None if image is None else plain(image))


def _required(images: tuple[Path, ...], loaded: "LoadedProject", split: Split, found: Findings) -> tuple[Path, ...]:
    """The images of a split, if there are any."""
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
    return images


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
    everything: tuple[Split, ...] = ("train", "val", "test")
    others = [path for other in everything if other != split for path in loaded.split_paths(other)]
    listed = set(images)
    for folder in loaded.split_paths(split):
        if not any(folder.is_relative_to(other) or other.is_relative_to(folder) for other in others):
            text = "the annotation file does not list this image"
            inside = folder_images(folder, found.add).images
            found.extend(Diagnostic("D022", text, "warning", file=path) for path in inside if path not in listed)


def _cvat_images(loaded: "LoadedProject", split: Split, found: Findings) -> tuple[Path, ...]:
    from segc.data.formats.splits import annotated_in_cvat

    images = annotated_in_cvat(*_coco_source(loaded, split), found, skip=loaded.project.dataset.corrupt == "skip")
    _note_unlisted(loaded, split, images, found)
    return images


def _cvat_samples(loaded: "LoadedProject", split: Split, found: Findings) -> tuple[Sample, ...]:
    from segc.data.formats.splits import read_cvat

    dataset = loaded.project.dataset
    samples = read_cvat(*_coco_source(loaded, split), dataset.names, found, skip=dataset.corrupt == "skip")
    _note_unlisted(loaded, split, [sample.image for sample in samples], found)
    return samples


def _image_images(loaded: "LoadedProject", split: Split, found: Findings) -> tuple[Path, ...]:
    """Images whose labels are in files of their own, but no text files."""
    from segc.data.formats.splits import note_unused_labels

    images, folders, unread = _split_images(loaded, split, found)
    note_unused_labels(loaded.project.dataset.format, folders, images, unread, found)
    return _required(images, loaded, split, found)


def _image_samples(loaded: "LoadedProject", split: Split, found: Findings) -> tuple[Sample, ...]:
    from segc.data.formats.splits import read_images

    dataset = loaded.project.dataset
    images = list_images(loaded, split, found)
    return read_images(images, dataset.format, dataset.names, found, skip=dataset.corrupt == "skip")


_LISTINGS: dict[str, Callable[["LoadedProject", Split, Findings], tuple[Path, ...]]] = {
    "yolo": _yolo_images,
    "coco": _coco_images,
    "labelme": _image_images,
    "cvat": _cvat_images,
    "voc": _image_images,
    "masks": _image_images,
}
_READERS: dict[str, Callable[["LoadedProject", Split, Findings], tuple[Sample, ...]]] = {
    "yolo": _yolo_samples,
    "coco": _coco_samples,
    "labelme": _image_samples,
    "cvat": _cvat_samples,
    "voc": _image_samples,
    "masks": _image_samples,
}

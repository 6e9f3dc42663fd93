"""Datasets without a project: a folder or a file of labels, opened as a project would name it."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segc.data.listing import folder_images
from segc.data.samples import Split
from segc.diagnostics import Diagnostic, Findings, SegcError, fail
from segc.spec.layouts import Splits, folder_splits, list_splits, recorded_names

if TYPE_CHECKING:
    from segc.spec.load import LoadedProject

Format = Literal["yolo", "coco", "labelme", "cvat", "voc", "masks"]


def open_dataset(
    source: Path,
    form: Format | None = None,
    *,
    names: Sequence[str] = (),
    images: Path | None = None,
    overrides: Sequence[str] = (),
) -> tuple["LoadedProject", tuple[Split, ...]]:
    """The dataset of a project file, of a YOLO data file, or of labels alone, and the splits that it has.

    A folder with a data file is what that says; one without ``val`` is one split. Labels alone are a folder of images
    with LabelMe's files, with ``images/`` and ``labels/`` or ``masks/``, or of Pascal VOC; a COCO JSON; a CVAT XML.
    They are one split, ``train``, unless there are folders or lists of ``train`` and of ``val`` or ``test``; what is in
    none of these is left out with a warning. Classes of a folder that a conversion made are those of its account.

    Args:
        source: the file or folder.
        form: its format, where it is not to be told by what is there.
        names: class names, in place of those that the labels use.
        images: the folder of the images that a COCO or CVAT file is about; else the one beside it that has the first.
        overrides: of a project, as ``--set`` has them.

    Raises:
        SegcError: F001 where it is not there, D035 where it is nothing of these; else all that is wrong with it.
    """
    from segc.spec.load import check_text, load_project
    from segc.spec.remedies import near

    if not source.exists():
        raise fail("F001", f"no such file or folder: {source}", file=source)
    if form is None and source.is_dir():
        source = next((source / name for name in _DATA_FILES if (source / name).is_file()), source)
    odd: tuple[Diagnostic, ...] = ()
    if source.suffix.lower() in {".yaml", ".yml"} and source.is_file():
        described = _data_file(source)
        if described is None:
            project = load_project(source, overrides)
            return project, _splits(project)
        dataset: dict[str, Any] = {"data": source.name}
        root = source.parent
        if "train" in described and not any(isinstance(key, str) and near(key, ["val"]) for key in described):
            dataset["val"] = described["train"]  # it is all that there is
    else:
        root = source if source.is_dir() else source.parent
        known = form or _recognise(source)
        if known is None:
            return _annotated(source, names)
        dataset, odd = _described(source, known, names, images)
    spec = {
        "version": 1,
        "name": "dataset",
        "architecture": {"family": "yolov8-seg", "scale": "n"},
        "dataset": dataset,
    }
    # JSON is YAML; nothing stands in this file, its place is what paths are relative to.
    place = root.absolute() / "project.yaml"
    loaded, diagnostics = check_text(json.dumps(spec), place, overrides)
    if loaded is None:
        raise SegcError(tuple(_placed(one, source) if one.file == place else one for one in diagnostics))
    return replace(loaded, warnings=(*loaded.warnings, *odd)), _splits(loaded)


def _placed(found: Diagnostic, source: Path) -> Diagnostic:
    """A finding about a spec that nobody wrote, as one about the labels that it was made for."""
    return replace(found, file=source, line=None, column=None, snippet=None)


def _annotated(folder: Path, names: Sequence[str]) -> tuple["LoadedProject", tuple[Split, ...]]:
    """A folder with annotation files of COCO or CVAT somewhere in it, as ``segc init --from`` finds them."""
    from segc.spec.init import project_text
    from segc.spec.load import check_text

    place = folder.absolute() / "project.yaml"
    named = [f"dataset.names={json.dumps(list(names))}"] if names else []
    try:
        loaded, _ = check_text(project_text(place, folder)[0], place, named)
    except SegcError as error:
        if any(one.code != "X223" for one in error.diagnostics):
            raise
        loaded = None
    if loaded is None or loaded.project.dataset.annotations is None:
        raise fail(
            "D035",
            f"{folder} is no dataset that segc recognises",
            file=folder,
            help="it knows project and data files, a COCO JSON, a CVAT XML, folders with one of these, with LabelMe's "
            "files, with images/ and labels/ or masks/, or with JPEGImages/; --from names the format",
        )
    return loaded, _splits(loaded, ("train", "test", "val"))  # test images are no others for being validated on


def _splits(loaded: "LoadedProject", order: Sequence[Split] = ("train", "val", "test")) -> tuple[Split, ...]:
    """The splits that a project names, each once: for want of others many validate on other images.

    Args:
        loaded: the project.
        order: of several splits with the same images the first in this order counts.
    """
    dataset = loaded.project.dataset
    first: dict[tuple[Path, ...], Split] = {}
    for split in order:
        if getattr(dataset, split) is not None:
            files = () if dataset.annotations is None else (loaded.annotations_path(split),)
            first.setdefault((*files, *loaded.split_paths(split)), split)
    every: tuple[Split, ...] = ("train", "val", "test")
    return tuple(split for split in every if split in first.values())


def _data_file(path: Path) -> dict[Any, Any] | None:
    """What a YOLO data file says; None for a project, and for what is neither, which its loader tells."""
    from segc.spec.source import SpecText, compose, read_source

    source = read_source(path)
    if not isinstance(source, SpecText):
        return None
    root, _ = compose(source)
    if root is None or not isinstance(root.value, dict) or "names" not in root.value or "dataset" in root.value:
        return None
    return {key: node.plain() for key, node in root.value.items() if node.value is not None}


def _recognise(source: Path) -> Format | None:
    """The format of labels, by the files that are there, where they have a file for every image."""
    if source.is_file():
        by_suffix: dict[str, Format] = {".json": "coco", ".xml": "cvat"}
        if source.suffix.lower() in by_suffix:
            return by_suffix[source.suffix.lower()]
    elif (source / "JPEGImages").is_dir():
        return "voc"
    elif (source / "images").is_dir() and (source / "masks").is_dir():
        return "masks"
    elif (source / "images").is_dir() and (source / "labels").is_dir():
        return "yolo"
    elif any(path.with_suffix(".json").is_file() for path in _pictures(source)):
        return "labelme"
    return None


def _described(
    source: Path, form: Format, names: Sequence[str], images: Path | None
) -> tuple[dict[str, Any], tuple[Diagnostic, ...]]:
    """The ``dataset`` section for labels alone, and what is odd about where its images are."""
    if form in {"coco", "cvat"}:
        files = {"annotations": {"train": source.name, "val": source.name}}
        splits, odd = _one_file(source, images)
    else:
        files = {}
        splits, odd = _folders(source, form)
    test = {} if splits.test is None else {"test": splits.test}
    classes = list(names) or _names(source, form)
    if form == "masks" and not names and not recorded_names(source, form):
        shown = ", ".join(classes[:_MOST_NAMES]) + (", …" if len(classes) > _MOST_NAMES else "")
        text = f"the classes are what files of masks are called, numbers at either end left out: {shown}"
        odd = (*odd, Diagnostic("X205", text, "warning", file=source, help="--names gives them as they are"))
    return {
        "path": ".",
        "format": form,
        **files,
        "train": splits.train,
        "val": splits.val or splits.train,  # it is all that there is
        **test,
        "names": classes,
    }, odd


def _one_file(source: Path, images: Path | None) -> tuple[Splits, tuple[Diagnostic, ...]]:
    """The one split of an annotation file: the folder of its images."""
    from segc.data.coco import EntryError, image_place
    from segc.spec.takeover import first_name, images_of

    folder = (images or images_of(source)).absolute()
    splits, name = Splits(str(folder)), first_name(source)
    if images is not None or name is None:
        return splits, ()
    try:
        image_place(name, [folder])
    except EntryError:
        text, way_out = f"its first image is not in {folder}, nor in folders near it", "name the folder: --images DIR"
        return splits, (Diagnostic("X212", text, "warning", file=source, help=way_out),)
    return splits, ()


def _folders(source: Path, form: Format) -> tuple[Splits, tuple[Diagnostic, ...]]:
    """The splits of a folder, and what of it is in none."""
    inner = {"yolo": "images", "masks": "images", "voc": "JPEGImages"}.get(form)
    place = inner if inner and (source / inner).is_dir() else "."
    if form == "voc" and (listed := list_splits(source)):
        return listed, _unlisted(source, listed)
    splits = folder_splits(source, "{}" if place == "." else f"{place}/{{}}") or Splits(place)
    if splits.left_out is None:
        return splits, ()
    return splits, (Diagnostic("D035", splits.left_out, "warning", file=source, count=len(splits.left), help=_TO_NAME),)


_MOST_NAMES = 12
_TO_NAME = "write a project.yaml, or a data.yaml, that names what belongs to each split"


def _unlisted(source: Path, lists: Splits) -> tuple[Diagnostic, ...]:
    """How many images are in none of the lists of VOC."""
    from segc.data.formats.splits import take_voc_list
    from segc.data.formats.voc import images_by_stem
    from segc.data.lists import Listed

    named = Listed(Findings(), skip=True)
    for one in (lists.train, lists.val, lists.test):
        if one is not None:
            take_voc_list(source / one, source, named)
    total = len(images_by_stem(source))
    left = total - len(named.images())
    if not left:
        return ()
    text = f"{left} of {total} images are in none of the lists that are taken, and left out"
    places = source / Path(lists.train).parent
    return (Diagnostic("D022", text, "warning", file=places, count=left),)


_DATA_FILES = ("data.yaml", "data.yml", "dataset.yaml")


def _names(source: Path, form: Format) -> list[str]:
    """The class names that labels use; what can be none is told by who reads the labels, with its place.

    Raises:
        SegcError: X205 where they do not tell any.
    """
    found = recorded_names(source, form) or _NAMES[form](source)
    names = list(dict.fromkeys(name.strip() for name in found if name.strip() and name.isprintable()))
    if not names:
        raise fail(
            "X205", f"{source} does not tell the names of its classes", file=source, help="give them with --names"
        )
    return names


def _yolo_names(source: Path) -> Iterable[str]:
    file = next((path for name in ("classes.txt", "obj.names") if (path := source / name).is_file()), None)
    return [] if file is None else [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]


def _coco_names(source: Path) -> Iterable[str]:
    from segc.data.coco import categories_of

    return categories_of(source)


def _cvat_names(source: Path) -> Iterable[str]:
    from segc.data.formats.cvat import labels_in

    return labels_in(source)


def _labelme_names(source: Path) -> Iterable[str]:
    from segc.data.formats.labelme import labels_in

    return sorted({name for image in _pictures(source) for name in labels_in(image)})


def _voc_names(source: Path) -> Iterable[str]:
    from segc.data.formats.common import Fault
    from segc.data.formats.voc import labelmap, labels_in

    try:
        mapped = labelmap(source)
    except Fault as fault:
        raise fail(fault.code, fault.message, file=source / "labelmap.txt") from None
    return mapped.values() or sorted({name for image in _pictures(source / "JPEGImages") for name in labels_in(image)})


def _mask_names(source: Path) -> Iterable[str]:
    from segc.data.formats.masks import labels_in

    return sorted({name for image in _pictures(source / "images") for name in labels_in(image)}) or ["object"]


def _pictures(folder: Path) -> list[Path]:
    return sorted(folder_images(folder, lambda _: None).images)  # what is left out is told by who reads them


_NAMES: dict[Format, Callable[[Path], Iterable[str]]] = {
    "yolo": _yolo_names,
    "coco": _coco_names,
    "labelme": _labelme_names,
    "cvat": _cvat_names,
    "voc": _voc_names,
    "masks": _mask_names,
}

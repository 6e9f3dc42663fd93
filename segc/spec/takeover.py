"""What a new project takes over from elsewhere: data files, arguments of finished runs, models, COCO files, folders."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from segc.diagnostics import Diagnostic, SegcError, fail
from segc.files import is_file
from segc.inference.kinds import IMAGE_SUFFIXES
from segc.json_stream import Elements, JsonError, members
from segc.spec.categories import CategoriesError, first_image, read_categories
from segc.spec.dataset import DataFile
from segc.spec.hyperparameters import Augment, Hyperparameters
from segc.spec.layouts import SPLIT_NAMES, Layout, Splits, folder_splits, layout_of, recorded_names
from segc.spec.paths import expand
from segc.spec.recognise import NAMED, Kind, kind_of
from segc.spec.source import compose, read_source

_SCALE = re.compile(r"yolov8([nsmlx])(-seg)?\b")
_DATA_FILES = ("data.yaml", "data.yml", "dataset.yaml")
_NAME_FILES = ("classes.txt", "labels/classes.txt", "obj.names", "_darknet.labels")
_ANNOTATIONS = "_annotations.coco.json"
_MOST_LABELS_READ = 20_000
_MOST_FOLDERS = 100
_LONGEST_HEAD = 1 << 20


@dataclass
class Origin:
    """What is taken over.

    Attributes:
        dataset: the lines of the dataset's section, but for paths relative to the project: ``{folder}`` and ``{file}``.
        paths: what stands for those, absolute.
        scale: of the network.
        hyperparameters: values by key; those of augment as ``augment.key``.
        notes: what became of each thing that was not simply taken, in lines.
    """

    dataset: str | None = None
    paths: dict[str, Path] = field(default_factory=dict)
    scale: str = "n"
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def take_over(source: Path) -> Origin:
    """What a file or a folder gives a new project.

    Raises:
        SegcError: F001 where it is not there, X223 where it is of no kind that is known.
    """
    if source.is_dir():
        return _from_folder(source)
    if source.suffix.lower() == ".json":
        if _labelme_shapes(source) is not None:
            return _from_labelme(source.parent, _beside_images(source.parent))
        return _from_coco(source)
    if source.suffix.lower() == ".xml":
        return _from_cvat(source)
    if source.is_file() and _is_archive(source):
        message = "this is an archive, and what a project names has to be there unpacked"
        raise fail("X223", message, file=source, help="unpack it, and give the folder to --from")
    text = read_source(source)
    if isinstance(text, Diagnostic):
        raise SegcError(text)
    root, found = compose(text)
    if root is None or not isinstance(root.value, dict):
        raise SegcError(found or [_unknown(source)])
    kind = kind_of(root.value)
    taker = _TAKERS.get(kind) if kind else None
    if taker is None:
        raise SegcError(_unknown(source, kind))
    return taker(source, root.plain())


def _is_archive(file: Path) -> bool:
    from tarfile import is_tarfile
    from zipfile import is_zipfile

    return is_zipfile(file) or is_tarfile(file)


def _unknown(source: Path, kind: Kind | None = None) -> Diagnostic:
    named = f"this is {NAMED[kind]}" if kind else "this is no file that a project can be made of"
    advice = (
        "a YOLO data file, args.yaml, a model's .yaml, COCO or CVAT annotations, or a folder with images and labels"
    )
    return Diagnostic("X223", named, file=source, help=f"take {advice}")


def _from_data_file(source: Path, values: Mapping[str, Any]) -> Origin:
    lines = "  format: yolo\n  data: {file}  # path, train, val and names are taken from there\n"
    unused = [str(key) for key in values if key not in DataFile.model_fields]
    notes = [f"not used of the data file: {', '.join(unused)}"] if unused else []
    return Origin(lines, {"file": source}, notes=notes)


# -- a model's file


def _from_model(source: Path, values: Mapping[str, Any]) -> Origin:
    modules = [str(row[2]) for part in ("backbone", "head") for row in values.get(part) or () if len(row) > 2]
    if "Segment" not in modules or "C2f" not in modules:
        heads = ", ".join(dict.fromkeys(modules[-1:])) or "nothing"
        text = f"the model is of another family: its head is {heads}, and segc has yolov8-seg"
        raise fail("X223", text, file=source)
    found = _SCALE.search(source.name)
    scale = values.get("scale") or (found[1] if found else None)
    notes = ["backbone, head: the family yolov8-seg, built by segc itself"]
    notes.append(f"scale: {scale}" if scale else "scale: not in the file nor in its name; n is taken")
    count = values.get("nc")
    if isinstance(count, int) and 0 < count <= 1000:
        notes.append(f"nc: {count} names that stand for the classes; write the real ones into dataset.names")
        names = _names([f"class{index}" for index in range(count)])
        return Origin(_GIVEN.format(names=names), {"folder": source.parent / "data"}, str(scale or "n"), notes=notes)
    return Origin(scale=str(scale or "n"), notes=notes)


_GIVEN = """\
  path: {{folder}}  # relative to this file
  format: yolo
  train: images/train
  val: images/val
  names: {names}
"""


# -- the arguments of a finished run


def _from_arguments(source: Path, values: Mapping[str, Any]) -> Origin:
    origin = Origin()
    for key, value in values.items():
        origin.notes.append(f"{key}: {_argument(key, value, origin, source)}")
    return origin


def _argument(key: str, value: Any, origin: Origin, source: Path) -> str:
    """Take over an argument; gives what it became, or why it has no counterpart."""
    if key in _PLACED:
        return _PLACED[key](value, origin, source)
    if value is None:
        return "not set there"
    try:
        name, converted = _CONVERTED.get(key, lambda given: (key, given))(value)
    except (TypeError, ValueError):
        return f"left out, `{value}` is no value of it"
    if name in _DEFAULTS:
        return _hyperparameter(name, converted, origin)
    if f"augment.{name}" in _DEFAULTS:
        return _hyperparameter(f"augment.{name}", converted, origin)
    reason = next((reason for reason, keys in _WITHOUT_COUNTERPART.items() if key in keys), "segc has no such setting")
    return f"no counterpart: {reason}"


def _hyperparameter(name: str, value: Any, origin: Origin) -> str:
    model, key = (Augment, name.removeprefix("augment.")) if name.startswith("augment.") else (Hyperparameters, name)
    default = _DEFAULTS[name]
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    try:
        model.model_validate({key: value})
    except ValidationError as error:
        return f"left out, {error.errors()[0]['msg']}"
    if value == default:
        return f"hyperparameters.{name}, the default"
    origin.hyperparameters[name] = value
    return f"hyperparameters.{name}"


def _defaults() -> dict[str, Any]:
    plain = {name: info.default for name, info in Hyperparameters.model_fields.items() if name != "augment"}
    return plain | {f"augment.{name}": info.default for name, info in Augment.model_fields.items()}


_DEFAULTS = _defaults()


def _take_model(value: Any, origin: Origin, _: Path) -> str:
    found = _SCALE.search(str(value))
    if found is None:
        return "architecture.scale is n: the name does not tell the scale of a yolov8-seg"
    origin.scale = found[1]
    weights = ", but not its weights: name a file in architecture.weights to start from it"
    return f"architecture.scale {found[1]}{weights if str(value).endswith('.pt') else ''}"


def _take_data(value: Any, origin: Origin, source: Path) -> str:
    text = expand(str(value))
    folders = (Path.cwd(), source.parent, *list(source.parents)[1:4])
    file = next((folder / text for folder in folders if is_file(folder / text)), None)
    if file is None:
        return f"`{value}` is not there: write the dataset's section by hand, or use --from with the data file"
    taken = _from_data_file(file, {})
    origin.dataset, origin.paths = taken.dataset, taken.paths
    return f"dataset.data, {file}"


def _take_task(value: Any, _: Origin, source: Path) -> str:
    if value not in {None, "segment"}:
        raise fail("X223", f"the run is of the task {value}; segc trains networks that segment", file=source)
    return "what segc does"


_PLACED: Mapping[str, Callable[[Any, Origin, Path], str]] = {
    "model": _take_model,
    "data": _take_data,
    "task": _take_task,
}

_CONVERTED: Mapping[str, Callable[[Any], tuple[str, Any]]] = {
    "batch": lambda value: ("batch", "auto" if isinstance(value, int | float) and value < 1 else value),
    "imgsz": lambda value: ("imgsz", value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value),
    "amp": lambda value: ("precision", "auto" if value else "fp32"),
    "nbs": lambda value: ("nominal_batch", value),
    "cache": lambda value: ("cache", {True: "ram", False: "auto", "True": "ram"}.get(value, value)),
    "device": lambda value: ("device", f"cuda:{value}" if str(value).isdecimal() else str(value)),
    "multi_scale": lambda value: ("multi_scale", 0.5 if value is True else float(value or 0)),
    "freeze": lambda value: ("freeze", tuple(f"model.{one}" for one in value) if isinstance(value, tuple) else value),
    "warmup_bias_lr": lambda value: ("warmup_bias_lr", float(value)),
}

_WITHOUT_COUNTERPART: Mapping[str, frozenset[str]] = {
    "given to `segc train`, --name and --resume, or kept anyway": frozenset(
        ["project", "name", "exist_ok", "resume", "save", "save_period", "save_dir", "plots", "verbose", "cfg", "mode"]
    ),
    "always so in segc": frozenset(["deterministic"]),
    "an option of a target, write it under targets": frozenset(
        ["format", "keras", "optimize", "int8", "half", "dynamic", "simplify", "opset", "workspace", "nms"]
    ),
    "an option of `segc predict` or of its script": frozenset(
        [
            *("source", "vid_stride", "stream_buffer", "visualize", "retina_masks", "embed", "show", "save_frames"),
            *("save_txt", "save_conf", "save_crop", "show_labels", "show_conf", "show_boxes", "line_width"),
            *("agnostic_nms", "augment", "tracker", "dnn"),
        ]
    ),
    "an option of `segc val`": frozenset(["split", "save_json", "val"]),
    "about another task": frozenset(["pose", "kobj", "dropout", "erasing", "auto_augment"]),
    "weights are named in architecture.weights": frozenset({"pretrained"}),
    "set dataset.single_cls or dataset.classes": frozenset(["single_cls", "classes"]),
    "segc does not change images in this way": frozenset(["bgr", "cutmix"]),
}


# -- COCO


def _from_coco(source: Path) -> Origin:
    try:
        names = list(read_categories(source).values())
    except CategoriesError as error:
        raise fail("X223", f"no COCO annotations that a project can be made of: {error}", file=source) from None
    return _annotated(source, "coco", names, [f"names: {len(names)} categories, in the order of their ids"])


def _annotated(source: Path, form: str, names: Iterable[str], notes: list[str]) -> Origin:
    """A project of an annotation file, with those of validation and test images where some lie beside it."""
    files = {"train": source, **{split: file for split in ("val", "test") if (file := _partner(source, split))}}
    if "val" not in files:
        files["val"] = files.get("test", source)
        notes.append(_FOR_WANT["test" if "test" in files else "train"])
    folders = {split: images_of(file) for split, file in files.items()}
    root = Path(os.path.commonpath([path for split, file in files.items() for path in (file.parent, folders[split])]))
    places = ", ".join(f"{split}: {_inside(file, root)}" for split, file in files.items())
    lines = {
        "annotations": f"{{{places}}}",
        **{split: _inside(folder, root) for split, folder in folders.items()},
        "names": _names(names),
    }
    lost = {file.name: split for split, file in files.items() if not _has(folders[split], first_name(file))}
    notes += [f"the images of {name} were not found: write their folder into {split}" for name, split in lost.items()]
    body = "".join(f"  {key}: {value}\n".replace("{", "{{").replace("}", "}}") for key, value in lines.items())
    head = f"  path: {{folder}}  # relative to this file\n  format: {form}\n"
    return Origin(head + body, {"folder": root}, notes=notes)


_FOR_WANT: Mapping[str, str] = {
    "train": "val: the training images, for want of others; `segc data split` holds some back",
    "test": "val: the test images, for want of others",
}
"""What is said where there is nothing to validate on, by what is taken for it."""


def _partner(source: Path, split: str) -> Path | None:
    """The annotation file of another split beside one of the training images."""
    if "train" not in source.as_posix():
        return None
    candidates = (
        file
        for name in SPLIT_NAMES[split]
        for file in (source.with_name(re.sub("train", name, source.name)), source.parent.parent / name / source.name)
    )
    return next((file for file in candidates if file != source and file.is_file()), None)


def images_of(source: Path) -> Path:
    """The folder that an annotation file's image names start from."""
    split = next((name for names in SPLIT_NAMES.values() for name in names if name in source.stem), "")
    above = source.parent.parent
    candidates = (
        source.parent,
        source.parent / "images",
        *(folder / sub for folder in (source.parent, above) for sub in (split, f"images/{split}", f"{split}/images")),
        *(above / name for names in SPLIT_NAMES.values() for name in names if name in source.stem),
        above / "images",
        above,
        *sorted(folder for folder in source.parent.iterdir() if folder.is_dir())[:_MOST_FOLDERS],
    )
    fallback = source.parent / "images" if (source.parent / "images").is_dir() else source.parent
    name = first_name(source)
    return next((folder for folder in candidates if _has(folder, name)), fallback)


def first_name(source: Path) -> str | None:
    """The first image that an annotation file of COCO or CVAT names; None where it names none.

    Raises:
        OSError: where the file cannot be read.
    """
    if not source.stat().st_size:
        return None
    return _first_in_cvat(source) if source.suffix.lower() == ".xml" else first_image(source)


def _has(folder: Path, name: str | None) -> bool:
    return name is not None and os.path.isfile(folder / name)  # noqa: PTH113 - also for impossible names


# -- folders


def _from_folder(folder: Path) -> Origin:
    data = next((folder / name for name in _DATA_FILES if (folder / name).is_file()), None)
    if data is not None:
        return take_over(data)
    annotations = next(
        (
            file
            for pattern in (f"train*/{_ANNOTATIONS}", "annotations/instances_train*.json", f"*/{_ANNOTATIONS}")
            for file in sorted(folder.glob(pattern))
        ),
        None,
    )
    if annotations is not None:
        return _from_coco(annotations)
    for pattern in ("*.xml", "annotations/train*.xml", "annotations/*.xml"):
        if (cvat := next((file for file in sorted(folder.glob(pattern)) if _cvat_names(file)), None)) is not None:
            return _from_cvat(cvat)
    if (layout := layout_of(folder)) is not None:
        return _from_layout(folder, layout)
    if (records := _beside_images(folder)) and _labelme_shapes(records[0]) is not None:
        return _from_labelme(folder, records)
    for place in ("images/{}", "{}/images", "{}"):
        if splits := folder_splits(folder, place):
            return _from_tree(folder, splits)
    if (folder / "images").is_dir():
        return _from_tree(folder, Splits("images"))
    raise fail(
        "X223",
        "no dataset that is known is in this folder",
        file=folder,
        help="it would hold data.yaml, images/train with labels/train, train/images with train/labels, images with "
        "masks, JPEGImages, or files of COCO, CVAT or LabelMe",
    )


def _from_layout(folder: Path, layout: Layout) -> Origin:
    """A project of Pascal VOC or of masks."""
    if not layout.names:
        text = "nothing here tells the names of the classes: neither labelmap.txt nor records in Annotations"
        advice = "write labelmap.txt, a line a class: `name:red,green,blue::`"
        raise fail("X223", text, file=folder, help=advice)
    origin = _split_project(folder, layout.format, layout.splits, layout.names)
    origin.notes += layout.notes
    return origin


def _beside_images(folder: Path) -> list[Path]:
    """The first JSON files, sorted, that have the name of an image beside them; settings and reports have none."""
    images = {path.with_suffix("") for path in folder.rglob("*.*") if path.suffix.lower() in IMAGE_SUFFIXES}
    files = (path for path in sorted(folder.rglob("*.json")) if path.with_suffix("") in images)
    return list(islice(files, _MOST_LABELS_READ))


def _from_labelme(folder: Path, records: Iterable[Path]) -> Origin:
    """A project of images with LabelMe's files beside them."""
    names = recorded_names(folder, "labelme") or sorted({name for file in records for name in _labelme_names(file)})
    if not names:
        raise fail("X223", "LabelMe's files in this folder have no shape", file=folder)
    return _split_project(folder, "labelme", folder_splits(folder, "{}") or Splits("."), names)


def _labelme_names(file: Path) -> set[str]:
    """Labels of the shapes of a LabelMe file."""
    labels = (shape.get("label") for shape in _labelme_shapes(file) or () if isinstance(shape, dict))
    return {label.strip() for label in labels if isinstance(label, str) and label.strip()}


def _labelme_shapes(file: Path) -> list[Any] | None:
    """The shapes of a LabelMe file; None where it is another's, which is told without reading all of it."""
    shapes, names_image = None, False
    try:
        for key, value in members(file):
            if key in {"images", "annotations", "categories"}:
                return None
            names_image = names_image or key == "imagePath"
            if key == "shapes" and isinstance(value, Elements):
                shapes = list(value)
    except JsonError:
        return None
    return shapes if names_image else None


def _from_cvat(source: Path) -> Origin:
    """A project of a CVAT XML for images."""
    names = _cvat_names(source)
    if not names:
        text = "this is no CVAT XML for images, version 1.1, that names its labels"
        raise fail("X223", text, file=source)
    return _annotated(source, "cvat", names, [])


def _cvat_names(source: Path) -> list[str]:
    """The labels that the head of a CVAT XML names."""
    from html import unescape

    head = _head(source)
    if "<annotations>" not in head:
        return []
    found = re.findall(r"<label>\s*<name>([^<]{1,200})</name>", head)
    return list(dict.fromkeys(unescape(name).strip() for name in found))


def _first_in_cvat(source: Path) -> str | None:
    """The first name of an image in the head of a CVAT XML."""
    from html import unescape

    found = re.search(r"<image\b[^>]*?\bname=(?:\"([^\"]*)\"|'([^']*)')", _head(source))
    return None if found is None else unescape(found[1] or found[2] or "")


def _head(source: Path) -> str:
    with source.open("rb") as file:
        return file.read(_LONGEST_HEAD).decode("utf-8", errors="replace")


def _split_project(folder: Path, form: str, splits: Splits, names: Iterable[str]) -> Origin:
    """A project of a folder, with a word where there is nothing to validate on, and on what is left out."""
    entries = {"train": splits.train, "val": splits.val, "test": splits.test}
    notes = []
    if splits.val is None:
        notes.append(_FOR_WANT["train" if splits.test is None else "test"])
        entries["val"] = splits.test or splits.train
    if splits.left_out:
        notes.append(splits.left_out)
    body = "".join(f"  {split}: {scalar(entry)}\n" for split, entry in entries.items() if entry)
    body = f"{body}  names: {_names(names)}\n".replace("{", "{{").replace("}", "}}")
    return Origin(
        f"  path: {{folder}}  # relative to this file\n  format: {form}\n{body}", {"folder": folder}, notes=notes
    )


def _from_tree(folder: Path, splits: Splits) -> Origin:
    """A project of images with YOLO labels."""
    names, note = _tree_names(folder)
    origin = _split_project(folder, "yolo", splits, names)
    origin.notes.append(note)
    return origin


def _tree_names(folder: Path) -> tuple[list[str], str]:
    """Class names from a file of them, else as many as the labels have numbers."""
    for name in _NAME_FILES:
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8-sig", errors="replace")
            if names := [line.strip() for line in text.splitlines() if line.strip()]:
                return list(dict.fromkeys(names)), f"names: {len(names)} from {name}"
    highest = 0
    for _, file in zip(range(_MOST_LABELS_READ), sorted(folder.rglob("*.txt")), strict=False):
        with file.open("rb") as rows:
            labels = (row.split() for row in rows)
            numbers = (int(one[0]) for one in labels if len(one) >= 5 and one[0].isdigit() and len(one[0]) < 5)
            highest = max(highest, *numbers, 0)
    count = highest + 1
    note = f"names: {count}, as many as the labels have numbers; write the real ones into dataset.names"
    return [f"class{index}" for index in range(count)], note


def _names(names: Iterable[str]) -> str:
    return f"[{', '.join(map(scalar, names))}]"


def _inside(path: Path, root: Path) -> str:
    return scalar(path.relative_to(root).as_posix())


def scalar(text: str) -> str:
    """Text as a YAML scalar that means just that text, also inside of brackets."""
    plain = re.fullmatch(r"[A-Za-z./][A-Za-z0-9_./-]*", text) and text.lower() not in {"null", "true", "false"}
    return text if plain and not text.startswith(".nan") else "'" + text.replace("'", "''") + "'"


def relative(path: Path, folder: Path) -> str:
    """A path as it is written in a file of a folder."""
    try:
        return PurePath(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return path.absolute().as_posix()


_TAKERS: Mapping[Kind, Callable[[Path, Mapping[str, Any]], Origin]] = {
    "data": _from_data_file,
    "arguments": _from_arguments,
    "model": _from_model,
}

"""The dataset: where its images are and what its classes are called."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from segc.inference.filters import class_hint
from segc.inference.metadata import MOST_CLASSES
from segc.schema import Problem, SpecModel, refuse


def _split(value: Any) -> str | tuple[str, ...]:
    """One folder, or several."""
    paths = list(value) if isinstance(value, list | tuple) else [value]
    if not paths:
        refuse([Problem("S107", (), "a split has at least one folder of images", "for example `train: images/train`")])
    found = [
        Problem("S103", (index,) if isinstance(value, list | tuple) else (), f"a folder is text, not `{path}`")
        if not isinstance(path, str)
        else Problem("S106", (index,) if isinstance(value, list | tuple) else (), "the name of a folder is empty")
        for index, path in enumerate(paths)
        if not isinstance(path, str) or not path.strip()
    ]
    refuse(found)
    return value if isinstance(value, str) else tuple(value)


def _class_names(value: Any) -> tuple[str, ...]:
    """Names in the order of their indices, from a list or a mapping of index to name."""
    if isinstance(value, str) and value.strip():
        refuse([Problem("S103", (), "class names are a list or a mapping", f"of one name: `names: [{value.strip()}]`")])
    if isinstance(value, str) or not isinstance(value, Mapping | Sequence):
        refuse([Problem("S103", (), "class names are a list or a mapping", "for example `names: [person, bicycle]`")])
    named = _numbered(value) if isinstance(value, Mapping) else dict(enumerate(value))
    turned = all(type(number) is int for number in named.values())
    found = [
        Problem(
            "X203",
            (key,),
            f"class indices are whole numbers from 0 on, `{key}` is not",
            f"the number comes first: `{number}: {key}`" if turned else None,
            at_key=True,
        )
        for key, number in named.items()
        if type(key) is not int or key < 0
    ]
    if found and turned:
        refuse(found)
    if not found:
        missing = next((index for index in range(len(named)) if index not in named), None)
        if missing is not None:
            highest = max(named)
            text = f"class indices run from 0 to {len(named) - 1} here, but {missing} is missing and {highest} is given"
            way_out = "count from 0" if missing == 0 else f"give number {missing} a name, too"
            found.append(Problem("X203", (highest,), text, way_out, at_key=True))
    found += _name_problems(named)
    refuse(found)
    return tuple(named[index] for index in range(len(named)))


def _numbered(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """A mapping with indices as numbers where they are written in quotes, as other programs write them."""
    texts = [key for key in value if isinstance(key, str) and re.fullmatch("0|[1-9][0-9]{0,8}", key)]
    if len(texts) < len(value):
        return dict(value)
    return {int(key): name for key, name in value.items()}


def _name_problems(named: Mapping[Any, Any]) -> list[Problem]:
    found: list[Problem] = []
    if not named:
        found.append(Problem("X202", (), "there is no class", "for example `names: [person, bicycle]`"))
    if len(named) > MOST_CLASSES:
        found.append(Problem("X202", (), f"{len(named)} classes are more than the {MOST_CLASSES} that segc takes"))
    first: dict[str, Any] = {}
    for key, name in named.items():
        if not isinstance(name, str):
            written = "null" if name is None else name
            text = f"a class name is text, not `{written}`"
            found.append(Problem("S103", (key,), text, f'write "{written}" in quotes if that is the name'))
        elif not name.strip() or not name.isprintable():
            found.append(Problem("X202", (key,), "a class name is empty or has control characters"))
        elif name.strip() in first:
            found.append(Problem("X202", (key,), f"class `{name}` is there already, as number {first[name.strip()]}"))
        else:
            first[name.strip()] = key
    return found


_PATH_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1}
_NAME_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1}

SplitEntries = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_split),
    WithJsonSchema({"anyOf": [_PATH_SCHEMA, {"type": "array", "items": _PATH_SCHEMA, "minItems": 1}]}),
]
"""One folder of images, or several, relative to the dataset's folder or absolute."""

ClassNames = Annotated[
    tuple[str, ...],
    BeforeValidator(_class_names),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": _NAME_SCHEMA, "minItems": 1, "uniqueItems": True, "maxItems": MOST_CLASSES},
                {
                    "type": "object",
                    "patternProperties": {"^(0|[1-9][0-9]*)$": _NAME_SCHEMA},
                    "additionalProperties": False,
                    "minProperties": 1,
                    "maxProperties": MOST_CLASSES,
                },
            ]
        }
    ),
]
"""Class names in the order of their indices. A list, or a mapping from 0..n-1, in YAML."""


def _classes(value: Any) -> tuple[str | int, ...] | None:
    """Names or numbers of classes."""
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        refuse([Problem("S103", (), "classes are a list", "for example `classes: [person]`")])
    if not value:
        refuse([Problem("S107", (), "without any class there is nothing to learn", "leave the key out to take all")])
    found = [
        Problem("S103", (index,), f"a class is a name or a number, not `{item}`")
        for index, item in enumerate(value)
        if type(item) not in {str, int}
    ]
    refuse(found)
    return tuple(value)


Classes = Annotated[
    tuple[str | int, ...] | None,
    BeforeValidator(_classes),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"anyOf": [_NAME_SCHEMA, {"type": "integer", "minimum": 0}]}, "minItems": 1},
                {"type": "null"},
            ]
        }
    ),
]
"""Some of the classes, by name or number."""


_ANNOTATED = ("coco", "cvat")
"""Formats with one annotation file a split."""


def _schema_as_written(schema: dict[str, Any]) -> None:
    """What a data file can give need not stand in the spec."""
    schema["required"] = [key for key in schema["required"] if key not in {"train", "val", "names"}]
    schema["oneOf"] = [
        {"required": ["data"], "not": {"required": ["names"]}, "title": "from an existing data file"},
        {"required": ["train", "val", "names"], "not": {"required": ["data"]}, "title": "given here"},
        {
            "required": ["train", "val", "annotations"],
            "not": {"anyOf": [{"required": ["names"]}, {"required": ["data"]}]},
            "title": "names from the annotation file",
        },
    ]
    schema["if"] = {"properties": {"format": {"enum": list(_ANNOTATED)}}, "required": ["format"]}
    schema["then"] = {"required": ["annotations"]}
    schema["else"] = {"properties": {"annotations": {"type": "null"}}}


class Annotations(SpecModel):
    """Annotation files of COCO's instances format."""

    train: str = Field(
        min_length=1,
        description="Annotations of the training images, relative to the dataset's `path`.",
        examples=["annotations/instances_train2017.json"],
    )
    val: str = Field(
        min_length=1,
        description="Annotations of the validation images, relative to the dataset's `path`.",
        examples=["annotations/instances_val2017.json"],
    )
    test: str | None = Field(
        None,
        min_length=1,
        description="Annotations of the test images, where there are any.",
        examples=["annotations/instances_test.json"],
    )


class Dataset(SpecModel):
    """Where the images and labels are. After loading, what a `data` file says is filled in."""

    model_config = ConfigDict(json_schema_extra=_schema_as_written)

    path: str = Field(
        ".", min_length=1, description="Folder of the dataset, relative to this file.", examples=["../data/shapes"]
    )
    format: Literal["yolo", "coco", "labelme", "cvat", "voc", "masks"] = Field(
        "yolo",
        description="How labels are stored. yolo: one text file of polygons an image. coco: one JSON file of instances "
        "a split, named in `annotations`; `train` and `val` are the folders of their images. cvat: as coco, but with "
        "CVAT's XML for images 1.1. labelme: one JSON file beside every image. voc: Pascal VOC with instances; "
        "`train` and `val` may be lists of ImageSets. masks: PNG masks in masks/ for the images in images/.",
        examples=["yolo"],
    )
    annotations: Annotations | None = Field(
        None,
        description="The annotation files of `format: coco` and `format: cvat`.",
        examples=[{"train": "annotations/instances_train2017.json", "val": "annotations/instances_val2017.json"}],
    )
    train: SplitEntries = Field(
        description="Images to train on: one folder or several, relative to `path`.", examples=["images/train"]
    )
    val: SplitEntries = Field(
        description="Images to validate on: one folder or several, relative to `path`.", examples=["images/val"]
    )
    test: SplitEntries | None = Field(
        None,
        description="Images to test on: one folder or several, relative to `path`. Only `segc val --split test` reads "
        "them.",
        examples=["images/test"],
    )
    names: ClassNames = Field(
        description="Class names in the order of their numbers, or a mapping of number to name. With `format: coco` "
        "they may be fewer than the file's categories, whose other objects are left out; without any, all categories "
        "of the training annotations are taken, in the order of their ids.",
        examples=[["person", "bicycle"]],
    )
    data: str | None = Field(
        None,
        min_length=1,
        description="An existing YOLO data.yaml, relative to this file, to take path, train, val and names from.",
        examples=["data.yaml"],
    )

    classes: Classes = Field(
        None,
        description="Names or numbers of the classes to train and validate on; objects of others are left out. The "
        "network keeps an output for every class.",
        examples=[["person", "bicycle"]],
    )
    single_cls: bool = Field(default=False, description="Take all objects for objects of one class, named object.")
    corrupt: Literal["error", "skip"] = Field(
        "error",
        description="What becomes of a training image or a label that cannot be read: error stops the training; skip "
        "names it and leaves it out; the place of an image is given to another one and counted in the epoch's row. "
        "Validation images must all be readable.",
    )
    boxes: Literal["mask", "ignore", "error"] | None = Field(
        None,
        description="What becomes of objects that are only boxes. mask: their rectangles are taken for masks; ignore: "
        "they are left out of training, and predictions on them count neither as right nor as wrong; error. Where "
        "nothing is said, as mask, with a warning.",
        examples=["mask"],
    )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that the network tells apart, in the order of its outputs."""
        return self.names if not self.single_cls or len(self.names) == 1 else ("object",)

    @property
    def nc(self) -> int:
        """Number of classes that the network tells apart."""
        return len(self.class_names)

    @property
    def chosen_classes(self) -> frozenset[int]:
        """Numbers of the classes, as labels have them, whose objects are taken."""
        if self.classes is None:
            return frozenset(range(len(self.names)))
        return frozenset(self.names.index(one) if isinstance(one, str) else one for one in self.classes)

    @model_validator(mode="after")
    def _check(self) -> Self:
        found: list[Problem] = []
        if self.format in _ANNOTATED and self.annotations is None:
            text = f"{self.format.upper()} annotations are in files that have to be named"
            end = "json" if self.format == "coco" else "xml"
            way_out = f"give `annotations: {{train: annotations/train.{end}, val: annotations/val.{end}}}`"
            found.append(Problem("X214", ("format",), text, way_out))
        if self.format not in _ANNOTATED and self.annotations is not None:
            text = f"annotation files mean nothing with `format: {self.format}`"
            found.append(Problem("X214", ("annotations",), text, "set `format: coco` or `cvat`", at_key=True))
        if self.annotations is not None and (self.test is None) != (self.annotations.test is None):
            where, other = (
                (("test",), "annotations.test") if self.test is not None else (("annotations", "test"), "test")
            )
            text = f"the test images and their annotations go together, and there is no `{other}`"
            found.append(Problem("X214", where, text, at_key=True))
        for index, one in enumerate(self.classes or ()):
            if one not in self.names and not (isinstance(one, int) and 0 <= one < len(self.names)):
                hint = class_hint(str(one), self.names)
                found.append(Problem("X215", ("classes", index), f"there is no class `{one}`", hint))
        refuse(found)
        return self


class DataFile(SpecModel):
    """What segc takes over from a YOLO ``data.yaml``. Other programs read it too, so it may have keys of their own.

    ``train`` and ``val`` may be missing where the spec gives them itself; the loader sees to that.
    """

    model_config = ConfigDict(extra="ignore")

    path: str | None = Field(None, min_length=1, examples=["."])
    train: SplitEntries | None = Field(None, examples=["images/train"])
    val: SplitEntries | None = Field(None, examples=["images/val"])
    test: SplitEntries | None = Field(None, examples=["images/test"])
    names: ClassNames = Field(examples=[["person", "bicycle"]])
    nc: int | None = Field(None, ge=1, examples=[2])

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nc is not None and self.nc != len(self.names):
            text = f"nc is {self.nc}, but there are {len(self.names)} names"
            refuse([Problem("X211", ("nc",), text, "leave nc out: the names tell it")])
        return self


def repeated_splits(dataset: Dataset) -> tuple[str, ...]:
    """Folders, or annotation files, that are both trained and validated on."""
    if dataset.annotations is not None:
        return (dataset.annotations.val,) if dataset.annotations.train == dataset.annotations.val else ()
    both = Counter(
        path
        for split in (dataset.train, dataset.val)
        for path in {entry.rstrip("/") for entry in ([split] if isinstance(split, str) else split)}
    )
    return tuple(path for path, count in both.items() if count > 1)

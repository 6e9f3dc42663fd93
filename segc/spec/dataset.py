"""The dataset: where its images are and what its classes are called."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from segc.spec.base import Problem, SpecModel, refuse

MOST_CLASSES = 10_000


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
    if isinstance(value, str) or not isinstance(value, Mapping | Sequence):
        refuse([Problem("S103", (), "class names are a list or a mapping", "for example `names: [person, bicycle]`")])
    named = dict(value) if isinstance(value, Mapping) else dict(enumerate(value))
    found = [
        Problem("X203", (key,), f"class indices are whole numbers from 0 on, `{key}` is not", at_key=True)
        for key in named
        if type(key) is not int or key < 0
    ]
    if not found:
        missing = next((index for index in range(len(named)) if index not in named), None)
        if missing is not None:
            highest = max(named)
            text = f"class indices run from 0 to {len(named) - 1} here, but {missing} is missing and {highest} is given"
            found.append(Problem("X203", (highest,), text, at_key=True))
    found += _name_problems(named)
    refuse(found)
    return tuple(named[index] for index in range(len(named)))


def _name_problems(named: Mapping[Any, Any]) -> list[Problem]:
    found: list[Problem] = []
    if not named:
        found.append(Problem("X202", (), "there is no class", "for example `names: [person, bicycle]`"))
    if len(named) > MOST_CLASSES:
        found.append(Problem("X202", (), f"{len(named)} classes are more than the {MOST_CLASSES} that segc takes"))
    first: dict[str, Any] = {}
    for key, name in named.items():
        if not isinstance(name, str):
            text = f"a class name is text, not `{'null' if name is None else name}`"
            found.append(Problem("S103", (key,), text, f'write "{name}" in quotes if that is the name'))
        elif not name.strip() or not name.isprintable():
            found.append(Problem("X202", (key,), "a class name is empty or has control characters"))
        elif name in first:
            found.append(Problem("X202", (key,), f"class `{name}` is there already, as number {first[name]}"))
        else:
            first[name] = key
    return found


_PATH_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1}
_NAME_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1}

Split = Annotated[
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


def _schema_as_written(schema: dict[str, Any]) -> None:
    """What a data file can give need not stand in the spec."""
    schema["required"] = [key for key in schema["required"] if key not in {"train", "val", "names"}]
    schema["oneOf"] = [
        {"required": ["data"], "not": {"required": ["names"]}, "title": "from an existing data file"},
        {"required": ["train", "val", "names"], "not": {"required": ["data"]}, "title": "given here"},
    ]


class Dataset(SpecModel):
    """Where the images and labels are. After loading, what a `data` file says is filled in."""

    model_config = ConfigDict(json_schema_extra=_schema_as_written)

    path: str = Field(
        ".", min_length=1, description="Folder of the dataset, relative to this file.", examples=["../data/shapes"]
    )
    format: Literal["yolo"] = Field(
        "yolo", description="How labels are stored. yolo: one text file of polygons an image.", examples=["yolo"]
    )
    train: Split = Field(
        description="Images to train on: one folder or several, relative to `path`.", examples=["images/train"]
    )
    val: Split = Field(
        description="Images to validate on: one folder or several, relative to `path`.", examples=["images/val"]
    )
    names: ClassNames = Field(
        description="Class names in the order of their numbers, or a mapping of number to name.",
        examples=[["person", "bicycle"]],
    )
    data: str | None = Field(
        None,
        min_length=1,
        description="An existing YOLO data.yaml, relative to this file, to take path, train, val and names from.",
        examples=["data.yaml"],
    )

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)


class DataFile(SpecModel):
    """What segc takes over from a YOLO ``data.yaml``. Other programs read it too, so it may have keys of their own.

    ``train`` and ``val`` may be missing where the spec gives them itself; the loader sees to that.
    """

    model_config = ConfigDict(extra="ignore")

    path: str | None = Field(None, min_length=1, examples=["."])
    train: Split | None = Field(None, examples=["images/train"])
    val: Split | None = Field(None, examples=["images/val"])
    names: ClassNames = Field(examples=[["person", "bicycle"]])
    nc: int | None = Field(None, ge=1, examples=[2])

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nc is not None and self.nc != len(self.names):
            text = f"nc is {self.nc}, but there are {len(self.names)} names"
            refuse([Problem("X211", ("nc",), text, "leave nc out: the names tell it")])
        return self


def repeated_splits(dataset: Dataset) -> tuple[str, ...]:
    """Folders that are both trained and validated on."""
    both = Counter(
        path
        for split in (dataset.train, dataset.val)
        for path in {entry.rstrip("/") for entry in ([split] if isinstance(split, str) else split)}
    )
    return tuple(path for path, count in both.items() if count > 1)

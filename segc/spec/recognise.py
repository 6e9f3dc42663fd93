"""What kind of file somebody gives where a project is expected: files of other tools have keys of their own."""

from collections.abc import Collection
from typing import Literal

Kind = Literal["project", "data", "arguments", "model", "coco", "labelme"]

_PROJECT = frozenset({"architecture", "dataset", "hyperparameters", "targets"})
_TELLING: tuple[tuple[Kind, frozenset[str]], ...] = (
    ("model", frozenset({"backbone", "head"})),
    ("arguments", frozenset({"task", "mode", "model"})),
    ("arguments", frozenset({"mode", "data", "epochs"})),
    ("coco", frozenset({"images", "annotations"})),
    ("coco", frozenset({"images", "categories"})),
    ("labelme", frozenset({"shapes", "imagePath"})),
    ("data", frozenset({"train", "val"})),
    ("data", frozenset({"train", "names"})),
    ("data", frozenset({"path", "names"})),
    ("data", frozenset({"train", "nc"})),
)

NAMED: dict[Kind, str] = {
    "project": "a project",
    "data": "a YOLO data file",
    "arguments": "the args.yaml of a finished run",
    "model": "a model file of another project",
    "coco": "a COCO annotation file",
    "labelme": "a LabelMe file",
}
"""What each kind is called."""


def kind_of(keys: Collection[object]) -> Kind | None:
    """The kind of a file with these top-level keys, if they tell."""
    there = {key for key in keys if isinstance(key, str)}
    if there & _PROJECT:
        return "project"
    return next((kind for kind, telling in _TELLING if telling <= there), None)

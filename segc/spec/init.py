"""The project file that ``segc init`` writes: short where choices are needed, complete in comments."""

import os
import re
from pathlib import Path, PurePath

from pydantic import BaseModel

from segc.diagnostics import SegcError
from segc.spec.explain import flow
from segc.spec.hyperparameters import Augment, Hyperparameters
from segc.spec.load import check_text

_SHOWN = ("imgsz", "epochs", "batch")
"""Hyperparameters that stand in a new file uncommented: those that nearly everyone changes."""

_GIVEN_HERE = """\
dataset:
  path: {path}  # relative to this file
  format: yolo  # images/<split>/*.jpg and labels/<split>/*.txt, a row an object: class x1 y1 x2 y2 … in 0..1
  train: images/train
  val: images/val
  names: [object]  # or {{0: person, 1: bicycle}}; or all of this from an existing file with `data: data.yaml`
"""

_TAKEN_OVER = """\
dataset:
  format: yolo
  data: {data}  # path, train, val and names are taken from there
"""

_TEMPLATE = """\
# A segc project. `segc validate` checks this file; `segc build`, `segc train`, `segc val` and `segc emit` follow it.
# For completion in an editor: `segc schema -o project.schema.json`, and the line
#   yaml-language-server: $schema=project.schema.json
# as a comment at the top of this file.
version: 1
name: {name}

architecture:
  family: yolov8-seg
  scale: n  # n, s, m, l or x from smallest to largest, or {{depth: 0.33, width: 0.25, max_channels: 1024}}
  # weights: weights.safetensors  # to start from: own .safetensors, or another project's .pt, read safely

{dataset}
# What is commented out here has the value that is shown.
hyperparameters:
{hyperparameters}
targets:
  - format: onnx
"""


def project_name(folder: Path) -> str:
    """A legal project name, near that of a folder."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("-._")[:100]
    return name or "project"


def project_text(path: Path, data: Path | None = None) -> str:
    """The text of a new ``project.yaml``, which is valid as it stands.

    Args:
        path: Where it is going to be written, absolute.
        data: An existing YOLO ``data.yaml`` to take the dataset from.

    Raises:
        SegcError: where the data file cannot be taken over; its diagnostics point into it.
    """
    if data is None:
        dataset = _GIVEN_HERE.format(path="data")
    else:
        dataset = _TAKEN_OVER.format(data=_quoted(_relative(data, path.parent)))
    text = _TEMPLATE.format(
        name=_quoted(project_name(path.parent)),
        dataset=dataset,
        hyperparameters=_lines(Hyperparameters, "  "),
    )
    loaded, diagnostics = check_text(text, path)
    if loaded is None:
        raise SegcError(diagnostics)
    return text


def _relative(file: Path, folder: Path) -> str:
    try:
        return PurePath(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # another drive
        return file.absolute().as_posix()


def _quoted(text: str) -> str:
    """Text as a YAML scalar that means just that text."""
    plain = re.fullmatch(r"[A-Za-z./][A-Za-z0-9_./-]*", text) and text.lower() not in {"null", "true", "false"}
    return text if plain else "'" + text.replace("'", "''") + "'"


def _lines(model: type[BaseModel], indent: str) -> str:
    lines = []
    for name, field in model.model_fields.items():
        value = "" if isinstance(field.default, Augment) else f" {flow(field.default)}"
        lead = "" if name in _SHOWN else "# "
        lines.append(f"{indent}{lead}{name}:{value}  # {field.description}\n")
        if isinstance(field.default, Augment):
            lines.append(_lines(Augment, indent + "# ").replace("# # ", "#   "))
    return "".join(lines)

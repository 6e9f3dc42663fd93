"""The project file that ``segc init`` writes: short where choices are needed, complete in comments."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from segc.diagnostics import SegcError
from segc.spec.explain import flow
from segc.spec.hyperparameters import Augment, Hyperparameters
from segc.spec.load import check_text
from segc.spec.takeover import Origin, relative, scalar, take_over

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

_TEMPLATE = """\
# A segc project. `segc validate` checks this file; `segc build`, `segc train`, `segc val` and `segc emit` follow it.
# For completion in an editor: `segc schema -o project.schema.json`, and the line
#   yaml-language-server: $schema=project.schema.json
# as a comment at the top of this file.
version: 1
name: {name}

architecture:
  family: yolov8-seg
  scale: {scale}  # n, s, m, l or x from smallest to largest, or {{depth: 0.33, width: 0.25, max_channels: 1024}}
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


def project_text(path: Path, source: Path | None = None) -> tuple[str, list[str]]:
    """The text of a new ``project.yaml``, which is valid as it stands, and notes on what was taken over.

    Args:
        path: Where it is going to be written, absolute.
        source: What to take over, see :func:`segc.spec.takeover.take_over`.

    Raises:
        SegcError: where that cannot be taken over; its diagnostics point into it.
    """
    origin = Origin() if source is None else take_over(source)
    dataset = _GIVEN_HERE.format(path="data")
    if origin.dataset is not None:
        places = {name: scalar(relative(place, path.parent)) for name, place in origin.paths.items()}
        dataset = "dataset:\n" + origin.dataset.format(**places)
    text = _TEMPLATE.format(
        name=scalar(project_name(path.parent)),
        scale=origin.scale,
        dataset=dataset,
        hyperparameters=_lines(Hyperparameters, "  ", origin.hyperparameters),
    )
    loaded, diagnostics = check_text(text, path)
    if loaded is None:
        raise SegcError(diagnostics)
    return text, origin.notes


def _lines(model: type[BaseModel], indent: str, given: Mapping[str, Any], *, inner: str = "") -> str:
    lines = []
    for name, field in model.model_fields.items():
        key = inner + name
        if isinstance(field.default, Augment):
            below = any(other.startswith(f"{name}.") for other in given)
            lines.append(f"{indent}{'' if below else '# '}{name}:  # {field.description}\n")
            lines.append(_lines(Augment, f"{indent}  " if below else f"{indent}#   ", given, inner=f"{name}."))
        else:
            shown = key in given or key in _SHOWN
            lead = "" if shown or indent.strip() else "# "
            lines.append(f"{indent}{lead}{name}: {flow(given.get(key, field.default))}  # {field.description}\n")
    return "".join(lines)

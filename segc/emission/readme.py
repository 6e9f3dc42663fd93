"""``README.md`` beside every model: what goes in, what comes out, how one makes the other, and what was measured.

Enough to write a client in any language. It is rendered from the metadata that the model carries and from what
``artifact.json`` says, so the same artifact has the same text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from segc.emission import accuracy
from segc.emission.script import PYTHON, install_line, render
from segc.inference.thresholds import least_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from segc.graph.ir import Graph
    from segc.inference.filters import Filters
    from segc.inference.metadata import Metadata
    from segc.targets.contract import Target, TargetOptions
    from segc.weights.lineage import Lineage

README = "README.md"

MOST_NAMES = 200
"""Classes that are listed; ``artifact.json`` has all."""

STATUS = {
    "verified": "what ships ran in the runtime that people deploy on, and agreed with the trained network",
    "evaluated": "something that stands in for that runtime agreed with the trained network",
    "deferred": "it agreed with the trained network as far as that can be seen here; the notes say what is left to do",
    "unjudged": "it runs, but there was nothing to judge it by",
    "failed": "it gives other results than the trained network, or loses more accuracy than is accepted: do not use it",
}

READS = {
    "name": "images",
    "type": "float32",
    "range": "0..1",
    "last_step": "Divide every byte by 255, in float32.",
}
"""What a model takes, where its target's values have no ``reads`` of their own."""

WRITES = "float32"
"""Type of its outputs, where they have no ``writes``."""


def render_readme(
    target: Target,
    options: TargetOptions,
    metadata: Metadata,
    graph: Graph,
    defaults: Filters,
    weights: Lineage,
    descent: str,
    description: Mapping[str, Any],
) -> str:
    """The text of ``README.md``.

    Args:
        target: the artifact's.
        options: of that target.
        metadata: the model's.
        graph: the network at the artifact's size, before its passes.
        defaults: thresholds of the project; the model's own where it suppresses by itself.
        weights: what the weights descend from,
        descent: in a line.
        description: what ``artifact.json`` will say; ``files`` may lack the README.

    Returns:
        Markdown; the same for the same arguments.
    """
    given = dict(target.values(options))
    shapes = _Shapes(metadata, graph)
    found = description.get("accuracy")
    text = render(
        f"{README}.j2",
        {
            **given,
            "target": target,
            "model": description["model"],
            "metadata": metadata,
            "suppresses": metadata.suppresses,
            "agnostic": metadata.agnostic or defaults.agnostic,
            "defaults": defaults,
            "install": install_line(target),
            "python": PYTHON,
            "height": metadata.imgsz[0],
            "width": metadata.imgsz[1],
            "channels": 3,
            "reads": {**READS, **given.get("reads", {})},
            "writes": given.get("writes", WRITES),
            "mask_writes": given.get("mask_writes", "uint8"),
            "input": given.get("reads", {}).get("shape")
            or shapes.last(["N" if metadata.dynamic else metadata.batch, 3, *shapes.frame]),
            "anchors": shapes.anchors,
            "cells": shapes.cells,
            "outputs": OUTPUTS[metadata.layout](shapes),
            "steps": _steps(metadata, defaults),
            "confs": _confs(metadata, defaults),
            "most_names": MOST_NAMES,
            "description": description,
            "found": description["parity"]["detections"],
            "status": STATUS[description["status"]],
            "accuracy": found,
            "figure": accuracy.figure,
            "rows": list(accuracy.rows(found, metadata.names)) if found else [],
            "descent": descent,
            "links": [link for link in weights if link.kind == "weights"],
            "files": _files(target, description),
        },
    )
    return _BLANKS.sub("\n\n", text)


_BLANKS = re.compile(r"\n{3,}")


class _Shapes:
    """Lengths of axes, as numbers or, where they are free, as words."""

    def __init__(self, metadata: Metadata, graph: Graph) -> None:
        self.metadata = metadata
        self.batch: int | str = "N" if metadata.dynamic else metadata.batch
        self.frame: tuple[int | str, int | str] = ("H", "W") if metadata.dynamic else metadata.imgsz
        height, width = metadata.imgsz
        self.cells = [f"{height // stride}·{width // stride}" for stride in metadata.strides]
        total = sum((height // stride) * (width // stride) for stride in metadata.strides)
        self.anchors = (
            f"the sum of (H / s) · (W / s) over the strides s, {total} at the usual size" if metadata.dynamic else total
        )
        self.a: int | str = "A" if metadata.dynamic else total
        self.classes = len(metadata.names)
        self.masks = graph.tensors["coefficients"].shape[2]

    def last(self, sides: Sequence[int | str]) -> list[int | str]:
        """A shape [N, C, H, W] as the model's file has it."""
        batch, channels, *rest = sides
        return [batch, *rest, channels] if self.metadata.channels == "last" else list(sides)

    def prototypes(self) -> list[int | str]:
        """Of the prototypes: a cell for 4 x 4 pixels."""
        cells = ["H/4", "W/4"] if self.metadata.dynamic else [side // 4 for side in self.metadata.imgsz]
        return self.last([self.batch, self.masks, *cells])


def _row(name: str, shape: Sequence[int | str], meaning: str) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "meaning": meaning}


def _unit(metadata: Metadata) -> str:
    if metadata.boxes == "normalized":
        return "in 0..1 of the input's width and height: multiply x by W, y by H"
    return "in pixels of the input"


PROTOTYPES = "what masks are made of: a cell for 4 x 4 pixels of the input"


def _named(s: _Shapes) -> list[dict[str, Any]]:
    return [
        _row("boxes", [s.batch, s.a, 4], f"x1, y1, x2, y2 of every anchor, {_unit(s.metadata)}"),
        _row("scores", [s.batch, s.a, s.classes], "0..1 for every anchor and class, in the order of the classes below"),
        _row("coefficients", [s.batch, s.a, s.masks], "of every anchor's mask, one for each prototype"),
        _row("prototypes", s.prototypes(), PROTOTYPES),
    ]


def _fused(s: _Shapes) -> list[dict[str, Any]]:
    rows = f"down the rows: centre x, centre y, width, height {_unit(s.metadata)}; {s.classes} scores in 0..1; "
    return [
        _row("output0", [s.batch, 4 + s.classes + s.masks, s.a], f"{rows}{s.masks} coefficients. A column an anchor"),
        _row("output1", s.prototypes(), f"the prototypes, {PROTOTYPES}"),
    ]


def _found(s: _Shapes) -> list[dict[str, Any]]:
    most = s.metadata.max_det or 0
    return [
        _row("boxes", [s.batch, most, 4], f"x1, y1, x2, y2, best first, {_unit(s.metadata)}"),
        _row("scores", [s.batch, most], "0..1; 0 where there is no detection"),
        _row("classes", [s.batch, most], "index into the classes below"),
    ]


def _detections(s: _Shapes) -> list[dict[str, Any]]:
    return [
        *_found(s),
        _row("coefficients", [s.batch, s.metadata.max_det or 0, s.masks], "of each mask, one for each prototype"),
        _row("prototypes", s.prototypes(), PROTOTYPES),
    ]


def _rows(s: _Shapes) -> list[dict[str, Any]]:
    row = f"a row a detection, best first: x1, y1, x2, y2 {_unit(s.metadata)}; score, 0 where there is none; class; "
    return [
        _row("output0", [s.batch, s.metadata.max_det or 0, 6 + s.masks], f"{row}{s.masks} coefficients"),
        _row("output1", s.prototypes(), f"the prototypes, {PROTOTYPES}"),
    ]


def _finished(s: _Shapes) -> list[dict[str, Any]]:
    shape = s.last([s.batch, s.metadata.max_det or 0, *s.frame])
    return [*_found(s), _row("masks", shape, "of each detection, in pixels of the input: 0 where it is not, else 1")]


OUTPUTS = {"named": _named, "fused": _fused, "detections": _detections, "rows": _rows, "masks": _finished}
"""By layout: the outputs, in the order of the file."""


def _steps(metadata: Metadata, defaults: Filters) -> list[str]:
    """From the outputs to boxes and masks on the photograph."""
    cell = "prototypes[y, x, k]" if metadata.channels == "last" else "prototypes[k, y, x]"
    rival = "a kept one" if defaults.agnostic else "a kept one of its class"
    candidates = [
        "Of every anchor take the class with the highest score, and keep the anchor where that score is above conf.",
        (
            f"Suppress: from the highest score down, drop every anchor whose box overlaps that of {rival} by more than "
            "iou (intersection over union); stop at max_det."
        ),
    ]
    apart = (
        "Take `output0` apart, down its rows: x1 = centre x - width / 2, y1 = centre y - height / 2, "
        "x2 = centre x + width / 2, y2 = centre y + height / 2; then the scores; then the coefficients."
    )
    done = "The model has suppressed overlapping boxes already: take the rows with a score above 0."
    rows = "Take the rows of `output0` apart: box, score, class, coefficients."
    first = {
        "named": candidates,
        "fused": [apart, *candidates],
        "detections": [done],
        "rows": [rows, done],
        "masks": [done],
    }
    finished = (
        "Mask: the centre of the photograph's pixel (px, py) lies at the input's x = (px + 1/2) · w' / w + left - 1/2, "
        "y = (py + 1/2) · h' / h + top - 1/2: interpolate the detection's mask there, bilinearly, edges repeated. The "
        "pixel belongs to the object where that is above 1/2; at exactly 1/2 it does not."
    )
    mask = (
        f"Mask: m[y, x] = Σ over k of coefficients[k] · {cell}, on the grid of the prototypes; sigmoid(m) is the "
        "probability that a place belongs to the object. The centre of the photograph's pixel (px, py) lies at the "
        "cell x = ((px + 1/2) · w' / w + left) / 4 - 1/2, y = ((py + 1/2) · h' / h + top) / 4 - 1/2: interpolate m "
        "there, bilinearly, edges repeated. The pixel belongs to the object where m > 0, x1 <= px < x2 and "
        "y1 <= py < y2."
    )
    above = "Of these keep the ones whose score is above the conf of their class, in the table below."
    return [
        *first[metadata.layout],
        *([above] if defaults.by_class else []),
        "Box on the photograph: x = (x - left) · w / w', y = (y - top) · h / h', cut off at 0, w and h.",
        finished if metadata.layout == "masks" else mask,
    ]


def _confs(metadata: Metadata, defaults: Filters) -> dict[str, float]:
    """Least scores that hold beside the one for all: of classes by name, and under no name of all others."""
    by_class = defaults.by_class or {}
    found = zip(metadata.names, least_scores(by_class, metadata.names), strict=True) if by_class else ()
    return {name if name in by_class else "": max(least, defaults.conf) for name, least in found}


FILES = {
    "predict.py": "runs the model, in Python",
    "metadata.json": "the model's metadata",
    README: "this page",
    "artifact.json": "digests, options, versions, and all that was measured",
}
"""What may lie in every folder; a target tells the rest."""


def _files(target: Target, description: Mapping[str, Any]) -> dict[str, str]:
    """What lies in the folder: files, and folders without what is in them.

    Raises:
        ValueError: where the target does not say what a file of its own is.
    """
    tops = dict.fromkeys(name.partition("/")[0] for name in (*description["files"], README, "artifact.json"))
    return {name: "the model" if name == description["model"] else _told(target, name) for name in tops}


def _told(target: Target, name: str) -> str:
    for known, what in {**FILES, **target.files}.items():
        if name.endswith(known):
            return what
    raise ValueError(f"the files of the target {target.name} do not say what {name} is")

"""Artifact folders: what ``artifact.json`` says, when one is up to date, and how it gets to its place."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segc.diagnostics import SegcError
from segc.emission.provenance import code_digest
from segc.emission.reference import TORCH
from segc.files import atomic_directory, canonical_json, digest, digest_file
from segc.targets.description import DESCRIPTION, FORMAT, changed_files, read_description
from segc.weights import lineage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from segc.inference.filters import Filters
    from segc.inference.metadata import Metadata
    from segc.targets.contract import Target, TargetOptions
    from segc.targets.description import Description
    from segc.weights.lineage import Lineage

UP_TO_DATE = "up to date"
"""What is said of an artifact that did not have to be made again."""

FAILED_SUFFIX = ".failed"
"""What follows the name of a folder whose artifact failed its verification."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that an artifact depends on.

    Attributes:
        name: of the artifact.
        target: the format.
        options: its options.
        metadata: what the model says about itself.
        graph: the graph as JSON.
        weights_digest: of the weights' names and values.
        trained: whether they were trained.
        lineage: what they descend from.
        filters: defaults of the predict scripts.
        root: the dataset's folder.
        images: photographs that it is verified on.
        calibration: photographs that it is calibrated on, if at all.
        calibrated: how they were drawn, and what follows from them.
        validation: a digest of what its mAP is measured on; None where it is not measured.
    """

    name: str
    target: Target
    options: TargetOptions
    metadata: Metadata
    graph: str
    weights_digest: str
    trained: bool
    lineage: Lineage
    filters: Filters
    root: Path
    images: Sequence[Path]
    calibration: Sequence[Path]
    calibrated: Mapping[str, Any]
    validation: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As ``artifact.json`` has them: no times and no machine paths, so that equal emissions are equal."""
        from segc.version import __version__

        needed = (*self.target.requirements(self.options), *self.target.needed, TORCH)
        return {
            "format": FORMAT,
            "name": self.name,
            "target": self.target.name,
            "options": self.options.model_dump(mode="json"),
            "metadata": self.metadata.to_json(),
            "thresholds": {"conf": self.filters.conf, "iou": self.filters.iou, "max_det": self.filters.max_det},
            "graph_digest": digest(self.graph),
            "weights": {
                "digest": self.weights_digest,
                "trained": self.trained,
                lineage.KEY: lineage.to_json(self.lineage),
            },
            "versions": {"segc": __version__, **{r.package: r.version() for r in needed}, **self.target.tools()},
            "photographs": self.digests(self.images),
            "calibration": (
                {**self.calibrated, "photographs": self.digests(self.calibration)} if self.calibration else {}
            ),
            **({"validation": self.validation} if self.validation else {}),
        }

    def digests(self, paths: Sequence[Path]) -> dict[str, str]:
        """Photographs by their name relative to the dataset, or their own where they lie elsewhere."""
        root = self.root
        return {
            path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name: digest_file(path)
            for path in paths
        }

    def key(self) -> str:
        """A digest of all this and of the code that an artifact is made by: equal keys give equal artifacts."""
        return digest(canonical_json({**self.to_json(), "code": code_digest(self.target)}))


def intact(folder: Path, key: str) -> Description | None:
    """The description of a good artifact that has this key and whose files are what they were; else None."""
    try:
        description = read_description(folder)
    except SegcError:
        return None
    if description.key != key or description.status == "failed":
        return None
    return None if changed_files(folder, description, description.files) else description


def file_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and digest of every file of an artifact."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "digest": digest_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def publish(good: Path, files: Path, description: Mapping[str, Any]) -> Path:
    """Put a finished artifact in its place, whole; one that failed beside it, under another name."""
    failed = description["status"] == "failed"
    bad = good.with_name(f"{good.name}{FAILED_SUFFIX}")
    place = bad if failed else good
    with atomic_directory(place) as folder:
        # Not shutil.copytree, whose error hides what happened: a full disk must be called that.
        for source in sorted(path for path in files.rglob("*") if path.is_file()):
            copy = folder / source.relative_to(files)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
        (folder / DESCRIPTION).write_text(canonical_json(description), encoding="utf-8")
    if not failed:
        shutil.rmtree(bad, ignore_errors=True)
    return place


def weights_digest(weights: Mapping[str, NDArray[np.generic]]) -> str:
    """A digest of names, shapes, formats and values."""
    import numpy as np

    state = hashlib.sha256()
    for name in sorted(weights):
        array = np.asarray(weights[name], order="C")
        state.update(f"{name}:{array.dtype.str}:{array.shape}\n".encode())
        state.update(array.data)
    return f"sha256:{state.hexdigest()}"

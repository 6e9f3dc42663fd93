"""Artifact folders: what ``artifact.json`` says, when one is up to date, and how it gets to its place."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.diagnostics import SegcError
from segc.files import atomic_directory, canonical_json, digest, digest_file, resource
from segc.targets.artifact import DEFERRED, DESCRIPTION, FAILED, VERIFIED, read_description
from segc.targets.reference import TORCH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from segc.targets.base import Target, TargetOptions
    from segc.targets.verify import Parity

ARTIFACT_FORMAT = 2
"""Version of ``artifact.json``."""

UP_TO_DATE = "up to date"
"""What is said of an artifact that did not have to be made again."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that an artifact depends on.

    Attributes:
        target: the format.
        options: its options.
        metadata: what the model says about itself.
        graph: the graph as JSON.
        weights_digest: of the weights' names and values.
        trained: whether they were trained.
        thresholds: defaults of the predict scripts.
        root: the dataset's folder.
        images: photographs that it is verified on.
        calibration: photographs that it is calibrated on.
    """

    target: Target
    options: TargetOptions
    metadata: Mapping[str, Any]
    graph: str
    weights_digest: str
    trained: bool
    thresholds: Mapping[str, Any]
    root: Path
    images: Sequence[Path]
    calibration: Sequence[Path]

    def to_json(self) -> dict[str, Any]:
        """The facts as ``artifact.json`` has them: no times and no machine paths, so that equal emissions are equal."""
        from segc import __version__

        packages = {r.package: r.version() for r in (*self.target.requirements, *self.target.runtime, TORCH)}
        return {
            "format": ARTIFACT_FORMAT,
            "target": self.target.name,
            "options": self.options.model_dump(mode="json"),
            "metadata": self.metadata,
            "thresholds": self.thresholds,
            "graph_digest": digest(self.graph),
            "weights": {"digest": self.weights_digest, "trained": self.trained},
            "versions": {"segc": __version__, **packages, **self.target.tools()},
            "photographs": self._digests(self.images),
            "calibration": self._digests(self.calibration),
        }

    def _digests(self, paths: Sequence[Path]) -> dict[str, str]:
        """Photographs by their name relative to the dataset, or their own where they lie elsewhere."""
        root = self.root
        return {
            path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name: digest_file(path)
            for path in paths
        }


def emission_key(facts: Facts) -> str:
    """A digest of the facts and of segc's own text: equal keys give equal artifacts."""
    return digest(canonical_json({**facts.to_json(), "segc": _own_digest()}))


@cache
def _own_digest() -> str:
    """A digest of segc's modules and templates."""
    import segc

    state = hashlib.sha256()
    for root, pattern in ((Path(segc.__file__).parent, "*.py"), (resource("templates"), "*")):
        for path in sorted(path for path in root.rglob(pattern) if path.is_file()):
            state.update(f"{path.relative_to(root).as_posix()}\n".encode())
            state.update(path.read_bytes())
    return state.hexdigest()


def intact(folder: Path, key: str) -> dict[str, Any] | None:
    """The description of a good artifact that has this key and whose files are what they were; else None."""
    try:
        description = read_description(folder)
    except SegcError:
        return None
    if description.get("key") != key or description["status"] == FAILED:
        return None
    for name, entry in description["files"].items():
        path = folder / name
        if not path.is_file() or digest_file(path) != entry["digest"]:
            return None
    return description


def describe(
    facts: Facts,
    key: str,
    files: Path,
    lowered: Mapping[str, Any],
    runtime: str,
    parity: Parity,
    accuracy: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The contents of ``artifact.json``.

    Args:
        facts: what the artifact depends on.
        key: their digest.
        files: the folder with the artifact's files.
        lowered: what the emitter said: ``model``, ``notes``, ``deferred``.
        runtime: what ran the model.
        parity: how far it is from PyTorch.
        accuracy: mAP of a quantised model beside the float one's.
    """
    good = DEFERRED if lowered["deferred"] else VERIFIED
    return {
        **facts.to_json(),
        "key": key,
        "status": good if parity.passed else FAILED,
        "model": lowered["model"],
        "files": {
            path.relative_to(files).as_posix(): {"bytes": path.stat().st_size, "digest": digest_file(path)}
            for path in sorted(files.rglob("*"))
            if path.is_file()
        },
        "notes": list(lowered["notes"]),
        "parity": {"runtime": runtime, "summary": parity.summary(), **parity.to_json()},
        **({"accuracy": accuracy} if accuracy else {}),
    }


def publish(artifacts: Path, target: Target, files: Path, description: Mapping[str, Any]) -> Path:
    """Put a finished artifact in its place, whole; one that failed beside it, under another name."""
    failed = description["status"] == FAILED
    good, bad = artifacts / target.name, artifacts / f"{target.name}.failed"
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
